//! The database: one lazily created pool.
//!
//! Nothing here touches the network before an operation needs it.
use std::{io, sync::Arc, time::Duration};

use futures_util::{
    TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
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

/// The database as one request sees it: a connection of the pool, taken when the first statement needs
/// it, and closed unless the work on it came to its end.
///
/// A client that hangs up, or a time limit, drops the work at any point, also while a transaction is
/// begun that the driver does not know of yet. Given back to the pool like that, the connection
/// would let the next requests write into that transaction, and their effects would vanish with it.
#[derive(Debug)]
pub(crate) struct Db {
    database: Arc<Database>,
    inner: Option<PoolConnection<Postgres>>,
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
        if self.inner.is_some() && self.database.statements == Statements::OneTransaction {
            self.commit().await?;
        }
        self.is_done = true;
        Ok(())
    }

    /// Begins a transaction, or one within the one that is open. It ends with [`Db::commit`] or
    /// [`Db::rollback`]; without either the connection must not be given back.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.connection().await?;
        self.control(if self.depth == 0 { "begin" } else { "savepoint inner_transaction" }).await?;
        self.depth += 1;
        Ok(())
    }

    /// Keeps what was done since the last [`Db::begin`].
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.depth -= 1;
        let command =
            if self.depth == 0 { "commit" } else { "release savepoint inner_transaction" };
        Ok(self.control(command).await?)
    }

    /// Undoes what was done since the last [`Db::begin`], also after an error.
    pub(crate) async fn rollback(&mut self) -> Result<()> {
        self.depth -= 1;
        if self.depth == 0 {
            return Ok(self.control("rollback").await?);
        }
        let command =
            "rollback to savepoint inner_transaction; release savepoint inner_transaction";
        Ok(self.control(command).await?)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "as a prepared statement it would not reach the server in one piece through a pooler"
    )]
    async fn control(&mut self, command: &'static str) -> Result<(), sqlx::Error> {
        if let Some(inner) = &mut self.inner {
            sqlx::raw_sql(command).execute(&mut **inner).await?;
        }
        Ok(())
    }

    /// Gives a connection on which nothing is under way back to the pool; the next statement takes one
    /// again.
    pub(crate) fn give_back(&mut self) {
        if self.depth == 0 {
            self.inner = None;
        }
    }

    /// Whether a failed statement takes more with it than its own effect.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.depth > 0
    }

    /// The connection, taken from the pool when there is none yet.
    async fn connection(&mut self) -> Result<&mut PoolConnection<Postgres>, sqlx::Error> {
        if self.inner.is_none() {
            self.inner = Some(self.database.connection().await?);
            if self.database.statements == Statements::OneTransaction {
                self.control("begin").await?;
                self.depth = 1;
            }
        }
        self.inner.as_mut().ok_or(sqlx::Error::WorkerCrashed)
    }

    fn statements(&self) -> Statements {
        self.database.statements
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        if let (false, Some(inner)) = (self.is_done, &mut self.inner) {
            inner.close_on_drop();
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
        let statements = self.statements();
        let rows = async move {
            let inner = self.connection().await?;
            Ok::<_, sqlx::Error>(match statements {
                Statements::Named => inner.fetch_many(query),
                Statements::OneTransaction => inner.fetch_many(Unnamed(query)),
            })
        };
        Box::pin(stream::once(rows).try_flatten())
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statements = self.statements();
        Box::pin(async move {
            let inner = self.connection().await?;
            match statements {
                Statements::Named => inner.fetch_optional(query).await,
                Statements::OneTransaction => inner.fetch_optional(Unnamed(query)).await,
            }
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.connection().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.connection().await?.describe(sql).await })
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

    /// The database for one request, which takes a connection when it needs one.
    pub(crate) fn lazily(self: &Arc<Self>) -> Db {
        Db { database: self.clone(), inner: None, depth: 0, is_done: false }
    }

    /// The database with a connection taken. It goes back to the pool only with [`Db::done`].
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Db> {
        let mut db = self.lazily();
        db.connection().await?;
        Ok(db)
    }

    /// A connection of the pool. The first one of a process waits until it is known that no pooler mixes
    /// up its statements.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        if self.statements == Statements::Named {
            let checked = self.pooler.check(&self.options.0).await;
            checked.map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
        }
        self.pool().acquire().await
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
