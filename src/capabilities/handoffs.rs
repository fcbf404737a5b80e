//! Handoffs: what an agent leaves for whoever continues its work.
//!
//! The invariant: a handoff is never changed or removed, and is given back as it was sent.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sqlx::types::Json;

use crate::{
    Result, Timestamp,
    audit::audited,
    operation::{Context, IdentityMode, Meta, Operation},
    page::{Page, read_limit},
    registry::{Operations, Resource, list, word},
    tool::Tool,
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<WriteHandoff>().with::<ReadHandoff>().resource(Resource {
        uri: "handoffs://recent",
        description: "The last five handoffs.",
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
            word(&handoff["agent_name"]),
            word(&handoff["created_at"]),
            word(&handoff["summary"]),
        ));
        for (name, member) in [
            ("Completed", "completed_work"),
            ("In progress", "in_progress"),
            ("Decisions", "decisions"),
            ("Next steps", "next_steps"),
            ("Relevant files", "relevant_files"),
        ] {
            if let Some(items) = list(&handoff[member]) {
                lines.push(format!("  {name}: {items}"));
            }
        }
    }
    lines
}

const SUMMARY_REQUIRED: &str = "summary_required";

/// The lists of a handoff; `content` may hold members of the same names.
const LISTS: [&str; 5] =
    ["completed_work", "in_progress", "decisions", "next_steps", "relevant_files"];

/// Leave a handoff before you stop, run out of context or give work away: what is done, what is
/// not, what was decided and what comes next. The next agent reads it with read_handoff.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct WriteHandoff {
    /// Where things stand, in words; must not be blank.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub summary: String,
    /// What is done.
    pub completed_work: Option<Vec<Value>>,
    /// What is begun and not finished.
    pub in_progress: Option<Vec<Value>>,
    /// What was decided, and why.
    pub decisions: Option<Vec<Value>>,
    /// What to do next, in order.
    pub next_steps: Option<Vec<Value>>,
    /// Files that whoever continues should look at.
    pub relevant_files: Option<Vec<Value>>,
    /// Anything else, kept as sent. A list that is absent above is taken from the member of the
    /// same name; a single value there becomes a list of one.
    pub content: Option<Map<String, Value>>,
}

/// What became of a handoff.
#[derive(Debug, Serialize, JsonSchema)]
pub struct WrittenHandoff {
    /// Whether it was stored.
    pub success: bool,
    /// Its id; null when refused.
    pub handoff_id: Option<String>,
    /// Why it was refused: `summary_required` when the summary is blank.
    pub error: Option<&'static str>,
}

struct WrittenRow {
    handoff_id: Option<String>,
}

impl Operation for WriteHandoff {
    type Output = WrittenHandoff;
    const META: Meta = Meta::write("write_handoff")
        .at(&["POST /handoffs/write", "POST /handoff/write", "POST /handoffs"])
        .identity(IdentityMode::Strict)
        .tool(Tool::named("write_handoff").hide(&["content"]));

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
        // Sent as text: as JSON, the driver would send jsonb, which forgets the order of members.
        let [completed_work, in_progress, decisions, next_steps, relevant_files] =
            self.lists().map(|it| it.to_string());
        let content = json!(self.content.unwrap_or_default()).to_string();
        let row = audited!(
            WrittenRow,
            cx,
            Self::META.audit(),
            json!({ "summary_length": self.summary.chars().count() }),
            r#"
            stored as (
                insert into handoff (
                    workspace, agent_id, agent_type, session_id, summary, completed_work,
                    in_progress, decisions, next_steps, relevant_files, content
                )
                select
                    $1, $2, $3, $4, $11, $12::text::json, $13::text::json, $14::text::json,
                    $15::text::json, $16::text::json, $17::text::json
                where $10::text is null
                returning id::text
            ), op as (
                select
                    s.id as handoff_id,
                    s.id is not null as audit_success,
                    case when s.id is null then jsonb_build_object('reason', $10::text)
                        else jsonb_build_object('handoff_id', s.id) end as audit_result
                from (select) one left join stored s on true
            )
            "#,
            r#"op.handoff_id as "handoff_id?""#,
            refusal,
            self.summary,
            completed_work,
            in_progress,
            decisions,
            next_steps,
            relevant_files,
            content,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(WrittenHandoff {
            success: row.handoff_id.is_some(),
            handoff_id: row.handoff_id,
            error: refusal,
        })
    }
}

impl WriteHandoff {
    /// The five lists, each from its own member or else from `content`.
    fn lists(&self) -> [Value; 5] {
        let given = [
            &self.completed_work,
            &self.in_progress,
            &self.decisions,
            &self.next_steps,
            &self.relevant_files,
        ];
        std::array::from_fn(|n| {
            let inner = self.content.as_ref().and_then(|it| it.get(LISTS[n]));
            match (given[n], inner) {
                (Some(list), _) => json!(list),
                (None, None | Some(Value::Null)) => json!([]),
                (None, Some(list @ Value::Array(_))) => list.clone(),
                (None, Some(single)) => json!([single]),
            }
        })
    }
}

/// Read the newest handoffs, to continue where another agent or an earlier session stopped.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ReadHandoff {
    /// Only those that this agent wrote; empty: those of every agent. Absent: those of every agent
    /// too, or your own where this is a tool.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_name: Option<String>,
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

fn default_limit() -> i64 {
    1
}

/// Handoffs, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HandoffList {
    /// The handoffs.
    pub handoffs: Vec<Handoff>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: Page,
}

