//! Policies and schemas as text: the bundled ones, parsing, and validation.
use cedar_policy::{PolicyId, PolicySet, Schema, ValidationMode, Validator};

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

const TOO_DEEP: &str = "the policy is nested too deeply";

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
        if is_too_deep(text) {
            return Err(TOO_DEEP.into());
        }
        let parsed = on_large_stack(|| text.parse::<PolicySet>().map_err(Failure::from))??;
        if parsed.num_of_templates() > 0 {
            return Err(format!("policy {name} is a template").into());
        }
        let numbered = parsed.num_of_policies() > 1;
        for (number, policy) in (1..).zip(parsed.policies()) {
            let id = if numbered { format!("{name}#{number}") } else { name.to_owned() };
            all.add(policy.new_id(PolicyId::new(id)))?;
        }
    }
    Ok(all)
}

/// Returns the errors in the text of a policy, by syntax and by the schema.
pub(super) fn validate(validator: &Validator, policy_text: &str) -> Vec<String> {
    if is_too_deep(policy_text) {
        return vec![TOO_DEEP.to_owned()];
    }
    let errors = on_large_stack(|| match policy_text.parse::<PolicySet>() {
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
        Ok(policies) => {
            let validated = validator.validate(&policies, ValidationMode::Strict);
            validated.validation_errors().map(ToString::to_string).collect()
        }
    });
    errors.unwrap_or_else(|error| {
        tracing::error!(%error, "a policy could not be validated");
        vec!["the policy could not be validated".to_owned()]
    })
}

/// Runs a function in a thread with a large stack and waits for its result.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
        let thread = builder.spawn_scoped(scope, run)?;
        thread.join().map_err(|_| "the parser panicked".into())
    })
}

/// Whether brackets, conditions and chained calls are nested too deeply for the parser. Skips strings and
/// comments by the parser's rules. The depth can be wrong in texts that the parser refuses anyway.
fn is_too_deep(text: &str) -> bool {
    // The number of chained calls here, and before each open bracket.
    let (mut calls, mut outside) = (0_usize, Vec::new());
    let (mut conditions, mut last) = (0, ' ');
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
        match token {
            "(" | "[" | "{" => outside.push(std::mem::take(&mut calls)),
            ")" | "]" | "}" => calls = outside.pop().unwrap_or_default(),
            "if" => conditions += 1,
            "." if [')', ']'].contains(&last) => calls += 1,
            "|" | "&" | "," | ";" => calls = 0,
            _ => {}
        }
        if outside.is_empty() {
            conditions = 0;
        }
        if outside.len() + conditions + calls > MAX_DEPTH {
            return true;
        }
        last = next;
    }
    false
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
    fn long_texts_are_answered_like_any_other() {
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
            let text = nested(pair, None);
            for text in [&text, text.split('{').next_back().unwrap_or_default()] {
                validate(&validator, text);
                let policies = parse([("long", text)]).unwrap_or_default();
                evaluate_any(&policies);
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
