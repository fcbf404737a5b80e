//! How many round trips to Postgres a request takes, counted on the wire, where the table of costs has no
//! case: refusals, repeated requests, and another configuration. `costs/limits.rs` states the number for each
//! operation.
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{relay::relayed, support::Service};

#[tokio::test]
async fn a_refused_request_that_reaches_the_database_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, boss) = relayed(&service.url, &[]).await;
    client.acquire("a", "k", json!({})).await;
    let session = json!({ "agent_id": "a", "session_id": "unknown" });
    let step = async |name: &str| -> Value {
        match name {
            "lifetime out of range" => {
                client.acquire("a", "k", json!({ "ttl_minutes": 999 })).await
            }
            "lock of another agent" => client.release("b", "k", json!({})).await,
            "no lock to free" => boss.delete("/locks/free").await.json,
            "handoff without a summary" => {
                let handoff = json!({ "agent_id": "a", "summary": " " });
                client.post("/handoffs/write", handoff).await.json
            }
            "ports that were not allocated" => {
                client.post("/ports/release", session.clone()).await.json
            }
            _ => client.post("/discovery/deregister", session.clone()).await.json,
        }
    };
    // The first round prepares the statements and caches the standings.
    for is_measured in [false, true] {
        for name in [
            "lifetime out of range",
            "lock of another agent",
            "no lock to free",
            "handoff without a summary",
            "ports that were not allocated",
            "unknown session",
        ] {
            let before = relay.count();
            let answer = step(name).await;
            assert!(!is_measured || relay.count() - before == 1, "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_cedar_engine_adds_no_round_trip() {
    let service = Service::start().await;
    let (relay, client, boss) = relayed(&service.url, &[("POLICY_ENGINE", "cedar")]).await;
    let question = json!({
        "agent_id": "a", "agent_type": "t", "operation": "acquire_lock", "resource": "k",
    });
    let named = json!({ "domain": "github.com", "agent_id": "a" });
    let assigned = json!({ "target_agent_id": "x", "suspended": true });
    let step = async |name: &str| match name {
        "advice" => client.post("/policy/check", question.clone()).await,
        "network" => client.post("/network/check", named.clone()).await,
        "assignment" => boss.post("/profiles/assign", assigned.clone()).await,
        "keys" => boss.get("/keys").await,
        _ => boss.get("/profiles/me").await,
    };
    for warm in [true, false] {
        let steps = [("advice", 1), ("network", 1), ("assignment", 1), ("keys", 1), ("me", 0)];
        for (name, expected) in steps {
            let before = relay.count();
            let answer = step(name).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text);
            assert!(warm || relay.count() - before == expected, "{name}");
        }
    }
}

#[tokio::test]
async fn a_recall_without_the_bm25_index_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    let recall = async |body: Value| {
        let before = relay.count();
        let answer = client.post("/memory/query", body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        relay.count() - before
    };
    for summary in ["a pool", "nothing else"] {
        let memory = json!({ "agent_id": "a", "event_type": "e", "summary": summary });
        client.post("/memory/store", memory).await;
    }
    let plain = json!({ "agent_id": "a" });
    let worded = json!({ "agent_id": "a", "query": "pool" });
    recall(plain.clone()).await;
    assert_eq!(recall(plain.clone()).await, 1, "without words nothing is asked about an index");
    // All statements are prepared by now, except the one that a process executes once.
    assert_eq!(recall(worded.clone()).await, 3, "to prepare the question, to ask it, to search");
    for _ in 0..3 {
        assert_eq!(recall(worded.clone()).await, 1);
    }
    let unknown = json!({ "agent_id": "a", "query": "unheard" });
    recall(unknown.clone()).await;
    assert_eq!(recall(unknown).await, 2, "without hits, the unknown words are asked for");
}

#[tokio::test]
async fn a_refused_request_never_reaches_the_database() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    for (path, body) in [("/locks/acquire", "{}"), ("/locks/verify", "{"), ("/locks/release", "[]")]
    {
        assert_eq!(client.post_text(path, body).await.status, 422);
        let wrong = client.clone().header("x-api-key", "wrong");
        assert_eq!(wrong.post_text(path, body).await.status, 401);
    }
    for path in ["/live", "/openapi.json", "/docs", "/nope"] {
        client.get(path).await;
    }
    assert_eq!(relay.count(), 0);
}

#[tokio::test]
async fn a_refused_or_repeated_transition_of_a_task_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    let id = client.submit(json!({ "agent_id": "a" })).await;
    client.claim("a", json!({})).await;
    let report = json!({ "agent_id": "a", "task_id": id, "success": true, "result": { "n": 1 } });
    assert_eq!(client.post("/work/complete", report.clone()).await.json["success"], true);
    let blocked = json!({ "task_type": "t", "task_description": "rm -rf /", "agent_id": "a" });
    let finished = json!({ "agent_id": "a", "task_id": id });
    // The first round prepares the statements.
    for is_measured in [false, true] {
        for (path, body) in [
            ("/work/submit", &blocked),
            ("/work/renew", &finished),
            ("/work/complete", &report),
            ("/work/cancel", &finished),
        ] {
            let before = relay.count();
            let answer = client.post(path, body.clone()).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            assert!(!is_measured || relay.count() - before == 1, "{path}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_connection_that_was_just_used_is_not_pinged() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    client.acquire("a", "k", json!({})).await;
    let before = relay.pings();
    // A ping is possible only after half a second without a request, when the machine paused.
    let mut pauses = 0;
    let mut answered = Instant::now();
    for _ in 0..20 {
        client.acquire("a", "k", json!({})).await;
        pauses += usize::from(answered.elapsed() > Duration::from_millis(500));
        answered = Instant::now();
    }
    let pings = relay.pings() - before;
    assert!(pings <= 2 * pauses, "asked {pings} times in {pauses} pauses");
}
