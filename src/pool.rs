//! The connections to the database: sqlx's pool, and those that have just been used.
//!
//! Whenever a connection is given back to sqlx's pool, the pool asks the server whether it is sound: a
//! round trip after each request, in which nobody else can use the connection. A connection on which all
//! went well is therefore kept here, ready for the next request, and goes back to the pool when nothing
//! has needed it for a second.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use once_cell::sync::OnceCell;
use sqlx::{
    Connection as _, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Config, config::Secret};

/// How long a request waits for a connection; with the database down this is its time to 503.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection idle for longer is asked whether it still lives before it is used: it may have died
/// unnoticed, and asking each time would be a round trip more for every request.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// After this time in use a connection goes back to the pool, which closes those that are too old.
const LONGEST_USE: Duration = Duration::from_secs(60);

/// All connections of a process, none of which is made before it is needed.
#[derive(Debug)]
pub(crate) struct Pool {
    options: Secret<PgConnectOptions>,
    min: u32,
    max: u32,
    idle_time: Duration,
    connections: OnceCell<PgPool>,
    /// One permit for each connection in use, so that a free connection is in `ready` or in the pool, and
    /// nobody waits at the pool for one that is in `ready`.
    permits: Arc<Semaphore>,
    ready: Arc<Mutex<Ready>>,
}

/// Connections that were used a moment ago; the last one is used next.
#[derive(Debug, Default)]
struct Ready {
    list: Vec<Idle>,
    /// Whether a task gives back to the pool what is not needed.
    is_watched: bool,
}

#[derive(Debug)]
struct Idle {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    idle_since: Instant,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) connection: PoolConnection<Postgres>,
    /// When it was taken from sqlx's pool.
    taken_at: Instant,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            options: config.database.clone(),
            min: config.pool_min,
            max: config.pool_max,
            idle_time: config.idle_time,
            connections: OnceCell::new(),
            permits: Arc::new(Semaphore::new(config.pool_max as usize)),
            ready: Arc::default(),
        }
    }

    /// The address, for a connection beside the pool.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options.0
    }

    /// Takes a connection; makes one where none is free and more are allowed.
    pub(crate) async fn take(&self) -> Result<InUse, sqlx::Error> {
        let taken = tokio::time::timeout(ACQUIRE_TIMEOUT, async {
            let permits = self.permits.clone();
            let permit = permits.acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            if let Some(Idle { connection, taken_at, .. }) = self.pop_ready() {
                return Ok(InUse { connection, taken_at, permit });
            }
            let connection = self.connections().acquire().await?;
            Ok(InUse { connection, taken_at: Instant::now(), permit })
        });
        taken.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Takes back a connection on which all went well and nothing is under way.
    pub(crate) fn give_back(&self, InUse { connection, taken_at, permit }: InUse) {
        if taken_at.elapsed() < LONGEST_USE && !self.permits.is_closed() {
            let idle_since = Instant::now();
            let mut ready = lock(&self.ready);
            ready.list.push(Idle { connection, taken_at, idle_since });
            if !ready.is_watched {
                ready.is_watched = true;
                #[expect(clippy::disallowed_methods, reason = "it ends when nothing is ready")]
                tokio::spawn(watch(self.ready.clone()));
            }
        }
        // Not earlier: who gets the permit must find the connection.
        drop(permit);
    }

    /// How many connections are open, and how many of them are idle.
    pub(crate) fn count(&self) -> (u32, usize) {
        let ready = lock(&self.ready).list.len();
        self.connections.get().map_or((0, 0), |pool| (pool.size(), pool.num_idle() + ready))
    }

    /// Closes what is open; connections in use are given back first.
    pub(crate) async fn close(&self) {
        self.permits.close();
        lock(&self.ready).list.clear();
        if let Some(pool) = self.connections.get() {
            pool.close().await;
        }
    }

    /// The connection that was used last. Where that one has been idle for too long to be trusted, so have
    /// the others, and sqlx's pool gets them all.
    fn pop_ready(&self) -> Option<Idle> {
        let mut ready = lock(&self.ready);
        if ready.list.last().is_some_and(|it| it.idle_since.elapsed() > TRUSTED_IDLE) {
            ready.list.clear();
        }
        ready.list.pop()
    }

    fn connections(&self) -> &PgPool {
        self.connections.get_or_init(|| {
            PgPoolOptions::new()
                .min_connections(self.min)
                .max_connections(self.max)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(self.idle_time)
                .test_before_acquire(false)
                .before_acquire(|connection, meta| {
                    Box::pin(async move {
                        if meta.idle_for > TRUSTED_IDLE {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .connect_lazy_with(self.options.0.clone())
        })
    }
}

/// Gives connections that nothing has needed for a second back to sqlx's pool, until none is left.
async fn watch(ready: Arc<Mutex<Ready>>) {
    loop {
        tokio::time::sleep(TRUSTED_IDLE).await;
        let mut ready = lock(&ready);
        ready.list.retain(|it| it.idle_since.elapsed() < TRUSTED_IDLE);
        if ready.list.is_empty() {
            ready.is_watched = false;
            return;
        }
    }
}

fn lock(ready: &Mutex<Ready>) -> MutexGuard<'_, Ready> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}
