//! The check of a text that an agent asks for.
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    pattern_set::patterns,
    patterns::{Finding, find, first_chars},
    scan::violation_records,
};
use crate::{
    access::IdentityMode,
    database::Db,
    operation::{Actor, Context, Meta, Operation, Tool, Transition, column},
    values::Result,
};

/// How many characters of the operation's text its audit row keeps.
const AUDITED_TEXT_CHARS: usize = 200;

/// Ask before you run something that could destroy data or other people's work: a shell command, an
/// SQL statement, a deployment. Do not run it when the answer is not safe. Every finding is
/// recorded.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckGuardrails {
    /// What you are about to run, whole and literally.
    #[schemars(extend("x-max-bytes" = 262_144))]
    pub operation_text: String,
    /// The files it touches.
    pub file_paths: Option<Vec<String>>,
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// Whether nothing found blocks the operation.
    pub safe: bool,
    /// The patterns found, the first match of each.
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

    /// A check that found nothing leaves nothing, and its answer must not outlive a change of the
    /// patterns.
    fn took_effect(answer: &Checked) -> bool {
        !answer.violations.is_empty()
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Checked> {
        let text = self.scanned_text();
        let trust = cx.caller.trust;
        let violations = scan(&mut cx, &text).await?;
        let blocked = violations.iter().any(|it| it.blocked);
        let names: Vec<_> = violations.iter().map(|it| &it.pattern_name).collect();
        let result = json!({
            "safe": !blocked,
            "violation_count": violations.len(),
            "blocked": blocked,
            "patterns": names,
        });
        let check = Check {
            actor: cx.actor(),
            audited_text: first_chars(&self.operation_text, AUDITED_TEXT_CHARS).to_owned(),
            violations: violation_records(&violations, &text, self.file_paths.as_deref(), trust),
            result,
        };
        cx.transition(check).await?;
        Ok(Checked { safe: !blocked, violations })
    }
}

/// A call of the database function `check_guardrails`.
#[derive(Debug)]
pub(crate) struct Check {
    actor: Actor,
    audited_text: String,
    violations: Value,
    result: Value,
}

impl Transition for Check {
    type Row = ();

    async fn run(&self, db: &mut Db) -> Result<()> {
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

    async fn run_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<()>> {
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

    /// It locks nothing.
    fn lock_order(&self) -> String {
        String::new()
    }
}

impl CheckGuardrails {
    fn scanned_text(&self) -> String {
        let paths = self.file_paths.iter().flatten().map(String::as_str);
        let lines: Vec<_> = [self.operation_text.as_str()].into_iter().chain(paths).collect();
        lines.join("\n")
    }
}

/// What a text holds that is destructive, in the eyes of a caller of this trust. Nothing found and
/// nothing known are told apart: when the patterns are not to be had, this is an error.
///
/// The database is asked only when what is known of the workspace's patterns is too old, and then
/// in a transaction of its own, nested in the caller's, which no failure to read can break.
async fn scan(cx: &mut Context<'_>, text: &str) -> Result<Vec<Finding>> {
    let trust = cx.caller.trust;
    Ok(find(text, &patterns(cx).await?.patterns, trust))
}
