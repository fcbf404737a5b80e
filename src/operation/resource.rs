//! MCP resources: answers of operations, as text for people and models.
use serde_json::Value;

/// Something that clients read over MCP.
#[derive(Clone, Copy, Debug)]
pub struct McpResource {
    /// Its URI.
    pub uri: &'static str,
    /// What it contains, in a few words.
    pub description: &'static str,
    /// The [`Meta::id`](super::Meta::id) of the operation that answers. Reading is authorized as that
    /// operation.
    pub operation: &'static str,
    /// Returns the input of the operation.
    pub input: fn() -> Value,
    /// Returns the lines for an answer, or none where it is empty.
    pub lines: fn(&Value) -> Vec<String>,
    /// The text for an empty answer.
    pub empty: &'static str,
}
