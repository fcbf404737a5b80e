//! The memory of a real server, and the bytes that it holds at once.
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{LISTS, object};
use crate::{
    processes::{Running, request},
    support::{BOSS, FREE, Service, eventually, with_more},
};

/// How much memory a server may have had at most, in MiB. One that parses its rows has had gigabytes.
const MOST_MEMORY: u64 = 150;

/// As many rows of 1 MiB as make the difference: parsed, each took 72 MiB.
const ROWS: usize = 3;

/// The least number of bytes that can be configured.
const LEAST: usize = 4 << 20;

/// The most memory that a process has had, in MiB.
fn peak(running: &Running) -> u64 {
    let status = format!("/proc/{}/status", running.child.id().expect("running"));
    let status = std::fs::read_to_string(status).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test]
async fn large_rows_that_are_listed_take_little_memory() {
    let service = Service::start().await;
    for list in LISTS {
        list.fill(&service.client(), ROWS, &object(1_040_000)).await;
    }
    let running = Running::start(with_more(&service.url, &[])).await;
    let recall = |n: usize| {
        let arguments = json!({ "limit": 10 });
        let params = json!({ "name": "recall", "arguments": arguments });
        json!({ "jsonrpc": "2.0", "id": n, "method": "tools/call", "params": params })
    };
    let batch: Vec<_> = (0..2).map(recall).collect();
    let asked = [
        ("POST", "/memory/query", json!({ "agent_id": "a", "limit": 40 }), "/memories"),
        ("POST", "/handoffs/read", json!({ "limit": 40 }), "/handoffs"),
        ("GET", "/discovery/agents?limit=500", Value::Null, "/agents"),
        ("GET", "/work?limit=500", Value::Null, "/tasks"),
        ("POST", "/mcp", json!(batch), "/0/result"),
    ];
    let answers = asked.iter().map(async |(method, path, body, list)| {
        let (status, _, answer) =
            request(running.port, method, path, &body.to_string()).await.expect("an answer");
        assert_eq!(status, 200, "{path}");
        assert!(answer.pointer(list).is_some(), "{path}");
    });
    join_all(answers).await;
    let peak = peak(&running);
    assert!(peak < MOST_MEMORY, "{peak} MiB");
}

/// A connection on which a request has begun, with a body of so many bytes that never arrives.
async fn unfinished(port: u16, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let head = "POST /memory/store HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\nx-api-key";
    let head = format!("{head}: {FREE}\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The server begins to read the body.
    let mut line = [0; 12];
    stream.read_exact(&mut line).await.expect("an answer");
    assert_eq!(&line, b"HTTP/1.1 100");
    stream
}

#[tokio::test]
async fn beyond_the_bytes_of_a_key_requests_are_refused_and_those_of_others_are_not() {
    let service = Service::start().await;
    let more =
        [("API_MAX_BYTES_IN_FLIGHT_PER_KEY", &*LEAST.to_string()), ("METRICS_PUBLIC", "true")];
    let mut running = Running::start(with_more(&service.url, &more)).await;
    let port = running.port;
    let large = json!({
        "agent_id": "a", "event_type": "e", "summary": "s", "details": { "a": "x".repeat(500_000) },
    });
    let store = async || {
        request(port, "POST", "/memory/store", &large.to_string()).await.expect("an answer")
    };
    let held = join_all((0..4).map(|_| unfinished(port, LEAST / 4))).await;
    let (status, head, answer) = store().await;
    assert_eq!(status, 429, "{answer}");
    assert!(head.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{head}");
    let detail = answer["detail"].as_str().expect("a text");
    assert!(detail.contains("API_MAX_BYTES_IN_FLIGHT_PER_KEY"), "{detail}");
    let line = running.wait_for_line("bytes_in_flight_per_key").await;
    assert!(line.contains("sha256:"), "{line}");

    // Small requests of the same key, and large ones of another, go on.
    let small = json!({ "file_path": "k", "agent_id": "a", "agent_type": "t" }).to_string();
    assert_eq!(running.request("POST", "/locks/acquire", &small).await.0, 200);
    assert_eq!(running.request("GET", "/live", "").await.0, 200);
    let other = store_as_boss(port, &large.to_string()).await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");

    drop(held);
    eventually("the bytes are free", store, |(status, ..)| *status == 200).await;
}

/// Stores a memory with another key. Returns the answer.
async fn store_as_boss(port: u16, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let body = body.replace(r#""agent_id":"a""#, r#""agent_id":"boss""#);
    let head = format!(
        "POST /memory/store HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {BOSS}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("received");
    answer
}

/// A client that asks for the newest memory, more often than the buffers of the operating system take, and reads
/// no answer.
async fn unread(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let address = ([127, 0, 0, 1], port).into();
    let mut stream = socket.connect(address).await.expect("a connection");
    let body = r#"{"agent_id":"a","limit":1}"#;
    let head = format!(
        "POST /memory/query HTTP/1.1\r\nhost: x\r\nx-api-key: {FREE}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").repeat(20).as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn an_answer_counts_until_it_is_written() {
    let service = Service::start().await;
    LISTS[0].fill(&service.client(), 1, &object(1_040_000)).await;
    let more =
        [("API_MAX_BYTES_IN_FLIGHT_PER_KEY", &*LEAST.to_string()), ("API_TIMEOUT_WRITE", "3600")];
    let running = Running::start(with_more(&service.url, &more)).await;
    let read = async || {
        let body = r#"{"agent_id":"a","limit":1}"#;
        request(running.port, "POST", "/memory/query", body).await.expect("an answer").0
    };
    let mut unread_clients = Vec::new();
    for _ in 0..4 {
        assert_eq!(read().await, 200);
        unread_clients.push(unread(running.port).await);
    }
    eventually("the answers are not written", read, |status| *status == 429).await;
    drop(unread_clients);
    eventually("the answers are dropped", read, |status| *status == 200).await;
}
