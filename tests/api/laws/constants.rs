//! Constants that the code and the database both know.
use agent_coordinator::{Config, Home};
use serde_json::json;

use crate::support::{Service, variables};

#[tokio::test]
async fn the_heartbeat_interval_is_the_same_in_the_process_and_in_the_database() {
    let service = Service::start().await;
    let mut in_process = None;
    let variables = variables(&service.url);
    let config = Config::parse(Home::Server, |name| variables.get(name).cloned());
    let _ = config.expect("a valid configuration").with_timings(|timings| {
        in_process = Some(timings.heartbeat_interval.as_secs());
    });
    let sql = "select extract(epoch from heartbeat_interval())::int as seconds";
    assert_eq!(service.rows(sql).await, [json!({ "seconds": in_process })]);
}

#[tokio::test]
async fn stored_answers_live_as_long_as_the_documents_say() {
    let service = Service::start().await;
    let sql = "select extract(epoch from idempotency_key_lifetime())::int / 3600 as hours";
    let hours = service.rows(sql).await[0]["hours"].clone();
    let document = include_str!("../../../docs/api-design.md");
    assert!(document.contains(&format!("{hours} hours")), "docs/api-design.md lacks {hours} hours");
}
