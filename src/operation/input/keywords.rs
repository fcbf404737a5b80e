//! The keywords of JSON Schema that the input check understands.
use serde_json::{Map, Value, json};

use crate::values::limits::MAX_LIST_ITEMS;

/// Keywords with any value.
const PLAIN: [&str; 20] = [
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
    "x-name",
    "x-closed",
    "x-time",
    "x-words",
    "additionalProperties",
    "properties",
    "items",
];

/// Known formats. Formats of numbers such as `int64` say how a number is stored, not what is valid.
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

/// Returns the keywords in a schema that the input check does not understand, with their paths.
pub(crate) fn unsupported(schema: &Value) -> Vec<String> {
    fn visit(schema: &Value, path: &str, found: &mut Vec<String>) {
        let Some(members) = schema.as_object() else {
            if *schema != json!(true) {
                found.push(format!("{path}: {schema}"));
            }
            return;
        };
        for (keyword, value) in members {
            let known = match keyword.as_str() {
                "format" => value.as_str().is_some_and(|it| FORMATS.contains(&it)),
                "anyOf" => value.as_array().is_some_and(|any| nullable_pair(any).is_some()),
                // Undeclared members are ignored everywhere, so a schema can only allow them.
                "additionalProperties" => *value != json!(false),
                keyword => PLAIN.contains(&keyword),
            };
            if !known {
                found.push(format!("{path}/{keyword}: {value}"));
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            visit(property, &format!("{path}/{name}"), found);
        }
        if let Some(items) = schema.get("items") {
            visit(items, &format!("{path}/items"), found);
        }
        if let Some(inner) = schema["anyOf"].as_array().and_then(|any| nullable_pair(any)) {
            visit(inner, path, found);
        }
    }
    let mut found = Vec::new();
    visit(schema, "", &mut found);
    found
}

/// Returns the other half of `anyOf: [x, null]`, the form of an optional enum or object.
fn nullable_pair(any: &[Value]) -> Option<&Value> {
    match any {
        [inner, null] if null["type"] == "null" => Some(inner),
        _ => None,
    }
}

/// Returns the schema itself, or the other half of `anyOf: [x, null]`.
pub(crate) fn inner_schema(schema: &Value) -> &Value {
    schema["anyOf"].as_array().and_then(|any| nullable_pair(any)).unwrap_or(schema)
}

/// Returns the type that a schema requires besides `null`. Empty when the schema accepts any value.
pub(crate) fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(only) => only,
        Value::Array(kinds) => {
            kinds.iter().filter_map(Value::as_str).find(|it| *it != "null").unwrap_or_default()
        }
        _ => "",
    }
}

/// Whether a schema accepts any object, or a list of any values. The input has such a value as its text, so
/// that it is kept as it was sent.
pub(crate) fn is_free_form(schema: &Value) -> bool {
    match kind(schema) {
        "object" => schema["properties"].as_object().is_none_or(Map::is_empty),
        "array" => schema.get("items").is_none_or(|items| *items == json!(true)),
        // Any value.
        "" => schema["enum"].is_null() && schema["anyOf"].is_null(),
        _ => false,
    }
}

/// Returns the maximum number of elements of a list.
pub(super) fn most_items(schema: &Value) -> usize {
    let most = schema["maxItems"].as_u64().and_then(|most| usize::try_from(most).ok());
    most.unwrap_or(MAX_LIST_ITEMS)
}

/// Whether a schema accepts values of a type.
pub(super) fn accepts(schema: &Value, kind: &str) -> bool {
    match &schema["type"] {
        Value::String(only) => only == kind,
        Value::Array(kinds) => kinds.iter().any(|it| it == kind),
        _ => match schema["anyOf"].as_array() {
            Some(any) => any.iter().any(|it| accepts(it, kind)),
            None => true,
        },
    }
}

/// Removes `null` from the values that a schema accepts.
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
