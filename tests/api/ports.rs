//! Ports, literally as the contract has them.
use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, Service, TEAM};

#[track_caller]
fn assert_keys(answer: &Value, expected: &[&str]) {
    let keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
}

async fn allocate(client: &Client, agent: &str, session: &str) -> Value {
    let body = json!({ "agent_id": agent, "session_id": session });
    let answer = client.post("/ports/allocate", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn release(client: &Client, agent: &str, session: &str) -> Value {
    let body = json!({ "agent_id": agent, "session_id": session });
    let answer = client.post("/ports/release", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn status(client: &Client) -> Vec<Value> {
    let answer = client.get("/ports/status").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json.as_array().expect("a bare array").clone()
}

async fn expire(service: &Service, session: &str) {
    service
        .execute(&format!(
            "update port_block set expires_at = now() - interval '1 second'
             where session_id = '{session}'"
        ))
        .await;
}

async fn register(client: &Client, agent: &str, session: &str) {
    let body = json!({ "agent_id": agent, "session_id": session });
    assert_eq!(client.post("/discovery/register", body).await.status, 200);
}

fn refusal(error: &str) -> Value {
    json!({ "success": false, "error": error })
}

#[tokio::test]
async fn a_session_gets_the_lowest_free_ports() {
    let service = Service::start().await;
    let client = service.client();
    let mut answer = allocate(&client, "claude-1", "s-1").await;
    assert_keys(&answer, &["success", "allocation", "env_snippet"]);
    assert_keys(
        &answer["allocation"],
        &[
            "session_id",
            "db_port",
            "rest_port",
            "realtime_port",
            "api_port",
            "compose_project_name",
            "expires_at",
        ],
    );
    let expires_at = answer["allocation"]["expires_at"].take();
    assert!(expires_at.as_str().is_some_and(|it| it.ends_with("+00:00")));
    assert_eq!(
        answer,
        json!({
            "success": true,
            "allocation": {
                "session_id": "s-1", "db_port": 10000, "rest_port": 10001, "realtime_port": 10002,
                "api_port": 10003, "compose_project_name": "ac-6a840baf", "expires_at": null,
            },
            "env_snippet": "export AGENT_COORDINATOR_DB_PORT=10000\n\
                export AGENT_COORDINATOR_REST_PORT=10001\n\
                export AGENT_COORDINATOR_REALTIME_PORT=10002\n\
                export API_PORT=10003\n\
                export COMPOSE_PROJECT_NAME=ac-6a840baf\n\
                export SUPABASE_URL=http://localhost:10001",
        })
    );
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("allocate_ports"), &json!(true)));
    assert_eq!(audit["parameters"], json!({ "session_id": "s-1" }));
    assert_eq!((&audit["result"], &audit["agent_id"]), (&json!({ "slot": 0 }), &json!("claude-1")));
    assert_eq!(allocate(&client, "b", "s-2").await["allocation"]["db_port"], 10100);
    assert_eq!(allocate(&client, "c", "s-3").await["allocation"]["db_port"], 10200);
    release(&client, "b", "s-2").await;
    assert_eq!(allocate(&client, "d", "s-4").await["allocation"]["db_port"], 10100);
    let ttl: bool = service
        .scalar(
            "select bool_and(expires_at - allocated_at between interval '119 minutes 59 seconds'
                and interval '120 minutes 1 second') from port_block",
        )
        .await;
    assert!(ttl);
}

#[tokio::test]
async fn a_repeat_keeps_the_ports_for_longer() {
    let service = Service::start().await;
    let client = service.client();
    let first = allocate(&client, "a", "s").await;
    allocate(&client, "b", "other").await;
    let again = allocate(&client, "a", "s").await;
    for name in ["db_port", "rest_port", "realtime_port", "api_port", "compose_project_name"] {
        assert_eq!(again["allocation"][name], first["allocation"][name], "{name}");
    }
    let until = |it: &Value| it["allocation"]["expires_at"].as_str().expect("a time").to_owned();
    assert!(until(&again) > until(&first));
    assert_eq!(service.last_audit().await["result"], json!({ "slot": 0 }));
    let order: Vec<_> = status(&client).await.iter().map(|it| it["session_id"].clone()).collect();
    assert_eq!(order, ["s", "other"], "a repeat is no new allocation");
}

#[tokio::test]
async fn twenty_sessions_at_once_get_twenty_slots_and_the_next_one_none() {
    let service = Service::start().await;
    let client = service.client();
    let answers = join_all((0..20).map(|n| {
        let client = client.clone();
        async move { allocate(&client, &format!("agent-{n}"), &format!("s-{n}")).await }
    }))
    .await;
    let ports: HashSet<_> = answers.iter().map(|it| it["allocation"]["db_port"].as_i64()).collect();
    let expected: HashSet<_> = (0..20).map(|n| Some(10_000 + 100 * n)).collect();
    assert_eq!(ports, expected);
    let slots: i64 = service.scalar("select count(distinct slot) from port_block").await;
    assert_eq!(slots, 20);
    let full = allocate(&client, "late", "s-20").await;
    assert_eq!(full, refusal("no_ports_available"));
    let audit = service.last_audit().await;
    assert_eq!(audit["success"], false);
    assert_eq!(audit["result"], json!({ "reason": "no_ports_available" }));
    assert_eq!(allocate(&client, "agent-7", "s-7").await["success"], true, "its own");
    expire(&service, "s-13").await;
    let freed = &answers[13]["allocation"]["db_port"];
    assert_eq!(allocate(&client, "late", "s-20").await["allocation"]["db_port"], *freed);
}

#[tokio::test]
async fn more_callers_than_slots_fill_each_slot_once() {
    let service = Service::with(&[("PORT_ALLOC_MAX_SESSIONS", "3")]).await;
    let client = service.client();
    for _ in 0..3 {
        let answers = join_all((0..12).map(|n| {
            let client = client.clone();
            async move { allocate(&client, "a", &format!("s-{n}")).await }
        }))
        .await;
        let won: HashSet<_> = answers
            .iter()
            .filter(|it| it["success"] == true)
            .map(|it| it["allocation"]["db_port"].as_i64())
            .collect();
        assert_eq!(won, [10_000, 10_100, 10_200].map(Some).into());
        assert_eq!(answers.iter().filter(|it| **it == refusal("no_ports_available")).count(), 9);
        service.execute("update port_block set expires_at = now()").await;
    }
    let twins = join_all((0..8).map(|_| allocate(&client, "a", "twin"))).await;
    assert!(twins.iter().all(|it| it["allocation"]["db_port"] == 10_000), "{twins:?}");
    assert_eq!(status(&client).await.len(), 1);
}

#[tokio::test]
async fn only_its_agent_or_an_admin_uses_a_block_of_ports() {
    let service = Service::start().await;
    let client = service.client();
    allocate(&client, "a", "s").await;
    let foreign = refusal("session_owned_by_other_agent");
    assert_eq!(allocate(&client, "b", "s").await, foreign);
    let audit = service.last_audit().await;
    assert_eq!(audit["result"], json!({ "reason": "session_owned_by_other_agent" }));
    let not_owner = refusal("not_owner");
    assert_eq!(release(&client, "b", "s").await, not_owner);
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("release_ports"), &json!(false)));
    assert_eq!(audit["result"], json!({ "reason": "not_owner" }));
    // A bound key acts as its own agent whatever the body says.
    assert_eq!(release(&service.client_with(CODEX), "a", "s").await, not_owner);
    assert_eq!(allocate(&service.client_with(CODEX), "a", "s").await, foreign);
    assert_eq!(status(&client).await.len(), 1);
    assert_eq!(release(&client, "a", "s").await, json!({ "success": true }));
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"], json!({ "session_id": "s" }));
    assert_eq!((&audit["result"], &audit["success"]), (&json!({ "slot": 0 }), &json!(true)));
    assert_eq!(release(&client, "a", "s").await, json!({ "success": true }));
    assert_eq!(service.last_audit().await["result"], json!({ "slot": null }));
    allocate(&client, "a", "s").await;
    let boss = service.client_with(BOSS);
    assert_eq!(release(&boss, "", "s").await, json!({ "success": true }), "trust 3");
    assert!(status(&client).await.is_empty());
    allocate(&client, "b", "s").await;
    expire(&service, "s").await;
    assert_eq!(allocate(&client, "a", "s").await["success"], true, "an expired block is free");
}

