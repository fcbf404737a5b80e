//! The only way into an operation: authorizes the caller, runs the operation, and records the heartbeat where
//! the operation has not.
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::{
    authorize::{authorize, record_heartbeat},
    client_call::ClientCall,
    context::Context,
    definition::Operation,
    heartbeat::LostSession,
    idempotency,
    limits::{Limit, Party},
    reply::Reply,
    request::Call,
    services::Services,
    waiting::{NextStep, RunOutcome, Wait, WaitingRequest},
};
use crate::{
    access::{Caller, Door},
    database::{self, Consumer, Db},
    values::{Error, Result},
};

/// How often an operation is run for one request, where a run had no effect.
const MAX_RUNS: u32 = 4;

/// How often one request can revive its session. A request that waits does so again where it has waited
/// for longer than the interval after which another call tells what the session has lost.
const MAX_REVIVALS: u32 = 32;

/// Executes an operation on an input that its schema accepts. A request that can wait runs until its
/// answer is one to send. Runs it again where a run is known to have had no effect and the next one can
/// succeed, and once on a fresh connection where a lost one leaves nothing that could happen twice.
pub(super) async fn execute<O: Operation>(call: &Call<'_>, input: &Value) -> Result<Reply> {
    let services = call.services;
    let waiting = waiting_request::<O>(call, input);
    let has_begun = AtomicBool::new(false);
    let (mut runs, mut revivals, mut has_lost_connection) = (1, 0, false);
    loop {
        let result = match &waiting {
            Some(waiting) => {
                let run = |wait| run_waiting::<O>(call, input, wait, &has_begun);
                let answered = waiting.run_until_answered(&run).await;
                answered.and_then(|(reply, limit)| tell_limit(call, reply, limit))
            }
            None => run::<O>(call, input, None, &has_begun).await.map(|(reply, _)| reply),
        };
        match result {
            Err(error) if error.is_lost_connection() => {
                services.db.distrust_idle_connections();
                let can_repeat = is_repeatable::<O>(call) || !has_begun.load(Ordering::Relaxed);
                if has_lost_connection || !can_repeat {
                    return Err(fail(call, error).await);
                }
                has_lost_connection = true;
                tracing::info!(operation = O::META.id, "run again after a lost connection");
            }
            Err(error) if error.is_session_lost() && revivals < MAX_REVIVALS => {
                revivals += 1;
                tracing::info!(
                    operation = O::META.id,
                    "run again after the revival of the session"
                );
                continue;
            }
            Ok(reply) => {
                let (db, config) = (&services.db, &services.config);
                return match call.notice.settle(db, config, reply.can_tell()).await {
                    Some(lost) => reply.tell(lost),
                    None => Ok(reply),
                };
            }
            Err(error) => {
                if !prepare_next_run(services, &error, runs).await? {
                    return Err(fail(call, error).await);
                }
                tracing::info!(operation = O::META.id, %error, "run again");
            }
        }
        runs += 1;
    }
}

/// Prepares another run after one that had no effect. Returns false where another one would not succeed. The
/// session of a run that failed because its session was lost is revived already.
pub(super) async fn prepare_next_run(
    services: &Services,
    error: &Error,
    runs: u32,
) -> Result<bool> {
    if runs >= MAX_RUNS {
        return Ok(false);
    }
    if error.lacks_audit_partition() {
        // The first write of a month creates the partition of its audit row.
        let mut db = services.db.acquire_connection(Consumer::Service).await?;
        database::ensure_partitions(&mut db, 0).await?;
        db.commit_and_release().await?;
        return Ok(true);
    }
    Ok(error.is_retryable() || error.is_session_lost())
}

/// Stores what would be forgotten with a request that has failed: that a call has ended which its client
/// could cancel, and what the request has noticed. Returns the error.
async fn fail(call: &Call<'_>, error: Error) -> Error {
    let database = &call.services.db;
    call.notice.settle(database, &call.services.config, false).await;
    if matches!(error, Error::TooLong(_)) {
        count_limit(call, Limit::ReadTime);
    }
    if let Some(client_call) = call.client_call
        && let Err(failure) = client_call.fail(database).await
    {
        tracing::warn!(error = ?failure, "the end of a call is not stored");
    }
    error
}

/// Whether a request can run twice although the first run may have had its effect: a read has none, and an
/// idempotency key keeps the second run from having it again.
fn is_repeatable<O: Operation>(call: &Call<'_>) -> bool {
    let has_key = call.claims.idempotency_key.is_some() && call.fingerprint.is_some();
    O::META.is_pure_read() || has_key
}

/// Returns how a request waits, or `None` for a request that does not.
fn waiting_request<'a, O: Operation>(
    call: &'a Call<'_>,
    input: &'a Value,
) -> Option<WaitingRequest<'a>> {
    let (poll, key) = (O::POLL?, call.key?);
    let services = call.services;
    let seconds = input["wait_seconds"].as_i64().unwrap_or_default();
    let time_to_wait = services.config.longest_wait(seconds);
    (!time_to_wait.is_zero()).then(|| WaitingRequest {
        waiter_id: call.client_call.map_or_else(Uuid::new_v4, |call| call.id),
        can_be_cancelled: call.client_call.is_some(),
        number: services.waiters.next_number(),
        waiters: &services.waiters,
        key: key.number,
        db: &services.db,
        config: &services.config,
        started: call.request.started,
        time_limit: &call.request.time_limit,
        input,
        poll,
        time_to_wait,
    })
}

