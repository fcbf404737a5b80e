//! Spans, sent to a collector within the test (feature `otel`).
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    processes::{Running, acquire},
    support::{PATIENCE, eventually, variables},
};

/// Answers one export and returns its head and body.
fn export(mut stream: TcpStream) -> (String, Vec<u8>) {
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut bytes = Vec::new();
    let head = loop {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
        let length = |head: &str| {
            let lines = head.to_ascii_lowercase();
            let length =
                lines.lines().find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
            length.unwrap_or(0)
        };
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            if bytes.len() >= end + 4 + length(&head) {
                bytes.drain(..end + 4);
                break head;
            }
        }
        read_more(&mut stream, &mut bytes);
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("answered");
    (head, bytes)
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>) {
    let mut some = [0; 4096];
    let count = stream.read(&mut some).expect("bytes");
    assert!(count > 0, "the export broke off");
    bytes.extend_from_slice(&some[..count]);
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

#[tokio::test]
async fn an_operation_is_a_span_with_its_request_id_and_its_agent() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = collector.local_addr().expect("an address");
    let database = crate::support::database().await;
    let mut variables = variables(&database.url);
    variables.insert("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{address}/"));
    variables.insert("OTEL_SERVICE_NAME".to_owned(), "the-service".to_owned());
    // The log filter must not filter spans.
    variables.insert("RUST_LOG".to_owned(), "agent_coordinator=info,coordinator=info".to_owned());
    let running = Running::start(variables).await;
    let body = acquire("the-agent", "src/the-file.rs");
    let (status, head, _) = running.request("POST", "/locks/acquire", &body).await;
    assert_eq!(status, 200);
    let id = head.lines().find_map(|it| it.strip_prefix("x-request-id: ")).expect("an id");
    // The process exports the remaining spans when it ends.
    running.signal("TERM");
    collector.set_nonblocking(true).expect("set");
    let accept = async || collector.accept();
    let (stream, _) = eventually("an export arrives", accept, Result::is_ok).await.expect("it did");
    let exported = tokio::task::spawn_blocking(move || export(stream));
    let (head, spans) = exported.await.expect("an export");
    assert_eq!(running.end().await.0, Some(0));
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
    for text in ["the-service", "acquire_lock", "the-agent", "src/the-file.rs", id] {
        assert!(contains(&spans, text), "{text} in {}", String::from_utf8_lossy(&spans));
    }
    assert!(!contains(&spans, crate::support::FREE));
}

#[tokio::test]
async fn without_an_endpoint_nothing_is_sent() {
    let collector = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = collector.local_addr().expect("an address");
    collector.set_nonblocking(true).expect("set");
    let database = crate::support::database().await;
    let mut variables = variables(&database.url);
    let other = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT".to_owned();
    variables.insert(other, format!("http://{address}/v1/traces"));
    let running = Running::start(variables).await;
    assert_eq!(running.request("GET", "/locks", "").await.0, 200);
    running.signal("TERM");
    assert_eq!(running.end().await.0, Some(0));
    assert_eq!(collector.accept().expect_err("no connection").kind(), ErrorKind::WouldBlock);
}
