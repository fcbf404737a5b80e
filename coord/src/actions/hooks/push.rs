//! `coord hook pre-push`: the files of the pushed commits.
use std::collections::BTreeSet;

use super::{files::Files, pushed::pushed_lines};
use crate::work_tree::git::WorkTree;

/// Returns the files of a push. Git writes a line for each pushed reference to standard input:
/// local name, local commit, remote name, remote commit.
pub(super) fn files_of_push(
    work_tree: &WorkTree,
    remote: Option<&str>,
    location: Option<&str>,
) -> Result<Files, String> {
    let lines = pushed_lines(work_tree)?;
    let push = Push::to(work_tree, remote, location)?;
    let mut files = Files::default();
    for line in lines.lines() {
        let [_, local, _, theirs] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        if is_zero(local) {
            // The branch is deleted.
            continue;
        }
        match work_tree.commit_id(theirs).filter(|_| !is_zero(theirs)) {
            Some(theirs) => push.add_update(local, &theirs, &mut files)?,
            None => push.add_creation(local, &mut files)?,
        }
    }
    Ok(files)
}

/// Whether git writes this id for a commit that does not exist.
fn is_zero(commit: &str) -> bool {
    commit.bytes().all(|digit| digit == b'0')
}

/// A push to a remote.
struct Push<'a> {
    work_tree: &'a WorkTree,
    /// The commit of the remote's default branch when it was last fetched, if that is known.
    default_branch: Option<String>,
    /// The option of `git log` for all branches of the remote; of all remotes if it is unknown.
    remote_branches: String,
}

impl<'a> Push<'a> {
    fn to(
        work_tree: &'a WorkTree,
        remote: Option<&str>,
        location: Option<&str>,
    ) -> Result<Push<'a>, String> {
        let remote = match remote {
            Some(name) => work_tree.remote(name, location)?,
            None => None,
        };
        let head = remote.as_ref().map(|remote| format!("refs/remotes/{remote}/HEAD"));
        Ok(Push {
            work_tree,
            default_branch: head.and_then(|head| work_tree.commit_id(&head)),
            remote_branches: match remote {
                Some(remote) => format!("--remotes={remote}"),
                None => "--remotes".to_owned(),
            },
        })
    }

    /// Adds the files of a branch that moves from one commit to another. The files of its new
    /// commits are checked even if another branch of the remote has these commits. Only commits of
    /// the default branch are the work of other agents. The files of commits that the branch loses
    /// are checked as well, and so are files that a merge left out.
    fn add_update(&self, local: &str, theirs: &str, files: &mut Files) -> Result<(), String> {
        let default_branch = self.default_branch.as_deref();
        let gained = [&[local, "--not", theirs], default_branch.as_slice()].concat();
        files.changed.extend(self.files_of_commits(&gained)?);
        files.changed.extend(self.files_of_commits(&[theirs, "--not", local])?);
        let moved = self.differing_files(theirs, local)?;
        match default_branch {
            Some(default_branch) => {
                let own = self.differing_files(default_branch, local)?;
                files.changed.extend(moved.intersection(&own).cloned());
            }
            None => files.changed.extend(moved.iter().cloned()),
        }
        files.relied_on.extend(moved);
        Ok(())
    }

    /// Adds the files of a branch that is new, or whose earlier commit was not fetched.
    fn add_creation(&self, local: &str, files: &mut Files) -> Result<(), String> {
        let gained = [local, "--not", &self.remote_branches];
        files.changed.extend(self.files_of_commits(&gained)?);
        if let Some(default_branch) = &self.default_branch
            && let Ok(base) = self.work_tree.git(&["merge-base", default_branch, local])
        {
            files.relied_on.extend(self.differing_files(base.trim(), local)?);
        }
        Ok(())
    }

    /// Returns the files that commits change. Without renames, because a moved file changes both
    /// paths. For a merge, the files that differ from every parent.
    fn files_of_commits(&self, range: &[&str]) -> Result<Vec<String>, String> {
        let log = ["log", "-z", "--format=", "--name-only", "--no-renames", "-c"];
        self.work_tree.git_paths(&[&log, range, &["--"]].concat())
    }

    /// Returns the files in which two commits differ.
    fn differing_files(&self, old: &str, new: &str) -> Result<BTreeSet<String>, String> {
        let diff = ["diff", "--name-only", "--no-renames", "-z", old, new, "--"];
        Ok(self.work_tree.git_paths(&diff)?.into_iter().collect())
    }
}
