//! API keys: the accepted keys, and the key that a request presents.
//!
//! Keys are stored as SHA-256 digests only, and a presented key is compared with all of them in constant
//! time, see `docs/api-design.md#authentication`.
use std::{collections::HashSet, fmt};

use http::HeaderMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::lookalikes::Lookalikes;
use crate::{
    config::Identity,
    values::{Error, Result, name::is_unfilled},
};

/// The bytes of a digest that a fingerprint shows.
const FINGERPRINT_BYTES: usize = 6;

/// One accepted API key, known by its digest.
#[derive(Clone)]
pub(crate) struct Key {
    digest: [u8; 32],
    /// The place of the key in the ring.
    pub(crate) number: usize,
    pub(crate) identity: Identity,
}

impl Key {
    /// Returns a name for the key that does not reveal it.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint_of_digest(&self.digest)
    }

    /// Whether the key is bound to an agent.
    pub(crate) fn is_bound(&self) -> bool {
        self.identity.agent_id.is_some()
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
    lookalikes: Lookalikes,
    /// Whether a key that is not bound to an agent can choose its workspace with a header.
    pub(super) allow_workspace_header: bool,
}

impl Keyring {
    /// Creates a ring of keys with their identities. Of two entries for one key the first counts.
    pub(crate) fn new<'a>(
        keys: impl IntoIterator<Item = (&'a str, Identity)>,
        allow_workspace_header: bool,
    ) -> Self {
        let mut ring = Self { allow_workspace_header, ..Self::default() };
        for (key, identity) in keys {
            let digest = digest(key);
            if ring.keys.iter().any(|known| known.digest == digest) {
                continue;
            }
            if let Some(agent_id) = &identity.agent_id {
                ring.bound_ids.insert(agent_id.clone());
                ring.lookalikes.add(agent_id);
            }
            ring.keys.push(Key { digest, number: ring.keys.len(), identity });
        }
        ring
    }

    /// Returns the key at a place in the ring.
    pub(crate) fn numbered(&self, number: usize) -> Option<&Key> {
        self.keys.get(number)
    }

    /// Returns the keys of a workspace, in the order of the configuration.
    pub(crate) fn of_workspace<'a>(&'a self, workspace: &'a str) -> impl Iterator<Item = &'a Key> {
        self.keys.iter().filter(move |key| key.identity.workspace == workspace)
    }

    /// Whether a key is bound to this agent.
    pub(super) fn binds(&self, agent_id: &str) -> bool {
        self.bound_ids.contains(agent_id)
    }

    /// Whether a name looks like that of an agent to which a key is bound.
    pub(super) fn binds_lookalike(&self, agent_id: &str) -> bool {
        self.lookalikes.contain(agent_id)
    }

    /// Returns the accepted key that equals the presented one. Constant-time: every key is compared.
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

    /// Returns the key in the headers of a request, or `None` when they hold no key.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] for an unknown key.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<Option<&Key>> {
        let Some(presented) = presented_key(headers) else { return Ok(None) };
        match self.find(&presented) {
            Some(key) => Ok(Some(key)),
            None => {
                let key = fingerprint(&presented);
                if is_unfilled(&presented) {
                    tracing::warn!(
                        key,
                        "refused an API key that looks like a variable that was not filled in: set \
                         the variable where the client is configured"
                    );
                } else {
                    tracing::warn!(key, "refused an unknown API key");
                }
                Err(Error::Unauthenticated)
            }
        }
    }
}

/// Returns a name for a key that does not reveal it.
pub(super) fn fingerprint(key: &str) -> String {
    fingerprint_of_digest(&digest(key))
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

fn fingerprint_of_digest(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(&digest[..FINGERPRINT_BYTES]))
}

/// Returns the key that a request presents: that of the first of three headers that has a key.
fn presented_key(headers: &HeaderMap) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (HeaderName::from_static(name), value.parse().expect("a header value"))
        });
        pairs.collect()
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
            assert_eq!(presented_key(&headers(&pairs)).as_deref(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_wrong_key_is_final_even_before_a_right_one() {
        let ring = Keyring::new([("free", Identity::default())], false);
        let pairs = [("authorization", "Bearer nope"), ("x-api-key", "free")];
        assert!(matches!(ring.authenticate(&headers(&pairs)), Err(Error::Unauthenticated)));
        assert!(matches!(ring.authenticate(&headers(&[("x-api-key", "free")])), Ok(Some(_))));
        assert!(matches!(ring.authenticate(&headers(&[])), Ok(None)));
    }

    #[test]
    fn a_fingerprint_has_twelve_hex_digits_of_the_digest() {
        assert_eq!(fingerprint("abc"), "sha256:ba7816bf8f01");
    }
}
