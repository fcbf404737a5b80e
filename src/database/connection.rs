//! The database as a process and as a request see it.
//!
//! Nothing here touches the network before an operation needs it.
use std::{io, sync::Arc};

use sqlx::{PgConnection, postgres::PgConnectOptions};

use super::{
    pool::{InUse, Pool},
    pooler::Pooler,
};
use crate::{
    config::{DatabaseSettings, Statements},
    values::Result,
};

/// The database, reached on first use.
#[derive(Debug)]
pub(crate) struct Database {
    pool: Pool,
    statements: Statements,
    pooler: Pooler,
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
    pub(super) async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.inner.is_none() {
            self.inner = Some(self.database.connection().await?);
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
    pub(crate) fn new(settings: &DatabaseSettings) -> Self {
        Self {
            pool: Pool::new(settings),
            statements: settings.statements,
            pooler: Pooler::default(),
        }
    }

    /// The database for one request, which takes a connection when it needs one.
    pub(crate) fn on_demand(self: &Arc<Self>) -> Db {
        Db { database: self.clone(), inner: None, depth: 0 }
    }

    /// The database with a connection taken. It can be used again only after [`Db::done`].
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<Db> {
        let mut db = self.on_demand();
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
