//! Guardrails: patterns that recognise destructive operations before an agent runs them.
//!
//! Invariant: a scan that fails is an error. It never counts as "safe".
mod check;
mod list;
mod pattern_set;
mod patterns;
mod scan;

use serde_json::{Value, json};

use crate::{
    operation::{McpResource, Operations},
    values::text::text_of,
};

pub(crate) use check::CheckRecord;
pub use check::{CheckGuardrails, Checked};
pub use list::{ListGuardrails, PatternList};
pub(crate) use pattern_set::{PatternCache, all_compile, built_in_scan, current_version};
pub use patterns::{Finding, Pattern, Span};
pub(crate) use scan::{Scan, result_text, scan_all, task_text};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<CheckGuardrails>().with::<ListGuardrails>().resource(McpResource {
        uri: "guardrails://patterns",
        description: "The patterns of check_guardrails.",
        operation: "list_guardrails",
        input: || json!({ "limit": 500 }),
        lines: pattern_lines,
        empty: "No guardrail patterns configured.",
    })
}

fn pattern_lines(answer: &Value) -> Vec<String> {
    let patterns: Vec<_> = answer["patterns"].as_array().into_iter().flatten().collect();
    let mut categories: Vec<&Value> = Vec::new();
    for pattern in &patterns {
        if !categories.contains(&&pattern["category"]) {
            categories.push(&pattern["category"]);
        }
    }
    let mut lines = Vec::new();
    for category in categories {
        lines.push(format!("{}:", text_of(category)));
        for pattern in patterns.iter().filter(|pattern| pattern["category"] == *category) {
            lines.push(format!(
                "  {} ({}, counts below trust {})",
                text_of(&pattern["name"]),
                text_of(&pattern["severity"]),
                pattern["min_trust_level"],
            ));
        }
    }
    lines
}
