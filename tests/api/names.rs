//! Names that nobody has filled in, and clients without a name of their own.
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    processes::Running,
    support::{BOSS, CODEX, Client, FREE, Service, variables},
};

/// What a configuration sends when its variable was not filled in.
const UNFILLED: [&str; 8] = [
    "${AGENT}",
    "$AGENT",
    "{{agent}}",
    "<agent>",
    "%AGENT%",
    "undefined",
    "claude-${USER}",
    "[object Object]",
];

#[tokio::test]
async fn a_header_that_was_not_filled_in_is_refused_with_words() {
    let service = Service::start().await;
    let before = service.contents().await;
    for name in ["x-agent-id", "x-agent-type", "x-session-id", "x-workspace", "idempotency-key"] {
        for text in UNFILLED {
            let client = service.client().header(name, text);
            let body = json!({ "file_path": "k", "agent_id": "a", "agent_type": "t" });
            let answer = client.post("/locks/acquire", body).await;
            let issues = answer.issues();
            assert_eq!(issues[0], ("value_error".to_owned(), json!(["header", name])), "{text}");
            let words = answer.json["detail"][0]["msg"].as_str().expect("words");
            assert!(words.contains("a variable that was not filled in"), "{words}");
        }
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn a_member_that_was_not_filled_in_is_refused_with_words() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let before = service.contents().await;
    let task = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    for text in UNFILLED {
        for (client, route, body, member) in [
            (&client, "/locks/acquire", json!({ "file_path": "k", "agent_type": "t" }), "agent_id"),
            (&client, "/locks/acquire", json!({ "file_path": "k", "agent_id": "a" }), "agent_type"),
            (&client, "/work/claim", json!({ "agent_id": "a", "agent_type": "t" }), "session_id"),
            (
                &client,
                "/work/submit",
                json!({ "task_type": "t", "task_description": "d" }),
                "agent_id",
            ),
            (&client, "/work/complete", json!({ "task_id": task, "success": true }), "agent_id"),
            (&client, "/discovery/register", json!({}), "session_id"),
            (&client, "/discovery/register", json!({}), "delegated_from"),
            (&client, "/handoffs/read", json!({}), "agent_name"),
            (&client, "/memory/store", json!({ "event_type": "e", "summary": "s" }), "agent_id"),
            (&boss, "/profiles/assign", json!({ "suspended": true }), "target_agent_id"),
        ] {
            let mut body = body;
            body[member] = json!(text);
            let issues = client.post(route, body).await.issues();
            let expected = ("value_error".to_owned(), json!(["body", member]));
            assert_eq!(issues, [expected], "{route} {text}");
        }
    }
    let listed = client.get("/locks?locked_by=%24%7BAGENT%7D").await.issues();
    assert_eq!(listed, [("value_error".to_owned(), json!(["query", "locked_by"]))]);
    assert_eq!(service.contents().await, before);
}

fn over_mcp(client: &Client) -> Client {
    let accept = "application/json, text/event-stream";
    client.clone().header("accept", accept).header("content-type", "application/json")
}

async fn call(client: &Client, tool: &str, arguments: Value) -> Value {
    let client = over_mcp(client);
    let params = json!({ "name": tool, "arguments": arguments });
    let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    client.post("/mcp?tools=all", message).await.json["result"].clone()
}

#[tokio::test]
async fn a_tool_call_of_an_agent_that_was_not_filled_in_is_refused() {
    let service = Service::start().await;
    let unfilled = service.client().header("x-agent-id", "${AGENT}");
    let refused = call(&unfilled, "acquire_lock", json!({ "file_path": "k" })).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert!(refused.to_string().contains("not filled in"), "{refused}");
    let named = service.client().header("x-agent-id", "a");
    let refused = call(&named, "register_session", json!({ "session_id": "$SESSION" })).await;
    assert_eq!(refused["isError"], true, "{refused}");
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
    assert_eq!(service.scalar::<i64>("select count(*) from agent_session").await, 0);
}

#[tokio::test]
async fn clients_without_a_name_are_told_that_they_are_one_agent() {
    let service = Service::start().await;
    let unnamed = service.client();
    let warning = unnamed.get("/profiles/me").await.json["warning"].clone();
    let text = warning.as_str().expect("a warning");
    assert!(text.contains("`cloud-agent`") && text.contains("X-Agent-Id"), "{text}");
    for named in [unnamed.clone().header("x-agent-id", "a"), service.client_with(CODEX)] {
        assert_eq!(named.get("/profiles/me").await.json.get("warning"), None);
    }

    let first_answer = async |client: &Client| {
        let client = over_mcp(client);
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "c", "version": "1" },
        });
        let message =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
        let answer = client.post("/mcp", message).await;
        let text = answer.json["result"]["instructions"].as_str().expect("instructions");
        assert!(text.contains("Call acquire_lock before"), "{text}");
        text.to_owned()
    };
    assert!(first_answer(&unnamed).await.contains(text));
    assert!(!first_answer(&service.client_with(CODEX)).await.contains("cloud-agent"));
    let named = unnamed.clone().header("x-agent-id", "a");
    assert!(!first_answer(&named).await.contains("cloud-agent"));
}

/// The answer to a request with this header instead of the usual key.
async fn sent(port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let text =
        format!("GET /locks HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn the_log_tells_of_keys_and_names_that_were_not_filled_in() {
    let service = Service::start().await;
    let mut running = Running::start(variables(&service.url)).await;
    let port = running.port;
    let heads = [
        "x-api-key: ${COORDINATION_API_KEY}",
        "authorization: Bearer $COORDINATION_API_KEY",
        "x-coordinator-api-key: <key>",
    ];
    for head in heads {
        let answer = sent(port, head).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.ends_with(r#"{"detail":"Invalid API key"}"#), "{answer}");
        let line = running.wait_for_line("refused an API key").await;
        assert!(line.contains("not filled in") && line.contains("sha256:"), "{line}");
    }
    assert!(sent(port, "x-api-key: s3cret-word").await.starts_with("HTTP/1.1 401 "));
    let line = running.wait_for_line("refused an").await;
    assert!(line.contains("refused an unknown API key"), "{line}");
    // A client without a name, twice: one warning.
    for _ in 0..2 {
        let (status, _, _) = running.request("GET", "/locks", "").await;
        assert_eq!(status, 200);
    }
    running.wait_for_line("names none: all such clients are one agent").await;
    running.signal("TERM");
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("all such clients are one agent").count(), 1, "{log}");
    for secret in ["COORDINATION_API_KEY}", "$COORDINATION_API_KEY", "<key>", "s3cret-word", FREE] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn an_unbound_key_cannot_act_under_a_name_that_looks_like_a_bound_agent() {
    let service = Service::start().await;
    let client = service.client();
    for name in ["codex-1 ", " codex-1", "codex-1\u{200b}", "\u{441}odex-1", "\u{ff43}odex-1"] {
        let body = json!({ "file_path": "k", "agent_id": name, "agent_type": "codex" });
        let answer = client.post("/locks/acquire", body).await;
        assert_eq!(answer.status, 403, "{name:?}: {}", answer.text);
        assert!(answer.text.contains("looks like the name of an agent"), "{}", answer.text);
    }
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
    let header = client.clone().header("x-agent-id", "codex-l").get("/profiles/me").await;
    assert_eq!(header.status, 403, "{}", header.text);
    for name in ["codex-2", "Codex-1", "\u{4f60}\u{597d}"] {
        assert_eq!(client.acquire(name, name, json!({})).await["success"], true, "{name}");
    }
}
