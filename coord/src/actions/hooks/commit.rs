//! `coord hook pre-commit`: the files of the commit.
use std::collections::BTreeSet;

use super::files::Files;
use crate::work_tree::git::WorkTree;

/// Returns the files of the commit. In a merge, files that come unchanged from the other side were
/// checked when they were committed there.
pub(super) fn files_of_commit(work_tree: &WorkTree) -> Result<Files, String> {
    let changed_since = |base: &[&str]| -> Result<BTreeSet<String>, String> {
        let diff = ["diff", "--cached", "--name-only", "--no-renames", "--ignore-submodules=none"];
        Ok(work_tree.git_paths(&[&diff[..], &["-z"], base].concat())?.into_iter().collect())
    };
    let mut changed = changed_since(&[])?;
    if work_tree.git_succeeds(&["rev-parse", "-q", "--verify", "MERGE_HEAD"]) {
        let changed_in_merge = changed_since(&["MERGE_HEAD"])?;
        changed.retain(|file| changed_in_merge.contains(file));
    }
    Ok(Files { changed, relied_on: BTreeSet::new() })
}
