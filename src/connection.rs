//! MCP connections: which session of its agent each one speaks for, and which are over. A row in the
//! database says so, because any replica may answer any request of a connection.
use crate::{Error, Result, auth::Caller, db::Db};

struct Row {
    session_id: Option<String>,
    has_ended: bool,
}

/// Names the caller's connection and, where the request names no session itself, the session that
/// was registered through it.
///
/// # Errors
/// [`Error::ConnectionEnded`] when its client has ended it.
pub(crate) async fn join(db: &mut Db, caller: &mut Caller, connection_id: &str) -> Result<()> {
    let known = sqlx::query_as!(
        Row,
        "select session_id, has_ended from mcp_connection
         where workspace = $1 and agent_id = $2 and connection_id = $3",
        caller.workspace,
        caller.agent_id,
        connection_id,
    )
    .fetch_optional(db)
    .await?;
    if let Some(row) = known {
        if row.has_ended {
            return Err(Error::ConnectionEnded);
        }
        if caller.session_id.is_none() {
            caller.session_id = row.session_id;
        }
    }
    caller.connection_id = Some(connection_id.to_owned());
    Ok(())
}

/// Ends the caller's connection for good. Its session goes on until it is ended or falls silent.
pub(crate) async fn end(db: &mut Db, caller: &Caller, connection_id: &str) -> Result<()> {
    sqlx::query!(
        "select end_mcp_connection($1, $2, $3)",
        caller.workspace,
        caller.agent_id,
        connection_id,
    )
    .execute(db)
    .await?;
    Ok(())
}
