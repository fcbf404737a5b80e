//! The input check as a whole.
use serde_json::{Value, json};

use super::{
    check,
    keywords::{forbid_null, is_free_form, unsupported},
    parse,
};
use crate::values::Issue;

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
            "state": { "type": ["string", "null"], "enum": ["x", "y", "", null] },
            "mode": { "anyOf": [{ "type": "string", "enum": ["a", "b"] }, { "type": "null" }] },
            "extra": { "type": "object" },
            "any": {},
            "pairs": { "type": "array", "minItems": 1, "items": {
                "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } }
            } },
        },
    })
}

/// Returns an input as the text of a body is parsed.
fn sent(input: &Value) -> Value {
    parse(&schema(), input.to_string().as_bytes()).expect("JSON")
}

fn found(input: Value) -> Vec<Issue> {
    check(&schema(), &mut sent(&input), |_| "body")
}

/// Checks one optional member, given beside a valid `path`.
#[track_caller]
fn assert_accepts(name: &str, value: Value, expected: Value) {
    let mut input = sent(&json!({ "path": "a", name: value }));
    assert_eq!(check(&schema(), &mut input, |_| "body"), []);
    let is_text = is_free_form(&schema()["properties"][name]) && !input[name].is_null();
    let expected = if is_text { json!(expected.to_string()) } else { expected };
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
    assert_accepts("state", json!(""), json!(""));
    assert_refuses("state", json!("z"), "enum", "Input should be one of x, y");
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

#[test]
fn a_free_form_member_is_its_text_and_others_are_values() {
    let body = br#"{"path":"a","extra":{"n":12345678901234567890123 },"tags":["x"],"junk":1}"#;
    let parsed = parse(&schema(), body).expect("JSON");
    let expected = json!({
        "path": "a", "extra": r#"{"n":12345678901234567890123 }"#, "tags": ["x"], "junk": 1,
    });
    assert_eq!(parsed, expected);
}

#[test]
fn the_offset_of_what_is_not_json_counts_from_the_beginning_of_the_body() {
    for (body, offset) in [
        (r#"{"path":"a","extra":{"n":1e999}}"#, 30),
        (r#"{"path":"a","extra":{"n":"\ud800"}}"#, 32),
        (r#"{"path":"a""#, 11),
        (r#"{"path":"a"} x"#, 13),
    ] {
        let found = parse(&schema(), body.as_bytes()).expect_err("not JSON");
        assert!(found.abs_diff(offset) <= 1, "{body}: {found}");
    }
}

#[test]
fn of_what_the_operation_does_not_read_only_the_beginning_is_kept() {
    let zeros = "0,".repeat(100_000);
    let kept = |body: String| parse(&schema(), body.as_bytes()).expect("JSON").to_string().len();
    assert!(kept(format!(r#"{{"junk":[{zeros}0],"more":[{zeros}0]}}"#)) < 10_000);
    assert!(kept(format!(r#"{{"path":[{zeros}0]}}"#)) < 10_000);
    assert!(kept(format!(r#"{{"tags":[{zeros}0]}}"#)) < 100);
}
