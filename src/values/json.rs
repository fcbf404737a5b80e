//! JSON in canonical form, and JSON cut for error messages.
use serde_json::{Map, Value, json};

/// The maximum number of characters of a string that an issue repeats.
const ECHO_LIMIT: usize = 200;

/// The maximum number of bytes of a value that an issue repeats, about: without a limit, a body without its
/// required members would be answered with a copy for each of them.
pub(crate) const ECHO_BYTES: usize = 4096;

/// What a number, a boolean or null counts as.
pub(crate) const SCALAR_BYTES: usize = 8;

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

/// Returns the bytes of the texts in a value.
pub(crate) fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(elements) => elements.iter().map(text_bytes).sum(),
        Value::Object(members) => members.values().map(text_bytes).sum(),
        _ => 0,
    }
}

/// Returns the value as an issue repeats it: with each of its strings cut, and without the elements and members
/// behind the first `ECHO_BYTES`.
pub(crate) fn cut(value: &Value) -> Value {
    cut_within(value, &mut { ECHO_BYTES })
}

fn cut_within(value: &Value, bytes_left: &mut usize) -> Value {
    let cut_text = |text: &str| text.chars().take(ECHO_LIMIT).collect::<String>();
    let mut spend = |bytes: usize| *bytes_left = bytes_left.saturating_sub(bytes);
    match value {
        Value::String(text) => {
            let text = cut_text(text);
            spend(text.len() + 2);
            text.into()
        }
        Value::Array(elements) => {
            let mut kept = Vec::new();
            for element in elements {
                if *bytes_left == 0 {
                    break;
                }
                kept.push(cut_within(element, bytes_left));
            }
            kept.into()
        }
        Value::Object(members) => {
            let mut kept = Map::new();
            for (name, member) in members {
                if *bytes_left == 0 {
                    break;
                }
                let name = cut_text(name);
                *bytes_left = bytes_left.saturating_sub(name.len() + 2);
                kept.insert(name, cut_within(member, bytes_left));
            }
            kept.into()
        }
        scalar => {
            spend(SCALAR_BYTES);
            scalar.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_sorts_members_at_every_depth() {
        let value = json!({ "b": [{ "d": 1, "c": "x\"y" }], "a": null });
        assert_eq!(canonical(&value), r#"{"a":null,"b":[{"c":"x\"y","d":1}]}"#);
    }
}
