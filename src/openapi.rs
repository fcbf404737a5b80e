//! The OpenAPI 3.1 document, assembled from the registered operations. Its schemas are those that
//! requests are checked against.
use serde_json::{Map, Value, json};

use crate::{
    http::PAGES,
    probe,
    registry::{Operations, Registered},
};

/// The document over a list of operations.
pub fn document(operations: &Operations) -> Value {
    let mut paths = Map::new();
    for (path, summary, _) in PAGES {
        paths.insert(path.to_owned(), json!({ "get": page(path, summary) }));
    }
    for op in operations.iter() {
        for (n, route) in op.meta.routes.iter().enumerate() {
            let (method, path) = route.split_once(' ').unwrap_or_default();
            let path = path.replace("{*", "{");
            let item = paths.entry(path.clone()).or_insert_with(|| json!({}));
            item[method.to_lowercase()] = operation(op, n, method, &path);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agent-coordinator",
            "version": probe::VERSION,
            "summary": "Locks, work, handoffs and guardrails for AI coding agents that share a codebase.",
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": { "Failure": failure(), "Invalid": invalid() },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "coordinator_key": {
                    "type": "apiKey", "in": "header", "name": "X-Coordinator-API-Key",
                },
                "api_key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
            },
        },
    })
}

fn operation(op: &Registered, n: usize, method: &str, path: &str) -> Value {
    let id = match n {
        0 => op.meta.id.to_owned(),
        n => format!("{}_{}", op.meta.id, n + 1),
    };
    let mut security = keys().as_array().cloned().unwrap_or_default();
    if op.meta.open {
        security.push(json!({}));
    }
    let mut item = json!({
        "operationId": id,
        "summary": op.summary(),
        "description": op.description(),
        "tags": [path.split('/').nth(1)],
        "security": security,
        "parameters": parameters(op, method, path),
    });
    if !has_no_body(method) {
        item["requestBody"] = json!({
            "required": op.fields().any(|(name, _)| crate::input::required(&op.input, name)),
            "content": { "application/json": { "schema": op.input, "example": op.example } },
        });
    }
    let problem = |description: &str, schema: &str| {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        json!({
            "description": description,
            "content": { "application/json": { "schema": schema } },
        })
    };
    let mut headers = json!({ "x-request-id": { "schema": { "type": "string" } } });
    if op.meta.idempotent() {
        let replayed = "Present when this is the stored answer of an earlier request.";
        headers["idempotent-replayed"] =
            json!({ "description": replayed, "schema": { "type": "string", "enum": ["true"] } });
    }
    item["responses"] = json!({
        "200": {
            "description": "The answer, a refusal included.",
            "headers": headers,
            "content": { "application/json": { "schema": op.output } },
        },
        "401": problem("No key, or an unknown one.", "Failure"),
        "403": problem("Identity, workspace or policy forbid it.", "Failure"),
        "408": problem("The body did not come in within 10 s.", "Failure"),
        "413": problem("The body is over 1 MiB.", "Failure"),
        "422": problem("The input breaks its schema; every problem is listed.", "Invalid"),
        "500": problem("A fault of the service.", "Failure"),
        "503": problem("The database is unreachable or too slow; repeat the request.", "Failure"),
    });
    item
}

/// The three ways to send a key.
fn keys() -> Value {
    json!([{ "bearer": [] }, { "coordinator_key": [] }, { "api_key": [] }])
}

fn has_no_body(method: &str) -> bool {
    ["GET", "DELETE"].contains(&method)
}

/// Path and query members, and the headers that say who is calling.
fn parameters(op: &Registered, method: &str, path: &str) -> Value {
    let mut parameters = Vec::new();
    for (name, schema) in op.fields() {
        let in_path = path.contains(&format!("{{{name}}}"));
        if !in_path && !has_no_body(method) {
            continue;
        }
        parameters.push(json!({
            "name": name,
            "in": if in_path { "path" } else { "query" },
            "required": in_path || crate::input::required(&op.input, name),
            "description": schema["description"],
            "schema": schema,
        }));
    }
    let mut headers = vec!["X-Agent-Id", "X-Agent-Type", "X-Session-Id", "X-Workspace"];
    if op.meta.idempotent() {
        headers.push("Idempotency-Key");
    }
    parameters.extend(headers.into_iter().map(|name| {
        json!({ "name": name, "in": "header", "required": false, "schema": { "type": "string" } })
    }));
    parameters.into()
}

fn page(path: &str, summary: &str) -> Value {
    let id = path.trim_start_matches('/').replace('.', "_");
    let needs_key = path == "/metrics";
    let mut responses = json!({ "200": { "description": summary } });
    if ["/health", "/ready"].contains(&path) {
        responses["503"] = json!({ "description": "Not so." });
    }
    json!({
        "operationId": id,
        "summary": summary,
        "tags": ["service"],
        "security": if needs_key { keys() } else { json!([]) },
        "responses": responses,
    })
}

fn failure() -> Value {
    json!({
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": { "type": "string" },
            "request_id": { "type": "string", "description": "Only with 500 and 503." },
        },
    })
}

fn invalid() -> Value {
    json!({
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "loc", "msg", "input"],
                    "properties": {
                        "type": { "type": "string", "description": "Stable name of the problem." },
                        "loc": {
                            "type": "array",
                            "items": { "type": ["string", "integer"] },
                            "description": "body, query, path or header, then members and indices.",
                        },
                        "msg": { "type": "string" },
                        "input": { "description": "The offending value." },
                    },
                },
            },
        },
    })
}
