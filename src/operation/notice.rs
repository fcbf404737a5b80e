//! What an answer tells besides its own content: that the call has revived its session, and what that session
//! had lost.
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::{
    access::Caller,
    config::Config,
    database::{Consumer, Database},
    values::{Result, lock},
};

/// What a request noticed about its session before the run that answers it. The database keeps what the
/// session had lost until an answer tells it: the request can be dropped before that.
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
        let consumer = Consumer::workspace(&caller.workspace);
        let mut db = database.acquire_connection(consumer).await?;
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

    /// Returns what the session had lost, for the answer of the request, and settles that it is told. Where
    /// the request has failed, or its answer has no place for it, leaves it to the next call.
    pub(super) async fn settle(
        &self,
        database: &Arc<Database>,
        config: &Config,
        is_told: bool,
    ) -> Option<Value> {
        let mut loss = lock(&self.0).take()?;
        loss.settle(database, is_told).await;
        name_ports(config, &mut loss.lost);
        is_told.then_some(loss.lost)
    }
}

impl Loss {
    /// Settles whether an answer tells the loss. If that fails, a later call tells it again.
    async fn settle(&self, database: &Arc<Database>, is_told: bool) {
        let settled = async {
            let consumer = Consumer::workspace(&self.workspace);
            let mut db = database.acquire_connection(consumer).await?;
            sqlx::query!(
                "select settle_losses($1, $2, $3, $4)",
                self.workspace,
                self.agent_id,
                self.session_id,
                is_told.then_some(&self.lost),
            )
            .execute(&mut db)
            .await?;
            db.commit_and_release().await
        };
        if let Err(failure) = settled.await {
            tracing::warn!(error = ?failure, "the losses of a revived session are told again");
        }
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
