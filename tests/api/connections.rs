//! MCP connections that their clients have ended.
use serde_json::{Value, json};

use crate::support::{Answer, Client, Service};

fn connection(service: &Service, id: &str) -> Client {
    let client = service.client().header("mcp-session-id", id);
    let accept = "application/json, text/event-stream";
    client.header("accept", accept).header("content-type", "application/json")
}

async fn ask(client: &Client, method: &str, params: Value) -> Answer {
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    client.post("/mcp", message).await
}

async fn acquire(client: &Client) -> Answer {
    let lock = json!({ "name": "acquire_lock", "arguments": { "file_path": "a.rs" } });
    ask(client, "tools/call", lock).await
}

#[tokio::test]
async fn a_connection_that_has_ended_is_not_found_whatever_comes_through_it() {
    let service = Service::start().await;
    let gone = json!({ "detail": "the MCP connection has ended: initialize a new one" });
    let lock = json!({ "name": "acquire_lock", "arguments": { "file_path": "a.rs" } });
    let read = json!({ "uri": "locks://current" });
    // One that no session was registered through, and one that speaks for a session.
    for (id, is_bound) in [("c-1", false), ("c-2", true)] {
        let client = connection(&service, id);
        if is_bound {
            let call = json!({ "name": "register_session", "arguments": { "session_id": "s-1" } });
            assert_eq!(ask(&client, "tools/call", call).await.status, 200);
        }
        assert_eq!(ask(&client, "tools/list", json!({})).await.status, 200);
        for _ in 0..2 {
            assert_eq!(client.delete("/mcp").await.status, 204);
        }
        for (method, params) in [
            ("tools/list", json!({})),
            ("tools/call", lock.clone()),
            ("resources/read", read.clone()),
        ] {
            let named = client.clone().header("x-session-id", "s-1");
            for client in [&client, &named] {
                let answer = ask(client, method, params.clone()).await;
                answer.assert_is(404, gone.clone());
            }
        }
    }
    let others = connection(&service, "c-3");
    let answer = acquire(&others).await;
    assert_eq!(answer.json["result"]["structuredContent"]["success"], true, "{}", answer.text);
}

#[tokio::test]
async fn nobody_ends_the_connection_of_another_agent() {
    let service = Service::start().await;
    let client = connection(&service, "c-1");
    let stranger = client.clone().header("x-agent-id", "stranger");
    assert_eq!(stranger.delete("/mcp").await.status, 204);
    assert_eq!(acquire(&client).await.status, 200);
    assert_eq!(acquire(&stranger).await.status, 404);
}
