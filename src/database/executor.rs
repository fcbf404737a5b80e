//! Implements the executor of sqlx for [`Db`], so that its macros can run statements on it.
use std::{io, time::Duration};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Db;
use crate::{config::Statements, values::ReadTooLong};

/// A statement that is prepared without a name, for poolers in transaction mode.
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

/// Ends rows with an error once they have taken too long.
fn within<'e, T: Send + 'e>(
    limit: Duration,
    rows: BoxStream<'e, Result<T, sqlx::Error>>,
) -> BoxStream<'e, Result<T, sqlx::Error>> {
    let deadline = Instant::now() + limit;
    Box::pin(stream::unfold(rows, move |mut rows| async move {
        match timeout_at(deadline, rows.next()).await {
            Ok(row) => row.map(|row| (row, rows)),
            Err(_) => Some((Err(too_long(limit)), Box::pin(stream::empty()) as BoxStream<'e, _>)),
        }
    }))
}

fn too_long(limit: Duration) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, ReadTooLong(limit)))
}

#[expect(clippy::disallowed_methods, reason = "the macros of sqlx call these methods")]
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
        let (statements, limit) = (self.statements(), self.statement_time());
        let rows = async move {
            let inner = self.connection().await?;
            let rows = match statements {
                Statements::Named => inner.fetch_many(query),
                Statements::OneTransaction => inner.fetch_many(Unnamed(query)),
            };
            Ok::<_, sqlx::Error>(match limit {
                None => rows,
                Some(limit) => within(limit, rows),
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
        let (statements, limit) = (self.statements(), self.statement_time());
        Box::pin(async move {
            let inner = self.connection().await?;
            let row = match statements {
                Statements::Named => inner.fetch_optional(query),
                Statements::OneTransaction => inner.fetch_optional(Unnamed(query)),
            };
            match limit {
                None => row.await,
                Some(limit) => timeout(limit, row).await.unwrap_or_else(|_| Err(too_long(limit))),
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
