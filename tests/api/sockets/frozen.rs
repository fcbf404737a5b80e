//! A replica that freezes within a transaction: what it has locked, and its own request.
use futures_util::future::join;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{answer, connect, post, say};
use crate::{
    processes::{Running, acquire},
    support::{blocked, execute, variables},
};

#[tokio::test]
async fn a_replica_that_freezes_within_a_transaction_keeps_its_rows_for_a_moment_only() {
    let database = crate::support::database().await;
    let frozen = Running::start(variables(&database.url)).await;
    let other = Running::start(variables(&database.url)).await;
    let (status, ..) = frozen.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    assert_eq!(status, 200);
    let db = PgPool::connect(&database.url).await.expect("it answers");
    // The transition locks its row first and then waits for its audit row.
    let mut gate = db.begin().await.expect("a transaction");
    execute(&mut *gate, "lock table audit_log in share mode").await;
    let again = acquire("a", "k");
    let again = post("/locks/acquire", again.len(), &again)
        .replace("\r\nx-api-key", "\r\nidempotency-key: once\r\nx-api-key");
    let mut stream = connect(frozen.port).await;
    say(&mut stream, &again).await;
    blocked(&db, 1).await;
    frozen.signal("STOP");
    let body = json!({ "file_path": "k", "agent_id": "a" }).to_string();
    let released = other.request("POST", "/locks/release", &body);
    let opened = async {
        blocked(&db, 2).await;
        gate.rollback().await.expect("rolled back");
    };
    let ((status, _, released), ()) = join(released, opened).await;
    assert_eq!((status, &released["action"]), (200, &json!("released")), "{released}");
    frozen.signal("CONT");
    let text = answer(&mut stream).await;
    let (head, acquired) = text.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
    let acquired: Value = serde_json::from_str(acquired).expect("JSON");
    assert_eq!(acquired["action"], "acquired", "the request runs again with its key");
}
