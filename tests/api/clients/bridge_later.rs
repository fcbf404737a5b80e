//! The later generation of the HTTP bridge.
use http::Method;
use serde_json::{Value, json};

use super::bridge::{self, Bridge, Generation::Later};
use crate::support::{CODEX, FREE, REVIEWER, Service};

#[tokio::test]
async fn detection_finds_the_capabilities_of_the_service_and_changes_nothing() {
    bridge::detects(Later, &[FREE, CODEX, REVIEWER]).await;
}

#[tokio::test]
async fn locks_are_acquired_and_released() {
    bridge::locks(Later).await;
}

#[tokio::test]
async fn tasks_are_submitted_claimed_and_completed() {
    bridge::work(Later).await;
}

#[tokio::test]
async fn memories_are_stored_and_recalled() {
    bridge::memory(Later).await;
}

#[tokio::test]
async fn texts_are_checked_by_guardrails() {
    bridge::guardrails(Later).await;
}

#[tokio::test]
async fn a_denial_is_read_as_unauthorized() {
    bridge::is_told_what_it_may_not_do(Later).await;
}

#[tokio::test]
async fn handoffs_are_written_and_read() {
    let service = Service::start().await;
    // With a key, the key names the caller.
    for (key, writer) in [(CODEX, "codex-1"), (FREE, "cloud-agent")] {
        let bridge = Bridge::new(&service, Later, Some(key));
        let payload = json!({
            "session_id": "s-1", "summary": "parser done", "completed_work": ["lexer"],
            "in_progress": ["parser"], "decisions": [{ "what": "no macros", "why": "speed" }],
            "next_steps": ["wire it up"], "relevant_files": ["src/parser.rs"],
        });
        let written = bridge.handoff_write(payload.clone()).await;
        assert_eq!((&written["status"], &written["status_code"]), (&json!("ok"), &json!(200)));
        let written = &written["response"];
        assert_eq!((&written["success"], &written["error"]), (&json!(true), &Value::Null));
        let read = json!({ "agent_id": writer, "session_id": "another", "limit": 1 });
        let read = bridge.handoff_read(read).await;
        assert_eq!((&read["status"], &read["response"]["count"]), (&json!("ok"), &json!(1)));
        let handoff = &read["response"]["handoffs"][0];
        assert_eq!(handoff["id"], written["handoff_id"]);
        assert_eq!(handoff["agent_name"], writer);
        for (name, value) in payload.as_object().expect("an object") {
            assert_eq!(handoff[name], *value, "{name}");
        }
    }
    let bridge = Bridge::new(&service, Later, Some(FREE));
    let empty = json!({
        "session_id": null, "summary": "", "completed_work": null, "in_progress": null,
        "decisions": null, "next_steps": null, "relevant_files": null,
    });
    let refused = bridge.handoff_write(empty).await;
    assert_eq!(refused["status"], "ok");
    assert_eq!(
        refused["response"],
        json!({ "success": false, "handoff_id": null, "error": "summary_required" })
    );
}

#[tokio::test]
async fn an_absent_route_is_a_missing_capability() {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, Later, Some(FREE));
    let id = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    let feature = json!({
        "feature_id": "feat-a", "resource_claims": ["src/a.rs"], "title": null,
        "branch_name": null, "agent_id": "claude-1", "agent_type": "claude_code",
        "merge_priority": 5, "metadata": null,
    });
    let requests = [
        ("/features/register", feature),
        ("/features/deregister", json!({ "feature_id": "feat-a", "status": "completed" })),
        ("/merge-queue/enqueue", json!({ "feature_id": "feat-a", "pr_url": null })),
        ("/merge-queue/check/feat-a", json!({})),
        ("/merge-queue/merged/feat-a", json!({})),
        (
            "/issues/create",
            json!({
                "title": "Fix parser", "description": null, "issue_type": "bug", "priority": 2,
                "labels": ["change:c-7"], "parent_id": null, "assignee": null, "depends_on": null,
            }),
        ),
        ("/issues/list", json!({})),
        ("/issues/update", json!({ "issue_id": id, "status": "closed" })),
        ("/issues/close", json!({ "issue_id": id, "issue_ids": null, "reason": null })),
        ("/issues/comment", json!({ "issue_id": id, "body": "seen" })),
        ("/issues/ready", json!({ "parent_id": null, "limit": 50 })),
        ("/issues/search", json!({ "query": "parser", "limit": 50 })),
        ("/search/code", json!({ "query": "fn main" })),
    ];
    for (path, payload) in requests {
        bridge.keyed.assert_missing(Method::POST, path, Some(&payload)).await;
    }
    for path in ["/issues/blocked", &format!("/issues/{id}"), "/search/code/status"] {
        bridge.keyed.assert_missing(Method::GET, path, None).await;
    }
    let unavailable = json!({ "status": "skipped", "reason": "capability_unavailable" });
    for flag in ["CAN_ISSUES", "CAN_FEATURE_REGISTRY", "CAN_MERGE_QUEUE", "CAN_CODE_SEARCH"] {
        let result = bridge.attempt_post(flag, "/issues/list", json!({})).await;
        assert_eq!(result, unavailable, "{flag}");
    }
}

#[tokio::test]
async fn without_archetypes_the_client_keeps_its_own_defaults() {
    let service = Service::start().await;
    let sender = Bridge::new(&service, Later, Some(FREE)).keyed;
    let answer = sender.post("/archetypes/resolve_for_phase", json!({ "phase": "PLAN" })).await;
    assert_eq!(answer.status, 404);
}
