//! The git repository around the current folder, asked through `git` itself.
use std::{
    path::{Component, PathBuf},
    process::{Command, Stdio},
};

/// What git prints must not depend on how somebody likes it.
const PLAIN: [&str; 4] = ["-c", "log.showRoot=true", "-c", "log.showSignature=false"];

/// A work tree.
#[derive(Clone, Debug)]
pub(crate) struct WorkTree {
    /// Its top folder.
    pub(crate) top: PathBuf,
}

impl WorkTree {
    /// The work tree of the current folder, if it is in one.
    pub(crate) fn here() -> Option<WorkTree> {
        let top = output(Command::new("git").args(["rev-parse", "--show-toplevel"])).ok()?;
        let top = top.strip_suffix('\n').unwrap_or(&top);
        (!top.is_empty()).then(|| WorkTree { top: top.into() })
    }

    /// What git prints for these arguments, run in the top folder.
    pub(crate) fn git(&self, arguments: &[&str]) -> Result<String, String> {
        output(Command::new("git").arg("-C").arg(&self.top).args(PLAIN).args(arguments))
    }

    /// Whether git says yes to these arguments.
    pub(crate) fn says(&self, arguments: &[&str]) -> bool {
        self.git(arguments).is_ok()
    }

    /// The paths that git prints, separated by NUL.
    pub(crate) fn paths(&self, arguments: &[&str]) -> Result<Vec<String>, String> {
        let text = self.git(arguments)?;
        Ok(text
            .split('\0')
            .map(|it| it.trim_start_matches('\n'))
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// The remote that is meant: by its name, else by a URL of it.
    pub(crate) fn remote(
        &self,
        name: &str,
        location: Option<&str>,
    ) -> Result<Option<String>, String> {
        let remotes = self.git(&["remote"])?;
        if remotes.lines().any(|it| it == name) {
            return Ok(Some(name.to_owned()));
        }
        let is_at = |remote: &&str| {
            let urls = [&["--push"][..], &[]].map(|kind| {
                self.git(&[&["remote", "get-url", "--all"], kind, &[*remote]].concat())
            });
            let mut urls = urls.iter().flatten().flat_map(|it| it.lines());
            urls.any(|it| it == name || Some(it) == location)
        };
        Ok(remotes.lines().find(is_at).map(str::to_owned))
    }

    /// The commit that a name stands for, if there is one here.
    pub(crate) fn commit(&self, name: &str) -> Option<String> {
        let name = format!("{name}^{{commit}}");
        let id = self.git(&["rev-parse", "-q", "--verify", "--end-of-options", &name]).ok()?;
        Some(id.trim().to_owned())
    }

    /// Where a file of the repository lies, such as `info/exclude`.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.git(&["rev-parse", "--git-path", name])?;
        Ok(self.top.join(path.strip_suffix('\n').unwrap_or(&path)))
    }

    /// A path of the work tree as lock keys name it. Changed is only a path from the root of the file
    /// system, or one that exists below the current folder; any other is a key already.
    pub(crate) fn key_of(&self, path: &str) -> String {
        self.inside(path).unwrap_or_else(|| path.to_owned())
    }

    fn inside(&self, path: &str) -> Option<String> {
        if is_namespaced(path) {
            return None;
        }
        let here = std::env::current_dir().ok()?;
        if !path.starts_with('/')
            && (here == self.top || here.join(path).symlink_metadata().is_err())
        {
            return None;
        }
        let mut key = PathBuf::new();
        // With what exists a `..` leads out of a folder, and never out of the work tree.
        for part in here.join(path).strip_prefix(&self.top).ok()?.components() {
            match part {
                Component::ParentDir if !key.pop() => return None,
                Component::Normal(name) => key.push(name),
                _ => {}
            }
        }
        key.into_os_string().into_string().ok().filter(|it| !it.is_empty())
    }
}

/// Whether a key names something that is no file, such as `db:schema:users`.
fn is_namespaced(key: &str) -> bool {
    let Some((space, rest)) = key.split_once(':') else { return false };
    let is_word =
        |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || matches!(it, b'_' | b'-');
    space.len() > 1
        && space.starts_with(|it: char| it.is_ascii_lowercase())
        && space.bytes().all(is_word)
        && !rest.is_empty()
}

fn output(command: &mut Command) -> Result<String, String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("git cannot be run: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().replace('\n', "; ")),
    }
}
