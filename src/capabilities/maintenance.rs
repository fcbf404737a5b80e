//! Tidying up what time has ended. Nothing here is needed for correctness: every statement compares
//! for itself. The server does it every 30 s, for every workspace; where no server runs, a schedule
//! may call the operation.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    App, Result,
    audit::{self, MONTHS_AHEAD, audited},
    operation::{Context, Meta, Operation},
    registry::Operations,
    tool::Tool,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<RunMaintenance>()
}

/// Tidy up what has expired, where no server does it by itself: end silent sessions, clear expired
/// locks, finish lost tasks, free ports, drop old records.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RunMaintenance {
    /// What to do; absent: everything. `retention` covers every workspace, the others yours.
    pub tasks: Option<Vec<Task>>,
}

/// A part of maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[expect(missing_docs, reason = "the names say it; described ones would make no plain enum")]
pub enum Task {
    Sessions,
    Locks,
    Work,
    Ports,
    Approvals,
    Retention,
}

/// What was tidied up.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Maintained {
    /// Always true.
    pub success: bool,
    /// Silent sessions that were ended.
    pub sessions_expired: i64,
    /// Expired locks that were cleared.
    pub locks_expired: i64,
    /// Locks that ended sessions held.
    pub locks_released: i64,
    /// Claims that ended sessions held, returned to the queue.
    pub tasks_requeued: i64,
    /// Tasks past their deadline or out of attempts.
    pub tasks_failed: i64,
    /// Port blocks that were freed.
    pub ports_released: i64,
    /// Approvals and grants whose time is over.
    pub approvals_expired: i64,
    /// Stored answers and old records that were deleted.
    pub rows_deleted: i64,
    /// Months of the audit log that were dropped.
    pub audit_partitions_dropped: i64,
    /// How long it took, in milliseconds.
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
        let wants = |task| self.tasks.as_ref().is_none_or(|it| it.contains(&task));
        if wants(Task::Retention) {
            // A statement of its own: a partition cannot be attached by one that writes to the log.
            audit::ensure_partitions(&mut *cx.db, MONTHS_AHEAD).await?;
        }
        let done = audited!(
            Maintained,
            cx,
            Self::META.audit(),
            json!({ "tasks": self.tasks }),
            r#"
            ended as materialized (
                select * from end_sessions($1, null, null, $9::interval, false) where $10::boolean
            ), locks as materialized (
                select clear_expired_locks($1, $9::interval) as n
                from (select count(*) from ended) first where $11::boolean
            ), work as materialized (
                select finish_lost_work($1) as n
                from (select count(*) from locks) first where $12::boolean
            ), ports as materialized (
                select free_expired_ports($1, $9::interval) as n
                from (select count(*) from work) first where $13::boolean
            ), retained as materialized (
                select
                    delete_old_records($15) as deleted,
                    audit_log_drop_partitions($15) as dropped
                from (select count(*) from ports) first where $14::boolean
            ), counted as (
                select
                    coalesce((select sessions from ended), 0) as sessions_expired,
                    coalesce((select n from locks), 0) as locks_expired,
                    coalesce((select locks_released from ended), 0) as locks_released,
                    coalesce((select tasks_requeued from ended), 0) as tasks_requeued,
                    coalesce((select n from work), 0) as tasks_failed,
                    coalesce((select ports_released from ended), 0)
                        + coalesce((select n from ports), 0) as ports_released,
                    0::bigint as approvals_expired,
                    coalesce((select deleted from retained), 0) as rows_deleted,
                    coalesce((select dropped from retained), 0) as audit_partitions_dropped
            ), op as (
                select
                    counted.*,
                    (1000 * extract(epoch from clock_timestamp() - statement_timestamp()))::bigint
                        as duration_ms,
                    true as audit_success,
                    to_jsonb(counted) as audit_result
                from counted
            )
            "#,
            r#"
            op.audit_success as "success!", op.sessions_expired as "sessions_expired!",
            op.locks_expired as "locks_expired!", op.locks_released as "locks_released!",
            op.tasks_requeued as "tasks_requeued!", op.tasks_failed as "tasks_failed!",
            op.ports_released as "ports_released!", op.approvals_expired as "approvals_expired!",
            op.rows_deleted as "rows_deleted!",
            op.audit_partitions_dropped as "audit_partitions_dropped!",
            op.duration_ms as "duration_ms!"
            "#,
            wants(Task::Sessions),
            wants(Task::Locks),
            wants(Task::Work),
            wants(Task::Ports),
            wants(Task::Retention),
            cx.config.audit_retention_days,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(done)
    }
}

/// What the server's sweep does: everything but retention in every workspace that holds something,
/// each in a statement of its own so that none waits for the others.
pub(crate) async fn sweep(app: &App) -> Result<()> {
    let mut db = app.db.acquire().await?;
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
            r#"
            select
                (select sessions from end_sessions($1, null, null, $2, false)) as sessions,
                clear_expired_locks($1, $2) as locks,
                finish_lost_work($1) as work,
                free_expired_ports($1, $2) as ports
            "#,
            workspace,
            app.config.session_timeout(),
        )
        .fetch_one(&mut db)
        .await?;
    }
    db.done().await?;
    Ok(())
}

/// Retention as a statement of its own: the server's sweep does it once an hour.
pub(crate) async fn retain(app: &App) -> Result<()> {
    let mut db = app.db.acquire().await?;
    sqlx::query!(
        "select audit_log_ensure_partitions($1) as made, delete_old_records($2) as deleted,
            audit_log_drop_partitions($2) as dropped",
        MONTHS_AHEAD,
        app.config.audit_retention_days,
    )
    .fetch_one(&mut db)
    .await?;
    db.done().await?;
    Ok(())
}
