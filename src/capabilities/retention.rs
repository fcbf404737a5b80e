//! Retention: the deletion of records of every workspace that no longer have to be kept, and the months of
//! the audit log. `docs/operating.md` lists what is deleted when.
//!
//! Invariant: each batch is a transaction of its own, and what fails does not stop the rest.
use std::time::{Duration, Instant};

use crate::{
    config::Config,
    database::{self, Consumer, Db, MONTHS_AHEAD},
    operation::Services,
    values::Result,
};

/// How long one request deletes records. A request that does not wait has 30 s.
const TIME_OF_REQUEST: Duration = Duration::from_secs(5);

/// Tables whose oldest rows are found by age, whatever their workspace.
const BY_AGE: [&str; 4] = ["idempotency_key", "session_loss", "mcp_call", "quota_reached"];

/// Tables that are searched workspace by workspace. Connections come before the sessions that they name.
const BY_WORKSPACE: [&str; 6] = [
    "mcp_connection",
    "guardrail_violation",
    "network_log",
    "agent_session",
    "work_task",
    "file_lock",
];

/// What retention has deleted.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub(super) rows_deleted: i64,
    pub(super) audit_partitions_dropped: i64,
    /// Whether more records are left than one request deletes.
    pub(super) more: bool,
}

/// A table to delete old rows from.
#[derive(Debug)]
struct Part {
    table: &'static str,
    /// Absent for all workspaces together.
    workspace: Option<String>,
}

/// Applies retention for a request, which ends after some seconds even where more is left.
pub(super) async fn apply(db: &mut Db, config: &Config) -> Result<Deleted> {
    let started = Instant::now();
    let mut deleted = Deleted::default();
    database::ensure_partitions(&mut *db, MONTHS_AHEAD).await?;
    for part in parts(db).await? {
        while !deleted.more {
            let rows = part.delete_batch(db, config).await?;
            if rows == 0 {
                break;
            }
            deleted.rows_deleted += rows;
            deleted.more = started.elapsed() >= TIME_OF_REQUEST;
        }
    }
    deleted.audit_partitions_dropped = drop_months(db, config).await?;
    Ok(deleted)
}

/// Applies retention for the server, which calls this once an hour. Returns whether all of it succeeded.
pub(crate) async fn run(services: &Services) -> bool {
    let config = &services.config;
    let created =
        with_connection(services, async |db| database::ensure_partitions(db, MONTHS_AHEAD).await);
    let mut has_succeeded = succeeded(created.await, "audit_log");
    let parts = with_connection(services, async |db| parts(db).await).await;
    for part in parts.as_deref().unwrap_or_default() {
        has_succeeded &= succeeded(part.delete_all(services).await, part.table);
    }
    has_succeeded &= succeeded(parts, "workspaces");
    let dropped = with_connection(services, async |db| drop_months(db, config).await);
    has_succeeded & succeeded(dropped.await, "audit_log")
}

impl Part {
    /// Deletes all old rows, each batch in a transaction of its own.
    async fn delete_all(&self, services: &Services) -> Result<()> {
        let config = &services.config;
        while with_connection(services, async |db| self.delete_batch(db, config).await).await? > 0 {
        }
        Ok(())
    }

    /// Deletes a batch of old rows and returns how many it deleted.
    async fn delete_batch(&self, db: &mut Db, config: &Config) -> Result<i64> {
        let deleted = match &self.workspace {
            None => {
                sqlx::query_scalar!(r#"select delete_old_records($1) as "deleted!""#, self.table)
                    .fetch_one(db)
                    .await?
            }
            Some(workspace) => {
                sqlx::query_scalar!(
                    r#"select delete_old_rows($1, $2, $3, $4) as "deleted!""#,
                    workspace,
                    self.table,
                    config.audit_retention_days,
                    config.work_retention_days,
                )
                .fetch_one(db)
                .await?
            }
        };
        Ok(deleted)
    }
}

/// Returns what to delete, in this order.
async fn parts(db: &mut Db) -> Result<Vec<Part>> {
    let workspaces = sqlx::query_scalar!(
        r#"select workspace as "workspace!" from workspaces_with_records() workspace"#
    )
    .fetch_all(db)
    .await?;
    let by_age = BY_AGE.iter().map(|table| Part { table, workspace: None });
    let by_workspace = BY_WORKSPACE.iter().flat_map(|table| {
        workspaces.iter().map(move |it| Part { table, workspace: Some(it.clone()) })
    });
    Ok(by_age.chain(by_workspace).collect())
}

/// Drops the months of the audit log that have ended before the days to keep, and returns how many.
async fn drop_months(db: &mut Db, config: &Config) -> Result<i64> {
    let days = config.audit_retention_days;
    let dropped = sqlx::query_scalar!(r#"select drop_audit_partitions($1) as "dropped!""#, days)
        .fetch_one(db)
        .await?;
    Ok(dropped)
}

/// Runs a statement on a connection of its own, because one on which a statement has failed is closed.
async fn with_connection<T>(
    services: &Services,
    work: impl AsyncFnOnce(&mut Db) -> Result<T>,
) -> Result<T> {
    let mut db = services.db.acquire_connection(Consumer::Service).await?;
    let result = work(&mut db).await?;
    db.commit_and_release().await?;
    Ok(result)
}

/// Whether a part of retention has succeeded. Logs a failure.
fn succeeded<T>(result: Result<T>, part: &str) -> bool {
    if let Err(error) = &result {
        tracing::warn!(?error, part, "a part of retention failed; it is tried again");
    }
    result.is_ok()
}
