//! The audit log. The database function of each transition writes the row of its call, so an effect
//! without its row cannot exist. Here only denials are recorded, which run no transition.
use super::request::RequestInfo;
use crate::{access::Caller, config::Config, database::Db, values::Result};

/// A request that ends with 403.
pub(super) struct Denial<'a> {
    pub(super) operation: &'a str,
    pub(super) target: &'a str,
    /// The policy engine of this process, whichever step denied.
    pub(super) engine: &'static str,
    pub(super) reason: String,
    /// The policies that determined the denial, where the engine names them.
    pub(super) diagnostics: &'a [String],
}

/// Records a denial, which is the one audit row of its request.
pub(super) async fn record_denial(
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
        denial.target,
        denial.engine,
        denial.reason,
        denial.diagnostics,
    )
    .execute(db)
    .await?;
    Ok(())
}
