//! Fresh API keys: a prefix that says what it is, 32 random bytes and a checksum, so that scanners
//! find a leaked key, and a key that was copied in part is told from one that is unknown.
//!
//! The service accepts any text as a key; nothing but these commands looks at the form.
use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::keys::fingerprint;
use crate::config::identities::is_identity;

/// Prefix of the keys that `coordinator keys generate` makes.
const PREFIX: &str = "ac";

const RANDOM_BYTES: usize = 32;

/// Of the digest of everything before it.
const CHECKSUM_BYTES: usize = 4;

/// The options of `keys generate`, each with the member of the identity that it gives.
const OPTIONS: [(&str, &str); 4] = [
    ("--agent-id", "agent_id"),
    ("--agent-type", "agent_type"),
    ("--workspace", "workspace"),
    ("--profile", "profile"),
];

const EXPECTED: &str = "Expected: keys generate [--agent-id ID] [--agent-type TYPE] \
                        [--workspace NAME] [--profile NAME, with --agent-id]\n";

/// Makes a key such as `ac_` with 72 hexadecimal digits, of which the last 8 are a checksum.
pub fn fresh_key(prefix: &str) -> std::io::Result<String> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)?;
    let key = format!("{prefix}_{}", hex(&random));
    let checksum = checksum(&key);
    Ok(key + &checksum)
}

/// Whether a key has the form of [`fresh_key`] and its checksum fits: nothing of it is missing.
pub fn is_whole_key(key: &str) -> bool {
    let Some((_, digits)) = key.split_once('_') else { return false };
    let length = 2 * (RANDOM_BYTES + CHECKSUM_BYTES);
    if digits.len() != length || !digits.bytes().all(|it| it.is_ascii_hexdigit()) {
        return false;
    }
    let (said, check) = key.split_at(key.len() - 2 * CHECKSUM_BYTES);
    checksum(said) == check
}

fn checksum(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..CHECKSUM_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text that `coordinator keys generate` prints: a fresh key, as the lines of an environment;
/// or what is wrong with the options.
pub fn key_for_environment(options: &[&str]) -> Result<String, String> {
    let identity = identity(options)?;
    let key = fresh_key(PREFIX).map_err(|error| format!("No random bytes: {error}\n"))?;
    let mut text = format!(
        "# A fresh API key. It is shown this once: the service keeps no more than its digest.\n\
         # Fingerprint, as the log names it: {}\n\
         COORDINATION_API_KEYS={key}\n",
        fingerprint(&key),
    );
    if identity.is_empty() {
        text += "#\n\
            # The key is bound to no agent: it acts as any that no other key is bound to.\n\
            # Where COORDINATION_API_KEYS has a value already, append a comma and the key to it.\n";
        return Ok(text);
    }
    let identities = Map::from_iter([(key, Value::Object(identity))]);
    // An apostrophe would end the quotes; in JSON it may be written like this.
    let identities = Value::Object(identities).to_string().replace('\'', "\\u0027");
    write!(
        text,
        "COORDINATION_API_KEY_IDENTITIES='{identities}'\n\
         #\n\
         # Where COORDINATION_API_KEYS has a value already, append a comma and the key to it. Where\n\
         # COORDINATION_API_KEY_IDENTITIES has one, put what is between these outer braces into its\n\
         # own, after a comma. Where only the second is set, leave the first unset: its keys count.\n\
         # The quotes are for shells and .env files; a form that takes a bare value gets none.\n",
    )
    .expect("a String takes any text");
    Ok(text)
}

fn identity(options: &[&str]) -> Result<Map<String, Value>, String> {
    let mut identity = Map::new();
    for option in options.chunks(2) {
        let member = OPTIONS.iter().find(|(name, _)| *name == option[0]).map(|(_, member)| *member);
        let (Some(member), Some(value)) = (member, option.get(1)) else {
            return Err(EXPECTED.to_owned());
        };
        if value.trim().is_empty() || identity.insert(member.to_owned(), (*value).into()).is_some()
        {
            return Err(EXPECTED.to_owned());
        }
    }
    match is_identity(&identity) {
        true => Ok(identity),
        false => {
            Err("Expected a workspace of a-z 0-9 . _ - (at most 64 characters), and a profile \
                      only with an agent.\n"
                .to_owned())
        }
    }
}

/// What `coordinator keys check` says of a key: whether it is whole, and how the log names it.
pub fn key_report(key: &str) -> (bool, String) {
    let (key, whole) = (key.trim(), is_whole_key(key.trim()));
    let verdict = match whole {
        true => "The key is whole.",
        false => "No key that `keys generate` made, or not the whole of it.",
    };
    (whole, format!("{verdict}\nFingerprint: {}\n", fingerprint(key)))
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
    fn options_are_checked_before_a_key_is_made() {
        for wrong in [
            &["--agent"][..],
            &["--agent-id"],
            &["--agent-id", " "],
            &["--agent-id", "a", "--agent-id", "b"],
            &["--workspace", "No Name"],
            &["--profile", "p"],
            &["x"],
        ] {
            let error = key_for_environment(wrong).expect_err("wrong options");
            assert!(error.starts_with("Expected"), "{error}");
        }
    }
}
