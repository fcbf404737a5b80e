//! The envelope of lists: how many, and whether that is all.
use schemars::JsonSchema;
use serde::Serialize;

/// The maximum number of members of a list, whatever limit a client asks for.
const MAX_LIMIT: i64 = 500;

/// Returns the limit of a list for requests without a limit, as
/// `#[serde(default = "default_limit::<50>")]`.
pub(crate) fn default_limit<const LIMIT: i64>() -> i64 {
    LIMIT
}

/// How much of a list is returned.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListPage {
    /// How many members are returned.
    pub count: usize,
    /// Whether there are more.
    pub truncated: bool,
    /// How to see more; only when there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How many members a list may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(i64);

impl Limit {
    /// Returns the limit that applies when a client asks for `requested`.
    pub(crate) fn new(requested: i64) -> Self {
        Self(requested.clamp(0, MAX_LIMIT))
    }

    /// How many members are shown at most.
    pub(crate) fn shown(self) -> i64 {
        self.0
    }

    /// How many rows to ask the database for: one more than are shown tells whether there are more.
    pub(crate) fn rows(self) -> i64 {
        self.0 + 1
    }

    /// Cuts rows to the limit and describes the cut.
    pub(crate) fn cut<T>(self, mut rows: Vec<T>) -> (Vec<T>, ListPage) {
        let limit = usize::try_from(self.0).unwrap_or_default();
        let truncated = rows.len() > limit;
        rows.truncate(limit);
        let hint = truncated
            .then(|| format!("showing first {limit}; re-run with a higher limit to see more"));
        let page = ListPage { count: rows.len(), truncated, hint };
        (rows, page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_more_than_the_limit_tells_of_more() {
        let limit = Limit::new(2);
        assert_eq!(limit.rows(), 3);
        let (rows, page) = limit.cut(vec![1, 2, 3]);
        assert_eq!((rows.len(), page.count, page.truncated), (2, 2, true));
        let hint = "showing first 2; re-run with a higher limit to see more";
        assert_eq!(page.hint.as_deref(), Some(hint));
        let (_, page) = limit.cut(vec![1, 2]);
        assert_eq!((page.count, page.truncated, page.hint), (2, false, None));
    }

    #[test]
    fn limits_are_clamped() {
        assert_eq!(Limit::new(501).rows(), 501);
        assert_eq!(Limit::new(0).rows(), 1);
        let (rows, page) = Limit::new(0).cut(vec![1]);
        assert_eq!((rows.len(), page.truncated), (0, true));
    }
}
