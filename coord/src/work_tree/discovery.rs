//! Which work tree a folder is in, and which repository contains a submodule.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::git::{WorkTree, output_of};
use crate::service::git_config::untied_git;

impl WorkTree {
    /// Returns the work tree of the current folder, if it is in one.
    pub(crate) fn of_current_folder() -> Option<WorkTree> {
        let folder = std::env::current_dir().ok()?;
        discover(|| Command::new("git"), &folder)
    }

    /// Returns the work tree that a file is in, from a current folder outside of it.
    pub(crate) fn of_file(path: &Path) -> Option<WorkTree> {
        let path = std::env::current_dir().ok()?.join(path);
        let folder = path.ancestors().find(|folder| folder.is_dir())?.canonicalize().ok()?;
        folder.ancestors().any(has_git).then(|| WorkTree::of_folder(&folder))?
    }

    /// Returns the work tree that a folder is in, whatever the environment says.
    pub(super) fn of_folder(folder: &Path) -> Option<WorkTree> {
        let git = || {
            let mut git = untied_git();
            git.arg("-C").arg(folder);
            git
        };
        discover(git, folder)
    }

    /// Returns the work tree of the outermost repository around this one, and the path of this one
    /// from its top. They differ from this work tree and the empty path in a submodule only.
    pub(crate) fn outermost(&self) -> (WorkTree, PathBuf) {
        let (mut outer, mut path) = (self.clone(), PathBuf::new());
        while let Some((top, around)) = outer.containing() {
            let Ok(inner) = top.strip_prefix(&around.top) else { break };
            path = inner.join(path);
            outer = around;
        }
        (outer, path)
    }

    /// Returns the work tree that this one is a submodule of, and the folder of the submodule.
    fn containing(&self) -> Option<(PathBuf, WorkTree)> {
        if self.refusal.is_some() {
            return None;
        }
        if self.top.ancestors().skip(1).any(has_git)
            && let Some(around) = superproject_of(&self.top)
        {
            // `git add -A` adds a linked work tree in the work tree as if it were a submodule.
            let is_submodule = around.repository != self.repository;
            return is_submodule.then(|| (self.top.clone(), around));
        }
        // A linked work tree of a submodule can be anywhere. Its files are those of the submodule.
        if self.repository.file_name()? == ".git" || !self.top.join(".git").is_file() {
            return None;
        }
        let setting = ["config", "--file"];
        let file = self.repository.join("config");
        let main = output_of(untied_git().args(setting).arg(file).arg("core.worktree")).ok()?;
        let main = self.repository.join(main.strip_suffix('\n')?).canonicalize().ok()?;
        (main != self.top).then(|| Some((main.clone(), superproject_of(&main)?)))?
    }
}

fn has_git(folder: &Path) -> bool {
    folder.join(".git").symlink_metadata().is_ok()
}

fn superproject_of(top: &Path) -> Option<WorkTree> {
    let asked = ["rev-parse", "--show-superproject-working-tree"];
    let text = output_of(untied_git().arg("-C").arg(top).args(asked)).ok()?;
    let around = text.strip_suffix('\n').filter(|around| !around.is_empty())?;
    WorkTree::of_folder(Path::new(around))
}

/// Asks git which work tree a folder is in. Where git refuses, the nearest folder with `.git` is
/// the top of a work tree: its files have the same keys for everybody.
fn discover(git: impl Fn() -> Command, folder: &Path) -> Option<WorkTree> {
    let asked = ["rev-parse", "--show-toplevel", "--git-common-dir"];
    match output_of(git().args(asked)) {
        Ok(text) => {
            let (top, repository) = text.strip_suffix('\n')?.split_once('\n')?;
            let canonical = |path: PathBuf| path.canonicalize().unwrap_or(path);
            Some(WorkTree {
                top: canonical(top.into()),
                repository: canonical(folder.join(repository)),
                refusal: None,
            })
        }
        Err(words) => {
            // Work trees are often kept beside a bare repository, in a folder that has `.git`.
            let is_bare = output_of(git().args(["rev-parse", "--is-bare-repository"]));
            if is_bare.is_ok_and(|answer| answer.trim() == "true") {
                return None;
            }
            let folder = folder.canonicalize().ok()?;
            let top = folder.ancestors().find(|folder| is_top(folder))?;
            Some(WorkTree {
                top: top.to_owned(),
                repository: top.join(".git"),
                refusal: Some(words),
            })
        }
    }
}

/// Whether a folder looks like the top of a work tree, linked or not.
fn is_top(folder: &Path) -> bool {
    let git = folder.join(".git");
    git.join("HEAD").is_file() || fs::read(git).is_ok_and(|text| text.starts_with(b"gitdir:"))
}
