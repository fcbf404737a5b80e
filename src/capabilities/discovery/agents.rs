//! The list of agents at work.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    operation::{Context, Meta, Operation, Tool},
    values::{Limit, ListPage, Result, Timestamp, list_page::default_limit},
};

/// See who else is at work, what they can do and what they are doing, before you ask for help or
/// divide work.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DiscoverAgents {
    /// Only sessions that declare this capability.
    #[schemars(extend("x-max-bytes" = 256))]
    pub capability: Option<String>,
    /// Only sessions in this state: `active`, `idle` (silent for 15 minutes) or `disconnected`;
    /// absent: all but the disconnected.
    #[schemars(extend("x-max-bytes" = 256))]
    pub status: Option<String>,
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// Sessions, the last heard first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentList {
    /// One member for each session.
    pub agents: Vec<AgentSession>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
}

/// A session of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct AgentSession {
    /// The agent.
    pub agent_id: String,
    /// Type of the agent.
    pub agent_type: String,
    /// The session.
    pub session_id: String,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// `active`, `idle` or `disconnected`.
    pub status: String,
    /// What it is working on.
    pub current_task: Option<String>,
    /// When it was last heard.
    pub last_heartbeat: Timestamp,
    /// When it was first registered.
    pub started_at: Timestamp,
    /// The role it plays in the current phase.
    pub phase_archetype: Option<String>,
    /// The agent that it works for.
    pub delegated_from: Option<String>,
    /// Anything else that it told.
    #[schemars(extend("type" = "object"))]
    pub metadata: Value,
}

impl Operation for DiscoverAgents {
    type Output = AgentList;
    const META: Meta = Meta::read("discover_agents")
        .at(&["GET /discovery/agents"])
        .open()
        .tool(Tool::named("discover_agents").hide(&["limit"]));

    fn example() -> Value {
        json!({ "capability": "rust" })
    }

    async fn run(self, cx: Context<'_>) -> Result<AgentList> {
        let limit = Limit::new(self.limit);
        let given = |filter: Option<String>| filter.filter(|it| !it.is_empty());
        // In two parts, of which one is skipped: those that are live, which an index tells from the many
        // that are not, and the others, which an index has in this order.
        let rows = sqlx::query_as!(
            AgentSession,
            r#"
            select
                agent_id as "agent_id!", agent_type as "agent_type!", session_id as "session_id!",
                capabilities as "capabilities!", status as "status!", current_task,
                last_heartbeat_at as "last_heartbeat!: Timestamp",
                started_at as "started_at!: Timestamp", phase_archetype, delegated_from,
                metadata as "metadata!"
            from (
                select *, session_status(
                    ended_at, last_heartbeat_at, $5, statement_timestamp()) as status
                from agent_session
                where workspace = $1 and $3 is distinct from 'disconnected'
                    and is_session_live(ended_at, last_heartbeat_at, $5, statement_timestamp())
                    and ($2::text is null or $2 = any(capabilities))
                union all (
                    select *, 'disconnected'
                    from agent_session
                    where workspace = $1 and $3 = 'disconnected'
                        and not is_session_live(ended_at, last_heartbeat_at, $5, statement_timestamp())
                        and ($2::text is null or $2 = any(capabilities))
                    order by last_heartbeat_at desc, agent_id, session_id
                    limit $4
                )
            ) listed
            where $3::text is null or status = $3
            order by last_heartbeat_at desc, agent_id, session_id
            limit $4
            "#,
            cx.caller.workspace,
            given(self.capability),
            given(self.status),
            limit.rows(),
            cx.config.session_timeout(),
        )
        .fetch_all(cx.db)
        .await?;
        let (agents, page) = limit.cut(rows);
        Ok(AgentList { agents, page })
    }
}
