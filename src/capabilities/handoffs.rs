//! Handoffs: what an agent leaves for the agent that continues its work.
//!
//! Invariant: a handoff is never changed or deleted, and is returned as it was sent.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    access::IdentityMode,
    capabilities::filter::non_empty,
    config::Quota,
    operation::{Context, McpResource, Meta, Operation, Operations, Tool},
    values::{
        Limit, ListPage, Order, RawJson, Result, Timestamp,
        list_page::{Entry, default_limit},
        raw_json::is_empty,
        read_cursor,
        text::{joined, text_of},
    },
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<WriteHandoff>().with::<ReadHandoff>().resource(McpResource {
        uri: "handoffs://recent",
        description: "The five newest handoffs.",
        operation: "read_handoff",
        input: || json!({ "limit": 5 }),
        lines: handoff_lines,
        empty: "No handoff documents found.",
    })
}

fn handoff_lines(answer: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for handoff in answer["handoffs"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{} at {}: {}",
            text_of(&handoff["agent_name"]),
            text_of(&handoff["created_at"]),
            text_of(&handoff["summary"]),
        ));
        for (name, member) in [
            ("Completed", "completed_work"),
            ("In progress", "in_progress"),
            ("Decisions", "decisions"),
            ("Next steps", "next_steps"),
            ("Relevant files", "relevant_files"),
        ] {
            if let Some(items) = joined(&handoff[member]) {
                lines.push(format!("  {name}: {items}"));
            }
        }
    }
    lines
}

const SUMMARY_REQUIRED: &str = "summary_required";

/// The summary that session hooks write at the end of each session. Hooks that do not say that their
/// note is automatic are recognized by it.
const SESSION_ENDED: &str = "Session ended.";

/// The name that stands for the calling agent, wherever it is asked for handoffs.
const CALLER: &str = "me";

/// The lists of a handoff. `content` can have members of the same names.
const LISTS: [&str; 5] =
    ["completed_work", "in_progress", "decisions", "next_steps", "relevant_files"];

/// Leave a handoff before you stop, run out of context or pass work on: what is done, what is not,
/// what was decided and what comes next. The next agent reads it with read_handoff.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct WriteHandoff {
    /// The state of the work, in words. Must not be blank.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub summary: String,
    /// What is done, as a list. Absent: none.
    #[schemars(with = "Option<Vec<Value>>")]
    pub completed_work: Option<RawJson>,
    /// What is begun but not finished, as a list. Absent: none.
    #[schemars(with = "Option<Vec<Value>>")]
    pub in_progress: Option<RawJson>,
    /// What was decided and why, as a list. Absent: none.
    #[schemars(with = "Option<Vec<Value>>")]
    pub decisions: Option<RawJson>,
    /// What to do next, in order, as a list. Absent: none.
    #[schemars(with = "Option<Vec<Value>>")]
    pub next_steps: Option<RawJson>,
    /// Files that the next agent should read, as a list. Absent: none.
    #[schemars(with = "Option<Vec<Value>>")]
    pub relevant_files: Option<RawJson>,
    /// Anything else, as an object; stored unchanged. A list that is absent above is taken from the
    /// member of the same name; a single value there becomes a list of one element.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub content: Option<RawJson>,
    /// Whether a hook or a script writes this note, and not the agent, such as `Session ended.`. It
    /// is not stored if the session has written a handoff of its own, and is read after all others.
    /// Default: false.
    #[serde(default)]
    pub automatic: bool,
}

/// The outcome of writing a handoff.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WrittenHandoff {
    /// Whether the handoff was stored.
    pub success: bool,
    /// Id of the handoff. Null when refused.
    pub handoff_id: Option<String>,
    /// `summary_required` if the summary is blank, or `quota_exceeded: <what you or the workspace have
    /// too much of>`.
    pub error: Option<String>,
    /// True if this automatic note was not stored, because the session has written a handoff of its
    /// own: `handoff_id` is that handoff. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_earlier: Option<bool>,
}

