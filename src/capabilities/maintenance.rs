//! Cleaning up what has expired. Correctness does not depend on it, because every statement
//! compares times itself. The server cleans up every 30 s, in every workspace. Where no server
//! runs, a scheduled job can call the operation.
//!
//! Invariant: one statement changes a bounded number of rows, so that none exceeds the time limit of
//! statements however much there is to clean up.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::retention::{self, Deleted};
use crate::{
    database::Consumer,
    operation::{Context, Meta, Operation, Operations, Services, Tool},
    values::Result,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<RunMaintenance>()
}

/// Clean up what has expired, where no server does it: end silent sessions, clear expired locks,
/// fail expired tasks, free ports, delete old records. Repeat it while the answer has `more`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RunMaintenance {
    /// What to do. Absent: everything. `retention` covers every workspace, the others yours.
    pub tasks: Option<Vec<MaintenanceTask>>,
}

/// A part of maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[expect(
    missing_docs,
    reason = "the names are clear, and descriptions would replace the plain enum in the schema"
)]
pub enum MaintenanceTask {
    Sessions,
    Locks,
    Work,
    Ports,
    Approvals,
    Retention,
}

/// What maintenance has done.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Maintained {
    /// Always true.
    pub success: bool,
    /// Number of silent sessions that were ended.
    pub sessions_expired: i64,
    /// Number of expired locks that were cleared.
    pub locks_expired: i64,
    /// Number of locks of ended sessions that were released.
    pub locks_released: i64,
    /// Number of claims of ended sessions that were returned to the queue.
    pub tasks_requeued: i64,
    /// Number of tasks that failed, because they were past their deadline or out of attempts.
    pub tasks_failed: i64,
    /// Number of port blocks that were released.
    pub ports_released: i64,
    /// Number of approvals and grants that expired. Always 0: this version has none.
    pub approvals_expired: i64,
    /// Number of stored answers and old records that were deleted.
    pub rows_deleted: i64,
    /// Number of months of the audit log that were dropped.
    pub audit_partitions_dropped: i64,
    /// Duration in milliseconds.
    pub duration_ms: i64,
    /// True if more is left than one call cleans up: call again. Otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
}

impl Operation for RunMaintenance {
    type Output = Maintained;
    const META: Meta = Meta::admin("run_maintenance")
        .at(&["POST /maintenance/run"])
        .tool(Tool::named("run_maintenance"));

    fn example() -> Value {
        json!({ "tasks": ["sessions", "work"] })
    }

    async fn run(self, cx: Context<'_>) -> Result<Maintained> {
        let tasks = self.tasks.as_deref().unwrap_or(&MaintenanceTask::ALL);
        let mut deleted = Deleted::default();
        if tasks.contains(&MaintenanceTask::Retention) {
            // Statements of their own, because they cover every workspace and the transition only one. They
            // come first: a statement that has written to the audit log cannot attach a month to it.
            deleted = retention::apply(&mut *cx.db, cx.config).await?;
        }
        let names: Vec<_> = tasks.iter().map(|task| task.name().to_owned()).collect();
        let mut maintained = sqlx::query_as!(
            Maintained,
            r#"
            select
                true as "success!", 0::bigint as "approvals_expired!", $10 as "rows_deleted!",
                $11 as "audit_partitions_dropped!",
                sessions_expired as "sessions_expired!", locks_expired as "locks_expired!",
                locks_released as "locks_released!", tasks_requeued as "tasks_requeued!",
                tasks_failed as "tasks_failed!", ports_released as "ports_released!",
                duration_ms as "duration_ms!", nullif(more, false) as more
            from run_maintenance($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            json!(self.tasks),
            &names,
            deleted.rows_deleted,
            deleted.audit_partitions_dropped,
        )
        .fetch_one(cx.db)
        .await?;
        maintained.more = maintained.more.or(deleted.more.then_some(true));
        Ok(maintained)
    }
}

impl MaintenanceTask {
    const ALL: [Self; 6] =
        [Self::Sessions, Self::Locks, Self::Work, Self::Ports, Self::Approvals, Self::Retention];

    /// What the sweep of the server does in each workspace.
    const SWEPT: [Self; 4] = [Self::Sessions, Self::Locks, Self::Work, Self::Ports];

    /// Returns the name of the task in requests and in the database.
    fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Locks => "locks",
            Self::Work => "work",
            Self::Ports => "ports",
            Self::Approvals => "approvals",
            Self::Retention => "retention",
        }
    }
}

/// Cleans up every workspace that has something to clean up, except for retention. Workspaces and tasks
/// take turns, one batch each, so that none waits until another one has finished. What fails is left to
/// the next sweep and does not stop the rest.
pub(crate) async fn sweep(services: &Services) {
    let mut unfinished = match workspaces_to_sweep(services).await {
        Ok(workspaces) => each_task_of(&workspaces),
        Err(error) => {
            tracing::warn!(?error, "the sweep failed");
            return;
        }
    };
    while !unfinished.is_empty() {
        let mut next_round = Vec::new();
        for (workspace, task) in unfinished {
            match sweep_batch(services, &workspace, task).await {
                Ok(true) => next_round.push((workspace, task)),
                Ok(false) => {}
                Err(error) => {
                    let task = task.name();
                    tracing::warn!(?error, workspace, task, "a part of the sweep failed");
                }
            }
        }
        unfinished = next_round;
    }
}

async fn workspaces_to_sweep(services: &Services) -> Result<Vec<String>> {
    let mut db = services.db.acquire_connection(Consumer::Service).await?;
    let workspaces = sqlx::query_scalar!(
        r#"select workspace as "workspace!" from workspaces_to_sweep() workspace"#
    )
    .fetch_all(&mut db)
    .await?;
    db.commit_and_release().await?;
    Ok(workspaces)
}

fn each_task_of(workspaces: &[String]) -> Vec<(String, MaintenanceTask)> {
    let tasks = MaintenanceTask::SWEPT;
    let each = workspaces.iter().flat_map(|workspace| tasks.map(|task| (workspace.clone(), task)));
    each.collect()
}

/// Runs one batch of a task, in a transaction of its own. Returns whether more is left.
async fn sweep_batch(services: &Services, workspace: &str, task: MaintenanceTask) -> Result<bool> {
    let mut db = services.db.acquire_connection(Consumer::Service).await?;
    let more = sqlx::query_scalar!(
        r#"select more as "more!" from sweep_workspace($1, $2, array[$3])"#,
        workspace,
        services.config.session_timeout(),
        task.name(),
    )
    .fetch_one(&mut db)
    .await?;
    db.commit_and_release().await?;
    Ok(more)
}
