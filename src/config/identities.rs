//! API keys and their identities.
use serde_json::Value;

use super::reader::Reader;
use crate::values::{
    Secret,
    name::{is_unfilled, problem_of_name},
};

/// The workspace of identities without a workspace, and of callers without a key. SQL spells out the
/// same name: in the seeded rows, and in the functions that fall back to them.
pub(crate) const DEFAULT_WORKSPACE: &str = "default";

/// The identity that a key is bound to.
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

/// What is expected instead of a key that looks like a variable that was not filled in.
const UNFILLED_KEY: &str = "keys, not a variable that was not filled in";

impl Reader<'_> {
    /// Reads the keys with their identities. Without a list of keys, the keys of the identities are
    /// accepted.
    pub(super) fn keys(&mut self) -> Vec<(Secret<String>, Identity)> {
        let listed = (self.lookup)("COORDINATION_API_KEYS").filter(|it| !it.trim().is_empty());
        let listed: Option<Vec<String>> = listed.map(|csv| {
            csv.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect()
        });
        if listed.as_ref().is_some_and(|keys| keys.is_empty()) {
            self.invalid("COORDINATION_API_KEYS");
        }
        // Anybody can guess such a key.
        if listed.iter().flatten().any(|key| is_unfilled(key)) {
            self.problem("COORDINATION_API_KEYS", UNFILLED_KEY);
        }
        let identities = self.text("COORDINATION_API_KEY_IDENTITIES").unwrap_or_default();
        let Some(identities) = parse_identities(&identities, listed.as_deref()) else {
            self.invalid("COORDINATION_API_KEY_IDENTITIES");
            return Vec::new();
        };
        let unbound = listed.unwrap_or_default().into_iter().map(|key| (key, Identity::default()));
        identities
            .into_iter()
            .chain(unbound)
            .map(|(key, identity)| (Secret(key), identity))
            .collect()
    }
}

/// Parses the identities by key. Returns `None` when one is invalid, or its key is not in the list.
fn parse_identities(json: &str, listed: Option<&[String]>) -> Option<Vec<(String, Identity)>> {
    let map: serde_json::Map<String, Value> = serde_json::from_str(json).ok()?;
    let mut identities = Vec::new();
    for (key, members) in map {
        let key = key.trim().to_owned();
        if key.is_empty() || is_unfilled(&key) || listed.is_some_and(|keys| !keys.contains(&key)) {
            return None;
        }
        identities.push((key, parse_identity(members.as_object()?)?));
    }
    Some(identities)
}

/// Whether these members form a valid identity.
pub(crate) fn is_identity(members: &serde_json::Map<String, Value>) -> bool {
    parse_identity(members).is_some()
}

fn parse_identity(members: &serde_json::Map<String, Value>) -> Option<Identity> {
    let member = |name: &str| -> Option<Option<String>> {
        match members.get(name) {
            None => Some(None),
            Some(value) => {
                let text = value.as_str()?.trim();
                Some((!text.is_empty()).then(|| text.to_owned()))
            }
        }
    };
    if members.values().any(|member| !member.is_string()) {
        return None;
    }
    let identity = Identity {
        agent_id: member("agent_id")?,
        agent_type: member("agent_type")?,
        workspace: member("workspace")?.unwrap_or_else(|| DEFAULT_WORKSPACE.to_owned()),
        profile: member("profile")?,
    };
    let names = [&identity.agent_id, &identity.agent_type, &identity.profile];
    let is_valid = names.iter().copied().flatten().all(|name| problem_of_name(name).is_none())
        && problem_of_name(&identity.workspace).is_none()
        && is_workspace_name(&identity.workspace)
        && (identity.profile.is_none() || identity.agent_id.is_some());
    is_valid.then_some(identity)
}

/// Whether a text can name a workspace: `^[a-z0-9][a-z0-9._-]{0,63}$`, see
/// `docs/api-design.md#workspaces`.
pub(crate) fn is_workspace_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=64).contains(&bytes.len())
        && is_alphanumeric(&bytes[0])
        && bytes.iter().all(|byte| is_alphanumeric(byte) || b"._-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

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
