//! Names that nobody has filled in, and clients without a name of their own.
use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    laws::{Asked, permitted, request, routes},
    mcp::{Mcp, meta},
    processes::Running,
    support::{CODEX, Client, FREE, Service, variables, with},
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

/// Whether a member of an input names an agent, an agent type or a session.
fn names_a_caller(member: &str, schema: &Value) -> bool {
    let is_text = schema["type"] == "string" || schema["type"] == json!(["string", "null"]);
    let is_name = member.contains("agent")
        || member.contains("session")
        || member.ends_with("_by")
        || member.ends_with("_from");
    is_text && is_name
}

#[tokio::test]
async fn a_member_that_was_not_filled_in_is_refused_with_words() {
    let service = Service::start().await;
    let before = service.contents().await;
    let mut members = BTreeSet::new();
    for (op, route) in routes() {
        let client = permitted(&service, &op);
        let fields = op.fields().filter(|(member, schema)| names_a_caller(member, schema));
        for (member, _) in fields {
            members.insert(member.clone());
            for text in UNFILLED {
                let input = with(op.example.clone(), json!({ member: text }));
                let Asked { method, path, body } = request(route, &input);
                let place = match method {
                    Method::GET | Method::DELETE => "query",
                    _ => "body",
                };
                let issues = client.send(method, &path, body).await.issues();
                let expected = ("value_error".to_owned(), json!([place, member]));
                assert_eq!(issues, [expected], "{route} {member} {text}");
            }
        }
    }
    let known =
        ["agent_id", "agent_name", "agent_type", "claimed_by", "delegated_from", "locked_by"];
    let more = ["session_id", "submitted_by", "target_agent_id"];
    assert!(known.iter().chain(&more).all(|it| members.contains(*it)), "{members:?}");
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
        let mcp = Mcp::new(client).header("mcp-protocol-version", "2026-07-28");
        let discovered =
            mcp.header("mcp-method", "server/discover").ask("server/discover", meta()).await;
        assert_eq!(discovered["instructions"], text, "without a connection");
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
