//! Scripts: the approval gate, the merge script and those for reviews.
use http::Method;
use serde_json::{Value, json};

use super::Sender;
use crate::support::{FREE, Service};

#[tokio::test]
async fn the_approval_gate_allows_nothing_that_nobody_approved() {
    let service = Service::start().await;
    let sender = Sender::new(service.client_with(FREE), "approval-gate/1");
    let request = json!({
        "agent_id": "codex-1", "operation": "deploy", "resource": "prod",
        "context": { "sha": "ab12" }, "timeout_seconds": 900,
    });
    sender.assert_missing(Method::POST, "/approvals/request", Some(&request)).await;
    let poll = "/approvals/1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    sender.assert_missing(Method::GET, poll, None).await;
    assert_ne!(sender.get(poll).await.json["status"], "approved");
    sender.assert_missing(Method::POST, "/notifications/test", Some(&json!({}))).await;
    // What was decided, it remembers.
    let memory = json!({
        "agent_id": "approval-gate", "session_id": null, "event_type": "decision",
        "summary": "deploy: not approved", "details": { "operation": "deploy" },
        "outcome": "negative", "lessons": null, "tags": ["approval"],
    });
    let stored = sender.sent("/memory/store", memory).await;
    assert_eq!((&stored["success"], &stored["action"]), (&json!(true), &json!("created")));
}

#[tokio::test]
async fn the_merge_script_finds_no_train() {
    let service = Service::start().await;
    let sender = Sender::new(service.client_with(FREE), "merge/1");
    let compose: Value = json!({ "feature_ids": ["feat-a"] });
    sender.assert_missing(Method::POST, "/merge-train/compose", Some(&compose)).await;
    sender.assert_missing(Method::GET, "/merge-train/status/train-1", None).await;
    sender.assert_missing(Method::GET, "/work/queue", None).await;
}

#[tokio::test]
async fn the_scripts_for_reviews_fall_back_to_their_own_file() {
    let service = Service::start().await;
    let sender = Sender::new(service.client_with(FREE), "review/1");
    sender.assert_missing(Method::GET, "/agents/dispatch-configs", None).await;
}
