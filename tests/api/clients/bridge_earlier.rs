//! The earlier generation of the HTTP bridge.
use http::Method;
use serde_json::{Value, json};

use super::{
    bridge::{self, Bridge, Generation::Earlier},
    names,
};
use crate::support::{CODEX, FREE, REVIEWER, Service};

#[tokio::test]
async fn detection_finds_the_capabilities_of_the_service_and_changes_nothing() {
    bridge::detects(Earlier, &[FREE, CODEX, REVIEWER]).await;
}

#[tokio::test]
async fn each_probe_for_handoffs_finds_them() {
    let service = Service::start().await;
    let sender = Bridge::new(&service, Earlier, Some(FREE)).keyed;
    for path in ["/handoff/write", "/handoffs/write", "/handoffs"] {
        assert_eq!(sender.post(path, json!({})).await.status, 422, "{path}");
    }
    let latest = sender.send(Method::GET, "/handoffs/latest", None).await;
    latest.assert_is(200, json!({ "handoffs": [], "count": 0, "truncated": false }));
}

#[tokio::test]
async fn locks_are_acquired_and_released() {
    bridge::locks(Earlier).await;
}

#[tokio::test]
async fn tasks_are_submitted_claimed_and_completed() {
    bridge::work(Earlier).await;
}

#[tokio::test]
async fn memories_are_stored_and_recalled() {
    bridge::memory(Earlier).await;
}

#[tokio::test]
async fn texts_are_checked_by_guardrails() {
    bridge::guardrails(Earlier).await;
}

#[tokio::test]
async fn a_denial_is_read_as_unauthorized() {
    bridge::is_told_what_it_may_not_do(Earlier).await;
}

#[tokio::test]
async fn handoffs_are_written_and_read() {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, Earlier, Some(FREE));
    let payload = json!({
        "agent_id": "claude-1", "session_id": "s-1", "summary": "parser done",
        "content": { "next_steps": ["wire it up"], "completed_work": "lexer", "note": "see PR" },
    });
    let written = bridge.handoff_write(payload.clone()).await;
    assert_eq!((&written["status"], &written["status_code"]), (&json!("ok"), &json!(200)));
    let written = &written["response"];
    assert_eq!(names(written), ["success", "handoff_id", "error"]);
    assert_eq!((&written["success"], &written["error"]), (&json!(true), &Value::Null));
    let read = json!({ "agent_id": "claude-1", "session_id": "s-1", "limit": 1 });
    let read = bridge.handoff_read(read).await;
    assert_eq!(read["status"], "ok");
    let handoff = &read["response"]["handoffs"][0];
    for (name, value) in [
        ("id", written["handoff_id"].clone()),
        ("agent_name", json!("claude-1")),
        ("session_id", json!("s-1")),
        ("summary", json!("parser done")),
        ("completed_work", json!(["lexer"])),
        ("in_progress", json!([])),
        ("next_steps", json!(["wire it up"])),
        ("content", payload["content"].clone()),
    ] {
        assert_eq!(handoff[name], value, "{name}");
    }
    // The other forms give the same result.
    let sender = &bridge.keyed;
    assert_eq!(sender.get("/handoffs/latest").await.json, read["response"]);
    for path in ["/handoffs/write", "/handoffs"] {
        assert_eq!(sender.sent(path, payload.clone()).await["success"], true, "{path}");
    }
    let payload = json!({ "agent_id": "claude-1", "session_id": "s-1", "limit": 3 });
    let all = sender.sent("/handoff/read", payload.clone()).await;
    assert_eq!(all["count"], 3);
    assert_eq!(sender.sent("/handoffs/read", payload).await, all);
}
