//! The only way into an operation: authorizes the caller, runs the operation, and records the heartbeat where
//! the operation has not.
use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::{
    authorize::{authorize, record_heartbeat},
    context::Context,
    definition::Operation,
    heartbeat::LostSession,
    idempotency,
    reply::Reply,
    request::Call,
    waiting::{RunOutcome, Wait, WaitingRequest},
};
use crate::{
    access::Caller,
    database::{self, Db},
    values::{Error, Result},
};

/// How often an operation is run for one request, where a run had no effect.
const MAX_RUNS: u32 = 4;

/// Executes an operation on an input that its schema accepts. A request that can wait runs until its
/// answer is one to send. Runs it again where a run is known to have had no effect and the next one can
/// succeed.
pub(super) async fn execute<O: Operation>(call: &Call<'_>, input: &Value) -> Result<Reply> {
    let services = call.services;
    let waiting = waiting_request::<O>(call, input);
    let mut runs = 1;
    loop {
        let result = match &waiting {
            Some(waiting) => {
                waiting.run_until_answered(&|wait| run_waiting::<O>(call, input, wait)).await
            }
            None => run::<O>(call, input, None).await.map(|(reply, _)| reply),
        };
        match result {
            Err(error) if error.lacks_audit_partition() && runs < MAX_RUNS => {
                // The first write of a month creates the partition of its audit row.
                let mut db = services.db.acquire_connection().await?;
                database::ensure_partitions(&mut db, 0).await?;
                db.commit_and_release().await?;
            }
            Err(error) if error.is_retryable() && runs < MAX_RUNS => {
                tracing::info!(operation = O::META.id, "run again after a deadlock");
            }
            Err(error) if error.is_session_lost() && runs < MAX_RUNS => {
                tracing::info!(
                    operation = O::META.id,
                    "run again after the revival of the session"
                );
            }
            Ok(reply) => {
                return match call.notice.take(&services.config) {
                    Some(lost) => reply.tell(lost),
                    None => Ok(reply),
                };
            }
            Err(error) => {
                if let Err(failure) = call.notice.keep(&services.db).await {
                    tracing::warn!(error = ?failure, "the losses of a revived session are not told");
                }
                return Err(error);
            }
        }
        runs += 1;
    }
}

/// Returns how a request waits, or `None` for a request that does not.
fn waiting_request<'a, O: Operation>(
    call: &'a Call<'_>,
    input: &'a Value,
) -> Option<WaitingRequest<'a>> {
    let poll = O::POLL?;
    let services = call.services;
    let seconds = input["wait_seconds"].as_i64().unwrap_or_default();
    let time_to_wait = services.config.longest_wait(seconds);
    (!time_to_wait.is_zero()).then(|| WaitingRequest {
        waiter_id: Uuid::new_v4(),
        number: services.waiters.next_number(),
        waiters: &services.waiters,
        db: &services.db,
        config: &services.config,
        started: call.request.started,
        time_limit: &call.request.time_limit,
        input,
        poll,
        time_to_wait,
    })
}

/// Runs a request that can wait, once.
fn run_waiting<'a, O: Operation>(
    call: &'a Call<'_>,
    input: &'a Value,
    wait: Wait,
) -> BoxFuture<'a, Result<RunOutcome<Reply>>> {
    Box::pin(async move {
        let (reply, caller) = run::<O>(call, input, Some(wait)).await?;
        let waiting_caller = reply.should_wait.then_some(caller);
        Ok((reply, waiting_caller))
    })
}

fn deserialize<O: Operation>(input: &Value) -> Result<O> {
    O::deserialize(input).map_err(|error| Error::Internal(error.into()))
}

/// Authorizes, runs and records an operation, on a connection of its own, in the order that
/// `docs/api-design.md#order-of-checks` fixes: identity, workspace, policy, idempotency, the operation.
async fn run<O: Operation>(
    call: &Call<'_>,
    input: &Value,
    wait: Option<Wait>,
) -> Result<(Reply, Caller)> {
    let services = call.services;
    let operation: O = deserialize(input)?;
    let target = operation.target().into_owned();
    let mut db = services.db.connect_lazily();
    let result = match authorize(call, &O::META, input, &target, &mut db).await {
        Ok(caller) => match answer(call, operation, &caller, &mut db, wait).await {
            Err(error) if error.is_session_lost() => {
                // First gives its connection back: the pool can have only one.
                db.release();
                drop(db);
                call.notice.revive(&services.db, &services.config, &caller).await?;
                return Err(error);
            }
            result => result.map(|reply| (reply, caller)),
        },
        Err(error) => Err(error),
    };
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

/// Runs an operation for an authorized caller, and records the heartbeat where the operation has not.
async fn answer<O: Operation>(
    call: &Call<'_>,
    operation: O,
    caller: &Caller,
    db: &mut Db,
    wait: Option<Wait>,
) -> Result<Reply> {
    let services = call.services;
    let cx = Context {
        services,
        config: &services.config,
        db: &mut *db,
        caller,
        request: call.request,
        wait,
    };
    let reply = match (&call.claims.idempotency_key, &call.fingerprint) {
        (Some(key), Some(fingerprint)) => {
            idempotency::run_once(key, fingerprint, operation, cx).await?
        }
        _ => Reply::new::<O>(&operation.run(cx).await?, caller)?,
    };
    // A transition records the heartbeat itself, unless it did not run.
    if !O::META.is_audited() || reply.replayed {
        let lost = match reply.can_tell() {
            true => LostSession::IsRevived,
            false => LostSession::StaysLost,
        };
        record_heartbeat(call, db, caller, lost).await?;
    }
    Ok(reply)
}
