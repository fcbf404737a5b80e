//! Untrusted text for terminals. The invariant: text that another agent wrote cannot send control
//! sequences to a terminal, nor look like a line of this program.
use std::fmt::Write as _;

/// Escapes control characters and invisible characters, but not line breaks and tabs. Colours of
/// this program are added afterwards.
pub(crate) fn escape_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => escaped.push(character),
            _ if is_unprintable(character) => escaped.extend(character.escape_unicode()),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Escapes a text that must stay on one line, so that no part of it looks like a line of its own.
pub(crate) fn escape_line(text: &str) -> String {
    escape_text(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Puts a text of several lines on one.
pub(crate) fn join_lines(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// Escapes control characters and invisible characters in JSON. They can occur in strings only,
/// where JSON allows `\u` for any character.
pub(crate) fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        if is_unprintable(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(escaped, "\\u{unit:04x}").expect("a String takes any text");
            }
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// Puts JSON on one line. Line breaks occur between its tokens only.
pub(crate) fn on_one_line(json: &str) -> String {
    json.trim().replace(['\n', '\r'], " ")
}

fn is_unprintable(character: char) -> bool {
    character.is_control() || is_invisible(character)
}

/// Whether a character changes the direction of writing, breaks a line, or has no width. The
/// variation selectors after emoji are left. The service has the same list for the texts of MCP resources; a test of the command line compares
/// the two.
pub(crate) fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        for invisible in
            ['\u{ad}', '\u{61c}', '\u{200b}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{e0041}']
        {
            let text = escape_text(&invisible.to_string());
            assert!(text.starts_with("\\u{"), "{text}");
            let json = json!({ "a": format!("{invisible}\u{85}é") });
            let text = escape_json(&json.to_string());
            assert!(!text.contains([invisible, '\u{85}']), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json);
        }
    }
}
