//! Attackers that read much.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{attacks::Target, key_header, request, sockets::ended};
use crate::{Result, load::Connection};

/// The number of clients that search the audit log.
const SEARCHERS: usize = 50;

/// The pause of a client whose connection was closed.
const PAUSE: Duration = Duration::from_millis(100);

/// The statuses of requests that the service does not understand or permit. Others are answers: the service may
/// answer in part, or not at all under load.
const REFUSALS: [&str; 6] = ["400", "401", "403", "404", "415", "422"];

/// How long the attacker waits for a list. Each of the four gets its turn before the attack ends.
const ENOUGH: Duration = Duration::from_millis(3500);

/// The number of messages of an MCP batch.
const BATCH: usize = 10;

/// Lists large rows in turn: memories, handoffs, sessions without a key, and memories over MCP.
pub(super) async fn read_large_rows(target: &Target) -> Result<()> {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"recall","arguments":{"limit":10}}}"#;
    let batch: Vec<String> =
        (1..=BATCH).map(|n| call.replace("\"id\":1", &format!("\"id\":{n}"))).collect();
    let close = "Connection: close\r\nAccept: application/json, text/event-stream\r\n";
    let key = format!("{close}{}X-Agent-Id: attacker\r\n", key_header());
    let requests = [
        request("POST", "/memory/query", &key, r#"{"agent_id":"attacker","limit":40}"#),
        request("POST", "/handoffs/read", &key, r#"{"limit":40}"#),
        request("GET", "/discovery/agents?limit=500", close, ""),
        request("POST", "/mcp", &key, &format!("[{}]", batch.join(","))),
    ];
    loop {
        for request in &requests {
            target.done.add();
            match timeout(ENOUGH, read(target, request)).await {
                Ok(Ok(status)) if REFUSALS.contains(&status.as_str()) => {
                    let head = request.lines().next().unwrap_or_default();
                    return Err(format!("{head} was refused with {status}").into());
                }
                Ok(Err(_)) => sleep(PAUSE).await,
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    }
}

/// Sends a request, reads its answer, however long it is, and returns its status.
async fn read(target: &Target, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", target.port)).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut status = vec![0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await?;
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(String::from_utf8_lossy(&status[status.len() - 3..]).into_owned())
}

/// Searches the audit log for an entry that does not exist, over many connections.
pub(super) async fn search_audit(target: &Target) -> Result<()> {
    let mut clients = JoinSet::new();
    for _ in 0..SEARCHERS {
        let target = target.clone();
        clients.spawn(async move {
            loop {
                let _ = search(&target).await;
                sleep(PAUSE).await;
            }
        });
    }
    ended(clients).await
}

async fn search(target: &Target) -> Result<()> {
    let message = request("GET", "/audit?request_id=nope", &key_header(), "");
    let mut connection = Connection::open(target.port).await?;
    loop {
        target.done.add();
        connection.exchange(message.as_bytes()).await?;
    }
}
