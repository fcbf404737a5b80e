//! What is not one file of this work tree: folders, patterns, files of git itself and of other work trees.
use crate::{
    refusal::{Problem, Start},
    top_folders::is_top_folder,
};

/// Why a folder is refused.
pub const FOLDER: &str = "a folder locks nothing that is in it; expected the path of one file: lock each file \
                          that you change";

const PATTERN: &str = "a pattern locks nothing that it matches; expected the path of one file: lock each file \
                       that you change";

const OF_GIT: &str =
    "files in `.git` belong to git and need no lock; expected a file of the repository";

/// Refuses folders, patterns, files of git itself and files of another work tree.
pub(crate) fn check_folders(path: &str, start: Start) -> Result<(), Problem> {
    let segments: Vec<_> = path.split('/').filter(|it| !["", "."].contains(it)).collect();
    if start == Start::Root {
        if segments.contains(&".git") {
            return Err(Problem::NoFile(OF_GIT));
        }
        check_worktree(path, &segments)?;
    }
    if is_pattern(path, &segments) {
        return Err(Problem::NoFile(PATTERN));
    }
    let is_folder =
        path.ends_with('/') || path.ends_with("/.") || (segments.is_empty() && !path.is_empty());
    match start {
        Start::Root if is_folder => Err(Problem::NoFile(FOLDER)),
        Start::Root if is_named_like_a_folder(path, &segments) => {
            Err(Problem::Folder { file: format!("./{path}") })
        }
        _ => Ok(()),
    }
}

/// Whether a path names a folder that most repositories have, such as `src` or `crates/x/src`. Other such names
/// can be those of files below the root: `bin/test`, `nginx/config`.
fn is_named_like_a_folder(path: &str, segments: &[&str]) -> bool {
    let is_known = match segments {
        [name] => is_top_folder(name),
        _ => segments.last() == Some(&"src"),
    };
    is_known && !path.starts_with("./")
}

/// Refuses a file of another work tree.
fn check_worktree(path: &str, segments: &[&str]) -> Result<(), Problem> {
    let is_plain = !path.starts_with("./") && segments.first() == Some(&"worktrees");
    let hint = if is_plain {
        format!(" (for a folder `worktrees` of the repository: `./{path}`)")
    } else {
        String::new()
    };
    let plain = if is_plain { behind_plain(segments) } else { None };
    match behind_worktree(segments).or(plain) {
        Some(rest) => Err(Problem::Part { what: "the folder of a work tree", rest, hint }),
        None => Ok(()),
    }
}

/// Returns the file that a key names in a folder of work trees, such as `.claude/worktrees/x/src/a.rs`: its path
/// from the root of the repository.
pub fn file_of_work_tree(key: &str) -> Option<String> {
    let segments: Vec<_> = key.split('/').collect();
    behind_worktree(&segments).or_else(|| behind_plain(&segments))
}

/// Returns the part behind `worktrees/<name>/` at the start, if a folder that is usually at the root of a repository
/// is in it, as in `worktrees/x/src/a.rs`.
fn behind_plain(segments: &[&str]) -> Option<String> {
    let has_root = segments.get(2).is_some_and(|segment| is_top_folder(segment));
    let is_worktree = segments.first() == Some(&"worktrees") && has_root && segments.len() > 3;
    is_worktree.then(|| segments[2..].join("/"))
}

/// Returns the part behind `.claude/worktrees/<name>/`, `.worktrees/<name>/` and the like.
pub(crate) fn behind_worktree(segments: &[&str]) -> Option<String> {
    let folder = segments.iter().enumerate().position(|(index, segment)| {
        let is_hidden = index > 0 && segments[index - 1].starts_with('.');
        *segment == ".worktrees" || (*segment == "worktrees" && is_hidden)
    })?;
    let rest = segments.get(folder + 2..).filter(|rest| !rest.is_empty())?;
    Some(rest.join("/"))
}

fn is_pattern(path: &str, segments: &[&str]) -> bool {
    let has_choice = path
        .split('{')
        .skip(1)
        .any(|rest| rest.split_once('}').is_some_and(|(choice, _)| choice.contains(',')));
    path.contains(['*', '?']) || has_choice || segments.contains(&"...")
}
