//! Calls that their clients can cancel while they wait. `client_call.sql` says why no cancelled call keeps
//! what it takes.
//!
//! The cancellation is stored. The poll of the waiters finds it and lets the call run once more, and that
//! run takes nothing.
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::Value;
use uuid::Uuid;

use crate::{
    access::Caller,
    database::{Consumer, Database, Db},
    values::{Error, Result},
};

/// How much longer a call can take than it waits.
const GRACE: Duration = Duration::from_secs(60);

/// A call that its client can cancel while it waits.
#[derive(Debug)]
pub(crate) struct ClientCall {
    /// Identifies the call among those of all replicas.
    pub(crate) id: Uuid,
    /// The MCP connection of the client. Empty without one.
    pub(crate) connection_id: String,
    /// The id of the request, as JSON.
    pub(crate) request_id: String,
    pub(crate) time_to_wait: Duration,
    /// The workspace in which the call is stored, once a run of it was committed.
    stored_in: OnceLock<String>,
}

impl ClientCall {
    /// Creates a call that has not begun, of a client with this connection, which is empty without one.
    pub(crate) fn new(connection_id: String, request_id: String, time_to_wait: Duration) -> Self {
        let (id, stored_in) = (Uuid::new_v4(), OnceLock::new());
        Self { id, connection_id, request_id, time_to_wait, stored_in }
    }

    /// Begins a transaction for a run.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the client has cancelled the call.
    pub(super) async fn begin_run(&self, caller: &Caller, db: &mut Db) -> Result<()> {
        db.begin().await?;
        let lifetime = self.time_to_wait + GRACE;
        let is_cancelled = sqlx::query_scalar!(
            r#"select begin_mcp_call_run($1, $2, $3, $4, $5, make_interval(secs => $6), $7)
               as "cancelled!""#,
            caller.workspace,
            self.id,
            caller.agent_id,
            self.connection_id,
            self.request_id,
            lifetime.as_secs_f64(),
            self.stored_in.get().is_some(),
        )
        .fetch_one(&mut *db)
        .await?;
        if is_cancelled {
            db.commit().await?;
            return Err(Error::Cancelled);
        }
        Ok(())
    }

    /// Commits the transaction of a run, which stores the call.
    pub(super) async fn commit_run(&self, caller: &Caller, db: &mut Db) -> Result<()> {
        db.commit().await?;
        self.stored_in.get_or_init(|| caller.workspace.clone());
        Ok(())
    }

    /// Stores that the call has ended with an error, if it is stored. Its last run was rolled back, and with
    /// that its end: the call would count as running until its time is over.
    pub(super) async fn fail(&self, database: &Arc<Database>) -> Result<()> {
        let Some(workspace) = self.stored_in.get() else { return Ok(()) };
        let mut db = database.acquire_connection(Consumer::workspace(workspace)).await?;
        sqlx::query!("select fail_mcp_call($1, $2)", workspace, self.id).execute(&mut db).await?;
        db.commit_and_release().await
    }

    /// Stores that the call has ended, in the transaction of its last run, and what that has taken.
    pub(super) async fn end(
        &self,
        caller: &Caller,
        operation: &str,
        taken: Option<&Value>,
        idempotency_key: Option<&str>,
        db: &mut Db,
    ) -> Result<()> {
        sqlx::query!(
            "select end_mcp_call($1, $2, $3, $4, $5)",
            caller.workspace,
            self.id,
            operation,
            taken,
            idempotency_key,
        )
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Returns the waiters whose clients have cancelled their calls.
pub(super) async fn find_cancelled(
    db: &mut Db,
    workspace: &str,
    waiters: &[Uuid],
) -> Result<Vec<Uuid>> {
    let cancelled = sqlx::query_scalar!(
        "select id from mcp_call
         where workspace = $1 and id = any($2) and cancelled_at is not null",
        workspace,
        waiters,
    )
    .fetch_all(db)
    .await?;
    Ok(cancelled)
}
