//! Handoffs, literally as the contract has them.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{CODEX, Client, REVIEWER, Service, TEAM};

const HANDOFF_KEYS: [&str; 13] = [
    "id",
    "agent_name",
    "session_id",
    "summary",
    "completed_work",
    "in_progress",
    "decisions",
    "next_steps",
    "relevant_files",
    "created_at",
    "content",
    "own",
    "automatic",
];

#[track_caller]
fn assert_keys(answer: &Value, expected: &[&str]) {
    let keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
}

async fn write(client: &Client, body: Value) -> Value {
    let answer = client.post("/handoffs/write", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut members = vec!["success", "handoff_id", "error"];
    // The last two tell a session that has come back.
    let optional = ["kept_earlier", "revived", "lost"].into_iter();
    members.extend(optional.filter(|name| answer.json.get(name).is_some()));
    assert_keys(&answer.json, &members);
    answer.json
}

async fn read(client: &Client, body: Value) -> Value {
    let answer = client.post("/handoffs/read", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

#[tokio::test]
async fn a_handoff_is_read_as_it_was_written() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({
        "agent_id": "claude-1",
        "agent_type": "claude_code",
        "session_id": "any text",
        "summary": "parser done \u{2713}",
        "completed_work": ["lexer", { "z": 1, "a": [1.5, null] }],
        "in_progress": [],
        "decisions": ["recursive descent"],
        "next_steps": ["wire it up", 2],
        "relevant_files": ["src/parser.rs"],
    });
    let written = write(&client, body.clone()).await;
    assert_eq!((&written["success"], &written["error"]), (&json!(true), &json!(null)));
    let id = written["handoff_id"].as_str().expect("an id");
    assert!(uuid::Uuid::try_parse(id).is_ok());
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("write_handoff"), &json!(true)));
    assert_eq!(
        (&audit["agent_id"], &audit["session_id"]),
        (&json!("claude-1"), &json!("any text"))
    );
    assert_eq!(audit["parameters"], json!({ "summary_length": 13 }));
    assert_eq!(audit["result"], json!({ "handoff_id": id }));

    let list = read(&client, json!({})).await;
    assert_keys(&list, &["handoffs", "count", "truncated"]);
    assert_eq!((&list["count"], &list["truncated"]), (&json!(1), &json!(false)));
    let handoff = &list["handoffs"][0];
    assert_keys(handoff, &HANDOFF_KEYS);
    assert_eq!((&handoff["id"], &handoff["agent_name"]), (&json!(id), &json!("claude-1")));
    for name in
        ["session_id", "summary", "completed_work", "in_progress", "decisions", "next_steps"]
    {
        assert_eq!(handoff[name].to_string(), body[name].to_string(), "{name}");
    }
    assert_eq!(handoff["relevant_files"], json!(["src/parser.rs"]));
    assert_eq!(handoff["content"], json!({}));
    assert!(handoff["created_at"].as_str().is_some_and(|it| it.ends_with("+00:00")));
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("read_handoff"), &json!(true)));
    assert_eq!(audit["parameters"], json!({ "agent_name": null, "limit": 1 }));
    assert_eq!(audit["result"], json!({ "count": 1 }));
}

#[tokio::test]
async fn the_earlier_bridge_sends_its_lists_inside_the_content() {
    let service = Service::start().await;
    let client = service.client();
    let content = json!({
        "next_steps": ["wire it up"], "note": "see PR", "decisions": "one", "in_progress": null,
        "completed_work": ["hidden by the list above"], "a": { "z": 1, "b": 2 },
    });
    let body = json!({
        "agent_id": "claude-1", "session_id": "s-1", "summary": "parser done",
        "completed_work": ["shown"], "content": content,
    });
    assert_eq!(write(&client, body).await["success"], true);
    let list = read(&client, json!({})).await;
    let handoff = &list["handoffs"][0];
    assert_eq!(handoff["completed_work"], json!(["shown"]));
    assert_eq!(handoff["next_steps"], json!(["wire it up"]));
    assert_eq!(handoff["decisions"], json!(["one"]));
    assert_eq!(handoff["in_progress"], json!([]));
    assert_eq!(handoff["relevant_files"], json!([]));
    assert_eq!(handoff["content"].to_string(), content.to_string(), "members keep their order");
}

#[tokio::test]
async fn a_blank_summary_is_refused_and_recorded() {
    let service = Service::start().await;
    for summary in ["", " \n\t"] {
        let refused = write(&service.client(), json!({ "summary": summary })).await;
        let expected = json!({ "success": false, "handoff_id": null, "error": "summary_required" });
        assert_eq!(refused, expected);
        let audit = service.last_audit().await;
        assert_eq!(audit["success"], false);
        assert_eq!(audit["operation"], "write_handoff");
        assert_eq!(audit["parameters"], json!({ "summary_length": summary.len() }));
        assert_eq!(audit["result"], json!({ "reason": "summary_required" }));
    }
    let stored: i64 = service.scalar("select count(*) from handoff").await;
    assert_eq!((stored, service.audit_rows().await), (0, 2));
}

