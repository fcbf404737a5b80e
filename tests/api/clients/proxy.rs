//! The MCP-to-HTTP proxy: one request per tool call, with the caller's identity in each body.
use http::Method;
use serde_json::{Value, json};

use super::{Sender, names, without_database};
use crate::support::{BOSS, CODEX, FREE, Service};

struct Proxy {
    sender: Sender,
    identity: Value,
}

impl Proxy {
    fn new(service: &Service, key: &str, agent_id: &str, agent_type: &str) -> Self {
        let sender = Sender::new(service.client_with(key), "coordination-mcp-proxy/1");
        let client = sender.client.header("cf-access-client-id", "id.access");
        let sender = Sender { client: client.header("cf-access-client-secret", "secret") };
        Self { sender, identity: json!({ "agent_id": agent_id, "agent_type": agent_type }) }
    }

    /// The answer to a tool that sends a body.
    async fn call(&self, path: &str, arguments: Value) -> Value {
        let mut body = self.identity.clone();
        let members = arguments.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(members);
        let answer = self.sender.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    /// The answer to a tool that sends a GET request.
    async fn look(&self, path: &str) -> Value {
        let answer = self.sender.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }
}

#[tokio::test]
async fn the_proxy_chooses_a_healthy_service_and_no_other() {
    let service = Service::start().await;
    let health = Sender::new(service.anonymous(), "coordination-mcp-proxy/1").get("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(names(&health.json), ["status", "db", "version"]);
    let down = without_database().await;
    assert_eq!(down.anonymous().get("/health").await.status, 503);
}

#[tokio::test]
async fn locks_are_acquired_and_released() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let key = "src/a b/ü#?%.rs";
    let lock = json!({ "file_path": key, "reason": null, "ttl_minutes": 120, "session_id": null });
    let acquired = proxy.call("/locks/acquire", lock.clone()).await;
    assert_eq!((&acquired["success"], &acquired["file_path"]), (&json!(true), &json!(key)));
    let time = |name: &str| {
        let text = acquired[name].as_str().expect("a time");
        chrono::DateTime::parse_from_rfc3339(text).expect("a time")
    };
    assert_eq!((time("expires_at") - time("locked_at")).num_minutes(), 120);
    // One request for each path, percent-encoded except for its slashes.
    let status = proxy.look("/locks/status/src/a%20b/%C3%BC%23%3F%25.rs").await;
    assert_eq!((&status["locked"], &status["file_path"]), (&json!(true), &json!(key)));
    let seen = &status["lock"];
    assert_eq!(
        (&seen["locked_by"], &seen["agent_type"], &seen["reason"]),
        (&json!("codex-1"), &json!("codex"), &Value::Null)
    );
    assert_eq!(
        (&seen["locked_at"], &seen["expires_at"]),
        (&acquired["locked_at"], &acquired["expires_at"])
    );
    let other = Proxy::new(&service, FREE, "claude-1", "claude_code");
    let refused = other.call("/locks/acquire", lock).await;
    assert_eq!(
        (&refused["success"], &refused["reason"], &refused["locked_by"]),
        (&json!(false), &json!("locked_by_other"), &json!("codex-1"))
    );
    let released = proxy.call("/locks/release", json!({ "file_path": key })).await;
    assert_eq!((&released["success"], &released["action"]), (&json!(true), &json!("released")));
    let free = proxy.look("/locks/status/src/a%20b/%C3%BC%23%3F%25.rs").await;
    assert_eq!(free, json!({ "locked": false, "file_path": key }));
}

#[tokio::test]
async fn tasks_are_submitted_claimed_and_completed() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let task = json!({
        "task_type": "test", "task_description": "run the suite", "input_data": null,
        "priority": 5, "depends_on": null,
    });
    let id = proxy.call("/work/submit", task).await["task_id"].clone();
    let claimed = proxy.call("/work/claim", json!({ "task_types": null })).await;
    assert_eq!((&claimed["task_id"], &claimed["description"]), (&id, &json!("run the suite")));
    let report =
        json!({ "task_id": id, "success": true, "result": { "n": 1 }, "error_message": null });
    assert_eq!(proxy.call("/work/complete", report).await["status"], "completed");
    let task = proxy.call("/work/get", json!({ "task_id": id })).await;
    assert_eq!(
        (&task["success"], &task["task"]["result"], &task["task"]["claimed_by"]),
        (&json!(true), &json!({ "n": 1 }), &json!("codex-1"))
    );
}

