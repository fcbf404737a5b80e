//! Checking a text that an agent is about to run.
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    pattern_set::patterns_of_caller,
    patterns::{Finding, find_matches, truncate},
    scan::violation_records,
};
use crate::{
    access::IdentityMode,
    database::Db,
    operation::{Actor, Context, Meta, Operation, Tool, Transition, column},
    values::Result,
};

/// The maximum number of characters of the text in its audit row.
const AUDITED_TEXT_CHARS: usize = 200;

/// Check a text before you run it, if it could destroy data or other agents' work: a shell command,
/// an SQL statement, a deployment. If the answer is not safe, do not run it. Every finding is
/// recorded.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckGuardrails {
    /// What you are about to run, complete and literal.
    #[schemars(extend("x-max-bytes" = 262_144))]
    pub operation_text: String,
    /// Files that the operation touches; scanned as well. Absent: none.
    pub file_paths: Option<Vec<String>>,
}

/// The result of a check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// Whether no finding blocks the operation.
    pub safe: bool,
    /// The findings: the first match of each pattern.
    pub violations: Vec<Finding>,
}

impl Operation for CheckGuardrails {
    type Output = Checked;
    const META: Meta = Meta::write("check_guardrails")
        .at(&["POST /guardrails/check"])
        .identity(IdentityMode::Soft)
        .tool(Tool::named("check_guardrails"));

    fn example() -> Value {
        json!({ "operation_text": "git status", "file_paths": ["src/main.rs"] })
    }

    /// A check without findings leaves no record, and its answer must not outlive a change of the
    /// patterns.
    fn took_effect(answer: &Checked) -> bool {
        !answer.violations.is_empty()
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Checked> {
        let text = self.scanned_text();
        let trust = cx.caller.trust;
        let violations = find_matches(&text, &patterns_of_caller(&mut cx).await?.patterns, trust);
        let is_blocked = violations.iter().any(|finding| finding.blocked);
        let names: Vec<_> = violations.iter().map(|finding| &finding.pattern_name).collect();
        let result = json!({
            "safe": !is_blocked,
            "violation_count": violations.len(),
            "blocked": is_blocked,
            "patterns": names,
        });
        let record = CheckRecord {
            actor: cx.actor(),
            audited_text: truncate(&self.operation_text, AUDITED_TEXT_CHARS).to_owned(),
            violations: violation_records(&violations, &text, self.file_paths.as_deref(), trust),
            result,
        };
        cx.transition(record).await?;
        Ok(Checked { safe: !is_blocked, violations })
    }
}

/// A call of the database function `check_guardrails`, which records a check.
#[derive(Debug)]
pub(crate) struct CheckRecord {
    actor: Actor,
    audited_text: String,
    violations: Value,
    result: Value,
}

impl Transition for CheckRecord {
    type Row = ();

    async fn call(&self, db: &mut Db) -> Result<()> {
        sqlx::query!(
            "select check_guardrails($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10)",
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.audited_text,
            self.violations,
            self.result,
        )
        .execute(db)
        .await?;
        Ok(())
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<()>> {
        sqlx::query!(
            r#"
            select check_guardrails(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.audited_text, r.violations, r.result
            )
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::jsonb[], $10::jsonb[]
            ) as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, audited_text,
                violations, result
            )
            "#,
            &column(requests, |request| request.actor.workspace.as_str()) as _,
            &column(requests, |request| request.actor.request_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_id.as_str()) as _,
            &column(requests, |request| request.actor.agent_type.as_str()) as _,
            &column(requests, |request| request.actor.session_id.as_deref()) as _,
            &column(requests, |request| request.actor.elapsed_ms()),
            &column(requests, |request| request.actor.session_timeout.clone()),
            &column(requests, |request| request.audited_text.as_str()) as _,
            &column(requests, |request| request.violations.clone()),
            &column(requests, |request| request.result.clone()),
        )
        .execute(db)
        .await?;
        Ok(vec![(); requests.len()])
    }

    /// Returns the empty text: the function locks no rows.
    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        String::new()
    }
}

impl CheckGuardrails {
    /// Returns the scanned text: the text of the operation and then the paths, each on a line of
    /// its own.
    fn scanned_text(&self) -> String {
        let paths = self.file_paths.iter().flatten().map(String::as_str);
        let lines: Vec<_> = [self.operation_text.as_str()].into_iter().chain(paths).collect();
        lines.join("\n")
    }
}
