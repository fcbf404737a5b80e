//! Lock keys as models spell them. What cannot be a path from the root of a repository is refused with the
//! key that was probably meant: as another key, it would be another lock, and guard nothing.
//!
//! Only spellings that are plausible mistakes are refused. `app/[id]/page.tsx`, `src/a b.ts` and
//! `src/a,b.rs` are names of files. A name that begins with `./` is taken as it is where a rule would
//! otherwise see a mention or a list.
use serde_json::Value;

use crate::values::{LockKey, LockKeyError, lock_key::MAX_SPELLING_BYTES};

/// Folders that are usually at the root of a repository.
const TOP_FOLDERS: [&str; 20] = [
    "src",
    "lib",
    "app",
    "apps",
    "packages",
    "crates",
    "cmd",
    "internal",
    "pkg",
    "test",
    "tests",
    "docs",
    "doc",
    "scripts",
    "examples",
    "migrations",
    "config",
    "public",
    "components",
    ".github",
];

/// Folders that hold one folder for each user.
const HOMES: [&str; 3] = ["home", "Users", "users"];

/// How many parts around a path are removed to find the key that was meant.
const MAX_PARTS: usize = 16;

/// Why a text is not a path from the root of a repository.
#[derive(Debug)]
enum Refusal {
    /// A part that does not belong to a key, what is left without it, and how to lock a file that is named
    /// like this.
    Part { what: &'static str, rest: String, hint: String },
    /// Several paths, of which this is the first.
    Several { first: String },
    /// Something that names no single file.
    NoFile(&'static str),
}

/// Returns the key that a text names. A text that is longer than any key is left to the check of the input.
///
/// # Errors
/// Says why the text is not a path from the root of a repository, with the key that was probably meant.
pub(super) fn lock_key(text: &str) -> Result<String, String> {
    if text.len() > MAX_SPELLING_BYTES {
        return Ok(text.to_owned());
    }
    read(text).map_err(Refusal::text)
}

/// Returns the key that a text names, or what is left of the text without the part that is refused.
fn read(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if let Some(inner) = within_quotes(text) {
        return Err(refusal("quotation marks around a path", inner));
    }
    if let Some(refused) = check_wrapping(text) {
        return Err(refused);
    }
    if let Some(path) = file_url(text) {
        return Err(refusal("a URL", path));
    }
    if has_scheme(text) {
        let problem = "a URL is not a path; expected a path from the root of the repository";
        return Err(Refusal::NoFile(problem));
    }
    let is_namespaced = LockKey::parse(text).is_ok_and(|key| !key.is_file());
    if is_namespaced && !text.is_empty() && text.contains(':') {
        return Ok(text.to_owned());
    }
    if text.contains("\\ ") {
        return Err(refusal("an escaped space", text.replace("\\ ", " ")));
    }
    let path = text.replace('\\', "/");
    check_decoration(&path)?;
    check_list(&path)?;
    check_root(&path)?;
    check_folders(&path)?;
    Ok(path)
}

/// Returns the refusal of a part that does not belong to a key.
fn refusal(what: &'static str, rest: impl Into<String>) -> Refusal {
    Refusal::Part { what, rest: rest.into(), hint: String::new() }
}

impl Refusal {
    /// Returns what is left without the refused part, unless nothing is.
    fn rest(self) -> Option<String> {
        match self {
            Self::Part { rest, .. } | Self::Several { first: rest } => Some(rest),
            Self::NoFile(_) => None,
        }
    }

    /// Says what is refused, and which key was probably meant.
    fn text(self) -> String {
        match self {
            Self::Part { what, rest, hint } => {
                let expected = "expected a path from the root of the repository";
                let meant = match meant_key(rest) {
                    Some(key) => format!("probably `{key}`"),
                    None => "such as `src/main.rs`".to_owned(),
                };
                format!("{what} is not part of a key; {expected}, {meant}{hint}")
            }
            Self::Several { first } => {
                let meant = meant_key(first).map(|key| format!(", the first one probably `{key}`"));
                format!(
                    "several paths in one text; expected one path for each key{} (for one name that \
                     contains a comma or a space: begin it with `./`)",
                    meant.unwrap_or_default()
                )
            }
            Self::NoFile(problem) => problem.to_owned(),
        }
    }
}

/// Returns the key that is left of a text without the parts that are refused, if one is. Without a limit,
/// a text of nothing but such parts would be read once for each of them.
fn meant_key(text: String) -> Option<String> {
    let mut rest = text;
    for _ in 0..MAX_PARTS {
        match read(&rest) {
            Ok(key) => return plain_key(&key),
            Err(refused) => rest = refused.rest()?,
        }
    }
    None
}

/// Returns the spelling of a key in which a call is sure to take it.
fn plain_key(key: &str) -> Option<String> {
    let key = LockKey::parse(key).ok().filter(|key| !key.as_str().is_empty())?;
    let spellings = [key.as_str().to_owned(), format!("./{}", key.as_str())];
    spellings.into_iter().find(|spelling| {
        read(spelling).is_ok_and(|taken| LockKey::parse(&taken).as_ref() == Ok(&key))
    })
}

fn within_quotes(text: &str) -> Option<&str> {
    let pairs = [
        ('"', '"'),
        ('\'', '\''),
        ('`', '`'),
        ('<', '>'),
        ('\u{201c}', '\u{201d}'),
        ('\u{2018}', '\u{2019}'),
        ('\u{ab}', '\u{bb}'),
        ('\u{2039}', '\u{203a}'),
    ];
    let mut inner = pairs.iter().filter_map(|(open, close)| {
        text.strip_prefix(*open)?.strip_suffix(*close).filter(|inner| !inner.is_empty())
    });
    inner.next()
}

/// Refuses a path within a list, an object, a link or behind a label, and one that is encoded.
fn check_wrapping(text: &str) -> Option<Refusal> {
    if let Some(mut paths) = within_json(text) {
        return Some(match paths.len() {
            0 => Refusal::NoFile(
                "a list is not a path; expected a path from the root of the repository",
            ),
            1 => refusal("a list or an object around a path", paths.remove(0)),
            _ => Refusal::Several { first: paths.remove(0) },
        });
    }
    let link = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(')'));
    if let Some((_, target)) = link.and_then(|link| link.split_once("](")) {
        return Some(refusal("a link around a path", target));
    }
    if let Some(rest) = text.strip_prefix(":/") {
        return Some(refusal("the mark of the root `:/`", rest));
    }
    if let Some((label, rest)) = text.split_once(':') {
        let rest = rest.trim_start();
        let is_label = ["path", "file", "file_path", "filepath", "filename"]
            .contains(&label.to_ascii_lowercase().as_str());
        let is_revision = label.len() > 1
            && label.bytes().all(|letter| letter.is_ascii_uppercase() || letter == b'_');
        if (is_label || is_revision) && has_extension(rest) && !rest.starts_with("//") {
            return Some(refusal("what stands before the colon", rest));
        }
    }
    let upper = text.to_ascii_uppercase();
    if upper.contains("%2F") || upper.contains("%5C") {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        return Some(refusal("percent-encoding", decoded));
    }
    let (path, remark) = text.strip_suffix(')')?.rsplit_once(" (")?;
    (has_extension(path) && !remark.contains(['/', '(']))
        .then(|| refusal("a remark behind a path", path))
}

/// Returns the texts of a list or an object in JSON, or in the spelling of Python.
fn within_json(text: &str) -> Option<Vec<String>> {
    if !text.starts_with(['[', '{']) {
        return None;
    }
    let read = |text: &str| serde_json::from_str(text).ok();
    let texts: Vec<Value> = match read(text).or_else(|| read(&text.replace('\'', "\"")))? {
        Value::Array(items) => items,
        Value::Object(members) => members.into_iter().map(|(_, value)| value).collect(),
        _ => return None,
    };
    Some(texts.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Returns the path of `file:///a/b.rs` and of `file:src/a.rs`.
fn file_url(text: &str) -> Option<String> {
    let rest = text.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("file:"));
    let rest = rest.map(|_| &text[5..])?;
    // The host of a URL is empty or `localhost`.
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    Some(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned())
}

fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
    })
}

