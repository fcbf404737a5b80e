//! The calls of the database functions that store tasks.
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::{
    config::QuotaLimits,
    database::Db,
    operation::{Actor, Transition, column},
    values::{Result, Timestamp},
};

/// The result of the database function `submit_task`.
#[derive(Debug)]
pub(crate) struct SubmitRow {
    pub(super) verdict: String,
    pub(super) task_id: Option<Uuid>,
    pub(super) dependency_number: Option<i64>,
}

/// A call of the database function `submit_task`. The members are those of the database's type
/// `task_submission`. Objects are bound as text: the driver would bind them as `jsonb`, which does
/// not keep the order of members.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(super) actor: Actor,
    pub(super) task_type: String,
    pub(super) description: String,
    pub(super) input_data: Option<String>,
    pub(super) priority: i16,
    pub(super) depends_on: Value,
    pub(super) agent_requirements: Option<String>,
    pub(super) archetype: Option<String>,
    pub(super) min_trust: i16,
    pub(super) deadline: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) max_attempts: i16,
    pub(super) retry_on_failure: bool,
    pub(super) unique_key: Option<String>,
    pub(super) replaces: Option<Uuid>,
    pub(super) authored_by: Option<String>,
    pub(super) change_id: Option<String>,
    pub(super) guard_version: String,
    pub(super) guard_trust: i16,
    pub(super) guard_findings: Value,
    pub(super) refusal: Option<String>,
    pub(super) patterns: Value,
    pub(super) violations: Value,
    pub(super) quota: QuotaLimits,
}

/// Runs a query over submissions. Its arguments are those of the first list, then the columns of
/// the tasks, then those of the second list.
macro_rules! query_submissions {
    (
        $row:ident, $sql:literal, $requests:expr, [$($first:expr),* $(,)?],
        [$($last:expr),*] $(,)?
    ) => {
        sqlx::query_as!(
            $row,
            $sql,
            $($first,)*
            &column($requests, |request| request.task_type.as_str()) as _,
            &column($requests, |request| request.description.as_str()) as _,
            &column($requests, |request| request.input_data.as_deref()) as _,
            &column($requests, |request| request.priority),
            &column($requests, |request| request.depends_on.clone()),
            &column($requests, |request| request.agent_requirements.as_deref()) as _,
            &column($requests, |request| request.archetype.as_deref()) as _,
            &column($requests, |request| request.min_trust),
            &column($requests, |request| request.deadline) as _,
            &column($requests, |request| request.not_before) as _,
            &column($requests, |request| request.max_attempts),
            &column($requests, |request| request.retry_on_failure),
            &column($requests, |request| request.unique_key.as_deref()) as _,
            &column($requests, |request| request.replaces) as _,
            &column($requests, |request| request.authored_by.as_deref()) as _,
            &column($requests, |request| request.change_id.as_deref()) as _,
            &column($requests, |request| request.guard_version.as_str()) as _,
            &column($requests, |request| request.guard_trust),
            &column($requests, |request| request.guard_findings.clone()),
            &column($requests, |request| request.refusal.as_deref()) as _,
            &column($requests, |request| request.patterns.clone()),
            &column($requests, |request| request.violations.clone()),
            $($last,)*
        )
    };
}

impl Transition for Submission {
    type Row = SubmitRow;

