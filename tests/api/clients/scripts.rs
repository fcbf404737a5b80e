//! Scripts: the approval gate, the merge script and those for reviews. Each test does what its script does
//! with the answers, and asserts what the script then decides. A feature may be built later without
//! breaking them.
use http::Method;
use serde_json::{Value, json};

use super::Sender;
use crate::support::{Answer, FREE, Service};

async fn sender(service: &Service, user_agent: &str) -> Sender {
    Sender::new(service.client_with(FREE), user_agent)
}

/// Asks for approval and polls once, as the gate does: anything but `approved` means that the operation is
/// not allowed.
async fn is_approved(gate: &Sender) -> bool {
    let request = json!({
        "agent_id": "codex-1", "operation": "deploy", "resource": "prod",
        "context": { "sha": "ab12" }, "timeout_seconds": 900,
    });
    let asked = gate.post("/approvals/request", request).await;
    let id = asked.json["request_id"].as_str().unwrap_or("1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1");
    let polled = gate.get(&format!("/approvals/{id}")).await;
    polled.status == 200 && polled.json["status"] == "approved"
}

#[tokio::test]
async fn the_approval_gate_allows_no_operation_that_was_not_approved() {
    let service = Service::start().await;
    assert!(!is_approved(&sender(&service, "approval-gate/1").await).await);
}

#[tokio::test]
async fn the_approval_gate_remembers_its_decision() {
    let service = Service::start().await;
    let gate = sender(&service, "approval-gate/1").await;
    let memory = json!({
        "agent_id": "approval-gate", "session_id": null, "event_type": "decision",
        "summary": "deploy: not approved", "details": { "operation": "deploy" },
        "outcome": "negative", "lessons": null, "tags": ["approval"],
    });
    let stored = gate.sent("/memory/store", memory).await;
    assert_eq!((&stored["success"], &stored["action"]), (&json!(true), &json!("created")));
    let query = json!({ "agent_id": "approval-gate", "tags": ["approval"], "limit": 10 });
    let recalled = gate.sent("/memory/query", query).await;
    let memory = &recalled["memories"][0];
    assert_eq!((&recalled["count"], &memory["outcome"]), (&json!(1), &json!("negative")));
    assert_eq!(memory["details"], json!({ "operation": "deploy" }));
}

/// The contract fixes these answers: 403 or 404 for the merge train, 404 for the queue. The script reads
/// any of them as "there is no train" and stops.
#[tokio::test]
async fn the_merge_script_stops_because_there_is_no_merge_train() {
    let service = Service::start().await;
    let script = sender(&service, "merge/1").await;
    let composed = script.post("/merge-train/compose", json!({ "feature_ids": ["feat-a"] })).await;
    let status = script.get("/merge-train/status/train-1").await;
    let queue = script.get("/work/queue").await;
    let is_no_train = |answer: &Answer| [403, 404].contains(&answer.status.as_u16());
    for answer in [&composed, &status, &queue] {
        assert!(is_no_train(answer) && answer.json["detail"].is_string(), "{answer:?}");
    }
}

/// The configurations of the review scripts: those of the service, or those of their own file.
async fn dispatch_configs(script: &Sender, own: &Value) -> Value {
    let answer = script.send(Method::GET, "/agents/dispatch-configs", None).await;
    if answer.status == 200 { answer.json } else { own.clone() }
}

#[tokio::test]
async fn the_review_scripts_get_configurations_from_the_service_or_their_own_file() {
    let service = Service::start().await;
    let own = json!({ "agents": { "claude-1": { "command": "claude" } } });
    let configs = dispatch_configs(&sender(&service, "review/1").await, &own).await;
    assert!(configs["agents"].is_object(), "{configs}");
}