impl Operation for WriteHandoff {
    type Output = WrittenHandoff;
    const META: Meta = Meta::write("write_handoff")
        .at(&["POST /handoffs/write", "POST /handoff/write", "POST /handoffs"])
        .identity(IdentityMode::Strict)
        .tool(Tool::named("write_handoff").hide(&["content", "automatic"]));

    fn example() -> Value {
        json!({
            "agent_id": "claude-1",
            "session_id": "s-1",
            "summary": "parser done",
            "completed_work": ["lexer", "parser"],
            "next_steps": ["wire it up"],
            "relevant_files": ["src/parser.rs"],
        })
    }

    fn took_effect(answer: &WrittenHandoff) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<WrittenHandoff> {
        let refusal = self.summary.trim().is_empty().then_some(SUMMARY_REQUIRED);
        let is_automatic = self.is_automatic();
        // Bound as text: the driver would bind JSON as `jsonb`, which does not keep the order of members.
        let [completed_work, in_progress, decisions, next_steps, relevant_files] = self.lists();
        let content = self.content.as_ref().map_or("{}", RawJson::get);
        let stored = sqlx::query!(
            r#"
            select handoff_id::text, kept_earlier as "kept_earlier!", refusal from store_handoff(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11::text::json,
                $12::text::json, $13::text::json, $14::text::json, $15::text::json, $16::text::json,
                $17
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            refusal,
            is_automatic,
            self.summary,
            &*completed_work,
            &*in_progress,
            &*decisions,
            &*next_steps,
            &*relevant_files,
            content,
            &cx.config.quotas.of(Quota::Handoffs),
        )
        .fetch_one(&mut *cx.db)
        .await?;
        cx.count_refusal(stored.refusal.as_deref().unwrap_or_default());
        Ok(WrittenHandoff {
            success: stored.handoff_id.is_some(),
            handoff_id: stored.handoff_id,
            error: stored.refusal,
            kept_earlier: stored.kept_earlier.then_some(true),
        })
    }
}

impl WriteHandoff {
    /// Whether this is the note of a hook: it says so, or it is the note that hooks write at the end of
    /// each session and has nothing else.
    fn is_automatic(&self) -> bool {
        let has_more = self.content.as_ref().is_some_and(|content| !content.is_empty())
            || self.lists().iter().any(|list| !is_empty(list));
        self.automatic || (self.summary.trim() == SESSION_ENDED && !has_more)
    }

    /// Returns the five lists, each from its own member or else from `content`, as JSON.
    fn lists(&self) -> [Cow<'_, str>; 5] {
        let given = [
            &self.completed_work,
            &self.in_progress,
            &self.decisions,
            &self.next_steps,
            &self.relevant_files,
        ];
        std::array::from_fn(|n| {
            let inner = self.content.as_ref().and_then(|content| content.member(LISTS[n]));
            match (given[n], inner) {
                (Some(list), _) => list.get().into(),
                (None, None | Some("null")) => "[]".into(),
                (None, Some(list)) if list.starts_with('[') => list.into(),
                (None, Some(single)) => format!("[{single}]").into(),
            }
        })
    }
}

/// Read the newest handoffs of the workspace, to continue where another agent or an earlier session
/// stopped. Yours have `own: true`; automatic notes of hooks come after all others.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ReadHandoff {
    /// Only handoffs of this agent; `me`: only your own. Empty or absent: of every agent.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_name: Option<String>,
    /// Maximum number of handoffs, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<1>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// The `next_cursor` of an earlier answer, for the handoffs after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub cursor: Option<String>,
}

/// Handoffs, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HandoffList {
    /// The handoffs.
    pub handoffs: Vec<Handoff>,
    /// How many handoffs are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