/// Refuses a mention, a line number, and punctuation of the sentence around a path.
fn check_decoration(path: &str) -> Result<(), Refusal> {
    if let Some(rest) = path.strip_prefix('@').filter(|rest| rest.contains(['/', '.'])) {
        let hint = format!(" (for a name that begins with @: `./{path}`)");
        return Err(Refusal::Part { what: "a mention with `@`", rest: rest.to_owned(), hint });
    }
    if let Some(rest) = path.strip_prefix("- ").or_else(|| path.strip_prefix("* ")) {
        return Err(refusal("the mark of a list", rest));
    }
    if let Some(file) = without_position(path) {
        return Err(refusal("a line number", file));
    }
    if let Some(rest) = path.strip_suffix([':', ',', ';']) {
        return Err(refusal("punctuation at the end", rest));
    }
    Ok(())
}

/// Returns the file of `src/a.rs:12`, `src/a.rs:12:5`, `src/a.rs:12-40` and `src/a.rs#L12-L40`.
fn without_position(path: &str) -> Option<&str> {
    let is_position = |text: &str| {
        let mut numbers = text.split(['-', ':']).map(|part| part.trim_start_matches('L'));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
        numbers.all(is_number)
    };
    if let Some((file, position)) = path.rsplit_once("#L")
        && is_position(position)
    {
        return Some(file);
    }
    // A message of a compiler or of grep can follow the position.
    let (file, position) = path.split_once(':').filter(|(file, _)| file.len() > 1)?;
    let position = position.split(": ").next().unwrap_or_default().trim_end_matches(':');
    is_position(position).then_some(file)
}

