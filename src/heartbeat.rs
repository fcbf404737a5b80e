//! Sessions are kept alive by any call that names them. A write hears its session in its own
//! statement; a read, whose statement writes nothing, is heard here.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use crate::{Config, Result, auth::Caller};

/// A session is not heard again within this time; function `touch_session` in the database holds
/// the same bound for all replicas together.
const INTERVAL: Duration = Duration::from_secs(10);

/// How many sessions are remembered at most; any text may be named as a session.
const MOST_KNOWN: usize = 10_000;

/// When this process last heard each session on a read.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats {
    heard: Mutex<HashMap<[String; 3], Instant>>,
}

impl Heartbeats {
    /// Hears the caller's session, if it names one, at most once in ten seconds.
    pub(crate) async fn hear(
        &self,
        db: &mut PgConnection,
        config: &Config,
        caller: &Caller,
    ) -> Result<()> {
        let Some(session_id) = &caller.session_id else { return Ok(()) };
        let session = [&caller.workspace, &caller.agent_id, session_id].map(String::clone);
        if self.heard_lately(&session) {
            return Ok(());
        }
        let at = Instant::now();
        sqlx::query_scalar!(
            "select touch_session($1, $2, $3, $4)",
            caller.workspace,
            caller.agent_id,
            session_id,
            config.session_timeout(),
        )
        .fetch_one(db)
        .await?;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= MOST_KNOWN {
            heard.clear();
        }
        heard.insert(session, at);
        Ok(())
    }

    fn heard_lately(&self, session: &[String; 3]) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(session).is_some_and(|at| at.elapsed() < INTERVAL)
    }
}
