//! The database connections of a process: sqlx's pool, and a list of connections in front of it that are
//! ready to be used.
//!
//! The list is needed because sqlx's pool pings the server whenever a connection returns to it: a round
//! trip per request, during which no other request can use the connection, and without a time limit. A
//! released connection therefore goes to the list. It returns to the pool after a second without use,
//! once the server has answered a ping.
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use once_cell::sync::OnceCell;
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, pool::PoolConnection, postgres::PgPoolOptions,
};

use super::{
    address::{Address, explained},
    shares::{Consumer, PRESENCE, Permit, ShareObserver, Shares},
};
use crate::{config::DatabaseSettings, values::lock};

/// How long a request waits for a connection. When the database is down, requests get 503 after this
/// time.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection can be idle and be used without a ping. A connection that was idle for longer
/// can be broken without notice; a ping before every use would cost each request a round trip.
const TRUSTED_IDLE_TIME: Duration = Duration::from_secs(1);

/// How long a connection can stay out of sqlx's pool. The pool closes connections that are too old,
/// which it can only do when they return.
const MAX_USE_TIME: Duration = Duration::from_secs(60);

/// All database connections of a process. Connections are opened when a request needs them.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Address,
    min: u32,
    max: u32,
    idle_time: Duration,
    sqlx_pool: OnceCell<PgPool>,
    /// One permit for each connection in use. The holder of a permit finds a connection in `ready`, or
    /// sqlx's pool has one or can open one.
    permits: Arc<Shares>,
    ready: Arc<Mutex<Ready>>,
}

/// Connections that were used a moment ago. The most recent one is used next.
#[derive(Debug, Default)]
struct Ready {
    list: Vec<IdleConnection>,
    /// Whether a task returns unused connections to sqlx's pool.
    is_watched: bool,
    /// When a connection was lost. Connections that have been idle since before that are pinged before use,
    /// also those of sqlx's pool.
    distrusted_at: Option<Instant>,
}

#[derive(Debug)]
struct IdleConnection {
    connection: PoolConnection<Postgres>,
    acquired_at: Instant,
    idle_since: Instant,
}

/// A connection in use. It is closed on drop, because its state is then unknown: see
/// `docs/decisions/0010-connections-of-dropped-requests.md`.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    connection: Option<PoolConnection<Postgres>>,
    /// When the connection left sqlx's pool.
    acquired_at: Instant,
    permit: Option<Permit>,
}

