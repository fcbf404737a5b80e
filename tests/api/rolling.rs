//! A rolling update under load: replicas are replaced one at a time and no request fails.
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::future::{join, try_join, try_join_all};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::RwLock,
    task::JoinSet,
};

use crate::{
    processes::{Running, acquire, request},
    support::{FREE, blocked, eventually, execute, variables},
};

const REPLACEMENTS: usize = 20;
const CLIENTS: usize = 6;

/// How many requests a new replica answers before the next one is replaced.
const SHARE: usize = 30;

/// One HTTP message with a declared length. `None` when the peer closes before its first byte.
async fn message(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |it| it.parse().expect("a length")) {
                return Ok(Some(text.into_owned()));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let end = io::ErrorKind::UnexpectedEof.into();
            return if bytes.is_empty() { Ok(None) } else { Err(end) };
        }
    }
}

/// A load balancer. It keeps connections open, sends nothing to a replica that left the rotation, and
/// repeats a request only when a connection was refused, because nothing had been sent then.
#[derive(Default)]
struct Balancer {
    /// Locked for reading while a request is sent, so that none is sent to a replica that left.
    rotation: RwLock<Vec<u16>>,
    turn: AtomicUsize,
    answered: Mutex<HashMap<u16, usize>>,
}

impl Balancer {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        let mut clients = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            let balancer = self.clone();
            clients.spawn(async move {
                let mut kept = HashMap::new();
                while let Ok(Some(request)) = message(&mut client).await {
                    let failed = |error| {
                        let text = format!("{error}");
                        format!("HTTP/1.1 502 \r\ncontent-length: {}\r\n\r\n{text}", text.len())
                    };
                    let answer = balancer.forward(&request, &mut kept).await.unwrap_or_else(failed);
                    client.write_all(answer.as_bytes()).await.expect("the client is there");
                }
            });
        }
    }

    async fn forward(
        &self,
        request: &str,
        kept: &mut HashMap<u16, TcpStream>,
    ) -> io::Result<String> {
        let (port, mut replica) = self.send(request, kept).await?;
        let answer = message(&mut replica).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        *self.answered.lock().expect("a count").entry(port).or_default() += 1;
        if !answer.contains("\r\nconnection: close\r\n") {
            kept.insert(port, replica);
        }
        Ok(answer)
    }

    async fn send(
        &self,
        request: &str,
        kept: &mut HashMap<u16, TcpStream>,
    ) -> io::Result<(u16, TcpStream)> {
        let rotation = self.rotation.read().await;
        kept.retain(|port, _| rotation.contains(port));
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut refused = io::ErrorKind::NotConnected.into();
        for place in 0..rotation.len() {
            let port = rotation[(turn + place) % rotation.len()];
            let replica = match kept.remove(&port) {
                Some(open) => Ok(open),
                None => TcpStream::connect(("127.0.0.1", port)).await,
            };
            match replica {
                Ok(mut replica) => {
                    replica.write_all(request.as_bytes()).await?;
                    return Ok((port, replica));
                }
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn answered_by(&self, port: u16) -> usize {
        self.answered.lock().expect("a count").get(&port).copied().unwrap_or_default()
    }
}

/// A client that acquires and releases its lock repeatedly, and checks each answer.
async fn work(port: u16, name: &str, is_over: &AtomicBool) -> Result<usize, String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the balancer");
    let mut ask = async |method: &str, path: &str, body: Value, expected: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {FREE}\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).await.map_err(|it| it.to_string())?;
        let answer = message(&mut stream).await.map_err(|it| it.to_string())?;
        let answer = answer.ok_or("the balancer hung up")?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let json: Value = serde_json::from_str(body).unwrap_or_default();
        let members = expected.as_object().expect("an object");
        let fits = members.iter().all(|(member, value)| json.pointer(member) == Some(value));
        if head.starts_with("HTTP/1.1 200 ") && fits { Ok(()) } else { Err(answer) }
    };
    let (key, mut requests) = (format!("src/{name}.rs"), 0);
    while !is_over.load(Ordering::Relaxed) {
        let lock = json!({ "file_path": key, "agent_id": name, "agent_type": "t" });
        let unlock = json!({ "file_path": key, "agent_id": name });
        let status = format!("/locks/status/{key}");
        ask("POST", "/locks/acquire", lock.clone(), json!({ "/action": "acquired" })).await?;
        ask("POST", "/locks/acquire", lock, json!({ "/action": "refreshed" })).await?;
        ask("GET", &status, Value::Null, json!({ "/lock/locked_by": name })).await?;
        ask("POST", "/locks/release", unlock, json!({ "/success": true })).await?;
        ask("GET", &status, Value::Null, json!({ "/locked": false })).await?;
        requests += 5;
    }
    Ok(requests)
}

