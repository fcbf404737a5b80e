//! Renewing, completing and cancelling tasks.
use std::{borrow::Cow, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    access::IdentityMode,
    capabilities::{
        filter::non_empty,
        guardrails::{self, Scan},
    },
    database::Db,
    operation::{Actor, Context, Meta, Operation, Tool, Transition, column},
    values::{RawJson, Result, Timestamp},
};

/// Extend the lease of a task that you have claimed, before a long step.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RenewWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// Token of the latest claim. Empty or absent: not checked.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claim_token: Option<String>,
    /// Minutes from now until the lease expires, 1 to 1440. Absent: as many as when you claimed the
    /// task.
    #[schemars(range(min = 1, max = 1440))]
    pub lease_minutes: Option<i64>,
}

/// The outcome of a renewal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Renewed {
    /// Whether the lease was extended.
    pub success: bool,
    /// `running`. Null when refused.
    pub status: Option<String>,
    /// Id of the task. Null when refused.
    pub task_id: Option<Uuid>,
    /// When the lease expires now. Null when refused.
    pub lease_expires_at: Option<Timestamp>,
    /// Why the renewal was refused: `task_not_found_or_not_claimed_by_agent`, `claim_superseded` or
    /// `task_already_finished`.
    pub reason: Option<String>,
}

impl Operation for RenewWork {
    type Output = Renewed;
    const META: Meta = Meta::write("renew_work")
        .at(&["POST /work/renew"])
        .identity(IdentityMode::Strict)
        .recorded_as("renew_task")
        .tool(Tool::named("renew_work"));

    fn example() -> Value {
        json!({ "task_id": "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Renewed) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<Renewed> {
        let renewed = sqlx::query_as!(
            Renewed,
            r#"
            select
                success as "success!", status, task_id,
                lease_expires_at as "lease_expires_at: Timestamp", reason
            from renew_task($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.task_id,
            non_empty(self.claim_token),
            self.lease_minutes.map(|minutes| minutes as i32),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(renewed)
    }
}

/// Report that a task that you claimed is done, or that it failed. Repeating a report has no
/// further effect.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CompleteWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Whether the task was done.
    pub success: bool,
    /// The result, as an object. Absent: none.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub result: Option<RawJson>,
    /// What went wrong. Absent: nothing.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub error_message: Option<String>,
    /// Token of the latest claim. Empty or absent: not checked.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claim_token: Option<String>,
}

/// The outcome of a report.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Completed {
    /// Whether the report was accepted.
    pub success: bool,
    /// `completed`, `failed`, `pending` if the task will be tried again, or `blocked`.
    pub status: Option<String>,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// Why the report was refused: `task_not_found_or_not_claimed_by_agent`, `claim_superseded`,
    /// `task_already_finished` or `destructive_operation_blocked: <names>`.
    pub reason: Option<String>,
    /// When the task can be claimed again. Null if it will not be tried again.
    pub retry_at: Option<Timestamp>,
}

impl Operation for CompleteWork {
    type Output = Completed;
    const META: Meta = Meta::write("complete_work")
        .at(&["POST /work/complete"])
        .identity(IdentityMode::StrictId)
        .recorded_as("complete_task")
        .tool(Tool::named("complete_work"));

    fn example() -> Value {
        json!({
            "task_id": "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1",
            "agent_id": "claude-1",
            "success": true,
            "result": { "passed": 212 },
        })
    }

    fn target(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Completed) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Completed> {
        let Self { task_id, success, result, error_message, claim_token, .. } = self;
        let report = Report { task_id, success, result, error_message, claim_token };
        let completion = report.completion(&mut cx).await?;
        cx.transition(completion).await
    }
}

/// A claimant's report about one task.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct Report {
    /// Id of the task.
    pub task_id: Uuid,
    /// Whether the task was done.
    pub success: bool,
    /// The result, as an object. Absent: none.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub result: Option<RawJson>,
    /// What went wrong. Absent: nothing.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub error_message: Option<String>,
    /// Token of the latest claim. Empty or absent: not checked.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claim_token: Option<String>,
}

impl Report {
    /// Returns the call that stores the report, with what the guardrails find in its result.
    pub(super) async fn completion(self, cx: &mut Context<'_>) -> Result<Completion> {
        let scan = match &self.result {
            Some(result) if self.success && !result.is_empty() => {
                guardrails::scan_all(cx, guardrails::result_text(result.get())).await?
            }
            _ => Scan::default(),
        };
        let trust = cx.caller.trust;
        Ok(Completion {
            actor: cx.actor(),
            task_id: self.task_id,
            success: self.success,
            result: self.result.map(RawJson::into_text),
            error_message: self.error_message,
            claim_token: non_empty(self.claim_token),
            refusal: scan.refusal(trust),
            patterns: scan.pattern_names(trust),
            violations: scan.violations(trust),
        })
    }
}

/// A call of the database function `complete_task`. The result is bound as text: the driver would
/// bind it as `jsonb`, which does not keep the order of members.
#[derive(Debug)]
pub(crate) struct Completion {
    actor: Actor,
    task_id: Uuid,
    success: bool,
    result: Option<String>,
    error_message: Option<String>,
    claim_token: Option<String>,
    refusal: Option<String>,
    patterns: Value,
    violations: Value,
}

impl Transition for Completion {
    type Row = Completed;