#[tokio::test]
async fn a_probe_finds_every_route_and_changes_nothing() {
    let service = Service::start().await;
    let (client, before) = (service.client(), service.contents().await);
    for path in ["/handoffs/write", "/handoff/write", "/handoffs"] {
        let issues = client.post(path, json!({})).await.issues();
        assert_eq!(issues, [("missing".to_owned(), json!(["body", "summary"]))], "{path}");
        assert_eq!(service.anonymous().post(path, json!({})).await.status, 401);
        assert_eq!(client.get(path).await.status, 405, "{path}");
    }
    assert_eq!(service.contents().await, before);
    for path in ["/handoffs/read", "/handoff/read"] {
        assert_eq!(client.post_text(path, "").await.status, 200, "{path}");
        assert_eq!(client.get(path).await.status, 405, "{path}");
    }
    assert_eq!(client.get("/handoffs/latest").await.status, 200);
    assert_eq!(client.post("/handoffs/latest", json!({})).await.status, 405);
}

#[tokio::test]
async fn every_route_alias_writes_and_reads() {
    let service = Service::start().await;
    let client = service.client();
    for (n, path) in ["/handoffs/write", "/handoff/write", "/handoffs"].into_iter().enumerate() {
        let answer = client.post(path, json!({ "agent_id": "a", "summary": format!("{n}") })).await;
        assert_eq!(answer.json["success"], true, "{path}");
    }
    let expected = read(&client, json!({ "agent_name": "a", "limit": 2 })).await;
    assert_eq!(expected["handoffs"][0]["summary"], "2");
    assert_eq!(expected["handoffs"][1]["summary"], "1");
    let answer = client.post("/handoff/read", json!({ "agent_name": "a", "limit": "2" })).await;
    assert_eq!(answer.json, expected);
    let before = service.audit_rows().await;
    assert_eq!(client.get("/handoffs/latest?agent_name=a&limit=2").await.json, expected);
    assert_eq!(service.audit_rows().await - before, 1);
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"], json!({ "agent_name": "a", "limit": 2 }));
    assert_eq!(client.get("/handoffs/latest").await.json["handoffs"][0]["summary"], "2");
}

#[tokio::test]
async fn handoffs_are_found_by_writer_newest_first() {
    let service = Service::start().await;
    let client = service.client();
    let empty = json!({ "handoffs": [], "count": 0, "truncated": false });
    assert_eq!(read(&client, json!({})).await, empty);
    assert_eq!(service.last_audit().await["result"], json!({ "count": 0 }));
    assert_eq!(read(&client, json!({ "limit": 0 })).await, empty);
    for (agent, summary) in [("a", "1"), ("b", "2"), ("a", "3"), ("A", "4")] {
        write(&client, json!({ "agent_id": agent, "summary": summary })).await;
    }
    let summaries = async |body: Value| -> Vec<Value> {
        let list = read(&client, body).await;
        let handoffs = list["handoffs"].as_array().expect("a list");
        assert_eq!(list["count"], handoffs.len());
        handoffs.iter().map(|it| it["summary"].clone()).collect()
    };
    assert_eq!(summaries(json!({})).await, ["4"]);
    assert_eq!(summaries(json!({ "agent_name": null, "limit": 9 })).await, ["4", "3", "2", "1"]);
    assert_eq!(summaries(json!({ "agent_name": "", "limit": 3 })).await, ["4", "3", "2"]);
    assert_eq!(summaries(json!({ "agent_name": "a", "limit": 9 })).await, ["3", "1"]);
    assert_eq!(summaries(json!({ "agent_name": "nobody" })).await, [""; 0]);
    // Members of other operations are ignored.
    let ignored = json!({ "agent_id": "b", "session_id": "s", "agent_type": "t" });
    assert_eq!(summaries(ignored).await, ["4"]);
    let list = read(&client, json!({ "limit": 2 })).await;
    assert_keys(&list, &["handoffs", "count", "truncated", "hint", "next_cursor"]);
    assert_eq!(list["truncated"], true);
    assert_eq!(
        list["hint"],
        "showing first 2; re-run with a higher limit to see more; or repeat the request \
         with next_cursor as cursor for those that follow"
    );
    assert_eq!(service.last_audit().await["result"], json!({ "count": 2 }));
    let none = read(&client, json!({ "limit": 0 })).await;
    assert_eq!((&none["handoffs"], &none["truncated"]), (&json!([]), &json!(true)));
    let read_rows: i64 = service
        .scalar("select count(*) from audit_log where operation = 'read_handoff' and success")
        .await;
    assert_eq!(read_rows, 10, "each read leaves one row, however many handoffs it returns");
}

