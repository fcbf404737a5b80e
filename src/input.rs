//! From the wire to an operation's input: coerces and checks a JSON value against its schema.
//!
//! The schema is the one that the operation's struct derives, so what the documents promise and
//! what is enforced cannot differ. A schema keyword that this file does not understand is refused
//! when the operation is registered, never ignored.
use chrono::Datelike as _;
use serde_json::{Value, json};

use crate::{
    domain::Domain,
    error::Issue,
    lock_key::{LockKey, LockKeyError},
};

/// The most characters of a string that an issue repeats.
const ECHO_LIMIT: usize = 200;

/// The most members of a list that does not say otherwise (conventions, limits).
pub(crate) const LIST_LIMIT: usize = 1000;

/// Coerces the members of `input` in place and returns every problem, in the order of declaration.
/// `root` names the part of the request that a member comes from: `body`, `query` or `path`.
pub(crate) fn check(
    schema: &Value,
    input: &mut Value,
    root: impl Fn(&str) -> &'static str,
) -> Vec<Issue> {
    let mut issues = Vec::new();
    let Some(properties) = schema["properties"].as_object() else { return issues };
    let sent = input.clone();
    let mut place = Vec::with_capacity(4);
    for (name, property) in properties {
        place.clear();
        place.extend([Step::Member(root(name)), Step::Member(name)]);
        member(schema, name, property, input, &mut place, &mut issues);
    }
    // An object that lacks a member is repeated as it was sent, not as far as it was coerced.
    for issue in issues.iter_mut().filter(|it| it.kind == "missing") {
        let steps = &issue.loc[1..issue.loc.len() - 1];
        let lacking = steps.iter().try_fold(&sent, |value, step| match step {
            Value::String(name) => value.get(name),
            step => value.get(usize::try_from(step.as_u64()?).ok()?),
        });
        issue.input = lacking.map(cut).unwrap_or_default();
    }
    issues
}

/// The schema keywords in `schema` that this file does not understand, with their places.
pub(crate) fn unsupported(schema: &Value) -> Vec<String> {
    const PLAIN: [&str; 17] = [
        "type",
        "description",
        "title",
        "default",
        "required",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "minItems",
        "maxItems",
        "x-max-bytes",
        "x-not-blank",
        "x-time",
        "additionalProperties",
        "properties",
        "items",
    ];
    // `int64` and its like say how a number is stored, not what is valid.
    const FORMATS: [&str; 10] = [
        "uuid",
        "task-reference",
        "lock-key",
        "hostname",
        "date-time",
        "int64",
        "int32",
        "double",
        "uint32",
        "uint8",
    ];

    fn visit(schema: &Value, place: &str, found: &mut Vec<String>) {
        let Some(members) = schema.as_object() else {
            if *schema != json!(true) {
                found.push(format!("{place}: {schema}"));
            }
            return;
        };
        for (keyword, value) in members {
            let known = match keyword.as_str() {
                "format" => value.as_str().is_some_and(|it| FORMATS.contains(&it)),
                "anyOf" => value.as_array().is_some_and(|any| nullable_pair(any).is_some()),
                // Members beyond the declared ones are ignored everywhere, so a schema may only
                // allow them.
                "additionalProperties" => *value != json!(false),
                keyword => PLAIN.contains(&keyword),
            };
            if !known {
                found.push(format!("{place}/{keyword}: {value}"));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            visit(property, &format!("{place}/{name}"), found);
        }
        if let Some(items) = schema.get("items") {
            visit(items, &format!("{place}/items"), found);
        }
        if let Some(inner) = schema["anyOf"].as_array().and_then(|any| nullable_pair(any)) {
            visit(inner, place, found);
        }
    }
    let mut found = Vec::new();
    visit(schema, "", &mut found);
    found
}

/// The other half of `anyOf: [x, null]`, the form that an optional enum or object takes.
fn nullable_pair(any: &[Value]) -> Option<&Value> {
    match any {
        [inner, null] if null["type"] == "null" => Some(inner),
        _ => None,
    }
}

/// One step of the way to a value. It becomes JSON only where there is an issue to tell of.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

fn issue_at(problem: Problem, place: &[Step<'_>], input: &Value) -> Issue {
    let steps = place.iter().map(|step| match step {
        Step::Member(name) => json!(name),
        Step::Item(index) => json!(index),
    });
    issue(problem, &steps.collect::<Vec<_>>(), input)
}

fn member<'a>(
    schema: &'a Value,
    name: &'a str,
    property: &'a Value,
    object: &mut Value,
    place: &mut Vec<Step<'a>>,
    issues: &mut Vec<Issue>,
) {
    match object.get_mut(name) {
        Some(value) => visit(property, value, place, issues),
        None if required(schema, name) => {
            issues.push(issue_at(("missing", "Field required".into()), place, object));
        }
        None => {}
    }
}

fn visit<'a>(
    schema: &'a Value,
    input: &mut Value,
    place: &mut Vec<Step<'a>>,
    issues: &mut Vec<Issue>,
) {
    if input.is_null() && accepts(schema, "null") {
        return;
    }
    let schema = schema["anyOf"].as_array().and_then(|any| nullable_pair(any)).unwrap_or(schema);
    if let Err(problem) = coerce(schema, input) {
        return issues.push(issue_at(problem, place, input));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        place.push(Step::Member(name));
        member(schema, name, property, input, place, issues);
        place.pop();
    }
    if let (Some(items), Some(values)) = (schema.get("items"), input.as_array_mut()) {
        for (index, value) in values.iter_mut().enumerate() {
            place.push(Step::Item(index));
            visit(items, value, place, issues);
            place.pop();
        }
    }
}

