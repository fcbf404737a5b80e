//! Optional texts, as clients send them: filters of lists, keys, tokens.

/// Returns a text that has an effect. An empty text has none, as if it were absent: many clients send one
/// for each member that they do not use.
pub(super) fn non_empty<Text: AsRef<str>>(text: Option<Text>) -> Option<Text> {
    text.filter(|text| !text.as_ref().is_empty())
}

/// Returns a text with a visible character. A name that nobody can read is as good as none.
pub(super) fn non_blank<Text: AsRef<str>>(text: Option<Text>) -> Option<Text> {
    text.filter(|text| !text.as_ref().trim().is_empty())
}
