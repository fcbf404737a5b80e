//! The MCP endpoint: all tools, all resources, and the methods of the protocol.
use agent_coordinator::{
    capabilities,
    operation::{McpResource, Meta, Registered},
};
use http::Method;
use serde_json::{Value, json};

use super::{
    Expected, Matrix,
    callers::{Caller, callers},
    expected, those_who,
};
use crate::{
    mcp::{Mcp, arguments, initialize, meta, tools},
    support::{Answer, Client},
};

/// The operation by which everything is authorized that runs no operation.
const USE_MCP: Meta = Meta::read("use_mcp");

/// Where all tools are offered.
const ALL: &str = "/mcp?tools=all";

fn mcp(client: Client) -> Client {
    Mcp::new(client).client
}

fn message(id: usize, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

fn call_of(op: &Registered, tool: &str) -> Value {
    json!({ "name": tool, "arguments": arguments(op) })
}

/// The resources with their operations.
fn resources() -> Vec<(std::sync::Arc<McpResource>, Meta)> {
    let operations = capabilities::all();
    let meta = |id: &str| operations.iter().find(|op| op.meta.id == id).map(|op| op.meta.clone());
    let each =
        operations.resources().map(|it| (it.clone(), meta(it.operation).expect("its operation")));
    each.collect()
}

/// Messages that run no operation. A notification has no id, and is none of a method that this service knows
/// if it would need an answer.
fn others() -> Vec<Value> {
    let lock = json!({ "name": "acquire_lock", "arguments": { "file_path": "free.rs" } });
    let notifications = [
        ("notifications/initialized", json!({})),
        ("notifications/cancelled", json!({ "requestId": 7 })),
        ("notifications/progress", json!({ "progressToken": 1, "progress": 1 })),
        ("notifications/roots/list_changed", json!({})),
        ("notifications/unknown", json!({})),
        ("tools/call", lock.clone()),
    ];
    let requests = [
        ("initialize", initialize("2025-06-18")),
        ("server/discover", meta()),
        ("ping", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({ "name": "no_such_tool" })),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("resources/read", json!({ "uri": "no-such://resource" })),
        ("resources/subscribe", json!({ "uri": "locks://current" })),
        ("prompts/list", json!({})),
        ("prompts/get", json!({ "name": "start_work_session" })),
        (
            "completion/complete",
            json!({ "ref": { "type": "ref/prompt", "name": "x" },
            "argument": { "name": "a", "value": "b" } }),
        ),
        ("logging/setLevel", json!({ "level": "debug" })),
        ("tasks/list", json!({})),
        ("sampling/createMessage", json!({})),
        ("no/such/method", json!({})),
    ];
    let without_id =
        |(method, params)| json!({ "jsonrpc": "2.0", "method": method, "params": params });
    let notifications = notifications.into_iter().map(without_id);
    let requests = requests.into_iter().map(|(method, params)| message(7, method, params));
    // An answer that nobody has asked for.
    let answer = json!({ "jsonrpc": "2.0", "id": 7, "result": {} });
    notifications.chain(requests).chain([answer]).collect()
}

/// The status and the detail that the answer to a message has: in the result of a tool, in the error of a
/// resource, or, where the whole request is refused, as over HTTP.
fn refusal(answer: &Answer, message: &Value) -> (u64, String) {
    let places = [&message["result"]["structuredContent"], &message["error"]["data"]];
    let found =
        places.into_iter().find_map(|it| Some((it["status_code"].as_u64()?, &it["detail"])));
    let of_request = (u64::from(answer.status.as_u16()), &answer.json["detail"]);
    let (status, detail) = found.unwrap_or(of_request);
    (status, detail.as_str().unwrap_or_default().to_owned())
}

/// What is wrong with the answer to a message, if anything. Only what the caller is not permitted counts as
/// refused: the endpoint does not know every method.
fn deviation(answer: &Answer, message: &Value, expected: &Expected) -> Option<String> {
    let (status, reason) = refusal(answer, message);
    let is_expected = match expected {
        Expected::Permitted => ![401, 403].contains(&status) && status < 500,
        Expected::Unauthenticated => (answer.status.as_u16(), &*reason) == (401, "Invalid API key"),
        Expected::Denied(denial) => status == 403 && reason == *denial,
    };
    let found = || format!("{} {:.200}, expected {expected:?}", answer.status, answer.text);
    (!is_expected).then(found)
}

/// Sends a message as each caller who is, or is not, permitted.
async fn send_as_all(
    matrix: &mut Matrix,
    are_permitted: bool,
    place: &str,
    meta: &Meta,
    message: &Value,
) {
    for (caller, expected) in those_who(are_permitted, meta, true) {
        if !caller.body.iter().all(|(name, _)| ["agent_id", "agent_type"].contains(name)) {
            continue;
        }
        let (client, id) = matrix.client(&caller);
        let answer = mcp(client).post(&path(&caller), message.clone()).await;
        if let Some(found) = deviation(&answer, &answer.json, &expected) {
            matrix.deviations.push(format!("{place}, {} ({id}): {found}", caller.name));
        }
        if let Expected::Denied(reason) = &expected {
            matrix.expect_record(id, &caller, &[meta.name], reason);
        }
    }
    if !are_permitted {
        matrix.compare(place).await;
    }
}

fn path(caller: &Caller) -> String {
    format!("{ALL}&{}", caller.query)
}

#[tokio::test]
async fn every_tool_and_resource_permits_whom_its_route_permits() {
    let mut matrix = Matrix::start().await;
    for are_permitted in [false, true] {
        for (op, tool) in tools() {
            let call = message(7, "tools/call", call_of(&op, tool));
            send_as_all(&mut matrix, are_permitted, tool, &op.meta, &call).await;
        }
        for (resource, meta) in resources() {
            let read = message(7, "resources/read", json!({ "uri": resource.uri }));
            send_as_all(&mut matrix, are_permitted, resource.uri, &meta, &read).await;
        }
    }
    matrix.finish(2000);
}

#[tokio::test]
async fn whatever_runs_no_operation_is_authorized_too() {
    let mut matrix = Matrix::start().await;
    for are_permitted in [false, true] {
        for message in others() {
            let place = message["method"].as_str().unwrap_or("an answer").to_owned();
            send_as_all(&mut matrix, are_permitted, &place, &USE_MCP, &message).await;
        }
    }
    for caller in callers().into_iter().filter(|it| it.body.is_empty()) {
        let (client, id) = matrix.client(&caller);
        let client = client.header("mcp-session-id", "no-connection");
        let answer = client.send(Method::DELETE, "/mcp", Default::default()).await;
        let expected = expected(&caller, &USE_MCP, true);
        if let Some(found) = deviation(&answer, &answer.json, &expected) {
            matrix.deviations.push(format!("DELETE /mcp, {} ({id}): {found}", caller.name));
        }
    }
    matrix.finish(800);
}

#[tokio::test]
async fn each_call_of_a_batch_is_authorized_as_its_operation() {
    let mut matrix = Matrix::start().await;
    let tools = tools();
    let calls = tools.iter().enumerate();
    let calls = calls.map(|(n, (op, tool))| message(n, "tools/call", call_of(op, tool)));
    let batch = Value::Array(calls.collect());
    for caller in callers() {
        let judged = tools.iter().map(|(op, tool)| (op, tool, expected(&caller, &op.meta, true)));
        let judged: Vec<_> = judged.collect();
        if judged.iter().any(|(_, _, expected)| *expected == Expected::Permitted) {
            continue;
        }
        let (client, id) = matrix.client(&caller);
        let answer = mcp(client).post(&path(&caller), batch.clone()).await;
        let (mut recorded, mut last) = (Vec::new(), "");
        for (n, (op, tool, expected)) in judged.iter().enumerate() {
            // Without a known key, no message is read.
            if let Some(found) =
                deviation(&answer, answer.json.get(n).unwrap_or(&Value::Null), expected)
            {
                matrix.deviations.push(format!("batch, {tool}, {} ({id}): {found}", caller.name));
            }
            if let Expected::Denied(reason) = expected {
                recorded.push(op.meta.name);
                last = reason;
            }
        }
        if !recorded.is_empty() {
            matrix.expect_record(id, &caller, &recorded, last);
        }
    }
    matrix.compare("batch").await;
    matrix.finish(20);
}

#[tokio::test]
async fn a_call_without_an_id_and_one_with_a_repeated_member_have_no_effect_for_anybody() {
    let mut matrix = Matrix::start().await;
    for (op, tool) in tools() {
        let mut call = message(7, "tools/call", call_of(&op, tool));
        let twice = call.to_string().replacen('{', r#"{"method":"ping","#, 1);
        call.as_object_mut().expect("an object").remove("id");
        let name = format!(r#""name":"{tool}""#);
        let named_twice = message(7, "tools/call", call_of(&op, tool)).to_string();
        let named_twice = named_twice.replacen(&name, &format!(r#""name":"ping",{name}"#), 1);
        for caller in callers().into_iter().filter(|it| it.headers.len() == 1) {
            let expected = expected(&caller, &USE_MCP, true);
            let (client, id) = matrix.client(&caller);
            let answer = mcp(client.clone()).post(&path(&caller), call.clone()).await;
            let found = match &expected {
                Expected::Permitted if answer.status == 202 => None,
                Expected::Permitted => Some(format!("{} {}", answer.status, answer.text)),
                _ => deviation(&answer, &answer.json, &expected),
            };
            if let Some(found) = found {
                matrix
                    .deviations
                    .push(format!("{tool} without id, {} ({id}): {found}", caller.name));
            }
            if let Expected::Denied(reason) = &expected {
                matrix.expect_record(id, &caller, &["use_mcp"], reason);
            }
            if expected == Expected::Unauthenticated {
                continue;
            }
            for text in [&twice, &named_twice] {
                let answer = mcp(client.clone()).post_text(&path(&caller), text.clone()).await;
                if answer.status != 400 || answer.json["error"]["code"] != -32600 {
                    let found = format!("{} {}", answer.status, answer.text);
                    matrix.deviations.push(format!("{tool} twice, {}: {found}", caller.name));
                }
            }
        }
        matrix.compare(tool).await;
    }
    matrix.finish(800);
}
