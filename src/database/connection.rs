//! The database as a process and as a request see it. No code here uses the network before an operation
//! needs the database.
use std::{io, sync::Arc, time::Duration};

use sqlx::PgConnection;

use super::{
    address::Address,
    pool::{Pool, PooledConnection},
    pooler::Pooler,
    shares::{Consumer, ShareObserver},
};
use crate::{
    config::{DatabaseSettings, Statements},
    values::{Result, is_lost_connection},
};

/// The database. The first statement opens the first connection.
#[derive(Debug)]
pub(crate) struct Database {
    pool: Pool,
    statements: Statements,
    pooler: Pooler,
}

/// The database as one request sees it: a connection of the pool, acquired by the first statement. It is
/// closed on drop, and reused only after [`Db::commit_and_release`] or [`Db::release`].
///
/// A client that disconnects, or a time limit, drops the work at any point, also while a `begin` is on
/// its way that the driver has not registered yet. If such a connection went back to the pool, the next
/// requests would write into that transaction, and their effects would be lost with it.
#[derive(Debug)]
pub(crate) struct Db {
    database: Arc<Database>,
    consumer: Consumer,
    /// How long a statement can take, if less than the database allows.
    statement_time: Option<Duration>,
    inner: Option<PooledConnection>,
    /// The number of nested transactions that are open.
    depth: u32,
}

impl Db {
    /// Commits the work and releases the connection to the pool.
    ///
    /// # Errors
    /// Fails when the commit fails, and then nothing was committed.
    pub(crate) async fn commit_and_release(mut self) -> Result<()> {
        if self.inner.is_some() && self.database.statements == Statements::OneTransaction {
            self.commit().await?;
        }
        self.release();
        Ok(())
    }

    /// Begins a transaction, or a savepoint in the open transaction. [`Db::commit`] or [`Db::rollback`]
    /// ends it; until then, the connection cannot be released.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        self.connection().await?;
        self.control(if self.depth == 0 { "begin" } else { "savepoint inner_transaction" }).await?;
        self.depth += 1;
        Ok(())
    }

    /// Commits the work since the last [`Db::begin`].
    pub(crate) async fn commit(&mut self) -> Result<()> {
        self.depth -= 1;
        let command =
            if self.depth == 0 { "commit" } else { "release savepoint inner_transaction" };
        Ok(self.control(command).await?)
    }

    /// Rolls back the work since the last [`Db::begin`], also after an error.
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
        reason = "a pooler could send the parts of a prepared statement to two server connections"
    )]
    /// Sends a command that controls a transaction, if there is a connection.
    async fn control(&mut self, command: &'static str) -> Result<(), sqlx::Error> {
        if let Some(inner) = &mut self.inner {
            sqlx::raw_sql(command).execute(inner.connection()?).await?;
        }
        Ok(())
    }

    /// Releases the connection to the pool, unless a transaction is open. The next statement acquires a
    /// connection again.
    pub(crate) fn release(&mut self) {
        if self.depth == 0
            && let Some(inner) = self.inner.take()
        {
            self.database.pool.release(inner);
        }
    }

    /// Ends each further statement after this time, with an error. Its connection is closed then.
    pub(crate) fn limit_statements(&mut self, time: Option<Duration>) {
        self.statement_time = time;
    }

    pub(super) fn statement_time(&self) -> Option<Duration> {
        self.statement_time
    }

    /// Counts the connection for the workspace of the caller, which is known once the caller is.
    pub(crate) fn count_for(&mut self, workspace: &str) {
        if !matches!(&self.consumer, Consumer::Workspace(name) if **name == *workspace) {
            self.consumer = Consumer::workspace(workspace);
        }
    }

    /// Whether a transaction is open, so that a failed statement undoes more than its own effect.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.depth > 0
    }

    /// Returns the connection. Acquires it from the pool if necessary.
    pub(super) async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.inner.is_none() {
            self.inner = Some(self.database.acquire_from_pool(&self.consumer).await?);
            if self.database.statements == Statements::OneTransaction {
                self.control("begin").await?;
                self.depth = 1;
            }
        }
        self.inner.as_mut().ok_or(sqlx::Error::WorkerCrashed)?.connection()
    }

    pub(super) fn statements(&self) -> Statements {
        self.database.statements
    }
}

impl Database {
    pub(crate) fn new(settings: &DatabaseSettings, observer: Arc<dyn ShareObserver>) -> Self {
        Self {
            pool: Pool::new(settings, observer),
            statements: settings.statements,
            pooler: Pooler::default(),
        }
    }

    /// Returns the database for one request of a consumer. Its first statement acquires a connection.
    pub(crate) fn connect_lazily(self: &Arc<Self>, consumer: Consumer) -> Db {
        Db { database: self.clone(), consumer, statement_time: None, inner: None, depth: 0 }
    }

    /// Acquires a connection for a consumer.
    pub(crate) async fn acquire_connection(self: &Arc<Self>, consumer: Consumer) -> Result<Db> {
        let mut db = self.connect_lazily(consumer);
        db.connection().await?;
        Ok(db)
    }

    /// Acquires a connection of the pool. The first requests of a process wait for the check of poolers.
    async fn acquire_from_pool(
        &self,
        consumer: &Consumer,
    ) -> Result<PooledConnection, sqlx::Error> {
        if self.statements == Statements::Named {
            let checked = self.pooler.ensure_sound(self.address()).await;
            checked.map_err(|error| sqlx::Error::Io(io::Error::other(error)))?;
        }
        match self.pool.acquire(consumer).await {
            // The connection broke before anything was sent on it.
            Err(error) if is_lost_connection(&error) => {
                self.pool.distrust_idle();
                self.pool.acquire(consumer).await
            }
            acquired => acquired,
        }
    }

    /// Whether a pooler mixes up statements. The service then answers requests as if the database were
    /// unreachable.
    pub(crate) async fn mixes_up_statements(&self) -> Result<bool> {
        match self.statements {
            Statements::Named => self.pooler.mixes_up_statements(self.address()).await,
            Statements::OneTransaction => Ok(false),
        }
    }

    /// Returns how many connections are open, and how many of them are idle.
    pub(crate) fn connections(&self) -> (u32, usize) {
        self.pool.count()
    }

    /// Closes all connections. Waits until those in use are released.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }

    /// Returns how statements are sent.
    pub(crate) fn statements(&self) -> Statements {
        self.statements
    }

    /// Returns the address, for a connection outside the pool.
    pub(super) fn address(&self) -> &Address {
        self.pool.address()
    }

    /// Runs work that can run twice without harm, once more on a fresh connection where its connection turned
    /// out to be lost. For work outside of the runs of operations, which `execute` repeats.
    pub(crate) async fn with_fresh_connection<T, F: Future<Output = Result<T>>>(
        &self,
        work: impl Fn() -> F,
    ) -> Result<T> {
        match work().await {
            Err(error) if error.is_lost_connection() => {
                self.distrust_idle_connections();
                work().await
            }
            result => result,
        }
    }

    /// Has every idle connection answer a ping before it is used again. Called when a connection was lost:
    /// what ended it has often ended the others too.
    pub(crate) fn distrust_idle_connections(&self) {
        self.pool.distrust_idle();
    }
}