impl PooledConnection {
    /// Returns the connection, which is present until it is released.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection.as_deref_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    /// Whether the server answers on this connection.
    async fn is_alive(&mut self) -> bool {
        match &mut self.connection {
            Some(connection) => connection.ping().await.is_ok(),
            None => false,
        }
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

impl Pool {
    pub(crate) fn new(settings: &DatabaseSettings, observer: Arc<dyn ShareObserver>) -> Self {
        Self {
            address: Address::new(&settings.options),
            min: settings.pool_min,
            max: settings.pool_max,
            idle_time: settings.idle_time,
            sqlx_pool: OnceCell::new(),
            permits: Shares::new(settings.pool_max as usize, PRESENCE, observer),
            ready: Arc::default(),
        }
    }

    /// Returns the address, for a connection outside the pool.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Acquires a connection for a consumer. Opens one if none is idle and the limit is not reached.
    pub(crate) async fn acquire(
        &self,
        consumer: &Consumer,
    ) -> Result<PooledConnection, sqlx::Error> {
        let acquired = tokio::time::timeout(ACQUIRE_TIMEOUT, async {
            let permit = self.permits.acquire(consumer).await.ok_or(sqlx::Error::PoolClosed)?;
            let mut permit = Some(permit);
            while let Some(IdleConnection { connection, acquired_at, idle_since }) =
                self.pop_ready()
            {
                let mut ready = PooledConnection {
                    connection: Some(connection),
                    acquired_at,
                    permit: permit.take(),
                };
                if is_trusted(&self.ready, idle_since) || ready.is_alive().await {
                    return Ok(ready);
                }
                permit = ready.permit.take();
            }
            let connection = Some(self.acquire_from_sqlx().await?);
            Ok(PooledConnection { connection, acquired_at: Instant::now(), permit })
        });
        acquired.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Acquires a connection of sqlx's pool, without TLS where only TLS has failed and is not required.
    async fn acquire_from_sqlx(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let pool = self.sqlx_pool();
        let acquired = match pool.acquire().await {
            Err(error) if self.address.falls_back_after(&error) => {
                pool.set_connect_options(self.address.options().clone());
                pool.acquire().await
            }
            acquired => acquired,
        };
        acquired.map_err(explained)
    }

    /// Has every connection that is idle now answer a ping before it is used again.
    pub(super) fn distrust_idle(&self) {
        lock(&self.ready).distrusted_at = Some(Instant::now());
    }

    /// Releases a connection without an open transaction, on which the last statement succeeded.
    pub(crate) fn release(&self, mut used: PooledConnection) {
        let (connection, permit) = (used.connection.take(), used.permit.take());
        if let Some(connection) = connection
            && used.acquired_at.elapsed() < MAX_USE_TIME
        {
            self.keep_ready(IdleConnection {
                connection,
                acquired_at: used.acquired_at,
                idle_since: Instant::now(),
            });
        }
        // Only now: the request that gets the permit must find the connection in the list.
        drop(permit);
    }

    /// Adds a connection to the list, and starts the task that returns unused connections to sqlx's pool.
    fn keep_ready(&self, idle: IdleConnection) {
        let mut ready = lock(&self.ready);
        if self.permits.is_closed() {
            return;
        }
        ready.list.push(idle);
        if !ready.is_watched {
            ready.is_watched = true;
            #[expect(clippy::disallowed_methods, reason = "it ends when the list is empty")]
            tokio::spawn(return_unused(self.ready.clone()));
        }
    }

    /// Returns how many connections are open, and how many of them are idle.
    pub(crate) fn count(&self) -> (u32, usize) {
        let ready = lock(&self.ready).list.len();
        self.sqlx_pool.get().map_or((0, 0), |pool| (pool.size(), pool.num_idle() + ready))
    }

    /// Closes all connections. Waits until those in use are released.
    pub(crate) async fn close(&self) {
        self.permits.close();
        lock(&self.ready).list.clear();
        if let Some(pool) = self.sqlx_pool.get() {
            pool.close().await;
        }
    }

    fn pop_ready(&self) -> Option<IdleConnection> {
        lock(&self.ready).list.pop()
    }

    fn sqlx_pool(&self) -> &PgPool {
        self.sqlx_pool.get_or_init(|| {
            let ready = self.ready.clone();
            PgPoolOptions::new()
                .min_connections(self.min)
                .max_connections(self.max)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(self.idle_time)
                .test_before_acquire(false)
                .before_acquire(move |connection, meta| {
                    let idle_since = Instant::now().checked_sub(meta.idle_for);
                    let is_trusted = idle_since.is_some_and(|it| is_trusted(&ready, it));
                    Box::pin(async move {
                        if !is_trusted {
                            connection.ping().await?;
                        }
                        Ok(true)
                    })
                })
                .connect_lazy_with(self.address.options().clone())
        })
    }
}

/// Whether a connection that has been idle for some time can be used without a ping.
fn is_trusted(ready: &Mutex<Ready>, idle_since: Instant) -> bool {
    idle_since.elapsed() <= TRUSTED_IDLE_TIME
        && lock(ready).distrusted_at.is_none_or(|lost_at| idle_since > lost_at)
}

/// Returns connections that were unused for a second to sqlx's pool, until the list is empty.
async fn return_unused(ready: Arc<Mutex<Ready>>) {
    loop {
        tokio::time::sleep(TRUSTED_IDLE_TIME).await;
        let unused: Vec<_> = {
            let mut ready = lock(&ready);
            let is_unused =
                |idle: &mut IdleConnection| idle.idle_since.elapsed() >= TRUSTED_IDLE_TIME;
            let unused = ready.list.extract_if(.., is_unused).collect();
            if ready.list.is_empty() {
                ready.is_watched = false;
            }
            unused
        };
        join_all(unused.into_iter().map(return_to_sqlx)).await;
        if !lock(&ready).is_watched {
            return;
        }
    }
}

/// Returns a connection to sqlx's pool, or closes it if the server does not answer in time: the pool
/// would wait for the answer without a time limit.
async fn return_to_sqlx(IdleConnection { connection, acquired_at, .. }: IdleConnection) {
    let mut idle = PooledConnection { connection: Some(connection), acquired_at, permit: None };
    if let Ok(true) = tokio::time::timeout(ACQUIRE_TIMEOUT, idle.is_alive()).await {
        drop(idle.connection.take());
    }
}
