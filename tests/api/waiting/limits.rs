//! How many requests wait at once, and what they keep meanwhile.
use std::collections::HashMap;

use futures_util::future::{Either, join_all, select};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    processes::{Running, request},
    support::{FREE, PATIENCE, Service, eventually, variables, with},
};

fn configured(url: &str, more: &[(&str, &str)]) -> HashMap<String, String> {
    let mut variables = variables(url);
    variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    variables
}

fn acquire(agent: &str, more: Value) -> String {
    let input = json!({ "file_path": "k", "agent_id": agent, "agent_type": "t" });
    with(input, more).to_string()
}

/// Acquires the lock `k`, waiting for it where `seconds` is not 0.
async fn answered(port: u16, agent: &str, seconds: i64) -> Value {
    let body = acquire(agent, json!({ "wait_seconds": seconds }));
    let (status, _, answer) =
        request(port, "POST", "/locks/acquire", &body).await.expect("an answer");
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn metrics(port: u16) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let head = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key";
    stream.write_all(format!("{head}: {FREE}\r\n\r\n").as_bytes()).await.expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("received");
    text
}

/// Waits until so many requests wait.
async fn until_waiting(port: u16, count: usize) {
    let line = format!("\ncoordinator_waiting_requests {count}\n");
    let what = format!("{count} requests wait");
    eventually(&what, async || metrics(port).await, |text| text.contains(&line)).await;
}

/// Runs `act` while the futures wait, and stops them then.
async fn beside<T>(waiting: impl Future<Output = Vec<Value>>, act: impl Future<Output = T>) -> T {
    match select(std::pin::pin!(waiting), std::pin::pin!(act)).await {
        Either::Left((answers, _)) => panic!("none waits any more: {answers:?}"),
        Either::Right((result, _)) => result,
    }
}

#[tokio::test]
async fn beyond_the_limit_of_an_agent_requests_are_answered_at_once_and_say_why() {
    let service = Service::start().await;
    let more = [("WAIT_MAX_REQUESTS_PER_AGENT", "2"), ("WAIT_MAX_REQUESTS_PER_KEY", "3")];
    let mut running = Running::start(configured(&service.url, &more)).await;
    let port = running.port;
    answered(port, "a", 0).await;
    let two = join_all([answered(port, "b", 50), answered(port, "b", 50)]);
    let act = async {
        until_waiting(port, 2).await;
        let refused = timeout(PATIENCE, answered(port, "b", 50)).await.expect("at once");
        assert_eq!(refused["wait_limit"], "waiting_per_agent");
        assert_eq!(refused["success"], false);
        assert_eq!([&refused["reason"], &refused["locked_by"]], ["locked_by_other", "a"]);
        // Another agent waits, and is the last one of the key that can.
        beside(join_all([answered(port, "c", 50)]), async {
            until_waiting(port, 3).await;
            let refused = timeout(PATIENCE, answered(port, "d", 50)).await.expect("at once");
            assert_eq!(refused["wait_limit"], "waiting_per_key");
        })
        .await;
        let count = "select count(*) from audit_log where agent_id in ('b', 'd') and not success";
        assert_eq!(service.scalar::<i64>(count).await, 2);
        // A request that does not wait is told nothing of limits.
        assert_eq!(answered(port, "e", 0).await["wait_limit"], Value::Null);
    };
    beside(two, act).await;
    let line = running.wait_for_line("waiting_per_agent").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!([&line["workspace"], &line["agent"]], ["default", "b"]);
    assert!(line["key"].as_str().is_some_and(|key| key.starts_with("sha256:")), "{line}");
}

#[tokio::test]
async fn a_claim_beyond_the_limit_is_answered_at_once() {
    let service = Service::start().await;
    let more = [("WAIT_MAX_REQUESTS_PER_AGENT", "1")];
    let running = Running::start(configured(&service.url, &more)).await;
    let claim = json!({ "agent_id": "b", "agent_type": "t", "wait_seconds": 50 }).to_string();
    let claims =
        async || request(running.port, "POST", "/work/claim", &claim).await.expect("an answer").2;
    let act = async {
        until_waiting(running.port, 1).await;
        let refused = timeout(PATIENCE, claims()).await.expect("at once");
        assert_eq!(refused["wait_limit"], "waiting_per_agent");
        assert_eq!(refused["reason"], "no_tasks_available");
    };
    beside(join_all([claims()]), act).await;
}

#[tokio::test]
async fn more_waiting_requests_than_connections_leave_live_answering() {
    const CONNECTIONS: usize = 40;
    let service = Service::start().await;
    let more = [("API_MAX_CONNECTIONS", &*CONNECTIONS.to_string())];
    let running = Running::start(configured(&service.url, &more)).await;
    let port = running.port;
    answered(port, "a", 0).await;
    let agents: Vec<_> = (0..CONNECTIONS).map(|n| format!("w{n}")).collect();
    let waiting = join_all(agents.iter().map(|agent| answered(port, agent, 50)));
    beside(waiting, async {
        let live = timeout(PATIENCE, async {
            until_waiting(port, CONNECTIONS / 2).await;
            running.request("GET", "/live", "").await
        });
        assert_eq!(live.await.expect("an answer").0, 200);
    })
    .await;
}

/// The resident memory of a process in MiB.
#[cfg(target_os = "linux")]
fn resident(running: &Running) -> u64 {
    let status = format!("/proc/{}/status", running.child.id().expect("running"));
    let status = std::fs::read_to_string(status).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_waiting_request_does_not_keep_its_body() {
    const WAITING: usize = 12;
    let service = Service::start().await;
    let running = Running::start(configured(&service.url, &[])).await;
    let port = running.port;
    answered(port, "a", 0).await;
    // One MiB, and many times as much once it is parsed.
    let junk = vec![0; 500_000];
    let body = acquire("b", json!({ "wait_seconds": 50, "junk": junk }));
    let before = resident(&running);
    let waits = async || request(port, "POST", "/locks/acquire", &body).await.expect("answered").2;
    beside(join_all((0..WAITING).map(|_| waits())), async {
        until_waiting(port, WAITING).await;
        let after = resident(&running);
        assert!(after < before + 100, "{before} MiB before, {after} MiB after");
    })
    .await;
}
