//! A git work tree, and what git says about it. Runs the `git` program instead of a library, so
//! that the hooks see what git sees.
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Overrides settings of the user that change what git prints.
const SETTINGS: [&str; 4] = ["-c", "log.showRoot=true", "-c", "log.showSignature=false"];

/// A work tree.
#[derive(Clone, Debug)]
pub(crate) struct WorkTree {
    /// The top folder of the work tree, without symbolic links.
    pub(crate) top: PathBuf,
    /// The git folder that all work trees of the repository share.
    pub(crate) repository: PathBuf,
    /// Why git refuses to work here, in its own words: the repository belongs to another user, or
    /// its git folder is missing in a sandbox.
    pub(crate) refusal: Option<String>,
}

impl WorkTree {
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

    /// Returns the path of a file of the repository, such as `hooks`.
    pub(crate) fn repository_file(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.git(&["rev-parse", "--git-path", name])?;
        Ok(self.top.join(path.strip_suffix('\n').unwrap_or(&path)))
    }

    /// Returns the top folder of the main work tree, which a bare repository does not have.
    pub(crate) fn main_top(&self) -> Option<&Path> {
        self.repository.parent().filter(|_| self.repository.ends_with(".git"))
    }

    /// Returns the top folders of the other work trees of the repository.
    pub(crate) fn other_tops(&self) -> Result<Vec<PathBuf>, String> {
        // Without a linked work tree there is only one, and no reason to run git.
        if self.refusal.is_some() || !self.repository.join("worktrees").is_dir() {
            return Ok(Vec::new());
        }
        let list = self.git(&["worktree", "list", "--porcelain"])?;
        let tops = list.lines().filter_map(|line| line.strip_prefix("worktree "));
        // A work tree whose folder is gone, or not mounted here, has no record.
        let tops = tops.filter_map(|top| PathBuf::from(top).canonicalize().ok());
        Ok(tops.filter(|top| *top != self.top).collect())
    }
}

/// Runs a command of git. Returns its output, or what it printed on standard error, which can have
/// several lines.
pub(super) fn output_of(command: &mut Command) -> Result<String, String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("git cannot be run: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => match String::from_utf8_lossy(&done.stderr).trim() {
            "" => Err(format!("it failed without a word ({})", done.status)),
            words => Err(words.to_owned()),
        },
    }
}
