//! The connections to the database: sqlx's pool, and those that have just been used.
//!
//! Whenever a connection is given back to sqlx's pool, the pool asks the server whether it is sound: a
//! round trip after each request, in which nobody else can use the connection, and without a time limit. A
//! connection on which all went well is therefore kept here, ready for the next request. It goes back to the
//! pool when nothing has needed it for a second and the server has answered on it.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use once_cell::sync::OnceCell;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{config::DatabaseSettings, values::Secret};

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
    /// One permit for each connection in use. Who has one finds a connection in `ready`, or room for one in
    /// the pool.
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

/// A connection in use; closed when dropped, because nobody knows then what state it is in.
#[derive(Debug)]
pub(crate) struct InUse {
    connection: Option<PoolConnection<Postgres>>,
    /// When it was taken from sqlx's pool.
    taken_at: Instant,
    permit: Option<OwnedSemaphorePermit>,
}

impl InUse {
    /// The connection itself. It is there until this value is given back.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Whether the server answers on it.
    async fn is_alive(&mut self) -> bool {
        match &mut self.connection {
            Some(connection) => connection.ping().await.is_ok(),
            None => false,
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

impl Pool {
    pub(crate) fn new(settings: &DatabaseSettings) -> Self {
        Self {
            options: settings.options.clone(),
            min: settings.pool_min,
            max: settings.pool_max,
            idle_time: settings.idle_time,
            connections: OnceCell::new(),
            permits: Arc::new(Semaphore::new(settings.pool_max as usize)),
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
            let mut permit = Some(permit);
            while let Some(Idle { connection, taken_at, idle_since }) = self.pop_ready() {
                let mut ready =
                    InUse { connection: Some(connection), taken_at, permit: permit.take() };
                if idle_since.elapsed() <= TRUSTED_IDLE || ready.is_alive().await {
                    return Ok(ready);
                }
                permit = ready.permit.take();
            }
            let connection = Some(self.connections().acquire().await?);
            Ok(InUse { connection, taken_at: Instant::now(), permit })
        });
        taken.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Takes back a connection on which all went well and nothing is under way.
    pub(crate) fn give_back(&self, mut used: InUse) {
        let (connection, permit) = (used.connection.take(), used.permit.take());
        if let Some(connection) = connection
            && used.taken_at.elapsed() < LONGEST_USE
        {
            self.keep_ready(Idle {
                connection,
                taken_at: used.taken_at,
                idle_since: Instant::now(),
            });
        }
        // Not earlier: who gets the permit must find the connection.
        drop(permit);
    }

    fn keep_ready(&self, idle: Idle) {
        let mut ready = lock(&self.ready);
        if self.permits.is_closed() {
            return;
        }
        ready.list.push(idle);
        if !ready.is_watched {
            ready.is_watched = true;
            #[expect(clippy::disallowed_methods, reason = "it ends when nothing is ready")]
            tokio::spawn(watch(self.ready.clone()));
        }
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

    fn pop_ready(&self) -> Option<Idle> {
        lock(&self.ready).list.pop()
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
        let unused: Vec<_> = {
            let mut ready = lock(&ready);
            let is_unused = |it: &mut Idle| it.idle_since.elapsed() >= TRUSTED_IDLE;
            let unused = ready.list.extract_if(.., is_unused).collect();
            if ready.list.is_empty() {
                ready.is_watched = false;
            }
            unused
        };
        join_all(unused.into_iter().map(give_to_pool)).await;
        if !lock(&ready).is_watched {
            return;
        }
    }
}

/// Gives a connection back to sqlx's pool, or closes it where the server does not answer in time: the pool
/// would wait for that without end.
async fn give_to_pool(Idle { connection, taken_at, .. }: Idle) {
    let mut idle = InUse { connection: Some(connection), taken_at, permit: None };
    if let Ok(true) = tokio::time::timeout(ACQUIRE_TIMEOUT, idle.is_alive()).await {
        drop(idle.connection.take());
    }
}

fn lock(ready: &Mutex<Ready>) -> MutexGuard<'_, Ready> {
    ready.lock().unwrap_or_else(PoisonError::into_inner)
}
