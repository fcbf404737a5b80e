//! Untrusted text on one line, for clients that show it to people and models.
use serde_json::Value;

/// Returns the text of a member of an answer, on one line.
pub(crate) fn text_of(value: &Value) -> String {
    one_line(value.as_str().unwrap_or_default())
}

/// Escapes control characters and invisible characters, so that a text can neither hide a part of itself
/// nor imitate another line.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

/// Whether a character is a control character, changes the direction of text, or has no width. The variation
/// selectors after emoji are left.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Joins the elements of a list into one line. Returns `None` for an empty list.
pub(crate) fn joined(value: &Value) -> Option<String> {
    let text = |element: &Value| match element.as_str() {
        Some(text) => one_line(text),
        None => one_line(&element.to_string()),
    };
    let elements: Vec<_> = value.as_array().into_iter().flatten().map(text).collect();
    (!elements.is_empty()).then(|| elements.join("; "))
}
