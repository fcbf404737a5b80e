//! The end of sessions, one by one or all that are silent. What a session holds is known to the
//! database's function `end_sessions` alone.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::postgres::types::PgInterval;

use super::SESSION_NOT_FOUND;
use crate::{
    Result,
    audit::audited_unheard,
    operation::{Context, IdentityMode, Meta, Operation},
    tool::Tool,
};

/// End your session when your work is done: its locks, claims and ports are free at once. Your other
/// sessions keep theirs.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DeregisterSession {
    /// The session to end, one of your own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: String,
}

/// What the end of a session set free.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EndedSession {
    /// Whether the session has ended, now or earlier.
    pub success: bool,
    /// The session.
    pub session_id: Option<String>,
    /// `session_not_found` when you have registered no such session.
    pub error: Option<&'static str>,
    /// Locks that it held.
    pub locks_released: i64,
    /// Claimed tasks that others may claim now.
    pub tasks_requeued: i64,
    /// Port blocks that it held.
    pub ports_released: i64,
    /// Whether it was this call that ended it.
    #[serde(skip)]
    ended_now: bool,
}

struct EndedRow {
    is_known: bool,
    sessions: i64,
    locks_released: i64,
    tasks_requeued: i64,
    ports_released: i64,
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
        answer.ended_now
    }

    async fn run(self, cx: Context<'_>) -> Result<EndedSession> {
        let row = audited_unheard!(
            EndedRow,
            cx,
            Self::META.audit(),
            json!({ "session_id": self.session_id, "capabilities": Value::Null }),
            r#"
            unbound as (
                delete from mcp_connection
                where workspace = $1 and agent_id = $2 and session_id = $10
            ), judged as (
                select exists (
                    select from agent_session
                    where workspace = $1 and agent_id = $2 and session_id = $10
                ) as is_known
            ), op as (
                select
                    j.is_known, e.sessions, e.locks_released, e.tasks_requeued, e.ports_released,
                    j.is_known as audit_success,
                    case when j.is_known then '{}'::jsonb
                        else jsonb_build_object('reason', $11::text) end as audit_result
                from judged j, end_sessions($1, $2, $10, null, false) e
                where $9::interval is not null
            )
            "#,
            r#"
            op.is_known as "is_known!", op.sessions as "sessions!",
            op.locks_released as "locks_released!", op.tasks_requeued as "tasks_requeued!",
            op.ports_released as "ports_released!"
            "#,
            self.session_id,
            SESSION_NOT_FOUND,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(EndedSession {
            success: row.is_known,
            session_id: row.is_known.then_some(self.session_id),
            error: (!row.is_known).then_some(SESSION_NOT_FOUND),
            locks_released: row.locks_released,
            tasks_requeued: row.tasks_requeued,
            ports_released: row.ports_released,
            ended_now: row.sessions > 0,
        })
    }
}

/// End all sessions that have been silent for too long and free what they hold. Needs elevated
/// trust; try it with `dry_run` first.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CleanupAgents {
    /// Minutes of silence after which a session is ended.
    #[serde(default = "default_stale_threshold_minutes")]
    #[schemars(range(min = 1, max = 10080))]
    pub stale_threshold_minutes: i32,
    /// The same; wins when both are given.
    #[schemars(range(min = 1, max = 10080))]
    pub idle_minutes: Option<i32>,
    /// Only count, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

fn default_stale_threshold_minutes() -> i32 {
    15
}

/// What a clean-up ended and set free, or would have.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CleanedUp {
    /// True.
    pub success: bool,
    /// Agents of which a session was ended.
    pub agents_cleaned: i64,
    /// Locks that those sessions held.
    pub locks_released: i64,
    /// Sessions that were ended.
    pub sessions_cleaned: i64,
    /// Claimed tasks that others may claim now.
    pub tasks_requeued: i64,
    /// Port blocks that those sessions held.
    pub ports_released: i64,
    /// Whether nothing was changed because that was asked for.
    pub dry_run: bool,
}

struct CleanedRow {
    agents: i64,
    sessions: i64,
    locks_released: i64,
    tasks_requeued: i64,
    ports_released: i64,
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
        answer.sessions_cleaned > 0 && !answer.dry_run
    }

    async fn run(self, cx: Context<'_>) -> Result<CleanedUp> {
        let minutes = self.idle_minutes.unwrap_or(self.stale_threshold_minutes);
        let silence =
            PgInterval { months: 0, days: 0, microseconds: i64::from(minutes) * 60_000_000 };
        // Who asks is not silent: the caller's own session is heard first.
        let row = audited_unheard!(
            CleanedRow,
            cx,
            Self::META.audit(),
            json!({ "stale_threshold_minutes": minutes, "dry_run": self.dry_run }),
            r#"
            heard as materialized (
                select touch_session($1, $2, $4, $9::interval) as wrote
            ), op as (
                select
                    e.agents, e.sessions, e.locks_released, e.tasks_requeued, e.ports_released,
                    true as audit_success,
                    jsonb_build_object(
                        'agents_cleaned', e.agents,
                        'locks_released', e.locks_released,
                        'sessions_cleaned', e.sessions,
                        'tasks_requeued', e.tasks_requeued,
                        'ports_released', e.ports_released
                    ) as audit_result
                from heard
                cross join lateral
                    end_sessions($1, null, null, $10, $11 and heard.wrote is not null) e
            )
            "#,
            r#"
            op.agents as "agents!", op.sessions as "sessions!",
            op.locks_released as "locks_released!", op.tasks_requeued as "tasks_requeued!",
            op.ports_released as "ports_released!"
            "#,
            silence,
            self.dry_run,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(CleanedUp {
            success: true,
            agents_cleaned: row.agents,
            locks_released: row.locks_released,
            sessions_cleaned: row.sessions,
            tasks_requeued: row.tasks_requeued,
            ports_released: row.ports_released,
            dry_run: self.dry_run,
        })
    }
}
