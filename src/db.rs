//! The database: one lazily created pool, the migrations and the schema's version.
//!
//! Nothing here touches the network before an operation needs it.
use std::time::Duration;

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
    pool: OnceCell<PgPool>,
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
            pool: OnceCell::new(),
        }
    }

    fn pool(&self) -> &PgPool {
        self.pool.get_or_init(|| {
            PgPoolOptions::new()
                .min_connections(self.pool_min)
                .max_connections(self.pool_max)
                .acquire_timeout(ACQUIRE_TIMEOUT)
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

    /// A connection of the pool.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        Ok(self.pool().acquire().await?)
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
        let mut db = self.options.0.connect().await.map_err(MigrateError::Unreachable)?;
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