type Problem = (&'static str, String);
type Checked = Result<(), Problem>;

fn problem(kind: &'static str, text: impl Into<String>) -> Checked {
    Err((kind, text.into()))
}

/// A `value_error`: the kind for everything that has no kind of its own.
pub(crate) fn value_error(text: impl std::fmt::Display) -> (&'static str, String) {
    ("value_error", format!("Value error, {text}"))
}

/// One issue, with long strings of the offending value cut.
pub(crate) fn issue((kind, msg): (&'static str, String), loc: &[Value], input: &Value) -> Issue {
    Issue { kind, loc: loc.to_vec(), msg, input: cut(input) }
}

fn coerce(schema: &Value, input: &mut Value) -> Checked {
    match kind(schema) {
        "string" => string(schema, input),
        "integer" => integer(schema, input),
        "number" => number(schema, input),
        "boolean" => boolean(input),
        "array" => list(schema, input),
        "object" if !input.is_object() => {
            problem("dict_type", "Input should be a valid dictionary")
        }
        // Of an object whose members are not all declared, or of any value at all, only what the
        // database cannot store is refused.
        _ if schema.get("properties").is_none() || schema["additionalProperties"] == true => {
            no_nul(input)
        }
        _ => Ok(()),
    }
}

fn string(schema: &Value, input: &mut Value) -> Checked {
    let Some(text) = input.as_str() else {
        return problem("string_type", "Input should be a valid string");
    };
    if text.contains('\0') {
        return Err(value_error(LockKeyError::Nul));
    }
    if let Some(limit) = schema["x-max-bytes"].as_u64()
        && text.len() as u64 > limit
    {
        return problem("string_too_long", format!("String should have at most {limit} bytes"));
    }
    if schema["x-not-blank"] == true && text.trim().is_empty() {
        return Err(value_error("expected text that is not blank"));
    }
    if (text.chars().count() as u64) < schema["minLength"].as_u64().unwrap_or_default() {
        return Err(value_error("expected text that is not empty"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(input)
    {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
        return problem("enum", format!("Input should be one of {}", words.join(", ")));
    }
    let canonical = match schema["format"].as_str() {
        Some("uuid") => match uuid::Uuid::try_parse(text) {
            Ok(id) => id.to_string(),
            Err(_) => return problem("uuid_parsing", "Input should be a valid UUID"),
        },
        Some("task-reference") => match uuid::Uuid::try_parse(text) {
            Ok(id) => id.to_string(),
            Err(_) if text.strip_prefix(REFERENCE).is_some_and(|it| !it.is_empty()) => {
                return Ok(());
            }
            Err(_) => {
                let expected = "expected the id of a task, or ref:<name> of an earlier one";
                return Err(value_error(expected));
            }
        },
        Some("lock-key") => match LockKey::parse(text) {
            Ok(key) => key.as_str().to_owned(),
            Err(error @ LockKeyError::TooLong) => {
                return problem("string_too_long", error.to_string());
            }
            Err(error) => return Err(value_error(error)),
        },
        Some("hostname") => match Domain::parse(text) {
            Ok(domain) => domain.as_str().to_owned(),
            Err(error) => return Err(value_error(error)),
        },
        Some("date-time") if !is_time(text) => {
            return Err(value_error("expected an ISO-8601 time with offset or Z"));
        }
        _ => return Ok(()),
    };
    *input = canonical.into();
    Ok(())
}

/// What names an earlier task of the same batch.
const REFERENCE: &str = "ref:";

/// Whether a text is a time that can be written in the same form again: in UTC it may lie in another
/// year, which must have four digits too.
fn is_time(text: &str) -> bool {
    let time = chrono::DateTime::parse_from_rfc3339(text);
    time.is_ok_and(|it| (0..=9999).contains(&it.to_utc().year()))
}

fn integer(schema: &Value, input: &mut Value) -> Checked {
    let value = match &*input {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(integral)),
        Value::String(text) => {
            let text = text.trim();
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
                let text = "Input should be a valid integer, unable to parse string as an integer";
                return problem("int_parsing", text);
            }
            text.parse().ok()
        }
        _ => None,
    };
    let Some(value) = value else {
        return problem("int_type", "Input should be a valid integer");
    };
    within(schema, value as f64)?;
    *input = json!(value);
    Ok(())
}

/// The integer that a float is, if it is one of 64 bits. The least of these is refused, because
/// lesser ones are the same float.
fn integral(float: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (float.fract() == 0.0 && float.abs() < LIMIT).then_some(float as i64)
}

fn number(schema: &Value, input: &mut Value) -> Checked {
    let value = match &*input {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => decimal(text.trim()),
        _ => None,
    };
    let Some(value) = value else { return Err(value_error("expected a number")) };
    within(schema, value)?;
    if input.is_string() {
        *input = json!(value);
    }
    Ok(())
}

fn decimal(text: &str) -> Option<f64> {
    // The parser also knows words such as `inf`, which are no decimals.
    let decimal = text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'+' | b'-' | b'.'));
    text.parse().ok().filter(|it: &f64| decimal && it.is_finite())
}

fn within(schema: &Value, value: f64) -> Checked {
    if let Some(low) = schema["minimum"].as_f64().filter(|low| value < *low) {
        let text = format!("Input should be greater than or equal to {low}");
        return problem("greater_than_equal", text);
    }
    if let Some(high) = schema["maximum"].as_f64().filter(|high| value > *high) {
        let text = format!("Input should be less than or equal to {high}");
        return problem("less_than_equal", text);
    }
    Ok(())
}

fn boolean(input: &mut Value) -> Checked {
    let value = match &*input {
        Value::Bool(value) => *value,
        Value::String(text) if text == "true" => true,
        Value::String(text) if text == "false" => false,
        _ => {
            let text = "Input should be a valid boolean, unable to interpret input";
            return problem("bool_parsing", text);
        }
    };
    *input = json!(value);
    Ok(())
}

fn list(schema: &Value, input: &Value) -> Checked {
    let Some(values) = input.as_array() else {
        return problem("list_type", "Input should be a valid list");
    };
    let most = schema["maxItems"].as_u64().unwrap_or(LIST_LIMIT as u64);
    if values.len() as u64 > most {
        return problem("too_long", format!("List should have at most {most} items"));
    }
    let least = schema["minItems"].as_u64().unwrap_or_default();
    if (values.len() as u64) < least {
        return Err(value_error(format!("expected at least {least} item(s)")));
    }
    Ok(())
}

/// Refuses what `jsonb` and `text` cannot hold, at any depth.
fn no_nul(input: &Value) -> Checked {
    let clean = match input {
        Value::String(text) => !text.contains('\0'),
        Value::Array(values) => values.iter().all(|it| no_nul(it).is_ok()),
        Value::Object(members) => {
            members.iter().all(|(name, it)| !name.contains('\0') && no_nul(it).is_ok())
        }
        _ => true,
    };
    if clean { Ok(()) } else { Err(value_error(LockKeyError::Nul)) }
}

/// The one type that a schema asks for besides `null`; empty when it takes any value.
fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(only) => only,
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|it| *it != "null").unwrap_or_default()
        }
        _ => "",
    }
}

