//! Tidying up what time has ended. Nothing here is needed for correctness: every statement compares
//! for itself. The server does it every 30 s, for every workspace; where no server runs, a schedule
//! may call the operation.
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
        let tasks = self.tasks.as_deref().unwrap_or(&Task::ALL);
        let mut retained = Retained { rows_deleted: 0, audit_partitions_dropped: 0 };
        if tasks.contains(&Task::Retention) {
            // A statement of its own: it concerns every workspace, the transition only one.
            retained = retention(&mut *cx.db, cx.config.audit_retention_days).await?;
        }
        let names: Vec<_> = tasks.iter().map(|it| it.name().to_owned()).collect();
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
            retained.rows_deleted,
            retained.audit_partitions_dropped,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(maintained)
    }
}

impl Task {
    const ALL: [Self; 6] =
        [Self::Sessions, Self::Locks, Self::Work, Self::Ports, Self::Approvals, Self::Retention];

    /// The name that the wire and the database know.
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

/// What the server's sweep does: everything but retention in every workspace that holds something,
/// each in a statement of its own so that none waits for the others.
pub(crate) async fn sweep(services: &Services) -> Result<()> {
    let mut db = services.db.acquire().await?;
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
    db.done().await?;
    Ok(())
}

/// Retention: the server's sweep does it once an hour.
pub(crate) async fn retain(services: &Services) -> Result<()> {
    let mut db = services.db.acquire().await?;
    retention(&mut db, services.config.audit_retention_days).await?;
    db.done().await?;
    Ok(())
}

/// What retention has done.
struct Retained {
    rows_deleted: i64,
    audit_partitions_dropped: i64,
}

/// Deletes what need not be kept any longer, in every workspace.
async fn retention(db: &mut Db, retention_days: i32) -> Result<Retained> {
    let retained = sqlx::query_as!(
        Retained,
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
    Ok(retained)
}
