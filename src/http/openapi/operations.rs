//! The operations in the document.
use lock_key::MAX_BYTES;
use serde_json::{Value, json};

use super::components::{COMMON_FAILURES, keys, response_headers, shared_response};
use crate::{
    operation::{
        Registered,
        input::keywords::{forbid_null, required},
    },
    values::limits::{MAX_ID_BYTES, MAX_LIST_ITEMS},
};

/// Returns the description of an operation at one of its routes, the one with this index.
pub(super) fn operation_item(
    operation: &Registered,
    index: usize,
    method: &str,
    path: &str,
) -> Value {
    let id = match index {
        0 => operation.meta.id.to_owned(),
        index => format!("{}_{}", operation.meta.id, index + 1),
    };
    let mut security = keys();
    if operation.meta.open {
        security.push(json!({}));
    }
    let mut item = json!({
        "operationId": id,
        "summary": operation.summary(),
        "description": operation.description(),
        "tags": [path.split('/').nth(1)],
        "security": security,
        "parameters": parameters(operation, method, path),
    });
    if has_body(method) {
        let mut schema = operation.input.clone();
        add_standard_keywords(&mut schema);
        let is_required = operation.fields().any(|(name, _)| required(&operation.input, name));
        item["requestBody"] = json!({
            "required": is_required,
            "content": { "application/json": { "schema": schema, "example": operation.example } },
        });
    }
    item["responses"] = responses(operation);
    item
}

fn has_body(method: &str) -> bool {
    !["GET", "DELETE"].contains(&method)
}

fn responses(operation: &Registered) -> Value {
    let mut headers = response_headers();
    if operation.meta.idempotent() {
        let replayed = "Present when the answer is the stored answer of an earlier request.";
        headers["idempotent-replayed"] =
            json!({ "description": replayed, "schema": { "type": "string", "enum": ["true"] } });
    }
    let mut responses = json!({
        "200": {
            "description": "The answer. A refusal has this status too.",
            "headers": headers,
            "content": { "application/json": { "schema": operation.output } },
        },
    });
    if operation.fields().any(|(_, schema)| schema["x-time"] == true) {
        responses["400"] = shared_response("BadRequest");
    }
    for (status, name) in COMMON_FAILURES {
        responses[status] = shared_response(name);
    }
    responses
}

/// Returns the parameters of path and query, and the headers that name the caller.
fn parameters(operation: &Registered, method: &str, path: &str) -> Vec<Value> {
    let mut parameters = Vec::new();
    for (name, schema) in operation.fields() {
        let in_path = path.contains(&format!("{{{name}}}"));
        if !in_path && has_body(method) {
            continue;
        }
        let mut schema = schema.clone();
        add_standard_keywords(&mut schema);
        // A path or a query cannot express null.
        forbid_null(&mut schema);
        parameters.push(json!({
            "name": name,
            "in": if in_path { "path" } else { "query" },
            "required": in_path || required(&operation.input, name),
            "description": schema["description"],
            "schema": schema,
        }));
    }
    let id = json!({ "type": "string", "maxLength": MAX_ID_BYTES });
    // Empty text counts as absent.
    let workspace = json!({ "type": "string", "pattern": "^([a-z0-9][a-z0-9._-]{0,63})?$" });
    let mut headers = vec![
        ("X-Agent-Id", id.clone()),
        ("X-Agent-Type", id.clone()),
        ("X-Session-Id", id),
        ("X-Workspace", workspace),
    ];
    if operation.meta.idempotent() {
        let key = json!({ "type": "string", "pattern": "^[!-~]([ -~]{0,254}[!-~])?$" });
        headers.push(("Idempotency-Key", key));
    }
    parameters.extend(headers.into_iter().map(|(name, schema)| {
        json!({ "name": name, "in": "header", "required": false, "schema": schema })
    }));
    parameters
}

/// Adds keywords of JSON Schema that express the service's own keywords, as far as they can.
fn add_standard_keywords(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            let has_format = |format: &str| members.get("format").is_some_and(|it| it == format);
            let (is_lock_key, is_reference) =
                (has_format("lock-key"), has_format("task-reference"));
            // A limit in bytes implies the same limit in characters.
            if let Some(limit) = members.get("x-max-bytes").cloned() {
                members.insert("maxLength".to_owned(), limit);
            }
            // The limit applies to the canonical key. The service also accepts longer spellings of it.
            if is_lock_key {
                members.insert("maxLength".to_owned(), json!(MAX_BYTES));
            }
            if is_reference {
                let id = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
                members.insert("pattern".to_owned(), json!(format!("^(ref:[\\s\\S]+|{id})$")));
            }
            if members.contains_key("x-not-blank") {
                members.insert("pattern".to_owned(), json!("\\S"));
            }
            // An object whose operation refuses other members.
            if members.remove("x-closed").is_some() {
                members.insert("additionalProperties".to_owned(), json!(false));
            }
            if members.contains_key("items") && !members.contains_key("maxItems") {
                members.insert("maxItems".to_owned(), json!(MAX_LIST_ITEMS));
            }
            // Empty text counts as absent.
            if members.remove("x-time").is_some() {
                let forms = json!([{ "format": "date-time" }, { "maxLength": 0 }]);
                members.insert("anyOf".to_owned(), forms);
            }
            members.values_mut().for_each(add_standard_keywords);
        }
        Value::Array(values) => values.iter_mut().for_each(add_standard_keywords),
        _ => {}
    }
}