#[tokio::test]
async fn a_handoff_belongs_to_the_caller() {
    let service = Service::start().await;
    let own = json!({ "agent_id": "", "agent_type": "", "session_id": null, "summary": "x" });
    write(&service.client_with(CODEX), own.clone()).await;
    let row = service.rows("select agent_id, agent_type, session_id from handoff").await.remove(0);
    let expected = json!({ "agent_id": "codex-1", "agent_type": "codex", "session_id": null });
    assert_eq!(row, expected);
    let foreign = json!({ "agent_id": "claude-1", "summary": "x" });
    let denied = service.client_with(CODEX).post("/handoffs/write", foreign).await;
    let detail = "API key is not permitted to act as requested agent_id";
    denied.assert_is(403, json!({ "detail": detail }));
    let reviewer = service.client_with(REVIEWER);
    let denied = reviewer.post("/handoffs/write", own).await;
    let detail = "profile_denied: operation_not_in_allowlist: write_handoff";
    denied.assert_is(403, json!({ "detail": detail }));
    assert_eq!(read(&reviewer, json!({})).await["count"], 1, "a reader may read");
}

#[tokio::test]
async fn workspaces_do_not_see_each_other() {
    let service = Service::start().await;
    write(&service.client_with(TEAM), json!({ "agent_id": "a", "summary": "secret" })).await;
    for body in [json!({ "limit": 9 }), json!({ "agent_name": "a", "limit": 9 })] {
        assert_eq!(read(&service.client(), body.clone()).await["count"], 0);
        assert_eq!(read(&service.client_with(TEAM), body).await["count"], 1);
    }
}

#[tokio::test]
async fn a_repeat_creates_another_unless_it_carries_the_same_idempotency_key() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({ "agent_id": "a", "summary": "x" });
    let ids = join_all((0..8).map(|_| write(&client, body.clone()))).await;
    let distinct: std::collections::HashSet<_> =
        ids.iter().map(|it| it["handoff_id"].to_string()).collect();
    assert_eq!(distinct.len(), 8);
    let once = client.header("idempotency-key", "k");
    let twins = join_all((0..4).map(|_| write(&once, body.clone()))).await;
    assert!(twins.iter().all(|it| *it == twins[0]));
    let stored: i64 = service.scalar("select count(*) from handoff").await;
    assert_eq!(stored, 9);
}

