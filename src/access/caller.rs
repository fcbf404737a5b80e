//! The agent that a request acts as, from its key and its claims. Every text of a denial here is part of
//! the wire contract: `docs/api-design.md#identity`.
use std::sync::{Arc, Once};

use serde_json::Value;

use super::{
    claims::Claims,
    keys::{Key, Keyring},
    kinds::{Door, IdentityMode},
    profile::{Profile, ProfileSource},
    session::named_session,
};
use crate::{
    config::identities::DEFAULT_WORKSPACE,
    values::{Error, Result},
};

const AGENT_ID_FORBIDDEN: &str = "API key is not permitted to act as requested agent_id";
const AGENT_ID_LOOKALIKE: &str = "API key is not permitted to act as requested agent_id: it looks like the name of \
    an agent that has a key of its own; choose another name";
const AGENT_TYPE_FORBIDDEN: &str = "API key is not permitted to act as requested agent_type";
const WORKSPACE_FORBIDDEN: &str = "API key is not permitted to use requested workspace";

/// Id and type of a caller whose key is unbound and whose request names no agent.
const DEFAULT_AGENT: (&str, &str) = ("cloud-agent", "cloud_agent");

/// What to tell a caller that acts as the default agent.
pub(crate) const UNNAMED: &str = "You are the agent `cloud-agent`, because your key is bound to no agent and your \
    requests name none. Every client that does the same is this agent too and shares its locks and tasks: name \
    yourself in the header X-Agent-Id, or use a key that is bound to an agent.";

/// The agent behind a request, with what it can do.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Effective agent id: every effect and record of the request belongs to it.
    pub(crate) agent_id: String,
    /// Effective agent type.
    pub(crate) agent_type: String,
    /// Session in which the request acts, if any; see `access::session`. It need not be registered.
    pub(crate) session_id: Option<String>,
    /// The one workspace that the request sees.
    pub(crate) workspace: String,
    /// Trust from 0 (suspended) to 4 (admin), never taken from the request.
    pub(crate) trust: u8,
    /// Profile whose lists and limits apply.
    pub(crate) profile: Option<Arc<Profile>>,
    /// Why that profile applies.
    pub(crate) profile_source: Option<ProfileSource>,
    /// Whether the key is bound to this agent.
    pub(crate) bound: bool,
    /// The MCP connection that the request came through, if any.
    pub(crate) connection_id: Option<String>,
    /// The way by which the request came in.
    pub(crate) door: Door,
}

impl Caller {
    /// Returns the caller without a key, on routes that allow it. It can read, in the default workspace.
    pub(crate) fn anonymous() -> Self {
        Self {
            agent_id: "anonymous".to_owned(),
            agent_type: "anonymous".to_owned(),
            session_id: None,
            workspace: DEFAULT_WORKSPACE.to_owned(),
            trust: 1,
            profile: None,
            profile_source: None,
            bound: false,
            connection_id: None,
            door: Door::default(),
        }
    }

    /// Returns the caller that a key stands for before any claim. Its trust is not known yet.
    pub(crate) fn of_key(key: &Key) -> Self {
        let identity = &key.identity;
        let or = |own: &Option<String>, default: &str| own.clone().unwrap_or(default.to_owned());
        Self {
            agent_id: or(&identity.agent_id, DEFAULT_AGENT.0),
            agent_type: or(&identity.agent_type, DEFAULT_AGENT.1),
            session_id: None,
            workspace: identity.workspace.clone(),
            trust: 0,
            profile: None,
            profile_source: None,
            bound: key.is_bound(),
            connection_id: None,
            door: Door::default(),
        }
    }

    /// Whether the caller is the default agent, which all clients are that name none.
    pub(crate) fn is_unnamed(&self) -> bool {
        !self.bound && self.agent_id == DEFAULT_AGENT.0
    }

    /// Logs once in a process that clients share the default agent.
    pub(crate) fn warn_if_unnamed(&self) {
        static WARNING: Once = Once::new();
        if self.is_unnamed() {
            WARNING.call_once(|| {
                tracing::warn!(
                    agent = self.agent_id,
                    workspace = self.workspace,
                    "a client with a key that is bound to no agent names none: all such clients are one \
                     agent and share its locks and tasks; have each send X-Agent-Id, or bind its key"
                );
            });
        }
    }

    /// Resolves the caller of a request without a key.
    ///
    /// # Errors
    /// [`Error::Forbidden`] when the request names another workspace than the default one.
    pub(crate) fn resolve_anonymous(claims: &Claims) -> Result<Self> {
        match claims.workspace.as_deref() {
            None | Some(DEFAULT_WORKSPACE) => Ok(Self::anonymous()),
            Some(_) => Err(forbidden(WORKSPACE_FORBIDDEN)),
        }
    }

