//! Cleaning up what has expired. Correctness does not depend on it, because every statement
//! compares times itself. The server cleans up every 30 s, in every workspace. Where no server
//! runs, a scheduled job can call the operation.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    database::{Db, MONTHS_AHEAD},
    operation::{Context, Meta, Operation, Operations, Services, Tool},
    values::Result,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<RunMaintenance>()
}

/// Clean up what has expired, where no server does it: end silent sessions, clear expired locks,
/// fail expired tasks, free ports, delete old records.
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
        let mut deleted = Deleted { rows_deleted: 0, audit_partitions_dropped: 0 };
        if tasks.contains(&MaintenanceTask::Retention) {
            // A separate statement, because it covers every workspace and the transition only one.
            deleted = apply_retention(&mut *cx.db, cx.config.audit_retention_days).await?;
        }
        let names: Vec<_> = tasks.iter().map(|task| task.name().to_owned()).collect();
        let maintained = sqlx::query_as!(
            Maintained,
            r#"
            select
                true as "success!", 0::bigint as "approvals_expired!", $10 as "rows_deleted!",
                $11 as "audit_partitions_dropped!",
                sessions_expired as "sessions_expired!", locks_expired as "locks_expired!",
                locks_released as "locks_released!", tasks_requeued as "tasks_requeued!",
                tasks_failed as "tasks_failed!", ports_released as "ports_released!",
                duration_ms as "duration_ms!"
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
        Ok(maintained)
    }
}

impl MaintenanceTask {
    const ALL: [Self; 6] =
        [Self::Sessions, Self::Locks, Self::Work, Self::Ports, Self::Approvals, Self::Retention];

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

/// Cleans up every workspace that has something to clean up, except for retention. Each workspace
/// is a statement of its own, so that none waits for the others.
pub(crate) async fn sweep(services: &Services) -> Result<()> {
    let mut db = services.db.acquire_connection().await?;
    let workspaces = sqlx::query_scalar!(
        r#"
        select workspace as "workspace!" from agent_session where ended_at is null
        union select workspace from file_lock where agent_id is not null
        union select workspace from work_task
            where status in ('pending', 'claimed', 'running') and (status <> 'pending' or deadline is not null)
        union select workspace from port_block
        "#
    )
    .fetch_all(&mut db)
    .await?;
    for workspace in workspaces {
        sqlx::query!(
            "select from sweep_workspace($1, $2, '{sessions,locks,work,ports}')",
            workspace,
            services.config.session_timeout(),
        )
        .execute(&mut db)
        .await?;
    }
    db.commit_and_release().await?;
    Ok(())
}

/// Deletes old records of every workspace: the server's sweep calls this once an hour.
pub(crate) async fn delete_old_records(services: &Services) -> Result<()> {
    let mut db = services.db.acquire_connection().await?;
    apply_retention(&mut db, services.config.audit_retention_days).await?;
    db.commit_and_release().await?;
    Ok(())
}

/// What retention has deleted.
struct Deleted {
    rows_deleted: i64,
    audit_partitions_dropped: i64,
}

/// Deletes the records of every workspace that no longer have to be kept.
async fn apply_retention(db: &mut Db, retention_days: i32) -> Result<Deleted> {
    let deleted = sqlx::query_as!(
        Deleted,
        r#"
        select
            rows_deleted as "rows_deleted!",
            audit_partitions_dropped as "audit_partitions_dropped!"
        from apply_retention($1, $2)
        "#,
        retention_days,
        MONTHS_AHEAD,
    )
    .fetch_one(db)
    .await?;
    Ok(deleted)
}
