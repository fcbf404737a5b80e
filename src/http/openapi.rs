//! The OpenAPI 3.1 document, assembled from the registered operations. Its schemas are those that
//! requests are checked against.
use serde_json::{Map, Value, json};

use super::health;
use super::routes::{MCP_PATH, PAGES, Page};
use crate::{
    operation::{
        Operations, Registered,
        input::keywords::{forbid_null, required},
    },
    values::{
        VERSION,
        limits::{MAX_ID_BYTES, MAX_LIST_ITEMS},
        lock_key,
    },
};

/// What holds for all routes and has no other place in such a document.
const GENERAL: &str = "A refusal is status 200 with a reason; 403 is for what may not be asked at \
all. Paths that are not listed are answered with 404, methods that are not listed with 405 and \
`Allow`, and a slash after the end of a path with 307 to the path without it. Where a parameter is \
the rest of the path, its slashes may stand as they are. Members and parameters that are not \
listed are ignored. Numbers and booleans may also be sent as text. No text may contain the \
character NUL.";

/// The failures that any request with a key may meet.
const COMMON: [(&str, &str); 7] = [
    ("401", "Unauthenticated"),
    ("403", "Forbidden"),
    ("408", "TooSlow"),
    ("413", "TooLarge"),
    ("422", "Invalid"),
    ("500", "Fault"),
    ("503", "Unavailable"),
];

/// The document over a list of operations.
pub fn document(operations: &Operations) -> Value {
    let mut paths = Map::new();
    for (path, summary, which) in PAGES {
        paths.insert(path.to_owned(), json!({ "get": page(path, summary, which) }));
    }
    for op in operations.iter() {
        for (n, route) in op.meta.routes.iter().enumerate() {
            let (method, path) = route.split_once(' ').unwrap_or_default();
            let path = path.replace("{*", "{");
            let item = paths.entry(path.clone()).or_insert_with(|| json!({}));
            item[method.to_lowercase()] = operation(op, n, method, &path);
        }
    }
    paths.insert(MCP_PATH.to_owned(), mcp());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "agent-coordinator",
            "version": VERSION,
            "summary": "Locks, work, handoffs and guardrails for AI coding agents that share a codebase.",
            "description": GENERAL,
            "license": { "name": "MIT", "identifier": "MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": { "Failure": failure(), "Invalid": invalid() },
            "headers": {
                "RequestId": {
                    "description": "The caller's own `x-request-id`, or a fresh one.",
                    "required": true,
                    "schema": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$" },
                },
            },
            "responses": {
                "BadRequest": problem("A time that is none.", "Failure"),
                "Unauthenticated": problem("No key, or an unknown one.", "Failure"),
                "Forbidden": problem("Identity, workspace or policy forbid it.", "Failure"),
                "TooSlow": problem("The body did not come in within 10 s.", "Failure"),
                "TooLarge": problem("The body is over 1 MiB.", "Failure"),
                "Invalid": problem("The input is not valid; every problem is listed.", "Invalid"),
                "Fault": problem("A fault of the service.", "Failure"),
                "Unavailable": unavailable(),
            },
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
        let mut schema = op.input.clone();
        publish(&mut schema);
        item["requestBody"] = json!({
            "required": op.fields().any(|(name, _)| required(&op.input, name)),
            "content": { "application/json": { "schema": schema, "example": op.example } },
        });
    }
    let mut headers = request_id();
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
    });
    if op.fields().any(|(_, schema)| schema["x-time"] == true) {
        item["responses"]["400"] = response("BadRequest");
    }
    for (status, name) in COMMON {
        item["responses"][status] = response(name);
    }
    item
}

/// The three ways to send a key.
fn keys() -> Value {
    json!([{ "bearer": [] }, { "coordinator_key": [] }, { "api_key": [] }])
}

fn has_no_body(method: &str) -> bool {
    ["GET", "DELETE"].contains(&method)
}

