//! The arguments of a tool as models send them, taken where they hold what the schema asks for.
//!
//! Everything here derives from the schema of the operation's input. What is left is checked like the body
//! of an HTTP request, so a value that is not taken gets the ordinary issue.
use serde_json::{Map, Value, json};

use super::{
    bounds::shortened,
    paths::{OddKeys, lock_key},
    reading::is_kept_as_text,
};
use crate::{
    operation::input::{
        is_json,
        keywords::{inner_schema, is_free_form, kind, required},
    },
    values::{
        Issue,
        issue::{Problem, value_error},
        limits::MAX_LIST_ITEMS,
        nearest,
    },
};

/// The kind of the issue of an unknown member.
pub(super) const UNKNOWN: &str = "extra_forbidden";

/// How many issues an answer has before the rest is only counted.
const MAX_TOLD: usize = 20;

/// How many bytes of a key a hint repeats, and how many bytes a hint has.
const MAX_TOLD_BYTES: usize = 256;
const MAX_HINT_BYTES: usize = 1_000;

/// The keyword of a vocabulary that is closed over MCP and open over HTTP, as its contract says.
const WORDS: &str = "x-words";

/// A longer text is not repeated in the issue about it, in bytes.
const MAX_REPEATED: usize = 200;

/// Texts that stand for nothing where no text is asked for.
const NOTHING: [&str; 5] = ["null", "none", "None", "undefined", "nil"];

/// The issues of arguments that the check of the input cannot find. A call can have a great many, and each
/// repeats all known names.
#[derive(Debug, Default)]
pub(super) struct Findings {
    issues: Vec<Issue>,
    /// How many are not in the list.
    more: usize,
    odd_keys: OddKeys,
    /// What is said about the first key that no path is spelled like, and how many there are.
    odd_key: Option<(String, usize)>,
}

impl Findings {
    /// Returns no findings, for a tool that does this with keys that no path is spelled like.
    pub(super) fn with(odd_keys: OddKeys) -> Self {
        Self { odd_keys, ..Self::default() }
    }

    /// Adds a key that no path is spelled like, and was taken nevertheless.
    fn add_odd_key(&mut self, describe: impl FnOnce() -> String) {
        match &mut self.odd_key {
            Some((_, count)) => *count += 1,
            None => self.odd_key = Some((describe(), 1)),
        }
    }

    /// Returns what a client should know about keys that no path is spelled like.
    pub(super) fn hint(&self) -> Option<String> {
        match self.odd_key.as_ref()? {
            (text, 1) => Some(shortened(text, MAX_HINT_BYTES, None)),
            (text, count) => {
                let text = shortened(text, MAX_HINT_BYTES, None);
                Some(format!("{text} (and {} more such keys)", count - 1))
            }
        }
    }

    /// Adds the issue that `describe` returns, unless there are enough.
    pub(super) fn add(&mut self, describe: impl FnOnce() -> Issue) {
        match self.issues.len() {
            MAX_TOLD.. => self.more += 1,
            _ => self.issues.push(describe()),
        }
    }

    /// Returns the issues. The last one says how many there are besides.
    pub(super) fn into_issues(mut self) -> Vec<Issue> {
        tell_rest(&mut self.issues, self.more);
        self.issues
    }
}

/// Whether these issues are as many as an answer has.
pub(super) fn are_enough(issues: &[Issue]) -> bool {
    issues.len() >= MAX_TOLD
}

/// Removes the issues that are too many for an answer. The last one says how many there were besides.
pub(super) fn count_rest(issues: &mut Vec<Issue>) {
    let more = issues.len().saturating_sub(MAX_TOLD);
    issues.truncate(MAX_TOLD);
    tell_rest(issues, more);
}

fn tell_rest(issues: &mut [Issue], more: usize) {
    if let (1.., Some(last)) = (more, issues.last_mut()) {
        last.msg.push_str(&format!(" (and {more} more such problems)"));
    }
}

