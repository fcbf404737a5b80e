//! What an answer tells besides its own content: that the call has revived its session, and what that session
//! had lost.
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::{
    access::Caller,
    config::Config,
    database::Database,
    values::{Result, lock},
};
/// What a request noticed about its session before the run that answers it.
#[derive(Debug, Default)]
pub(crate) struct Notice(Mutex<Option<Loss>>);

/// What a session had lost when a call revived it, as the database function `revive_session` returns it.
#[derive(Debug)]
struct Loss {
    workspace: String,
    agent_id: String,
    session_id: Option<String>,
    lost: Value,
}

impl Notice {
    /// Revives the session in which a call acts, in a transaction of its own, and remembers what it had lost.
    /// Where another call was faster, that call tells it.
    pub(super) async fn revive(
        &self,
        database: &Arc<Database>,
        config: &Config,
        caller: &Caller,
    ) -> Result<()> {
        let mut db = database.acquire_connection().await?;
        let lost = sqlx::query_scalar!(
            "select revive_session($1, $2, $3, $4)",
            caller.workspace,
            caller.agent_id,
            caller.session_id,
            config.session_timeout(),
        )
        .fetch_one(&mut db)
        .await?;
        db.commit_and_release().await?;
        if let Some(lost) = lost {
            let (workspace, agent_id) = (caller.workspace.clone(), caller.agent_id.clone());
            let session_id = caller.session_id.clone();
            *lock(&self.0) = Some(Loss { workspace, agent_id, session_id, lost });
        }
        Ok(())
    }

    /// Returns what the session had lost, for the answer of the request.
    pub(super) fn take(&self, config: &Config) -> Option<Value> {
        let mut lost = lock(&self.0).take()?.lost;
        name_ports(config, &mut lost);
        Some(lost)
    }

    /// Records what the session had lost for a later answer, because the request has failed.
    pub(super) async fn keep(&self, database: &Arc<Database>) -> Result<()> {
        let Some(loss) = lock(&self.0).take() else { return Ok(()) };
        let mut db = database.acquire_connection().await?;
        sqlx::query!(
            "select keep_losses($1, $2, $3, $4)",
            loss.workspace,
            loss.agent_id,
            loss.session_id,
            loss.lost,
        )
        .execute(&mut db)
        .await?;
        db.commit_and_release().await
    }
}

/// Names lost blocks of ports by their first port instead of their slot.
pub(crate) fn name_ports(config: &Config, lost: &mut Value) {
    for block in lost["ports"].as_array_mut().into_iter().flatten() {
        let Some(members) = block.as_object_mut() else { continue };
        let slot = members.remove("slot").and_then(|slot| slot.as_i64()).unwrap_or_default();
        members.insert("db_port".to_owned(), json!(config.ports.first_port(slot as i32)));
    }
}
