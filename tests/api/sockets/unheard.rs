//! Clients that go away before they are answered.
use serde_json::json;

use super::{connect, post, say};
use crate::{
    processes::{Running, acquire},
    support::{Client, FREE, Service, eventually, variables},
    transport::Transport,
};

/// Statements of the service that run.
const RUNNING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'agent-coordinator'
        and state <> 'idle'";

#[tokio::test]
async fn a_grant_that_nobody_heard_is_told_to_its_agent_and_ends_with_its_lease() {
    let service = Service::start().await;
    let running = Running::start(variables(&service.url)).await;
    let send_and_go = async |key: &str, is_heard_by_the_database: bool| {
        let body = acquire("a", key);
        let mut stream = connect(running.port).await;
        say(&mut stream, &post("/locks/acquire", body.len(), &body)).await;
        if is_heard_by_the_database {
            let held = format!("select count(*) from file_lock where key = '{key}'");
            let held = async || service.scalar::<i64>(&held).await;
            eventually("the lock is granted", held, |count| *count == 1).await;
        }
    };
    for n in 0..10 {
        send_and_go(&format!("at-once-{n}"), false).await;
        send_and_go(&format!("granted-{n}"), true).await;
    }
    let server = Client::over(Transport::at(running.port)).header("x-api-key", FREE);
    let unfinished = async || {
        let metrics = server.get("/metrics").await.text;
        (service.scalar::<i64>(RUNNING).await, metrics)
    };
    eventually("every request has ended", unfinished, |(statements, metrics)| {
        *statements == 0 && metrics.contains("\ncoordinator_requests_in_flight 1\n")
    })
    .await;
    let client = service.client();
    for n in 0..10 {
        // To other agents, it is held.
        let granted = format!("granted-{n}");
        let refused = client.acquire("b", &granted, json!({})).await;
        assert_eq!(
            (&refused["reason"], &refused["locked_by"]),
            (&json!("locked_by_other"), &json!("a"))
        );
        let again = client.acquire("a", &granted, json!({})).await;
        assert_eq!((&again["action"], &again["fencing_token"]), (&json!("refreshed"), &json!(1)));
        // Whether or not the database has granted it meanwhile, the agent gets it, under one token.
        let again = client.acquire("a", &format!("at-once-{n}"), json!({})).await;
        assert_eq!((&again["success"], &again["fencing_token"]), (&json!(true), &json!(1)));
    }
    let grants = "select count(*) from audit_log where result ->> 'action' = 'acquired'";
    assert_eq!(service.scalar::<i64>(grants).await, 20);
    service.expire("granted-0").await;
    let taken = client.acquire("b", "granted-0", json!({})).await;
    assert_eq!((&taken["action"], &taken["fencing_token"]), (&json!("acquired"), &json!(2)));
}
