//! Listing the sessions of agents.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    capabilities::filter::non_empty,
    operation::{Context, Meta, Operation, Tool},
    values::{
        Limit, ListPage, Order, RawJson, Result, Timestamp,
        list_page::{Entry, default_limit},
        read_cursor,
    },
};

/// See which other agents are at work, what they can do and what they are doing, before you ask for
/// help or divide work.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct DiscoverAgents {
    /// Only sessions that registered this capability. Empty or absent: any.
    #[schemars(extend("x-max-bytes" = 256))]
    pub capability: Option<String>,
    /// Only sessions in this state: `active`, `idle` (silent for 15 minutes) or `disconnected`.
    /// Empty or absent: `active` and `idle`.
    #[schemars(extend("x-max-bytes" = 256, "x-words" = ["active", "idle", "disconnected"]))]
    pub status: Option<String>,
    /// Maximum number of sessions, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<100>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// The `next_cursor` of an earlier answer, for the sessions after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub cursor: Option<String>,
}

/// Sessions, the one with the latest heartbeat first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentList {
    /// The sessions, one element each.
    pub agents: Vec<AgentSession>,
    /// How many sessions are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

/// A session of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct AgentSession {
    /// Id of the agent.
    pub agent_id: String,
    /// Type of the agent.
    pub agent_type: String,
    /// Id of the session.
    pub session_id: String,
    /// What the agent can do.
    pub capabilities: Vec<String>,
    /// `active`, `idle` or `disconnected`.
    pub status: String,
    /// What the agent is working on. Null if not given.
    pub current_task: Option<String>,
    /// When the last heartbeat was recorded.
    pub last_heartbeat: Timestamp,
    /// When the session was first registered.
    pub started_at: Timestamp,
    /// The agent's role in the current phase. Null if not given.
    pub phase_archetype: Option<String>,
    /// The agent that started this one. Null if none did.
    pub delegated_from: Option<String>,
    /// Anything else that the agent registered.
    #[schemars(with = "Value", extend("type" = "object"))]
    pub metadata: RawJson,
    /// Whether there are sessions after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for AgentSession {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

const ORDER: Order = Order::By(&["last_heartbeat", "agent_id", "session_id"]);

impl Operation for DiscoverAgents {
    type Output = AgentList;
    const META: Meta = Meta::read("discover_agents")
        .at(&["GET /discovery/agents"])
        .open()
        .tool(Tool::named("discover_agents").pages(ORDER));

    fn example() -> Value {
        json!({ "capability": "rust" })
    }

    async fn run(self, cx: Context<'_>) -> Result<AgentList> {
        let limit = Limit::new(self.limit);
        let after: Option<(Timestamp, String, String)> =
            read_cursor(self.cursor.as_deref(), |values| {
                Some((values.next()?, values.next()?, values.next()?))
            })?;
        let (last_heartbeat, agent_id, session_id) = after
            .map_or((None, None, None), |(time, agent, session)| {
                (Some(time), Some(agent), Some(session))
            });
        // Two parts, one of which is skipped: the live sessions, which an index separates from the many
        // ended ones, and the disconnected ones, which an index has in this order.
        let rows = sqlx::query_as!(
            AgentSession,
            r#"
            select
                agent_id as "agent_id!", agent_type as "agent_type!", session_id as "session_id!",
                capabilities as "capabilities!", status as "status!", current_task,
                last_heartbeat_at as "last_heartbeat!: Timestamp",
                started_at as "started_at!: Timestamp", phase_archetype, delegated_from,
                metadata as "metadata!: RawJson", has_more as "has_more!"
            from (
                select listed.*, row_number() over page as place, sum(stored_bytes) over page as bytes,
                    lead(true, 1, false) over page as has_more
                from (
                    select *, session_status(
                        ended_at, last_heartbeat_at, $5, statement_timestamp()) as status
                    from agent_session
                    where workspace = $1 and $3 is distinct from 'disconnected'
                        and is_session_live(ended_at, last_heartbeat_at, $5, statement_timestamp())
                        and ($2::text is null or $2 = any(capabilities))
                        and ($6::timestamptz is null or is_session_after(
                            last_heartbeat_at, agent_id, session_id, $6, $7, $8))
                    union all (
                        select *, 'disconnected'
                        from agent_session
                        where workspace = $1 and $3 = 'disconnected'
                            and not is_session_live(
                                ended_at, last_heartbeat_at, $5, statement_timestamp())
                            and ($2::text is null or $2 = any(capabilities))
                            and ($6::timestamptz is null or is_session_after(
                                last_heartbeat_at, agent_id, session_id, $6, $7, $8))
                        order by last_heartbeat_at desc, agent_id, session_id
                        limit $4
                    )
                ) listed
                where $3::text is null or status = $3
                window page as (
                    order by last_heartbeat_at desc, agent_id, session_id rows unbounded preceding)
                order by last_heartbeat_at desc, agent_id, session_id
                limit $4
            ) listed
            where is_on_page(place, bytes)
            order by place
            "#,
            cx.caller.workspace,
            non_empty(self.capability),
            non_empty(self.status),
            limit.rows(),
            cx.config.session_timeout(),
            last_heartbeat as Option<Timestamp>,
            agent_id,
            session_id,
        )
        .fetch_all(cx.db)
        .await?;
        let (agents, page) = limit.cut_in_order(rows, ORDER, self.cursor.as_deref());
        Ok(AgentList { agents, page })
    }
}
