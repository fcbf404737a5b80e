//! The MCP endpoint in the document. Its messages are specified by the Model Context Protocol.
use serde_json::{Value, json};

use super::components::{
    COMMON_FAILURES, failure, keys, response, response_headers, shared_response,
};

/// Returns the description of the endpoint.
pub(super) fn path_item() -> Value {
    let (mut post, mut delete) = (post(), delete());
    for (status, name) in COMMON_FAILURES {
        post["responses"][status] = shared_response(name);
        delete["responses"][status] = shared_response(name);
    }
    json!({ "post": post, "delete": delete })
}

fn post() -> Value {
    let text = json!({ "type": "string" });
    let without_body =
        |description: &str| json!({ "description": description, "headers": response_headers() });
    json!({
        "operationId": "use_mcp",
        "summary": "The operations as tools, for MCP clients.",
        "description": "Model Context Protocol over streamable HTTP, without state. Supports the revisions \
            2024-11-05 to 2025-11-25 with `initialize`, and 2026-07-28 without it. Each tool call is \
            authorized as its operation.",
        "tags": ["mcp"],
        "security": keys(),
        "parameters": [
            {
                "name": "tools",
                "in": "query",
                "required": false,
                "description": "Tools and tool sets to offer, separated by commas. Default: `core`.",
                "schema": text,
            },
            header("Accept", true, json!({ "const": "application/json, text/event-stream" })),
            header("MCP-Protocol-Version", false, text.clone()),
            header("Mcp-Session-Id", false, text),
        ],
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": message_schema() } },
        },
        "responses": {
            "200": response(
                "The answer. A failed tool call has this status too.",
                "application/json",
                json!({ "type": "object" }),
            ),
            "202": without_body("The notification was accepted."),
            "400": without_body("The message is not valid, or the protocol revision is not supported."),
            "404": without_body("The method is unknown, or the named MCP connection has ended."),
            "406": without_body("`Accept` includes no form of JSON."),
            "415": without_body("The body is not `application/json`."),
        },
    })
}

fn delete() -> Value {
    json!({
        "operationId": "end_mcp",
        "summary": "End an MCP connection.",
        "description": "The session that was registered through the connection stays live until it is ended \
            or times out.",
        "tags": ["mcp"],
        "security": keys(),
        "parameters": [header("Mcp-Session-Id", true, json!({ "type": "string" }))],
        "responses": {
            "204": { "description": "The connection has ended.", "headers": response_headers() },
            "400": failure("The request does not name an MCP connection.", "Failure"),
            "429": failure("A quota allows no other MCP connection. `detail` names it.", "Failure"),
        },
    })
}

fn message_schema() -> Value {
    json!({
        "type": "object",
        "required": ["jsonrpc", "method"],
        "properties": {
            "jsonrpc": { "const": "2.0" },
            "id": { "type": ["string", "integer"] },
            "method": { "type": "string" },
            "params": { "type": "object" },
        },
    })
}

fn header(name: &str, required: bool, schema: Value) -> Value {
    json!({ "name": name, "in": "header", "required": required, "schema": schema })
}
