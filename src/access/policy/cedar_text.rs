//! Policies and schemas as text: the bundled ones, parsing, and validation.
use cedar_policy::{ParseErrors, PolicyId, PolicySet, Schema, ValidationMode, Validator};

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The policies that the migrations put into the database, by name in order of priority.
const BUNDLED: [(&str, &str); 5] = [
    ("suspended-agents", include_str!("suspended-agents.cedar")),
    ("read-operations", include_str!("read-operations.cedar")),
    ("write-operations", include_str!("write-operations.cedar")),
    ("admin-operations", include_str!("admin-operations.cedar")),
    ("network-access", include_str!("network-access.cedar")),
];

const BUNDLED_SCHEMA: &str = include_str!("schema.cedarschema");

/// The maximum depth of nested brackets and conditions in a policy. The parser is recursive, and a stack
/// overflow ends the process.
const MAX_DEPTH: usize = 64;

/// The stack size of the thread that parses. Enough for policies of the maximum depth, also in debug
/// builds, where the stack of a thread that serves requests is too small.
const PARSER_STACK_BYTES: usize = 32 << 20;

/// The maximum number of operators and attribute accesses in one policy. The time of the type checker grows
/// with the depth of the expression, and beyond some thousands it gives up without reporting an error.
const MAX_OPERATORS: usize = 1_000;

const TOO_DEEP: &str = "the policy is nested too deeply";

const TOO_LONG: &str =
    "a policy has more than 1,000 operators and attribute accesses: split it into several policies";

const TEMPLATE: &str =
    "a policy is a template: replace the slots (`?principal`, `?resource`) by entities";

/// Parses a schema, in Cedar syntax or as JSON.
fn parse_schema(text: &str) -> Option<Schema> {
    if text.trim_start().starts_with('{') {
        return Schema::from_json_str(text).ok();
    }
    Schema::from_cedarschema_str(text).ok().map(|(schema, _)| schema)
}

/// Returns the bundled policies.
pub(super) fn bundled() -> PolicySet {
    parse(BUNDLED).expect("the bundled policies are well-formed")
}

/// Returns the validator for the operator's schema, or for the bundled schema.
pub(super) fn validator(schema: Option<&str>) -> Validator {
    let schema = parse_schema(schema.unwrap_or(BUNDLED_SCHEMA));
    Validator::new(schema.expect("a schema is checked before it is configured"))
}

/// Parses named texts into one set of policies. The policy of a text gets the name of the text. If a
/// text has several policies, they are numbered.
pub(super) fn parse<'a>(
    texts: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<PolicySet, Failure> {
    let mut all = PolicySet::new();
    for (name, text) in texts {
        let parsed = on_large_stack(|| parse_text(text))?;
        let parsed = parsed.map_err(|errors| format!("policy {name}: {}", errors.join("; ")))?;
        let numbered = parsed.num_of_policies() > 1;
        for (number, policy) in (1..).zip(parsed.policies()) {
            let id = if numbered { format!("{name}#{number}") } else { name.to_owned() };
            all.add(policy.new_id(PolicyId::new(id)))?;
        }
    }
    Ok(all)
}

/// Returns the errors in the text of a policy: those that make it useless in the database, and those that the
/// schema shows. Blocks for up to some tenths of a second.
pub(super) fn validate(validator: &Validator, policy_text: &str) -> Vec<String> {
    let errors = on_large_stack(|| match parse_text(policy_text) {
        Err(errors) => errors,
        Ok(policies) => {
            let validated = validator.validate(&policies, ValidationMode::Strict);
            validated.validation_errors().map(ToString::to_string).collect()
        }
    });
    errors.unwrap_or_else(|error| not_validated(&*error))
}

/// Returns what is said of a policy whose validation failed. Logs why.
pub(super) fn not_validated(error: &dyn std::error::Error) -> Vec<String> {
    tracing::error!(%error, "a policy could not be validated");
    vec!["the policy could not be validated".to_owned()]
}

/// Parses a text, in the large stack of `on_large_stack`. Every check of a policy without the schema is here,
/// so that validation and the use of a stored policy agree.
///
/// # Errors
/// Says what is wrong with the text.
fn parse_text(text: &str) -> Result<PolicySet, Vec<String>> {
    if let Some(problem) = excess(text) {
        return Err(vec![problem.to_owned()]);
    }
    let parsed: PolicySet = text.parse().map_err(|errors: ParseErrors| {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    })?;
    if parsed.num_of_templates() > 0 {
        return Err(vec![TEMPLATE.to_owned()]);
    }
    Ok(parsed)
}

/// Runs a function in a thread with a large stack and waits for its result.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
        let thread = builder.spawn_scoped(scope, run)?;
        thread.join().map_err(|_| "the parser panicked".into())
    })
}