#[tokio::test]
async fn the_status_shows_live_blocks_in_order_of_allocation() {
    let service = Service::with(&[("COORDINATION_PUBLIC_READS", "true")]).await;
    let client = service.client();
    assert_eq!(client.get("/ports/status").await.text, "[]");
    for session in ["s-1", "s-2", "s-3"] {
        allocate(&client, "a", session).await;
    }
    release(&client, "a", "s-1").await;
    let newest = allocate(&client, "a", "s-4").await;
    expire(&service, "s-3").await;
    allocate(&service.client_with(TEAM), "t", "secret").await;
    let blocks = status(&client).await;
    let sessions: Vec<_> = blocks.iter().map(|it| &it["session_id"]).collect();
    assert_eq!(sessions, ["s-2", "s-4"]);
    let block = &blocks[1];
    assert_keys(
        block,
        &[
            "session_id",
            "db_port",
            "rest_port",
            "realtime_port",
            "api_port",
            "compose_project_name",
            "remaining_ttl_minutes",
            "agent_id",
            "expires_at",
        ],
    );
    for name in
        ["session_id", "db_port", "rest_port", "api_port", "compose_project_name", "expires_at"]
    {
        assert_eq!(block[name], newest["allocation"][name], "{name}");
    }
    assert_eq!((&block["db_port"], &block["agent_id"]), (&json!(10_000), &json!("a")));
    let left = block["remaining_ttl_minutes"].as_f64().expect("a number");
    assert!(block["remaining_ttl_minutes"].is_f64() && (119.0..=120.0).contains(&left), "{left}");
    assert_eq!(status(&service.anonymous()).await.len(), 2, "workspace `default` only");
    assert_eq!(status(&service.client_with(TEAM)).await.len(), 1);
    assert_eq!(client.post("/ports/status", json!({})).await.status, 405);
}