/// Normalizes a value in place. `path` is its place among the arguments.
pub(super) fn normalize(
    schema: &Value,
    value: &mut Value,
    path: &mut Vec<Value>,
    findings: &mut Findings,
) {
    let schema = inner_schema(schema);
    if is_kept_text(schema, value) {
        return;
    }
    read_text(schema, value);
    if let Some(problem) = problem_of(schema, value) {
        findings.add(|| Issue::new(problem, path, value));
        return;
    }
    match value {
        Value::String(text) if schema["format"] == "lock-key" => {
            match lock_key(text, findings.odd_keys) {
                Ok(taken) => {
                    if let Some(refusal) = taken.oddity {
                        findings.add_odd_key(|| {
                            let text = shortened(text, MAX_TOLD_BYTES, None);
                            format!(
                                "`{text}` was taken as the key that it is. For a file: {refusal}"
                            )
                        });
                    }
                    *text = taken.key;
                }
                Err(refusal) => findings
                    .add(|| Issue::new(value_error(refusal.to_string()), path, &json!(text))),
            }
        }
        // The check refuses a longer list as a whole.
        Value::Array(items) if items.len() <= MAX_LIST_ITEMS => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(json!(index));
                normalize(&schema["items"], item, path, findings);
                path.pop();
            }
        }
        Value::Object(members) if is_closed(schema) => {
            normalize_members(schema, members, path, findings);
        }
        _ => {}
    }
}

/// Normalizes the members of a nested object, which has no other members than its schema declares.
fn normalize_members(
    schema: &Value,
    members: &mut Map<String, Value>,
    path: &mut Vec<Value>,
    findings: &mut Findings,
) {
    let Some(declared) = schema["properties"].as_object() else { return };
    for (name, property) in declared {
        let Some(member) = members.get_mut(name) else { continue };
        path.push(json!(name));
        normalize(property, member, path, findings);
        path.pop();
        if !required(schema, name) && is_absent(property, member) {
            members.remove(name);
        }
    }
    for (name, member) in members.iter().filter(|(name, _)| !declared.contains_key(*name)) {
        findings.add(|| {
            path.push(json!(name));
            let issue = unknown(name, member, path, &names(declared));
            path.pop();
            issue
        });
    }
}

/// Returns the names of declared members.
fn names(declared: &Map<String, Value>) -> Vec<&str> {
    declared.keys().map(String::as_str).collect()
}

/// Whether an object of this schema has only the members that the schema declares. One that declares
/// members is read by them, so another one would have no effect.
pub(super) fn is_closed(schema: &Value) -> bool {
    schema["properties"].as_object().is_some_and(|properties| !properties.is_empty())
}

/// Whether an optional member counts as absent. Removes the blank texts of a list first.
pub(super) fn is_absent(schema: &Value, value: &mut Value) -> bool {
    let schema = inner_schema(schema);
    if let Value::Array(items) = value {
        items.retain(|item| !is_blank(item));
    }
    let is_text = kind(schema) == "string" && known_words(schema).is_none();
    match value {
        Value::Array(items) => items.is_empty(),
        Value::String(text) if !is_text && !kind(schema).is_empty() => {
            text.trim().is_empty() || NOTHING.contains(&text.trim())
        }
        value => is_blank(value),
    }
}

/// Whether a value is null or a text without a visible character.
pub(super) fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// Whether a required text of this schema must not be blank. A word of a vocabulary, and a text with a format,
/// have checks of their own.
pub(super) fn must_have_text(schema: &Value) -> bool {
    let schema = inner_schema(schema);
    kind(schema) == "string" && schema.get("format").is_none() && known_words(schema).is_none()
}