#[tokio::test]
async fn memories_handoffs_and_guardrails() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let memory = json!({
        "session_id": null, "event_type": "discovery", "summary": "s", "details": null,
        "outcome": null, "lessons": null, "tags": null,
    });
    assert_eq!(proxy.call("/memory/store", memory).await["action"], "created");
    let recall = async |min_relevance: f64| {
        let arguments = json!({
            "tags": null, "event_type": null, "limit": 10, "min_relevance": min_relevance,
        });
        proxy.call("/memory/query", arguments).await["count"].clone()
    };
    assert_eq!(recall(0.0).await, 1);
    service
        .execute(
            "update memory set
                created_at = (created_at at time zone 'utc' - interval '3 days') at time zone 'utc'",
        )
        .await;
    assert_eq!((recall(0.5).await, recall(0.95).await), (json!(1), json!(0)));
    let handoff = json!({
        "session_id": null, "summary": "done", "completed_work": [], "in_progress": [],
        "decisions": [], "next_steps": [], "relevant_files": [],
    });
    assert_eq!(proxy.call("/handoffs/write", handoff).await["success"], true);
    let read = proxy.call("/handoffs/read", json!({ "agent_name": null, "limit": 1 })).await;
    assert_eq!(read["handoffs"][0]["agent_name"], "codex-1");
    let check = json!({ "operation_text": "git status", "file_paths": null });
    let safe = json!({ "safe": true, "violations": [] });
    assert_eq!(proxy.call("/guardrails/check", check).await, safe);
}

#[tokio::test]
async fn sessions_are_registered_renewed_and_listed() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let session = json!({
        "capabilities": ["rust"], "current_task": "t", "delegated_from": null, "session_id": "s-1",
    });
    let registered = proxy.call("/discovery/register", session).await;
    assert_eq!((&registered["success"], &registered["session_id"]), (&json!(true), &json!("s-1")));
    // The body of a heartbeat holds only the identity.
    let heard = proxy.call("/discovery/heartbeat", json!({})).await;
    assert_eq!(heard, json!({ "success": true, "session_id": "s-1", "error": null }));
    let agents = proxy.look("/discovery/agents?capability=rust&status=active").await;
    assert_eq!(
        (&agents["count"], &agents["agents"][0]["agent_id"]),
        (&json!(1), &json!("codex-1"))
    );
    let boss = Proxy::new(&service, BOSS, "boss", "strands");
    let cleanup = json!({ "stale_threshold_minutes": 15, "dry_run": true });
    let cleaned = boss.call("/discovery/cleanup", cleanup).await;
    assert_eq!((&cleaned["success"], &cleaned["agents_cleaned"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn ports_are_allocated_listed_and_released() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    assert_eq!(proxy.look("/ports/status").await, json!([]));
    let allocated = proxy.call("/ports/allocate", json!({ "session_id": "s-1" })).await;
    assert_eq!(allocated["success"], true);
    assert!(allocated["env_snippet"].as_str().is_some_and(|it| it.starts_with("export ")));
    let all = proxy.look("/ports/status").await;
    let block = &all.as_array().expect("an array")[0];
    for name in ["session_id", "db_port", "rest_port", "realtime_port", "api_port"] {
        assert_eq!(block[name], allocated["allocation"][name], "{name}");
    }
    let released = proxy.call("/ports/release", json!({ "session_id": "s-1" })).await;
    assert_eq!(released, json!({ "success": true }));
}

#[tokio::test]
async fn policy_profile_and_audit_log_are_read() {
    let service = Service::start().await;
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let question = json!({ "operation": "acquire_lock", "resource": "x", "context": null });
    let advice = proxy.call("/policy/check", question).await;
    assert_eq!(names(&advice), ["allowed", "reason", "engine", "diagnostics"]);
    assert_eq!(advice["allowed"], true);
    let checked = proxy.call("/policy/validate", json!({ "policy_text": "" })).await;
    assert_eq!((&checked["valid"], checked["errors"].is_array()), (&json!(false), true));
    let profile = proxy.look("/profiles/me").await;
    assert_eq!((&profile["success"], &profile["source"]), (&json!(true), &json!("default")));
    let audit = proxy.look("/audit?operation=policy_decision&limit=20").await;
    assert_eq!((&audit["count"], &audit["entries"][0]["success"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn failures_have_a_status_and_a_json_body_to_forward() {
    let service = Service::start().await;
    let stranger = Sender::new(service.client_with("wrong"), "coordination-mcp-proxy/1");
    let lock = |agent: &str| json!({ "file_path": "a", "agent_id": agent, "agent_type": "codex" });
    let answer = stranger.post("/locks/acquire", lock("codex-1")).await;
    answer.assert_is(401, json!({ "detail": "Invalid API key" }));
    let proxy = Proxy::new(&service, CODEX, "codex-1", "codex");
    let answer = proxy.sender.post("/locks/acquire", lock("claude-1")).await;
    let text = "API key is not permitted to act as requested agent_id";
    answer.assert_is(403, json!({ "detail": text }));
    let invalid = proxy.sender.post("/work/get", json!({ "task_id": "7" })).await;
    assert_eq!(invalid.issues()[0].0, "uuid_parsing");
    proxy.sender.assert_missing(Method::POST, "/merge-queue/enqueue", Some(&json!({}))).await;
}
