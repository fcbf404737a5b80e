//! Sends requests over kept-alive connections, and checks every answer. One thread serves all connections. Its
//! CPU time is reported, because it shares the processors with the service.
//!
//! HTTP is written by hand: a client library would use several times the CPU time of this one.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{Result, figures::Rounds, operations::Request, service::KEY};

/// The limit of an answer, in bytes.
const BUFFER: usize = 256 * 1024;

/// A client that repeats the requests of a round.
#[derive(Clone, Debug)]
struct Client {
    requests: &'static [Request],
    port: u16,
    agent: String,
    /// The number of this client's first key. No other client uses the numbers that follow.
    first_key: u64,
    started: Instant,
    length: Duration,
}

/// Repeats the rounds of `requests` with a number of clients for `length`. Fails at the first unexpected answer.
pub(crate) async fn run(
    requests: &'static [Request],
    port: u16,
    clients: usize,
    length: Duration,
) -> Result<Rounds> {
    let started = Instant::now();
    let mut running = JoinSet::new();
    for n in 0..clients {
        let client = Client {
            requests,
            port,
            agent: format!("agent-{n}"),
            first_key: 1_000_000_000 * (n as u64 + 1),
            started,
            length,
        };
        running.spawn(client.run());
    }
    let mut rounds = Rounds::default();
    while let Some(ended) = running.join_next().await {
        for (ended, took) in ended?? {
            rounds.push(ended, took);
        }
    }
    Ok(rounds)
}

impl Client {
    async fn run(self) -> Result<Vec<(Duration, Duration)>> {
        let mut connection = Connection::open(self.port).await?;
        let mut rounds = Vec::new();
        let mut key = self.first_key;
        while self.started.elapsed() < self.length {
            key += 1;
            let from = Instant::now();
            let mut previous = Members::default();
            for request in self.requests {
                let message = message(request, &self.sender(), key, &previous);
                let body = connection.ask(message.as_bytes()).await?;
                request.check(&body)?;
                previous = Members::of(&body);
            }
            rounds.push((self.started.elapsed(), from.elapsed()));
        }
        Ok(rounds)
    }

    fn sender(&self) -> Sender<'_> {
        Sender { port: self.port, key: KEY, agent: &self.agent, headers: "" }
    }
}

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender<'a> {
    /// The port of the service.
    pub(crate) port: u16,
    /// The API key.
    pub(crate) key: &'a str,
    pub(crate) agent: &'a str,
    /// Further headers, each with its line end.
    pub(crate) headers: &'a str,
}

/// Returns the HTTP message of a request. A header names the agent if the body does not.
pub(crate) fn message(
    request: &Request,
    sender: &Sender<'_>,
    key: u64,
    previous: &Members,
) -> String {
    let Sender { port, key: api_key, agent, headers } = sender;
    let name = if request.body.is_empty() || request.body.contains("{agent}") {
        String::new()
    } else {
        format!("X-Agent-Id: {agent}\r\n")
    };
    let body = request
        .body
        .replace("{agent}", agent)
        .replace("{key}", &key.to_string())
        .replace("{task_id}", &previous.task_id)
        .replace("{claim_token}", &previous.claim_token);
    format!(
        "{} {} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-API-Key: {api_key}\r\n{name}{headers}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        request.method,
        request.path,
        body.len()
    )
}

/// The members of an answer that a later request of the round needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Members {
    pub(crate) task_id: String,
    pub(crate) claim_token: String,
}

impl Members {
    pub(crate) fn of(body: &str) -> Members {
        Members { task_id: member(body, "task_id"), claim_token: member(body, "claim_token") }
    }
}

/// Returns the value of a string member of a JSON object, or an empty string. Searches the text instead of
/// parsing it, to save CPU time.
fn member(body: &str, name: &str) -> String {
    let text =
        body.split_once(&format!("\"{name}\":\"")).and_then(|(_, rest)| rest.split('"').next());
    text.unwrap_or_default().to_owned()
}

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer of the service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the service closes the connection after this answer.
    pub(crate) is_last: bool,
}

impl Connection {
    pub(crate) async fn open(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and returns the body of its answer, whose status must be 200.
    async fn ask(&mut self, message: &[u8]) -> Result<String> {
        let Answer { status, body, .. } = self.exchange(message).await?;
        if status != 200 {
            return Err(format!("status {status}: {body}").into());
        }
        Ok(body)
    }

    /// Sends a request and returns its answer.
    pub(crate) async fn exchange(&mut self, message: &[u8]) -> Result<Answer> {
        self.stream.write_all(message).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the service closed a kept-alive connection".into());
            }
            if self.buffer.len() > BUFFER {
                return Err(format!("an answer is longer than {BUFFER} bytes").into());
            }
            if let Some(answer) = split(&self.buffer)? {
                return Ok(answer);
            }
        }
    }
}

/// Returns an answer, once it is complete.
fn split(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?;
    let status = head.split(' ').nth(1).ok_or("an answer has no status")?.parse()?;
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length = header("content-length").and_then(|it| it.parse::<usize>().ok());
    let length = length.ok_or("an answer has no Content-Length")?;
    let body = &bytes[end + 4..];
    if body.len() < length {
        return Ok(None);
    }
    let body = String::from_utf8(body[..length].to_vec())?;
    Ok(Some(Answer { status, body, is_last: header("connection") == Some("close") }))
}

/// Returns whether a page is answered with 200.
pub(crate) async fn is_answered(port: u16, path: &str) -> bool {
    let Ok(mut connection) = Connection::open(port).await else { return false };
    let message = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n");
    connection.ask(message.as_bytes()).await.is_ok()
}

/// Sends a request over a connection of its own, checks the answer and returns its body.
pub(crate) async fn request(
    request: &Request,
    sender: &Sender<'_>,
    previous: &Members,
) -> Result<String> {
    let mut connection = Connection::open(sender.port).await?;
    let body = connection.ask(message(request, sender, 0, previous).as_bytes()).await?;
    request.check(&body)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        let complete = Answer { status: 200, body: "body".to_owned(), is_last: false };
        assert_eq!(split(answer).expect("right"), Some(complete));
        assert!(split(&answer[..answer.len() - 1]).expect("right").is_none());
        assert!(split(&answer[..10]).expect("right").is_none());
        assert!(split(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn members_are_found_by_name() {
        let body = r#"{"success":true,"task_id":"t-1","claim_token":"c_2"}"#;
        assert_eq!(
            (member(body, "task_id"), member(body, "claim_token")),
            ("t-1".into(), "c_2".into())
        );
        assert_eq!(member(body, "reason"), "");
    }
}