/// Says in the words of JSON Schema, as far as it has any, what the keywords of this service
/// demand.
fn publish(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            // A limit in bytes is one in characters too, though not the only one.
            if let Some(limit) = members.get("x-max-bytes").cloned() {
                members.insert("maxLength".to_owned(), limit);
            }
            // A longer spelling of a key that is short enough is taken all the same.
            if members.get("format").is_some_and(|it| it == "lock-key") {
                members.insert("maxLength".to_owned(), json!(lock_key::MAX_BYTES));
            }
            if members.get("format").is_some_and(|it| it == "task-reference") {
                let id = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
                members.insert("pattern".to_owned(), json!(format!("^(ref:[\\s\\S]+|{id})$")));
            }
            if members.contains_key("x-not-blank") {
                members.insert("pattern".to_owned(), json!("\\S"));
            }
            if members.contains_key("items") && !members.contains_key("maxItems") {
                members.insert("maxItems".to_owned(), json!(MAX_LIST_ITEMS));
            }
            // Empty text is as good as none.
            if members.remove("x-time").is_some() {
                let forms = json!([{ "format": "date-time" }, { "maxLength": 0 }]);
                members.insert("anyOf".to_owned(), forms);
            }
            members.values_mut().for_each(publish);
        }
        Value::Array(values) => values.iter_mut().for_each(publish),
        _ => {}
    }
}

/// Path and query members, and the headers that say who is calling.
fn parameters(op: &Registered, method: &str, path: &str) -> Value {
    let mut parameters = Vec::new();
    for (name, schema) in op.fields() {
        let in_path = path.contains(&format!("{{{name}}}"));
        if !in_path && !has_no_body(method) {
            continue;
        }
        let mut schema = schema.clone();
        publish(&mut schema);
        // There is no way to write it in a path or query.
        forbid_null(&mut schema);
        parameters.push(json!({
            "name": name,
            "in": if in_path { "path" } else { "query" },
            "required": in_path || required(&op.input, name),
            "description": schema["description"],
            "schema": schema,
        }));
    }
    let id = json!({ "type": "string", "maxLength": MAX_ID_BYTES });
    // Here, too, empty text is as good as none.
    let workspace = json!({ "type": "string", "pattern": "^([a-z0-9][a-z0-9._-]{0,63})?$" });
    let mut headers = vec![
        ("X-Agent-Id", id.clone()),
        ("X-Agent-Type", id.clone()),
        ("X-Session-Id", id),
        ("X-Workspace", workspace),
    ];
    if op.meta.idempotent() {
        let key = json!({ "type": "string", "pattern": "^[!-~]([ -~]{0,254}[!-~])?$" });
        headers.push(("Idempotency-Key", key));
    }
    parameters.extend(headers.into_iter().map(|(name, schema)| {
        json!({ "name": name, "in": "header", "required": false, "schema": schema })
    }));
    parameters.into()
}

fn page(path: &str, summary: &str, page: Page) -> Value {
    let id = path.trim_start_matches('/').replace('.', "_");
    let answer = |description: &str, kind: &str, schema: Value| {
        json!({
            "description": description,
            "headers": request_id(),
            "content": { kind: { "schema": schema } },
        })
    };
    let state = |status: &str, more: Value| {
        let mut properties = json!({
            "status": { "const": status },
            "version": { "type": "string" },
        });
        if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
            properties.extend(more);
        }
        let names: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).collect();
        json!({ "type": "object", "required": names, "properties": properties })
    };
    let json = "application/json";
    let mut responses = json!({ "401": response("Unauthenticated") });
    match page {
        Page::Live => responses["200"] = answer("It lives.", json, state("ok", json!({}))),
        Page::Health => {
            let schema = state("ok", json!({ "db": { "const": "connected" } }));
            responses["200"] = answer("It answers.", json, schema);
            let schema = state("degraded", json!({ "db": { "const": "unreachable" } }));
            responses["503"] = answer("It does not.", json, schema);
        }
        Page::Ready => {
            let schema = json!({
                "db": { "const": "connected" },
                "schema": { "const": "ok" },
                "write": { "const": "ok" },
                "failed": { "type": "array", "maxItems": 0 },
            });
            responses["200"] = answer("It can.", json, state("ok", schema));
            let parts = ["db", "schema", "write"];
            let schema = json!({
                "db": { "enum": ["connected", "unreachable"] },
                "schema": {
                    "enum": ["ok", health::MISMATCH, health::FUNCTIONS_DIFFER, "unknown"],
                },
                "write": { "enum": ["ok", "failed", "unknown"] },
                "failed": { "type": "array", "minItems": 1, "items": { "enum": parts } },
            });
            responses["503"] = answer("It cannot.", json, state("degraded", schema));
        }
        Page::OpenApi => {
            responses["200"] = answer("The document.", json, json!({ "type": "object" }));
        }
        Page::Docs => {
            responses["200"] = answer("The page.", "text/html", json!({ "type": "string" }));
        }
        Page::Metrics => {
            let text = json!({ "type": "string" });
            responses["200"] = answer("The counters.", "text/plain", text);
            for (status, name) in
                [("403", "Forbidden"), ("422", "Invalid"), ("500", "Fault"), ("503", "Unavailable")]
            {
                responses[status] = response(name);
            }
        }
    }
    let security = if matches!(page, Page::Metrics) { keys() } else { json!([]) };
    json!({
        "operationId": id,
        "summary": summary,
        "tags": ["service"],
        "security": security,
        "responses": responses,
    })
}

