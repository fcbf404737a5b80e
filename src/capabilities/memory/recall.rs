//! Searching memories.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bm25::{Bm25, Ranks};
use crate::{
    access::IdentityMode,
    capabilities::filter::non_empty,
    operation::{Context, Meta, Operation, Tool},
    values::{
        Limit, ListPage, Order, RawJson, Result, Timestamp,
        list_page::{Entry, default_limit},
        read_cursor,
    },
};

/// The scope that includes the memories of every agent.
const WORKSPACE: &str = "workspace";

/// Search the memories of the workspace before you start a task: by tag, type, time or words. With
/// words the best match comes first, else the newest. Yours have `own: true`.
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
    /// Words or a question, such as `E0433 locks.rs` or `why does the build fail on arm?`. A memory
    /// matches if its summary, lessons or tags have one of the words, also as a part of a longer
    /// one. Those with more of the words, and with whole words, come first. Absent: every memory.
    #[schemars(extend("x-max-bytes" = 4096))]
    pub query: Option<String>,
    /// `own`: only your memories. `workspace`: those of every agent.
    #[serde(default = "default_scope")]
    #[schemars(extend("enum" = ["own", "workspace"]))]
    pub scope: String,
    /// Minimum relevance, 0 to 1. The relevance of a new memory is 1 and falls by a tenth each day.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_relevance: f64,
    /// Only memories created at this time or later. Absent: of any age.
    pub since: Option<Timestamp>,
    /// The `next_cursor` of an earlier answer, for the memories after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub cursor: Option<String>,
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
    /// If nothing was found: the words of the query that no memory of the workspace has. Absent if
    /// each is known, so that other filters exclude what has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_words: Option<Vec<String>>,
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
    #[schemars(with = "Value")]
    pub details: RawJson,
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
    /// Whether that agent is the caller.
    pub own: bool,
    /// Whether there are memories after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for Memory {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

impl Operation for Recall {
    type Output = MemoryList;
    const META: Meta = Meta::read("recall")
        .at(&["POST /memory/query"])
        .identity(IdentityMode::StrictId)
        .tool(Tool::named("recall").default(&[("scope", r#""workspace""#)]).pages(Order::ByRank));

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "tags": ["db"], "query": "pool", "limit": 1 })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<MemoryList> {
        let limit = Limit::new(self.limit);
        let before: u32 =
            read_cursor(self.cursor.as_deref(), |values| values.next())?.unwrap_or_default();
        let ranks = self.ranks(&mut cx).await?;
        let agent_id = (self.scope != WORKSPACE).then_some(&cx.caller.agent_id);
        let rows = sqlx::query_as!(
            Memory,
            r#"
            select
                id::text as "id!", event_type as "event_type!", summary as "summary!",
                details as "details!: RawJson", outcome, lessons as "lessons!", tags as "tags!",
                memory_relevance(created_at) as "relevance_score!",
                created_at as "created_at!: Timestamp", agent_id as "agent_id!", session_id,
                agent_id = $10 as "own!", has_more as "has_more!"
            from (
                select found.*, row_number() over page as place, lead(true, 1, false) over page as has_more,
                    sum(found.stored_bytes) over page as bytes
                from (
                    select *, row_number() over () as rank
                    from recall_memories($1, $2, $3, $4, $5, $6, $7, $8, $9) offset $11
                ) found
                window page as (order by found.rank rows unbounded preceding)
            ) listed
            where is_on_page(place, bytes)
            order by rank
            "#,
            cx.caller.workspace,
            agent_id,
            self.tags.filter(|tags| !tags.is_empty()) as Option<Vec<String>>,
            non_empty(self.event_type),
            self.since as Option<Timestamp>,
            self.min_relevance,
            self.query,
            ranks.scores,
            limit.rows() + i64::from(before),
            cx.caller.agent_id,
            i64::from(before),
        )
        .fetch_all(&mut *cx.db)
        .await?;
        let unknown_words = match &self.query {
            Some(query) if rows.is_empty() && before == 0 => unknown_words(&mut cx, query).await?,
            _ => Vec::new(),
        };
        let (memories, page) = limit.cut_in_order(rows, Order::ByRank, self.cursor.as_deref());
        Ok(MemoryList {
            memories,
            page,
            degraded: ranks.is_degraded.then_some(true),
            unknown_words: (!unknown_words.is_empty()).then_some(unknown_words),
        })
    }
}

/// Returns the words of a query that no memory of the caller's workspace has.
async fn unknown_words(cx: &mut Context<'_>, query: &str) -> Result<Vec<String>> {
    let words = sqlx::query_scalar!(
        r#"select unknown_words($1, $2) as "words!""#,
        cx.caller.workspace,
        query,
    )
    .fetch_one(&mut *cx.db)
    .await?;
    Ok(words)
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
