//! File name extensions, by which a file is told from a word.

/// Whether the last segment has an extension, such as `.rs`.
pub(crate) fn has_extension(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').is_some_and(|(_, extension)| {
        (1..=8).contains(&extension.len())
            && extension.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && extension.bytes().all(|letter| letter.is_ascii_alphanumeric())
    })
}
