//! API keys with a prefix, 32 random bytes and a checksum. The prefix lets secret scanners find a leaked
//! key; the checksum tells a truncated key from an unknown one.
//!
//! Only the commands here check this form. The service accepts any text as a key.
use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::keys::fingerprint;
use crate::config::identities::is_identity;

/// The prefix of keys made by `coordinator keys generate`.
const PREFIX: &str = "ac";

const RANDOM_BYTES: usize = 32;

/// The length of the checksum: the first bytes of the SHA-256 digest of the text before it.
const CHECKSUM_BYTES: usize = 4;

/// Makes a key such as `ac_` with 72 hexadecimal digits, of which the last 8 are the checksum.
pub fn fresh_key(prefix: &str) -> std::io::Result<String> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    let key = format!("{prefix}_{}", hex::encode(random));
    let checksum = checksum(&key);
    Ok(key + &checksum)
}

/// Returns whether a key has the form of [`fresh_key`] and a matching checksum: it was not truncated.
pub fn is_whole_key(key: &str) -> bool {
    let Some((_, digits)) = key.split_once('_') else { return false };
    let length = 2 * (RANDOM_BYTES + CHECKSUM_BYTES);
    if digits.len() != length || !digits.bytes().all(|it| it.is_ascii_hexdigit()) {
        return false;
    }
    let (body, found) = key.split_at(key.len() - 2 * CHECKSUM_BYTES);
    checksum(body) == found
}

fn checksum(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..CHECKSUM_BYTES])
}

/// Returns the text that `coordinator keys generate` prints: a fresh key as lines for the environment.
///
/// `identity` gives the members of the identity that the key is bound to, such as `agent_id`; without
/// members, the key is not bound. The error says which value was invalid, and what was expected.
pub fn key_for_environment<'a>(
    identity: impl IntoIterator<Item = (&'a str, String)>,
) -> Result<String, String> {
    let identity = checked_identity(identity)?;
    let key = fresh_key(PREFIX)
        .map_err(|error| format!("the operating system gave no random bytes: {error}"))?;
    let mut text = format!(
        "# A fresh API key, shown only this once: the service keeps nothing but its digest.\n\
         # Fingerprint, as in the log: {}\n\
         COORDINATION_API_KEYS={key}\n",
        fingerprint(&key),
    );
    if identity.is_empty() {
        text += "#\n\
            # The key is not bound: it can act as any agent that no other key is bound to.\n\
            # If COORDINATION_API_KEYS already has a value, append a comma and the key to it.\n";
        return Ok(text);
    }
    let identities = Map::from_iter([(key, Value::Object(identity))]);
    // An apostrophe would end the quotes of the shell. JSON can escape it.
    let identities = Value::Object(identities).to_string().replace('\'', "\\u0027");
    write!(
        text,
        "COORDINATION_API_KEY_IDENTITIES='{identities}'\n\
         #\n\
         # If COORDINATION_API_KEYS already has a value, append a comma and the key to it.\n\
         # If COORDINATION_API_KEY_IDENTITIES already has a value, add the text between the outer braces\n\
         # to that object, after a comma. If only COORDINATION_API_KEY_IDENTITIES has a value, leave\n\
         # COORDINATION_API_KEYS unset: the keys of the identities are accepted without it.\n\
         # The quotes are for shells and .env files. Leave them out where a form asks for the value.\n",
    )
    .expect("a String accepts any text");
    Ok(text)
}

fn checked_identity<'a>(
    members: impl IntoIterator<Item = (&'a str, String)>,
) -> Result<Map<String, Value>, String> {
    let mut identity = Map::new();
    for (name, value) in members {
        if value.trim().is_empty() {
            return Err(format!("the {name} is blank; expected a name"));
        }
        identity.insert(name.to_owned(), value.into());
    }
    if is_identity(&identity) {
        return Ok(identity);
    }
    Err("the identity is invalid; expected a workspace of a-z 0-9 . _ - (at most 64 characters), and \
         a profile only together with an agent_id"
        .to_owned())
}

/// Returns whether a key is complete, and the report that `coordinator keys check` prints about it.
pub fn key_report(key: &str) -> (bool, String) {
    let key = key.trim();
    let is_complete = is_whole_key(key);
    let verdict = if is_complete {
        "The key is complete."
    } else {
        "Not a key made by `coordinator keys generate`, or it was truncated."
    };
    (is_complete, format!("{verdict}\nFingerprint: {}\n", fingerprint(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_key_is_whole_and_any_change_shows() {
        let key = fresh_key("ac").expect("random bytes");
        assert_eq!(key.len(), 3 + 64 + 8);
        assert_ne!(key, fresh_key("ac").expect("random bytes"));
        assert!(is_whole_key(&key) && !is_whole_key(""));
        for place in 0..key.len() {
            let other = if &key[place..=place] == "a" { "b" } else { "a" };
            let changed = format!("{}{other}{}", &key[..place], &key[place + 1..]);
            assert!(!is_whole_key(&changed), "{changed} for {key}");
            assert!(!is_whole_key(&key[..place]), "{}", &key[..place]);
        }
        assert!(!is_whole_key(&format!("{key}0")));
    }

    #[test]
    fn an_identity_is_checked_before_a_key_is_made() {
        for (name, value) in [("agent_id", " "), ("workspace", "No Name"), ("profile", "p")] {
            let error = key_for_environment([(name, value.to_owned())]).expect_err("invalid");
            assert!(error.contains("expected"), "{error}");
        }
    }
}
