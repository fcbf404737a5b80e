//! The shares of the database connections: what one workspace leaves to the others.
use futures_util::future::{join, join_all};
use serde_json::Value;
use sqlx::PgPool;

use super::{answer, connect, say};
use crate::{
    processes::Running,
    support::{FREE, TEAM, blocked, eventually, execute, scalar, with_more},
};

async fn get(port: u16, path: &str, key: &str) -> String {
    let mut stream = connect(port).await;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {key}\r\n\r\n");
    say(&mut stream, &head).await;
    answer(&mut stream).await
}

/// Returns how many requests are in flight, those for metrics not included.
async fn in_flight(port: u16) -> usize {
    let metrics = get(port, "/metrics", FREE).await;
    let name = "coordinator_requests_in_flight ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
    count.parse::<usize>().expect("a number") - 1
}

/// How many statements of the service wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock'";

#[tokio::test]
async fn a_workspace_whose_statements_do_not_end_leaves_a_connection_to_others() {
    let database = crate::support::database().await;
    let more = [("POSTGRES_POOL_MAX", "4"), ("READ_MAX_SECONDS", "10"), ("METRICS_PUBLIC", "true")];
    let mut running = Running::start(with_more(&database.url, &more)).await;
    let port = running.port;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let mut blocker = db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in access exclusive mode").await;
    let of_default = join_all([(); 6].map(|()| get(port, "/locks", FREE)));
    let of_others = async {
        let what = "all requests of the workspace are in flight";
        eventually(what, async || in_flight(port).await, |count| *count == 6).await;
        blocked(&db, 3).await;
        assert!(get(port, "/ports/status", TEAM).await.starts_with("HTTP/1.1 200 "));
        assert!(get(port, "/health", "").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(scalar::<i64>(&db, WAITING).await, 3, "one connection is left to others");
        let beside = join(get(port, "/locks", TEAM), async {
            blocked(&db, 4).await;
            let told = join(get(port, "/locks", FREE), async {
                let line = running.wait_for_line("database_share").await;
                let line: Value = serde_json::from_str(&line).expect("JSON");
                assert_eq!([&line["limit"], &line["workspace"]], ["database_share", "default"]);
                blocker.rollback().await.expect("rolled back");
            });
            told.await
        });
        let (of_team, _) = beside.await;
        assert!(of_team.starts_with("HTTP/1.1 200 "), "{of_team}");
    };
    // The statements that do not end are answered once they can; a request that has waited for a connection
    // for too long is answered too.
    let (answers, ()) = join(of_default, of_others).await;
    assert!(answers.iter().filter(|it| it.starts_with("HTTP/1.1 200 ")).count() >= 3);
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended_and_says_so() {
    let database = crate::support::database().await;
    let mut running = Running::start(with_more(&database.url, &[("READ_MAX_SECONDS", "1")])).await;
    let port = running.port;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let mut blocker = db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in access exclusive mode").await;
    let text = get(port, "/locks", TEAM).await;
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nretry-after: 1\r\n"), "{text}");
    assert!(text.contains("\"detail\":\"The read took longer than 1 s: narrow it, "), "{text}");
    let line = running.wait_for_line("a limit was reached").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!([&line["limit"], &line["workspace"]], ["read_time", "team"]);
    let what = "the database ends the statement, although its table is still locked";
    eventually(what, async || scalar::<i64>(&db, WAITING).await, |count| *count == 0).await;
    assert!(get(port, "/ports/status", TEAM).await.starts_with("HTTP/1.1 200 "));
    blocker.rollback().await.expect("rolled back");
}