/// Returns the problem of a text that is not taken, where the check of the input would accept it or would not
/// say what to send instead.
fn problem_of(schema: &Value, value: &Value) -> Option<Problem> {
    let text = value.as_str().filter(|text| !text.trim().is_empty())?;
    if kind(schema) == "array" && !NOTHING.contains(&text.trim()) {
        let remedy = list_meant(schema, text);
        return Some(("list_type", format!("Input should be a valid list: {remedy}")));
    }
    let words = schema.get(WORDS).and(known_words(schema))?;
    let is_known = words.contains(&text);
    (!is_known).then(|| ("enum", format!("Input should be one of {}", words.join(", "))))
}

/// Returns the list that a text was probably meant as, in words.
fn list_meant(schema: &Value, text: &str) -> String {
    if !is_list_of_texts(schema) {
        return "send a JSON list".to_owned();
    }
    let inner = text.trim().trim_matches(['[', ']']);
    let members = inner.split(',').map(|it| it.trim().trim_matches(['\'', '"']));
    let members: Vec<_> = members.filter(|it| !it.is_empty()).collect();
    match text.len() <= MAX_REPEATED && !members.is_empty() {
        true => format!("send {}, or {} for one text", json!(members), json!([text])),
        false => "send each text as a member of its own".to_owned(),
    }
}

/// Returns the words of a closed vocabulary. Over MCP, that of the keyword [`WORDS`] is closed too.
pub(super) fn known_words(schema: &Value) -> Option<Vec<&str>> {
    let words = schema.get("enum").or_else(|| schema.get(WORDS))?.as_array()?;
    Some(words.iter().filter_map(Value::as_str).filter(|word| !word.is_empty()).collect())
}

/// Whether a value is the text of a free-form object or list: it was sent so, or it is too large or too exact to
/// be parsed.
fn is_kept_text(schema: &Value, value: &Value) -> bool {
    let bracket = if kind(schema) == "array" { '[' } else { '{' };
    let is_text = |text: &str| text.starts_with(bracket) && is_json(text) && is_kept_as_text(text);
    ["array", "object"].contains(&kind(schema))
        && is_free_form(schema)
        && value.as_str().is_some_and(is_text)
}

/// Takes a list, an object or a truth value that was sent as text, and a single value for a list.
fn read_text(schema: &Value, value: &mut Value) {
    let taken = match (kind(schema), &*value) {
        ("array", Value::String(text)) => list_of(schema, text),
        ("array", Value::Object(_)) if kind(inner_schema(&schema["items"])) == "object" => {
            Some(json!([value]))
        }
        ("object", Value::String(text)) => parsed(text).filter(Value::is_object),
        ("boolean", Value::String(text)) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(json!(true)),
            "false" => Some(json!(false)),
            _ => None,
        },
        ("string", Value::String(text)) => word_of(schema, text),
        _ => None,
    };
    if let Some(taken) = taken {
        *value = taken;
    }
}

/// Returns the list that a text holds as JSON, else the text as the only one of a list of texts. A list that is
/// not JSON, and names with commas between them, are left alone: whether they are one text cannot be known.
fn list_of(schema: &Value, text: &str) -> Option<Value> {
    let (text, items) = (text.trim(), inner_schema(&schema["items"]));
    let is_path = items["format"] == "lock-key";
    match parsed(text) {
        Some(list @ Value::Array(_)) => return Some(list),
        Some(object @ Value::Object(_)) if ["object", ""].contains(&kind(items)) => {
            return Some(json!([object]));
        }
        Some(Value::Object(_)) if !is_path => return None,
        _ => {}
    }
    let is_list = text.starts_with('[') && text.ends_with(']');
    let is_names = |text: &str| {
        text.contains(',') && text.split(',').all(|name| !name.trim().contains(char::is_whitespace))
    };
    let is_text = is_list_of_texts(schema) && !NOTHING.contains(&text);
    let is_split = !is_path && (is_list || is_names(text));
    (is_text && !text.is_empty() && !is_split).then(|| json!([text]))
}

fn is_list_of_texts(schema: &Value) -> bool {
    ["string", ""].contains(&kind(inner_schema(&schema["items"])))
}