/// Refuses several paths in one text.
fn check_list(path: &str) -> Result<(), Refusal> {
    let lines: Vec<_> = path.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let parts: Vec<_> = path.split([',', ';', '|']).map(str::trim).collect();
    let spaced: Vec<_> = path.split(' ').filter(|part| !part.is_empty()).collect();
    let (is_file, has_folder) = (has_extension, |part: &&str| part.contains('/'));
    let has_separator = path.contains(", ") || path.contains("; ");
    let are_paths = parts.iter().all(|part| is_file(part));
    // Before a separator stands a file, or behind it a folder.
    let is_enumeration = has_separator
        && (parts[1..].iter().any(has_folder)
            || parts[..parts.len() - 1].iter().any(|part| is_file(part)));
    let are_words = spaced.len() > 1
        && is_file(spaced[0])
        && (spaced[1..].iter().any(has_folder) || spaced.iter().all(|part| is_file(part)));
    let first = if lines.len() > 1 {
        lines[0]
    } else if parts.len() > 1 && (are_paths || is_enumeration) {
        parts[0]
    } else if are_words {
        spaced[0]
    } else {
        return Ok(());
    };
    let others = if parts.len() > 1 { &parts[1..] } else { &spaced[1..] };
    let is_literal = path.starts_with("./") && !others.iter().all(|it| it.starts_with("./"));
    if is_literal && lines.len() == 1 {
        return Ok(());
    }
    Err(Refusal::Several { first: first.to_owned() })
}

/// Whether the last segment has an extension, such as `.rs`.
fn has_extension(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        (1..=8).contains(&extension.len())
            && extension.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && extension.bytes().all(|letter| letter.is_ascii_alphanumeric())
    })
}

/// Refuses what does not begin at the root of a repository.
fn check_root(path: &str) -> Result<(), Refusal> {
    let is_drive = path.as_bytes().get(1) == Some(&b':')
        && path.starts_with(|letter: char| letter.is_ascii_alphabetic());
    if path.starts_with('/') || is_drive {
        let path = if is_drive { &path[2..] } else { path };
        return Err(refusal("what comes before the root of the repository", behind_root(path)));
    }
    let first = path.split('/').next().unwrap_or_default();
    let is_variable = first.starts_with("${")
        || (first.len() > 2 && first.starts_with('%') && first.ends_with('%'))
        || first.strip_prefix('$').is_some_and(|name| {
            !name.is_empty() && name.bytes().all(|it| it.is_ascii_uppercase() || it == b'_')
        });
    if first == "~" || (first.starts_with('~') && path.contains('/')) || is_variable {
        let what = if is_variable { "a variable" } else { "a home folder" };
        let rest = path.split_once('/').map(|(_, rest)| rest).unwrap_or_default();
        let rest =
            if is_variable { rest.to_owned() } else { behind_root(&format!("/home/x/{rest}")) };
        return Err(refusal(what, rest));
    }
    if LockKey::parse(path) == Err(LockKeyError::Escapes) && path.split('/').any(|it| it == "..") {
        return Err(refusal("`..` above the root of the repository", within_root(path)));
    }
    Ok(())
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
    let known = segments.iter().skip(start).position(|segment| TOP_FOLDERS.contains(segment));
    let rest = match (known, homes) {
        (Some(known), _) => &segments[start + known..],
        (None, Some(_)) => segments.get(start + 1..).unwrap_or_default(),
        (None, None) => segments.last().map(std::slice::from_ref).unwrap_or_default(),
    };
    rest.join("/")
}

/// Returns the part behind `.claude/worktrees/<name>/`, `.worktrees/<name>/` and the like.
fn behind_worktree(segments: &[&str]) -> Option<String> {
    let folder = segments.iter().enumerate().position(|(index, segment)| {
        let is_hidden = index > 0 && segments[index - 1].starts_with('.');
        *segment == ".worktrees" || (*segment == "worktrees" && is_hidden)
    })?;
    let rest = segments.get(folder + 2..).filter(|rest| !rest.is_empty())?;
    Some(rest.join("/"))
}

/// Refuses folders, patterns, files of git itself and files of another work tree.
fn check_folders(path: &str) -> Result<(), Refusal> {
    let segments: Vec<_> = path.split('/').filter(|it| !["", "."].contains(it)).collect();
    if segments.contains(&".git") {
        return Err(Refusal::NoFile(
            "files in `.git` belong to git and need no lock; expected a file of the repository",
        ));
    }
    if let Some(rest) = behind_worktree(&segments) {
        return Err(refusal("the folder of a work tree", rest));
    }
    if is_pattern(path, &segments) {
        return Err(Refusal::NoFile(
            "a pattern locks nothing that it matches; expected the path of one file, and one call \
             for each file",
        ));
    }
    if path.ends_with('/') || path.ends_with("/.") || (segments.is_empty() && !path.is_empty()) {
        return Err(Refusal::NoFile(
            "a folder locks nothing that is in it; expected the path of one file, and one call for \
             each file",
        ));
    }
    Ok(())
}

fn is_pattern(path: &str, segments: &[&str]) -> bool {
    let has_choice = path
        .split('{')
        .skip(1)
        .any(|rest| rest.split_once('}').is_some_and(|(choice, _)| choice.contains(',')));
    path.contains(['*', '?']) || has_choice || segments.contains(&"...")
}

#[cfg(test)]
mod tests;
