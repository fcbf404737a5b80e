//! No line of the log shows what a request sent or what it was answered, at any level of any target.
use agent_coordinator::{capabilities, operation::Registered};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::{
    laws::{self, Asked},
    mcp::{self, Mcp},
    processes::Running,
    support::{BOSS, CODEX, Client, FREE, Service, database, with_more},
    transport::Transport,
};

/// Part of each text that is sent.
const MARK: &str = "zq7mk";

/// The fencing token of every new lock.
const FENCING_TOKEN: &str = "734000000001";

/// Members whose values the log shows by design: `docs/operating.md`.
const SHOWN: [&str; 1] = ["agent_id"];

/// Returns a value with a mark at the end of each of its texts.
fn marked(value: &Value) -> Value {
    match value {
        Value::String(text) => format!("{text} {MARK}").into(),
        Value::Array(items) => items.iter().map(marked).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), marked(value)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

/// The example of an operation with marked texts: in each member alone, and in all of them. A mark makes some
/// inputs invalid, and the other members must reach the operation.
fn inputs(op: &Registered, kept: impl Fn(&str) -> bool) -> Vec<Value> {
    let example = op.example.as_object().expect("an object");
    let names: Vec<_> = example.keys().filter(|name| !kept(name)).collect();
    let with_marks = |names: &[&String]| {
        let members = example.iter().map(|(name, value)| {
            let value = if names.contains(&name) { marked(value) } else { value.clone() };
            (name.clone(), value)
        });
        Value::Object(members.collect())
    };
    let mut inputs = vec![Value::Object(example.clone()), with_marks(&names)];
    inputs.extend(names.iter().map(|name| with_marks(&[*name])));
    inputs
}

/// Adds the claim tokens of an answer.
fn collect_tokens(answer: &Value, tokens: &mut Vec<String>) {
    match answer {
        Value::Object(members) => {
            tokens.extend(members.get("claim_token").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| collect_tokens(value, tokens));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_tokens(value, tokens)),
        _ => {}
    }
}

/// Calls every route and every tool, and returns the claim tokens that were answered.
async fn call_everything(service: &Service) -> Vec<String> {
    let mut tokens = Vec::new();
    for op in capabilities::all().iter() {
        for route in op.meta.routes {
            // The log shows the path of a request.
            let in_path = |name: &str| {
                route.contains(&format!("{{{name}}}")) || route.contains(&format!("{{*{name}}}"))
            };
            for input in inputs(op, |name| SHOWN.contains(&name) || in_path(name)) {
                let Asked { method, path, body } = laws::request(route, &input);
                let answer = client(service, op).send(method, &path, body).await;
                collect_tokens(&answer.json, &mut tokens);
            }
        }
    }
    for (op, name) in mcp::tools() {
        let mcp = mcp::permitted(service, &op);
        for input in inputs(&op, |_| false) {
            let arguments = mcp::arguments_of(&op, &input);
            let answer =
                mcp.send("tools/call", json!({ "name": name, "arguments": arguments })).await;
            collect_tokens(&answer.json["result"]["structuredContent"], &mut tokens);
        }
    }
    tokens
}

fn client(service: &Service, op: &Registered) -> Client {
    laws::permitted(service, op)
        .header("idempotency-key", &format!("{MARK}-{}", uuid::Uuid::new_v4()))
        .header("x-session-id", &format!("session-{MARK}"))
}

/// Sends what no operation understands.
async fn send_faults(service: &Service) {
    for (path, body) in [
        ("/locks/acquire", format!("{{\"file_path\": \"{MARK}")),
        ("/locks/acquire", format!("[\"{MARK}\"]")),
        ("/mcp", format!("{{\"jsonrpc\": \"2.0\", \"id\": 1, \"method\": \"{MARK}\"}}")),
        ("/mcp", format!("{{\"{MARK}")),
        ("/mcp", format!("[{{\"jsonrpc\": \"2.0\", \"method\": \"notifications/{MARK}\"}}]")),
        ("/mcp", json!({ "jsonrpc": "2.0", "id": MARK, "result": { MARK: MARK } }).to_string()),
    ] {
        let answer = Mcp::new(service.client()).client.post_text(path, body).await;
        assert!(!answer.status.is_server_error(), "{}", answer.text);
    }
    let mcp = Mcp::new(service.client().header("mcp-session-id", MARK)).offered(MARK);
    mcp.send("tools/call", json!({ "name": MARK, "arguments": { MARK: MARK } })).await;
    mcp.send("initialize", mcp::initialize(MARK)).await;
    let mcp = Mcp::new(service.client());
    mcp.send("resources/read", json!({ "uri": format!("locks://{MARK}") })).await;
    mcp.send("prompts/get", json!({ "name": MARK, "arguments": { MARK: MARK } })).await;
    let key = format!("wrong-{MARK}");
    for client in [
        service.client_with(&key),
        service.anonymous().header("authorization", &format!("Bearer {key}")),
        service
            .client()
            .header("cookie", MARK)
            .header("origin", &format!("https://{MARK}.example")),
    ] {
        client.send(Method::GET, &format!("/locks?token={MARK}"), Body::empty()).await;
        client.post("/mcp", json!({})).await;
    }
}

#[tokio::test]
async fn no_level_of_the_log_shows_what_is_sent_or_answered() {
    let database = database().await;
    let more =
        [("RUST_LOG", "trace"), ("API_ACCESS_LOG", "true"), ("API_TIMEOUT_KEEP_ALIVE", "600")];
    let variables = with_more(&database.url, &more);
    let password = database.url.split([':', '@']).nth(2).expect("a password").to_owned();
    let url = database.url.clone();
    let running = Running::start(variables).await;
    let service = Service::over(Transport::at(running.port), database).await;
    service
        .execute(&format!(
            "create function set_token() returns trigger language plpgsql as
                $$ begin new.token = {FENCING_TOKEN}; return new; end $$;
             create trigger set_token before insert on file_lock
                for each row execute function set_token()"
        ))
        .await;
    let held = service.client().acquire("claude-1", &format!("src/{MARK}.rs"), json!({})).await;
    assert_eq!(held["fencing_token"].to_string(), FENCING_TOKEN);
    let tokens = call_everything(&service).await;
    assert!(tokens.len() > 2, "{tokens:?}");
    send_faults(&service).await;
    running.signal("TERM");
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0));

    let fixed = [MARK, FENCING_TOKEN, FREE, BOSS, CODEX, &password, &url];
    let secrets = fixed.into_iter().chain(tokens.iter().map(String::as_str));
    let mut shown = Vec::new();
    for secret in secrets {
        shown.extend(log.lines().filter(|line| line.contains(secret)).take(3));
    }
    assert!(shown.is_empty(), "{shown:#?}");
    for target in ["agent_coordinator", "sqlx"] {
        assert!(log.contains(&format!("\"target\":\"{target}")), "nothing of {target} was logged");
    }
}
