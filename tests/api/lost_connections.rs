//! Connections to the database that end while the service keeps them ready: what the client notices, and
//! that nothing happens twice.
use futures_util::future::join_all;
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    relay::{Cut, Relay, relayed},
    support::{Answer, Client, FREE, Service, config, eventually, execute, scalar, variables},
};

async fn acquire(client: &Client, agent: &str, key: &str) -> Answer {
    let body = json!({ "file_path": key, "agent_id": agent, "agent_type": "t" });
    client.post("/locks/acquire", body).await
}

/// A service with one connection, which the test can end.
async fn start() -> (Service, Relay, Client) {
    let service = Service::start().await;
    let (relay, client, _) = relayed(&service.url, &[]).await;
    assert_eq!(acquire(&client, "a", "first").await.status, 200);
    assert_eq!(client.get("/locks").await.status, 200);
    (service, relay, client)
}

/// How many times a lock was acquired or refreshed.
async fn acquisitions(service: &Service, key: &str) -> i64 {
    let count = format!(
        "select count(*) from audit_log
         where operation = 'acquire_lock' and parameters->>'file_path' = '{key}'"
    );
    service.scalar(&count).await
}

#[tokio::test]
async fn a_read_does_not_notice_that_its_connection_has_ended() {
    let (_service, relay, client) = start().await;
    for cut in [Cut::BeforeNext, Cut::AfterNext] {
        relay.cut(cut);
        let answer = client.get("/locks").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json["count"], 1);
    }
}

#[tokio::test]
async fn pages_and_messages_without_an_operation_do_not_notice_it_either() {
    let (_service, relay, client) = start().await;
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        },
    });
    let ping = json!({ "jsonrpc": "2.0", "id": 2, "method": "ping" });
    let connection = client.post("/mcp", initialize.clone()).await;
    let id = connection.headers["mcp-session-id"].to_str().expect("plain ASCII").to_owned();
    let connected = client.clone().header("mcp-session-id", &id);
    for cut in [Cut::BeforeNext, Cut::AfterNext] {
        for page in ["/health", "/ready"] {
            relay.cut(cut);
            let answer = client.get(page).await;
            assert_eq!(answer.status, 200, "{page}: {}", answer.text);
        }
        for message in [&initialize, &ping] {
            relay.cut(cut);
            let answer = connected.post("/mcp", message.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    relay.cut(Cut::AfterNext);
    assert_eq!(connected.delete("/mcp").await.status, 204);
}

#[tokio::test]
async fn a_call_with_an_idempotency_key_has_its_effect_once_when_its_connection_ends() {
    let (service, relay, client) = start().await;
    for (n, cut) in [Cut::BeforeNext, Cut::AfterNext, Cut::AfterCommit].into_iter().enumerate() {
        let key = format!("k-{n}");
        relay.cut(cut);
        let answer = acquire(&client.clone().header("idempotency-key", &key), "a", &key).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json["action"], "acquired", "{}", answer.text);
        assert_eq!(acquisitions(&service, &key).await, 1);
    }
}

#[tokio::test]
async fn a_call_whose_effect_is_unknown_is_not_repeated() {
    let (service, relay, client) = start().await;
    relay.cut(Cut::AfterNext);
    let answer = acquire(&client, "a", "k").await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(acquisitions(&service, "k").await, 1);
    assert_eq!(acquire(&client, "a", "k").await.json["action"], "refreshed");
}

#[tokio::test]
async fn a_call_that_has_only_read_is_repeated() {
    let (service, relay, client) = start().await;
    // The trust of an agent that is new to the process is read before the lock is acquired.
    relay.cut(Cut::AfterNext);
    let answer = acquire(&client, "new", "k").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(acquisitions(&service, "k").await, 1);
}

#[tokio::test]
async fn all_connections_that_end_together_cost_at_most_one_request() {
    let server = throwaway::private().await.expect("a server");
    let url = server.url("postgres");
    let app = agent_coordinator::App::new(config(&variables(&url)));
    app.migrate().await.expect("an empty database is migrated");
    // Within this process in every mode of the tests: a function has one connection.
    let client = Client::new(agent_coordinator::router(app)).header("x-api-key", FREE);
    let db = PgPool::connect(&url).await.expect("the database answers");
    let open = "select count(*) from pg_stat_activity
        where application_name = 'agent-coordinator' and state = 'idle'";
    let used = async || {
        let reads = join_all((0..16).map(|_| client.get("/locks"))).await;
        assert!(reads.iter().all(|it: &Answer| it.status == 200));
        scalar::<i64>(&db, open).await
    };
    eventually("several connections are open", used, |open| *open >= 4).await;
    execute(
        &db,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'agent-coordinator'",
    )
    .await;
    let ended = async || scalar::<i64>(&db, open).await;
    eventually("all connections have ended", ended, |open| *open == 0).await;
    let mut refused = Vec::new();
    for n in 0..8 {
        let answer = acquire(&client, "a", &format!("k-{n}")).await;
        if answer.status != 200 {
            refused.push(answer.text);
        }
    }
    assert!(refused.len() <= 1, "{refused:?}");
    let reads = join_all((0..16).map(|_| client.get("/locks"))).await;
    let statuses: Vec<Value> = reads.iter().map(|it| json!(it.status.as_u16())).collect();
    assert_eq!(statuses, vec![json!(200); 16]);
}
