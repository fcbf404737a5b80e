//! What happens to a claimed task: renewal, completion, cancellation.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::{
    Result, Timestamp,
    audit::audited,
    capabilities::guardrails::{self, Scan},
    operation::{Context, IdentityMode, Meta, Operation},
    tool::Tool,
};

/// Extend the lease of a task you have claimed, before a long step.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RenewWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// When given, it must be that of the latest claim.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claim_token: Option<String>,
    /// Minutes from now, 1 to 1440; absent: as at the claim.
    #[schemars(range(min = 1, max = 1440))]
    pub lease_minutes: Option<i64>,
}

/// What became of a renewal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Renewed {
    /// Whether the lease was extended.
    pub success: bool,
    /// `running`.
    pub status: Option<String>,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// When the lease ends now.
    pub lease_expires_at: Option<Timestamp>,
    /// Why not: `task_not_found_or_not_claimed_by_agent`, `claim_superseded` or
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

    fn resource(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Renewed) -> bool {
        answer.success
    }

    /// A claim may be committed while the statement waits for the task's row. Constraints are then
    /// checked on the row as it was before, with the changes, and only afterwards is the row read
    /// anew: so what makes a claim whole is set from the locked row, although it stays as it is.
    async fn run(self, cx: Context<'_>) -> Result<Renewed> {
        let renewed = audited!(
            Renewed,
            cx,
            Self::META.audit(),
            json!({ "task_id": self.task_id }),
            r#"
            target as materialized (
                select
                    t.workspace, t.id, t.claim_token, t.claimed_by, t.claimed_at,
                    t.claimed_session_id, t.claim_lease_minutes, task_status(t) as status,
                    t.claimed_by = $2 and coalesce(t.claimed_session_id = $4, true) as is_mine
                from work_task t where t.workspace = $1 and t.id = $10
                for update
            ), judged as materialized (
                select case
                    when t.id is null then 'task_not_found_or_not_claimed_by_agent'
                    when $11::text is not null and $11 is distinct from t.claim_token
                        then 'claim_superseded'
                    when not coalesce(t.is_mine, false)
                        then 'task_not_found_or_not_claimed_by_agent'
                    when t.status not in ('claimed', 'running') then 'task_already_finished'
                end as reason
                from (select) one left join target t on true
            ), renewed as (
                update work_task t set
                    status = 'running',
                    is_lapsed = false,
                    claim_token = target.claim_token,
                    claimed_by = target.claimed_by,
                    claimed_at = target.claimed_at,
                    claim_lease_minutes = target.claim_lease_minutes,
                    lease_minutes = coalesce($12, target.claim_lease_minutes),
                    lease_expires_at = clock_timestamp()
                        + make_interval(mins => coalesce($12, target.claim_lease_minutes)),
                    held_until = clock_timestamp() + least(
                        make_interval(mins => coalesce($12, target.claim_lease_minutes)),
                        session_patience($1, $2, target.claimed_session_id, $9))
                from judged, target
                where judged.reason is null and t.workspace = target.workspace and t.id = target.id
                returning t.id, t.status, t.lease_expires_at
            ), op as (
                select
                    r.id is not null as success, r.status, r.id, r.lease_expires_at, judged.reason,
                    r.id is not null as audit_success,
                    case when r.id is null then jsonb_build_object('reason', judged.reason)
                        else jsonb_build_object('lease_expires_at', r.lease_expires_at)
                    end as audit_result
                from judged left join renewed r on true
            )
            "#,
            r#"
            op.success as "success!", op.status as "status?", op.id as "task_id?",
            op.lease_expires_at as "lease_expires_at?: Timestamp", op.reason as "reason?"
            "#,
            self.task_id,
            self.claim_token,
            self.lease_minutes.map(|it| it as i32),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(renewed)
    }
}

/// Report that a task you have claimed is done, or that it failed. Repeating the same report is
/// harmless.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CompleteWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Whether the work was done.
    pub success: bool,
    /// What came of it, as an object.
    pub result: Option<Map<String, Value>>,
    /// What went wrong.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub error_message: Option<String>,
    /// When given, it must be that of the latest claim.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claim_token: Option<String>,
}

