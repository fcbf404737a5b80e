//! What a text means before any file is looked at: a lock key with a namespace, a path, or
//! something around a path that an editor, a model or a compiler has put there.

/// Whether a lock key has a namespace, such as `db:schema:users`, and so is not a file. The service
/// has the same rule; a test of the command line compares the two.
pub(crate) fn has_namespace(key: &str) -> bool {
    let Some((namespace, rest)) = key.split_once(':') else { return false };
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-')
    };
    namespace.len() > 1
        && namespace.starts_with(|letter: char| letter.is_ascii_lowercase())
        && namespace.bytes().all(is_allowed)
        && !rest.is_empty()
}

/// Whether a text is the URL of a file.
pub(super) fn is_file_url(text: &str) -> bool {
    text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("file://"))
}

/// Returns the path in front of a line number, as in `src/a.rs:12` and `src/a.rs:12:5`.
pub(super) fn before_line_number(text: &str) -> Option<&str> {
    let bare = text.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == ':');
    let number = text[bare.len()..].strip_prefix(':')?;
    (!bare.is_empty() && number.starts_with(|letter: char| letter.is_ascii_digit())).then_some(bare)
}

/// Returns the path that a text was probably meant to be, if it is written in a way in which no
/// file is usually named: in quotes, with `@` in front, with a line number, as a URL, as a list.
pub(super) fn probable_path(text: &str) -> Option<String> {
    let mut path = text.trim();
    loop {
        let next = without_surroundings(path);
        if next == path {
            break;
        }
        path = next;
    }
    let separator = if cfg!(windows) { "/" } else { "\\" };
    let path = match path.starts_with(r"\\") {
        true => path.to_owned(),
        false => path.replace(separator, "/"),
    };
    (path != text && !path.is_empty()).then_some(path)
}

/// Returns a text without the outermost thing that does not belong to a path.
fn without_surroundings(text: &str) -> &str {
    for (open, close) in [('"', '"'), ('\'', '\''), ('`', '`'), ('<', '>')] {
        let inner = text.strip_prefix(open).and_then(|text| text.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
            return inner.trim();
        }
    }
    if is_file_url(text) {
        return text[7..].strip_prefix("localhost").unwrap_or(&text[7..]);
    }
    if let Some((first, _)) = text.split_once(", ") {
        return first.trim();
    }
    if let Some(path) = text.strip_prefix('@').filter(|path| !path.is_empty()) {
        return path;
    }
    before_line_number(text).or(text.strip_suffix(',')).unwrap_or(text)
}

/// Whether a text is a pattern for several files, such as `src/**`.
pub(super) fn is_pattern(text: &str) -> bool {
    let has_choice = || {
        let inner = text.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        inner.is_some_and(|(inner, _)| inner.contains(','))
    };
    text.contains(['*', '?']) || has_choice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_inside_of_other_things_is_found() {
        for (text, path) in [
            ("\"src/a.rs\"", Some("src/a.rs")),
            ("`src/a.rs`", Some("src/a.rs")),
            ("'@src/a.rs'", Some("src/a.rs")),
            ("@src/a.rs:12", Some("src/a.rs")),
            ("src/a.rs:12:5", Some("src/a.rs")),
            ("src/a.rs:12:", Some("src/a.rs")),
            ("file:///home/me/a.rs", Some("/home/me/a.rs")),
            ("FILE://localhost/a.rs", Some("/a.rs")),
            ("src/a.rs, src/b.rs", Some("src/a.rs")),
            (" src/a.rs ", Some("src/a.rs")),
            ("src/a.rs,", Some("src/a.rs")),
            ("src/a.rs", None),
            ("pages/[id].tsx", None),
            ("a,b.csv", None),
            ("Größe.md", None),
            ("@", None),
            ("\"\"", None),
            (":12", None),
            ("", None),
        ] {
            assert_eq!(probable_path(text).as_deref(), path, "{text}");
        }
        #[cfg(not(windows))]
        assert_eq!(probable_path(r"src\a.rs").as_deref(), Some("src/a.rs"));
    }

    #[test]
    fn brackets_are_names_and_stars_are_patterns() {
        for (text, expected) in [
            ("src/**", true),
            ("*.rs", true),
            ("src/{a,b}.rs", true),
            ("pages/[id].tsx", false),
            ("{id}.tsx", false),
            ("(group)/page.tsx", false),
        ] {
            assert_eq!(is_pattern(text), expected, "{text}");
        }
    }
}
