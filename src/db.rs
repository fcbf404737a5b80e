//! The database: one lazily created pool, the migrations and the schema's version.
//!
//! Nothing here touches the network before an operation needs it.
use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use once_cell::sync::OnceCell;
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres,
    migrate::Migrator,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{Config, Error, Result, audit, config::Secret};

/// All migrations, embedded in the binary.
pub(crate) static MIGRATOR: Migrator = sqlx::migrate!();

/// How long a request waits for a connection; with the database down this is its time to 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection idle for longer is asked whether it still lives before it is used: it may have died
/// unnoticed, and asking each time would be a round trip more for every request.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// The database, reached on first use.
#[derive(Debug)]
pub(crate) struct Database {
    options: Secret<PgConnectOptions>,
    pool_min: u32,
    pool_max: u32,
    idle_time: Duration,
    pool: OnceCell<PgPool>,
}

/// A connection of the pool, which is closed unless the work on it came to its end.
///
/// A client that hangs up, or a time limit, drops the work at any point, also while a transaction is
/// begun that the driver does not know of yet. Given back to the pool like that, the connection
/// would let the next requests write into that transaction, and their effects would vanish with it.
#[derive(Debug)]
pub(crate) struct Connection {
    inner: PoolConnection<Postgres>,
    is_done: bool,
}

impl Connection {
    /// Gives the connection back to the pool: no transaction is open on it and no answer awaited.
    pub(crate) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_done {
            self.inner.close_on_drop();
        }
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached (yet).
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// A migration failed, or the schema is one that this version does not know.
    #[error("a migration failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What `/ready` asks of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    Current,
    Mismatch,
}

impl Database {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            options: config.database.clone(),
            pool_min: config.pool_min,
            pool_max: config.pool_max,
            idle_time: config.idle_time,
            pool: OnceCell::new(),
        }
    }

    fn pool(&self) -> &PgPool {
        self.pool.get_or_init(|| {
            PgPoolOptions::new()
                .min_connections(self.pool_min)
                .max_connections(self.pool_max)
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

    /// A connection of the pool. It goes back there only with [`Connection::done`].
    pub(crate) async fn acquire(&self) -> Result<Connection> {
        Ok(Connection { inner: self.pool().acquire().await?, is_done: false })
    }

    /// How many connections are open, and how many of them are idle.
    pub(crate) fn connections(&self) -> (u32, usize) {
        self.pool.get().map_or((0, 0), |pool| (pool.size(), pool.num_idle()))
    }

    /// Closes what is open; connections in use are given back first.
    pub(crate) async fn close(&self) {
        if let Some(pool) = self.pool.get() {
            pool.close().await;
        }
    }

    /// Brings the schema up to date. Simultaneous callers wait for one another.
    pub(crate) async fn migrate(&self) -> Result<(), MigrateError> {
        // A connection of its own, without the time limits that requests have.
        let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, self.options.0.connect()).await;
        let connected = connected.unwrap_or_else(|elapsed| {
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)))
        });
        let mut db = connected.map_err(MigrateError::Unreachable)?;
        let failed = |error: Error| MigrateError::Failed(error.into());
        lift_time_limits(&mut db).await.map_err(failed)?;
        MIGRATOR.run(&mut db).await.map_err(|error| MigrateError::Failed(error.into()))?;
        audit::ensure_partitions(&mut db, audit::MONTHS_AHEAD).await.map_err(failed)?;
        if let Err(error) = set_time_limits(&mut db).await {
            tracing::warn!(%error, "could not set the time limits of the database role");
        }
        // What was asked for is done, whether the farewell arrives or not.
        if let Err(error) = db.close().await {
            tracing::debug!(%error, "closing the migrating connection failed");
        }
        Ok(())
    }

    /// Whether the schema is exactly the one this binary was built for.
    pub(crate) async fn schema(db: &mut PgConnection) -> Result<Schema> {
        let applied = sqlx::query!(
            "select version, checksum from _sqlx_migrations where success order by version"
        )
        .fetch_all(db)
        .await;
        let applied = match applied.map_err(Error::from) {
            Ok(applied) => applied,
            Err(unavailable @ Error::Unavailable(_)) => return Err(unavailable),
            // No such table: nothing was ever migrated.
            Err(_) => return Ok(Schema::Mismatch),
        };
        let known = MIGRATOR.iter().map(|it| (it.version, &*it.checksum));
        let same = known.eq(applied.iter().map(|it| (it.version, &*it.checksum)));
        Ok(if same { Schema::Current } else { Schema::Mismatch })
    }
}

async fn lift_time_limits(db: &mut PgConnection) -> Result<()> {
    sqlx::query!("set statement_timeout = 0").execute(&mut *db).await?;
    sqlx::query!("set lock_timeout = 0").execute(db).await?;
    Ok(())
}

/// Time limits of the role in this database. Set on the role, because a start-up parameter would be
/// refused by a connection pooler and a plain SET would leak through it to other clients.
async fn set_time_limits(db: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        r#"
        do $$
        declare
            target text := format(
                'alter role %I in database %I set ', current_user, current_database());
        begin
            execute target || 'statement_timeout = ''10s''';
            execute target || 'lock_timeout = ''5s''';
            execute target || 'idle_in_transaction_session_timeout = ''30s''';
        end
        $$
        "#
    )
    .execute(db)
    .await?;
    Ok(())
}