    /// Resolves the caller of a request from its key, its headers and its input: first the identity, then
    /// the workspace (`docs/api-design.md#order-of-checks`).
    ///
    /// # Errors
    /// [`Error::Forbidden`] when the key does not permit what the request claims.
    pub(crate) fn resolve(
        key: &Key,
        ring: &Keyring,
        mode: IdentityMode,
        input: &Value,
        claims: &Claims,
    ) -> Result<Self> {
        let mut caller = Self::of_key(key);
        let reads = mode.body_identity(key.is_bound());
        let in_body = |reads: bool, name: &str| {
            let text = if reads { input[name].as_str() } else { None };
            text.filter(|text| !text.is_empty())
        };
        let ids = [in_body(reads.agent_id, "agent_id"), claims.agent_id.as_deref()];
        if let Some(id) = permitted(&ids, |id| key.permits_id(ring, id), AGENT_ID_FORBIDDEN)? {
            caller.agent_id = id.to_owned();
        }
        let types = [in_body(reads.agent_type, "agent_type"), claims.agent_type.as_deref()];
        let agent_type = permitted(&types, |name| key.permits_type(name), AGENT_TYPE_FORBIDDEN)?;
        // The default agent can be bound too, by another key.
        if !key.permits_id(ring, &caller.agent_id) {
            return Err(forbidden(AGENT_ID_FORBIDDEN));
        }
        if !key.is_bound() && ring.binds_lookalike(&caller.agent_id) {
            return Err(forbidden(AGENT_ID_LOOKALIKE));
        }
        if let Some(agent_type) = agent_type {
            caller.agent_type = agent_type.to_owned();
        }
        caller.session_id = named_session(in_body(reads.session_id, "session_id"), claims);
        if let Some(workspace) = &claims.workspace
            && *workspace != caller.workspace
        {
            if key.is_bound() || !ring.allow_workspace_header {
                return Err(forbidden(WORKSPACE_FORBIDDEN));
            }
            caller.workspace.clone_from(workspace);
        }
        Ok(caller)
    }
}

impl Key {
    /// Whether a request with this key can act as an agent: its own, or for an unbound key any agent that
    /// no key is bound to.
    fn permits_id(&self, ring: &Keyring, agent_id: &str) -> bool {
        match &self.identity.agent_id {
            Some(own) => own == agent_id,
            None => !ring.binds(agent_id),
        }
    }

    /// Whether a request with this key can name an agent type.
    fn permits_type(&self, agent_type: &str) -> bool {
        self.identity.agent_type.as_deref().is_none_or(|own| own == agent_type)
    }
}

/// Returns the first name given, after all names were checked.
fn permitted<'a>(
    names: &[Option<&'a str>],
    is_permitted: impl Fn(&str) -> bool,
    denial: &str,
) -> Result<Option<&'a str>> {
    let mut given = names.iter().flatten().copied();
    match given.clone().all(is_permitted) {
        true => Ok(given.next()),
        false => Err(forbidden(denial)),
    }
}

