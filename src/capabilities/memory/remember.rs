//! Storing a memory.
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    access::IdentityMode,
    config::{Quota, QuotaLimits},
    database::Db,
    operation::{Actor, Context, Meta, Operation, Tool, Transition, column},
    values::{RawJson, Result},
};

/// Store what you learned for later: an error and its cause, a decision and its reason, what
/// worked. A memory with the same type and summary within an hour is merged into the first one.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Remember {
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Session of the calling agent.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// `error`, `success`, `decision`, `discovery`, `optimization` or a word of your own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub event_type: String,
    /// What happened, in one or two sentences. Write names of files, identifiers and error codes
    /// literally: a search finds them by the whole name or by parts.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub summary: String,
    /// Structured data about the event, as an object. Absent: none.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub details: Option<RawJson>,
    /// `positive`, `negative`, `neutral` or a word of your own. Absent: none.
    #[schemars(extend("x-max-bytes" = 256))]
    pub outcome: Option<String>,
    /// What to do, or to avoid, next time. Absent: none.
    pub lessons: Option<Vec<String>>,
    /// Words to find the memory by, such as `failure_type:flaky`, `affected_skill:deploy`,
    /// `severity:high` or `source:ci`. Absent: none.
    #[schemars(extend("items" = { "type": "string", "x-max-bytes": 256 }))]
    pub tags: Option<Vec<String>>,
}

/// The outcome of storing a memory.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Remembered {
    /// Whether the memory was stored.
    pub success: bool,
    /// Id of the memory. Null when refused.
    pub memory_id: Option<String>,
    /// `created`, or `deduplicated` if it was merged into an earlier memory. Null when refused.
    pub action: Option<String>,
    /// `quota_exceeded: <what you or the workspace have too much of>` when refused. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Operation for Remember {
    type Output = Remembered;
    const META: Meta = Meta::write("remember")
        .at(&["POST /memory/store"])
        .identity(IdentityMode::StrictId)
        .tool(Tool::named("remember").default(&[("event_type", r#""discovery""#)]).add(&["error"]));

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

    fn took_effect(answer: &Remembered) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Remembered> {
        let memory = NewMemory {
            actor: cx.actor(),
            event_type: self.event_type,
            digest: Sha256::digest(&self.summary).to_vec(),
            summary: self.summary,
            details: self.details.map_or_else(|| "{}".to_owned(), RawJson::into_text),
            outcome: self.outcome,
            lessons: json!(self.lessons.unwrap_or_default()),
            tags: json!(self.tags.unwrap_or_default()),
            quota: cx.config.quotas.of(Quota::Memories),
        };
        let remembered = cx.transition(memory).await?;
        cx.count_refusal(remembered.reason.as_deref().unwrap_or_default());
        Ok(remembered)
    }
}

/// A call of the database function `remember`.
#[derive(Debug)]
pub(crate) struct NewMemory {
    actor: Actor,
    event_type: String,
    summary: String,
    digest: Vec<u8>,
    /// JSON as text, which is stored as it was sent.
    details: String,
    outcome: Option<String>,
    /// A JSON array of texts: a gathered call cannot pass arrays of different lengths otherwise.
    lessons: Value,
    /// A JSON array of texts, for the same reason.
    tags: Value,
    quota: QuotaLimits,
}

impl Transition for NewMemory {
    type Row = Remembered;

    async fn call(&self, db: &mut Db) -> Result<Remembered> {
        let row = sqlx::query_as!(
            Remembered,
            r#"
            select refusal is null as "success!", memory_id::text, action, refusal as reason
            from remember(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11::text::json, $12, $13, $14,
                $15
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
            &self.quota,
        )
        .fetch_one(db)
        .await?;
        Ok(row)
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<Remembered>> {
        let rows = sqlx::query_as!(
            Remembered,
            r#"
            select
                a.refusal is null as "success!", a.memory_id::text, a.action, a.refusal as reason
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::text[], $10::bytea[],
                $11::text[], $12::text[], $13::jsonb[], $14::jsonb[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, event_type,
                summary, digest, details, outcome, lessons, tags, n
            ),
            remember(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.event_type, r.summary, r.digest, r.details::json, r.outcome, r.lessons, r.tags, $15
            ) a
            order by r.n
            "#,
            &column(requests, |request| request.actor.workspace.as_str()) as _,
            &column(requests, |request| request.actor.request_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_type.as_str()) as _,
            &column(requests, |request| request.actor.session_id.as_deref()) as _,
            &column(requests, |request| request.actor.elapsed_ms()),
            &column(requests, |request| request.actor.session_timeout.clone()),
            &column(requests, |request| request.event_type.as_str()) as _,
            &column(requests, |request| request.summary.as_str()) as _,
            &column(requests, |request| request.digest.as_slice()) as _,
            &column(requests, |request| request.details.as_str()) as _,
            &column(requests, |request| request.outcome.as_deref()) as _,
            &column(requests, |request| request.lessons.clone()),
            &column(requests, |request| request.tags.clone()),
            requests.first().map(|request| &request.quota[..]),
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }

    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        let Actor { workspace, agent_id, .. } = &self.actor;
        format!("{workspace}\n{agent_id}\n{}\n{}", self.event_type, self.summary)
    }
}
