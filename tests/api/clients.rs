//! Existing clients, as they are: the two generations of the HTTP bridge, the proxy and the checker.
//! Their requests carry every field, null where nothing was given.
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::support::{CODEX, Client, FREE, Service};

/// What a bridge makes of an answer to a probe.
fn is_present(status: u16) -> bool {
    !([401, 403, 404].contains(&status) || status >= 500)
}

async fn probe(client: &Client, method: Method, path: &str) -> u16 {
    let body = if method == Method::POST { Body::from("{}") } else { Body::empty() };
    client.send(method, path, body).await.status.as_u16()
}

#[tokio::test]
async fn both_generations_of_the_bridge_detect_what_is_there_and_change_nothing() {
    let service = Service::start().await;
    let before = service.contents().await;
    assert_eq!(service.anonymous().get("/health").await.status, 200);
    for key in [FREE, CODEX] {
        let client = service.client_with(key);
        for path in [
            "/locks/acquire",
            "/work/claim",
            "/handoff/write",
            "/handoffs/write",
            "/memory/query",
            "/guardrails/check",
        ] {
            assert_eq!(probe(&client, Method::POST, path).await, 422, "{path}");
            let wrong = service.client_with("wrong");
            assert!(!is_present(probe(&wrong, Method::POST, path).await), "{path}");
        }
        assert!(is_present(probe(&client, Method::POST, "/handoffs").await));
    }
    assert_eq!(service.contents().await, before);
    assert_eq!(probe(&service.client(), Method::GET, "/handoffs/latest").await, 200);
    assert!(!is_present(probe(&service.client(), Method::POST, "/search/codes").await));
}

#[tokio::test]
async fn the_checker_asks_everything_with_get() {
    let service = Service::start().await;
    let client = service.client();
    for path in [
        "/health",
        "/locks/status/__probe__",
        "/work/get",
        "/guardrails/check",
        "/memory/query",
        "/profiles/me",
        "/handoffs/read",
        "/policy/check",
        "/audit",
    ] {
        let status = probe(&client, Method::GET, path).await;
        assert!(status == 200 || status == 405, "{path}: {status}");
    }
}

/// Sends a payload of the bridge and returns the answer, which must have status 200.
async fn sent(client: &Client, path: &str, payload: Value) -> Value {
    let answer = client.post(path, payload).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.json
}

#[tokio::test]
async fn the_bridges_payloads_work_as_they_are_sent() {
    let service = Service::start().await;
    let client = service.client();
    let lock = json!({
        "file_path": "src/a.rs", "agent_id": "claude-1", "agent_type": "claude_code",
        "session_id": null, "reason": null, "ttl_minutes": 30,
    });
    assert_eq!(sent(&client, "/locks/acquire", lock).await["success"], true);
    let unlock = json!({ "file_path": "src/a.rs", "agent_id": "claude-1" });
    assert_eq!(sent(&client, "/locks/release", unlock).await["success"], true);
    let task = json!({
        "task_type": "test", "task_description": "d", "input_data": null, "priority": 5,
        "depends_on": null,
    });
    let id = sent(&client, "/work/submit", task).await["task_id"].clone();
    let claim = json!({ "agent_id": "codex-9", "agent_type": "codex", "task_types": null });
    assert_eq!(sent(&client, "/work/claim", claim).await["task_id"], id);
    let report = json!({
        "task_id": id, "agent_id": "codex-9", "success": true, "result": null,
        "error_message": null,
    });
    assert_eq!(sent(&client, "/work/complete", report).await["status"], "completed");
    let memory = json!({
        "agent_id": "claude-1", "session_id": null, "event_type": "decision", "summary": "s",
        "details": null, "outcome": null, "lessons": null, "tags": null,
    });
    assert_eq!(sent(&client, "/memory/store", memory).await["action"], "created");
    let recall = json!({ "agent_id": "claude-1", "tags": null, "event_type": null, "limit": 10 });
    assert_eq!(sent(&client, "/memory/query", recall).await["count"], 1);
    let check = json!({ "operation_text": "git status", "file_paths": null });
    assert_eq!(
        sent(&client, "/guardrails/check", check).await,
        json!({ "safe": true, "violations": [] })
    );
}

#[tokio::test]
async fn handoffs_of_both_generations_and_of_session_hooks() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    let earlier = json!({
        "agent_id": "codex-1", "session_id": "s-1", "summary": "one",
        "content": { "next_steps": "wire it up", "note": "see PR" },
    });
    assert_eq!(sent(&client, "/handoff/write", earlier).await["error"], Value::Null);
    let later = json!({
        "session_id": null, "summary": "two", "completed_work": ["a"], "in_progress": [],
        "decisions": [], "next_steps": ["b"], "relevant_files": [],
    });
    assert_eq!(sent(&client, "/handoffs/write", later).await["success"], true);
    let hook = json!({
        "agent_id": "", "agent_type": "", "session_id": "any text", "summary": "Session ended.",
        "completed_work": [], "in_progress": [], "decisions": [], "next_steps": [],
        "relevant_files": [],
    });
    assert_eq!(sent(&client, "/handoffs", hook).await["success"], true);
    let start = json!({ "agent_name": null, "limit": 1 });
    let read = sent(&client, "/handoffs/read", start).await;
    assert_eq!(
        (&read["handoffs"][0]["summary"], &read["handoffs"][0]["agent_name"]),
        (&json!("Session ended."), &json!("codex-1"))
    );
    let body = json!({ "agent_id": "codex-1", "session_id": "s-1", "limit": 3 });
    let all = sent(&client, "/handoff/read", body).await;
    assert_eq!(all["count"], 3);
    assert_eq!(all["handoffs"][2]["next_steps"], json!(["wire it up"]));
    assert_eq!(client.get("/handoffs/latest?limit=3").await.json, all);
}

#[tokio::test]
async fn the_proxy_sends_its_identity_everywhere() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    let identity = |more: Value| {
        let mut body = json!({ "agent_id": "codex-1", "agent_type": "codex" });
        body.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        body
    };
    let lock = json!({ "file_path": "a b.rs", "ttl_minutes": 120 });
    assert_eq!(sent(&client, "/locks/acquire", identity(lock)).await["success"], true);
    let status = client.get("/locks/status/a%20b.rs").await.json;
    for member in ["locked_by", "agent_type", "locked_at", "expires_at", "reason"] {
        assert!(status["lock"].get(member).is_some(), "{member}");
    }
    assert!(status.get("error").is_none());
    let session = json!({ "capabilities": ["rust"], "current_task": "t", "delegated_from": null });
    assert_eq!(sent(&client, "/discovery/register", identity(session)).await["success"], true);
    assert_eq!(sent(&client, "/discovery/heartbeat", identity(json!({}))).await["success"], true);
    let recall = json!({ "tags": null, "event_type": null, "limit": 10, "min_relevance": 0.0 });
    assert_eq!(sent(&client, "/memory/query", identity(recall)).await["count"], 0);
    assert_eq!(
        sent(&client, "/ports/allocate", identity(json!({ "session_id": "s" }))).await["success"],
        true
    );
    assert!(client.get("/ports/status").await.json.as_array().is_some_and(|it| it.len() == 1));
    let question = json!({ "operation": "acquire_lock", "resource": "x", "context": null });
    assert_eq!(sent(&client, "/policy/check", identity(question)).await["allowed"], true);
    assert_eq!(client.get("/profiles/me").await.json["success"], true);
}
