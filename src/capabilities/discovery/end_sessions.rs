//! Ending sessions: one by name, or all that have been silent for too long. Only the database
//! function `end_session` knows what a session holds.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::session::SESSION_NOT_FOUND;
use crate::{
    access::IdentityMode,
    operation::{Context, Meta, Operation, Tool},
    values::Result,
};

/// End your session when your work is done. Its locks, claims and ports are freed at once; your
/// other sessions keep theirs.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DeregisterSession {
    /// Id of the session to end, which must be your own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: String,
}

/// What the end of a session freed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EndedSession {
    /// Whether the session has ended, by this call or before.
    pub success: bool,
    /// Id of the session. Null if it was not found.
    pub session_id: Option<String>,
    /// `session_not_found` if you have not registered such a session.
    pub error: Option<&'static str>,
    /// Number of locks that were released.
    pub locks_released: i64,
    /// Number of claimed tasks that other agents can claim now.
    pub tasks_requeued: i64,
    /// Number of port blocks that were released.
    pub ports_released: i64,
    /// Whether this call ended the session.
    #[serde(skip)]
    took_effect: bool,
}

impl Operation for DeregisterSession {
    type Output = EndedSession;
    const META: Meta = Meta::write("deregister_session")
        .at(&["POST /discovery/deregister"])
        .identity(IdentityMode::Strict)
        .recorded_as("deregister_agent")
        .tool(Tool::named("deregister_session").show(&["session_id"]));

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "session_id": "s-1" })
    }

    fn took_effect(answer: &EndedSession) -> bool {
        answer.took_effect
    }

    async fn run(self, mut cx: Context<'_>) -> Result<EndedSession> {
        let mut freed = Freed::default();
        loop {
            let batch = self.end_batch(&mut cx).await?;
            freed.add(&batch);
            if !batch.more {
                return Ok(EndedSession {
                    success: batch.is_known,
                    session_id: batch.is_known.then_some(self.session_id),
                    error: (!batch.is_known).then_some(SESSION_NOT_FOUND),
                    locks_released: freed.locks,
                    tasks_requeued: freed.tasks,
                    ports_released: freed.ports,
                    took_effect: batch.sessions > 0,
                });
            }
        }
    }
}

/// The result of the database function `deregister_session`.
#[derive(Debug)]
struct Batch {
    is_known: bool,
    sessions: i64,
    locks_released: i64,
    tasks_requeued: i64,
    ports_released: i64,
    /// Whether the session holds more.
    more: bool,
}

/// What all batches have freed.
#[derive(Debug, Default)]
struct Freed {
    locks: i64,
    tasks: i64,
    ports: i64,
}

impl Freed {
    fn add(&mut self, batch: &Batch) {
        self.locks += batch.locks_released;
        self.tasks += batch.tasks_requeued;
        self.ports += batch.ports_released;
    }
}

impl DeregisterSession {
    /// Releases a batch of what the session holds, in a transaction of its own unless the request has an
    /// idempotency key, and ends the session once it holds nothing.
    async fn end_batch(&self, cx: &mut Context<'_>) -> Result<Batch> {
        let batch = sqlx::query_as!(
            Batch,
            r#"
            select
                is_known as "is_known!", sessions as "sessions!",
                locks_released as "locks_released!", tasks_requeued as "tasks_requeued!",
                ports_released as "ports_released!", more as "more!"
            from deregister_session($1, row($2, $3, $4, $5, $6, $7)::request, $8)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.session_id,
        )
        .fetch_one(&mut *cx.db)
        .await?;
        Ok(batch)
    }
}

/// End all sessions that have been silent for too long, and free what they hold. Needs elevated
/// trust. Try it with `dry_run` first, and repeat it while the answer has `more`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CleanupAgents {
    /// Minutes of silence after which a session is ended, 1 to 10080.
    #[serde(default = "default_stale_threshold_minutes")]
    #[schemars(range(min = 1, max = 10080))]
    pub stale_threshold_minutes: i32,
    /// Another name for `stale_threshold_minutes`. If both are given, `idle_minutes` applies.
    #[schemars(range(min = 1, max = 10080))]
    pub idle_minutes: Option<i32>,
    /// Whether to count only, without changing anything.
    #[serde(default)]
    pub dry_run: bool,
}

fn default_stale_threshold_minutes() -> i32 {
    15
}

/// What a clean-up freed, or would have freed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CleanedUp {
    /// Always true.
    pub success: bool,
    /// Number of agents that had a session ended.
    pub agents_cleaned: i64,
    /// Number of locks that were released.
    pub locks_released: i64,
    /// Number of sessions that were ended.
    pub sessions_cleaned: i64,
    /// Number of claimed tasks that other agents can claim now.
    pub tasks_requeued: i64,
    /// Number of port blocks that were released.
    pub ports_released: i64,
    /// Whether nothing was changed, as requested.
    pub dry_run: bool,
    /// True if more is left than one call ends: call again. With `dry_run`, the numbers are then those of
    /// the first call. Otherwise absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
}

impl Operation for CleanupAgents {
    type Output = CleanedUp;
    const META: Meta = Meta::admin("cleanup_agents")
        .at(&["POST /discovery/cleanup"])
        .recorded_as("cleanup_dead_agents")
        .tool(Tool::named("cleanup_dead_agents").hide(&["idle_minutes"]));

    fn example() -> Value {
        json!({ "stale_threshold_minutes": 60, "dry_run": true })
    }

    fn took_effect(answer: &CleanedUp) -> bool {
        (answer.sessions_cleaned > 0 || answer.more.is_some()) && !answer.dry_run
    }

    async fn run(self, cx: Context<'_>) -> Result<CleanedUp> {
        let minutes = self.idle_minutes.unwrap_or(self.stale_threshold_minutes);
        let cleaned = sqlx::query_as!(
            CleanedUp,
            r#"
            select
                true as "success!", agents as "agents_cleaned!",
                locks_released as "locks_released!", sessions as "sessions_cleaned!",
                tasks_requeued as "tasks_requeued!", ports_released as "ports_released!",
                $9 as "dry_run!", nullif(more, false) as more
            from cleanup_sessions($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            minutes,
            self.dry_run,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(cleaned)
    }
}
