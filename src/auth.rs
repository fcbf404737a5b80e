//! Who is calling: from a key and the identity that a request claims to the agent it may act as.
//!
//! Keys are held as SHA-256 digests only, and a presented key is compared with all of them in
//! constant time. Every text of a denial here is part of the wire contract.
use std::{collections::HashSet, fmt, sync::Arc};

use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    Error, Issue, Result,
    authority::{Profile, ProfileSource},
    input::{issue, value_error},
    operation::IdentityMode,
};

const AGENT_ID_FORBIDDEN: &str = "API key is not permitted to act as requested agent_id";
const AGENT_TYPE_FORBIDDEN: &str = "API key is not permitted to act as requested agent_type";
const WORKSPACE_FORBIDDEN: &str = "API key is not permitted to use requested workspace";

/// The workspace of keys that name none, and of callers without a key.
pub(crate) const DEFAULT_WORKSPACE: &str = "default";

/// The most bytes of an id or a short name (conventions, limits).
pub(crate) const MAX_ID_BYTES: usize = 256;

/// What a key is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) agent_id: Option<String>,
    pub(crate) agent_type: Option<String>,
    pub(crate) workspace: String,
    pub(crate) profile: Option<String>,
}

impl Default for Identity {
    fn default() -> Self {
        let workspace = DEFAULT_WORKSPACE.to_owned();
        Self { agent_id: None, agent_type: None, workspace, profile: None }
    }
}

/// One accepted API key, known by its digest.
#[derive(Clone)]
pub(crate) struct Key {
    digest: [u8; 32],
    pub(crate) identity: Identity,
}

impl Key {
    /// A name for the key that does not give it away.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.digest)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("fingerprint", &self.fingerprint()).finish()
    }
}

/// All accepted API keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    keys: Vec<Key>,
    bound_ids: HashSet<String>,
}

impl Keyring {
    /// Takes keys with their identities; of two entries for one key the first counts.
    pub(crate) fn new(keys: impl IntoIterator<Item = (String, Identity)>) -> Self {
        let mut ring = Self::default();
        for (key, identity) in keys {
            let digest = digest(&key);
            if ring.keys.iter().any(|it| it.digest == digest) {
                continue;
            }
            ring.bound_ids.extend(identity.agent_id.clone());
            ring.keys.push(Key { digest, identity });
        }
        ring
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys of a workspace, in the order of the configuration.
    pub(crate) fn of_workspace<'a>(&'a self, workspace: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |it| it.identity.workspace == workspace)
    }

    /// The accepted key equal to the one presented. Takes the same time whichever it is.
    pub(crate) fn find(&self, presented: &str) -> Option<&Key> {
        let digest = digest(presented);
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.digest.ct_eq(&digest)) {
                found = Some(key);
            }
        }
        found
    }

    /// The key in a request's headers: nothing without one, an error for one that is unknown.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Option<&Key>> {
        let Some(presented) = presented(headers) else { return Ok(None) };
        match self.find(&presented) {
            Some(key) => Ok(Some(key)),
            None => {
                let key = fingerprint_of(&presented);
                tracing::warn!(key, "refused an unknown API key");
                Err(Error::Unauthenticated)
            }
        }
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// A name for a key that does not give it away.
pub(crate) fn fingerprint_of(key: &str) -> String {
    fingerprint(&digest(key))
}

fn fingerprint(digest: &[u8; 32]) -> String {
    let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The key that a request presents: the first of three headers that holds one.
fn presented(headers: &HeaderMap) -> Option<String> {
    let header = |name: &str| {
        let value = String::from_utf8_lossy(headers.get(name)?.as_bytes()).trim().to_owned();
        (!value.is_empty()).then_some(value)
    };
    let bearer = || {
        let value = header("authorization")?;
        let (scheme, key) = value.split_once(char::is_whitespace)?;
        let key = key.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !key.is_empty()).then(|| key.to_owned())
    };
    bearer().or_else(|| header("x-coordinator-api-key")).or_else(|| header("x-api-key"))
}

