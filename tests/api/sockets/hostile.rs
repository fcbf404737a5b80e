//! Clients that are silent, slow or do not read: what they get, and what the others still get.
use std::collections::HashMap;

use agent_coordinator::{App, router};
use axum::body::{Body, Bytes, to_bytes};
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tower::ServiceExt as _;

use super::{LIVE, answer, connect, rest, say};
use crate::{
    processes::{Running, acquire, nowhere, request},
    support::{FREE, PATIENCE, blocked, config, eventually, execute, variables},
};

/// More answers than the buffers of the operating system take.
const PIPELINED: usize = 200;

/// The answers of that size, 150 KB, that may be begun for a client that reads none.
const BUFFERED: usize = 3;

/// Limits that never end a connection by time, with changes.
fn patient(url: &str, more: &[(&str, &str)]) -> HashMap<String, String> {
    let mut variables = variables(url);
    let base = [
        ("API_TIMEOUT_KEEP_ALIVE", "3600"),
        ("API_TIMEOUT_WRITE", "3600"),
        ("METRICS_PUBLIC", "true"),
    ];
    for (name, value) in base.iter().chain(more) {
        variables.insert((*name).to_owned(), (*value).to_owned());
    }
    variables
}

fn get(path: &str, key: &str) -> String {
    let key = if key.is_empty() { String::new() } else { format!("x-api-key: {key}\r\n") };
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{key}\r\n")
}

async fn metrics(port: u16) -> String {
    let mut stream = connect(port).await;
    say(&mut stream, &get("/metrics", FREE).replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"))
        .await;
    rest(&mut stream).await
}

/// A client that asks for many large pages and reads none of them.
async fn unread(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = socket.connect(address).await.expect("a connection");
    say(&mut stream, &get("/openapi.json", "").repeat(PIPELINED)).await;
    stream
}

/// Waits until the server has closed a connection, whatever is still to be read.
async fn closed(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let _ = reading.expect("the server closes the connection");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let mut running = Running::start(patient(&nowhere(), &[("API_TIMEOUT_WRITE", "1")])).await;
    let _unread = unread(running.port).await;
    let is_alone = |metrics: &String| metrics.contains("\ncoordinator_connections 1\n");
    let answered = "coordinator_requests_total{operation=\"/openapi.json\",status=\"200\"} ";
    let metrics = eventually(
        "the connection is closed",
        async || metrics(running.port).await,
        |metrics| is_alone(metrics) && metrics.contains(answered),
    )
    .await;
    // The next answer of a pipeline is built when the previous one is written, and the system's buffer for what is
    // written is small: its own size would be megabytes.
    let count = metrics.lines().find_map(|line| line.strip_prefix(answered)).expect("a count");
    assert!(count.parse::<usize>().expect("a number") <= BUFFERED, "{count}");
    let line = running.wait_for_line("a limit was reached").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!([&line["limit"], &line["address"]], ["write_time", "127.0.0.1"]);
    assert!(metrics.contains("coordinator_limits_reached_total{limit=\"write_time\"} 1\n"));
}

#[tokio::test]
async fn a_head_that_arrives_byte_by_byte_does_not_extend_its_time() {
    let mut running = Running::start(patient(&nowhere(), &[("API_TIMEOUT_KEEP_ALIVE", "1")])).await;
    let mut slow = connect(running.port).await;
    say(&mut slow, "GET /live HTTP/1.1\r\nx: ").await;
    let send = async || slow.write_all(b"x").await.is_err();
    eventually("the connection is closed", send, |is_closed| *is_closed).await;
    let line = running.wait_for_line("a limit was reached").await;
    assert!(line.contains("\"head_time\""), "{line}");
}

#[tokio::test]
async fn silent_and_slow_connections_make_room_for_others() {
    let running = Running::start(patient(&nowhere(), &[("API_MAX_CONNECTIONS", "3")])).await;
    let silent = connect(running.port).await;
    let mut slow = connect(running.port).await;
    say(&mut slow, "GET /live HTTP/1.1\r\nx: ").await;
    // Not one that does not read: without room, it ends after an answer that says so.
    let idle = connect(running.port).await;
    let mut live = connect(running.port).await;
    say(&mut live, LIVE).await;
    // Without room for others, a client without a key gets one answer.
    let text = rest(&mut live).await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("connection: close"), "{text}");
    let mut with_key = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(running.port).await;
        say(&mut stream, &get("/metrics", FREE)).await;
        assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
        with_key.push(stream);
    }
    for stream in [silent, slow, idle] {
        closed(stream).await;
    }
    for stream in &mut with_key {
        say(stream, &get("/metrics", FREE)).await;
        let metrics = answer(stream).await;
        let name = "coordinator_limits_reached_total{limit=\"connections\"} ";
        let count = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        assert_eq!(count, "3");
    }
}

