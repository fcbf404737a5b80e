//! The caller as the service sees it, and whether a lock is the caller's.
use std::cell::OnceCell;

use serde_json::json;

use crate::{
    command_line::context::Context, output::outcome::Problem, service::routes::Route,
    work_tree::record::Recorded,
};

const IDENTITY: &Route = Route::named("GET /profiles/me");

/// The caller as the service sees it. The service is asked once, and only if that is needed.
pub(super) struct Caller<'a> {
    pub(super) cx: &'a Context,
    identity: OnceCell<Identity>,
}

/// The agent and the workspace that the service derives from the key and the headers.
struct Identity {
    agent_id: String,
    workspace: String,
    /// Whether other clients are the same agent, because neither key nor request names one.
    is_unnamed: bool,
}

impl<'a> Caller<'a> {
    pub(super) fn new(cx: &'a Context) -> Caller<'a> {
        Caller { cx, identity: OnceCell::new() }
    }

    fn identity(&self) -> Result<&Identity, Problem> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity);
        }
        let answer = self.cx.call(IDENTITY, json!({}))?;
        let member = |name: &str| answer.member("identity")[name].as_str().map(str::to_owned);
        match (answer.status, member("agent_id"), member("workspace")) {
            (200, Some(agent_id), Some(workspace)) => {
                let is_unnamed = answer.member("warning").is_string();
                Ok(self.identity.get_or_init(|| Identity { agent_id, workspace, is_unnamed }))
            }
            _ => Err(Problem::unusable(&answer, self.cx.settings())),
        }
    }

    /// Whether a recorded lock was acquired by the caller at this service.
    pub(super) fn has_recorded(&self, lock: &Recorded) -> Result<bool, Problem> {
        let url = self.cx.settings().url.as_str();
        // A lock of another service needs no request to this one.
        if !lock.counts_for(url, "", "") {
            return Ok(false);
        }
        let Identity { agent_id, workspace, .. } = self.identity()?;
        Ok(lock.counts_for(url, workspace, agent_id))
    }

    /// Returns the agent that the caller is. The service is asked only if the settings do not name
    /// it. Empty if it is not known, because the service did not say.
    pub(super) fn agent_id(&self) -> &str {
        match self.cx.settings().identity.agent_id.as_str() {
            "" => self.identity().map_or("", |identity| identity.agent_id.as_str()),
            named => named,
        }
    }

    /// Whether the caller is the default agent, as every client is that names none, as far as that
    /// is known.
    pub(super) fn is_unnamed(&self) -> bool {
        let is_named = !self.cx.settings().identity.agent_id.is_empty();
        !is_named && self.identity().is_ok_and(|identity| identity.is_unnamed)
    }

    /// Whether a recorded lock is the caller's, as far as that is known.
    pub(super) fn owns(&self, lock: &Recorded) -> bool {
        self.has_recorded(lock).unwrap_or(false)
    }

    /// Whether the holder of a lock is the caller.
    pub(super) fn is(&self, holder: &str) -> Result<bool, Problem> {
        Ok(self.identity()?.agent_id == holder)
    }

    /// Whether a lock of the caller counts in the caller's session. A lock without a session counts
    /// in every session.
    pub(super) fn is_in_session(&self, lock_session: Option<&str>) -> bool {
        let session = self.cx.settings().identity.session_id.as_str();
        lock_session.is_none_or(|lock_session| session.is_empty() || lock_session == session)
    }
}
