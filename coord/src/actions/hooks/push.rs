//! `coord hook pre-push`: the files of the pushed commits.
use std::collections::BTreeSet;

use super::{files::Files, pushed::pushed_lines};
use crate::work_tree::git::WorkTree;

/// The greatest number of commits of a push that are looked at one by one. Of more commits, the
/// newest are, and of the others what they change together.
const COMMIT_LIMIT: usize = 2000;

/// The files of a push, and what to do if it is stopped for changes of other agents.
#[derive(Default)]
pub(super) struct Pushed {
    pub(super) files: Files,
    pub(super) hint: Option<String>,
}

/// Returns the files of a push. Git writes a line for each pushed reference to standard input:
/// local name, local commit, remote name, remote commit.
pub(super) fn files_of_push(
    work_tree: &WorkTree,
    remote: Option<&str>,
    location: Option<&str>,
) -> Result<Pushed, String> {
    let lines = pushed_lines(work_tree)?;
    let lines: Vec<[&str; 2]> = lines
        .lines()
        .filter_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            // A local commit of zeros deletes the branch.
            [_, local, _, theirs] if !is_zero(local) => Some([local, theirs]),
            _ => None,
        })
        .collect();
    let theirs = lines.iter().map(|[_, theirs]| *theirs).filter(|theirs| !is_zero(theirs));
    let push = Push::to(work_tree, remote, location, theirs)?;
    let mut pushed = Pushed::default();
    for [local, theirs] in lines {
        match work_tree.commit_id(theirs).filter(|_| !is_zero(theirs)) {
            Some(theirs) => {
                push.add_update(local, &theirs, &mut pushed.files)?;
                pushed.hint = push.hint();
            }
            None => push.add_creation(local, &mut pushed.files)?,
        }
    }
    Ok(pushed)
}

/// Whether git writes this id for a commit that does not exist.
fn is_zero(commit: &str) -> bool {
    commit.bytes().all(|digit| digit == b'0')
}

/// A push to a remote.
struct Push<'a> {
    work_tree: &'a WorkTree,
    /// The name of the remote, if it has one.
    remote: Option<String>,
    /// The commit of the remote's default branch when it was last fetched, if that is known.
    default_branch: Option<String>,
    /// The commits of the default branches of this remote and of those that were fetched: in a
    /// fork, merged work of other agents comes from another remote. What was pushed from here to
    /// the default branch of another remote is still the caller's own work.
    default_branches: Vec<String>,
    /// The commits that the remote says it has, as far as they were fetched.
    theirs: Vec<String>,
}

