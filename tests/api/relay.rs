//! A relay between the service and its database that counts the round trips.
use std::{
    collections::VecDeque,
    io::Result,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use agent_coordinator::{App, router};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex as AsyncMutex, Notify},
};

use crate::support::{BOSS, Client, FREE, config, with_more};

/// Publishes what a connection has counted and not yet reported, in PostgreSQL 15 and later.
pub(crate) const PUBLISH: &str = "select pg_stat_force_next_flush()";

/// The service on one connection that goes through a relay, with the usual client and that of `BOSS`.
pub(crate) async fn relayed(url: &str, more: &[(&str, &str)]) -> (Relay, Client, Client) {
    let (before, after) = url.split_once("@127.0.0.1:").expect("an address with a port");
    let (port, rest) = after.split_once('/').expect("a database");
    let relay = Relay::to(port.parse().expect("a number")).await;
    let separator = if rest.contains('?') { '&' } else { '?' };
    let url = format!("{before}@127.0.0.1:{}/{rest}{separator}sslmode=disable", relay.port);
    let mut variables = with_more(&url, more);
    variables.insert("POSTGRES_POOL_MAX".to_owned(), "1".to_owned());
    let router = router(App::new(config(&variables)));
    let client = |key: &str| Client::new(router.clone()).header("x-api-key", key);
    (relay, client(FREE), client(BOSS))
}

pub(crate) struct Relay {
    port: u16,
    round_trips: Arc<AtomicUsize>,
    pings: Arc<AtomicUsize>,
    /// The latest connection.
    link: Arc<Mutex<Option<Arc<Link>>>>,
}

/// The database's end of a connection.
struct Link {
    to_database: AsyncMutex<ToDatabase>,
    published: Notify,
    /// Whether nothing reaches the database any more.
    is_silent: AtomicBool,
    /// When the connection is closed, if it is to be.
    cut: Mutex<Option<Cut>>,
}

/// When a connection is closed towards the service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before its next message, which does not reach the database.
    BeforeNext,
    /// When the database has answered its next round trip. The answer is lost.
    AfterNext,
    /// When the database has committed. The answer is lost.
    AfterCommit,
    /// When the database has answered what is under way.
    AtAnswer,
}

struct ToDatabase {
    writes: OwnedWriteHalf,
    /// The party that sent each request without an answer so far, in order.
    asked: Arc<Mutex<VecDeque<Asker>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Service,
    Relay,
}

impl Relay {
    async fn to(database_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let relay =
            Self { port, round_trips: Arc::default(), pings: Arc::default(), link: Arc::default() };
        let (round_trips, pings) = (relay.round_trips.clone(), relay.pings.clone());
        let latest = relay.link.clone();
        #[expect(clippy::disallowed_methods, reason = "the relay runs beside the test")]
        tokio::spawn(async move {
            while let Ok((service, _)) = listener.accept().await {
                let database = TcpStream::connect(("127.0.0.1", database_port)).await;
                let database = database.expect("the database answers");
                for stream in [&service, &database] {
                    stream.set_nodelay(true).expect("a connection");
                }
                let (service_reads, service_writes) = service.into_split();
                let (database_reads, writes) = database.into_split();
                let asked = Arc::<Mutex<VecDeque<Asker>>>::default();
                let to_database = ToDatabase { writes, asked: asked.clone() };
                let link = Arc::new(Link {
                    to_database: AsyncMutex::new(to_database),
                    published: Notify::new(),
                    is_silent: AtomicBool::new(false),
                    cut: Mutex::default(),
                });
                *lock(&latest) = Some(link.clone());
                let (count, pings) = (round_trips.clone(), pings.clone());
                tokio::spawn(async move {
                    let there = forward(service_reads, &link, &count, &pings);
                    let back = answer(database_reads, service_writes, &link, &asked);
                    tokio::select! { _ = there => {}, _ = back => {} }
                });
            }
        });
        relay
    }

    pub(crate) fn count(&self) -> usize {
        self.round_trips.load(Ordering::SeqCst)
    }

