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
    let body = json!({ "file_path": "k", "agent_id": "a" }).to_string();
    let release = post("/locks/release", body.len(), &body)
        .replace("\r\nx-api-key", "\r\nidempotency-key: once\r\nx-api-key");
    let mut stream = connect(frozen.port).await;
    say(&mut stream, &release).await;
    blocked(&db, 1).await;
    frozen.signal("STOP");
    let body = acquire("b", "k");
    let refused = other.request("POST", "/locks/acquire", &body);
    let opened = async {
        blocked(&db, 2).await;
        gate.rollback().await.expect("rolled back");
    };
    let ((status, _, refused), ()) = join(refused, opened).await;
    assert_eq!((status, &refused["reason"]), (200, &json!("locked_by_other")), "{refused}");
    frozen.signal("CONT");
    let text = answer(&mut stream).await;
    let (head, released) = text.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("HTTP/1.1 200 "), "{text}");
    let released: Value = serde_json::from_str(released).expect("JSON");
    assert_eq!(released["success"], json!(true), "the request runs again with its key");
    let (_, _, acquired) = other.request("POST", "/locks/acquire", &body).await;
    assert_eq!(acquired["success"], json!(true));
}