/// What an agent left for the next one.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Handoff {
    /// Id of the handoff.
    pub id: String,
    /// The agent that wrote it.
    pub agent_name: String,
    /// That agent's session. Null if it named none.
    pub session_id: Option<String>,
    /// The state of the work.
    pub summary: String,
    /// What was done.
    #[schemars(with = "Vec<Value>")]
    pub completed_work: RawJson,
    /// What was begun but not finished.
    #[schemars(with = "Vec<Value>")]
    pub in_progress: RawJson,
    /// What was decided.
    #[schemars(with = "Vec<Value>")]
    pub decisions: RawJson,
    /// What to do next.
    #[schemars(with = "Vec<Value>")]
    pub next_steps: RawJson,
    /// Files to read.
    #[schemars(with = "Vec<Value>")]
    pub relevant_files: RawJson,
    /// When the handoff was written.
    pub created_at: Timestamp,
    /// Anything else that was sent with it.
    #[schemars(with = "Map<String, Value>")]
    pub content: RawJson,
    /// Whether the calling agent wrote it.
    pub own: bool,
    /// Whether a hook or a script wrote it, and not the agent.
    pub automatic: bool,
    /// Whether there are handoffs after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for Handoff {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

/// The newest first, behind which come the automatic ones.
const ORDER: Order = Order::By(&["automatic", "created_at", "id"]);

impl Operation for ReadHandoff {
    type Output = HandoffList;
    const META: Meta = Meta::read("read_handoff")
        .at(&["POST /handoffs/read", "POST /handoff/read", "GET /handoffs/latest"])
        .recorded_as("read_handoff")
        .tool(Tool::named("read_handoff").pages(ORDER));

    fn example() -> Value {
        json!({ "agent_name": "claude-1", "limit": 1 })
    }

    async fn run(self, cx: Context<'_>) -> Result<HandoffList> {
        let limit = Limit::new(self.limit);
        let after: Option<(bool, Timestamp, Uuid)> =
            read_cursor(self.cursor.as_deref(), |values| {
                Some((values.next()?, values.next()?, values.next()?))
            })?;
        let agent_name = match non_empty(self.agent_name.as_deref()) {
            Some(CALLER) => Some(cx.caller.agent_id.as_str()),
            agent_name => agent_name,
        };
        let handoffs = sqlx::query_as!(
            Handoff,
            r#"
            select
                id::text as "id!", agent_id as "agent_name!", session_id, summary as "summary!",
                completed_work as "completed_work!: RawJson", in_progress as "in_progress!: RawJson",
                decisions as "decisions!: RawJson", next_steps as "next_steps!: RawJson",
                relevant_files as "relevant_files!: RawJson", created_at as "created_at!: Timestamp",
                content as "content!: RawJson", agent_id = $3 as "own!",
                is_automatic as "automatic!", has_more as "has_more!"
            from list_handoffs(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12, $13
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            agent_name,
            limit.shown(),
            json!({ "agent_name": self.agent_name, "limit": self.limit }),
            after.map(|(is_automatic, _, _)| is_automatic),
            after.map(|(_, created_at, _)| created_at) as Option<Timestamp>,
            after.map(|(_, _, id)| id),
        )
        .fetch_all(cx.db)
        .await?;
        let (handoffs, page) = limit.cut_in_order(handoffs, ORDER, self.cursor.as_deref());
        Ok(HandoffList { handoffs, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The members of a body, as the input check passes them on.
    #[track_caller]
    fn assert_lists(members: &[(&str, &str)], expected: [&str; 5]) {
        let members = members.iter().map(|(name, json)| ((*name).to_owned(), json!(json)));
        let body = members.collect::<Map<_, _>>();
        let handoff: WriteHandoff = serde_json::from_value(body.into()).expect("a handoff");
        assert_eq!(handoff.lists(), expected);
    }

    #[test]
    fn a_list_comes_from_its_own_member_or_else_from_the_content() {
        assert_lists(&[("summary", "")], ["[]"; 5]);
        assert_lists(
            &[
                ("summary", ""),
                ("completed_work", r#"[1, { "a": null }]"#),
                ("in_progress", "[ ]"),
                (
                    "content",
                    r#"{
                        "completed_work": ["not this"],
                        "in_progress": ["nor this"],
                        "decisions": ["kept"],
                        "next_steps": "one",
                        "relevant_files": null
                    }"#,
                ),
            ],
            [r#"[1, { "a": null }]"#, "[]", r#"["kept"]"#, r#"["one"]"#, "[]"],
        );
    }
}
