//! Waiting calls that their clients give up: by a notification, or by disconnecting.
use agent_coordinator::{App, router};
use axum::body::Body;
use futures_util::future::join;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{ACCEPT, Mcp};
use crate::support::{
    Answer, Client, FREE, Service, blocked, config, eventually, execute, variables,
};

/// A client of an agent, with the MCP connection of this id unless that is empty.
fn agent(client: Client, name: &str, connection: &str) -> Mcp {
    let mcp = Mcp::new(client).header("x-agent-id", name);
    if connection.is_empty() { mcp } else { mcp.header("mcp-session-id", connection) }
}

/// The request of [`Mcp::send`], which has the id 7, is given up.
async fn give_up(mcp: &Mcp, request_id: Value) -> Answer {
    let params = json!({ "requestId": request_id, "reason": "timeout" });
    let message =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
    let answer = mcp.client.post("/mcp", message).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (202, ""));
    answer
}

fn lock(seconds: i64) -> Value {
    json!({ "name": "acquire_lock", "arguments": { "file_path": "a.rs", "wait_seconds": seconds } })
}

fn work(seconds: i64) -> Value {
    json!({ "name": "get_work", "arguments": { "wait_seconds": seconds } })
}

impl Service {
    /// Waits until so many calls have begun that can be cancelled.
    async fn begun(&self, count: i64) {
        let begun = "select count(*) from mcp_call where started_at is not null";
        let what = format!("{count} calls have begun");
        eventually(&what, async || self.scalar::<i64>(begun).await, |it| *it == count).await;
    }

    /// The agent that holds the lock on `a.rs`.
    async fn holder(&self) -> Value {
        let status = self.client().get("/locks/status/a.rs").await.json;
        status["lock"]["locked_by"].clone()
    }
}

#[track_caller]
fn assert_cancelled(answer: &Answer) {
    let told = &answer.json["result"]["structuredContent"];
    assert_eq!(told["error"], "http_499", "{}", answer.text);
    assert_eq!(told["detail"], "the client has cancelled the call");
}

#[tokio::test]
async fn a_cancelled_wait_for_a_lock_ends_and_takes_nothing_on_whichever_replica() {
    let service = Service::start().await;
    let elsewhere = service.replica(&[]).await.header("x-api-key", FREE);
    service.client().acquire("holder", "a.rs", json!({})).await;
    let waiter = agent(service.client(), "waiter", "c-1");
    let give_up = async {
        service.begun(1).await;
        // Neither another agent nor another connection nor another request is meant.
        give_up(&agent(elsewhere.clone(), "stranger", "c-1"), json!(7)).await;
        give_up(&agent(elsewhere.clone(), "waiter", "c-2"), json!(7)).await;
        give_up(&agent(elsewhere.clone(), "waiter", ""), json!(7)).await;
        for other in [json!(8), json!("7")] {
            give_up(&agent(elsewhere.clone(), "waiter", "c-1"), other).await;
        }
        let cancelled = "select count(*) from mcp_call
            where started_at is not null and cancelled_at is not null";
        assert_eq!(service.scalar::<i64>(cancelled).await, 0);
        give_up(&agent(elsewhere.clone(), "waiter", "c-1"), json!(7)).await;
    };
    let (answer, ()) = join(waiter.send("tools/call", lock(50)), give_up).await;
    assert_cancelled(&answer);
    service.client().release("holder", "a.rs", json!({})).await;
    assert_eq!(service.holder().await, Value::Null);
    let rows = "select count(*) from audit_log where agent_id = 'waiter'";
    assert_eq!(service.scalar::<i64>(rows).await, 0);
}

#[tokio::test]
async fn a_cancelled_wait_for_work_ends_and_takes_nothing() {
    let service = Service::start().await;
    let elsewhere = service.replica(&[]).await.header("x-api-key", FREE);
    let waiter = agent(service.client(), "waiter", "c-1");
    let give_up = async {
        service.begun(1).await;
        give_up(&agent(elsewhere, "waiter", "c-1"), json!(7)).await;
    };
    let (answer, ()) = join(waiter.send("tools/call", work(50)), give_up).await;
    assert_cancelled(&answer);
    let id = service.client().submit(json!({})).await;
    let task = service.client().post("/work/get", json!({ "task_id": id })).await.json;
    assert_eq!(task["task"]["status"], "pending");
}

