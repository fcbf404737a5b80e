//! JSON in canonical form, and JSON cut for error messages.
use serde_json::{Value, json};

/// The maximum number of characters of a string that an issue repeats.
const ECHO_LIMIT: usize = 200;

/// Returns JSON with sorted members and without white space, so that two spellings of one value are
/// equal. By hand, because `serde_json` keeps the order of members here (feature `preserve_order`).
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, member)| format!("{}:{}", json!(name), canonical(member)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(canonical).collect();
            format!("[{}]", elements.join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// Returns the value with each of its strings cut to the length that an issue repeats.
pub(crate) fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) => text.chars().take(ECHO_LIMIT).collect::<String>().into(),
        Value::Array(elements) => elements.iter().map(cut).collect(),
        Value::Object(members) => Value::Object(
            members.iter().map(|(name, member)| (name.clone(), cut(member))).collect(),
        ),
        scalar => scalar.clone(),
    }
}