/// The MCP endpoint, whose messages its own protocol describes.
fn mcp() -> Value {
    let header = |name: &str, required: bool, schema: Value| json!({ "name": name, "in": "header", "required": required, "schema": schema });
    let text = json!({ "type": "string" });
    let id = json!({ "type": ["string", "integer"] });
    let message = json!({
        "type": "object",
        "required": ["jsonrpc", "method"],
        "properties": {
            "jsonrpc": { "const": "2.0" },
            "id": id,
            "method": { "type": "string" },
            "params": { "type": "object" },
        },
    });
    let tools = json!({
        "name": "tools",
        "in": "query",
        "required": false,
        "description": "Sets of tools, or tools, separated by commas; absent: `core`.",
        "schema": text,
    });
    let mut post = json!({
        "operationId": "use_mcp",
        "summary": "The operations as tools, for MCP clients.",
        "description": "Model Context Protocol over streamable HTTP, without state: revisions \
    2024-11-05 to 2025-11-25 with `initialize`, and 2026-07-28 without. Each tool call is authorised as \
    its own operation.",
        "tags": ["mcp"],
        "security": keys(),
        "parameters": [
            tools,
            header("Accept", true, json!({ "const": "application/json, text/event-stream" })),
            header("MCP-Protocol-Version", false, text.clone()),
            header("Mcp-Session-Id", false, text.clone()),
        ],
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": message } },
        },
        "responses": {
            "200": {
                "description": "The answer; a failed tool call included.",
                "headers": request_id(),
                "content": { "application/json": { "schema": { "type": "object" } } },
            },
            "202": { "description": "A notification was taken.", "headers": request_id() },
        },
    });
    let mut delete = json!({
        "operationId": "end_mcp",
        "summary": "End an MCP connection.",
        "description": "The session that was registered through it goes on until it is ended or \
    falls silent.",
        "tags": ["mcp"],
        "security": keys(),
        "parameters": [header("Mcp-Session-Id", true, text)],
        "responses": { "204": { "description": "It is ended.", "headers": request_id() } },
    });
    let unread = [
        ("400", "The message, or the protocol's version, is not one that is understood."),
        ("404", "There is no such method, or the connection that is named has ended."),
        ("406", "`Accept` lacks `application/json` or `text/event-stream`."),
        ("415", "The body is not `application/json`."),
    ];
    for (status, description) in unread {
        post["responses"][status] = json!({ "description": description, "headers": request_id() });
    }
    delete["responses"]["400"] = problem("No connection is named.", "Failure");
    for (status, name) in COMMON {
        post["responses"][status] = response(name);
        delete["responses"][status] = response(name);
    }
    json!({ "post": post, "delete": delete })
}

fn request_id() -> Value {
    json!({ "x-request-id": { "$ref": "#/components/headers/RequestId" } })
}

/// A response that many operations share.
fn response(name: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{name}") })
}

fn problem(description: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    json!({
        "description": description,
        "headers": request_id(),
        "content": { "application/json": { "schema": schema } },
    })
}

fn unavailable() -> Value {
    let text = "The database is unreachable or too slow; repeat the request.";
    let mut response = problem(text, "Failure");
    response["headers"]["retry-after"] = json!({
        "description": "After how many seconds.",
        "required": true,
        "schema": { "type": "integer" },
    });
    response
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
