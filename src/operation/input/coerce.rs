//! Coerces one value to the type of its schema, and checks it: `docs/api-design.md#validation`.
use chrono::Datelike as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    keywords::{is_free_form, kind, most_items},
    parse,
};
use crate::values::{
    Domain, LockKey, LockKeyError,
    issue::{Problem, value_error},
    name::problem_of_name,
};

type Checked = Result<(), Problem>;

fn fail(kind: &'static str, text: impl Into<String>) -> Checked {
    Err((kind, text.into()))
}

/// Coerces a value in place, or returns what is wrong with it.
pub(super) fn coerce(schema: &Value, input: &mut Value) -> Checked {
    match kind(schema) {
        _ if is_free_form(schema) => free_form(schema, input.as_str().unwrap_or_default()),
        "string" => string(schema, input),
        "integer" => integer(schema, input),
        "number" => number(schema, input),
        "boolean" => boolean(input),
        "array" => list(schema, input),
        "object" if !input.is_object() => fail("dict_type", "Input should be a valid dictionary"),
        _ => Ok(()),
    }
}

fn string(schema: &Value, input: &mut Value) -> Checked {
    let Some(text) = input.as_str() else {
        return fail("string_type", "Input should be a valid string");
    };
    if text.contains('\0') {
        return Err(value_error(LockKeyError::Nul));
    }
    if let Some(limit) = schema["x-max-bytes"].as_u64()
        && text.len() as u64 > limit
    {
        return fail("string_too_long", format!("String should have at most {limit} bytes"));
    }
    if schema["x-not-blank"] == true && text.trim().is_empty() {
        return Err(value_error("expected text that is not blank"));
    }
    if schema["x-name"] == true
        && let Some(problem) = problem_of_name(text)
    {
        return Err(value_error(problem));
    }
    if (text.chars().count() as u64) < schema["minLength"].as_u64().unwrap_or_default() {
        return Err(value_error("expected text that is not empty"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(input)
    {
        let words = words.iter().filter_map(Value::as_str).filter(|word| !word.is_empty());
        let words: Vec<_> = words.collect();
        return fail("enum", format!("Input should be one of {}", words.join(", ")));
    }
    if let Some(canonical) = canonical_form(schema["format"].as_str(), text)? {
        *input = canonical.into();
    }
    Ok(())
}

/// Checks a text against its format. Returns the canonical form, where the format has one.
fn canonical_form(format: Option<&str>, text: &str) -> Result<Option<String>, Problem> {
    let canonical = match format {
        Some("uuid") => match Uuid::try_parse(text) {
            Ok(id) => id.to_string(),
            Err(_) => return Err(("uuid_parsing", "Input should be a valid UUID".to_owned())),
        },
        Some("task-reference") => match (Uuid::try_parse(text), text.strip_prefix(REFERENCE)) {
            (Ok(id), _) => id.to_string(),
            (Err(_), Some(name)) if !name.is_empty() => return Ok(None),
            _ => {
                let expected = "expected the id of a task, or ref:<name> of an earlier one";
                return Err(value_error(expected));
            }
        },
        Some("lock-key") => match LockKey::parse(text) {
            Ok(key) => key.as_str().to_owned(),
            Err(error @ LockKeyError::TooLong) => {
                return Err(("string_too_long", error.to_string()));
            }
            Err(error) => return Err(value_error(error)),
        },
        Some("hostname") => match Domain::parse(text) {
            Ok(domain) => domain.as_str().to_owned(),
            Err(error) => return Err(value_error(error)),
        },
        Some("date-time") if !is_timestamp(text) => {
            return Err(value_error("expected an ISO-8601 time with offset or Z"));
        }
        _ => return Ok(None),
    };
    Ok(Some(canonical))
}

/// The prefix of a reference to an earlier task of the same batch.
const REFERENCE: &str = "ref:";

/// Whether a text is a timestamp that can be written in the same form again: converted to UTC, the year
/// can change and must still have four digits.
fn is_timestamp(text: &str) -> bool {
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
                return fail("int_parsing", text);
            }
            text.parse().ok()
        }
        _ => None,
    };
    let Some(value) = value else {
        return fail("int_type", "Input should be a valid integer");
    };
    within(schema, value as f64)?;
    *input = json!(value);
    Ok(())
}

/// Returns the integer that a float equals, if it fits into 64 bits. -2^63 is refused, because smaller
/// integers round to the same float.
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
    // The parser also accepts words such as `inf`, which are not decimals.
    let decimal = text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'+' | b'-' | b'.'));
    text.parse().ok().filter(|it: &f64| decimal && it.is_finite())
}

fn within(schema: &Value, value: f64) -> Checked {
    if let Some(low) = schema["minimum"].as_f64().filter(|low| value < *low) {
        let text = format!("Input should be greater than or equal to {low}");
        return fail("greater_than_equal", text);
    }
    if let Some(high) = schema["maximum"].as_f64().filter(|high| value > *high) {
        let text = format!("Input should be less than or equal to {high}");
        return fail("less_than_equal", text);
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
            return fail("bool_parsing", text);
        }
    };
    *input = json!(value);
    Ok(())
}

fn list(schema: &Value, input: &Value) -> Checked {
    let Some(values) = input.as_array() else {
        return fail("list_type", "Input should be a valid list");
    };
    length(schema, values.len())
}

fn length(schema: &Value, count: usize) -> Checked {
    let most = most_items(schema);
    if count > most {
        return fail("too_long", format!("List should have at most {most} items"));
    }
    let least = schema["minItems"].as_u64().unwrap_or_default();
    if (count as u64) < least {
        return Err(value_error(format!("expected at least {least} item(s)")));
    }
    Ok(())
}

/// Checks the text of an object or list that can have anything in it, except what the database cannot store.
fn free_form(schema: &Value, text: &str) -> Checked {
    let is_list = kind(schema) == "array";
    let is_object = kind(schema) == "object";
    if is_list && !text.starts_with('[') {
        return fail("list_type", "Input should be a valid list");
    }
    if is_object && !text.starts_with('{') {
        return fail("dict_type", "Input should be a valid dictionary");
    }
    // Only as an escape can JSON have this character, and most texts have none.
    if !is_list && !text.contains(r"\u0000") {
        return Ok(());
    }
    let parse::Checked { has_nul, count, .. } = serde_json::from_str(text).unwrap_or_default();
    match is_list {
        // Its elements are checked one by one.
        true => length(schema, count),
        false if has_nul => Err(value_error(LockKeyError::Nul)),
        false => Ok(()),
    }
}
