//! Memories: what agents learned, stored for later sessions and other agents, and found by tag,
//! time and full text.
//!
//! Invariant: within an hour, an agent has one memory of a type and summary, however many times and
//! from however many clients at once it is stored.
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
        description: "The ten newest memories.",
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
            lines.extend(text.map(|text| format!("  {name}: {text}")));
        }
    }
    lines
}