/// What the headers of a request say about its caller, checked for form.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) agent_id: Option<String>,
    pub(crate) agent_type: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) workspace: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    /// The MCP connection that the request came through; only that endpoint fills it in.
    pub(crate) connection_id: Option<String>,
}

impl Claims {
    /// Reads the headers; every one of the wrong form is an issue. An empty one counts as absent.
    pub(crate) fn from_headers(headers: &HeaderMap, idempotent: bool) -> (Self, Vec<Issue>) {
        let mut issues = Vec::new();
        let mut id = |name| header(headers, name, &mut issues, |_| None);
        let mut claims = Self {
            agent_id: id("x-agent-id"),
            agent_type: id("x-agent-type"),
            session_id: id("x-session-id"),
            ..Self::default()
        };
        claims.workspace = header(headers, "x-workspace", &mut issues, |name| {
            (!is_workspace_name(name)).then_some("expected a name of a-z 0-9 . _ - (at most 64)")
        });
        if idempotent {
            claims.idempotency_key = header(headers, "idempotency-key", &mut issues, |key| {
                let printable = key.bytes().all(|it| (b' '..=b'~').contains(&it));
                (!printable).then_some("expected 1 to 256 printable ASCII characters")
            });
            if headers.get("idempotency-key").is_some_and(|it| it.is_empty()) {
                let problem = value_error("expected 1 to 256 printable ASCII characters");
                issues.push(issue(problem, &header_loc("idempotency-key"), &json!("")));
            }
        }
        (claims, issues)
    }
}

fn header_loc(name: &str) -> [Value; 2] {
    [json!("header"), json!(name)]
}

fn header(
    headers: &HeaderMap,
    name: &'static str,
    issues: &mut Vec<Issue>,
    wrong: impl Fn(&str) -> Option<&'static str>,
) -> Option<String> {
    let value = headers.get(HeaderName::from_static(name))?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let problem = if std::str::from_utf8(value.as_bytes()).is_err() {
        Some(value_error("expected UTF-8 text"))
    } else if text.len() > MAX_ID_BYTES {
        let text = format!("String should have at most {MAX_ID_BYTES} bytes");
        Some(("string_too_long", text))
    } else if text.is_empty() {
        return None;
    } else {
        wrong(&text).map(value_error)
    };
    match problem {
        Some(problem) => {
            issues.push(issue(problem, &header_loc(name), &json!(text)));
            None
        }
        None => Some(text.into_owned()),
    }
}

/// Whether a text may name a workspace: `^[a-z0-9][a-z0-9._-]{0,63}$`.
pub(crate) fn is_workspace_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let plain = |it: &u8| it.is_ascii_lowercase() || it.is_ascii_digit();
    (1..=64).contains(&bytes.len())
        && plain(&bytes[0])
        && bytes.iter().all(|it| plain(it) || b"._-".contains(it))
}

/// The agent behind a request, with what it may do.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Effective agent id: every effect and record of the request belongs to it.
    pub(crate) agent_id: String,
    /// Effective agent type.
    pub(crate) agent_type: String,
    /// Session named by the request, if any; it need not be registered.
    pub(crate) session_id: Option<String>,
    /// Workspace that the request sees, and nothing beside it.
    pub(crate) workspace: String,
    /// Trust from 0 (suspended) to 4 (admin), never taken from the request.
    pub(crate) trust: u8,
    /// Profile whose lists and limits apply.
    pub(crate) profile: Option<Arc<Profile>>,
    /// Where that profile comes from.
    pub(crate) profile_source: Option<ProfileSource>,
    /// Whether the key is bound to this agent.
    pub(crate) bound: bool,
    /// The MCP connection that the request came through, if any.
    pub(crate) connection_id: Option<String>,
}