    /// How often the service has pinged its connection.
    pub(crate) fn pings(&self) -> usize {
        self.pings.load(Ordering::SeqCst)
    }

    /// Silences the service's connection, as a firewall does that drops its state: it stays open and gets no
    /// answers. Later connections work.
    pub(crate) fn silence(&self) {
        let link = lock(&self.link).clone().expect("a connection");
        link.is_silent.store(true, Ordering::SeqCst);
    }

    /// Closes the service's connection at some point. Later connections work.
    pub(crate) fn cut(&self, cut: Cut) {
        let link = lock(&self.link).clone().expect("a connection");
        *lock(&link.cut) = Some(cut);
    }

    /// Makes the service's connection publish its statistics, which PostgreSQL otherwise does at most once a
    /// second. The round trip is hidden from the service and not counted.
    pub(crate) async fn publish_statistics(&self) {
        let link = lock(&self.link).clone().expect("a connection");
        let statement = [PUBLISH.as_bytes(), b"\0"].concat();
        link.to_database
            .lock()
            .await
            .send(b'Q', &statement, Asker::Relay)
            .await
            .expect("it is open");
        link.published.notified().await;
    }
}

impl ToDatabase {
    /// Sends a message of the Postgres protocol. A simple query and a Sync are answered up to a
    /// ReadyForQuery.
    async fn send(&mut self, kind: u8, body: &[u8], asker: Asker) -> Result<()> {
        if kind == b'Q' || kind == b'S' {
            lock(&self.asked).push_back(asker);
        }
        self.writes.write_all(&message(kind, body)).await
    }
}

/// Forwards messages of the service. A round trip is a simple query, or a Sync after at least one other
/// message of the extended protocol. A Sync alone is a ping.
async fn forward(
    from: OwnedReadHalf,
    link: &Link,
    count: &AtomicUsize,
    pings: &AtomicUsize,
) -> Result<()> {
    let mut from = BufReader::new(from);
    // The startup message has no type byte.
    let start = body(&mut from).await?;
    link.to_database.lock().await.writes.write_all(&message(0, &start)[1..]).await?;
    let mut asked = false;
    loop {
        let kind = from.read_u8().await?;
        let body = body(&mut from).await?;
        if kind == b'Q' || (kind == b'S' && asked) {
            count.fetch_add(1, Ordering::SeqCst);
        } else if kind == b'S' {
            pings.fetch_add(1, Ordering::SeqCst);
        }
        let is_round_trip = kind == b'Q' || (kind == b'S' && asked);
        let is_commit = kind == b'Q' && body == b"commit\0";
        let cut = *lock(&link.cut);
        match cut {
            Some(Cut::BeforeNext) => return Ok(()),
            Some(Cut::AfterNext) if is_round_trip => *lock(&link.cut) = Some(Cut::AtAnswer),
            Some(Cut::AfterCommit) if is_commit => *lock(&link.cut) = Some(Cut::AtAnswer),
            _ => {}
        }
        asked = kind != b'S' && (asked || b"PBDEC".contains(&kind));
        if link.is_silent.load(Ordering::SeqCst) {
            continue;
        }
        link.to_database.lock().await.send(kind, &body, Asker::Service).await?;
    }
}

/// Forwards answers of the database to the service, and keeps those to the relay's own requests.
async fn answer(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    asked: &Mutex<VecDeque<Asker>>,
) -> Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let kind = from.read_u8().await?;
        let body = body(&mut from).await?;
        // The first messages of a connection answer no request.
        let asker = lock(asked).front().copied().unwrap_or(Asker::Service);
        if *lock(&link.cut) == Some(Cut::AtAnswer) {
            if kind == b'Z' {
                return Ok(());
            }
            continue;
        }
        if kind == b'Z' {
            lock(asked).pop_front();
        }
        if asker == Asker::Service {
            to.write_all(&message(kind, &body)).await?;
        } else if kind == b'Z' {
            link.published.notify_one();
        }
    }
}

/// The rest of a message after its type byte.
async fn body(from: &mut BufReader<OwnedReadHalf>) -> Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await?;
    Ok(body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a message of the protocol");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
