//! The OpenAPI 3.1 document, assembled from the registered operations. Its schemas are those that requests
//! are checked against.
//!
//! By hand, because crates such as utoipa and aide generate the document from handlers and types, which
//! would be a second description of each operation, and `openapiv3` does not support version 3.1.
mod components;
mod mcp;
mod operations;
mod pages;

use serde_json::{Map, Value, json};

use super::routes::{MCP_PATH, PAGES};
use crate::{operation::Operations, values::VERSION};

/// What holds for all routes. An OpenAPI document has no other place for it.
const GENERAL: &str = "A business refusal has status 200 and a `reason`. Status 403 is a denial: the caller \
has no permission for the request. Unlisted paths are answered with 404, unlisted methods with 405 and \
`Allow`, and a path with a trailing slash with 307 to the path without it. Slashes in a parameter that is \
the rest of the path can be sent as they are, without percent-encoding. Unlisted members and parameters \
are ignored. Numbers and booleans can also be sent as text. Texts must not contain the NUL character.";

/// Returns the document over a list of operations.
pub fn document(operations: &Operations) -> Value {
    let mut paths = Map::new();
    for (path, summary, page) in PAGES {
        paths.insert(path.to_owned(), json!({ "get": pages::page_item(path, summary, page) }));
    }
    for operation in operations.iter() {
        for (index, route) in operation.meta.routes.iter().enumerate() {
            let (method, path) = route.split_once(' ').unwrap_or_default();
            let path = path.replace("{*", "{");
            let item = paths.entry(path.clone()).or_insert_with(|| json!({}));
            item[method.to_lowercase()] =
                operations::operation_item(operation, index, method, &path);
        }
    }
    paths.insert(MCP_PATH.to_owned(), mcp::path_item());
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
        "components": components::all(),
    })
}