/// What became of a completion.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Completed {
    /// Whether the report was taken.
    pub success: bool,
    /// `completed`, `failed`, `pending` when it will be tried again, or `blocked`.
    pub status: Option<String>,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// Why it was refused: `task_not_found_or_not_claimed_by_agent`, `claim_superseded`,
    /// `task_already_finished` or `destructive_operation_blocked: <names>`.
    pub reason: Option<String>,
    /// When a failed task is tried again.
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

    fn resource(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Completed) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Completed> {
        let result = self.result.clone().map(Value::Object);
        let scan = match &result {
            Some(value) if self.success && value != &json!({}) => {
                guardrails::scan_all(&mut cx, guardrails::result_text(value)).await?
            }
            _ => Scan::default(),
        };
        self.record(cx, result.as_ref(), &scan).await
    }
}

impl CompleteWork {
    /// Judges, stores and records the report in one statement, the result bound as text to keep the
    /// order of its members; a completed task counts down in those
    /// that wait for it. A failure that is tried again comes back after 30 s, doubled with each
    /// attempt up to an hour, give or take a fifth.
    async fn record(
        &self,
        cx: Context<'_>,
        result: Option<&Value>,
        scan: &Scan,
    ) -> Result<Completed> {
        let trust = cx.caller.trust;
        let completed = audited!(
            Completed,
            cx,
            Self::META.audit(),
            json!({ "task_id": self.task_id, "success": self.success }),
            r#"
            target as materialized (
                select
                    t.workspace, t.id, t.claim_token, task_status(t) as status, t.completion,
                    case when coalesce(t.completion->>'session_id' = $4, true)
                        then t.completion->'report' end as reported,
                    t.claimed_by = $2 and coalesce(t.claimed_session_id = $4, true) as is_mine,
                    case when t.retry_on_failure and t.attempt < t.max_attempts then
                        clock_timestamp() + (0.8 + 0.4 * random()) * least(
                            interval '60 minutes', interval '30 seconds' * 2 ^ (t.attempt - 1))
                    end as retry_at
                from work_task t where t.workspace = $1 and t.id = $10
                for update
            ), report as (
                select jsonb_build_object(
                    'agent_id', $2, 'success', $11::boolean, 'result', $12::text::json,
                    'error_message', $13::text) as it
            ), judged as materialized (
                select
                    coalesce(t.reported = report.it, false) as is_repeat,
                    case
                        when t.reported = report.it then null
                        when t.id is null then 'task_not_found_or_not_claimed_by_agent'
                        when $14::text is not null and $14 is distinct from t.claim_token
                            then 'claim_superseded'
                        when not coalesce(t.is_mine, false)
                            then 'task_not_found_or_not_claimed_by_agent'
                        when t.status not in ('claimed', 'running') then 'task_already_finished'
                        else $15::text
                    end as reason,
                    t.id, t.completion,
                    case when $11 then 'completed' when t.retry_at is null then 'failed'
                        else 'pending' end as status,
                    case when not $11 then t.retry_at end as retry_at
                from report left join target t on true
            ), finished as (
                update work_task t set
                    status = j.status,
                    result = $12::text::json,
                    error_message = $13,
                    completed_at = case when j.status <> 'pending' then clock_timestamp() end,
                    claim_token = case when j.status <> 'pending' then t.claim_token end,
                    claimed_by = case when j.status <> 'pending' then t.claimed_by end,
                    claimed_session_id =
                        case when j.status <> 'pending' then t.claimed_session_id end,
                    lease_expires_at = null,
                    held_until = null,
                    is_lapsed = false,
                    available_at = case when j.status = 'pending' then j.retry_at
                        else t.available_at end,
                    is_parked = j.status = 'pending',
                    completion = jsonb_build_object(
                        'report', report.it, 'session_id', t.claimed_session_id,
                        'status', j.status, 'retry_at', j.retry_at)
                from judged j, report
                where j.reason is null and not j.is_repeat
                    and t.workspace = $1 and t.id = j.id
                returning t.workspace, t.id, t.status
            ), released as (
                select release_dependents(workspace, id) as n from finished
                where status = 'completed'
            ), op as (
                select
                    j.reason is null as success,
                    case when j.is_repeat then j.completion->>'status'
                        when j.reason is null then j.status
                        when j.reason = $15 then 'blocked' end as status,
                    case when j.reason is null or j.reason = $15 then j.id end as task_id,
                    j.reason,
                    case when j.is_repeat then (j.completion->>'retry_at')::timestamptz
                        when j.reason is null then j.retry_at end as retry_at,
                    j.reason is null as audit_success,
                    (select sum(n) from released) as released,
                    case when j.reason is null then jsonb_build_object(
                            'status', coalesce(j.completion->>'status', j.status),
                            'guardrails', $16::jsonb)
                        when j.reason = $15 then jsonb_build_object(
                            'status', 'blocked', 'reason', j.reason, 'guardrails', $16)
                        else jsonb_build_object('reason', j.reason)
                    end as audit_result,
                    case when j.reason is null and not j.is_repeat or j.reason = $15
                        then record_guardrail_violations($1, $2, $4, $5, $17) end as violations
                from judged j
            )
            "#,
            r#"
            op.success as "success!", op.status as "status?", op.task_id as "task_id?",
            op.reason as "reason?", op.retry_at as "retry_at?: Timestamp"
            "#,
            self.task_id,
            self.success,
            result.map(Value::to_string),
            self.error_message,
            self.claim_token,
            scan.refusal(trust),
            scan.names(trust),
            scan.violations(trust),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(completed)
    }
}

/// Take a task out of the queue that you submitted. Needs elevated trust for tasks of others.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CancelWork {
    /// Id of the task.
    pub task_id: Uuid,
    /// Why; shown as the task's error message.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub reason: Option<String>,
}

