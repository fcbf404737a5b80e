//! How many round trips to Postgres a request takes, counted on the wire.
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{relay::relayed, support::Service};

#[tokio::test]
async fn a_lock_request_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, boss) = relayed(&service.url, &[]).await;
    let session = json!({ "session_id": "s" });
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, last_heartbeat_at)
             values ('default', 'a', 's', 't', clock_timestamp() - interval '1 hour')",
        )
        .await;
    let verify = json!({ "locks": [{ "file_path": "k", "fencing_token": 1 }] });
    let step = async |name: &str| -> Value {
        match name {
            "acquired" => client.acquire("a", "k", session.clone()).await,
            "refreshed" => client.acquire("a", "k", json!({})).await,
            "refused" => client.acquire("b", "k", json!({})).await,
            "out of range" => client.acquire("a", "k", json!({ "ttl_minutes": 999 })).await,
            "not released" => client.release("b", "k", json!({})).await,
            "released" => client.release("a", "k", json!({})).await,
            "nothing to free" => boss.delete("/locks/k").await.json,
            "verified" => client.post("/locks/verify", verify.clone()).await.json,
            "status" => client.get("/locks/status/k").await.json,
            _ => client.get("/locks").await.json,
        }
    };
    let steps = [
        "acquired",
        "refreshed",
        "refused",
        "out of range",
        "verified",
        "status",
        "list",
        "not released",
        "released",
        "nothing to free",
    ];
    // The first round prepares the statements and caches the standings.
    for name in steps {
        step(name).await;
    }
    for name in steps {
        let before = relay.count();
        let answer = step(name).await;
        assert_eq!(relay.count() - before, 1, "{name}: {answer}");
    }
    let before = relay.count();
    client.acquire("a", "freed", json!({})).await;
    boss.delete("/locks/freed").await;
    assert_eq!(relay.count() - before, 2, "a forced release is one too");
}

#[tokio::test]
async fn a_guardrail_check_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    for text in ["git status", "rm -rf /"] {
        let check = async || {
            let answer = client.post("/guardrails/check", json!({ "operation_text": text })).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        };
        check().await;
        let before = relay.count();
        check().await;
        assert_eq!(relay.count() - before, 1, "{text}");
    }
}

#[tokio::test]
async fn handoffs_ports_and_sessions_are_one_round_trip_each() {
    let service = Service::start().await;
    let (relay, client, boss) = relayed(&service.url, &[]).await;
    let session = json!({ "agent_id": "a", "session_id": "s" });
    let steps = [
        ("/discovery/register", session.clone()),
        ("/ports/allocate", session.clone()),
        ("/ports/release", session.clone()),
        ("/handoffs/write", json!({ "agent_id": "a", "session_id": "s", "summary": "x" })),
        ("/handoffs/write", json!({ "agent_id": "a", "summary": " " })),
        ("/handoffs/read", json!({ "limit": 5 })),
        ("/discovery/deregister", session),
        ("/discovery/cleanup", json!({})),
    ];
    // The first round prepares the statements and caches the standings.
    for round in 0..2 {
        for (path, body) in &steps {
            let client = if *path == "/discovery/cleanup" { &boss } else { &client };
            let before = relay.count();
            let answer = client.post(path, body.clone()).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            assert!(round == 0 || relay.count() - before == 1, "{path}: {}", answer.text);
        }
        for path in ["/audit?agent_id=a", "/ports/status", "/discovery/agents"] {
            let before = relay.count();
            assert_eq!(client.get(path).await.status, 200, "{path}");
            assert!(round == 0 || relay.count() - before == 1, "{path}");
        }
    }
}

#[tokio::test]
async fn a_policy_check_is_one_round_trip_with_either_engine() {
    let service = Service::start().await;
    for engine in ["native", "cedar"] {
        let (relay, client, boss) = relayed(&service.url, &[("POLICY_ENGINE", engine)]).await;
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
                assert!(warm || relay.count() - before == expected, "{engine} {name}");
            }
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
    let plain = json!({ "agent_id": "a" });
    let worded = json!({ "agent_id": "a", "query": "pool" });
    recall(plain.clone()).await;
    assert_eq!(recall(plain.clone()).await, 1, "without words nothing is asked about an index");
    // All statements are prepared by now, except the one that a process executes once.
    assert_eq!(recall(worded.clone()).await, 3, "to prepare the question, to ask it, to search");
    for _ in 0..3 {
        assert_eq!(recall(worded.clone()).await, 1);
    }
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
async fn each_transition_of_a_task_is_one_round_trip() {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    for round in 0..2 {
        let step = async |path: &str, body: Value| {
            let before = relay.count();
            let answer = client.post(path, body).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            assert!(round == 0 || relay.count() - before == 1, "{path}: {}", answer.text);
            answer.json
        };
        let task = json!({ "task_type": "t", "task_description": "d", "agent_id": "a" });
        let blocked = json!({ "task_type": "t", "task_description": "rm -rf /", "agent_id": "a" });
        let agent = json!({ "agent_id": "a", "agent_type": "t" });
        let id = step("/work/submit", task).await["task_id"].clone();
        step("/work/submit", blocked).await;
        step("/work/claim", agent.clone()).await;
        step("/work/claim", agent).await;
        step("/work/renew", json!({ "agent_id": "a", "task_id": id })).await;
        step("/work/get", json!({ "agent_id": "a", "task_id": id })).await;
        let report =
            json!({ "agent_id": "a", "task_id": id, "success": true, "result": { "n": 1 } });
        step("/work/complete", report.clone()).await;
        step("/work/complete", report).await;
        step("/work/cancel", json!({ "agent_id": "a", "task_id": id })).await;
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