/// Says why a text exceeds the limits of the parser and of the type checker, if it does. Skips strings and
/// comments by the parser's rules. The counts can be wrong in texts that the parser refuses anyway.
fn excess(text: &str) -> Option<&'static str> {
    let mut counts = Counts::default();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let comment = rest.starts_with("//");
        let length = match next {
            '"' => string_length(rest),
            _ if comment => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            next if is_word(next) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            next => next.len_utf8(),
        };
        let (token, remaining) = rest.split_at(length);
        rest = remaining;
        if comment || next.is_whitespace() {
            continue;
        }
        counts.add(token);
        if counts.depth() > MAX_DEPTH {
            return Some(TOO_DEEP);
        }
        if counts.operators > MAX_OPERATORS {
            return Some(TOO_LONG);
        }
    }
    None
}

/// What has been counted up to a token of a policy.
#[derive(Default)]
struct Counts {
    /// Chained calls in the current expression.
    calls: usize,
    /// Chained calls before each open bracket.
    outside: Vec<usize>,
    /// Conditions (`if`) since the last place outside of all brackets.
    conditions: usize,
    /// Operators and attribute accesses in the current policy.
    operators: usize,
    /// The last character of the previous token.
    last: char,
}

impl Counts {
    fn add(&mut self, token: &str) {
        let first = token.chars().next().unwrap_or_default();
        match token {
            "(" | "[" | "{" => self.outside.push(std::mem::take(&mut self.calls)),
            ")" | "]" | "}" => self.calls = self.outside.pop().unwrap_or_default(),
            "if" => self.conditions += 1,
            "." if [')', ']'].contains(&self.last) => self.calls += 1,
            "|" | "&" | "," | ";" => self.calls = 0,
            _ => {}
        }
        let is_second_half =
            matches!((self.last, first), ('|', '|') | ('&', '&') | ('=' | '!' | '<' | '>', '='));
        let is_operator = token.len() == 1 && "+-*.!<>=|&[".contains(first)
            || ["in", "has", "like", "is"].contains(&token);
        self.operators += usize::from(is_operator && !is_second_half);
        if self.outside.is_empty() {
            self.conditions = 0;
            if token == ";" {
                self.operators = 0;
            }
        }
        self.last = token.chars().next_back().unwrap_or_default();
    }

    fn depth(&self) -> usize {
        self.outside.len() + self.conditions + self.calls
    }
}