/// Adds the limit that kept a request from waiting to its refusal, and counts it.
fn tell_limit(call: &Call<'_>, reply: Reply, limit: Option<Limit>) -> Result<Reply> {
    let Some(limit) = limit else { return Ok(reply) };
    count_limit(call, limit);
    if reply.should_wait { reply.tell_wait_limit(limit) } else { Ok(reply) }
}

fn count_limit(call: &Call<'_>, limit: Limit) {
    let (workspace, agent_id) = (call.claims.workspace.as_deref(), call.request.log.agent());
    let party = Party { workspace, agent_id, ..call.request.party(call.key) };
    call.services.metrics.limits.count(limit, party);
}

/// Runs a request that can wait, once.
fn run_waiting<'a, O: Operation>(
    call: &'a Call<'_>,
    input: &'a Value,
    wait: Wait,
    has_begun: &'a AtomicBool,
) -> BoxFuture<'a, Result<RunOutcome<Reply>>> {
    Box::pin(async move {
        let (reply, caller) = run::<O>(call, input, Some(wait), has_begun).await?;
        let gives_up = call.claims.door == Door::Mcp && reply.waits_for_itself;
        let next = match reply.should_wait {
            true if gives_up => NextStep::GiveUp,
            true => NextStep::Wait(caller),
            false => NextStep::Answer,
        };
        Ok((reply, next))
    })
}

fn deserialize<O: Operation>(input: &Value) -> Result<O> {
    O::deserialize(input).map_err(|error| Error::Internal(error.into()))
}

/// Runs an operation once, or returns the answer that is stored for the idempotency key.
async fn answer<O: Operation>(
    call: &Call<'_>,
    operation: O,
    caller: &Caller,
    db: &mut Db,
    wait: Option<Wait>,
) -> Result<Reply> {
    let services = call.services;
    let config = &services.config;
    let cx = Context { services, config, db, caller, request: call.request, key: call.key, wait };
    match (&call.claims.idempotency_key, &call.fingerprint) {
        (Some(key), Some(fingerprint)) => {
            idempotency::run_once(key, fingerprint, operation, cx).await
        }
        _ => {
            cx.db.limit_statements(O::META.is_pure_read().then_some(config.read_time));
            let Context { db, .. } = cx;
            let answer = operation.run(Context { db: &mut *db, ..cx }).await;
            db.limit_statements(None);
            Reply::new::<O>(&answer?, caller, wait)
        }
    }
}

/// Ends the transaction of a run that its client can cancel, and the call, unless it waits.
async fn end_run<O: Operation>(
    call: &Call<'_>,
    client_call: &ClientCall,
    caller: &Caller,
    (result, is_last): (&Result<Reply>, bool),
    db: &mut Db,
) -> Result<()> {
    match result {
        Ok(reply) => {
            if is_last || !reply.should_wait {
                let (taken, key) = (reply.taken.as_ref(), call.claims.idempotency_key.as_deref());
                client_call.end(caller, O::META.id, taken, key, db).await?;
            }
            client_call.commit_run(caller, db).await
        }
        // The transition has recorded the refusal in this transaction.
        Err(Error::Forbidden(_) | Error::QuotaExceeded(_)) => {
            client_call.commit_run(caller, db).await
        }
        Err(error) if error.is_session_lost() => db.rollback().await,
        // The connection is closed.
        Err(error) if error.breaks_connection() => Ok(()),
        Err(_) => db.rollback().await,
    }
}

/// Authorizes, runs and records an operation, on a connection of its own, in the order that
/// `docs/api-design.md#order-of-checks` fixes: identity, workspace, policy, idempotency, the operation. Sets
/// `has_begun` before the operation, which may write.
async fn run<O: Operation>(
    call: &Call<'_>,
    input: &Value,
    wait: Option<Wait>,
    has_begun: &AtomicBool,
) -> Result<(Reply, Caller)> {
    let services = call.services;
    let operation: O = deserialize(input)?;
    let target = operation.target().into_owned();
    let mut db = services.db.connect_lazily(call.consumer());
    let result = match authorize(call, &O::META, input, &target, &mut db).await {
        Ok(caller) => {
            has_begun.store(true, Ordering::Relaxed);
            match run_authorized(call, operation, &caller, &mut db, wait).await {
                Err(error) if error.is_session_lost() => {
                    // First gives its connection back: the pool can have only one.
                    db.release();
                    drop(db);
                    call.notice.revive(&services.db, &services.config, &caller).await?;
                    return Err(error);
                }
                result => result.map(|reply| (reply, caller)),
            }
        }
        Err(error) => Err(error),
    };
    // After a failure of the database the state of the connection is unknown: it is closed.
    if result.as_ref().is_err_and(Error::breaks_connection) {
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
async fn run_authorized<O: Operation>(
    call: &Call<'_>,
    operation: O,
    caller: &Caller,
    db: &mut Db,
    wait: Option<Wait>,
) -> Result<Reply> {
    let reply = match call.client_call.zip(wait) {
        None => answer(call, operation, caller, db, wait).await?,
        Some((client_call, Wait { can_wait, .. })) => {
            client_call.begin_run(caller, db).await?;
            let result = answer(call, operation, caller, db, wait).await;
            end_run::<O>(call, client_call, caller, (&result, !can_wait), db).await?;
            result?
        }
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
