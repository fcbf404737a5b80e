//! The API key of a developer's agents. The key is made once and kept, so that settings into which it was
//! pasted still work after a restart.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use agent_coordinator::{fresh_key, is_whole_key};

use crate::environment::Environment;

/// Distinguishes development keys from deployed ones.
const PREFIX: &str = "dev";

/// Which keys the service accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The keys that the environment configures. They are never printed.
    Configured,
    /// Only this key, which this program made.
    Made(String),
}

impl Key {
    /// Chooses the configured keys, else the key in the file, else a new key, which is written to the file.
    pub(crate) fn choose(environment: &Environment, file: &Path) -> Result<Key, String> {
        let variables = ["COORDINATION_API_KEYS", "COORDINATION_API_KEY_IDENTITIES"];
        if variables.into_iter().any(|name| environment.filled(name).is_some()) {
            return Ok(Key::Configured);
        }
        if let Some(key) = read_key(file) {
            return Ok(Key::Made(key));
        }
        let key = fresh_key(PREFIX)
            .map_err(|error| format!("The operating system gave no random bytes: {error}"))?;
        write_key(file, &key).map_err(|error| {
            format!(
                "The key could not be written to {} ({error}). Check that the folder and the file are yours.",
                file.display()
            )
        })?;
        Ok(Key::Made(key))
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

fn write_key(path: &Path, key: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    // The mode above applies only to a new file.
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = std::env::temp_dir().join(format!("local-key-{}", std::process::id()));
        let file = folder.join("key");
        let environment = Environment::default();

        let first = Key::choose(&environment, &file).unwrap();
        let again = Key::choose(&environment, &file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        let earlier = format!("dev_{}", "0f".repeat(32));
        fs::write(&file, &earlier).unwrap();
        let kept = Key::choose(&environment, &file).unwrap();
        fs::write(&file, "dev_short").unwrap();
        let replaced = Key::choose(&environment, &file).unwrap();
        fs::remove_dir_all(folder).unwrap();

        assert_eq!(first, again);
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(kept, Key::Made(earlier));
        assert_ne!(first, replaced);
    }

    #[test]
    fn configured_keys_are_left_alone() {
        let mut environment = Environment::default();
        environment.set("COORDINATION_API_KEY_IDENTITIES", "{}");

        let key = Key::choose(&environment, Path::new("/nonexistent/key"));

        assert_eq!(key, Ok(Key::Configured));
    }
}