    async fn call(&self, db: &mut Db) -> Result<SubmitRow> {
        let row = sqlx::query_as!(
            SubmitRow,
            r#"
            select verdict as "verdict!", task_id, dependency_number
            from submit_task($1, row($2, $3, $4, $5, $6, $7)::request, row(
                $8, $9, $10::text::json, $11, $12, $13::text::json, $14, $15, $16, $17, $18, $19,
                $20, $21, $22, $23, $24, $25, $26, $27, $28, $29
            )::task_submission, $30)
            "#,
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.task_type,
            self.description,
            self.input_data,
            self.priority,
            self.depends_on,
            self.agent_requirements,
            self.archetype,
            self.min_trust,
            self.deadline as Option<Timestamp>,
            self.not_before as Option<Timestamp>,
            self.max_attempts,
            self.retry_on_failure,
            self.unique_key,
            self.replaces,
            self.authored_by,
            self.change_id,
            self.guard_version,
            self.guard_trust,
            self.guard_findings,
            self.refusal,
            self.patterns,
            self.violations,
            &self.quota,
        )
        .fetch_one(db)
        .await?;
        Ok(row)
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<SubmitRow>> {
        let rows = query_submissions!(
            SubmitRow,
            r#"
            select a.verdict as "verdict!", a.task_id, a.dependency_number
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::text[], $10::text[],
                $11::smallint[], $12::jsonb[], $13::text[], $14::text[], $15::smallint[],
                $16::timestamptz[], $17::timestamptz[], $18::smallint[], $19::bool[], $20::text[],
                $21::uuid[], $22::text[], $23::text[], $24::text[], $25::smallint[], $26::jsonb[],
                $27::text[], $28::jsonb[], $29::jsonb[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, task_type,
                description, input_data, priority, depends_on, agent_requirements, archetype,
                min_trust, deadline, not_before, max_attempts, retry_on_failure, unique_key,
                replaces, authored_by, change_id, guard_version, guard_trust, guard_findings,
                refusal, patterns, violations, n
            ),
            submit_task(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                row(
                    r.task_type, r.description, r.input_data::json, r.priority, r.depends_on,
                    r.agent_requirements::json, r.archetype, r.min_trust, r.deadline, r.not_before,
                    r.max_attempts, r.retry_on_failure, r.unique_key, r.replaces, r.authored_by,
                    r.change_id, r.guard_version, r.guard_trust, r.guard_findings, r.refusal,
                    r.patterns, r.violations
                )::task_submission,
                $30
            ) a
            order by r.n
            "#,
            requests,
            [
                &column(requests, |request| request.actor.workspace.as_str()) as _,
                &column(requests, |request| request.actor.request_id.as_str()) as _,
                &column(requests, |request| request.actor.agent_id.as_str()) as _,
                &column(requests, |request| request.actor.agent_type.as_str()) as _,
                &column(requests, |request| request.actor.session_id.as_deref()) as _,
                &column(requests, |request| request.actor.elapsed_ms()),
                &column(requests, |request| request.actor.session_timeout.clone()),
            ],
            [quota(requests)],
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }

    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        format!("{}\n{}", self.actor.workspace, self.unique_key.as_deref().unwrap_or_default())
    }
}

/// Returns the quota, which all requests of a process have in common.
fn quota(requests: &[Arc<Submission>]) -> Option<&[i32]> {
    requests.first().map(|request| &request.quota[..])
}

/// The result of the database function `submit_tasks` for one task.
#[derive(Debug)]
pub(crate) struct BatchRow {
    pub(super) is_stored: bool,
    pub(super) verdict: String,
    pub(super) task_id: Option<Uuid>,
    pub(super) reason: Option<String>,
}

/// Stores all tasks of one request or none, by the database function `submit_tasks`.
pub(super) async fn run_batch(
    requests: &[Arc<Submission>],
    references: &[Option<String>],
    db: &mut Db,
) -> Result<Vec<BatchRow>> {
    let Some(Submission { actor, .. }) = requests.first().map(|request| &**request) else {
        return Ok(Vec::new());
    };
    let rows = query_submissions!(
        BatchRow,
        r#"
        select
            is_stored as "is_stored!", verdict as "verdict!", task_id, reason
        from submit_tasks($1, row($2, $3, $4, $5, $6, $7)::request, (
            select array_agg(row(
                r.task_type, r.description, r.input_data::json, r.priority, r.depends_on,
                r.agent_requirements::json, r.archetype, r.min_trust, r.deadline, r.not_before,
                r.max_attempts, r.retry_on_failure, r.unique_key, r.replaces, r.authored_by,
                r.change_id, r.guard_version, r.guard_trust, r.guard_findings, r.refusal,
                r.patterns, r.violations
            )::task_submission order by r.n)
            from unnest(
                $8::text[], $9::text[], $10::text[], $11::smallint[], $12::jsonb[], $13::text[],
                $14::text[], $15::smallint[], $16::timestamptz[], $17::timestamptz[],
                $18::smallint[], $19::bool[], $20::text[], $21::uuid[], $22::text[],
                $23::text[], $24::text[], $25::smallint[], $26::jsonb[], $27::text[],
                $28::jsonb[], $29::jsonb[]
            ) with ordinality as r (
                task_type, description, input_data, priority, depends_on, agent_requirements,
                archetype, min_trust, deadline, not_before, max_attempts, retry_on_failure,
                unique_key, replaces, authored_by, change_id, guard_version, guard_trust,
                guard_findings, refusal, patterns, violations, n
            )
        ), $30, $31)
        "#,
        requests,
        [
            actor.workspace,
            actor.request_id,
            actor.agent_id,
            actor.agent_type,
            actor.session_id,
            actor.elapsed_ms(),
            actor.session_timeout,
        ],
        [references as _, quota(requests)],
    )
    .fetch_all(db)
    .await?;
    Ok(rows)
}
