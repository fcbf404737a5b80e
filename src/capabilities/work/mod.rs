//! The work queue.
//!
//! Invariants: each attempt of a task has one claimant. A claim is a lease that expires by a
//! comparison of times. Only the claimant of the latest attempt can finish the task. What time
//! alone changes (a deadline that has passed, a last lease that has expired) takes effect at once,
//! before any row says so: see `task_status` in `work/rules.sql`.
pub mod batch;
pub mod claim;
pub mod claimed;
pub mod finish;
pub(crate) mod submission;
pub mod submit;
pub mod tasks;
pub mod unavailable;

use serde_json::{Value, json};

use self::{
    batch::{CompleteBatch, SubmitBatch},
    claim::GetWork,
    finish::{CancelWork, CompleteWork, RenewWork},
    submit::SubmitWork,
    tasks::{GetTask, ListWork},
};
use crate::{
    operation::{McpResource, Operations},
    values::text::text_of,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations
        .with::<SubmitWork>()
        .with::<SubmitBatch>()
        .with::<GetWork>()
        .with::<RenewWork>()
        .with::<CompleteWork>()
        .with::<CompleteBatch>()
        .with::<CancelWork>()
        .with::<GetTask>()
        .with::<ListWork>()
        .resource(McpResource {
            uri: "work://pending",
            description: "The first 20 pending tasks.",
            operation: "list_work",
            input: || json!({ "status": "pending", "limit": 20 }),
            lines: task_lines,
            empty: "No pending tasks.",
        })
}

fn task_lines(answer: &Value) -> Vec<String> {
    let line = |task: &Value| {
        let due = task["deadline"].as_str().map(|time| format!(", due {time}")).unwrap_or_default();
        format!(
            "[{}] {} {}: {}{due}",
            task["priority"],
            text_of(&task["id"]),
            text_of(&task["task_type"]),
            text_of(&task["description"]),
        )
    };
    answer["tasks"].as_array().into_iter().flatten().map(line).collect()
}
