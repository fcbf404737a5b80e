//! MCP connections: which session of its agent each one speaks for. A row in the database says so,
//! because any replica may answer any request of a connection.
use crate::{Result, auth::Caller, db::Db};

/// Names the caller's connection and, where the request names no session itself, the session that
/// was registered through it.
pub(crate) async fn join(db: &mut Db, caller: &mut Caller, connection_id: &str) -> Result<()> {
    if caller.session_id.is_none() {
        caller.session_id = sqlx::query_scalar!(
            "select session_id from mcp_connection
             where workspace = $1 and agent_id = $2 and connection_id = $3",
            caller.workspace,
            caller.agent_id,
            connection_id,
        )
        .fetch_optional(db)
        .await?;
    }
    caller.connection_id = Some(connection_id.to_owned());
    Ok(())
}

/// Forgets the caller's connection. Its session goes on until it is ended or falls silent.
pub(crate) async fn close(db: &mut Db, caller: &Caller, connection_id: &str) -> Result<()> {
    sqlx::query!(
        "delete from mcp_connection
         where workspace = $1 and agent_id = $2 and connection_id = $3",
        caller.workspace,
        caller.agent_id,
        connection_id,
    )
    .execute(db)
    .await?;
    Ok(())
}
