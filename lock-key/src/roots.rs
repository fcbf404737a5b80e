//! Where a path begins: an absolute path, a drive, a home folder, a variable and `..`.
use crate::{
    folders::behind_worktree,
    key::{LockKey, LockKeyError},
    refusal::{Problem, Start},
    top_folders::is_top_folder,
};

/// Folders that hold one folder for each user.
const HOMES: [&str; 3] = ["home", "Users", "users"];

/// Variables that hold the home folder of a user.
const HOME_VARIABLES: [&str; 3] = ["$HOME", "${HOME}", "%USERPROFILE%"];

/// Refuses what does not begin at the root of a repository, and what no file system resolves.
pub(crate) fn check_root(path: &str, start: Start) -> Result<(), Problem> {
    let has_drive = path.as_bytes().get(1) == Some(&b':')
        && path.starts_with(|letter: char| letter.is_ascii_alphabetic());
    let is_unresolved = match start {
        Start::Root => path.starts_with('/') || has_drive,
        Start::Folder => has_drive && !cfg!(windows),
    };
    if is_unresolved {
        let path = if has_drive { &path[2..] } else { path };
        let what = "what comes before the root of the repository";
        return Err(Problem::part(what, start.spell_from_root(&behind_root(path))));
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let is_home = first == "~" || (first.starts_with('~') && path.contains('/'));
    if is_home || HOME_VARIABLES.contains(&first) {
        let rest = behind_root(&format!("/home/x/{rest}"));
        return Err(Problem::part("a home folder", start.spell_from_root(&rest)));
    }
    if is_variable(first) {
        return Err(Problem::part("a variable", start.spell_from_root(rest)));
    }
    let has_parent = path.split('/').any(|it| it == "..");
    if start == Start::Root && has_parent && LockKey::parse(path) == Err(LockKeyError::Escapes) {
        return Err(Problem::part("`..` above the root of the repository", within_root(path)));
    }
    Ok(())
}

/// Whether a segment is a variable of a shell or of an editor: `$HOME`, `${workspaceFolder}`, `%USERPROFILE%`.
fn is_variable(segment: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|it| it.is_ascii_uppercase() || it == b'_')
    };
    segment.starts_with("${")
        || (segment.len() > 2 && segment.starts_with('%') && segment.ends_with('%'))
        || segment.strip_prefix('$').is_some_and(is_name)
}

/// Resolves the `..` of a path, and removes those that lead above its start.
fn within_root(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

/// Guesses the part of an absolute path that is within the repository: from a folder that is usually at its
/// root, else behind the home folder and the folder of the repository.
fn behind_root(path: &str) -> String {
    let segments: Vec<_> =
        path.split('/').filter(|it| !it.is_empty() && !it.ends_with(':')).collect();
    if let Some(worktree) = behind_worktree(&segments) {
        return worktree;
    }
    let homes = segments.iter().position(|segment| HOMES.contains(segment));
    let start = homes.map_or(0, |home| home + 2);
    let known = segments.iter().skip(start).position(|segment| is_top_folder(segment));
    let rest = match (known, homes) {
        (Some(known), _) => &segments[start + known..],
        (None, Some(_)) => segments.get(start + 1..).unwrap_or_default(),
        (None, None) => segments.last().map(std::slice::from_ref).unwrap_or_default(),
    };
    rest.join("/")
}