impl<'a> Push<'a> {
    fn to<'b>(
        work_tree: &'a WorkTree,
        remote: Option<&str>,
        location: Option<&str>,
        theirs: impl Iterator<Item = &'b str>,
    ) -> Result<Push<'a>, String> {
        let remote = match remote {
            Some(name) => work_tree.remote(name, location)?,
            None => None,
        };
        let known = remote.as_ref().and_then(|name| default_branch(work_tree, name));
        let remotes = work_tree.git(&["remote"])?;
        let others = remotes.lines().filter(|name| Some(*name) != remote.as_deref());
        let others = others.filter_map(|name| default_branch(work_tree, name));
        let fetched = others.filter(|branch| !branch.is_pushed(work_tree));
        Ok(Push {
            work_tree,
            default_branches: known.clone().into_iter().chain(fetched).map(|it| it.id).collect(),
            default_branch: known.map(|branch| branch.id),
            theirs: theirs.filter_map(|theirs| work_tree.commit_id(theirs)).collect(),
            remote,
        })
    }

    /// Returns what to do where merged work of other agents counts as the caller's, because the
    /// default branch of the remote is unknown.
    fn hint(&self) -> Option<String> {
        let remote = self.remote.as_ref().filter(|_| self.default_branch.is_none())?;
        Some(format!(
            "The default branch of {remote} is not known here, so changes that were merged from it \
             count as yours. To fetch its name: git remote set-head {remote} -a"
        ))
    }

    /// Adds the files of a branch that moves from one commit to another. The files of its new
    /// commits are checked even if another branch of the remote has these commits. Only commits of
    /// default branches are the work of other agents. The files of commits that the branch loses
    /// are checked as well, and so are files that a merge left out.
    fn add_update(&self, local: &str, theirs: &str, files: &mut Files) -> Result<(), String> {
        let known = self.default_branches.iter().map(String::as_str);
        let gained: Vec<_> = [local, "--not", theirs].into_iter().chain(known).collect();
        files.changed.extend(self.files_of_commits(&gained, local, Some(theirs))?);
        let lost = [theirs, "--not", local];
        files.changed.extend(self.files_of_commits(&lost, theirs, Some(local))?);
        let moved = self.differing_files(theirs, local)?;
        let mut own = moved.clone();
        for default_branch in &self.default_branches {
            let differing = self.differing_files(default_branch, local)?;
            own.retain(|file| differing.contains(file));
        }
        files.changed.extend(own);
        files.relied_on.extend(moved);
        Ok(())
    }

    /// Adds the files of a branch that is new, or whose earlier commit was not fetched: those of
    /// the commits that no remote has, as far as that is known here.
    fn add_creation(&self, local: &str, files: &mut Files) -> Result<(), String> {
        let known = self.theirs.iter().map(String::as_str);
        let gained: Vec<_> = [local, "--not", "--remotes"].into_iter().chain(known).collect();
        let default_branch = self.default_branch.as_ref().or(self.default_branches.first());
        let base = default_branch
            .and_then(|branch| self.work_tree.git(&["merge-base", branch, local]).ok());
        let base = base.as_deref().map(str::trim);
        files.changed.extend(self.files_of_commits(&gained, local, base)?);
        if let Some(base) = base {
            files.relied_on.extend(self.differing_files(base, local)?);
        }
        Ok(())
    }

    /// Returns the files that commits change. Without renames, because a moved file changes both
    /// paths. For a merge, the files that differ from every parent. Of very many commits, the older
    /// ones count by the difference between `base` and `newest`.
    fn files_of_commits(
        &self,
        range: &[&str],
        newest: &str,
        base: Option<&str>,
    ) -> Result<BTreeSet<String>, String> {
        let limit = format!("--max-count={COMMIT_LIMIT}");
        let count = format!("--max-count={}", COMMIT_LIMIT + 1);
        let log = ["log", "-z", "--format=", "--name-only", "--no-renames", "-c"];
        let log = [&log[..], &["--ignore-submodules=none", &limit], range, &["--"]].concat();
        let mut files: BTreeSet<_> = self.work_tree.git_paths(&log)?.into_iter().collect();
        let counted = [&["rev-list", "--count", &count], range, &["--"]].concat();
        let is_cut = self.work_tree.git(&counted)?.trim().parse() == Ok(COMMIT_LIMIT + 1);
        if is_cut {
            let base = match base {
                Some(base) => base.to_owned(),
                None => self.empty_tree()?,
            };
            files.extend(self.differing_files(&base, newest)?);
        }
        Ok(files)
    }

    /// Returns the files in which two commits differ.
    fn differing_files(&self, old: &str, new: &str) -> Result<BTreeSet<String>, String> {
        let diff = ["diff", "--name-only", "--no-renames", "--ignore-submodules=none", "-z"];
        let diff = [&diff[..], &[old, new, "--"]].concat();
        Ok(self.work_tree.git_paths(&diff)?.into_iter().collect())
    }

    /// Returns the id of the tree without files, which depends on the hash of the repository.
    fn empty_tree(&self) -> Result<String, String> {
        let id = self.work_tree.git(&["hash-object", "-t", "tree", "--stdin"])?;
        Ok(id.trim().to_owned())
    }
}

/// The default branch of a remote when it was last fetched or pushed.
#[derive(Clone)]
struct Branch {
    name: String,
    id: String,
}

impl Branch {
    /// Whether the branch has its commit from a push of this repository.
    fn is_pushed(&self, work_tree: &WorkTree) -> bool {
        let last = work_tree.git(&["log", "-g", "-1", "--format=%gs", &self.name, "--"]);
        last.is_ok_and(|last| last.contains("by push"))
    }
}

/// Returns the default branch of a remote. A remote that was added later, or a clone of some
/// programs, has no `HEAD`; then it is `main` or `master`.
fn default_branch(work_tree: &WorkTree, remote: &str) -> Option<Branch> {
    let head = format!("refs/remotes/{remote}/HEAD");
    let target = work_tree.git(&["symbolic-ref", "-q", &head]).ok();
    let target = target.map(|target| target.trim().to_owned());
    let names = ["main", "master"].map(|name| format!("refs/remotes/{remote}/{name}"));
    target.into_iter().chain([head]).chain(names).find_map(|name| {
        let id = work_tree.commit_id(&name)?;
        Some(Branch { name, id })
    })
}
