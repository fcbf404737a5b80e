//! The database: one lazily created pool.
//!
//! Nothing here touches the network before an operation needs it.
use std::time::Duration;

use futures_util::{future::BoxFuture, stream::BoxStream};
use once_cell::sync::OnceCell;
use sqlx::{
    Connection as _, Describe, Either, Execute, Executor, PgPool, Postgres, SqlStr,
    error::BoxDynError,
    pool::PoolConnection,
    postgres::{
        PgArguments, PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo,
    },
};

use crate::{Config, Result, config::Secret, pooler::Pooler};

/// How long a request waits for a connection; with the database down this is its time to 503.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

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
    statements: Statements,
    pooler: Pooler,
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statements {
    /// As prepared statements with names, each its own transaction: the connection is the server's
    /// own, or a pooler knows about such statements.
    Named,
    /// Without names, and in one transaction from taking the connection to giving it back, because
    /// a pooler may give every transaction another connection to the server.
    OneTransaction,
}

/// A connection of the pool, which is closed unless the work on it came to its end.
///
/// A client that hangs up, or a time limit, drops the work at any point, also while a transaction is
/// begun that the driver does not know of yet. Given back to the pool like that, the connection
/// would let the next requests write into that transaction, and their effects would vanish with it.
#[derive(Debug)]
pub(crate) struct Db {
    inner: PoolConnection<Postgres>,
    statements: Statements,
    /// How many transactions are open, one in another.
    depth: u32,
    is_done: bool,
}

impl Db {
    /// Gives the connection back to the pool, with everything on it committed.
    ///
    /// # Errors
    /// Where that could not be committed, nothing on it was.
    pub(crate) async fn done(mut self) -> Result<()> {
        if self.statements == Statements::OneTransaction {
            self.commit().await?;
        }
        self.is_done = true;
        Ok(())
    }

    /// Begins a transaction, or one within the one that is open. It ends with [`Db::commit`] or
    /// [`Db::rollback`]; without either the connection must not be given back.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.control(if self.depth == 0 { "begin" } else { "savepoint inner_transaction" }).await?;
        self.depth += 1;
        Ok(())
    }

    /// Keeps what was done since the last [`Db::begin`].
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.depth -= 1;
        let command =
            if self.depth == 0 { "commit" } else { "release savepoint inner_transaction" };
        self.control(command).await
    }

    /// Undoes what was done since the last [`Db::begin`], also after an error.
    pub(crate) async fn rollback(&mut self) -> Result<()> {
        self.depth -= 1;
        if self.depth == 0 {
            return self.control("rollback").await;
        }
        self.control("rollback to savepoint inner_transaction; release savepoint inner_transaction")
            .await
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "as a prepared statement it would not reach the server in one piece through a pooler"
    )]
    async fn control(&mut self, command: &'static str) -> Result<()> {
        sqlx::raw_sql(command).execute(&mut *self.inner).await?;
        Ok(())
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if !self.is_done {
            self.inner.close_on_drop();
        }
    }
}

/// A statement that leaves no name behind.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}

#[expect(clippy::disallowed_methods, reason = "the macros' statements come by here")]
impl<'c> Executor<'c> for &'c mut Db {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.statements {
            Statements::Named => self.inner.fetch_many(query),
            Statements::OneTransaction => self.inner.fetch_many(Unnamed(query)),
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        match self.statements {
            Statements::Named => self.inner.fetch_optional(query),
            Statements::OneTransaction => self.inner.fetch_optional(Unnamed(query)),
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.inner.describe(sql)
    }
}

impl Database {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            options: config.database.clone(),
            pool_min: config.pool_min,
            pool_max: config.pool_max,
            idle_time: config.idle_time,
            pool: OnceCell::new(),
            statements: config.statements,
            pooler: Pooler::default(),
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

    /// A connection of the pool. It goes back there only with [`Db::done`]. The first one of a
    /// process waits until it is known that no pooler mixes up its statements.
    pub(crate) async fn acquire(&self) -> Result<Db> {
        if self.statements == Statements::Named {
            self.pooler.check(&self.options.0).await?;
        }
        let inner = self.pool().acquire().await?;
        let mut db = Db { inner, statements: self.statements, depth: 0, is_done: false };
        if self.statements == Statements::OneTransaction {
            db.begin().await?;
        }
        Ok(db)
    }

    /// Whether a pooler in between mixes up statements, which makes the database as good as
    /// unreachable.
    pub(crate) async fn is_mixed_up(&self) -> Result<bool> {
        match self.statements {
            Statements::Named => self.pooler.is_mixed_up(&self.options.0).await,
            Statements::OneTransaction => Ok(false),
        }
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

    /// How statements are sent.
    pub(crate) fn statements(&self) -> Statements {
        self.statements
    }

    /// The address, for a connection beside the pool.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        &self.options.0
    }
}
