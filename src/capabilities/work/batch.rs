//! Batches: several tasks in one request.
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
    operation::{Context, Meta, Operation, Transition as _, is_quota_refusal},
    values::{Error, Result},
};

/// Submit a whole plan at once: up to 500 tasks, which can depend on one another. Either all of
/// them are stored, or none.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SubmitBatch {
    /// The tasks, 1 to 500, each with the members of a single submission.
    #[schemars(length(min = 1, max = 500))]
    pub tasks: Vec<BatchTask>,
}

/// A task of a batch.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct BatchTask {
    /// Name of the task within the batch. Later tasks can depend on it as `ref:<name>`. Absent: no
    /// name.
    #[serde(rename = "ref")]
    #[schemars(extend("x-max-bytes" = 64))]
    pub reference: Option<String>,
    /// The task. An element of `depends_on` is the id of a task or `ref:<name>`.
    #[serde(flatten)]
    pub task: NewTask<Dependency>,
}

/// A task that another task of a batch depends on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("format" = "task-reference"))]
pub struct Dependency(String);

/// The outcome of a batch of submissions.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SubmittedBatch {
    /// Whether all tasks are in the queue.
    pub success: bool,
    /// `batch_refused` if a task was refused; then no task is stored.
    pub reason: Option<&'static str>,
    /// One result for each task, in the order of the request.
    pub results: Vec<SubmittedTask>,
}

/// The outcome of one submission of a batch.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct SubmittedTask {
    /// Name of the task within the batch. Null if it has none.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Id of the task. Null when the batch was refused.
    pub task_id: Option<Uuid>,
    /// Whether the task is in the queue.
    pub success: bool,
    /// Whether an unfinished task with this `unique_key` existed already.
    pub deduplicated: bool,
    /// Why the task was refused: `destructive_operation_blocked: <names>`,
    /// `quota_exceeded: <what you or the workspace have too much of>`, `unknown_dependency`,
    /// `not_replaceable`, `deadline_past`, or `batch_refused` if another task was refused.
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
        for member in &self.tasks {
            submissions.push(Arc::new(member.task.submission(&mut cx).await?));
        }
        let references: Vec<_> = self.tasks.iter().map(|member| member.reference.clone()).collect();
        let rows = submission::run_batch(&submissions, &references, cx.db).await?;
        if let Some(row) = rows.iter().find(|row| is_quota_refusal(&row.verdict)) {
            cx.count_refusal(&row.verdict);
        }
        let is_stored = rows.iter().all(|row| row.is_stored);
        let results = rows.into_iter().zip(references).map(|(row, reference)| SubmittedTask {
            reference,
            task_id: row.task_id,
            success: row.is_stored,
            deduplicated: row.verdict == "deduplicated",
            reason: row.reason,
        });
        let reason = (!is_stored).then_some("batch_refused");
        Ok(SubmittedBatch { success: is_stored, reason, results: results.collect() })
    }
}

impl SubmitBatch {
    /// Checks what the schema cannot express.
    fn check(&self) -> Result<()> {
        let tasks = self.tasks.iter().enumerate();
        let issues = tasks.flat_map(|(n, BatchTask { task, .. })| {
            task.issues(&[json!("body"), json!("tasks"), json!(n)])
        });
        let issues: Vec<_> = issues.collect();
        if issues.is_empty() { Ok(()) } else { Err(Error::Invalid(issues)) }
    }
}

/// Report the results of up to 100 claimed tasks at once. Each report is accepted or refused on its
/// own.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CompleteBatch {
    /// The reports, 1 to 100.
    #[schemars(length(min = 1, max = 100))]
    pub completions: Vec<Report>,
}

/// The outcome of a batch of reports.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompletedBatch {
    /// Always true; `results` has the outcome of each report.
    pub success: bool,
    /// One result for each report, in the order of the request.
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
        answer.results.iter().any(|result| result.success)
    }

    async fn run(self, mut cx: Context<'_>) -> Result<CompletedBatch> {
        let mut completions = Vec::new();
        for report in self.completions {
            completions.push(Arc::new(report.completion(&mut cx).await?));
        }
        // In the order of their task ids, so that two batches cannot deadlock.
        let mut order: Vec<_> = (0..completions.len()).collect();
        order.sort_by_cached_key(|n| completions[*n].lock_order());
        let sorted: Vec<_> = order.iter().map(|n| completions[*n].clone()).collect();
        let rows = match Completion::call_all(&sorted, cx.db).await {
            // The statement failed without effect, because another transaction held one of the rows
            // for too long. Each report then waits on its own.
            Err(error) if error.is_statement_error() && !cx.db.is_in_transaction() => {
                let mut rows = Vec::new();
                for completion in &sorted {
                    rows.push(completion.call(cx.db).await?);
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