#[tokio::test]
async fn workspaces_have_slots_of_their_own() {
    let service = Service::start().await;
    let (client, team) = (service.client(), service.client_with(TEAM));
    assert_eq!(allocate(&client, "a", "s").await["allocation"]["db_port"], 10_000);
    assert_eq!(allocate(&team, "b", "s").await["allocation"]["db_port"], 10_000);
    assert_eq!(release(&team, "b", "s").await["success"], true);
    assert_eq!(status(&client).await.len(), 1);
}

#[tokio::test]
async fn ports_of_an_ended_session_are_free_and_are_not_restored() {
    let service = Service::with(&[("PORT_ALLOC_MAX_SESSIONS", "1")]).await;
    let client = service.client();
    register(&client, "a", "s").await;
    allocate(&client, "a", "s").await;
    assert_eq!(allocate(&client, "b", "other").await, refusal("no_ports_available"));
    service
        .execute("update agent_session set last_heartbeat_at = now() - interval '121 minutes'")
        .await;
    assert!(status(&client).await.is_empty());
    // The next heartbeat revives the session. Its block stays lost and has to be allocated again.
    register(&client, "a", "s").await;
    assert!(status(&client).await.is_empty());
    assert_eq!(allocate(&client, "b", "s").await["success"], true, "the lost block is free");
    release(&client, "b", "s").await;
    service.execute("update agent_session set ended_at = now()").await;
    assert_eq!(allocate(&client, "a", "s").await["success"], true, "the call itself revives it");
    assert_eq!(status(&client).await.len(), 1);
    service.execute("update agent_session set ended_at = now()").await;
    assert_eq!(allocate(&client, "b", "other").await["allocation"]["db_port"], 10_000);
}

#[tokio::test]
async fn a_session_must_be_named() {
    let service = Service::start().await;
    let client = service.client().header("x-session-id", "header");
    let before = service.contents().await;
    for path in ["/ports/allocate", "/ports/release"] {
        for (body, kind) in [
            (json!({}), "missing"),
            (json!({ "session_id": null }), "string_type"),
            (json!({ "session_id": "s".repeat(257) }), "string_too_long"),
            (json!({ "session_id": "a\0" }), "value_error"),
        ] {
            let issues = client.post(path, body.clone()).await.issues();
            assert_eq!(issues, [(kind.to_owned(), json!(["body", "session_id"]))], "{path} {body}");
        }
    }
    let issues = client.post("/ports/allocate", json!({ "session_id": "" })).await.issues();
    assert_eq!(issues, [("value_error".to_owned(), json!(["body", "session_id"]))]);
    assert_eq!(service.contents().await, before);
    assert_eq!(release(&client, "a", "").await, json!({ "success": true }), "nothing allocated");
}

#[tokio::test]
async fn base_range_and_slots_are_configured() {
    let service = Service::with(&[
        ("PORT_ALLOC_BASE", "20000"),
        ("PORT_ALLOC_RANGE", "4"),
        ("PORT_ALLOC_MAX_SESSIONS", "2"),
        ("PORT_ALLOC_TTL_MINUTES", "1"),
    ])
    .await;
    let client = service.client();
    assert_eq!(allocate(&client, "a", "s-1").await["allocation"]["api_port"], 20_003);
    assert_eq!(allocate(&client, "a", "s-2").await["allocation"]["db_port"], 20_004);
    assert_eq!(allocate(&client, "a", "s-3").await, refusal("no_ports_available"));
    let left = status(&client).await[0]["remaining_ttl_minutes"].as_f64().expect("a number");
    assert!(left <= 1.0, "{left}");
}

#[tokio::test]
async fn a_stored_answer_is_given_again_only_when_it_took_effect() {
    let service = Service::with(&[("PORT_ALLOC_MAX_SESSIONS", "1")]).await;
    let client = service.client();
    allocate(&client, "b", "other").await;
    let once = service.client().header("idempotency-key", "k");
    assert_eq!(allocate(&once, "a", "s").await, refusal("no_ports_available"));
    release(&client, "b", "other").await;
    let first = allocate(&once, "a", "s").await;
    assert_eq!(first["success"], true);
    assert_eq!(allocate(&once, "a", "s").await, first, "the very same answer");
}
