//! Heartbeats: any call of an agent keeps its session and its claims alive.
//!
//! A transition records the heartbeat itself, in the database. For a read, whose statement writes nothing,
//! it is recorded here.
use std::time::Instant;

use crate::{
    access::Caller,
    config::Config,
    database::Db,
    values::{Cache, Result},
};

/// How many callers are kept in memory: a request can name any text as its session.
const CAPACITY: usize = 10_000;

/// The callers of reads whose heartbeat this process recorded a short time ago. Database function
/// `record_heartbeat` keeps the same interval for all replicas together.
#[derive(Debug)]
pub(crate) struct Heartbeats(Cache<Subject, ()>);

/// Workspace, agent and session.
type Subject = (String, String, Option<String>);

/// What becomes of a session that turns out to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostSession {
    /// The call fails, and is run again once the session has been revived.
    IsRevived,
    /// Nothing: the answer has no place to tell it. The next call tells it.
    StaysLost,
}

impl Heartbeats {
    pub(super) fn new() -> Self {
        Self(Cache::new(CAPACITY))
    }

    /// Records the heartbeat of a caller, at most once in an interval.
    pub(super) async fn record(
        &self,
        db: &mut Db,
        config: &Config,
        caller: &Caller,
        lost: LostSession,
    ) -> Result<()> {
        let subject =
            (caller.workspace.clone(), caller.agent_id.clone(), caller.session_id.clone());
        let Err(generation) = self.0.get(&subject) else { return Ok(()) };
        let recorded_at = Instant::now();
        let is_recorded = sqlx::query_scalar!(
            r#"
            select record_heartbeat_of_read($1, row(null, $2, $3, $4, null, $5)::request, $6)
                as "is_recorded!"
            "#,
            caller.workspace,
            caller.agent_id,
            caller.agent_type,
            caller.session_id,
            config.session_timeout(),
            lost == LostSession::IsRevived,
        )
        .fetch_one(db)
        .await?;
        if is_recorded {
            let interval = config.timings.heartbeat_interval;
            self.0.insert(generation, subject, (), recorded_at, interval);
        }
        Ok(())
    }
}
