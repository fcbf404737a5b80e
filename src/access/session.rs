//! Who speaks for which session, decided here for every door: the table in `docs/states.md`. Connections and
//! sessions are in the database, because any replica can answer any request of a connection.
use super::{claims::Claims, kinds::Door};
use crate::{
    config::{Config, Quota},
    database::Db,
    values::{Error, Result},
};

/// Returns the session that a request names: in its input, where the operation reads it there, else in its
/// header. A call that names a session acts in it, and is a heartbeat for it alone.
pub(super) fn named_session(in_input: Option<&str>, claims: &Claims) -> Option<String> {
    in_input.or(claims.session_id.as_deref()).map(str::to_owned)
}

/// Returns the session in which a call of an agent acts. A call that names none acts, over MCP, in the
/// session registered through its connection or, without a connection, in the one live session of the agent.
/// It is a heartbeat for every live session of its agent, which `authorize` records once the call is permitted.
/// Over HTTP it acts in no session, and its transition records these heartbeats.
///
/// # Errors
/// [`Error::ConnectionEnded`] when the client has ended the connection.
pub(crate) async fn find_session(
    db: &mut Db,
    config: &Config,
    claims: &Claims,
    (workspace, agent_id): (&str, &str),
    named: Option<String>,
) -> Result<Option<String>> {
    if claims.door == Door::Http || (claims.connection_id.is_none() && named.is_some()) {
        return Ok(named);
    }
    let found = sqlx::query!(
        r#"select session_id, has_ended as "has_ended!" from find_session($1, $2, $3, $4, $5)"#,
        workspace,
        agent_id,
        claims.connection_id,
        named,
        config.session_timeout(),
    )
    .fetch_one(db)
    .await?;
    if found.has_ended { Err(Error::ConnectionEnded) } else { Ok(found.session_id) }
}

/// Ends a connection for good. Its session stays live until it is ended or times out. Returns the reason
/// where a quota does not allow to store the end of a connection that is not known.
pub(crate) async fn end_connection(
    db: &mut Db,
    config: &Config,
    (workspace, agent_id): (&str, &str),
    connection_id: &str,
) -> Result<Option<String>> {
    let refusal = sqlx::query_scalar!(
        "select end_mcp_connection($1, $2, $3, $4)",
        workspace,
        agent_id,
        connection_id,
        &config.quotas.of(Quota::McpConnections),
    )
    .fetch_one(db)
    .await?;
    Ok(refusal)
}
