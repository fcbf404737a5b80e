//! Several paths in one text.
use crate::{extension::has_extension, refusal::Problem};

/// Refuses several paths in one text.
pub(crate) fn check_list(path: &str) -> Result<(), Problem> {
    let lines: Vec<_> = path.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let parts: Vec<_> = path.split([',', ';', '|']).map(str::trim).collect();
    let spaced: Vec<_> = path.split(' ').filter(|part| !part.is_empty()).collect();
    let first = if lines.len() > 1 {
        lines[0]
    } else if parts.len() > 1 && are_separated(path, &parts) {
        parts[0]
    } else if are_words(&spaced) {
        spaced[0]
    } else {
        return Ok(());
    };
    let others = if parts.len() > 1 { &parts[1..] } else { &spaced[1..] };
    let is_literal = path.starts_with("./") && !others.iter().all(|it| it.starts_with("./"));
    if is_literal && lines.len() == 1 {
        return Ok(());
    }
    Err(Problem::Several { first: first.to_owned() })
}

/// Whether parts that are separated by commas, semicolons or bars are paths.
fn are_separated(path: &str, parts: &[&str]) -> bool {
    let has_separator = path.contains(", ") || path.contains("; ");
    let are_files = parts.iter().all(|part| has_extension(part));
    // Before a separator stands a file, or behind it a folder.
    let is_enumeration = has_separator
        && (parts[1..].iter().any(|part| part.contains('/'))
            || parts[..parts.len() - 1].iter().any(|part| has_extension(part)));
    are_files || is_enumeration
}

/// Whether parts that are separated by spaces are paths.
fn are_words(parts: &[&str]) -> bool {
    parts.len() > 1
        && has_extension(parts[0])
        && (parts[1..].iter().any(|part| part.contains('/'))
            || parts.iter().all(|part| has_extension(part)))
}
