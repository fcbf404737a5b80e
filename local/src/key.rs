//! The key that a developer's agents use. It is made once and kept, so that what was pasted
//! somewhere works again after a restart.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use agent_coordinator::{fresh_key, is_whole_key};

use crate::environment::Environment;

/// Tells a developer's key from one that is deployed.
const PREFIX: &str = "dev";

/// Which keys the service accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// Those that the environment says; they are not ours to print.
    Configured,
    /// This one alone.
    Made(String),
}

impl Key {
    /// The configured keys, else the one kept in the file, else a new one that is kept there.
    pub(crate) fn choose(environment: &Environment, file: &Path) -> Result<Key, String> {
        let variables = ["COORDINATION_API_KEYS", "COORDINATION_API_KEY_IDENTITIES"];
        if variables.into_iter().any(|name| environment.filled(name).is_some()) {
            return Ok(Key::Configured);
        }
        if let Some(kept) = kept(file) {
            return Ok(Key::Made(kept));
        }
        let key = fresh_key(PREFIX).map_err(|error| format!("No random bytes: {error}"))?;
        keep(file, &key).map_err(|error| {
            format!("The key cannot be kept in {} ({error}). Is it another user's?", file.display())
        })?;
        Ok(Key::Made(key))
    }
}

/// The key in the file. Anything else in it is replaced.
fn kept(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let key = text.trim();
    (is_whole_key(key) || is_earlier(key)).then(|| key.to_owned())
}

/// Whether it is a key as the first version of this program made them, without a checksum.
fn is_earlier(key: &str) -> bool {
    let digits = key.strip_prefix("dev_").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|it| it.is_ascii_hexdigit())
}

fn keep(path: &Path, key: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    // The mode above is for a new file only.
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
