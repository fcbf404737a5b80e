//! The only way into an operation: authorizes the caller, runs the operation, records what is left to
//! record.
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    Operation,
    authorize::{authorize, record_heartbeat},
    context::Context,
    idempotency,
    reply::Reply,
    request::Call,
    waiting::{self, Wait},
};
use crate::{
    access::Caller,
    database,
    values::{Error, Result},
};

/// How often an operation is run for one request, where a run had no effect.
const MAX_RUNS: u32 = 4;

/// Executes an operation on an input that its schema accepts. Runs it again where the first run is known
/// to have had no effect and the next one can succeed.
pub(super) async fn execute<O: Operation>(call: &Call<'_>, input: &Value) -> Result<Reply> {
    let mut runs = 1;
    loop {
        match run_or_wait::<O>(call, input).await {
            Err(error) if error.lacks_audit_partition() && runs < MAX_RUNS => {
                // The first write of a month creates the partition of its audit row.
                let mut db = call.services.db.acquire_connection().await?;
                database::ensure_partitions(&mut db, 0).await?;
                db.commit_and_release().await?;
            }
            Err(error) if error.is_retryable() && runs < MAX_RUNS => {
                tracing::info!(operation = O::META.id, "run again after a deadlock");
            }
            result => return result,
        }
        runs += 1;
    }
}

async fn run_or_wait<O: Operation>(call: &Call<'_>, input: &Value) -> Result<Reply> {
    let operation: O = deserialize(input)?;
    let wait = call.services.config.longest_wait(operation.wait_seconds());
    match O::POLL {
        Some(poll) if !wait.is_zero() => {
            let run = |wait| -> BoxFuture<'_, Result<(Reply, Caller)>> {
                Box::pin(
                    async move { run(call, input, deserialize::<O>(input)?, Some(wait)).await },
                )
            };
            waiting::run_until_answered(call, poll, input, wait, &run).await
        }
        _ => Ok(run(call, input, operation, None).await?.0),
    }
}

fn deserialize<O: Operation>(input: &Value) -> Result<O> {
    O::deserialize(input).map_err(|error| Error::Internal(error.into()))
}

/// Authorizes, runs and records an operation, on a connection of its own, in the order that
/// `docs/api-design.md#order-of-checks` fixes: identity, workspace, policy, idempotency, the operation.
async fn run<O: Operation>(
    call: &Call<'_>,
    input: &Value,
    operation: O,
    wait: Option<Wait>,
) -> Result<(Reply, Caller)> {
    let services = call.services;
    let target = operation.target().into_owned();
    let mut db = services.db.connect_lazily();
    let result = async {
        let caller = authorize(call, &O::META, input, &target, &mut db).await?;
        let cx = Context {
            services,
            config: &services.config,
            db: &mut db,
            caller: &caller,
            request: call.request,
            wait,
        };
        let reply = match (&call.claims.idempotency_key, &call.fingerprint) {
            (Some(key), Some(fingerprint)) => {
                idempotency::run_once(key, fingerprint, operation, cx).await?
            }
            _ => Reply::new::<O>(&operation.run(cx).await?, &caller)?,
        };
        // A transition records the heartbeat itself, unless it did not run.
        if !O::META.is_audited() || reply.replayed {
            record_heartbeat(call, &mut db, &caller).await?;
        }
        Ok((reply, caller))
    }
    .await;
    // After a failure of the database the state of the connection is unknown: it is closed.
    if matches!(result, Err(Error::Unavailable(_) | Error::Internal(_))) {
        return result;
    }
    db.commit_and_release().await?;
    // The change is committed now, so the next request reads it.
    if let Ok((Reply { changed_standing: Some((workspace, agent_id)), .. }, _)) = &result {
        services.standings.forget(workspace, agent_id);
    }
    result
}
