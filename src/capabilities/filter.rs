//! Filters of lists, as clients send them.

/// Returns a filter that restricts a list. An empty text restricts nothing, as if it were absent.
pub(super) fn non_empty(filter: Option<String>) -> Option<String> {
    filter.filter(|text| !text.is_empty())
}