#[tokio::test]
async fn a_cancellation_that_overtakes_its_call_counts() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "c-1");
    give_up(&waiter, json!(7)).await;
    assert_cancelled(&waiter.send("tools/call", lock(50)).await);
    assert_eq!(service.holder().await, Value::Null);
    // A client that uses an id again means another call.
    let got = waiter.send("tools/call", lock(50)).await;
    assert_eq!(got.json["result"]["structuredContent"]["action"], "acquired");
}

#[tokio::test]
async fn what_a_call_has_taken_is_given_back_when_its_cancellation_comes_late() {
    let service = Service::start().await;
    let elsewhere = service.replica(&[]).await.header("x-api-key", FREE);
    let waiter = agent(service.client(), "waiter", "c-1");
    let late = agent(elsewhere, "waiter", "c-1");
    let got = waiter.send("tools/call", lock(50)).await;
    assert_eq!(got.json["result"]["structuredContent"]["action"], "acquired");
    give_up(&late, json!(7)).await;
    assert_eq!(service.holder().await, Value::Null);
    let row = service.last_audit().await;
    assert_eq!((&row["operation"], &row["agent_id"]), (&json!("release_lock"), &json!("waiter")));
    assert_eq!(row["result"], json!({ "action": "released", "call": "cancelled" }));
    // The second time there is nothing to give back.
    waiter.tool("acquire_lock", json!({ "file_path": "a.rs" })).await;
    give_up(&late, json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
    // A lock that was held before is in use.
    let again = waiter.send("tools/call", lock(50)).await;
    assert_eq!(again.json["result"]["structuredContent"]["action"], "refreshed");
    give_up(&late, json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
    waiter.tool("release_lock", json!({ "file_path": "a.rs" })).await;

    let id = service.client().submit(json!({})).await;
    let got = waiter.send("tools/call", work(50)).await;
    assert_eq!(got.json["result"]["structuredContent"]["task_id"], json!(id));
    give_up(&late, json!(7)).await;
    let task = service.client().post("/work/get", json!({ "task_id": id })).await.json;
    let task = &task["task"];
    assert_eq!((&task["status"], &task["attempt"]), (&json!("pending"), &json!(0)), "{task}");
    let claimed = service.client().claim("other", json!({})).await;
    assert_eq!((&claimed["task_id"], &claimed["attempt"]), (&json!(id), &json!(1)));
}

#[tokio::test]
async fn a_lock_that_is_used_since_is_not_given_back() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "c-1");
    waiter.send("tools/call", lock(50)).await;
    // Another subagent of the same client refreshes the lock.
    let other = agent(service.client(), "waiter", "c-2");
    assert_eq!(
        other.tool("acquire_lock", json!({ "file_path": "a.rs" })).await["action"],
        "refreshed"
    );
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
    let row = service.last_audit().await;
    assert_eq!(row["result"]["reason"], "lock_in_use");
}

#[tokio::test]
async fn without_a_connection_only_an_unambiguous_request_is_cancelled() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "");
    service.client().acquire("holder", "a.rs", json!({})).await;
    let ambiguous = async {
        service.begun(2).await;
        give_up(&waiter, json!(7)).await;
        let cancelled = "select count(*) from mcp_call where cancelled_at is not null";
        assert_eq!(service.scalar::<i64>(cancelled).await, 0, "either call can be meant");
        service.client().release("holder", "a.rs", json!({})).await;
    };
    let two = join(waiter.send("tools/call", lock(50)), waiter.send("tools/call", lock(50)));
    let ((one, other), ()) = join(two, ambiguous).await;
    for answer in [one, other] {
        assert_eq!(answer.json["result"]["structuredContent"]["success"], true, "{}", answer.text);
    }
    let alone = async {
        service.begun(3).await;
        give_up(&waiter, json!(7)).await;
    };
    let (answer, ()) = join(waiter.send("tools/call", work(50)), alone).await;
    assert_cancelled(&answer);
}

#[tokio::test]
async fn without_a_connection_a_call_that_has_ended_is_not_meant() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "");
    let got = waiter.send("tools/call", lock(50)).await;
    assert_eq!(got.json["result"]["structuredContent"]["action"], "acquired");
    // Another window of the agent gives up a call of its own that does not wait, and has the same id.
    give_up(&agent(service.client(), "waiter", ""), json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
}

