//! Positions in lists, with which a call continues the answer of an earlier one.
//!
//! A cursor has the values by which a list is ordered, of the last entry that was shown. So entries that are
//! added or removed in between neither repeat nor hide others.
use std::{borrow::Cow, collections::HashMap, str::FromStr};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    error::{Error, Result},
    issue::{Issue, value_error},
};

/// Separates the values of a cursor.
const SEPARATOR: char = '~';

/// What is escaped within a value. A plus that is not escaped means a space in a URL.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'~').add(b'%').add(b'+');

/// How a list is ordered, which determines its cursors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// By these members of its entries, which are different for any two of them.
    By(&'static [&'static str]),
    /// By a rank that entries do not have: a cursor is the number of entries before it.
    ByRank,
}

impl Order {
    /// Returns the cursor behind entries that were shown from the cursor `start` on. Behind none: `start`.
    pub(crate) fn cursor(self, shown: &[Value], start: Option<&str>) -> Option<String> {
        match shown.last() {
            Some(last) => Some(self.cursor_behind(last, shown.len(), start)),
            None => start.map(str::to_owned),
        }
    }

    /// Returns the cursor behind the last one of `count` entries. Of its members, only those of the order are
    /// parsed.
    pub(super) fn cursor_behind_entry<T: Serialize>(
        self,
        last: &T,
        count: usize,
        start: Option<&str>,
    ) -> String {
        let text = serde_json::to_string(last).unwrap_or_default();
        let raw: HashMap<String, &RawValue> = match self {
            Self::By(_) => serde_json::from_str(&text).unwrap_or_default(),
            Self::ByRank => HashMap::new(),
        };
        let member = |name: &&str| {
            let value = raw.get(*name).and_then(|raw| serde_json::from_str(raw.get()).ok());
            ((*name).to_owned(), value.unwrap_or(Value::Null))
        };
        let members: Map<_, _> = match self {
            Self::By(names) => names.iter().map(member).collect(),
            Self::ByRank => Map::new(),
        };
        self.cursor_behind(&members.into(), count, start)
    }

    /// Returns the cursor behind the last one of `count` entries.
    fn cursor_behind(self, last: &Value, count: usize, start: Option<&str>) -> String {
        match self {
            Self::By(members) => {
                let values = members.iter().map(|member| match &last[member] {
                    Value::String(text) => escaped(text),
                    value => value.to_string(),
                });
                values.collect::<Vec<_>>().join(&SEPARATOR.to_string())
            }
            Self::ByRank => {
                let before: usize = start.and_then(|start| start.parse().ok()).unwrap_or_default();
                (before + count).to_string()
            }
        }
    }
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// The values of a cursor, in order.
pub(crate) struct Values<'a>(std::str::Split<'a, char>);

impl Values<'_> {
    /// Returns the next value, if it is of this type.
    pub(crate) fn next<T: FromStr>(&mut self) -> Option<T> {
        let text: Cow<'_, str> = percent_decode_str(self.0.next()?).decode_utf8().ok()?;
        // The database cannot store NUL.
        text.parse().ok().filter(|_| !text.contains('\0'))
    }
}

/// Reads the cursor of a request. An empty one counts as absent.
///
/// # Errors
/// [`Error::Invalid`] for a text that no answer has had as a cursor.
pub(crate) fn read_cursor<T>(
    cursor: Option<&str>,
    read: impl Fn(&mut Values<'_>) -> Option<T>,
) -> Result<Option<T>> {
    let Some(text) = cursor.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let mut values = Values(text.trim().split(SEPARATOR));
    match read(&mut values) {
        Some(position) if values.0.next().is_none() => Ok(Some(position)),
        _ => {
            let problem = value_error("expected the next_cursor of an earlier answer");
            // The door knows in which part of the request it was.
            let loc = [json!("body"), json!("cursor")];
            Err(Error::Invalid(vec![Issue::new(problem, &loc, &json!(text))]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Position = (i16, String);

    fn read(cursor: &str) -> Result<Option<Position>> {
        read_cursor(Some(cursor), |values| Some((values.next()?, values.next()?)))
    }

    #[test]
    fn a_cursor_has_the_values_of_the_last_entry() {
        let entries = [json!({ "n": 1, "id": "a" }), json!({ "n": -2, "id": "b~100%~ü" })];
        let order = Order::By(&["n", "id"]);
        let cursor = order.cursor(&entries, None).expect("a cursor");
        let position = read(&cursor).expect("valid");
        assert_eq!(position, Some((-2, "b~100%~ü".to_owned())), "{cursor}");
        assert_eq!(order.cursor(&entries[..1], None).as_deref(), Some("1~a"));
        assert_eq!(order.cursor(&[], Some("1~a")).as_deref(), Some("1~a"));
        assert_eq!(order.cursor(&[], None), None);
    }

    #[test]
    fn the_cursor_of_a_ranked_list_counts() {
        let entries = [json!({}), json!({})];
        assert_eq!(Order::ByRank.cursor(&entries, None).as_deref(), Some("2"));
        assert_eq!(Order::ByRank.cursor(&entries, Some("5")).as_deref(), Some("7"));
    }

    #[test]
    fn other_texts_are_refused_and_blank_ones_are_absent() {
        assert!(matches!(read(" "), Ok(None)));
        for text in ["1", "x~a", "1~a~b", "1~%ff", "1~%00"] {
            assert!(matches!(read(text), Err(Error::Invalid(_))), "{text}");
        }
    }
}
