//! The monthly partitions of the audit log.
use sqlx::PgExecutor;

use crate::values::Result;

/// How many months of partitions are made in advance.
pub(crate) const MONTHS_AHEAD: i32 = 3;

/// Creates the audit log's partitions of this month and of the `months_ahead` after it, where they
/// are missing.
pub(crate) async fn ensure_partitions(db: impl PgExecutor<'_>, months_ahead: i32) -> Result<()> {
    sqlx::query_scalar!("select ensure_audit_partitions($1)", months_ahead).fetch_one(db).await?;
    Ok(())
}
