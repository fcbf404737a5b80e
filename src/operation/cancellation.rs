//! Cancellation of calls over MCP that wait: `notifications/cancelled`, or a client that has disconnected.
//! The cancellation can arrive at another replica than the one that serves the call.
use serde_json::Value;
use sqlx::types::Json;

use super::{client_call::ClientCall, context::Context, registry::Operations, request::Call};
use crate::{access::Caller, database::Db, values::Result};

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
pub(crate) async fn cancel(
    call: &Call<'_>,
    operations: &Operations,
    caller: &Caller,
    cancelled: Cancelled<'_>,
) -> Result<()> {
    let services = call.services;
    let mut db = services.db.connect_lazily();
    db.begin().await?;
    let taken = store(&mut db, caller, cancelled).await?;
    if let (Some(name), Some(Json(taken))) = (taken.operation, taken.taken)
        && let Some(operation) = operations.iter().find(|operation| operation.meta.id == name)
    {
        let cx = Context {
            services,
            config: &services.config,
            db: &mut db,
            caller,
            request: call.request,
            wait: None,
        };
        (operation.give_back)(&taken, cx).await?;
    }
    db.commit().await?;
    db.commit_and_release().await
}

async fn store(db: &mut Db, caller: &Caller, cancelled: Cancelled<'_>) -> Result<Taken> {
    let taken = match cancelled {
        Cancelled::Request { connection_id, request_id } => {
            sqlx::query_as!(
                Taken,
                r#"select operation, taken as "taken: Json<Value>"
                   from cancel_mcp_request($1, $2, $3, $4)"#,
                caller.workspace,
                caller.agent_id,
                connection_id,
                request_id,
            )
            .fetch_one(db)
            .await?
        }
        Cancelled::Call(call) => {
            sqlx::query_as!(
                Taken,
                r#"select operation, taken as "taken: Json<Value>"
                   from cancel_mcp_call($1, $2, $3, $4)"#,
                caller.workspace,
                call.id,
                caller.agent_id,
                call.request_id,
            )
            .fetch_one(db)
            .await?
        }
    };
    Ok(taken)
}
