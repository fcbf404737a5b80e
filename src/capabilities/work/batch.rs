//! Batches: many tasks in one request.
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    finish::{Completed, Completion, Report},
    submission,
    submit::NewTask,
};
use crate::{
    access::IdentityMode,
    operation::{Context, Meta, Operation, Transition as _},
    values::{Error, Issue, Result, issue::value_error},
};

/// Hand over a whole plan at once: up to 500 tasks, which may depend on one another. Either all of them are
/// in the queue afterwards or none is.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SubmitBatch {
    /// The tasks, 1 to 500, each as in a submission of one.
    #[schemars(length(min = 1, max = 500))]
    pub tasks: Vec<BatchTask>,
}

/// A task of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct BatchTask {
    /// Name of the task within the batch: a later task depends on it by `ref:<name>`.
    #[serde(rename = "ref")]
    #[schemars(extend("x-max-bytes" = 64))]
    pub reference: Option<String>,
    /// The task; a member of `depends_on` is the id of a task or `ref:<name>`.
    #[serde(flatten)]
    pub task: NewTask<Dependency>,
}

/// A task that another one of a batch depends on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("format" = "task-reference"))]
pub struct Dependency(String);

/// What became of a batch.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SubmittedBatch {
    /// Whether all tasks are in the queue.
    pub success: bool,
    /// `batch_refused` when a task was refused: then none is stored.
    pub reason: Option<&'static str>,
    /// What became of each task, in order.
    pub results: Vec<SubmittedTask>,
}

/// What became of one task of a batch.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct SubmittedTask {
    /// Name of the task within the batch.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Id of the task; null when the batch was refused.
    pub task_id: Option<Uuid>,
    /// Whether the task is in the queue.
    pub success: bool,
    /// Whether a live task had this `unique_key` already.
    pub deduplicated: bool,
    /// Why the task was refused: `destructive_operation_blocked: <names>`, `unknown_dependency`,
    /// `not_replaceable`, `deadline_past`, or `batch_refused` when another one was.
    pub reason: Option<String>,
}

impl Operation for SubmitBatch {
    type Output = SubmittedBatch;
    const META: Meta = Meta::write("submit_work")
        .id("submit_work_batch")
        .at(&["POST /work/submit-batch"])
        .identity(IdentityMode::Soft)
        .recorded_as("submit_task_batch");

    fn example() -> Value {
        json!({ "tasks": [
            { "ref": "build", "task_type": "build", "task_description": "build the release" },
            {
                "ref": "test",
                "task_type": "test",
                "task_description": "run the suite",
                "depends_on": ["ref:build"],
            },
        ] })
    }

    fn took_effect(answer: &SubmittedBatch) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<SubmittedBatch> {
        self.check()?;
        let mut submissions = Vec::new();
        for it in &self.tasks {
            submissions.push(Arc::new(it.task.submission(&mut cx).await?));
        }
        let references: Vec<_> = self.tasks.iter().map(|it| it.reference.clone()).collect();
        let rows = submission::run_batch(&submissions, &references, cx.db).await?;
        let success = rows.iter().all(|it| it.is_stored);
        let results = rows.into_iter().zip(references).map(|(row, reference)| SubmittedTask {
            reference,
            task_id: row.task_id,
            success: row.is_stored,
            deduplicated: row.verdict == "deduplicated",
            reason: row.reason,
        });
        let reason = (!success).then_some("batch_refused");
        Ok(SubmittedBatch { success, reason, results: results.collect() })
    }
}

impl SubmitBatch {
    /// What the schema does not say.
    fn check(&self) -> Result<()> {
        let mut issues = Vec::new();
        for (n, BatchTask { task, .. }) in self.tasks.iter().enumerate() {
            if task.ends_before_it_begins() {
                let loc = [json!("body"), json!("tasks"), json!(n), json!("deadline")];
                let text = "expected a time after not_before";
                issues.push(Issue::new(value_error(text), &loc, &json!(task.deadline)));
            }
        }
        if issues.is_empty() { Ok(()) } else { Err(Error::Invalid(issues)) }
    }
}

/// Report many claimed tasks at once. Each report is taken or refused by itself.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CompleteBatch {
    /// The reports, 1 to 100.
    #[schemars(length(min = 1, max = 100))]
    pub completions: Vec<Report>,
}

/// What became of the reports.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletedBatch {
    /// True: what became of each report stands in `results`.
    pub success: bool,
    /// One result for each report, in the same order.
    pub results: Vec<Completed>,
}

impl Operation for CompleteBatch {
    type Output = CompletedBatch;
    const META: Meta = Meta::write("complete_work")
        .id("complete_work_batch")
        .at(&["POST /work/complete-batch"])
        .identity(IdentityMode::StrictId)
        .recorded_as("complete_task");

    fn example() -> Value {
        json!({
            "agent_id": "claude-1",
            "completions": [{
                "task_id": "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1",
                "success": true,
                "result": { "passed": 212 },
            }],
        })
    }

    fn took_effect(answer: &CompletedBatch) -> bool {
        answer.results.iter().any(|it| it.success)
    }

    async fn run(self, mut cx: Context<'_>) -> Result<CompletedBatch> {
        let mut completions = Vec::new();
        for report in self.completions {
            completions.push(Arc::new(report.completion(&mut cx).await?));
        }
        // In the order of their ids, so that two batches cannot wait for each other.
        let mut order: Vec<_> = (0..completions.len()).collect();
        order.sort_by_cached_key(|n| completions[*n].lock_order());
        let sorted: Vec<_> = order.iter().map(|n| completions[*n].clone()).collect();
        let rows = match Completion::run_all(&sorted, cx.db).await {
            // A row was held for too long, and nothing was done: each report then waits by itself.
            Err(error) if error.is_of_statement() && !cx.db.is_in_transaction() => {
                let mut rows = Vec::new();
                for completion in &sorted {
                    rows.push(completion.run(cx.db).await?);
                }
                rows
            }
            rows => rows?,
        };
        let mut results: Vec<_> = order.into_iter().zip(rows).collect();
        results.sort_by_key(|(n, _)| *n);
        let results = results.into_iter().map(|(_, completed)| completed).collect();
        Ok(CompletedBatch { success: true, results })
    }
}