/// What became of a cancellation.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cancelled {
    /// Whether the task was cancelled.
    pub success: bool,
    /// `cancelled`.
    pub status: Option<String>,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// Why not: `task_not_found`, `not_submitter` or `task_already_finished`.
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

    fn resource(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    fn took_effect(answer: &Cancelled) -> bool {
        answer.success
    }

    async fn run(self, cx: Context<'_>) -> Result<Cancelled> {
        let cancelled = audited!(
            Cancelled,
            cx,
            Self::META.audit(),
            json!({ "task_id": self.task_id, "reason": self.reason }),
            r#"
            target as materialized (
                select t.workspace, t.id, task_status(t) as status, t.submitted_by
                from work_task t where t.workspace = $1 and t.id = $10
                for update
            ), judged as materialized (
                select case
                    when t.id is null then 'task_not_found'
                    when t.submitted_by <> $2 and $12::integer < 3 then 'not_submitter'
                    when t.status in ('completed', 'failed', 'cancelled')
                        then 'task_already_finished'
                end as reason
                from (select) one left join target t on true
            ), cancelled as (
                update work_task t set
                    status = 'cancelled', error_message = $11, completed_at = clock_timestamp(),
                    lease_expires_at = null, held_until = null
                from judged, target
                where judged.reason is null and t.workspace = target.workspace and t.id = target.id
                returning t.id, t.status
            ), op as (
                select
                    c.id is not null as success, c.status, c.id, judged.reason,
                    c.id is not null as audit_success,
                    case when c.id is null then jsonb_build_object('reason', judged.reason)
                        else jsonb_build_object('status', c.status) end as audit_result
                from judged left join cancelled c on true
            )
            "#,
            r#"
            op.success as "success!", op.status as "status?", op.id as "task_id?",
            op.reason as "reason?"
            "#,
            self.task_id,
            self.reason,
            i32::from(cx.caller.trust),
        )
        .fetch_one(cx.db)
        .await?;
        Ok(cancelled)
    }
}