impl Caller {
    /// The caller without a key, on routes that allow it: may read, in the default workspace only.
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
        }
    }

    /// Whether a caller without a key keeps to the one workspace it may see.
    pub(crate) fn check_anonymous(claims: &Claims) -> Result<()> {
        match claims.workspace.as_deref() {
            None | Some(DEFAULT_WORKSPACE) => Ok(()),
            Some(_) => Err(Error::Forbidden(WORKSPACE_FORBIDDEN.to_owned())),
        }
    }

    /// The caller that a key stands for before anything is claimed; trust is not settled yet.
    pub(crate) fn of(key: &Key) -> Self {
        let identity = &key.identity;
        let or = |own: &Option<String>, other: &str| own.clone().unwrap_or(other.to_owned());
        Self {
            agent_id: or(&identity.agent_id, "cloud-agent"),
            agent_type: or(&identity.agent_type, "cloud_agent"),
            session_id: None,
            workspace: identity.workspace.clone(),
            trust: 0,
            profile: None,
            profile_source: None,
            bound: identity.agent_id.is_some(),
            connection_id: None,
        }
    }

    /// Settles who the request acts as, from the key, its headers and its input (conventions 4 and
    /// 13). The identity comes first, then the workspace.
    pub(crate) fn claim(
        key: &Key,
        ring: &Keyring,
        mode: IdentityMode,
        input: &Value,
        claims: &Claims,
        allow_workspace_header: bool,
    ) -> Result<Self> {
        let mut caller = Self::of(key);
        let named = |name: &str| input[name].as_str().filter(|it| !it.is_empty());
        let bound = &key.identity;
        let is_bound = bound.agent_id.is_some();
        let reads_id =
            mode != IdentityMode::HeadersOnly && !(mode == IdentityMode::Soft && is_bound);
        let reads_type = reads_id && mode != IdentityMode::StrictId;

        let ids = [reads_id.then(|| named("agent_id")).flatten(), claims.agent_id.as_deref()];
        for id in ids.into_iter().flatten() {
            let permitted = match &bound.agent_id {
                Some(own) => own == id,
                None => !ring.bound_ids.contains(id),
            };
            if !permitted {
                return Err(Error::Forbidden(AGENT_ID_FORBIDDEN.to_owned()));
            }
        }
        let types =
            [reads_type.then(|| named("agent_type")).flatten(), claims.agent_type.as_deref()];
        for agent_type in types.into_iter().flatten() {
            if bound.agent_type.as_deref().is_some_and(|own| own != agent_type) {
                return Err(Error::Forbidden(AGENT_TYPE_FORBIDDEN.to_owned()));
            }
        }
        if let Some(id) = ids.into_iter().flatten().next() {
            caller.agent_id = id.to_owned();
        }
        if !is_bound && ring.bound_ids.contains(&caller.agent_id) {
            return Err(Error::Forbidden(AGENT_ID_FORBIDDEN.to_owned()));
        }
        if let Some(agent_type) = types.into_iter().flatten().next() {
            caller.agent_type = agent_type.to_owned();
        }
        let session = (mode != IdentityMode::HeadersOnly).then(|| named("session_id")).flatten();
        caller.session_id = session.or(claims.session_id.as_deref()).map(str::to_owned);

        if let Some(workspace) = &claims.workspace
            && *workspace != caller.workspace
        {
            if is_bound || !allow_workspace_header {
                return Err(Error::Forbidden(WORKSPACE_FORBIDDEN.to_owned()));
            }
            caller.workspace.clone_from(workspace);
        }
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Keyring {
        let bound = |id: &str, agent_type: Option<&str>| Identity {
            agent_id: Some(id.to_owned()),
            agent_type: agent_type.map(str::to_owned),
            ..Identity::default()
        };
        let team = Identity { workspace: "team".to_owned(), ..Identity::default() };
        Keyring::new([
            ("free".to_owned(), Identity::default()),
            ("bound".to_owned(), bound("a-1", Some("codex"))),
            ("id-only".to_owned(), bound("a-2", None)),
            ("team".to_owned(), team),
        ])
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), value.parse().expect("a header value"))
            })
            .collect()
    }

    #[test]
    fn the_first_header_that_holds_a_key_wins() {
        for (pairs, expected) in [
            (vec![("authorization", "Bearer a"), ("x-api-key", "b")], Some("a")),
            (vec![("authorization", "bEARER   a ")], Some("a")),
            (vec![("authorization", "Basic a"), ("x-api-key", "b")], Some("b")),
            (vec![("authorization", "Bearer "), ("x-api-key", "b")], Some("b")),
            (
                vec![("authorization", "a"), ("x-coordinator-api-key", "c"), ("x-api-key", "b")],
                Some("c"),
            ),
            (vec![("x-coordinator-api-key", " "), ("x-api-key", " b ")], Some("b")),
            (vec![("x-api-key", "")], None),
            (vec![], None),
        ] {
            assert_eq!(presented(&headers(&pairs)).as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_wrong_key_is_final_even_before_a_right_one() {
        let ring = ring();
        let pairs = [("authorization", "Bearer nope"), ("x-api-key", "free")];
        assert!(matches!(ring.authenticate(&headers(&pairs)), Err(Error::Unauthenticated)));
        assert!(matches!(ring.authenticate(&headers(&[("x-api-key", "free")])), Ok(Some(_))));
        assert!(matches!(ring.authenticate(&headers(&[])), Ok(None)));
    }

    #[test]
    fn a_fingerprint_has_twelve_hex_digits_of_the_digest() {
        assert_eq!(fingerprint(&digest("abc")), "sha256:ba7816bf8f01");
    }

    /// What `(key, mode, body, headers)` ends as: `Ok("id type session workspace")` or the denial.
    fn claimed(
        key: &str,
        mode: IdentityMode,
        body: Value,
        pairs: &[(&'static str, &str)],
    ) -> Result<String, String> {
        let ring = ring();
        let key = ring.find(key).expect("known");
        let (claims, issues) = Claims::from_headers(&headers(pairs), false);
        assert_eq!(issues, []);
        Caller::claim(key, &ring, mode, &body, &claims, true)
            .map(|it| {
                let session = it.session_id.unwrap_or("-".to_owned());
                format!("{} {} {session} {}", it.agent_id, it.agent_type, it.workspace)
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
        let ring = ring();
        let (claims, _) = Claims::from_headers(&headers(&named), false);
        let key = ring.find("free").expect("known");
        let closed = Caller::claim(key, &ring, Strict, &json!({}), &claims, false);
        assert!(matches!(closed, Err(Error::Forbidden(text)) if text == WORKSPACE_FORBIDDEN));
    }

    #[test]
    fn headers_of_the_wrong_form_are_issues() {
        let long = "x".repeat(257);
        for (name, value, kind) in [
            ("x-agent-id", long.as_str(), "string_too_long"),
            ("x-session-id", long.as_str(), "string_too_long"),
            ("x-workspace", "No", "value_error"),
            ("x-workspace", "-a", "value_error"),
            ("idempotency-key", long.as_str(), "string_too_long"),
            ("idempotency-key", "caf\u{e9}", "value_error"),
            ("idempotency-key", "", "value_error"),
        ] {
            let mut map = HeaderMap::new();
            let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            map.insert(HeaderName::from_static(name), value);
            let (_, issues) = Claims::from_headers(&map, true);
            assert_eq!(issues.len(), 1, "{name}");
            assert_eq!((issues[0].kind, &issues[0].loc[1]), (kind, &json!(name)));
        }
    }

    #[test]
    fn workspace_names() {
        for name in ["a", "0", "team-1", "a.b_c-d", &"a".repeat(64)] {
            assert!(is_workspace_name(name), "{name}");
        }
        for name in ["", "A", "-a", ".a", "a b", "a/b", "\u{e9}", &"a".repeat(65)] {
            assert!(!is_workspace_name(name), "{name}");
        }
    }
}