#[tokio::test]
async fn a_connection_that_has_shown_a_key_is_closed_after_those_that_have_not() {
    let running = Running::start(patient(&nowhere(), &[("API_MAX_CONNECTIONS", "2")])).await;
    let mut with_key = connect(running.port).await;
    say(&mut with_key, &get("/metrics", FREE)).await;
    assert!(answer(&mut with_key).await.starts_with("HTTP/1.1 200 "));
    let later = connect(running.port).await;
    let mut newcomer = connect(running.port).await;
    say(&mut newcomer, LIVE).await;
    assert!(answer(&mut newcomer).await.starts_with("HTTP/1.1 200 "));
    closed(later).await;
    say(&mut with_key, &get("/metrics", FREE)).await;
    assert!(answer(&mut with_key).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn while_every_connection_is_in_work_only_the_state_of_the_service_is_answered() {
    let database = crate::support::database().await;
    let mut running = Running::start(patient(&database.url, &[("API_MAX_CONNECTIONS", "2")])).await;
    let port = running.port;
    running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    execute(&db, "update file_lock set expires_at = now()").await;
    let mut blocker = db.begin().await.expect("a transaction");
    execute(&mut *blocker, "select 1 as one from file_lock where workspace = 'default' for update")
        .await;
    let body = acquire("b", "k");
    let in_work = join_all([(); 2].map(|()| request(port, "POST", "/locks/acquire", &body)));
    let third = async {
        blocked(&db, 2).await;
        for page in ["/live", "/health"] {
            let mut third = connect(port).await;
            say(&mut third, &get(page, FREE)).await;
            let text = rest(&mut third).await;
            assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        }
        let mut third = connect(port).await;
        say(&mut third, &get("/ports/status", FREE)).await;
        let text = rest(&mut third).await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        assert!(text.contains("\r\nretry-after: 1\r\n"), "{text}");
        assert!(text.contains("{\"detail\":\"Service temporarily unavailable\",\"request_id\":"));
        let line = running.wait_for_line("a limit was reached").await;
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!([&line["limit"], &line["address"]], ["connections_in_work", "127.0.0.1"]);
        blocker.rollback().await.expect("rolled back");
    };
    let (answers, ()) = futures_util::future::join(in_work, third).await;
    for answered in answers {
        assert_eq!(answered.expect("an answer").2["success"], json!(true));
    }
    let (status, ..) = running.request("GET", "/ports/status", "").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_address_without_a_key_has_a_limit_of_requests_in_work() {
    let database = crate::support::database().await;
    let more = [
        ("API_MAX_REQUESTS_PER_ADDRESS", "1"),
        ("COORDINATION_PUBLIC_READS", "true"),
        ("READ_MAX_SECONDS", "10"),
    ];
    let mut running = Running::start(patient(&database.url, &more)).await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let mut blocker = db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in access exclusive mode").await;
    let mut in_work = connect(running.port).await;
    say(&mut in_work, &get("/locks", "")).await;
    blocked(&db, 1).await;
    let mut refused = connect(running.port).await;
    say(&mut refused, &get("/locks", "")).await;
    let text = answer(&mut refused).await;
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nretry-after: 1\r\n"), "{text}");
    let line = running.wait_for_line("a limit was reached").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!([&line["limit"], &line["address"]], ["requests_per_address", "127.0.0.1"]);
    say(&mut refused, &get("/ports/status", FREE)).await;
    assert!(answer(&mut refused).await.starts_with("HTTP/1.1 200 "), "a key lifts the limit");
    blocker.rollback().await.expect("rolled back");
    assert!(answer(&mut in_work).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn half_of_the_connections_are_left_to_clients_with_a_key() {
    let database = crate::support::database().await;
    let more = [
        ("API_MAX_CONNECTIONS", "4"),
        ("COORDINATION_PUBLIC_READS", "true"),
        ("READ_MAX_SECONDS", "10"),
    ];
    let running = Running::start(patient(&database.url, &more)).await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let mut blocker = db.begin().await.expect("a transaction");
    execute(&mut *blocker, "lock table file_lock in access exclusive mode").await;
    let mut in_work = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(running.port).await;
        say(&mut stream, &get("/locks", "")).await;
        in_work.push(stream);
    }
    blocked(&db, 2).await;
    let mut refused = connect(running.port).await;
    say(&mut refused, &get("/locks", "")).await;
    let text = answer(&mut refused).await;
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("\r\nretry-after: 1\r\n"), "{text}");
    for path in ["/live", "/health"] {
        say(&mut refused, &get(path, "")).await;
        assert!(answer(&mut refused).await.starts_with("HTTP/1.1 200 "));
    }
    let (status, ..) = running.request("GET", "/ports/status", "").await;
    assert_eq!(status, 200);
    blocker.rollback().await.expect("rolled back");
    for stream in &mut in_work {
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn all_answers_with_a_document_share_its_bytes() {
    let router = router(App::new(config(&variables(&nowhere()))));
    let bytes = async |path: &str| -> Bytes {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answered = router.clone().oneshot(request).await.expect("an answer");
        to_bytes(answered.into_body(), usize::MAX).await.expect("its bytes")
    };
    for path in ["/openapi.json", "/docs"] {
        let (one, other) = (bytes(path).await, bytes(path).await);
        assert!(!one.is_empty());
        assert_eq!(one.as_ptr(), other.as_ptr(), "{path}");
    }
}
