//! The work queue.
//!
//! The invariants of the queue: a task goes to at most one claimant an attempt, a claim is a lease
//! that ends by comparison, and nobody but the claimant of the latest attempt can finish it. What
//! time has changed (a passed deadline, a last lease that ended) holds at once, whether anybody has
//! written it down or not: see `task_status` in `work/rules.sql`.
pub mod batch;
pub mod claim;
pub mod finish;
pub(crate) mod submission;
pub mod submit;
pub mod tasks;

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
            description: "The tasks that wait, the first 20.",
            operation: "list_work",
            input: || json!({ "status": "pending", "limit": 20 }),
            lines: task_lines,
            empty: "No pending tasks.",
        })
}

fn task_lines(answer: &Value) -> Vec<String> {
    let line = |task: &Value| {
        let due = task["deadline"].as_str().map(|it| format!(", due {it}")).unwrap_or_default();
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