/// Starts a replica and waits until it is ready.
async fn replica(url: &str) -> Running {
    let mut variables = variables(url);
    // No connection is closed for being idle, so that only the rolling update is tested.
    variables.insert("API_TIMEOUT_KEEP_ALIVE".to_owned(), "600".to_owned());
    let running = Running::start(variables).await;
    let status = async || running.request("GET", "/ready", "").await.0;
    eventually("the replica is ready", status, |status| *status == 200).await;
    running
}

/// Ends a replica as a platform does, during a request that is blocked in the database.
async fn end(old: Running, balancer: &Balancer, db: &PgPool) {
    let mut blocker = db.begin().await.expect("a transaction");
    let row =
        "select 1 as one from file_lock where workspace = 'default' and key = 'held' for update";
    execute(&mut *blocker, row).await;
    let port = old.port;
    let mut idle = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    message(&mut idle).await.expect("an answer").expect("an answer");
    let ended = async {
        blocked(db, 1).await;
        balancer.rotation.write().await.retain(|it| *it != port);
        old.signal("TERM");
        // From here on only the blocked request keeps the process.
        assert!(message(&mut idle).await.expect("the end").is_none());
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
        blocker.rollback().await.expect("rolled back");
        old.end().await
    };
    let body = acquire("holder", "held");
    let (held, (code, log)) = join(request(port, "POST", "/locks/acquire", &body), ended).await;
    let (status, _, answer) = held.expect("an answer");
    assert_eq!((status, &answer["action"]), (200, &json!("refreshed")), "{log}");
    assert_eq!(code, Some(0), "{log}");
}

/// Installs functions as a newer version would: all of them, another signature of one function, and another
/// digest.
async fn install_newer_functions(db: &PgPool) {
    let text = agent_coordinator::schema().functions;
    let function =
        text.split("create or replace function release_lock(").nth(1).expect("a function");
    let (function, _) = function.split_once("\n$$;").expect("its end");
    let newer = function.replacen("in_token bigint,", "in_token bigint, in_note text,", 1);
    assert_ne!(function, newer);
    let newer = format!(
        "{text}; create or replace function release_lock({newer}\n$$;
         update installed_functions set digest = 'newer'"
    );
    let mut tx = db.begin().await.expect("a transaction");
    execute(&mut *tx, &newer).await;
    tx.commit().await.expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_replacements_under_load_fail_no_request() {
    let database = crate::support::database().await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let mut replicas = vec![replica(&database.url).await, replica(&database.url).await];
    let body = acquire("holder", "held");
    replicas[0].request("POST", "/locks/acquire", &body).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let balancer = Arc::new(Balancer::default());
    *balancer.rotation.write().await = replicas.iter().map(|it| it.port).collect();
    let is_over = AtomicBool::new(false);
    let names: Vec<_> = (0..CLIENTS).map(|n| format!("agent-{n}")).collect();
    let clients = try_join_all(names.iter().map(|name| work(port, name, &is_over)));
    let roll = async {
        for n in 0..REPLACEMENTS {
            // Every other time the functions are those of a newer version. A replica that starts installs its
            // own again. The running replicas work with both.
            if n % 2 == 1 {
                install_newer_functions(&db).await;
            }
            let fresh = replica(&database.url).await;
            balancer.rotation.write().await.push(fresh.port);
            let answered = async || balancer.answered_by(fresh.port);
            eventually("the new replica takes its share", answered, |it| *it >= SHARE).await;
            replicas.push(fresh);
            end(replicas.remove(0), &balancer, &db).await;
        }
        is_over.store(true, Ordering::Relaxed);
        Ok(())
    };
    let ended = tokio::select! {
        ended = try_join(clients, roll) => ended,
        () = balancer.clone().run(listener) => unreachable!("it runs for ever"),
    };
    let (requests, ()) = ended.expect("every answer is the right one");
    let requests: usize = requests.into_iter().sum();
    assert!(requests >= REPLACEMENTS * SHARE, "{requests}");
}
