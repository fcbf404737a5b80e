//! Searching memories.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bm25::{Bm25, Ranks};
use crate::{
    access::IdentityMode,
    capabilities::filter::non_empty,
    operation::{Context, Meta, Operation, Tool},
    values::{Limit, ListPage, Result, Timestamp, list_page::default_limit},
};

/// The scope that includes the memories of every agent.
const WORKSPACE: &str = "workspace";

/// Search the memories before you start a task: by tag, type, time or words. The best match comes
/// first; older memories rank lower.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Recall {
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Only memories with at least one of these tags. Empty or absent: any.
    #[schemars(extend("items" = { "type": "string", "x-max-bytes": 256 }))]
    pub tags: Option<Vec<String>>,
    /// Only memories of this type. Empty or absent: any.
    #[schemars(extend("x-max-bytes" = 256))]
    pub event_type: Option<String>,
    /// Maximum number of memories, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<10>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// Words that must all occur in summary, lessons or tags, such as `E0433 locks.rs`. The last
    /// one can be the beginning of a word. Fewer words find more. Absent: every memory matches.
    #[schemars(extend("x-max-bytes" = 4096))]
    pub query: Option<String>,
    /// `own`: your memories. `workspace`: those of every agent.
    #[serde(default = "default_scope")]
    #[schemars(extend("enum" = ["own", "workspace"]))]
    pub scope: String,
    /// Minimum relevance, 0 to 1. The relevance of a new memory is 1 and falls by a tenth each day.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_relevance: f64,
    /// Only memories created at this time or later. Absent: of any age.
    pub since: Option<Timestamp>,
}

fn default_scope() -> String {
    "own".to_owned()
}

/// Memories, the best match first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MemoryList {
    /// The memories.
    pub memories: Vec<Memory>,
    /// How many memories are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
    /// True if the BM25 index failed: no memory is missing, but their order may be worse. Absent
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<bool>,
}

/// What an agent learned.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Memory {
    /// Id of the memory.
    pub id: String,
    /// Type of the event.
    pub event_type: String,
    /// What happened.
    pub summary: String,
    /// Structured data about the event.
    pub details: Value,
    /// How it turned out. Null if not given.
    pub outcome: Option<String>,
    /// What to do, or to avoid, next time.
    pub lessons: Vec<String>,
    /// Words to find the memory by.
    pub tags: Vec<String>,
    /// 1 for a new memory, falling by a tenth each day.
    pub relevance_score: f64,
    /// When the memory was first stored.
    pub created_at: Timestamp,
    /// The agent that stored the memory.
    pub agent_id: String,
    /// That agent's session. Null if it named none.
    pub session_id: Option<String>,
}

impl Operation for Recall {
    type Output = MemoryList;
    const META: Meta = Meta::read("recall")
        .at(&["POST /memory/query"])
        .identity(IdentityMode::StrictId)
        .tool(Tool::named("recall"));

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "tags": ["db"], "query": "pool", "limit": 1 })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<MemoryList> {
        let limit = Limit::new(self.limit);
        let ranks = self.ranks(&mut cx).await?;
        // Every memory has weight 1, so its relevance depends on its age alone: a minimum relevance is
        // a maximum age, and without words the order is that of time, which an index has. The age is
        // bounded, because the database refuses an exponential too small for its type.
        // Memories with a BM25 score come first, the others follow in the order of `ts_rank`.
        let agent_id = (self.scope != WORKSPACE).then_some(&cx.caller.agent_id);
        let rows = sqlx::query_as!(
            Memory,
            r#"
            select
                m.id::text as "id!", m.event_type, m.summary, m.details, m.outcome, m.lessons, m.tags,
                score.relevance as "relevance_score!", m.created_at as "created_at: Timestamp",
                m.agent_id, m.session_id
            from memory m
            cross join lateral (
                select exp(-0.1 * least(5000, greatest(0,
                    extract(epoch from statement_timestamp() - m.created_at) / 86400
                ))::float8) as relevance
            ) score
            cross join (select search_query($6) as words) query
            where m.workspace = $1
                and ($2::text is null or m.agent_id = $2)
                and ($3::text[] is null or m.tags && $3)
                and ($4::text is null or m.event_type = $4)
                and ($5::timestamptz is null or m.created_at >= $5)
                and (query.words is null or m.search @@ query.words)
                and m.created_at >= coalesce(
                    statement_timestamp()
                        - case when $7::float8 > 0 then make_interval(secs => -864000 * ln($7)) end,
                    '-infinity'
                )
            order by
                case when $9::jsonb is not null
                    then score.relevance * coalesce(($9 ->> m.id::text)::float8, 0) end desc,
                case when query.words is not null
                    then score.relevance * ts_rank(m.search, query.words) end desc,
                m.created_at desc, m.id
            limit $8
            "#,
            cx.caller.workspace,
            agent_id,
            self.tags.filter(|tags| !tags.is_empty()) as Option<Vec<String>>,
            non_empty(self.event_type),
            self.since as Option<Timestamp>,
            self.query,
            self.min_relevance,
            limit.rows(),
            ranks.scores,
        )
        .fetch_all(cx.db)
        .await?;
        let (memories, page) = limit.cut(rows);
        Ok(MemoryList { memories, page, degraded: ranks.is_degraded.then_some(true) })
    }
}

impl Recall {
    /// Returns the BM25 scores of memories for the words of the query.
    async fn ranks(&self, cx: &mut Context<'_>) -> Result<Ranks> {
        match &self.query {
            Some(query) => {
                cx.services.state::<Bm25>().rank(cx.db, &cx.caller.workspace, query).await
            }
            None => Ok(Ranks::default()),
        }
    }
}
