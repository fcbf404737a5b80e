//! The API key of a developer's agents. The key is made once and kept, so that settings into which it was
//! pasted still work after a restart.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_coordinator::{fresh_key, is_whole_key};

use crate::{
    environment::Environment,
    state::{prepare, write_private},
};

/// Distinguishes development keys from deployed ones.
const PREFIX: &str = "dev";

/// Which keys the service accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The keys that the environment configures. They are never printed.
    Configured,
    /// Only the key that this program made.
    Made(MadeKey),
}

/// A key that this program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MadeKey {
    pub(crate) text: String,
    /// A file with the header of a request that has the key, for `curl`: other users can see the arguments of a
    /// program.
    pub(crate) header_file: PathBuf,
}

impl Key {
    /// Chooses the configured keys, else the key in a file of the folder, else a new key, which is written there.
    pub(crate) fn choose(environment: &Environment, folder: &Path) -> Result<Key, String> {
        let variables = ["COORDINATION_API_KEYS", "COORDINATION_API_KEY_IDENTITIES"];
        if variables.into_iter().any(|name| environment.filled(name).is_some()) {
            return Ok(Key::Configured);
        }
        let not_written = |path: &Path, error: std::io::Error| {
            format!(
                "The key could not be written to {} ({error}). Check that the folder and the file are yours.",
                path.display()
            )
        };
        prepare(folder).map_err(|error| not_written(folder, error))?;
        let file = folder.join("key");
        let text = match read_key(&file) {
            Some(key) => key,
            None => fresh_key(PREFIX)
                .map_err(|error| format!("The operating system gave no random bytes: {error}"))?,
        };
        write_private(&file, &text).map_err(|error| not_written(&file, error))?;
        let header_file = folder.canonicalize().unwrap_or_default().join("key-header");
        write_private(&header_file, &format!("X-API-Key: {text}"))
            .map_err(|error| not_written(&header_file, error))?;
        Ok(Key::Made(MadeKey { text, header_file }))
    }
}

/// Reads the key in the file. Returns `None`, so that the file is replaced, if its content is not a key.
fn read_key(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let key = text.trim();
    (is_whole_key(key) || is_key_without_checksum(key)).then(|| key.to_owned())
}

/// Returns whether `key` has the form of early versions of this program, without a checksum.
fn is_key_without_checksum(key: &str) -> bool {
    let digits = key.strip_prefix("dev_").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|it| it.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = std::env::temp_dir().join(format!("local-key-{}", std::process::id()));
        let file = folder.join("key");
        let environment = Environment::default();

        let first = Key::choose(&environment, &folder).unwrap();
        let again = Key::choose(&environment, &folder).unwrap();
        let modes = ["key", "key-header"]
            .map(|name| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777);
        let earlier = format!("dev_{}", "0f".repeat(32));
        fs::write(&file, &earlier).unwrap();
        let kept = Key::choose(&environment, &folder).unwrap();
        let header = fs::read_to_string(folder.join("key-header")).unwrap();
        fs::write(&file, "dev_short").unwrap();
        let replaced = Key::choose(&environment, &folder).unwrap();
        let header_file = folder.canonicalize().unwrap().join("key-header");
        fs::remove_dir_all(folder).unwrap();

        assert_eq!(first, again);
        assert_eq!(modes, [0o600, 0o600]);
        assert_eq!(header, format!("X-API-Key: {earlier}\n"));
        assert_eq!(kept, Key::Made(MadeKey { text: earlier, header_file }));
        assert_ne!(first, replaced);
    }

    #[test]
    fn configured_keys_are_left_alone() {
        let mut environment = Environment::default();
        environment.set("COORDINATION_API_KEY_IDENTITIES", "{}");

        let key = Key::choose(&environment, Path::new("/nonexistent"));

        assert_eq!(key, Ok(Key::Configured));
    }
}
