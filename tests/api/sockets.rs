//! The server on real sockets: its threads, limits, log and shutdown.
mod frozen;
mod hostile;
mod raw;
mod shares;
mod unheard;

use std::{collections::HashMap, time::Duration};

use agent_coordinator::{App, listen, router};
use futures_util::future::{join, join3};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use crate::{
    processes::{Running, acquire, nowhere, request},
    support::{CODEX, FREE, PATIENCE, Service, blocked, config, eventually, execute, variables},
};

const LIVE: &str = "GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n";

fn post(path: &str, length: usize, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {FREE}\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.expect("a connection")
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.expect("sent");
}

/// Everything until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await;
    reading.expect("the server closes the connection").expect("read to the end");
    text
}

/// One answer of a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            if body.len() >= length {
                return text.into_owned();
            }
        }
        let reading = tokio::time::timeout(PATIENCE, stream.read_buf(&mut bytes)).await;
        let count = reading.expect("the server answers").expect("bytes");
        assert!(count > 0, "closed early");
    }
}

/// Runs a server within this process during `act`, which gets its port.
async fn served<T>(app: &App, act: impl AsyncFnOnce(u16) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = listen(listener, router(app.clone()), app, async {
        let _ = stopped.await;
    });
    let acted = async {
        let result = act(port).await;
        drop(stop);
        result
    };
    let (served, result) = join(served, acted).await;
    served.expect("served");
    result
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn api_workers_is_the_number_of_worker_threads() {
    async fn threads(workers: &str) -> usize {
        let mut variables = variables(&nowhere());
        variables.insert("API_WORKERS".to_owned(), workers.to_owned());
        let running = Running::start(variables).await;
        let tasks = format!("/proc/{}/task", running.child.id().expect("running"));
        let tasks = std::fs::read_dir(tasks).expect("threads");
        let names = tasks.map(|it| std::fs::read_to_string(it.expect("one").path().join("comm")));
        names.filter(|it| it.as_ref().is_ok_and(|it| it.starts_with("tokio"))).count()
    }
    let (one, three) = (threads("1").await, threads("3").await);
    assert_eq!(three - one, 2, "{one} and {three}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_408_and_the_connection_closed() {
    let limit = Duration::from_millis(300);
    let app =
        App::new(config(&variables(&nowhere())).with_timings(|timings| timings.body_time = limit));
    let (before, text) = served(&app, async |port| {
        let before = std::time::Instant::now();
        let mut stream = connect(port).await;
        say(&mut stream, &post("/locks/acquire", 100, "{\"file_path\":")).await;
        (before, rest(&mut stream).await)
    })
    .await;
    assert!(before.elapsed() >= limit);
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(text.ends_with("{\"detail\":\"Request body took too long\"}"), "{text}");
    assert!(text.contains("\r\nx-request-id: "), "{text}");
}

#[tokio::test]
async fn a_request_that_waits_outlasts_the_keep_alive_and_the_body_time() {
    let service = Service::start().await;
    let mut variables = variables(&service.url);
    variables.insert("API_TIMEOUT_KEEP_ALIVE".to_owned(), "1".to_owned());
    let app = App::new(
        config(&variables).with_timings(|timings| timings.body_time = Duration::from_millis(100)),
    );
    service.client().acquire("a", "k", json!({})).await;
    service.expire("k").await;
    let mut blocker = service.db.begin().await.expect("a transaction");
    execute(&mut *blocker, "select 1 as one from file_lock where workspace = 'default' for update")
        .await;
    let answered = served(&app, async |port| {
        let body = acquire("b", "k");
        let unblock = async {
            blocked(&service.db, 1).await;
            // From here on the request waits at least as long as an idle connection lives.
            let mut idle = connect(port).await;
            assert_eq!(rest(&mut idle).await, "");
            blocker.rollback().await.expect("rolled back");
        };
        join(request(port, "POST", "/locks/acquire", &body), unblock).await.0
    })
    .await;
    let (status, _, answer) = answered.expect("an answer");
    assert_eq!((status, &answer["action"]), (200, &json!("acquired")));
}

#[tokio::test]
async fn connections_made_before_the_shutdown_are_answered_once_more() {
    let app = App::new(config(&variables(&nowhere())));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(port).await;
        say(&mut stream, LIVE).await;
        streams.push(stream);
    }
    // Stopped before it has accepted any of them.
    listen(listener, router(app.clone()), &app, async {}).await.expect("served");
    for mut stream in streams {
        let text = rest(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 200 "), "{text:?}");
        assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    }
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn a_request_head_over_64_kib_is_refused() {
    let running = Running::start(variables(&nowhere())).await;
    let head = |bytes: usize| {
        let start = "GET /live HTTP/1.1\r\nhost:localhost\r\nx:";
        let rest = bytes - start.len() - "\r\n\r\n".len();
        format!("{start}{}\r\n\r\n", "x".repeat(rest))
    };
    let mut stream = connect(running.port).await;
    say(&mut stream, &head(64 << 10)).await;
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
    for bytes in [(64 << 10) + 1, 100_000] {
        let mut stream = connect(running.port).await;
        say(&mut stream, &head(bytes)).await;
        let text = rest(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 431 "), "{bytes}: {text}");
    }
    // The connection can be closed before all bytes beyond the limit are sent.
    let (mut read, mut write) = stream.split();
    let (long, mut text) = (head(200_000), Vec::new());
    let (_, _) = join(write.write_all(long.as_bytes()), read.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[tokio::test]
async fn a_request_has_one_log_line_and_no_line_holds_a_secret() {
    let database = crate::support::database().await;
    let mut variables: HashMap<_, _> = variables(&database.url);
    variables.insert("API_ACCESS_LOG".to_owned(), "true".to_owned());
    variables.insert("RUST_LOG".to_owned(), "debug".to_owned());
    let running = Running::start(variables).await;
    let port = running.port;
    let send = async |head: &str, body: &str| {
        let mut stream = connect(port).await;
        let length = body.len();
        let lines = format!("host: localhost\r\nconnection: close\r\ncontent-length: {length}");
        say(&mut stream, &format!("{head}\r\n{lines}\r\n\r\n{body}")).await;
        rest(&mut stream).await
    };
    let key = format!("authorization: Bearer {CODEX}\r\nx-request-id: ");
    let lock = json!({ "file_path": "src/a.rs", "agent_id": "codex-1", "agent_type": "codex" });
    let task = json!({ "task_type": "t", "task_description": "d" });
    let claim = json!({ "agent_id": "codex-1", "agent_type": "codex" });
    let (lock, task, claim) = (lock.to_string(), task.to_string(), claim.to_string());
    send(&format!("POST /locks/acquire?q=query-s3cret HTTP/1.1\r\n{key}one"), &lock).await;
    send(&format!("GET /locks?token=query-s3cret HTTP/1.1\r\n{key}two"), "").await;
    send("GET /locks HTTP/1.1\r\nx-api-key: wrong-s3cret\r\nx-request-id: three", "").await;
    send("GET /nowhere?q=query-s3cret HTTP/1.1\r\nx-request-id: four", "").await;
    send(&format!("POST /work/submit HTTP/1.1\r\n{key}five"), &task).await;
    let claimed = send(&format!("POST /work/claim HTTP/1.1\r\n{key}six"), &claim).await;
    let claimed: Value =
        serde_json::from_str(claimed.split("\r\n\r\n").nth(1).expect("a body")).expect("JSON");
    let token = claimed["claim_token"].as_str().expect("a token").to_owned();
    running.signal("TERM");
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");

    let lines: Vec<Value> =
        log.lines().map(|it| serde_json::from_str(it).expect("JSON lines")).collect();
    let mut requests = lines.iter().filter(|it| it["message"] == "request");
    for (id, method, path, status, operation, agent) in [
        ("one", "POST", "/locks/acquire", 200, json!("acquire_lock"), json!("codex-1")),
        ("two", "GET", "/locks", 200, json!("list_locks"), json!("codex-1")),
        ("three", "GET", "/locks", 401, json!("list_locks"), Value::Null),
        ("four", "GET", "/nowhere", 404, Value::Null, Value::Null),
        ("five", "POST", "/work/submit", 200, json!("submit_work"), json!("codex-1")),
        ("six", "POST", "/work/claim", 200, json!("get_work"), json!("codex-1")),
    ] {
        let line = requests.next().expect("a line per request");
        assert_eq!(
            [&line["request_id"], &line["method"], &line["path"], &line["status"]],
            [&json!(id), &json!(method), &json!(path), &json!(status)],
        );
        assert_eq!([&line["operation"], &line["agent"]], [&operation, &agent], "{line}");
        assert!(line["ms"].is_u64(), "{line}");
    }
    assert_eq!(requests.next(), None);
    let password = database.url.split([':', '@']).nth(2).expect("a password");
    for secret in [CODEX, FREE, "s3cret", &token, password] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn failures_name_the_request_in_the_log_without_an_access_log() {
    let running = Running::start(variables(&nowhere())).await;
    let (status, _, failed) = running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    assert_eq!(status, 503);
    running.signal("TERM");
    let (_, log) = running.end().await;
    let lines = log.lines().map(|it| serde_json::from_str::<Value>(it).expect("JSON lines"));
    let errors: Vec<_> = lines.filter(|it| it["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{log}");
    assert!(failed["request_id"].is_string());
    assert_eq!(errors[0]["request_id"], failed["request_id"]);
}

#[tokio::test]
async fn metrics_count_requests_in_flight() {
    // Within this process, because each process of a function has its own metrics.
    let service = Service::configured(&[("METRICS_PUBLIC", "true")], |config| config).await;
    service.client().acquire("a", "k", json!({})).await;
    service.expire("k").await;
    let mut blocker = service.db.begin().await.expect("a transaction");
    execute(&mut *blocker, "select 1 as one from file_lock where workspace = 'default' for update")
        .await;
    let (done, finish) = oneshot::channel::<()>();
    let look = async {
        let metrics = async || service.anonymous().get("/metrics").await.text;
        eventually("two requests are in flight", metrics, |text| {
            text.contains("\ncoordinator_requests_in_flight 2\n")
        })
        .await;
        let _ = done.send(());
    };
    let unblock = async {
        finish.await.expect("seen");
        blocker.rollback().await.expect("rolled back");
    };
    let client = service.client();
    let (answer, (), ()) = join3(client.acquire("b", "k", json!({})), look, unblock).await;
    assert_eq!(answer["action"], "acquired");
    let after = service.anonymous().get("/metrics").await.text;
    assert!(after.contains("\ncoordinator_requests_in_flight 1\n"), "{after}");
}