#[tokio::test]
async fn every_invalid_member_is_an_issue() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({
        "summary": "x".repeat(16_385), "completed_work": "a", "decisions": vec![0; 1001],
        "next_steps": ["a\0b"], "content": [], "session_id": "s".repeat(257),
    });
    let issues = client.post("/handoffs/write", body).await.issues();
    let expected = [
        ("string_too_long", json!(["body", "summary"])),
        ("list_type", json!(["body", "completed_work"])),
        ("too_long", json!(["body", "decisions"])),
        ("value_error", json!(["body", "next_steps", 0])),
        ("dict_type", json!(["body", "content"])),
        ("string_too_long", json!(["body", "session_id"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
    let issues =
        client.post("/handoffs/read", json!({ "limit": -1, "agent_name": 1 })).await.issues();
    let expected = [
        ("string_type", json!(["body", "agent_name"])),
        ("greater_than_equal", json!(["body", "limit"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
    let issues = client.get("/handoffs/latest?limit=x").await.issues();
    assert_eq!(issues, [("int_parsing".to_owned(), json!(["query", "limit"]))]);
}

/// The summaries of all handoffs, as this client reads them.
async fn summaries(client: &Client, body: Value) -> Vec<String> {
    let list = read(client, crate::support::with(json!({ "limit": 99 }), body)).await;
    let handoffs = list["handoffs"].as_array().expect("a list");
    handoffs.iter().map(|it| it["summary"].as_str().expect("a text").to_owned()).collect()
}

#[tokio::test]
async fn the_own_handoffs_are_marked_and_me_asks_for_them_alone() {
    let service = Service::start().await;
    let codex = service.client_with(CODEX);
    write(&service.client(), json!({ "agent_id": "a", "summary": "of a" })).await;
    write(&codex, json!({ "summary": "of codex" })).await;
    let list = read(&codex, json!({ "limit": 2 })).await;
    assert_eq!(
        (&list["handoffs"][0]["own"], &list["handoffs"][1]["own"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(summaries(&codex, json!({ "agent_name": "me" })).await, ["of codex"]);
    let a = service.client().header("x-agent-id", "a");
    assert_eq!(summaries(&a, json!({ "agent_name": "me" })).await, ["of a"]);
    assert_eq!(a.get("/handoffs/latest?agent_name=me").await.json["handoffs"][0]["own"], true);
}

#[tokio::test]
async fn an_automatic_note_covers_no_handoff() {
    let service = Service::start().await;
    let client = service.client();
    let note = |session: &str| json!({ "agent_id": "a", "session_id": session, "summary": "bye", "automatic": true });
    let first = write(&client, note("s-1")).await;
    assert_eq!(first.get("kept_earlier"), None);
    let list = read(&client, json!({})).await;
    assert_eq!(
        (&list["handoffs"][0]["id"], &list["handoffs"][0]["automatic"]),
        (&first["handoff_id"], &json!(true))
    );
    let real = json!({ "agent_id": "a", "session_id": "s-2", "summary": "half done" });
    let id = write(&client, real).await["handoff_id"].clone();
    // The session has written one: it stays, and nothing is added.
    let kept = json!({ "success": true, "handoff_id": id, "error": null, "kept_earlier": true });
    assert_eq!(write(&client, note("s-2")).await, kept);
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"], json!({ "summary_length": 3, "automatic": true }));
    assert_eq!(audit["result"], json!({ "handoff_id": id, "kept_earlier": true }));
    // A later session of the agent has not, and its note comes after every real handoff.
    write(&client, note("s-3")).await;
    assert_eq!(summaries(&client, json!({})).await, ["half done", "bye", "bye"]);
    assert_eq!(summaries(&client, json!({ "agent_name": "a" })).await, ["half done", "bye", "bye"]);
    let newest = client.get("/handoffs/latest").await.json;
    assert_eq!((&newest["handoffs"][0]["id"], &newest["truncated"]), (&id, &json!(true)));
    let blank = json!({ "agent_id": "a", "summary": " ", "automatic": true });
    assert_eq!(write(&client, blank).await["error"], "summary_required");
}

/// Hooks that were set up before notes could be marked.
#[tokio::test]
async fn the_note_of_an_earlier_hook_is_recognized_by_its_text() {
    let service = Service::start().await;
    let client = service.client();
    let handoff = |summary: &str, session: Value, steps: Value| {
        json!({
            "agent_id": "a", "agent_type": "", "session_id": session, "summary": summary,
            "completed_work": [], "next_steps": steps,
        })
    };
    write(&client, handoff("half done", json!("s-1"), json!([]))).await;
    let end = |session: Value| handoff("Session ended.", session, json!([]));
    assert_eq!(write(&client, end(json!("s-1"))).await["kept_earlier"], true);
    for session in [json!(null), json!(""), json!("s-2")] {
        assert_eq!(write(&client, end(session)).await.get("kept_earlier"), None);
    }
    assert_eq!(summaries(&client, json!({})).await[0], "half done");
    // With anything else in it, it is a handoff of an agent.
    write(&client, handoff("Session ended.", json!("s-3"), json!(["test it"]))).await;
    let newest = read(&client, json!({})).await["handoffs"][0].clone();
    assert_eq!((&newest["next_steps"], &newest["automatic"]), (&json!(["test it"]), &json!(false)));
}

#[tokio::test]
async fn only_the_same_session_of_the_same_agent_keeps_a_note_out() {
    let service = Service::start().await;
    let client = service.client();
    let write_as = async |agent: &str, session: &str, more: Value| {
        let body = json!({ "agent_id": agent, "session_id": session, "summary": "x" });
        write(&client, crate::support::with(body, more)).await
    };
    write_as("a", "s-1", json!({})).await;
    let note = json!({ "automatic": true });
    for (agent, session) in [("b", "s-1"), ("a", "s-2"), ("a", "S-1")] {
        let written = write_as(agent, session, note.clone()).await;
        assert_eq!(written.get("kept_earlier"), None, "{agent} {session}");
    }
    let team = service.client_with(TEAM);
    let body = json!({ "agent_id": "a", "session_id": "s-1", "summary": "x", "automatic": true });
    assert_eq!(write(&team, body).await.get("kept_earlier"), None, "of another workspace");
    // A session that timed out and was ended by others has still written its handoff.
    let session = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s-9" });
    client.post("/discovery/register", session).await;
    write_as("a", "s-9", json!({})).await;
    service.execute("update agent_session set last_heartbeat_at = now() - interval '1 day'").await;
    client.post("/discovery/cleanup", json!({})).await;
    assert_eq!(write_as("a", "s-9", note).await["kept_earlier"], true);
}
