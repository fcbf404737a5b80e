//! Whether a connection pooler between the service and the database mixes up prepared statements.
//!
//! A pooler that gives each transaction another connection to the server, and does not know about
//! prepared statements, answers one client's question with another client's rows, without any
//! error. So nothing is asked of the database before it is known that this does not happen.
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions,
};
use tokio::sync::Mutex;

use crate::values::{Error, Result};

/// How often two connections ask in turn.
const ROUNDS: i32 = 3;

/// How long the check may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a pooler that was found to mix up statements is believed to go on with it.
const MIXED_UP_BELIEVED: Duration = Duration::from_secs(5);

/// How long the readiness check believes the opposite.
const SOUND_BELIEVED: Duration = Duration::from_secs(30);

/// What is wrong, and what helps.
pub(crate) const REMEDY: &str = "a connection pooler in front of the database mixes up the prepared \
    statements of its clients: set POSTGRES_POOLER=transaction, or give the database's direct \
    address, or have the pooler keep track of prepared statements (PgBouncer 1.21 or later with \
    max_prepared_statements above 0)";

/// What is known of the way to the database.
#[derive(Debug, Default)]
pub(crate) struct Pooler {
    /// Whether the latest check found that all is well: what every request looks at.
    is_sound: AtomicBool,
    latest: Mutex<Option<Finding>>,
}

#[derive(Clone, Copy, Debug)]
struct Finding {
    at: Instant,
    is_mixed_up: bool,
}

impl Pooler {
    /// Finds out once for the process, and again a while after the answer was a bad one.
    ///
    /// # Errors
    /// `Unavailable` when statements are mixed up, or when the database cannot be reached.
    pub(crate) async fn check(&self, options: &PgConnectOptions) -> Result<()> {
        if self.is_sound.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.find_out(options, Duration::MAX).await? {
            return Err(Error::Unavailable(REMEDY.into()));
        }
        Ok(())
    }

    /// Whether statements are mixed up, by a check that is not long past.
    pub(crate) async fn is_mixed_up(&self, options: &PgConnectOptions) -> Result<bool> {
        self.find_out(options, SOUND_BELIEVED).await
    }

    async fn find_out(&self, options: &PgConnectOptions, sound_believed: Duration) -> Result<bool> {
        let mut latest = self.latest.lock().await;
        if let Some(Finding { at, is_mixed_up }) = *latest {
            let believed = if is_mixed_up { MIXED_UP_BELIEVED } else { sound_believed };
            if at.elapsed() < believed {
                return Ok(is_mixed_up);
            }
        }
        let is_mixed_up = are_mixed_up(options).await?;
        if is_mixed_up {
            tracing::error!("{REMEDY}");
        }
        self.is_sound.store(!is_mixed_up, Ordering::Release);
        *latest = Some(Finding { at: Instant::now(), is_mixed_up });
        Ok(is_mixed_up)
    }
}

async fn are_mixed_up(options: &PgConnectOptions) -> Result<bool> {
    let checked = async {
        let (mut one, mut other) = tokio::try_join!(options.connect(), options.connect())?;
        let mixed_up = ask_in_turn(&mut one, &mut other).await;
        // What was to be found out is known, whether the farewell arrives or not.
        let (_, _) = tokio::join!(one.close(), other.close());
        mixed_up
    };
    let checked = tokio::time::timeout(PATIENCE, checked).await;
    checked.map_err(|elapsed| Error::Unavailable(elapsed.into()))?
}

/// Both connections give their statements the same names. On the server's own connections each has
/// its own; where they share one, the second statement of a name is an error or the first one's.
async fn ask_in_turn(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    for round in 0..ROUNDS {
        for (connection, addend) in [(&mut *one, 1_000), (&mut *other, 2_000)] {
            // Two texts, each prepared anew in every round, with other answers.
            let sql = format!("select $1::integer + {} as sum", addend + round);
            #[expect(
                clippy::disallowed_methods,
                reason = "each connection needs a text of its own"
            )]
            let asked = sqlx::query_scalar::<_, i32>(AssertSqlSafe(sql))
                .bind(round)
                .fetch_one(connection)
                .await;
            match asked {
                Ok(sum) if sum == addend + round + round => {}
                Ok(_) => return Ok(true),
                // The name is taken, or not known.
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
