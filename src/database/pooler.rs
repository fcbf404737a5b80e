//! Whether a pooler between the service and the database mixes up prepared statements.
//!
//! A pooler in transaction mode that does not track prepared statements can answer one client's
//! statement with the rows of another client's, without an error. The service therefore sends no
//! statement before it has checked that this does not happen.
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::Mutex;

use super::address::Address;
use crate::values::{Error, Result};

/// How often each of the two connections sends a statement. A pooler can give both of them their own
/// server connection by chance.
const ROUNDS: i32 = 3;

/// The time limit of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the finding that statements are mixed up is used before the next check.
const MIXED_UP_MAX_AGE: Duration = Duration::from_secs(5);

/// How long the readiness check uses the opposite finding.
const SOUND_MAX_AGE: Duration = Duration::from_secs(30);

/// The problem, and what the operator can do about it.
pub(crate) const REMEDY: &str = "a connection pooler in front of the database mixes up the prepared \
    statements of its clients: set POSTGRES_POOLER=transaction, or give the database's direct \
    address, or have the pooler keep track of prepared statements (PgBouncer 1.21 or later with \
    max_prepared_statements above 0)";

/// What is known about poolers in front of the database.
///
/// Not a `values::Cache`, because the mutex is held during a check: simultaneous requests wait for one
/// check (single flight) and do not open two connections each.
#[derive(Debug, Default)]
pub(crate) struct Pooler {
    /// Whether the latest check found no problem. Every request reads this, without the mutex.
    is_sound: AtomicBool,
    latest: Mutex<Option<Finding>>,
}

#[derive(Clone, Copy, Debug)]
struct Finding {
    at: Instant,
    mixes_up_statements: bool,
}

impl Pooler {
    /// Checks the pooler until one check finds no problem. That finding holds for the rest of the
    /// process.
    ///
    /// # Errors
    /// `Unavailable` when statements are mixed up, or when the database is unreachable.
    pub(crate) async fn ensure_sound(&self, address: &Address) -> Result<()> {
        if self.is_sound.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.check(address, Duration::MAX).await? {
            return Err(Error::Unavailable(REMEDY.into()));
        }
        Ok(())
    }

    /// Whether statements are mixed up, by a recent check.
    pub(crate) async fn mixes_up_statements(&self, address: &Address) -> Result<bool> {
        self.check(address, SOUND_MAX_AGE).await
    }

    /// Returns whether statements are mixed up. Repeats the check when the latest finding is too old.
    async fn check(&self, address: &Address, sound_max_age: Duration) -> Result<bool> {
        let mut latest = self.latest.lock().await;
        if let Some(Finding { at, mixes_up_statements }) = *latest {
            let max_age = if mixes_up_statements { MIXED_UP_MAX_AGE } else { sound_max_age };
            if at.elapsed() < max_age {
                return Ok(mixes_up_statements);
            }
        }
        let mixes_up_statements = compare_connections(address).await?;
        if mixes_up_statements {
            tracing::error!("{REMEDY}");
        }
        self.is_sound.store(!mixes_up_statements, Ordering::Release);
        *latest = Some(Finding { at: Instant::now(), mixes_up_statements });
        Ok(mixes_up_statements)
    }
}

/// Opens two connections and returns whether their statements are mixed up.
async fn compare_connections(address: &Address) -> Result<bool> {
    let compared = async {
        let (mut first, mut second) = tokio::try_join!(address.connect(), address.connect())?;
        let mixes_up_statements = alternate_statements(&mut first, &mut second).await;
        // The result is known, so a failure to close the connections does not matter.
        let (_, _) = tokio::join!(first.close(), second.close());
        mixes_up_statements
    };
    let compared = tokio::time::timeout(CHECK_TIMEOUT, compared).await;
    compared.map_err(|elapsed| Error::Unavailable(elapsed.into()))?
}

/// Sends statements over two connections in turn. The driver gives the statements of both connections the
/// same names. Where the connections share a server connection, the second statement of a name fails, or
/// returns the result of the first.
async fn alternate_statements(first: &mut PgConnection, second: &mut PgConnection) -> Result<bool> {
    for round in 0..ROUNDS {
        for (connection, addend) in [(&mut *first, 1_000), (&mut *second, 2_000)] {
            // The text differs in every round and for each connection, so each statement is prepared
            // again and has another result.
            let sql = format!("select $1::integer + {} as sum", addend + round);
            #[expect(
                clippy::disallowed_methods,
                reason = "each connection needs a text of its own"
            )]
            let result = sqlx::query_scalar::<_, i32>(AssertSqlSafe(sql))
                .bind(round)
                .fetch_one(connection)
                .await;
            match result {
                Ok(sum) if sum == addend + round + round => {}
                Ok(_) => return Ok(true),
                // The name of the statement is taken, or unknown.
                Err(sqlx::Error::Database(error))
                    if ["42P05", "26000", "08P01"]
                        .contains(&&*error.code().unwrap_or_default()) =>
                {
                    return Ok(true);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(false)
}