/// Returns the word of a closed vocabulary that a text spells in other letters.
fn word_of(schema: &Value, text: &str) -> Option<Value> {
    let words = known_words(schema)?;
    words.iter().find(|word| word.eq_ignore_ascii_case(text.trim())).map(|word| json!(word))
}

fn parsed(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Returns the issue of a member that is not known, with the known one that was probably meant.
pub(super) fn unknown(name: &str, value: &Value, path: &[Value], known: &[&str]) -> Issue {
    let text = match nearest(name, known.iter().copied()) {
        Some(meant) => format!("Unknown member `{name}`: did you mean `{meant}`?"),
        None if known.is_empty() => format!("Unknown member `{name}`: expected no members"),
        None => format!("Unknown member `{name}`: expected one of {}", known.join(", ")),
    };
    Issue::new((UNKNOWN, text), path, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        let texts = json!({ "type": ["array", "null"], "items": { "type": "string" } });
        json!({
            "type": "object",
            "properties": {
                "tags": texts,
                "ids": { "type": "array", "items": { "type": "object", "properties": {
                    "key": { "type": "string", "format": "lock-key" },
                } } },
                "any": { "type": "array", "items": true },
                "extra": { "type": ["object", "null"], "additionalProperties": true },
                "done": { "type": "boolean" },
                "limit": { "type": "integer", "default": 5 },
                "scope": { "type": "string", "enum": ["own", "workspace"] },
                "note": { "type": ["string", "null"] },
                "state": { "type": ["string", "null"], "x-words": ["active", "idle"] },
                "needs": { "anyOf": [{ "type": "object", "properties": {
                    "min_trust": { "type": ["integer", "null"] },
                    "archetype": { "type": ["string", "null"] },
                } }, { "type": "null" }] },
            },
        })
    }

    fn normalized(mut value: Value) -> (Value, Vec<Issue>) {
        let mut findings = Findings::default();
        normalize(&schema(), &mut value, &mut vec![json!("arguments")], &mut findings);
        (value, findings.into_issues())
    }

    #[test]
    fn what_holds_what_is_asked_for_is_taken() {
        for (sent, taken) in [
            (json!({ "tags": "[\"a\", \"b\"]" }), json!({ "tags": ["a", "b"] })),
            (json!({ "tags": "a" }), json!({ "tags": ["a"] })),
            (
                json!({ "tags": "measure first, then cut" }),
                json!({ "tags": ["measure first, then cut"] }),
            ),
            (json!({ "tags": ["a", "", null] }), json!({ "tags": ["a"] })),
            (
                json!({ "ids": "{\"key\": \"src\\\\a.rs\"}" }),
                json!({ "ids": [{ "key": "src/a.rs" }] }),
            ),
            (json!({ "ids": { "key": "a.rs" } }), json!({ "ids": [{ "key": "a.rs" }] })),
            (json!({ "any": "[{\"a\": 1}]" }), json!({ "any": [{ "a": 1 }] })),
            (json!({ "any": "go on" }), json!({ "any": ["go on"] })),
            (json!({ "any": "{\"a\": 1}" }), json!({ "any": [{ "a": 1 }] })),
            (json!({ "tags": "[WIP] parser" }), json!({ "tags": ["[WIP] parser"] })),
            (json!({ "tags": "{a b" }), json!({ "tags": ["{a b"] })),
            (json!({ "state": "IDLE" }), json!({ "state": "idle" })),
            (json!({ "extra": "{\"a\": 1}" }), json!({ "extra": { "a": 1 } })),
            (json!({ "done": "True" }), json!({ "done": true })),
            (json!({ "done": " FALSE" }), json!({ "done": false })),
            (json!({ "scope": "Workspace" }), json!({ "scope": "workspace" })),
            (json!({ "needs": "{\"min_trust\": 3}" }), json!({ "needs": { "min_trust": 3 } })),
            (json!({ "needs": { "archetype": "", "min_trust": null } }), json!({ "needs": {} })),
        ] {
            assert_eq!(normalized(sent.clone()), (taken, Vec::new()), "{sent}");
        }
    }

    #[test]
    fn absent_are_blank_texts_null_and_empty_lists() {
        for name in ["tags", "any", "extra", "done", "limit", "scope", "note", "needs"] {
            for blank in [json!(""), json!(" "), json!(null), json!([]), json!("[]"), json!([""])] {
                // A list for something else than a list is left to the check.
                let is_odd = blank.to_string().contains('[') && !["tags", "any"].contains(&name);
                if !is_odd {
                    assert_eq!(normalized(json!({ name: blank })).0, json!({}), "{name}: {blank}");
                }
            }
        }
        assert_eq!(normalized(json!({ "limit": "null", "extra": "None" })).0, json!({}));
        assert_eq!(normalized(json!({ "note": "none" })).0, json!({ "note": "none" }));
    }

    #[test]
    fn the_rest_is_left_as_it_is() {
        for sent in [
            json!({ "tags": 5 }),
            json!({ "extra": "{'a': 1}" }),
            json!({ "extra": "[1]" }),
            json!({ "done": "yes" }),
            json!({ "scope": "mine" }),
        ] {
            assert_eq!(normalized(sent.clone()), (sent, Vec::new()));
        }
    }

    #[test]
    fn what_is_not_taken_is_refused_with_what_to_send() {
        for (sent, kind, text) in [
            (json!({ "tags": "a, b" }), "list_type", r#"send ["a","b"], or ["a, b"] for one"#),
            (json!({ "tags": "['a','b']" }), "list_type", r#"send ["a","b"], or ["#),
            (json!({ "tags": "{\"a\": 1}" }), "list_type", "send [\"{"),
            (json!({ "tags": "a,".repeat(200) }), "list_type", "send each text as a member"),
            (json!({ "ids": "a" }), "list_type", "send a JSON list"),
            (json!({ "state": "open" }), "enum", "one of active, idle"),
        ] {
            let (left, issues) = normalized(sent.clone());
            assert_eq!((left, issues.len()), (sent, 1));
            assert_eq!(issues[0].kind, kind);
            assert!(issues[0].msg.contains(text), "{}", issues[0].msg);
        }
        assert_eq!(normalized(json!({ "state": " " })), (json!({}), Vec::new()));
    }

    #[test]
    fn unknown_members_are_named_at_every_depth() {
        let (_, issues) = normalized(json!({ "notes": "x", "needs": { "minTrust": 3 } }));
        let told: Vec<_> = issues.iter().map(|it| (json!(it.loc), it.msg.as_str())).collect();
        assert_eq!(
            told,
            [
                (
                    json!(["arguments", "needs", "minTrust"]),
                    "Unknown member `minTrust`: did you mean `min_trust`?"
                ),
                (json!(["arguments", "notes"]), "Unknown member `notes`: did you mean `note`?"),
            ]
        );
    }

    #[test]
    fn a_great_many_problems_are_counted() {
        let odd: Map<_, _> = (0..50_000).map(|n| (format!("m{n}"), json!(n))).collect();
        let ids = vec![json!({ "key": "../a.rs" }); 1_000];
        for (sent, more) in [
            (json!(odd), 50_000 - MAX_TOLD),
            (json!({ "needs": odd }), 50_000 - MAX_TOLD),
            (json!({ "ids": ids }), 1_000 - MAX_TOLD),
            (json!({ "ids": vec![json!({ "odd": 1, "odder": 2 }); 1_000] }), 2_000 - MAX_TOLD),
        ] {
            let (_, issues) = normalized(sent);
            assert_eq!(issues.len(), MAX_TOLD);
            let last = &issues[MAX_TOLD - 1].msg;
            assert!(last.ends_with(&format!(" (and {more} more such problems)")), "{last}");
        }
        let too_long = json!({ "ids": vec![json!({ "key": "../a.rs" }); 1_001] });
        assert_eq!(normalized(too_long.clone()), (too_long, Vec::new()), "left to the check");
    }
}
