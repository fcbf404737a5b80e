//! Registering a session and recording its heartbeats.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    access::{Door, IdentityMode},
    config::{Config, Quota},
    operation::{Context, Meta, Operation, Tool, name_ports},
    values::{RawJson, Result, Timestamp, limits::MAX_ID_BYTES},
};

/// The caller has not registered this session. The function `deregister_session` records this too.
pub(super) const SESSION_NOT_FOUND: &str = "session_not_found";

/// Register your session when you start work. Other agents can then see you, and if you fall
/// silent, what you hold is freed instead of blocking them. Register again to change what you
/// registered.
///
/// Pass the session id that your session hook printed, or the value of `CLAUDE_CODE_SESSION_ID`, if
/// you know it: your tools and your hooks then share one session. The answer lists what your other
/// sessions hold; after a restart, `adopt` takes it over.
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
    #[schemars(with = "Option<Map<String, Value>>")]
    pub metadata: Option<RawJson>,
    /// Your role in the current phase. Absent: none.
    #[schemars(extend("enum" = [
        "architect", "reviewer", "implementer", "analyst", "runner", "gatekeeper", null
    ]))]
    pub phase_archetype: Option<String>,
    /// Whether this session takes over what your other live sessions hold: after a restart, but not
    /// while they are still at work.
    #[serde(default)]
    pub adopt: bool,
}

/// The outcome of a registration.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegisteredSession {
    /// Whether the session is registered.
    pub success: bool,
    /// Id of the session. Send it with every later call, except through the MCP connection that
    /// registered the session. Null when refused.
    pub session_id: Option<String>,
    /// `quota_exceeded: <what you or the workspace have too much of>` when refused.
    pub error: Option<String>,
    /// What your other live sessions hold. Absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_elsewhere: Option<Held>,
    /// With `adopt`: what this session has taken over, with the tokens, which stay valid. Absent
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Held>,
    /// What your sessions have lost because they ended or fell silent, and you were not told yet:
    /// `locks`, `claims` and `ports`, together at most 100. If there are more, `truncated` is true, and
    /// the next registration tells them. Absent if nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<Value>,
}

/// What sessions of one agent hold.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Held {
    /// Locks, by their key.
    pub locks: Vec<HeldLock>,
    /// Claims of tasks. Other calls extend their leases from now on.
    pub claims: Vec<HeldClaim>,
    /// Blocks of ports.
    pub ports: Vec<HeldPorts>,
    /// Whether there are more than the 100 that each list can have.
    pub truncated: bool,
}

/// A lock of a session.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct HeldLock {
    /// The key in canonical form.
    pub file_path: String,
    /// The current fencing token. With it, any of your sessions can release the lock.
    pub fencing_token: i64,
    /// The session that holds, or held, the lock.
    pub session_id: String,
    /// When the lock expires unless it is refreshed.
    pub expires_at: Timestamp,
}

/// A claim of a session.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct HeldClaim {
    /// Id of the task.
    pub task_id: Uuid,
    /// Token of the claim. With it, any of your sessions can renew or complete the task.
    pub claim_token: String,
    /// The session that holds, or held, the claim.
    pub session_id: String,
    /// When the claim expires unless it is renewed.
    pub claim_expires_at: Timestamp,
}

/// A block of ports of a session.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HeldPorts {
    /// The first port of the block.
    pub db_port: i32,
    /// The session that holds, or held, the ports.
    pub session_id: String,
    /// When the ports are freed unless they are allocated again.
    pub expires_at: Timestamp,
}

/// What sessions hold, as the database function `held_lists` returns it.
#[derive(Debug, Deserialize)]
struct HeldRows {
    locks: Vec<HeldLock>,
    claims: Vec<HeldClaim>,
    ports: Vec<HeldSlot>,
    truncated: bool,
}

#[derive(Debug, Deserialize)]
struct HeldSlot {
    slot: i32,
    session_id: String,
    expires_at: Timestamp,
}

impl HeldRows {
    /// Names the ports of the slots.
    fn into_held(self, config: &Config) -> Held {
        let ports = self.ports.into_iter().map(|block| HeldPorts {
            db_port: config.ports.first_port(block.slot),
            session_id: block.session_id,
            expires_at: block.expires_at,
        });
        let Self { locks, claims, truncated, .. } = self;
        Held { locks, claims, ports: ports.collect(), truncated }
    }
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

    fn took_effect(answer: &RegisteredSession) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<RegisteredSession> {
        let session_id = match &cx.caller.session_id {
            Some(session_id) => session_id.clone(),
            None => find_newest_session(&mut cx)
                .await?
                .unwrap_or_else(|| new_session_id(&cx.caller.agent_id)),
        };
        let capabilities = self.capabilities.unwrap_or_default();
        let told = sqlx::query!(
            r#"
            select
                held_elsewhere as "held_elsewhere: Json<HeldRows>",
                adopted as "adopted: Json<HeldRows>", lost, refusal
            from begin_session(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12::text::json, $13,
                $14, $15, $16, $17
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
            self.metadata.map_or_else(|| "{}".to_owned(), RawJson::into_text),
            self.phase_archetype,
            cx.caller.connection_id,
            self.adopt,
            &cx.config.quotas.of(Quota::Sessions),
            &cx.config.quotas.of(Quota::McpConnections),
        )
        .fetch_one(&mut *cx.db)
        .await?;
        cx.count_refusal(told.refusal.as_deref().unwrap_or_default());
        let named = |Json(held): Json<HeldRows>| held.into_held(cx.config);
        let lost = told.lost.map(|mut lost| {
            name_ports(cx.config, &mut lost);
            lost
        });
        Ok(RegisteredSession {
            success: told.refusal.is_none(),
            session_id: told.refusal.is_none().then_some(session_id),
            error: told.refusal,
            held_elsewhere: told.held_elsewhere.map(named),
            adopted: told.adopted.map(named),
            lost,
        })
    }
}

/// Returns the session that an MCP client without a connection registers if it names none: the newest live one
/// of its agent and type. Such a client cannot be told apart from itself, so that a session of its own for each
/// registration would only add sessions.
async fn find_newest_session(cx: &mut Context<'_>) -> Result<Option<String>> {
    if cx.caller.door != Door::Mcp || cx.caller.connection_id.is_some() {
        return Ok(None);
    }
    let session_id = sqlx::query_scalar!(
        "select newest_live_session($1, $2, $3, $4)",
        cx.caller.workspace,
        cx.caller.agent_id,
        cx.caller.agent_type,
        cx.config.session_timeout(),
    )
    .fetch_one(&mut *cx.db)
    .await?;
    Ok(session_id)
}

/// Returns a unique session id that begins with the agent id. A long agent id is cut, so that the
/// session id stays within the limit for ids.
fn new_session_id(agent_id: &str) -> String {
    let unique = Uuid::new_v4();
    let max_bytes = MAX_ID_BYTES - "-".len() - unique.to_string().len();
    format!("{}-{unique}", &agent_id[..agent_id.floor_char_boundary(max_bytes)])
}

/// Report that you are still at work, if you make no other call for a while. Any other call is a
/// heartbeat too: one that names a session for that one, any other for all your live sessions.
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
