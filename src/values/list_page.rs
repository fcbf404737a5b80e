//! The envelope of lists: the number of elements, and whether the list was cut.
use schemars::JsonSchema;
use serde::Serialize;

use super::cursor::Order;

/// The maximum number of elements of a list, whatever limit a client asks for.
const MAX_LIMIT: i64 = 500;

/// The maximum number of bytes of a list that is whole in memory. Lists of the database end by the function
/// `is_on_page`.
const MAX_PAGE_BYTES: usize = 1 << 20;

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

/// An entry of a list that the database ends where it gets too large.
pub(crate) trait Entry: Serialize {
    /// Whether the list has entries after this one.
    fn has_more(&self) -> bool;
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

    /// Cuts a list that is whole to the limit and to the bytes of a page, and describes the cut.
    pub(crate) fn cut<T: Serialize>(self, mut rows: Vec<T>) -> (Vec<T>, ListPage) {
        let all = rows.len();
        let mut bytes = 0;
        let fitting = rows.iter().take_while(|row| {
            bytes += serde_json::to_string(row).map_or(0, |text| text.len());
            bytes <= MAX_PAGE_BYTES
        });
        let fitting = fitting.count().max(1);
        rows.truncate(fitting.min(self.most()));
        let page = self.page(rows.len(), rows.len() < all, None);
        (rows, page)
    }

    /// Cuts a page of rows in an order, which the database has ended where it got too large, to the limit, and
    /// describes the cut with the cursor of the rest. `start` is the cursor of the request.
    pub(crate) fn cut_in_order<T: Entry>(
        self,
        mut rows: Vec<T>,
        order: Order,
        start: Option<&str>,
    ) -> (Vec<T>, ListPage) {
        let is_cut = rows.len() > self.most() || rows.last().is_some_and(T::has_more);
        rows.truncate(self.most());
        let last = rows.last().filter(|_| is_cut);
        let cursor = last.map(|last| order.cursor_behind_entry(last, rows.len(), start));
        let page = self.page(rows.len(), is_cut, cursor);
        (rows, page)
    }

    fn most(self) -> usize {
        usize::try_from(self.0).unwrap_or_default()
    }

    /// Describes a page with this many rows. The first sentence of a hint is the same where only the limit has
    /// cut: existing clients know it.
    fn page(self, count: usize, truncated: bool, next_cursor: Option<String>) -> ListPage {
        let limit = self.0;
        let next = match next_cursor {
            Some(_) => "repeat the request with next_cursor as cursor for those that follow",
            None => "narrow the request to see more",
        };
        let hint = truncated.then(|| match (count < self.most(), &next_cursor) {
            (true, _) => format!("showing first {count}, because a page has at most 1 MiB; {next}"),
            (false, Some(_)) => {
                format!("showing first {limit}; re-run with a higher limit to see more; or {next}")
            }
            (false, None) => {
                format!("showing first {limit}; re-run with a higher limit to see more")
            }
        });
        ListPage { count, truncated, hint, next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize)]
    struct Row(i32, #[serde(skip)] bool);

    impl Entry for Row {
        fn has_more(&self) -> bool {
            self.1
        }
    }

    fn rows(count: i32) -> Vec<Row> {
        (0..count).map(|n| Row(n, false)).collect()
    }

    #[test]
    fn one_row_more_than_the_limit_shows_that_there_are_more() {
        let limit = Limit::new(2);
        assert_eq!(limit.rows(), 3);
        let (shown, page) = limit.cut_in_order(rows(3), Order::ByRank, Some("4"));
        assert_eq!((shown.len(), page.count, page.truncated), (2, 2, true));
        let hint = "showing first 2; re-run with a higher limit to see more; or repeat the request with \
            next_cursor as cursor for those that follow";
        assert_eq!(page.hint.as_deref(), Some(hint));
        assert_eq!(page.next_cursor.as_deref(), Some("6"));
        let (_, page) = limit.cut_in_order(rows(2), Order::ByRank, None);
        assert_eq!((page.count, page.truncated, page.hint), (2, false, None));
        assert_eq!(page.next_cursor, None);
    }

    #[test]
    fn a_page_that_its_size_has_ended_says_so() {
        let limit = Limit::new(5);
        let page_of = |row| limit.cut_in_order(vec![row], Order::ByRank, None).1;
        let page = page_of(Row(0, true));
        let hint = "showing first 1, because a page has at most 1 MiB; repeat the request with next_cursor \
            as cursor for those that follow";
        assert_eq!((page.count, page.truncated, page.hint.as_deref()), (1, true, Some(hint)));
        assert_eq!(page.next_cursor.as_deref(), Some("1"));
        assert!(!page_of(Row(0, false)).truncated);
        let large = vec!["x".repeat(MAX_PAGE_BYTES / 2); 3];
        let (shown, page) = limit.cut(large);
        let hint =
            "showing first 1, because a page has at most 1 MiB; narrow the request to see more";
        assert_eq!((shown.len(), page.hint.as_deref()), (1, Some(hint)));
    }

    #[test]
    fn limits_are_clamped() {
        assert_eq!(Limit::new(501).rows(), 501);
        assert_eq!(Limit::new(0).rows(), 1);
        let (rows, page) = Limit::new(0).cut(vec![1]);
        assert_eq!((rows.len(), page.truncated), (0, true));
    }
}
