//! MCP connections: the session of each connection, and whether the client has ended it. Both are stored in
//! the database, because any replica can answer any request of a connection.
use super::caller::Caller;
use crate::{
    database::Db,
    values::{Error, Result},
};

struct Row {
    session_id: Option<String>,
    has_ended: bool,
}

/// Sets the connection of a caller and, where the request names no session, the session that was
/// registered through the connection.
///
/// # Errors
/// [`Error::ConnectionEnded`] when the client has ended the connection.
pub(crate) async fn join_connection(
    db: &mut Db,
    caller: &mut Caller,
    connection_id: &str,
) -> Result<()> {
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

/// Ends a connection for good. Its session stays live until it is ended or times out.
pub(crate) async fn end_connection(
    db: &mut Db,
    caller: &Caller,
    connection_id: &str,
) -> Result<()> {
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