/// What an agent left.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Handoff {
    /// Its id.
    pub id: String,
    /// The agent that wrote it.
    pub agent_name: String,
    /// The session that wrote it.
    pub session_id: Option<String>,
    /// Where things stood.
    pub summary: String,
    /// What was done.
    pub completed_work: Vec<Value>,
    /// What was begun and not finished.
    pub in_progress: Vec<Value>,
    /// What was decided.
    pub decisions: Vec<Value>,
    /// What was to be done next.
    pub next_steps: Vec<Value>,
    /// Files to look at.
    pub relevant_files: Vec<Value>,
    /// When it was written.
    pub created_at: Timestamp,
    /// Anything else that was sent with it.
    pub content: Map<String, Value>,
}

type List = Json<Vec<Value>>;

/// One handoff and its place, or neither when there is none at all.
struct ReadRow {
    place: Option<i64>,
    id: Option<String>,
    agent_id: Option<String>,
    session_id: Option<String>,
    summary: Option<String>,
    completed_work: Option<List>,
    in_progress: Option<List>,
    decisions: Option<List>,
    next_steps: Option<List>,
    relevant_files: Option<List>,
    created_at: Option<Timestamp>,
    content: Option<Json<Map<String, Value>>>,
}

impl ReadRow {
    fn into_handoff(self) -> Option<Handoff> {
        Some(Handoff {
            id: self.id?,
            agent_name: self.agent_id?,
            session_id: self.session_id,
            summary: self.summary?,
            completed_work: self.completed_work?.0,
            in_progress: self.in_progress?.0,
            decisions: self.decisions?.0,
            next_steps: self.next_steps?.0,
            relevant_files: self.relevant_files?.0,
            created_at: self.created_at?,
            content: self.content?.0,
        })
    }
}

impl Operation for ReadHandoff {
    type Output = HandoffList;
    const META: Meta = Meta::read("read_handoff")
        .at(&["POST /handoffs/read", "POST /handoff/read", "GET /handoffs/latest"])
        .recorded_as("read_handoff")
        .tool(Tool::named("read_handoff").own("agent_name"));

    fn example() -> Value {
        json!({ "agent_name": "claude-1", "limit": 1 })
    }

    async fn run(self, cx: Context<'_>) -> Result<HandoffList> {
        let limit = read_limit(self.limit);
        let agent_name = self.agent_name.as_ref().filter(|it| !it.is_empty());
        // Each half of `newest` has its own index and one of them returns nothing at once. The
        // first handoff carries the audit row, or the one row without any.
        let mut rows = audited!(
            ReadRow,
            cx,
            Self::META.audit(),
            json!({ "agent_name": self.agent_name, "limit": self.limit }),
            r#"
            newest as (
                (
                    select
                        id, agent_id, session_id, summary, completed_work, in_progress, decisions,
                        next_steps, relevant_files, created_at, content
                    from handoff
                    where workspace = $1 and $10::text is null
                    order by created_at desc, id desc limit $11
                ) union all (
                    select
                        id, agent_id, session_id, summary, completed_work, in_progress, decisions,
                        next_steps, relevant_files, created_at, content
                    from handoff
                    where workspace = $1 and agent_id = $10
                    order by created_at desc, id desc limit $11
                )
            ), placed as (
                select newest.*, row_number() over (order by created_at desc, id desc) as place
                from newest
            ), op as (
                select
                    p.place, p.id::text as id, p.agent_id, p.session_id, p.summary,
                    p.completed_work, p.in_progress, p.decisions, p.next_steps, p.relevant_files,
                    p.created_at, p.content,
                    case when coalesce(p.place, 1) = 1 then true end as audit_success,
                    jsonb_build_object(
                        'count', (select least(count(*), $11 - 1) from placed)
                    ) as audit_result
                from (select) one left join placed p on true
            )
            "#,
            r#"
            op.place as "place?", op.id as "id?", op.agent_id as "agent_id?",
            op.session_id as "session_id?", op.summary as "summary?",
            op.completed_work as "completed_work?: List", op.in_progress as "in_progress?: List",
            op.decisions as "decisions?: List", op.next_steps as "next_steps?: List",
            op.relevant_files as "relevant_files?: List",
            op.created_at as "created_at?: Timestamp",
            op.content as "content?: Json<Map<String, Value>>"
            "#,
            agent_name,
            limit.rows(),
        )
        .fetch_all(cx.db)
        .await?;
        rows.sort_by_key(|it| it.place);
        let handoffs = rows.into_iter().filter_map(ReadRow::into_handoff).collect();
        let (handoffs, page) = limit.page(handoffs);
        Ok(HandoffList { handoffs, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_lists(body: Value, expected: Value) {
        let handoff: WriteHandoff = serde_json::from_value(body).expect("a handoff");
        assert_eq!(json!(handoff.lists()), expected);
    }

    #[test]
    fn a_list_comes_from_its_own_member_or_else_from_the_content() {
        assert_lists(json!({ "summary": "" }), json!([[], [], [], [], []]));
        assert_lists(
            json!({
                "summary": "",
                "completed_work": [1, { "a": null }],
                "in_progress": [],
                "decisions": null,
                "content": {
                    "completed_work": ["not this"],
                    "in_progress": ["nor this"],
                    "decisions": ["kept"],
                    "next_steps": "one",
                    "relevant_files": null,
                },
            }),
            json!([[1, { "a": null }], [], ["kept"], ["one"], []]),
        );
    }
}
