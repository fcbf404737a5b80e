//! The monthly partitions of the audit log.
use sqlx::PgExecutor;

use crate::values::Result;

/// The number of months whose partitions are created in advance.
pub(crate) const MONTHS_AHEAD: i32 = 3;

/// Creates the missing partitions of the audit log, for this month and the `months_ahead` months after
/// it.
pub(crate) async fn ensure_partitions(db: impl PgExecutor<'_>, months_ahead: i32) -> Result<()> {
    sqlx::query_scalar!("select ensure_audit_partitions($1)", months_ahead).fetch_one(db).await?;
    Ok(())
}
