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
            let mut previous = Answer::default();
            for request in self.requests {
                let message = self.message(request, key, &previous);
                let body = connection.ask(message.as_bytes()).await?;
                if !body.contains(request.expected) {
                    return Err(format!(
                        "{} was answered with {body}; expected `{}` in it",
                        request.path, request.expected
                    )
                    .into());
                }
                previous = Answer {
                    task_id: member(&body, "task_id"),
                    claim_token: member(&body, "claim_token"),
                };
            }
            rounds.push((self.started.elapsed(), from.elapsed()));
        }
        Ok(rounds)
    }

    /// Returns the HTTP message of a request. A header names the agent if the body does not.
    fn message(&self, request: &Request, key: u64, previous: &Answer) -> String {
        let header = if request.body.is_empty() || request.body.contains("{agent}") {
            String::new()
        } else {
            format!("X-Agent-Id: {}\r\n", self.agent)
        };
        let body = request
            .body
            .replace("{agent}", &self.agent)
            .replace("{key}", &key.to_string())
            .replace("{task_id}", &previous.task_id)
            .replace("{claim_token}", &previous.claim_token);
        format!(
            "{} {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nX-API-Key: {KEY}\r\n{header}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            request.method,
            request.path,
            self.port,
            body.len()
        )
    }
}

/// The members of an answer that a later request of the round needs.
#[derive(Debug, Default)]
struct Answer {
    task_id: String,
    claim_token: String,
}

/// Returns the value of a string member of a JSON object, or an empty string. Searches the text instead of
/// parsing it, to save CPU time.
fn member(body: &str, name: &str) -> String {
    let text =
        body.split_once(&format!("\"{name}\":\"")).and_then(|(_, rest)| rest.split('"').next());
    text.unwrap_or_default().to_owned()
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and returns the body of its answer, whose status must be 200.
    async fn ask(&mut self, message: &[u8]) -> Result<String> {
        self.stream.write_all(message).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the service closed a kept-alive connection".into());
            }
            if self.buffer.len() > BUFFER {
                return Err(format!("an answer is longer than {BUFFER} bytes").into());
            }
            if let Some((status, body)) = split(&self.buffer)? {
                if status != "200" {
                    return Err(format!("status {status}: {body}").into());
                }
                return Ok(body);
            }
        }
    }
}

/// Returns status and body of an answer, once it is complete.
fn split(answer: &[u8]) -> Result<Option<(String, String)>> {
    let Some(end) = answer.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    let status = head.split(' ').nth(1).ok_or("an answer has no status")?;
    let length: usize = head
        .lines()
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        })
        .ok_or("an answer has no Content-Length")?;
    let body = &answer[end + 4..];
    if body.len() < length {
        return Ok(None);
    }
    Ok(Some((status.to_owned(), String::from_utf8(body[..length].to_vec())?)))
}

/// Returns whether a page is answered with 200.
pub(crate) async fn is_answered(port: u16, path: &str) -> bool {
    let Ok(mut connection) = Connection::open(port).await else { return false };
    let message = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {KEY}\r\n\r\n");
    connection.ask(message.as_bytes()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_when_its_body_is() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
        let (status, body) = split(answer).expect("right").expect("complete");
        assert_eq!((status.as_str(), body.as_str()), ("200", "body"));
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
