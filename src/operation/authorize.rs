//! Authorization: who calls, and whether the caller can run the operation.
use serde_json::Value;

use super::{
    audit::{self, Denial},
    heartbeat::LostSession,
    meta::Meta,
    request::{Call, record_caller},
};
use crate::{
    access::{Caller, find_session, policy::Question},
    database::Db,
    values::{Error, Result},
};

/// Resolves the caller and decides whether identity, workspace, trust and policy permit the operation.
/// Records a denial.
pub(super) async fn authorize(
    call: &Call<'_>,
    meta: &Meta,
    input: &Value,
    target: &str,
    db: &mut Db,
) -> Result<Caller> {
    let services = call.services;
    let resolved = match call.key {
        None => Caller::resolve_anonymous(&call.claims),
        Some(key) => Caller::resolve(key, &services.keys, meta.identity, input, &call.claims),
    };
    let mut caller = match resolved {
        Ok(caller) => caller,
        Err(denial) => {
            let own = call.key.map_or_else(Caller::anonymous, Caller::of_key);
            record_denial(call, meta, target, db, &own, &denial, &[]).await?;
            return Err(denial);
        }
    };
    caller.warn_if_unnamed();
    if call.key.is_some() {
        db.count_for(&caller.workspace);
    }
    let agent = (caller.workspace.as_str(), caller.agent_id.as_str());
    let named = caller.session_id.take();
    let names_session = named.is_some();
    caller.session_id = find_session(db, &services.config, &call.claims, agent, named).await?;
    caller.connection_id.clone_from(&call.claims.connection_id);
    caller.door = call.claims.door;
    record_caller(&caller.agent_id, target);
    call.request.log.set_agent(&caller.agent_id);
    if let Some(key) = call.key {
        services.standings.apply(db, &services.config, key, &mut caller).await?;
    }
    let question = Question {
        operation: meta.name,
        category: Some(meta.category),
        target_kind: meta.target_kind,
        target,
    };
    let decision = services.engine.decide(db, &services.config, &caller, &question).await?;
    if decision.allowed {
        if !names_session && caller.session_id.is_some() {
            // The operation records that of the session in which the call acts.
            let agent = Caller { session_id: None, ..caller.clone() };
            record_heartbeat(call, db, &agent, LostSession::StaysLost).await?;
        }
        return Ok(caller);
    }
    let denial = Error::Forbidden(decision.reason);
    // No heartbeat: a suspended agent must not keep what it holds by asking again.
    record_denial(call, meta, target, db, &caller, &denial, &decision.diagnostics).await?;
    Err(denial)
}

/// Authorizes a request that does not run an operation, on a connection of its own, and records the
/// heartbeat of its caller.
pub(crate) async fn authorize_page(call: &Call<'_>, meta: &Meta) -> Result<Caller> {
    call.services.db.with_fresh_connection(async || authorize_once(call, meta).await).await
}

async fn authorize_once(call: &Call<'_>, meta: &Meta) -> Result<Caller> {
    let mut db = call.services.db.connect_lazily(call.consumer());
    let result = async {
        let caller = authorize(call, meta, &Value::Null, "", &mut db).await?;
        record_heartbeat(call, &mut db, &caller, LostSession::StaysLost).await?;
        Ok(caller)
    }
    .await;
    // The record of a denial is committed on this connection.
    if !result.as_ref().is_err_and(Error::breaks_connection) {
        db.commit_and_release().await?;
    }
    result
}

/// Records the heartbeat of a caller that has shown a key.
pub(super) async fn record_heartbeat(
    call: &Call<'_>,
    db: &mut Db,
    caller: &Caller,
    lost: LostSession,
) -> Result<()> {
    if call.key.is_none() {
        return Ok(());
    }
    call.services.heartbeats.record(db, &call.services.config, caller, lost).await
}

/// Records a denial. One without a key is only counted and logged, as a failed authentication is: otherwise
/// anybody could grow the audit log, from which nothing can be deleted.
async fn record_denial(
    call: &Call<'_>,
    meta: &Meta,
    target: &str,
    db: &mut Db,
    caller: &Caller,
    denial: &Error,
    diagnostics: &[String],
) -> Result<()> {
    if call.key.is_none() {
        call.services.metrics.count_unknown_key();
        tracing::info!(operation = meta.id, reason = %denial, "denied a request without a key");
        return Ok(());
    }
    let denial = Denial {
        operation: meta.name,
        target,
        engine: call.services.engine.name(),
        reason: denial.to_string(),
        diagnostics,
    };
    audit::record_denial(db, &call.services.config, caller, call.request, &denial).await
}
