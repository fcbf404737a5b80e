//! Attackers that occupy connections, and requests that wait.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{attacks::Target, key_header, request};
use crate::{Result, load::Connection};

/// The number of clients that read nothing, how many requests each sends at once, and the size of its buffer.
const NON_READERS: usize = 1000;
const PIPELINED: usize = 60;
const RECEIVE_BUFFER: u32 = 4096;

const SLOW_CLIENTS: usize = 2500;

/// The number of requests that wait for one lock, and of those with a large body.
pub(super) const WAITERS: usize = 1000;
pub(super) const BODIES: usize = 60;

/// What a body has in its unknown member: as many zeros, of two bytes each.
pub(super) const NO_JUNK: usize = 0;
pub(super) const JUNK: usize = 500_000;

/// The pause before an attacker comes back, so that the attackers leave the machine to the service.
const PAUSE: Duration = Duration::from_secs(1);

/// The pause after a wait was refused: the attack is by the number of waiting requests, not by their rate.
const REFUSED: Duration = Duration::from_secs(10);

/// Pipelines requests over many connections and reads no answer.
pub(super) async fn read_nothing(target: &Target) -> Result<()> {
    let client = |target: Target| async move {
        let page = "GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        let mut stream = socket.connect(([127, 0, 0, 1], target.port).into()).await?;
        stream.write_all(page.repeat(PIPELINED).as_bytes()).await?;
        target.done.add();
        // Nothing is read, so only a failure to send tells that the service has closed the connection.
        loop {
            sleep(PAUSE).await;
            stream.write_all(page.as_bytes()).await?;
        }
    };
    come_back(target, NON_READERS, client).await
}

/// Sends beginnings of requests over many connections.
pub(super) async fn send_heads_slowly(target: &Target) -> Result<()> {
    let client = |target: Target| async move {
        let mut stream = TcpStream::connect(("127.0.0.1", target.port)).await?;
        stream.write_all(b"GET /live HTTP/1.1\r\nX: ").await?;
        target.done.add();
        let _ = stream.read(&mut [0; 64]).await?;
        Ok(())
    };
    come_back(target, SLOW_CLIENTS, client).await
}

/// Sends requests that wait for a lock which another agent holds, with a body that has `junk` zeros.
pub(super) async fn wait(target: &Target, requests: usize, junk: usize) -> Result<()> {
    let acquire = |agent: &str| {
        let zeros = ",0".repeat(junk);
        let body = format!(
            r#"{{"file_path":"src/held.rs","agent_id":"{agent}","agent_type":"claude_code","wait_seconds":50,"junk":[0{zeros}]}}"#
        );
        request("POST", "/locks/acquire", &key_header(), &body)
    };
    Connection::open(target.port).await?.exchange(acquire("holder").as_bytes()).await?;
    let mut clients = JoinSet::new();
    for n in 0..requests {
        let (target, message) = (target.clone(), acquire(&format!("waiter-{n}")));
        clients.spawn(async move {
            loop {
                let _ = wait_once(&target, &message).await;
                sleep(PAUSE).await;
            }
        });
    }
    ended(clients).await
}

async fn wait_once(target: &Target, message: &str) -> Result<()> {
    let mut connection = Connection::open(target.port).await?;
    loop {
        target.done.add();
        connection.exchange(message.as_bytes()).await?;
        sleep(REFUSED).await;
    }
}

/// Runs clients, each of which comes back after a pause whenever its connection has ended.
async fn come_back<F>(
    target: &Target,
    count: usize,
    client: impl Fn(Target) -> F + Copy + Send + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send,
{
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let target = target.clone();
        clients.spawn(async move {
            loop {
                let _ = client(target.clone()).await;
                sleep(PAUSE).await;
            }
        });
    }
    ended(clients).await
}

/// Waits for clients, which never end.
pub(super) async fn ended(mut clients: JoinSet<()>) -> Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    Ok(())
}
