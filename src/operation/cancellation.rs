//! Cancellation of calls over MCP that wait: `notifications/cancelled`, or a client that has disconnected.
//! The cancellation can arrive at another replica than the one that serves the call.
use futures_util::future::BoxFuture;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    client_call::ClientCall, context::Context, execute::prepare_next_run, registry::Operations,
    request::Call,
};
use crate::{
    access::Caller,
    database::Consumer,
    values::{Error, Result},
};

/// What a cancellation names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cancelled<'a> {
    /// The request of a client: its connection, empty without one, and the id of the request as JSON.
    Request { connection_id: &'a str, request_id: &'a str },
    /// A call of this process, whose client has disconnected.
    Call(&'a ClientCall),
}

struct Taken {
    operation: Option<String>,
    taken: Option<Json<Value>>,
}

/// Cancels a call of a caller, and gives back what it has taken. Unknown calls are stored, because the
/// cancellation can have overtaken its call.
///
/// These are two transactions: whatever becomes of the second one, the call takes nothing from now on.
pub(crate) async fn cancel(
    call: &Call<'_>,
    operations: &Operations,
    caller: &Caller,
    cancelled: Cancelled<'_>,
) -> Result<()> {
    let stored = repeat(call, &|| Box::pin(store(call, caller, cancelled))).await?;
    let Some(id) = stored else { return Ok(()) };
    let given_back = repeat(call, &|| Box::pin(give_back(call, operations, caller, id))).await;
    // A notification has no answer that could tell what a revived session had lost.
    call.notice.settle(&call.services.db, &call.services.config, false).await;
    given_back
}

/// Runs a transaction again where `execute` would run an operation again. It has its effect once, however
/// often it runs.
async fn repeat<'a, T>(
    call: &Call<'_>,
    run: &(dyn Fn() -> BoxFuture<'a, Result<T>> + Sync),
) -> Result<T> {
    let mut runs = 1;
    loop {
        let error = match call.services.db.with_fresh_connection(run).await {
            Err(error) => error,
            result => return result,
        };
        if !prepare_next_run(call.services, &error, runs).await? {
            return Err(error);
        }
        tracing::info!(%error, "run a cancellation again");
        runs += 1;
    }
}

/// Stores the cancellation. Returns the id of the call, unless none is meant.
async fn store(call: &Call<'_>, caller: &Caller, cancelled: Cancelled<'_>) -> Result<Option<Uuid>> {
    let mut db = call.services.db.connect_lazily(Consumer::workspace(&caller.workspace));
    let id = match cancelled {
        Cancelled::Request { connection_id, request_id } => {
            sqlx::query_scalar!(
                "select cancel_mcp_request($1, $2, $3, $4)",
                caller.workspace,
                caller.agent_id,
                connection_id,
                request_id,
            )
            .fetch_one(&mut db)
            .await?
        }
        Cancelled::Call(call) => {
            sqlx::query_scalar!(
                "select cancel_mcp_call($1, $2, $3, $4)",
                caller.workspace,
                call.id,
                caller.agent_id,
                call.request_id,
            )
            .fetch_one(&mut db)
            .await?
        }
    };
    db.commit_and_release().await?;
    Ok(id)
}

/// Gives back what a cancelled call has taken. Revives the session of the caller if it is lost.
async fn give_back(
    call: &Call<'_>,
    operations: &Operations,
    caller: &Caller,
    id: Uuid,
) -> Result<()> {
    let result = give_back_once(call, operations, caller, id).await;
    if result.as_ref().is_err_and(Error::is_session_lost) {
        call.notice.revive(&call.services.db, &call.services.config, caller).await?;
    }
    result
}

async fn give_back_once(
    call: &Call<'_>,
    operations: &Operations,
    caller: &Caller,
    id: Uuid,
) -> Result<()> {
    let services = call.services;
    let mut db = services.db.connect_lazily(Consumer::workspace(&caller.workspace));
    db.begin().await?;
    let taken = sqlx::query_as!(
        Taken,
        r#"select operation, taken as "taken: Json<Value>" from take_mcp_call_back($1, $2)"#,
        caller.workspace,
        id,
    )
    .fetch_one(&mut db)
    .await?;
    if let (Some(name), Some(Json(taken))) = (taken.operation, taken.taken)
        && let Some(operation) = operations.iter().find(|operation| operation.meta.id == name)
    {
        let cx = Context {
            services,
            config: &services.config,
            db: &mut db,
            caller,
            request: call.request,
            key: call.key,
            wait: None,
        };
        (operation.give_back)(&taken, cx).await?;
    }
    db.commit().await?;
    db.commit_and_release().await
}