/// Whether a character can be part of an identifier or a keyword.
fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Returns the length in bytes of the string literal that a text begins with, including its quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::policy::cedar::tests::{evaluate_any, known};

    #[test]
    fn texts_of_several_policies_are_numbered_and_templates_are_refused() {
        let text = "permit (principal, action, resource); forbid (principal, action, resource);";
        let policies = parse([("both", text), ("one", "permit (principal, action, resource);")]);
        let policies = policies.expect("well-formed");
        let mut ids: Vec<_> = policies.policies().map(|it| it.id().to_string()).collect();
        ids.sort();
        assert_eq!(ids, ["both#1", "both#2", "one"]);
        let template = "permit (principal == ?principal, action, resource);";
        assert!(parse([("t", template)]).is_err());
        assert!(parse([("broken", "permit (")]).is_err());
        assert!(parse([("twice", text), ("twice", text)]).is_err());
    }

    #[test]
    fn the_bundled_policies_are_valid_by_the_bundled_schema() {
        let validator = validator(None);
        for (name, text) in BUNDLED {
            assert_eq!(validate(&validator, text), [""; 0], "{name}");
        }
        for (operation, _) in known().iter() {
            let text = format!("permit (principal, action == Action::\"{operation}\", resource);");
            assert_eq!(validate(&validator, &text), [""; 0]);
        }
    }

    #[test]
    fn a_text_is_wrong_by_its_form_or_by_the_schema() {
        let validator = validator(None);
        for (text, part) in [
            ("permit (", "unexpected end of input"),
            ("permit (principal, action, resource) when { principal.trust };", "trust"),
            ("permit (principal, action == Action::\"fly\", resource);", "fly"),
            ("permit (principal is Robot, action, resource);", "Robot"),
        ] {
            let errors = validate(&validator, text);
            assert!(errors.iter().any(|it| it.contains(part)), "{text}: {errors:?}");
        }
        let fine = "forbid (principal, action == Action::\"network_access\", resource)
            when { resource.name like \"*.example.com\" };";
        assert_eq!(validate(&validator, fine), [""; 0]);
    }

    /// Returns a policy with `middle` nested to a depth, by default as deep as fits into a request.
    fn nested((open, middle, close): (&str, &str, &str), depth: Option<usize>) -> String {
        let depth = depth.unwrap_or(16_000 / (open.len() + close.len()));
        let nested = [&open.repeat(depth), middle, &close.repeat(depth)].concat();
        format!("permit (principal, action, resource) when {{ {nested} }};")
    }

    #[test]
    fn a_text_that_is_nested_too_deeply_is_refused_before_it_is_parsed() {
        let validator = validator(None);
        for pair in [
            ("(", "true", ")"),
            ("[", "1", "]"),
            ("{a:", "1", "}"),
            ("principal.contains(", "1", ")"),
            ("ip(", "1", ")"),
            ("if true then ", "1", " else 1"),
            ("if true then 1 else ", "1", ""),
            ("if ", "true", " then true else true"),
            ("if (", "true", ") then true else true"),
            ("/*\"*/(", "true", ")"),
            ("\")\"==(", "true", ")"),
            ("\"\\\")\"==(", "true", ")"),
            ("// )\n(", "true", ")"),
            ("", "principal", ".contains(1)"),
            ("", "principal", ".contains(1 || 1)[\"a\"]"),
            ("", "principal", " // .\n . contains(1)\n"),
        ] {
            let deep = nested(pair, None);
            assert_eq!(
                validate(&validator, &deep),
                ["the policy is nested too deeply"],
                "{pair:?}"
            );
            assert!(parse([("deep", &*deep)]).is_err());
            assert!(parse([("unclosed", deep.split(pair.1).next().unwrap_or_default())]).is_err());
            // A text of the maximum depth gets an answer, whatever it is.
            let allowed = nested(pair, Some(if pair.0.contains("if (") { 31 } else { 62 }));
            assert_ne!(
                validate(&validator, &allowed),
                ["the policy is nested too deeply"],
                "{pair:?}"
            );
            let policies = parse([("allowed", &*allowed)]).unwrap_or_default();
            evaluate_any(&policies);
        }
        let braces = nested(("(", "\"((((\" == \"\" // ((((\n", ")"), Some(MAX_DEPTH - 1));
        assert_eq!(validate(&validator, &braces), [""; 0]);
        let listed = nested(("ip(\"10.0.0.1\").isIpv4() || ", "true", ""), Some(300));
        assert_eq!(validate(&validator, &listed), [""; 0], "each call counts alone");
        let policy = "permit (principal, action, resource) when { if true then true else true };";
        assert_eq!(validate(&validator, &policy.repeat(200)), [""; 0], "each policy counts alone");
    }

    #[test]
    fn a_policy_has_a_limited_number_of_operators() {
        let validator = validator(None);
        let chain = |operators: usize| {
            nested(("principal.", "a", ""), Some(1))
                .replace("principal.a", &format!("principal{} == 1", ".a".repeat(operators - 1)))
        };
        let errors = validate(&validator, &chain(MAX_OPERATORS));
        assert!(errors.iter().any(|it| it.contains("attribute `a`")), "{errors:?}");
        assert_eq!(validate(&validator, &chain(MAX_OPERATORS + 1)), [TOO_LONG]);
        assert!(parse([("long", &*chain(MAX_OPERATORS + 1))]).is_err());
        let conditions =
            |count: usize| nested(("principal.trust_level >= 1 && ", "true", ""), Some(count));
        assert_eq!(validate(&validator, &conditions(MAX_OPERATORS / 3)), [""; 0]);
        assert_eq!(validate(&validator, &conditions(MAX_OPERATORS / 3 + 1)), [TOO_LONG]);
        assert_eq!(validate(&validator, &conditions(300).repeat(4)), [""; 0], "each policy counts");
    }

    #[test]
    fn validation_refuses_what_cannot_be_used_once_stored() {
        let validator = validator(None);
        for text in [
            "permit (principal == ?principal, action, resource);",
            "permit (principal, action, resource); forbid (principal, action, resource == ?resource);",
            "permit (",
        ] {
            assert!(parse([("stored", text)]).is_err(), "{text}");
            assert_ne!(validate(&validator, text), [""; 0], "{text}");
        }
        let template = "permit (principal == ?principal, action, resource);";
        assert_eq!(validate(&validator, template), [TEMPLATE]);
        for text in ["", "// nothing\n", "permit (principal, action, resource);"] {
            assert!(parse([("stored", text)]).is_ok(), "{text}");
            assert_eq!(validate(&validator, text), [""; 0], "{text}");
        }
    }

    #[test]
    fn long_texts_get_an_answer() {
        let validator = validator(None);
        for pair in [
            ("!", "true", ""),
            ("-", "1", ""),
            ("true||", "true", ""),
            ("true&&", "true", ""),
            ("1+", "1", ""),
            ("1*", "1", ""),
            ("1==", "1", ""),
            ("A::", "a", ""),
            ("", "principal", ".a"),
            ("", "principal", "[\"a\"]"),
            ("", "principal", " has a"),
            ("", "1", ");("),
            // An unterminated string, and a string that ends in an escaped quote.
            ("(", "\"", "("),
            ("(", "\"\\\n\"", "("),
            ("(", "'", "("),
            ("(", "\u{a0}", "("),
        ] {
            for depth in [None, Some(900)] {
                let text = nested(pair, depth);
                for text in [&text, text.split('{').next_back().unwrap_or_default()] {
                    validate(&validator, text);
                    let policies = parse([("long", text)]).unwrap_or_default();
                    evaluate_any(&policies);
                }
            }
        }
        let many = "permit(principal,action,resource);".repeat(470);
        assert_eq!(validate(&validator, &many), [""; 0]);
    }

    #[test]
    fn schemas_come_in_two_forms() {
        assert!(parse_schema(BUNDLED_SCHEMA).is_some());
        assert!(parse_schema(r#"{"": {"entityTypes": {"Agent": {}}, "actions": {}}}"#).is_some());
        assert!(parse_schema("entity Agent in [Nowhere];").is_none());
        assert!(parse_schema("{}}").is_none());
    }
}
