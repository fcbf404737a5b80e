//! What holds a path: a list or an object, a link, a label, a notation of git, an encoding, a URL.
use serde_json::Value;

use crate::{
    extension::has_extension,
    refusal::{Problem, Start},
};

/// Refuses a path within a list, an object, a link or behind a label, and one that is encoded.
pub(crate) fn check_wrapping(text: &str, start: Start) -> Result<(), Problem> {
    if let Some(mut paths) = within_json(text) {
        return Err(match paths.len() {
            0 => Problem::NoFile("a list is not a path; expected the path of one file"),
            1 => Problem::part("a list or an object around a path", paths.remove(0)),
            _ => Problem::Several { first: paths.remove(0) },
        });
    }
    let link = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(')'));
    if let Some((_, target)) = link.and_then(|link| link.split_once("](")) {
        return Err(Problem::part("a link around a path", target));
    }
    check_pathspec(text, start)?;
    check_label(text, start)?;
    let upper = text.to_ascii_uppercase();
    if upper.contains("%2F") || upper.contains("%5C") {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8_lossy();
        return Err(Problem::part("percent-encoding", decoded));
    }
    let remark = text.strip_suffix(')').and_then(|text| text.rsplit_once(" ("));
    match remark.filter(|(path, remark)| has_extension(path) && !remark.contains(['/', '('])) {
        Some((path, _)) => Err(Problem::part("a remark behind a path", path)),
        None => Ok(()),
    }
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

/// Refuses the pathspec magic of git: `:(top)src/a.rs`, `:!src/a.rs` and, where the root is not known, `:/src/a.rs`.
fn check_pathspec(text: &str, start: Start) -> Result<(), Problem> {
    const WHAT: &str = "the pathspec magic of git";
    if let Some((magic, path)) = text.strip_prefix(":(").and_then(|rest| rest.split_once(')')) {
        let is_from_top = magic.split(',').any(|word| word.trim() == "top");
        let path = if is_from_top { start.spell_from_root(path) } else { path.to_owned() };
        return Err(Problem::part(WHAT, path));
    }
    if let Some(path) = text.strip_prefix(":!").or_else(|| text.strip_prefix(":^")) {
        return Err(Problem::part(WHAT, path));
    }
    match text.strip_prefix(":/") {
        Some(path) if start == Start::Root => Err(Problem::part("the mark of the root `:/`", path)),
        _ => Ok(()),
    }
}

/// Refuses a label such as `path:` and a revision such as `HEAD:` in front of a path.
fn check_label(text: &str, start: Start) -> Result<(), Problem> {
    let Some((label, rest)) = text.split_once(':') else { return Ok(()) };
    let rest = rest.trim_start();
    if !has_extension(rest) || rest.starts_with("//") {
        return Ok(());
    }
    let is_label = ["path", "file", "file_path", "filepath", "filename"]
        .contains(&label.to_ascii_lowercase().as_str());
    let is_revision =
        label.len() > 1 && label.bytes().all(|it| it.is_ascii_uppercase() || it == b'_');
    let rest = match (is_label, is_revision) {
        (true, _) => rest.to_owned(),
        (_, true) => start.spell_from_root(rest),
        _ => return Ok(()),
    };
    Err(Problem::part("what stands before the colon", rest))
}

/// Returns the path of `file:///a/b.rs` and of `file:src/a.rs`.
pub(crate) fn file_url(text: &str) -> Option<String> {
    let rest = text.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("file:"));
    let rest = rest.map(|_| &text[5..])?;
    // The host of a URL is empty or `localhost`.
    let path = match rest.strip_prefix("//") {
        Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
        None => rest,
    };
    Some(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned())
}

/// Whether a text is a URL, such as `https://example.com/a.rs`.
pub(crate) fn has_scheme(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.len() > 1 && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')
    })
}
