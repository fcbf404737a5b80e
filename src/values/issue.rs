//! Problems of an input, as the `detail` of a 422 lists them: `docs/api-design.md#validation`.
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::json::cut;

/// One problem of an input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Issue {
    /// Stable name of the kind of problem, such as `missing`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path to the value: `body`, `query`, `path` or `header`, then member names and indices.
    pub loc: Vec<Value>,
    /// The problem in words, for people.
    pub msg: String,
    /// The offending value. For `missing`, the object that lacks the member.
    pub input: Value,
}

/// The kind of a problem and its text.
pub(crate) type Problem = (&'static str, String);

impl Issue {
    /// Creates an issue. Long strings of the offending value are cut.
    pub(crate) fn new((kind, msg): Problem, loc: &[Value], input: &Value) -> Self {
        Self { kind, loc: loc.to_vec(), msg, input: cut(input) }
    }
}

/// Returns a `value_error`: the kind of every problem that has no kind of its own.
pub(crate) fn value_error(text: impl fmt::Display) -> Problem {
    ("value_error", format!("Value error, {text}"))
}

/// Returns the problem of a member that is required and absent.
pub(crate) fn missing() -> Problem {
    ("missing", "Field required".to_owned())
}