#[tokio::test]
async fn a_call_that_has_failed_has_ended() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "");
    service.client().acquire("holder", "a.rs", json!({})).await;
    let fail = async {
        service.begun(1).await;
        let none = "alter table file_lock add constraint none check (agent_id <> 'waiter')";
        service.execute(none).await;
        service.client().release("holder", "a.rs", json!({})).await;
    };
    let (failed, ()) = join(waiter.send("tools/call", lock(50)), fail).await;
    assert_eq!(failed.json["result"]["structuredContent"]["error"], "http_500", "{}", failed.text);
    let running = "select count(*) from mcp_call where answered_at is null";
    assert_eq!(service.scalar::<i64>(running).await, 0);
    // Another call with this id is the only one that runs.
    let alone = async {
        service.begun(2).await;
        give_up(&waiter, json!(7)).await;
    };
    let (answer, ()) = join(waiter.send("tools/call", work(50)), alone).await;
    assert_cancelled(&answer);
}

#[tokio::test]
async fn a_call_whose_id_is_used_again_takes_nothing() {
    let service = Service::start().await;
    service.client().acquire("holder", "a.rs", json!({})).await;
    let waiter = agent(service.client(), "waiter", "c-1");
    let newer = async {
        service.begun(1).await;
        let got = waiter.send("tools/call", work(50)).await;
        assert_eq!(got.json["result"]["structuredContent"]["success"], true, "{}", got.text);
        service.client().release("holder", "a.rs", json!({})).await;
    };
    service.client().submit(json!({})).await;
    let (answer, ()) = join(waiter.send("tools/call", lock(50)), newer).await;
    assert_cancelled(&answer);
    assert_eq!(service.holder().await, Value::Null);
    // What the newer call has taken can still be taken back.
    give_up(&waiter, json!(7)).await;
    let pending = "select count(*) from work_task where status = 'pending'";
    assert_eq!(service.scalar::<i64>(pending).await, 1);
}

#[tokio::test]
async fn what_another_session_has_adopted_is_not_given_back() {
    let service = Service::start().await;
    let (waiter, after) =
        (agent(service.client(), "waiter", "c-1"), agent(service.client(), "waiter", "c-2"));
    let register = async |mcp: &Mcp, session: &str| {
        let session = json!({ "session_id": session, "adopt": true });
        mcp.tool("register_session", session).await["adopted"].clone()
    };
    register(&waiter, "s-1").await;
    waiter.send("tools/call", lock(50)).await;
    let adopted = register(&after, "s-2").await;
    assert_eq!(adopted["locks"][0]["file_path"], "a.rs", "{adopted}");
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
    assert_eq!(service.last_audit().await["result"]["reason"], "lock_in_use");
    let claimed = "select count(*) from work_task where status = 'claimed'";
    service.client().submit(json!({})).await;
    waiter.send("tools/call", work(50)).await;
    let adopted = register(&after, "s-3").await;
    assert_eq!(adopted["claims"].as_array().map(Vec::len), Some(1), "{adopted}");
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.scalar::<i64>(claimed).await, 1);
    // A claim that another answer has listed is in use too.
    service.client().submit(json!({})).await;
    waiter.send("tools/call", work(50)).await;
    let listed = waiter.tool("get_work", json!({})).await;
    assert!(listed["open_claims"].is_array(), "{listed}");
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.scalar::<i64>(claimed).await, 2);
}

#[tokio::test]
async fn a_cancellation_is_repeated_where_a_call_would_be() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "c-1");
    waiter.send("tools/call", lock(50)).await;
    // The give-back is the first write of a month.
    let drop_all = "do $$ declare it text; begin
        for it in select inhrelid::regclass::text from pg_inherits
            where inhparent = 'audit_log'::regclass loop
            execute 'drop table ' || it;
        end loop; end $$";
    service.execute(drop_all).await;
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.holder().await, Value::Null);
    // The session of the call has fallen silent.
    waiter.tool("register_session", json!({ "session_id": "s-1" })).await;
    service.client().submit(json!({})).await;
    waiter.send("tools/call", work(50)).await;
    service.execute("update agent_session set last_heartbeat_at = now() - interval '1 day'").await;
    give_up(&waiter, json!(7)).await;
    let live =
        "select count(*) from agent_session where last_heartbeat_at > now() - interval '1 hour'";
    assert_eq!(service.scalar::<i64>(live).await, 1);
}

