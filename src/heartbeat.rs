//! Sessions and claims are kept alive by any call of their agent. A transition records the heartbeat
//! itself, in the database; for a read, whose statement writes nothing, it is recorded here.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{Config, Result, auth::Caller, db::Db};

/// How many callers are remembered at most; any text may be named as a session.
const MOST_KNOWN: usize = 10_000;

/// When this process last recorded a heartbeat for each caller of reads. Function `record_heartbeat` in the database
/// keeps the same bound for all replicas together.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    heard: Mutex<HashMap<Ear, Instant>>,
}

/// Workspace, agent and session.
type Ear = (String, String, Option<String>);

impl Heartbeats {
    /// Hears the caller, at most once in ten seconds.
    pub(crate) async fn hear(&self, db: &mut Db, config: &Config, caller: &Caller) -> Result<()> {
        let ear = (caller.workspace.clone(), caller.agent_id.clone(), caller.session_id.clone());
        if self.heard_lately(&ear, config.heartbeat_interval) {
            return Ok(());
        }
        let at = Instant::now();
        sqlx::query_scalar!(
            "select record_heartbeat($1, row(null, $2, $3, $4, null, $5)::request)",
            caller.workspace,
            caller.agent_id,
            caller.agent_type,
            caller.session_id,
            config.session_timeout(),
        )
        .fetch_one(db)
        .await?;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= MOST_KNOWN {
            heard.clear();
        }
        heard.insert(ear, at);
        Ok(())
    }

    fn heard_lately(&self, ear: &Ear, interval: Duration) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(ear).is_some_and(|at| at.elapsed() < interval)
    }
}
