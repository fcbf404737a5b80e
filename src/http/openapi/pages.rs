//! The pages in the document.
use serde_json::{Map, Value, json};

use super::components::{keys, response, shared_response};
use crate::{
    database,
    http::{health, routes::Page},
};

const JSON: &str = "application/json";

/// Returns the description of a page.
pub(super) fn page_item(path: &str, summary: &str, page: Page) -> Value {
    let mut responses = json!({ "401": shared_response("Unauthenticated") });
    for (status, response) in answers(page) {
        responses[status] = response;
    }
    let security = if matches!(page, Page::Metrics) { keys() } else { vec![] };
    json!({
        "operationId": path.trim_start_matches('/').replace('.', "_"),
        "summary": summary,
        "tags": ["service"],
        "security": security,
        "responses": responses,
    })
}

/// Returns the responses of a page by status, without the one to an unknown key.
fn answers(page: Page) -> Vec<(&'static str, Value)> {
    match page {
        Page::Live => {
            vec![("200", response("The process is running.", JSON, state("ok", json!({}))))]
        }
        Page::Health => {
            let connected = state("ok", json!({ "db": { "const": "connected" } }));
            let unreachable = state("degraded", json!({ "db": { "const": "unreachable" } }));
            vec![
                ("200", response("The database answers.", JSON, connected)),
                ("503", response("The database is unreachable.", JSON, unreachable)),
            ]
        }
        Page::Ready => ready(),
        Page::OpenApi => {
            vec![("200", response("The OpenAPI document.", JSON, json!({ "type": "object" })))]
        }
        Page::Docs => {
            let text = json!({ "type": "string" });
            vec![("200", response("The documentation, in HTML.", "text/html", text))]
        }
        Page::Metrics => {
            let text = json!({ "type": "string" });
            let description = "The metrics, in the text format of Prometheus.";
            vec![
                ("200", response(description, "text/plain", text)),
                ("403", shared_response("Forbidden")),
                ("422", shared_response("Invalid")),
                ("500", shared_response("Fault")),
                ("503", shared_response("Unavailable")),
            ]
        }
    }
}

fn ready() -> Vec<(&'static str, Value)> {
    let ready = json!({
        "db": { "const": "connected" },
        "schema": { "const": "ok" },
        "write": { "const": "ok" },
        "failed": { "type": "array", "maxItems": 0 },
    });
    let checks = ["db", "schema", "write"];
    let not_ready = json!({
        "db": { "enum": ["connected", "unreachable", database::REMEDY] },
        "schema": { "enum": ["ok", health::MISMATCH, health::FUNCTIONS_DIFFER, "unknown"] },
        "write": { "enum": ["ok", "failed", "unknown"] },
        "failed": { "type": "array", "minItems": 1, "items": { "enum": checks } },
    });
    let description = "Not ready: `failed` lists the checks that failed.";
    vec![
        ("200", response("The service can do its work.", JSON, state("ok", ready))),
        ("503", response(description, JSON, state("degraded", not_ready))),
    ]
}

/// Returns the schema of an answer with `status`, `version` and further members.
fn state(status: &str, more: Value) -> Value {
    let mut properties = json!({
        "status": { "const": status },
        "version": { "type": "string" },
    });
    if let (Some(properties), Value::Object(more)) = (properties.as_object_mut(), more) {
        properties.extend(more);
    }
    let names: Vec<_> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({ "type": "object", "required": names, "properties": properties })
}
