//! The parts of the document that many routes share, and the references to them.
use serde_json::{Value, json};

/// The failures that any request with a key can have: status, and name of the shared response.
pub(super) const COMMON_FAILURES: [(&str, &str); 8] = [
    ("401", "Unauthenticated"),
    ("403", "Forbidden"),
    ("408", "TooSlow"),
    ("413", "TooLarge"),
    ("422", "Invalid"),
    ("429", "TooMany"),
    ("500", "Fault"),
    ("503", "Unavailable"),
];

/// Returns all shared parts.
pub(super) fn all() -> Value {
    json!({
        "schemas": { "Failure": failure_schema(), "Invalid": invalid_schema() },
        "headers": {
            "RequestId": {
                "description": "The `x-request-id` of the request, or a generated one.",
                "required": true,
                "schema": { "type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$" },
            },
        },
        "responses": {
            "BadRequest": failure("A timestamp could not be parsed.", "Failure"),
            "Unauthenticated": failure("No API key, or an unknown key.", "Failure"),
            "Forbidden": failure("Denied because of identity, workspace or policy.", "Failure"),
            "TooSlow": failure("The body did not arrive within 10 s.", "Failure"),
            "TooLarge": failure("The body is larger than 1 MiB.", "Failure"),
            "Invalid": failure("The input is not valid. `detail` lists every issue.", "Invalid"),
            "TooMany": too_many(),
            "Fault": failure("A fault of the service.", "Failure"),
            "Unavailable":
                repeatable("The database is unreachable or too slow. Repeat the request."),
        },
        "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer" },
            "coordinator_key": {
                "type": "apiKey", "in": "header", "name": "X-Coordinator-API-Key",
            },
            "api_key": { "type": "apiKey", "in": "header", "name": "X-API-Key" },
        },
    })
}

/// Returns the three ways to send a key.
pub(super) fn keys() -> Vec<Value> {
    vec![json!({ "bearer": [] }), json!({ "coordinator_key": [] }), json!({ "api_key": [] })]
}

/// Returns the headers of every response.
pub(super) fn response_headers() -> Value {
    json!({ "x-request-id": { "$ref": "#/components/headers/RequestId" } })
}

/// Returns a response with a body.
pub(super) fn response(description: &str, content_type: &str, schema: Value) -> Value {
    json!({
        "description": description,
        "headers": response_headers(),
        "content": { content_type: { "schema": schema } },
    })
}

/// Returns a reference to a shared response.
pub(super) fn shared_response(name: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{name}") })
}

/// Returns a response whose body is a shared schema.
pub(super) fn failure(description: &str, schema: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    response(description, "application/json", schema)
}

/// Returns the response to a request that its client can repeat.
fn repeatable(text: &str) -> Value {
    let mut response = failure(text, "Failure");
    response["headers"]["retry-after"] = json!({
        "description": "Seconds to wait before the request is repeated.",
        "required": true,
        "schema": { "type": "integer" },
    });
    response
}

/// A quota does not say when there will be room again.
fn too_many() -> Value {
    let mut response = repeatable(
        "Too many bytes of requests and answers at once, or a quota allows no other idempotency key. \
         `detail` names the limit. Nothing was done.",
    );
    response["headers"]["retry-after"]["required"] = json!(false);
    response
}

fn failure_schema() -> Value {
    json!({
        "type": "object",
        "required": ["detail"],
        "properties": {
            "detail": { "type": "string" },
            "request_id": { "type": "string", "description": "Only with status 500 and 503." },
        },
    })
}

fn invalid_schema() -> Value {
    let location = "Path to the value: body, query, path or header, then member names and indices.";
    let input = "The offending value. For `missing`, the object that lacks the member.";
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
                        "type": {
                            "type": "string",
                            "description": "Stable name of the kind of problem, such as `missing`.",
                        },
                        "loc": {
                            "type": "array",
                            "items": { "type": ["string", "integer"] },
                            "description": location,
                        },
                        "msg": { "type": "string" },
                        "input": { "description": input },
                    },
                },
            },
        },
    })
}