    async fn call(&self, db: &mut Db) -> Result<Completed> {
        let completed = sqlx::query_as!(
            Completed,
            r#"
            select
                success as "success!", status, task_id, reason,
                retry_at as "retry_at: Timestamp"
            from complete_task(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10::text::json, $11, $12, $13, $14, $15
            )
            "#,
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.task_id,
            self.success,
            self.result,
            self.error_message,
            self.claim_token,
            self.refusal,
            self.patterns,
            self.violations,
        )
        .fetch_one(db)
        .await?;
        Ok(completed)
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<Completed>> {
        let completed = sqlx::query_as!(
            Completed,
            r#"
            select
                a.success as "success!", a.status, a.task_id, a.reason,
                a.retry_at as "retry_at: Timestamp"
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::uuid[], $9::bool[], $10::text[],
                $11::text[], $12::text[], $13::text[], $14::jsonb[], $15::jsonb[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, task_id,
                success, result, error_message, claim_token, refusal, patterns, violations, n
            ),
            complete_task(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.task_id, r.success, r.result::json, r.error_message, r.claim_token, r.refusal,
                r.patterns, r.violations
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
            &column(requests, |request| request.task_id),
            &column(requests, |request| request.success),
            &column(requests, |request| request.result.as_deref()) as _,
            &column(requests, |request| request.error_message.as_deref()) as _,
            &column(requests, |request| request.claim_token.as_deref()) as _,
            &column(requests, |request| request.refusal.as_deref()) as _,
            &column(requests, |request| request.patterns.clone()),
            &column(requests, |request| request.violations.clone()),
        )
        .fetch_all(db)
        .await?;
        Ok(completed)
    }

    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        self.task_id.to_string()
    }
}

/// Cancel a task that you submitted. Tasks of other submitters need elevated trust.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CancelWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// Why the task is cancelled; stored as its error message. Absent: no reason.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub reason: Option<String>,
}

/// The outcome of a cancellation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cancelled {
    /// Whether the task was cancelled.
    pub success: bool,
    /// `cancelled`. Null when refused.
    pub status: Option<String>,
    /// Id of the task. Null when refused.
    pub task_id: Option<Uuid>,
    /// Why the cancellation was refused: `task_not_found`, `not_submitter` or
    /// `task_already_finished`.
    pub reason: Option<String>,
}

impl Operation for CancelWork {
    type Output = Cancelled;
    const META: Meta = Meta::write("cancel_work")
        .at(&["POST /work/cancel"])
        .identity(IdentityMode::Strict)
        .recorded_as("cancel_task")
        .tool(Tool::named("cancel_work"));

    fn example() -> Value {
        json!({ "task_id": "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1", "reason": "not needed" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Cancelled) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<Cancelled> {
        let cancelled = sqlx::query_as!(
            Cancelled,
            r#"
            select success as "success!", status, task_id, reason
            from cancel_task($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10)
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.task_id,
            self.reason,
            i32::from(cx.caller.trust),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(cancelled)
    }
}
