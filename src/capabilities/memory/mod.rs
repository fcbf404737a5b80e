//! What agents learnt, kept for later sessions and other agents, and found again by tag, time and
//! full text.
//!
//! The invariant: within an hour, one agent has one memory of a type and a summary, however often
//! and from how many places at once it is stored.
pub(crate) mod bm25;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    access::IdentityMode,
    capabilities::memory::bm25::{Bm25, Ranks},
    database::Db,
    operation::{
        Actor, Context, McpResource, Meta, Operation, Operations, Tool, Transition, column,
    },
    values::{
        Limit, ListPage, Result, Timestamp,
        text::{joined, one_line, text_of},
    },
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<Remember>().with::<Recall>().resource(McpResource {
        uri: "memories://recent",
        description: "What was learnt lately, ten memories at most.",
        operation: "recall",
        input: || json!({ "agent_id": "", "scope": "workspace", "limit": 10 }),
        lines: memory_lines,
        empty: "No memories stored yet.",
    })
}

fn memory_lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for memory in answer["memories"].as_array().into_iter().flatten() {
        lines.push(format!("{}: {}", text_of(&memory["event_type"]), text_of(&memory["summary"])));
        let outcome = memory["outcome"].as_str().map(one_line);
        for (name, text) in [
            ("Tags", joined(&memory["tags"])),
            ("Outcome", outcome),
            ("Lessons", joined(&memory["lessons"])),
        ] {
            lines.extend(text.map(|it| format!("  {name}: {it}")));
        }
    }
    lines
}

/// The scope that shows the memories of every agent.
const WORKSPACE: &str = "workspace";

/// Keep what you learnt for later: an error and its cause, a decision and its reason, what worked.
/// The same type and summary again within an hour is merged into the first memory.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Remember {
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Session of the calling agent.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// `error`, `success`, `decision`, `discovery`, `optimization` or a word of your own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub event_type: String,
    /// What happened, in a sentence or two. Name files, identifiers and error codes literally: they
    /// are found whole and in part.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub summary: String,
    /// Anything structured that belongs to it.
    pub details: Option<Map<String, Value>>,
    /// `positive`, `negative`, `neutral` or a word of your own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub outcome: Option<String>,
    /// What to do, or not to do, next time.
    pub lessons: Option<Vec<String>>,
    /// Words to find it by, such as `failure_type:flaky`, `affected_skill:deploy`, `severity:high`,
    /// `source:ci`.
    #[schemars(extend("items" = { "type": "string", "x-max-bytes": 256 }))]
    pub tags: Option<Vec<String>>,
}

/// Where it is kept.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Remembered {
    /// Always true.
    pub success: bool,
    /// The memory.
    pub memory_id: String,
    /// `created`, or `deduplicated` when it was merged into an earlier memory.
    pub action: String,
}