#[tokio::test]
async fn what_was_granted_again_by_an_idempotency_key_is_not_given_back() {
    let service = Service::start().await;
    let first = agent(service.client(), "waiter", "c-1").header("idempotency-key", "k-1");
    let got = first.send("tools/call", lock(50)).await;
    assert_eq!(got.json["result"]["structuredContent"]["action"], "acquired");
    let again = agent(service.client(), "waiter", "c-2").header("idempotency-key", "k-1");
    let got = again.send("tools/call", lock(50)).await;
    assert!(got.headers.contains_key("idempotent-replayed"), "{}", got.text);
    // The end of the first request is noticed late.
    give_up(&first, json!(7)).await;
    assert_eq!(service.holder().await, "waiter");
    let got = again.send("tools/call", lock(50)).await;
    assert!(got.headers.contains_key("idempotent-replayed"), "the answer is still stored");
}

#[tokio::test]
async fn a_cancellation_while_the_lock_is_being_taken_gives_it_back() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "c-1");
    let mut blocker = service.db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in share mode").await;
    let cancelling = async {
        blocked(&service.db, 1).await;
        let unblock = async {
            blocked(&service.db, 2).await;
            blocker.commit().await.expect("committed");
        };
        join(give_up(&waiter, json!(7)), unblock).await;
    };
    let (_, ()) = join(waiter.send("tools/call", lock(50)), cancelling).await;
    assert_eq!(service.holder().await, Value::Null);
}

#[tokio::test]
async fn a_client_that_disconnects_while_the_lock_is_being_taken_gets_none() {
    let service = Service::start().await;
    let app = router(App::new(config(&variables(&service.url))));
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": lock(50) });
    let request = http::Request::post("/mcp")
        .header("x-api-key", FREE)
        .header("x-agent-id", "waiter")
        .header("accept", ACCEPT)
        .header("content-type", "application/json")
        .body(Body::from(message.to_string()))
        .expect("a request");
    let mut blocker = service.db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in share mode").await;
    let mut waiting = Box::pin(app.oneshot(request));
    tokio::select! {
        answered = &mut waiting => panic!("it does not wait: {answered:?}"),
        () = blocked(&service.db, 1) => {}
    }
    drop(waiting);
    blocker.commit().await.expect("committed");
    let cancelled = "select count(*) from mcp_call where cancelled_at is not null";
    let cancelled = async || service.scalar::<i64>(cancelled).await;
    eventually("the call is given up", cancelled, |it| *it == 1).await;
    assert_eq!(service.holder().await, Value::Null);
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_answer_under_its_idempotency_key() {
    let service = Service::start().await;
    let waiter = agent(service.client(), "waiter", "c-1").header("idempotency-key", "k-1");
    let first = waiter.send("tools/call", lock(50)).await;
    assert_eq!(first.json["result"]["structuredContent"]["action"], "acquired");
    give_up(&waiter, json!(7)).await;
    assert_eq!(service.holder().await, Value::Null);
    let other = agent(service.client(), "waiter", "c-2").header("idempotency-key", "k-1");
    let again = other.send("tools/call", lock(50)).await;
    assert!(!again.headers.contains_key("idempotent-replayed"));
    assert_eq!(again.json["result"]["structuredContent"]["action"], "acquired");
    assert_eq!(service.holder().await, "waiter");
}

#[tokio::test]
async fn records_of_calls_are_deleted_after_a_day() {
    let service = Service::start().await;
    agent(service.client(), "waiter", "c-1").send("tools/call", lock(50)).await;
    let boss = Mcp::new(service.client_with(crate::support::BOSS)).offered("admin");
    let sweep = async || {
        boss.tool("run_maintenance", json!({ "tasks": ["retention"] })).await["rows_deleted"]
            .clone()
    };
    assert_eq!(sweep().await, 0);
    service.execute("update mcp_call set due_at = now() - interval '25 hours'").await;
    assert_eq!(sweep().await, 1);
}