fn accepts(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(only) => only == kind,
        Value::Array(kinds) => kinds.iter().any(|it| it == kind),
        _ => match schema["anyOf"].as_array() {
            Some(any) => any.iter().any(|it| accepts(it, kind)),
            None => true,
        },
    }
}

/// Takes `null` from the values that a schema accepts.
pub(crate) fn forbid_null(schema: &mut Value) {
    let Some(members) = schema.as_object_mut() else { return };
    if let Some(Value::Array(kinds)) = members.get_mut("type") {
        kinds.retain(|it| it != "null");
        if let [only] = &mut kinds[..] {
            let only = only.take();
            members.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(words)) = members.get_mut("enum") {
        words.retain(|it| !it.is_null());
    }
    let any = members.get("anyOf").and_then(Value::as_array);
    if let Some(inner) = any.and_then(|any| nullable_pair(any)).and_then(Value::as_object).cloned()
    {
        members.remove("anyOf");
        for (name, value) in inner {
            members.entry(name).or_insert(value);
        }
    }
}

/// Whether a schema's object must have a member of this name.
pub(crate) fn required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|it| it == name))
}

/// The value with every string in it cut to what an issue repeats.
pub(crate) fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) => text.chars().take(ECHO_LIMIT).collect::<String>().into(),
        Value::Array(values) => values.iter().map(cut).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, it)| (name.clone(), cut(it))).collect())
        }
        plain => plain.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        json!({
            "type": "object",
            "required": ["path"],
            "properties": {
                "path": { "type": "string", "x-max-bytes": 8 },
                "name": { "type": "string", "minLength": 1 },
                "ttl": { "type": "integer", "minimum": 1, "maximum": 480 },
                "big": { "type": "integer" },
                "share": { "type": "number", "minimum": 0, "maximum": 1 },
                "tags": { "type": ["array", "null"], "items": { "type": "string" }, "maxItems": 3 },
                "dry": { "type": "boolean" },
                "id": { "type": "string", "format": "uuid" },
                "key": { "type": "string", "format": "lock-key" },
                "host": { "type": "string", "format": "hostname" },
                "who": { "type": "string", "x-not-blank": true },
                "when": { "type": ["string", "null"], "format": "date-time" },
                "mode": { "anyOf": [{ "type": "string", "enum": ["a", "b"] }, { "type": "null" }] },
                "extra": { "type": "object" },
                "any": {},
                "pairs": { "type": "array", "minItems": 1, "items": {
                    "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } }
                } },
            },
        })
    }

    fn found(mut input: Value) -> Vec<Issue> {
        check(&schema(), &mut input, |_| "body")
    }

    /// Checks one optional member, given beside a valid `path`.
    #[track_caller]
    fn assert_accepts(name: &str, value: Value, expected: Value) {
        let mut input = json!({ "path": "a", name: value });
        assert_eq!(check(&schema(), &mut input, |_| "body"), []);
        assert_eq!(input[name], expected);
    }

    #[track_caller]
    fn assert_refuses(name: &str, value: Value, kind: &str, msg: &str) {
        let issues = found(json!({ "path": "a", name: value }));
        assert_eq!(issues.len(), 1, "{issues:?}");
        assert_eq!((issues[0].kind, issues[0].msg.as_str()), (kind, msg));
        assert_eq!(issues[0].loc[..2], [json!("body"), json!(name)]);
        if issues[0].loc.len() == 2 {
            assert_eq!(issues[0].input, value);
        }
    }

    #[test]
    fn integers_are_coerced_or_refused() {
        for (value, expected) in [
            (json!(30), 30),
            (json!(30.0), 30),
            (json!("30"), 30),
            (json!(-9_223_372_036_854_775_808_i64), i64::MIN),
            (json!("-7"), -7),
        ] {
            assert_accepts("big", value, json!(expected));
        }
        let invalid = "Input should be a valid integer";
        for value in [
            json!(null),
            json!(true),
            json!(1.5),
            json!([]),
            json!({}),
            json!(u64::MAX),
            json!(1e30),
            json!(-9_223_372_036_854_775_808.0),
            json!("9223372036854775808"),
        ] {
            assert_refuses("big", value, "int_type", invalid);
        }
        let text = "Input should be a valid integer, unable to parse string as an integer";
        for value in ["", "x", "1.5", "0x1", "1_000", "-"] {
            assert_refuses("big", json!(value), "int_parsing", text);
        }
    }

    #[test]
    fn bounds_name_themselves() {
        let low = "Input should be greater than or equal to 1";
        assert_refuses("ttl", json!(0), "greater_than_equal", low);
        let high = "Input should be less than or equal to 480";
        assert_refuses("ttl", json!("481"), "less_than_equal", high);
        assert_accepts("ttl", json!(480), json!(480));
        assert_accepts("share", json!("0.5"), json!(0.5));
        assert_accepts("share", json!(1), json!(1));
        let high = "Input should be less than or equal to 1";
        assert_refuses("share", json!(1.1), "less_than_equal", high);
        for value in [json!("inf"), json!("x"), json!(true), json!(null), json!("1e-1")] {
            assert_refuses("share", value, "value_error", "Value error, expected a number");
        }
    }

    #[test]
    fn strings_are_never_coerced() {
        for value in [json!(1), json!(null), json!(true), json!([]), json!({})] {
            assert_refuses("key", value, "string_type", "Input should be a valid string");
        }
        let nul = "Value error, NUL characters are not allowed";
        assert_refuses("key", json!("a\0"), "value_error", nul);
        assert_refuses("extra", json!({ "a": [{ "b\0": 1 }] }), "value_error", nul);
        assert_refuses("any", json!(["\0"]), "value_error", nul);
        assert_accepts("any", json!(null), json!(null));
        let issues = found(json!({ "path": "123456789" }));
        assert_eq!(issues[0].kind, "string_too_long");
        assert_eq!(issues[0].msg, "String should have at most 8 bytes");
    }

    #[test]
    fn booleans_take_two_words() {
        assert_accepts("dry", json!("true"), json!(true));
        assert_accepts("dry", json!("false"), json!(false));
        let text = "Input should be a valid boolean, unable to interpret input";
        for value in [json!("True"), json!("1"), json!(1), json!(null), json!("yes")] {
            assert_refuses("dry", value, "bool_parsing", text);
        }
    }

    #[test]
    fn formats_are_checked_and_brought_into_their_canonical_form() {
        let id = "6A0C3A52-7A54-4A0F-9D0A-0F8A1C1F6A11";
        assert_accepts("id", json!(id), json!(id.to_lowercase()));
        assert_refuses("id", json!("6A0C"), "uuid_parsing", "Input should be a valid UUID");
        assert_accepts("key", json!("./a//b"), json!("a/b"));
        let text = "Value error, path must not lead out of its start with `..`";
        assert_refuses("key", json!("../a"), "value_error", text);
        assert_accepts("host", json!("A.Example.com."), json!("a.example.com"));
        let text = "Value error, expected a host name, without scheme, port or path";
        assert_refuses("host", json!("https://example.com"), "value_error", text);
        assert_accepts("who", json!(" a "), json!(" a "));
        let text = "Value error, expected text that is not blank";
        for value in ["", " ", "\t\n"] {
            assert_refuses("who", json!(value), "value_error", text);
        }
        assert_accepts("when", json!(null), json!(null));
        assert_accepts("when", json!("2026-09-01T10:00:00Z"), json!("2026-09-01T10:00:00Z"));
        let text = "Value error, expected an ISO-8601 time with offset or Z";
        for value in [
            "2026-09-01T10:00:00",
            "soon",
            "",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+01:00",
        ] {
            assert_refuses("when", json!(value), "value_error", text);
        }
        assert_accepts("mode", json!("b"), json!("b"));
        assert_accepts("mode", json!(null), json!(null));
        assert_refuses("mode", json!("c"), "enum", "Input should be one of a, b");
    }

    #[test]
    fn lists_and_objects() {
        assert_accepts("tags", json!(null), json!(null));
        assert_refuses("tags", json!("a"), "list_type", "Input should be a valid list");
        let text = "List should have at most 3 items";
        assert_refuses("tags", json!(["a", "b", "c", "d"]), "too_long", text);
        assert_refuses("tags", json!(["a", 1]), "string_type", "Input should be a valid string");
        assert_refuses("extra", json!([]), "dict_type", "Input should be a valid dictionary");
        let text = "Value error, expected text that is not empty";
        assert_refuses("name", json!(""), "value_error", text);
        assert_accepts("name", json!(" "), json!(" "));
        let text = "Value error, expected at least 1 item(s)";
        assert_refuses("pairs", json!([]), "value_error", text);
        assert_refuses("pairs", json!([1]), "dict_type", "Input should be a valid dictionary");
    }

    #[test]
    fn every_problem_is_listed_in_the_order_of_declaration() {
        let issues = found(json!({ "pairs": [{ "n": 1 }, { "m": "x".repeat(300) }], "ttl": "x" }));
        let kinds: Vec<_> = issues.iter().map(|it| (it.kind, json!(it.loc))).collect();
        assert_eq!(
            kinds,
            [
                ("missing", json!(["body", "path"])),
                ("int_parsing", json!(["body", "ttl"])),
                ("missing", json!(["body", "pairs", 1, "n"])),
            ]
        );
        assert_eq!(issues[2].input, json!({ "m": "x".repeat(200) }));
        let issues = found(json!({ "ttl": "5", "key": "./a//b" }));
        assert_eq!(issues[0].input, json!({ "ttl": "5", "key": "./a//b" }), "as it was sent");
    }

    #[test]
    fn an_integer_too_small_is_refused_however_close_it_is() {
        let input = r#"{ "path": "a", "big": -9223372036854775809 }"#;
        let issues = found(serde_json::from_str(input).expect("JSON"));
        assert_eq!(issues[0].kind, "int_type");
    }

    #[test]
    fn null_can_be_taken_from_every_form_of_an_optional_schema() {
        for (mut schema, expected) in [
            (json!({ "type": ["string", "null"] }), json!({ "type": "string" })),
            (json!({ "type": ["a", "b", "null"] }), json!({ "type": ["a", "b"] })),
            (
                json!({ "type": ["string", "null"], "enum": ["a", null] }),
                json!({ "type": "string", "enum": ["a"] }),
            ),
            (
                json!({ "description": "d", "anyOf": [{ "type": "object", "description": "e" }, { "type": "null" }] }),
                json!({ "description": "d", "type": "object" }),
            ),
            (json!({ "type": "string" }), json!({ "type": "string" })),
            (json!(true), json!(true)),
        ] {
            forbid_null(&mut schema);
            assert_eq!(schema, expected);
        }
    }

    #[test]
    fn unknown_keywords_are_found() {
        assert_eq!(unsupported(&schema()), Vec::<String>::new());
        for (keyword, value) in [
            ("pattern", json!("a")),
            ("maxLength", json!(3)),
            ("format", json!("email")),
            ("additionalProperties", json!(false)),
            ("oneOf", json!([])),
            ("anyOf", json!([{ "type": "string" }, { "type": "integer" }])),
            ("$ref", json!("#/x")),
        ] {
            let schema = json!({ "properties": { "a": { "items": { keyword: value } } } });
            assert_eq!(unsupported(&schema).len(), 1, "{keyword}");
        }
    }
}
