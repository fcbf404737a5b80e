//! The database: one lazily created pool.
//!
//! Nothing here touches the network before an operation needs it.
use std::{io, sync::Arc};

use futures_util::{
    TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::{
    Config, Result,
    pool::{InUse, Pool},
    pooler::Pooler,
};

/// The database, reached on first use.
#[derive(Debug)]
pub(crate) struct Database {
    pool: Pool,
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
    inner: Option<InUse>,
    /// How many transactions are open, one in another.
    depth: u32,
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
        self.give_back();
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
            sqlx::raw_sql(command).execute(inner.connection()?).await?;
        }
        Ok(())
    }

    /// Gives a connection on which nothing is under way back to the pool; the next statement takes one
    /// again.
    pub(crate) fn give_back(&mut self) {
        if self.depth == 0
            && let Some(inner) = self.inner.take()
        {
            self.database.pool.give_back(inner);
        }
    }

    /// Whether a failed statement takes more with it than its own effect.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.depth > 0
    }

    /// The connection, taken from the pool when there is none yet.
    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.inner.is_none() {
            self.inner = Some(self.database.connection().await?);
            if self.database.statements == Statements::OneTransaction {
                self.control("begin").await?;
                self.depth = 1;
            }
        }
        self.inner.as_mut().ok_or(sqlx::Error::WorkerCrashed)?.connection()
    }

    fn statements(&self) -> Statements {
        self.database.statements
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
        Self { pool: Pool::new(config), statements: config.statements, pooler: Pooler::default() }
    }

    /// The database for one request, which takes a connection when it needs one.
    pub(crate) fn lazily(self: &Arc<Self>) -> Db {
        Db { database: self.clone(), inner: None, depth: 0 }
    }

    /// The database with a connection taken. It can be used again only after [`Db::done`].
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Db> {
        let mut db = self.lazily();
        db.connection().await?;
        Ok(db)
    }

    /// A connection of the pool. The first one of a process waits until it is known that no pooler mixes
    /// up its statements.
    async fn connection(&self) -> Result<InUse, sqlx::Error> {
        if self.statements == Statements::Named {
            let checked = self.pooler.check(self.options()).await;
            checked.map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
        }
        self.pool.take().await
    }

    /// Whether a pooler in between mixes up statements, which makes the database as good as
    /// unreachable.
    pub(crate) async fn is_mixed_up(&self) -> Result<bool> {
        match self.statements {
            Statements::Named => self.pooler.is_mixed_up(self.options()).await,
            Statements::OneTransaction => Ok(false),
        }
    }

    /// How many connections are open, and how many of them are idle.
    pub(crate) fn connections(&self) -> (u32, usize) {
        self.pool.count()
    }

    /// Closes what is open; connections in use are given back first.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// How statements are sent.
    pub(crate) fn statements(&self) -> Statements {
        self.statements
    }

    /// The address, for a connection beside the pool.
    pub(crate) fn options(&self) -> &PgConnectOptions {
        self.pool.options()
    }
}
