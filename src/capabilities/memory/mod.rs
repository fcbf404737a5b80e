//! What agents learnt, kept for later sessions and other agents, and found again by tag, time and
//! full text.
//!
//! The invariant: within an hour, one agent has one memory of a type and a summary, however often
//! and from how many places at once it is stored.
pub(crate) mod bm25;
pub mod recall;
pub mod remember;

use serde_json::{Value, json};

use self::{recall::Recall, remember::Remember};
use crate::{
    operation::{McpResource, Operations},
    values::text::{joined, one_line, text_of},
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<Remember>().with::<Recall>().resource(McpResource {
        uri: "memories://recent",
        description: "What was learnt lately, ten memories at most.",
        operation: "recall",
        input: || json!({ "agent_id": "", "scope": "workspace", "limit": 10 }),
        lines: memory_lines,
        empty: "No memories stored yet.",
    })
}

fn memory_lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for memory in answer["memories"].as_array().into_iter().flatten() {
        lines.push(format!("{}: {}", text_of(&memory["event_type"]), text_of(&memory["summary"])));
        let outcome = memory["outcome"].as_str().map(one_line);
        for (name, text) in [
            ("Tags", joined(&memory["tags"])),
            ("Outcome", outcome),
            ("Lessons", joined(&memory["lessons"])),
        ] {
            lines.extend(text.map(|it| format!("  {name}: {it}")));
        }
    }
    lines
}
