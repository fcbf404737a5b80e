//! The git work tree around the current folder. Runs the `git` program instead of a library, so
//! that the hooks see what git sees.
use std::{
    path::{Component, PathBuf},
    process::{Command, Stdio},
};

/// Overrides settings of the user that change what git prints.
const SETTINGS: [&str; 4] = ["-c", "log.showRoot=true", "-c", "log.showSignature=false"];

/// A work tree.
#[derive(Clone, Debug)]
pub(crate) struct WorkTree {
    /// The top folder of the work tree.
    pub(crate) top: PathBuf,
}

impl WorkTree {
    /// Returns the work tree of the current folder, if it is in one.
    pub(crate) fn of_current_folder() -> Option<WorkTree> {
        let top = output_of(Command::new("git").args(["rev-parse", "--show-toplevel"])).ok()?;
        let top = top.strip_suffix('\n').unwrap_or(&top);
        (!top.is_empty()).then(|| WorkTree { top: top.into() })
    }

    /// Runs git in the top folder. Returns its output, or what it printed on standard error.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String, String> {
        output_of(Command::new("git").arg("-C").arg(&self.top).args(SETTINGS).args(arguments))
    }

    /// Whether git succeeds with these arguments.
    pub(crate) fn git_succeeds(&self, arguments: &[&str]) -> bool {
        self.git(arguments).is_ok()
    }

    /// Returns the paths that git prints with `-z`, separated by NUL.
    pub(crate) fn git_paths(&self, arguments: &[&str]) -> Result<Vec<String>, String> {
        let text = self.git(arguments)?;
        Ok(text
            .split('\0')
            .map(|path| path.trim_start_matches('\n'))
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Returns the name of a remote that is given by its name or by one of its URLs.
    pub(crate) fn remote(
        &self,
        name: &str,
        location: Option<&str>,
    ) -> Result<Option<String>, String> {
        let remotes = self.git(&["remote"])?;
        if remotes.lines().any(|remote| remote == name) {
            return Ok(Some(name.to_owned()));
        }
        let has_url = |remote: &&str| {
            let urls = [&["--push"][..], &[]].map(|kind| {
                self.git(&[&["remote", "get-url", "--all"], kind, &[*remote]].concat())
            });
            let mut urls = urls.iter().flatten().flat_map(|urls| urls.lines());
            urls.any(|url| url == name || Some(url) == location)
        };
        Ok(remotes.lines().find(has_url).map(str::to_owned))
    }

    /// Returns the id of the commit that a name stands for, if the repository has it.
    pub(crate) fn commit_id(&self, name: &str) -> Option<String> {
        let name = format!("{name}^{{commit}}");
        let id = self.git(&["rev-parse", "-q", "--verify", "--end-of-options", &name]).ok()?;
        Some(id.trim().to_owned())
    }

    /// Returns the path of a file of the repository, such as `info/exclude`.
    pub(crate) fn repository_file(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.git(&["rev-parse", "--git-path", name])?;
        Ok(self.top.join(path.strip_suffix('\n').unwrap_or(&path)))
    }

    /// Returns the lock key of a path. Absolute paths and paths that exist below the current folder
    /// become relative to the top folder; anything else is a lock key already.
    pub(crate) fn key_of(&self, path: &str) -> String {
        self.key_of_file(path).unwrap_or_else(|| path.to_owned())
    }

    fn key_of_file(&self, path: &str) -> Option<String> {
        if has_namespace(path) {
            return None;
        }
        let folder = std::env::current_dir().ok()?;
        if !path.starts_with('/')
            && (folder == self.top || folder.join(path).symlink_metadata().is_err())
        {
            return None;
        }
        let mut key = PathBuf::new();
        for part in folder.join(path).strip_prefix(&self.top).ok()?.components() {
            match part {
                // A path that leaves the work tree is not a key of it.
                Component::ParentDir if !key.pop() => return None,
                Component::Normal(name) => key.push(name),
                _ => {}
            }
        }
        key.into_os_string().into_string().ok().filter(|key| !key.is_empty())
    }
}

/// Whether a lock key has a namespace, such as `db:schema:users`, and so is not a file. The service
/// has the same rule; a test of the command line compares the two.
fn has_namespace(key: &str) -> bool {
    let Some((namespace, rest)) = key.split_once(':') else { return false };
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
    };
    namespace.len() > 1
        && namespace.starts_with(|letter: char| letter.is_ascii_lowercase())
        && namespace.bytes().all(is_allowed)
        && !rest.is_empty()
}

fn output_of(command: &mut Command) -> Result<String, String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("git cannot be run: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")),
    }
}
