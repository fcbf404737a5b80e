//! The append-only record of what was done. An effect and its row are one statement, so neither
//! can exist without the other.
use serde_json::{Value, json};
use sqlx::PgExecutor;

use crate::{Result, auth::Caller, db::Db, operation::RequestInfo};

/// A write together with its audit row and its session's heartbeat, as one statement checked at
/// compile time: one round trip.
///
/// `$ctes` are common table expressions that end with one named `op`, and `$columns` is what to
/// select from it. `op` has one row for every outcome, refusals included, with the columns
/// `audit_success` and `audit_result`; a row whose `audit_success` is null is not recorded, and no
/// row means that nothing was decided and the statement must be run again.
///
/// `$1` is the workspace, `$2` the agent, `$3` its type, `$4` its session, `$5` to `$8` belong to
/// the audit row, `$9` is the silence that ends a session; the statement's own arguments start at
/// `$10`.
macro_rules! audited {
    ($($statement:tt)*) => {
        $crate::audit::recorded!(
            ", (
                select case when caller_is_due($1, $2, $4, $9::interval)
                    then touch_session($1, $2, $4, $9) else false end
            ) beat",
            $($statement)*
        )
    };
}

/// The same without the heartbeat, for operations that begin or end sessions themselves: what a
/// statement changes in a row, it cannot change once more. It must use `$9` as an `interval`.
macro_rules! audited_unheard {
    ($($statement:tt)*) => { $crate::audit::recorded!("", $($statement)*) };
}

/// What the two above expand to; `$heartbeat` is what hears the session.
macro_rules! recorded {
    ($heartbeat:literal, $row:ident, $cx:expr, $operation:expr, $parameters:expr, $ctes:literal,
     $columns:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            $row,
            "with " + $ctes + ", entry as (
                insert into audit_log (
                    workspace, agent_id, agent_type, session_id, request_id, operation,
                    parameters, result, success, duration_ms
                )
                select
                    $1, $2, $3, $4, $5, $7, $8, op.audit_result, op.audit_success,
                    ($6::double precision + 1000 * extract(
                        epoch from clock_timestamp() - statement_timestamp()))::integer
                from op where op.audit_success is not null
            )
            select " + $columns + "
            from op" + $heartbeat,
            $cx.caller.workspace,
            $cx.caller.agent_id,
            $cx.caller.agent_type,
            $cx.caller.session_id,
            $cx.request.id,
            $cx.request.elapsed_ms(),
            $operation,
            $parameters,
            $cx.config.session_timeout()
            $(, $argument)*
        )
    };
}
pub(crate) use {audited, audited_unheard, recorded};

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
    caller: &Caller,
    request: &RequestInfo,
    denial: &Denial<'_>,
) -> Result<()> {
    let parameters = json!({
        "operation": denial.operation,
        "resource": denial.resource,
        "engine": denial.engine,
        "context": Value::Null,
        "advisory": false,
    });
    let result = json!({
        "allowed": false,
        "reason": denial.reason,
        "policy_id": Value::Null,
        "diagnostics": denial.diagnostics,
    });
    sqlx::query!(
        r#"
        insert into audit_log (
            workspace, agent_id, agent_type, session_id, request_id, operation,
            parameters, result, success, duration_ms
        )
        values ($1, $2, $3, $4, $5, 'policy_decision', $7, $8, false, ($6::double precision)::integer)
        "#,
        caller.workspace,
        caller.agent_id,
        caller.agent_type,
        caller.session_id,
        request.id,
        request.elapsed_ms(),
        parameters,
        result,
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
    sqlx::query_scalar!("select audit_log_ensure_partitions($1)", months_ahead)
        .fetch_one(db)
        .await?;
    Ok(())
}
