//! Requests that clients send in other forms than the library of the endpoint expects, and refusals that
//! say what to do.
use serde_json::{Value, json};

use super::{Mcp, initialize, meta};
use crate::support::Service;

#[tokio::test]
async fn a_client_that_takes_json_is_answered_whatever_else_it_accepts() {
    let service = Service::start().await;
    let list = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list" });
    for accepted in [
        "",
        "*/*",
        "application/json",
        "application/*",
        "application/json;q=0.9, text/html",
        "text/event-stream, */*;q=0.1",
        "Application/JSON",
    ] {
        let client = service.client().header("accept", accepted);
        let answer = client.post("/mcp", list.clone()).await;
        assert_eq!(answer.status, 200, "{accepted}: {}", answer.text);
        assert_eq!(answer.headers["content-type"], "application/json", "{accepted}");
        assert_eq!(answer.json["id"], 7, "{accepted}");
    }
    let none = service.client().post("/mcp", list.clone()).await;
    assert_eq!(none.status, 200, "{}", none.text);
    let opened = service.client().header("accept", "*/*");
    let call = json!({ "jsonrpc": "2.0", "id": 7, "method": "initialize",
        "params": initialize("2025-11-25") });
    assert_eq!(opened.post("/mcp", call).await.json["result"]["protocolVersion"], "2025-11-25");
    for other in ["text/html", "text/event-stream", "image/*"] {
        let answer = service.client().header("accept", other).post("/mcp", list.clone()).await;
        assert_eq!(answer.status, 406, "{other}: {}", answer.text);
        let text = answer.json["detail"].as_str().expect("text");
        assert!(text.starts_with("Accept: expected application/json, alone or"), "{text}");
        assert!(!text.contains("event-stream"), "{text}");
    }
}

#[tokio::test]
async fn initialize_says_which_parameter_is_missing() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "initialize" });
    let answer = mcp.client.post("/mcp", message).await;
    assert_eq!(answer.json["error"]["code"], -32602, "{}", answer.text);
    assert_eq!(answer.json["id"], 7);
    let (_, told) = mcp.failure("initialize", json!({})).await;
    assert!(told.contains("`protocolVersion` must be text"), "{told}");
    for (name, value) in [
        ("protocolVersion", json!(5)),
        ("capabilities", json!(null)),
        ("clientInfo", json!({})),
        ("clientInfo", json!({ "name": "x" })),
    ] {
        let mut params = initialize("2025-11-25");
        params[name] = value;
        let (code, told) = mcp.failure("initialize", params).await;
        assert_eq!(code, -32602);
        assert!(told.contains(&format!("`{name}` must be")), "{told}");
    }
    // Other methods take null for no parameters.
    let list = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": null });
    assert!(mcp.client.post("/mcp", list).await.json["result"]["tools"].is_array());
}

#[tokio::test]
async fn an_unknown_revision_is_refused_with_the_known_ones() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).header("mcp-protocol-version", "1999-01-01");
    let answer = mcp.send("tools/list", json!({})).await;
    assert_eq!(answer.status, 400);
    let told = answer.json["detail"].as_str().expect("text");
    for known in ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"] {
        assert!(told.contains(known), "{told}");
    }
    // A revision within the message.
    let mut params = meta();
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2031-01-01");
    let future = Mcp::new(service.client())
        .header("mcp-protocol-version", "2031-01-01")
        .header("mcp-method", "tools/list");
    let answer = future.send("tools/list", params).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains("2025-11-25"), "{}", answer.text);
}

#[tokio::test]
async fn a_request_without_a_key_is_told_the_scheme() {
    let service = Service::start().await;
    for answer in [
        service.anonymous().post("/mcp", json!({})).await,
        service.client_with("wrong").get("/locks").await,
    ] {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(answer.json, json!({ "detail": "Invalid API key" }));
    }
}

#[tokio::test]
async fn an_unknown_tool_is_refused_with_the_set_or_the_name_that_was_meant() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    let failure = async |name: &str| {
        let (code, told) = mcp.failure("tools/call", json!({ "name": name })).await;
        assert_eq!(code, -32602);
        told
    };
    let told = failure("cancel_work").await;
    assert!(told.contains("in the set `work`; connect to /mcp?tools=core,work"), "{told}");
    for (name, meant) in [
        ("acquireLock", "acquire_lock"),
        ("lock_acquire", "acquire_lock"),
        ("getwork", "get_work"),
        ("check_lock", "check_locks"),
    ] {
        let told = failure(name).await;
        assert!(told.ends_with(&format!("did you mean `{meant}`?")), "{told}");
    }
    let told = failure("CancelWork").await;
    assert!(told.contains("did you mean `cancel_work`?") && told.contains("/mcp?tools="), "{told}");
    assert!(failure("xyzzy").await.contains("call tools/list"));
}

#[tokio::test]
async fn a_lifetime_out_of_range_is_refused_with_the_range() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    let lock = json!({ "file_path": "a.rs", "ttl_minutes": 481 });
    let refused = mcp.tool("acquire_lock", lock).await;
    assert_eq!(refused["reason"], "ttl_out_of_range");
    assert_eq!(refused["expected"], "ttl_minutes from 1 to 480, or 0 for the default");
    let locked = mcp.tool("acquire_lock", json!({ "file_path": "a.rs" })).await;
    assert_eq!(locked.get("expected"), None::<&Value>);
}

#[tokio::test]
async fn the_id_of_a_request_is_an_integer_or_a_short_text() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).header("mcp-session-id", "c-1");
    let lock = json!({ "name": "acquire_lock",
        "arguments": { "file_path": "a.rs", "wait_seconds": 5 } });
    let call =
        |id: &Value| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": lock });
    let cancellation = |id: &Value| json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
    for id in [json!(7), json!(-7), json!("x".repeat(256)), json!("\u{0}".repeat(256))] {
        let answer = mcp.client.post("/mcp", call(&id)).await;
        assert_eq!((answer.status.as_u16(), &answer.json["id"]), (200, &id), "{}", answer.text);
        assert_eq!(mcp.client.post("/mcp", cancellation(&id)).await.status, 202);
    }
    let long = (0..700).map(|n| format!("{n:09}")).collect::<String>();
    for id in [json!(long), json!(1.5), json!({ "id": 7 }), json!([7]), json!(true)] {
        for (message, name) in [(call(&id), "`id`"), (cancellation(&id), "`requestId`")] {
            let answer = mcp.client.post("/mcp", message).await;
            assert_eq!(answer.status, 400, "{:.200}", answer.text);
            let error = &answer.json["error"];
            assert_eq!(error["code"], -32600, "{:.200}", answer.text);
            let told = error["message"].as_str().expect("text");
            assert!(told.contains(name) && told.contains("text of at most 256 bytes"), "{told}");
        }
    }
}
