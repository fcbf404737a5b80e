//! Lock keys in the arguments of tools and prompts, read by the rules of the package `lock-key`.
use lock_key::{Refusal, Start, read};

use crate::values::LockKey;

/// What a tool does with keys that no path is spelled like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OddKeys {
    /// Refuses them: the new lock would guard nothing.
    #[default]
    Refused,
    /// Takes them as they are written, because a lock that an HTTP client made can have such a key.
    Taken,
}

/// A key, and why it was read as a key although no path is spelled like it.
pub(super) struct TakenKey {
    pub(super) key: String,
    pub(super) oddity: Option<Refusal>,
}

/// Returns the lock key that a text names.
///
/// # Errors
/// Says why the text is not a path from the root of a repository, with the key that was probably meant.
pub(super) fn lock_key(text: &str, odd_keys: OddKeys) -> Result<TakenKey, Refusal> {
    match read(text, Start::Root) {
        Ok(key) => Ok(TakenKey { key, oddity: None }),
        Err(refusal) if odd_keys == OddKeys::Taken && LockKey::parse(text).is_ok() => {
            Ok(TakenKey { key: text.to_owned(), oddity: Some(refusal) })
        }
        Err(refusal) => Err(refusal),
    }
}
