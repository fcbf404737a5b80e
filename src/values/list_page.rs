//! The envelope of lists: the number of elements, and whether the list was cut.
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::cursor::Order;

/// The maximum number of elements of a list, whatever limit a client asks for.
const MAX_LIMIT: i64 = 500;

/// Returns the limit of a list for requests without a limit, as
/// `#[serde(default = "default_limit::<50>")]`.
pub(crate) fn default_limit<const LIMIT: i64>() -> i64 {
    LIMIT
}

/// How much of a list an answer contains.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ListPage {
    /// Number of elements in this answer.
    pub count: usize,
    /// Whether the list has more elements than this answer.
    pub truncated: bool,
    /// How to get more elements. Absent when the answer has all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Send it as `cursor` to get the elements after these. Absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The maximum number of elements of one list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit(i64);

impl Limit {
    /// Returns the limit that applies when a client asks for `requested`.
    pub(crate) fn new(requested: i64) -> Self {
        Self(requested.clamp(0, MAX_LIMIT))
    }

    /// Returns the maximum number of elements.
    pub(crate) fn shown(self) -> i64 {
        self.0
    }

    /// Returns how many rows to query: one more than are shown, which tells whether there are more.
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
        let page = ListPage { count: rows.len(), truncated, hint, next_cursor: None };
        (rows, page)
    }

    /// Cuts rows in an order to the limit, and describes the cut with the cursor of the rest. `start` is the
    /// cursor of the request.
    pub(crate) fn cut_in_order<T: Serialize>(
        self,
        rows: Vec<T>,
        order: Order,
        start: Option<&str>,
    ) -> (Vec<T>, ListPage) {
        let (rows, mut page) = self.cut(rows);
        if let (Some(last), true) = (rows.last(), page.truncated) {
            page.next_cursor = Some(order.cursor_behind(&json!(last), rows.len(), start));
        }
        (rows, page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_more_than_the_limit_shows_that_there_are_more() {
        let limit = Limit::new(2);
        assert_eq!(limit.rows(), 3);
        let (rows, page) = limit.cut_in_order(vec![1, 2, 3], Order::ByRank, Some("4"));
        assert_eq!((rows.len(), page.count, page.truncated), (2, 2, true));
        let hint = "showing first 2; re-run with a higher limit to see more";
        assert_eq!(page.hint.as_deref(), Some(hint));
        assert_eq!(page.next_cursor.as_deref(), Some("6"));
        let (_, page) = limit.cut_in_order(vec![1, 2], Order::ByRank, None);
        assert_eq!((page.count, page.truncated, page.hint), (2, false, None));
        assert_eq!(page.next_cursor, None);
    }

    #[test]
    fn limits_are_clamped() {
        assert_eq!(Limit::new(501).rows(), 501);
        assert_eq!(Limit::new(0).rows(), 1);
        let (rows, page) = Limit::new(0).cut(vec![1]);
        assert_eq!((rows.len(), page.truncated), (0, true));
    }
}
