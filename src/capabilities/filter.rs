//! Filters of lists, as clients send them.

/// Returns a filter that restricts a list. An empty text restricts nothing, as if it were absent.
pub(super) fn non_empty<Text: AsRef<str>>(filter: Option<Text>) -> Option<Text> {
    filter.filter(|text| !text.as_ref().is_empty())
}