fn forbidden(reason: &str) -> Error {
    Error::Forbidden(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};
    use serde_json::json;

    use super::*;
    use crate::config::Identity;

    fn ring(allow_workspace_header: bool) -> Keyring {
        let bound = |id: &str, agent_type: Option<&str>| Identity {
            agent_id: Some(id.to_owned()),
            agent_type: agent_type.map(str::to_owned),
            ..Identity::default()
        };
        let keys = [
            ("free", Identity::default()),
            ("bound", bound("a-1", Some("codex"))),
            ("id-only", bound("a-2", None)),
            ("team", Identity { workspace: "team".to_owned(), ..Identity::default() }),
        ];
        Keyring::new(keys, allow_workspace_header)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (HeaderName::from_static(name), value.parse().expect("a header value"))
        });
        pairs.collect()
    }

    /// Returns what a key, a mode, a body and headers resolve to, as `id type session workspace`, or the
    /// denial.
    fn claimed(
        key: &str,
        mode: IdentityMode,
        body: Value,
        pairs: &[(&'static str, &str)],
    ) -> Result<String, String> {
        let ring = ring(true);
        let key = ring.find(key).expect("known");
        let (claims, issues) = Claims::from_headers(&headers(pairs), false);
        assert_eq!(issues, []);
        Caller::resolve(key, &ring, mode, &body, &claims)
            .map(|caller| {
                let session = caller.session_id.as_deref().unwrap_or("-");
                format!("{} {} {session} {}", caller.agent_id, caller.agent_type, caller.workspace)
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_free_key_acts_as_anyone_but_bound_agents() {
        use IdentityMode::*;
        let ok = |text: &str| Ok(text.to_owned());
        let id = Err(AGENT_ID_FORBIDDEN.to_owned());
        assert_eq!(
            claimed("free", Strict, json!({}), &[]),
            ok("cloud-agent cloud_agent - default")
        );
        let body = json!({ "agent_id": "x", "agent_type": "t", "session_id": "s" });
        assert_eq!(claimed("free", Strict, body.clone(), &[]), ok("x t s default"));
        assert_eq!(claimed("free", StrictId, body.clone(), &[]), ok("x cloud_agent s default"));
        assert_eq!(claimed("free", Soft, body.clone(), &[]), ok("x t s default"));
        assert_eq!(
            claimed("free", HeadersOnly, body.clone(), &[]),
            ok("cloud-agent cloud_agent - default")
        );
        let both = [("x-agent-id", "h"), ("x-agent-type", "ht"), ("x-session-id", "hs")];
        assert_eq!(claimed("free", HeadersOnly, body.clone(), &both), ok("h ht hs default"));
        assert_eq!(claimed("free", Strict, body, &both), ok("x t s default"));
        let empty = json!({ "agent_id": "", "agent_type": "", "session_id": "" });
        assert_eq!(claimed("free", Strict, empty, &both), ok("h ht hs default"));
        for mode in [Strict, StrictId, Soft] {
            assert_eq!(claimed("free", mode, json!({ "agent_id": "a-1" }), &[]), id);
        }
        assert_eq!(claimed("free", HeadersOnly, json!({}), &[("x-agent-id", "a-2")]), id);
        assert_eq!(
            claimed("free", Strict, json!({ "agent_id": "x" }), &[("x-agent-id", "a-2")]),
            id
        );
    }

    #[test]
    fn a_bound_key_acts_as_its_own_agent_only() {
        use IdentityMode::*;
        let own = Ok("a-1 codex - default".to_owned());
        let id = Err(AGENT_ID_FORBIDDEN.to_owned());
        let agent_type = Err(AGENT_TYPE_FORBIDDEN.to_owned());
        let other = json!({ "agent_id": "x", "agent_type": "y" });
        assert_eq!(claimed("bound", Strict, json!({}), &[]), own);
        assert_eq!(claimed("bound", Strict, json!({ "agent_id": "a-1" }), &[]), own);
        assert_eq!(claimed("bound", Strict, other.clone(), &[]), id);
        assert_eq!(claimed("bound", StrictId, other.clone(), &[]), id);
        assert_eq!(claimed("bound", Soft, other.clone(), &[]), own);
        assert_eq!(claimed("bound", HeadersOnly, other, &[]), own);
        let wrong_type = json!({ "agent_type": "y" });
        assert_eq!(claimed("bound", Strict, wrong_type.clone(), &[]), agent_type);
        assert_eq!(claimed("bound", StrictId, wrong_type.clone(), &[]), own);
        assert_eq!(claimed("bound", Soft, json!({}), &[("x-agent-id", "x")]), id);
        assert_eq!(claimed("bound", HeadersOnly, json!({}), &[("x-agent-type", "y")]), agent_type);
        assert_eq!(claimed("id-only", Strict, wrong_type, &[]), Ok("a-2 y - default".to_owned()));
    }

    #[test]
    fn the_workspace_is_the_keys_own_unless_a_free_key_may_choose() {
        use IdentityMode::Strict;
        let named = [("x-workspace", "other")];
        let denied = Err(WORKSPACE_FORBIDDEN.to_owned());
        let free = claimed("free", Strict, json!({}), &named);
        assert_eq!(free, Ok("cloud-agent cloud_agent - other".to_owned()));
        assert_eq!(claimed("bound", Strict, json!({}), &named), denied);
        let own = claimed("team", Strict, json!({}), &[("x-workspace", "team")]);
        assert_eq!(own, Ok("cloud-agent cloud_agent - team".to_owned()));
        let ring = ring(false);
        let (claims, _) = Claims::from_headers(&headers(&named), false);
        let key = ring.find("free").expect("known");
        let closed = Caller::resolve(key, &ring, Strict, &json!({}), &claims);
        assert!(matches!(closed, Err(Error::Forbidden(text)) if text == WORKSPACE_FORBIDDEN));
    }
}
