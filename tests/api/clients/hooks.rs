//! The session hooks: they report what a session does, and an error never fails the session.
use http::Method;
use serde_json::{Value, json};

use super::Sender;
use crate::support::{CODEX, Client, FREE, Service};

fn hooks(client: Client) -> Sender {
    Sender::new(client, "coordination-hooks/1")
}

/// A handoff as the hooks write it.
fn handoff(session: Value, summary: &str) -> Value {
    json!({
        "agent_id": "", "agent_type": "", "session_id": session, "summary": summary,
        "completed_work": ["a"], "in_progress": [], "decisions": [], "next_steps": ["b"],
        "relevant_files": [],
    })
}

#[tokio::test]
async fn a_session_starts_with_the_latest_handoff_of_any_agent() {
    let service = Service::start().await;
    let sender = hooks(service.client_with(FREE));
    let read = json!({ "agent_name": null, "limit": 1 });
    let none = sender.sent("/handoffs/read", read.clone()).await;
    assert_eq!(none["handoffs"], json!([]));
    let other = hooks(service.client_with(CODEX));
    other.sent("/handoffs/write", handoff(Value::Null, "parser done")).await;
    let last = sender.sent("/handoffs/read", read).await;
    assert_eq!(last["handoffs"][0]["summary"], "parser done");
    assert_eq!(last["handoffs"][0]["next_steps"], json!(["b"]));
}

#[tokio::test]
async fn empty_names_stand_for_the_identity_of_the_key_and_any_session_is_accepted() {
    let service = Service::start().await;
    for (key, agent) in [(CODEX, "codex-1"), (FREE, "cloud-agent")] {
        let sender = hooks(service.client_with(key));
        // Before compaction, with the longest summary that hooks write, and at the end.
        let long = "x".repeat(1900);
        for (session, summary) in [
            (json!("never heard of: ü/1"), long.as_str()),
            (Value::Null, long.as_str()),
            (json!(""), "Session ended."),
        ] {
            let written = sender.sent("/handoffs/write", handoff(session.clone(), summary)).await;
            assert_eq!((&written["success"], &written["error"]), (&json!(true), &Value::Null));
            assert!(written["handoff_id"].is_string());
            let read = json!({ "agent_name": agent, "limit": 1 });
            let last = &sender.sent("/handoffs/read", read).await["handoffs"][0];
            assert_eq!((&last["id"], &last["summary"]), (&written["handoff_id"], &json!(summary)));
        }
        let empty = sender.sent("/handoffs/write", handoff(Value::Null, "")).await;
        assert_eq!(
            empty,
            json!({ "success": false, "handoff_id": null, "error": "summary_required" })
        );
    }
}

#[tokio::test]
async fn status_reports_are_answered_with_json_although_the_route_is_absent() {
    let service = Service::start().await;
    let report = |phase: &str, event: &str, needs_human: bool, metadata: Value| {
        json!({
            "agent_id": "claude-1", "change_id": "unknown", "phase": phase, "message": "m",
            "needs_human": needs_human, "event_type": event, "metadata": metadata,
        })
    };
    let session =
        |event: &str| json!({ "agent_type": "claude_code", "session_id": "s-1", "event": event });
    let transition = "status.phase_transition";
    let subagent = json!({ "is_subagent": true, "agent_type": "claude_code" });
    let mut archetype = report("IMPLEMENT", transition, false, subagent.clone());
    archetype["phase_archetype"] = "implementer".into();
    let mut start = report("SESSION_START", transition, false, session("session.started"));
    start["change_id"] = "".into();
    let sender = hooks(service.client_with(FREE));
    for payload in [
        start,
        report("IMPLEMENT", transition, false, subagent.clone()),
        archetype,
        report("ESCALATE", "status.escalated", true, subagent),
        report("SESSION_END", transition, false, session("session.ended")),
    ] {
        sender.assert_missing(Method::POST, "/status/report", Some(&payload)).await;
    }
}

#[tokio::test]
async fn a_session_without_a_key_is_answered_with_json() {
    let service = Service::start().await;
    let sender = hooks(service.anonymous());
    for (path, payload) in [
        ("/handoffs/read", json!({ "agent_name": null, "limit": 1 })),
        ("/handoffs/write", handoff(Value::Null, "Session ended.")),
    ] {
        let answer = sender.post(path, payload).await;
        answer.assert_is(401, json!({ "detail": "Invalid API key" }));
    }
}
