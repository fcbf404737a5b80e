//! The append-only record of what was done. The database function of each transition writes the row of
//! its call, so an effect without its row cannot exist.
use sqlx::PgExecutor;

use crate::{Config, Result, auth::Caller, db::Db, operation::RequestInfo};

/// A request that ends with 403.
pub(crate) struct Denial<'a> {
    pub(crate) operation: &'a str,
    pub(crate) resource: &'a str,
    /// The engine that decides in this process, whichever step denied.
    pub(crate) engine: &'static str,
    pub(crate) reason: String,
    /// The policies that determined it, where an engine names them.
    pub(crate) diagnostics: &'a [String],
}

/// Records a denial: the one row of its request.
pub(crate) async fn record_denial(
    db: &mut Db,
    config: &Config,
    caller: &Caller,
    request: &RequestInfo,
    denial: &Denial<'_>,
) -> Result<()> {
    sqlx::query!(
        "select record_denial($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12)",
        caller.workspace,
        request.id,
        caller.agent_id,
        caller.agent_type,
        caller.session_id,
        request.elapsed_ms(),
        config.session_timeout(),
        denial.operation,
        denial.resource,
        denial.engine,
        denial.reason,
        denial.diagnostics,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How many months of partitions are made in advance.
pub(crate) const MONTHS_AHEAD: i32 = 3;

/// Creates the audit log's partitions of this month and of the `months_ahead` after it, where they
/// are missing.
pub(crate) async fn ensure_partitions(db: impl PgExecutor<'_>, months_ahead: i32) -> Result<()> {
    sqlx::query_scalar!("select ensure_audit_partitions($1)", months_ahead).fetch_one(db).await?;
    Ok(())
}
