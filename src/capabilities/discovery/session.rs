//! Registering a session and recording its heartbeats.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::types::Json;

use crate::{
    access::IdentityMode,
    operation::{Context, Meta, Operation, Tool},
    values::{Result, limits::MAX_ID_BYTES},
};

/// The caller has not registered this session. The function `deregister_session` records this too.
pub(super) const SESSION_NOT_FOUND: &str = "session_not_found";

/// Register your session when you start work. Other agents can then see you, and if you fall
/// silent, what you hold is freed instead of blocking them. Register again to change what you
/// registered.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RegisterSession {
    /// A name of your own for the session. Empty or absent: the service generates one and returns
    /// it.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// What you can do, such as `rust` or `review`, for other agents to find you by. Absent:
    /// nothing.
    #[schemars(extend("items" = { "type": "string", "x-max-bytes": 256 }))]
    pub capabilities: Option<Vec<String>>,
    /// What you are working on. Absent: not shown.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub current_task: Option<String>,
    /// The agent that started you. Absent: none.
    #[schemars(extend("x-max-bytes" = 256))]
    pub delegated_from: Option<String>,
    /// Anything else about the session, as an object; shown to other agents. Absent: none.
    pub metadata: Option<Map<String, Value>>,
    /// Your role in the current phase. Absent: none.
    #[schemars(extend("enum" = [
        "architect", "reviewer", "implementer", "analyst", "runner", "gatekeeper", null
    ]))]
    pub phase_archetype: Option<String>,
}

/// A registered session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegisteredSession {
    /// Always true.
    pub success: bool,
    /// Id of the session. Send it with every later call, except through the MCP connection that
    /// registered the session.
    pub session_id: String,
    /// Always null.
    pub error: Option<String>,
}

impl Operation for RegisterSession {
    type Output = RegisteredSession;
    const META: Meta = Meta::write("register_session")
        .at(&["POST /discovery/register"])
        .identity(IdentityMode::Strict)
        .recorded_as("register_agent")
        .tool(
            Tool::named("register_session")
                .show(&["session_id"])
                .hide(&["metadata", "phase_archetype"]),
        );

    fn example() -> Value {
        json!({
            "agent_id": "claude-1",
            "agent_type": "claude_code",
            "session_id": "s-1",
            "capabilities": ["rust"],
            "current_task": "parser",
        })
    }

    async fn run(self, cx: Context<'_>) -> Result<RegisteredSession> {
        let session_id = match &cx.caller.session_id {
            Some(session_id) => session_id.clone(),
            None => new_session_id(&cx.caller.agent_id),
        };
        let capabilities = self.capabilities.unwrap_or_default();
        sqlx::query!(
            r#"
            select register_session(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12, $13, $14
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            session_id,
            &capabilities,
            self.current_task,
            self.delegated_from,
            Json(self.metadata.unwrap_or_default()) as _,
            self.phase_archetype,
            cx.caller.connection_id,
        )
        .execute(cx.db)
        .await?;
        Ok(RegisteredSession { success: true, session_id, error: None })
    }
}

/// Returns a unique session id that begins with the agent id. A long agent id is cut, so that the
/// session id stays within the limit for ids.
fn new_session_id(agent_id: &str) -> String {
    let unique = uuid::Uuid::new_v4();
    let max_bytes = MAX_ID_BYTES - "-".len() - unique.to_string().len();
    format!("{}-{unique}", &agent_id[..agent_id.floor_char_boundary(max_bytes)])
}

/// Report that you are still at work, if you make no other call for a while. Any call that names
/// your session is a heartbeat too. Without a session, the heartbeat counts for your latest one.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Your role in the current phase. Absent: unchanged.
    #[schemars(extend("enum" = [
        "architect", "reviewer", "implementer", "analyst", "runner", "gatekeeper", null
    ]))]
    pub phase_archetype: Option<String>,
}

/// The outcome of a heartbeat.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RecordedHeartbeat {
    /// Whether the heartbeat was recorded.
    pub success: bool,
    /// Id of the session. Null if it was not found.
    pub session_id: Option<String>,
    /// `session_not_found` if you have not registered such a session.
    pub error: Option<&'static str>,
}

impl Operation for Heartbeat {
    type Output = RecordedHeartbeat;
    const META: Meta = Meta::read("heartbeat")
        .at(&["POST /discovery/heartbeat"])
        .identity(IdentityMode::Strict)
        .writes()
        .tool(Tool::named("heartbeat").hide(&["phase_archetype"]));

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "session_id": "s-1" })
    }

    async fn run(self, cx: Context<'_>) -> Result<RecordedHeartbeat> {
        let session_id = sqlx::query_scalar!(
            "select session_id from record_session_heartbeat($1, row($2, $3, $4, $5, $6, $7)::request, $8)",
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.phase_archetype,
        )
        .fetch_one(cx.db)
        .await?;
        let error = session_id.is_none().then_some(SESSION_NOT_FOUND);
        Ok(RecordedHeartbeat { success: error.is_none(), session_id, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_session_is_named_after_its_agent_and_can_be_sent() {
        let name = new_session_id("claude-1");
        let (agent, unique) = name.split_at("claude-1-".len());
        assert_eq!((agent, uuid::Uuid::try_parse(unique).is_ok()), ("claude-1-", true));
        assert_eq!(new_session_id(&"\u{e9}".repeat(128)).len(), MAX_ID_BYTES - 1);
    }
}