impl Operation for Remember {
    type Output = Remembered;
    const META: Meta =
        Meta::write("remember").at(&["POST /memory/store"]).identity(IdentityMode::StrictId).tool(
            Tool::named("remember")
                .default(&[("event_type", r#""discovery""#), ("summary", r#""""#)])
                .add(&["error"]),
        );

    fn example() -> Value {
        json!({
            "agent_id": "claude-1",
            "event_type": "decision",
            "summary": "one pool per process",
            "outcome": "positive",
            "lessons": ["measure first"],
            "tags": ["db"],
        })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Remembered> {
        let storing = Storing {
            actor: cx.actor(),
            event_type: self.event_type,
            digest: Sha256::digest(&self.summary).to_vec(),
            summary: self.summary,
            details: Value::Object(self.details.unwrap_or_default()),
            outcome: self.outcome,
            lessons: json!(self.lessons.unwrap_or_default()),
            tags: json!(self.tags.unwrap_or_default()),
        };
        let row = cx.transition(storing).await?;
        Ok(Remembered { success: true, memory_id: row.memory_id, action: row.action })
    }
}

/// A call of the database function `remember`.
#[derive(Debug)]
pub(crate) struct Storing {
    actor: Actor,
    event_type: String,
    summary: String,
    digest: Vec<u8>,
    details: Value,
    outcome: Option<String>,
    /// A list of text, as JSON: a gathered call cannot pass lists of different lengths otherwise.
    lessons: Value,
    /// Likewise.
    tags: Value,
}

/// What `remember` returns.
#[derive(Debug)]
pub(crate) struct StoredRow {
    memory_id: String,
    action: String,
}

impl Transition for Storing {
    type Row = StoredRow;

    async fn run(&self, db: &mut Db) -> Result<StoredRow> {
        let row = sqlx::query_as!(
            StoredRow,
            r#"
            select memory_id::text as "memory_id!", action as "action!"
            from remember(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12, $13, $14
            )
            "#,
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.event_type,
            self.summary,
            self.digest,
            self.details,
            self.outcome,
            self.lessons,
            self.tags,
        )
        .fetch_one(db)
        .await?;
        Ok(row)
    }

    async fn run_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<StoredRow>> {
        let rows = sqlx::query_as!(
            StoredRow,
            r#"
            select a.memory_id::text as "memory_id!", a.action as "action!"
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::text[], $10::bytea[],
                $11::jsonb[], $12::text[], $13::jsonb[], $14::jsonb[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, event_type,
                summary, digest, details, outcome, lessons, tags, n
            ),
            remember(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.event_type, r.summary, r.digest, r.details, r.outcome, r.lessons, r.tags
            ) a
            order by r.n
            "#,
            &column(requests, |it| it.actor.workspace.as_str()) as _,
            &column(requests, |it| it.actor.request_id.as_str()) as _,
            &column(requests, |it| it.actor.agent_id.as_str()) as _,
            &column(requests, |it| it.actor.agent_type.as_str()) as _,
            &column(requests, |it| it.actor.session_id.as_deref()) as _,
            &column(requests, |it| it.actor.elapsed_ms()),
            &column(requests, |it| it.actor.session_timeout.clone()),
            &column(requests, |it| it.event_type.as_str()) as _,
            &column(requests, |it| it.summary.as_str()) as _,
            &column(requests, |it| it.digest.as_slice()) as _,
            &column(requests, |it| it.details.clone()),
            &column(requests, |it| it.outcome.as_deref()) as _,
            &column(requests, |it| it.lessons.clone()),
            &column(requests, |it| it.tags.clone()),
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }

    fn lock_order(&self) -> String {
        let Actor { workspace, agent_id, .. } = &self.actor;
        format!("{workspace}\n{agent_id}\n{}\n{}", self.event_type, self.summary)
    }
}

/// Look for what was learnt before you start on something: by tag, type, time or words. The best
/// match comes first, and what is older counts less.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Recall {
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Only memories with at least one of these tags.
    #[schemars(extend("items" = { "type": "string", "x-max-bytes": 256 }))]
    pub tags: Option<Vec<String>>,
    /// Only memories of this type.
    #[schemars(extend("x-max-bytes" = 256))]
    pub event_type: Option<String>,
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// Words that must all occur in summary, lessons or tags, such as `E0433 locks.rs`; the last one
    /// may be the beginning of a word. Fewer words find more.
    #[schemars(extend("x-max-bytes" = 4096))]
    pub query: Option<String>,
    /// `own`: your memories; `workspace`: those of every agent.
    #[serde(default = "default_scope")]
    #[schemars(extend("enum" = ["own", "workspace"]))]
    pub scope: String,
    /// Only memories whose relevance is at least this; it falls from 1 by a tenth a day.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_relevance: f64,
    /// Only memories created then or later.
    pub since: Option<Timestamp>,
}

fn default_limit() -> i64 {
    10
}

fn default_scope() -> String {
    "own".to_owned()
}

/// What was found, the best match first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct MemoryList {
    /// The memories.
    pub memories: Vec<Memory>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
    /// True when the order by BM25 failed and the usual one stands in: the memories are complete,
    /// their order may be a little worse. Only there when true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<bool>,
}

/// Something an agent learnt.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Memory {
    /// The memory.
    pub id: String,
    /// What kind of event it tells of.
    pub event_type: String,
    /// What happened.
    pub summary: String,
    /// Anything structured that belongs to it.
    pub details: Value,
    /// How it went.
    pub outcome: Option<String>,
    /// What to do, or not to do, next time.
    pub lessons: Vec<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// 1 when new, falling by a tenth a day.
    pub relevance_score: f64,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// Who stored it.
    pub agent_id: String,
    /// In which session.
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

    async fn run(self, cx: Context<'_>) -> Result<MemoryList> {
        let limit = Limit::new(self.limit);
        let ranks = match &self.query {
            Some(query) => {
                cx.services.state::<Bm25>().rank(cx.db, &cx.caller.workspace, query).await?
            }
            None => Ranks::default(),
        };
        // A memory's weight is 1, so relevance is a function of age alone: the least relevance is a
        // greatest age, and without words the order is that of time, which an index has. The age is
        // bounded because the database refuses an exponential too small for its type.
        // Scores of BM25 take precedence; what has none follows in native order.
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
            self.tags.filter(|it| !it.is_empty()) as Option<Vec<String>>,
            self.event_type.filter(|it| !it.is_empty()),
            self.since as Option<Timestamp>,
            self.query,
            self.min_relevance,
            limit.rows(),
            ranks.scores,
        )
        .fetch_all(cx.db)
        .await?;
        let (memories, page) = limit.cut(rows);
        Ok(MemoryList { memories, page, degraded: ranks.degraded.then_some(true) })
    }
}
