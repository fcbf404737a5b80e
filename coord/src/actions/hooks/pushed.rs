//! The references that a push updates, as git names them to its hook.
use std::io::{self, IsTerminal as _};

use crate::{service::settings::variable, work_tree::git::WorkTree};

/// Git's id of a commit that does not exist.
const ZERO: &str = "0000000000000000000000000000000000000000";

/// Returns a line for each pushed reference: local name, local commit, remote name, remote commit.
/// Git writes them to standard input. pre-commit keeps them from its hooks, and sets variables for
/// the first reference instead.
pub(super) fn pushed_lines(work_tree: &WorkTree) -> Result<String, String> {
    let lines = match io::stdin().is_terminal() {
        true => String::new(),
        false => io::read_to_string(io::stdin()).map_err(|error| error.to_string())?,
    };
    let remote_name = variable("PRE_COMMIT_REMOTE_BRANCH").filter(|_| lines.trim().is_empty());
    let Some(remote_name) = remote_name else { return Ok(lines) };
    let local_name = variable("PRE_COMMIT_LOCAL_BRANCH").unwrap_or_else(|| "HEAD".to_owned());
    // Without a commit, pre-commit checks the whole tree of the branch.
    let local = variable("PRE_COMMIT_TO_REF").unwrap_or_else(|| local_name.clone());
    let local = work_tree
        .commit_id(&local)
        .ok_or_else(|| format!("pre-commit names the commit {local}, which is not there"))?;
    let remote = variable("PRE_COMMIT_FROM_REF").and_then(|name| work_tree.commit_id(&name));
    let remote = remote.unwrap_or_else(|| ZERO.to_owned());
    Ok(format!("{local_name} {local} {remote_name} {remote}\n"))
}
