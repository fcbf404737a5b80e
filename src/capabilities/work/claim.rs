//! Claiming: the next task for an agent, as a lease.
use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::MAX_RACES;
use crate::{
    Config, Result, Timestamp,
    audit::audited,
    capabilities::guardrails,
    db::Db,
    operation::{Context, IdentityMode, Meta, Operation},
    tool::Tool,
    waiting::Ticket,
};

/// How many tasks a claim judges anew, or how often it takes notice of what time has changed, before
/// it leaves the rest to the next one.
const MAX_STEPS: u32 = 500;

/// Take the next task that you may work on. The task is yours until its lease ends; any call of
/// your session extends the lease. Finish it with complete_work and the `claim_token`.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetWork {
    /// The calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Type of the calling agent; empty: the key's own.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_type: String,
    /// Kinds of work you take; absent: any.
    pub task_types: Option<Vec<String>>,
    /// Session of the calling agent; the claim then belongs to this session alone.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// Minutes until the lease ends by itself, 1 to 1440; absent: the service's default.
    #[schemars(range(min = 1, max = 1440))]
    pub lease_minutes: Option<i64>,
    /// Seconds to wait for a task when there is none for you; answered as soon as there is. The
    /// service sets an upper bound.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub wait_seconds: i64,
}

/// A claimed task, or why there is none.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Claimed {
    /// Whether you have a task now.
    pub success: bool,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// Kind of work.
    #[schemars(extend("x-untrusted" = true))]
    pub task_type: Option<String>,
    /// What is to be done.
    #[schemars(extend("x-untrusted" = true))]
    pub description: Option<String>,
    /// What its submitter gave along.
    #[schemars(extend("x-untrusted" = true))]
    pub input_data: Option<Value>,
    /// 1 (first) to 10.
    pub priority: Option<i16>,
    /// The task's deadline.
    pub deadline: Option<Timestamp>,
    /// Why there is none: `no_tasks_available` or `destructive_operation_blocked: <names>`.
    pub reason: Option<String>,
    /// The how-manieth claim of the task this is.
    pub attempt: Option<i16>,
    /// Proves at renewal and completion that nobody else has claimed the task since.
    pub claim_token: Option<String>,
    /// When the lease ends unless it is renewed.
    pub lease_expires_at: Option<Timestamp>,
}

struct GivenUp {
    reason: String,
}

struct ClaimRow {
    verdict: String,
    id: Option<Uuid>,
    task_type: Option<String>,
    description: Option<String>,
    input_data: Option<Value>,
    priority: Option<i16>,
    deadline: Option<Timestamp>,
    attempt: Option<i16>,
    claim_token: Option<String>,
    lease_expires_at: Option<Timestamp>,
    reason: Option<String>,
}

impl Operation for GetWork {
    type Output = Claimed;
    const META: Meta = Meta::write("get_work")
        .at(&["POST /work/claim"])
        .identity(IdentityMode::Strict)
        .recorded_as("claim_task")
        .tool(Tool::named("get_work"));

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "agent_type": "claude_code", "task_types": ["test"] })
    }

    fn wait_seconds(&self) -> i64 {
        self.wait_seconds
    }

    fn took_effect(answer: &Claimed) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Claimed> {
        let version = guardrails::version(&mut cx).await?;
        let (mut races, mut steps) = (0, 0);
        while races < MAX_RACES && steps < MAX_STEPS {
            // No row: rivals had locked every candidate that was looked at.
            let Some(row) = self.attempt(&mut cx, &version).await? else {
                races += 1;
                continue;
            };
            match row.verdict.as_str() {
                "rescan" => rescan(&mut cx, &row).await?,
                // Time has made tasks available that nobody had noticed.
                "again" => {}
                "claimed" => return Ok(claimed(row)),
                _ => {
                    self.wait_for_work(&cx);
                    return Ok(Claimed { reason: row.reason, ..Claimed::default() });
                }
            }
            steps += 1;
        }
        self.give_up(cx).await
    }
}

fn claimed(row: ClaimRow) -> Claimed {
    Claimed {
        success: true,
        task_id: row.id,
        task_type: row.task_type,
        description: row.description,
        input_data: row.input_data,
        priority: row.priority,
        deadline: row.deadline,
        reason: None,
        attempt: row.attempt,
        claim_token: row.claim_token,
        lease_expires_at: row.lease_expires_at,
    }
}

/// Judges a task anew whose text was scanned under another set of patterns.
async fn rescan(cx: &mut Context<'_>, row: &ClaimRow) -> Result<()> {
    let description = row.description.as_deref().unwrap_or_default();
    let text = guardrails::task_text(description, row.input_data.as_ref());
    let scan = guardrails::scan_all(cx, text).await?;
    sqlx::query!(
        "update work_task set
            guard_version = $3, guard_trust = $4, guard_findings = $5,
            needed_trust = greatest(min_trust, $4)
         where workspace = $1 and id = $2",
        cx.caller.workspace,
        row.id,
        scan.version,
        scan.needed_trust(),
        scan.to_json(),
    )
    .execute(&mut *cx.db)
    .await?;
    Ok(())
}

impl GetWork {
    fn wait_for_work(&self, cx: &Context<'_>) {
        cx.postpone(Self::META.name, self.task_types.as_deref(), look);
    }

    /// Answers that there is nothing, after more preparation than one request can wait for, or with
    /// rivals about to claim whatever there is: what was done is kept, and the next claim goes on
    /// from there.
    async fn give_up(self, cx: Context<'_>) -> Result<Claimed> {
        if cx.may_wait() {
            self.wait_for_work(&cx);
            return Ok(Claimed::default());
        }
        let row = audited!(
            GivenUp,
            cx,
            Self::META.audit(),
            json!({ "task_types": self.task_types }),
            r#"
            op as (
                select
                    'no_tasks_available' as reason, false as audit_success,
                    jsonb_build_object('reason', 'no_tasks_available') as audit_result
            )
            "#,
            r#"op.reason as "reason!""#,
        )
        .fetch_one(cx.db)
        .await?;
        Ok(Claimed { reason: Some(row.reason), ..Claimed::default() })
    }

    /// Finds, claims and records in one statement.
    ///
    /// The first few ready tasks are read from an index in the order of handing out, once for each
    /// degree of trust the claimant has (and for each kind asked for), so that neither blocked nor
    /// forbidden tasks are walked over. What time has made available without anybody noticing comes
    /// from indexes of its own, and whatever of it is not claimed now is noted as ready, a hundred
    /// at a time. Of all these the first one that no rival has locked is taken. A task that was
    /// judged by another set of patterns is handed back to be judged anew first.
    async fn attempt(&self, cx: &mut Context<'_>, version: &str) -> Result<Option<ClaimRow>> {
        let lease_minutes = self.lease_minutes.unwrap_or(cx.config.work_lease_minutes);
        let row = audited!(
            ClaimRow,
            cx,
            Self::META.audit(),
            json!({ "task_types": self.task_types }),
            r#"
            declared as materialized (
                select array_agg(capability) as capabilities
                from agent_session s, unnest(s.capabilities) capability
                where s.workspace = $1 and s.agent_id = $2
                    -- The session of this very call lives: the call is its heartbeat.
                    and (s.session_id = $4 or (s.ended_at is null
                        and s.last_heartbeat_at > clock_timestamp() - $9::interval))
            ), overdue as (
                update work_task t set
                    status = 'failed', error_message = 'deadline_exceeded', completed_at = t.deadline
                from (
                    select workspace, id from work_task
                    where workspace = $1 and status = 'pending' and deadline <= statement_timestamp()
                    order by deadline limit 100
                    for update skip locked
                ) it
                where t.workspace = it.workspace and t.id = it.id
            ), stale as materialized (
                select t.id, t.description, t.input_data from (
                    (
                        select id, description, input_data from work_task
                        where workspace = $1 and status = 'pending' and guard_trust > 0
                            and guard_version < $13::text
                        limit 1
                    ) union all (
                        select id, description, input_data from work_task
                        where workspace = $1 and status = 'pending' and guard_trust > 0
                            and guard_version > $13::text
                        limit 1
                    )
                ) t limit 1
            ), due as materialized (
                select id from work_task
                where workspace = $1 and status = 'pending' and open_dependencies = 0
                    and is_parked and available_at <= statement_timestamp()
                order by available_at limit 100
            ), ended as materialized (
                select id from work_task
                where workspace = $1 and status in ('claimed', 'running') and not is_lapsed
                    and held_until <= statement_timestamp()
                order by held_until limit 100
            ), candidates as materialized (
                -- As an array, whose length the planner takes for small.
                select unnest(array(
                    select id from declared, claimable_tasks(
                        $1, $2, $12::integer, $10::text[], declared.capabilities) id
                )) as id
                union select id from due
                union select id from ended
            ), eligible as materialized (
                select t.id, t.priority, t.created_at
                from declared cross join candidates c join work_task t on t.id = c.id
                where t.workspace = $1 and t.needed_trust <= $12::integer
                    and (t.status = 'pending' or t.attempt < t.max_attempts)
                    and ($10::text[] is null or t.task_type = any($10::text[]))
                    and is_open_to(t, $2, declared.capabilities)
            ), picked as materialized (
                select t.workspace, t.id, t.guard_version, t.description, t.input_data
                from work_task t
                join eligible e on e.id = t.id
                -- Judged once more on the locked row: a rival may have scanned it again meanwhile.
                where t.workspace = $1 and t.needed_trust <= $12::integer
                    and not exists (select from stale) and (
                    (t.status = 'pending' and t.open_dependencies = 0
                        and (not t.is_parked or t.available_at <= statement_timestamp()))
                    or (t.status in ('claimed', 'running')
                        and t.held_until <= statement_timestamp() and t.attempt < t.max_attempts)
                )
                order by e.priority, e.created_at, t.id limit 1
                for update of t skip locked
            ), claimed as (
                update work_task t set
                    status = 'claimed', attempt = t.attempt + 1, is_parked = false, is_lapsed = false,
                    claim_token = 'c_' || replace(gen_random_uuid()::text, '-', ''),
                    claimed_by = $2, claimed_session_id = $4, claimed_at = clock_timestamp(),
                    started_at = coalesce(t.started_at, clock_timestamp()),
                    lease_minutes = $11::integer, claim_lease_minutes = $11::integer,
                    lease_expires_at = clock_timestamp() + make_interval(mins => $11::integer),
                    held_until = clock_timestamp() + least(
                        make_interval(mins => $11::integer),
                        session_patience($1, $2, $4, $9::interval)),
                    completion = null, result = null, error_message = null
                from picked
                where t.workspace = picked.workspace and t.id = picked.id
                    and picked.guard_version = $13::text
                returning t.*
            ), noticed as (
                update work_task t set
                    is_parked = false,
                    is_lapsed = t.status in ('claimed', 'running') and not it.is_over,
                    status = case when it.is_over then 'failed' else t.status end,
                    error_message = case when it.is_over then task_error(t) else t.error_message end,
                    completed_at = case when it.is_over then task_failed_at(t)
                        else t.completed_at end
                from (
                    select t.workspace, t.id, task_status(t) = 'failed' as is_over
                    from work_task t
                    where t.workspace = $1
                        and t.id in (select id from due union all select id from ended)
                        and t.id not in (select id from picked)
                        and (t.is_parked or (t.status in ('claimed', 'running')
                            and t.held_until <= statement_timestamp()))
                    for update of t skip locked
                ) it
                where t.workspace = it.workspace and t.id = it.id
                returning t.id
            ), forbidden as materialized (
                select t.guard_findings
                from declared cross join work_task t
                where t.workspace = $1 and t.is_ready and t.guard_trust > 0
                    and t.guard_trust > $12::integer and t.min_trust <= $12::integer
                    and ($10::text[] is null or t.task_type = any($10::text[]))
                    and is_open_to(t, $2, declared.capabilities)
                    and not exists (select from eligible)
                order by t.priority, t.created_at, t.id limit 1
            ), judged as (
                select
                    case when stale.id is not null then 'rescan'
                        when c.id is not null then 'claimed'
                        when p.id is not null then 'rescan'
                        when exists (select from noticed) then 'again'
                        else 'none' end as verdict,
                    coalesce(stale.id, p.id) as id, c.task_type,
                    coalesce(stale.description, c.description, p.description) as description,
                    coalesce(stale.input_data, c.input_data, p.input_data) as input_data,
                    c.priority, c.deadline, c.attempt, c.claim_token, c.lease_expires_at,
                    case when c.id is null then coalesce('destructive_operation_blocked: ' || (
                        select string_agg(f->>'pattern_name', ', ' order by n)
                        from forbidden, jsonb_array_elements(guard_findings) with ordinality x (f, n)
                        where f->>'severity' = 'block' and (f->>'bypass_trust')::integer > $12::integer
                    ), 'no_tasks_available') end as reason,
                    case when c.id is not null then jsonb_build_object(
                        'task_id', c.id, 'attempt', c.attempt, 'guardrails', coalesce((
                            select jsonb_agg(f->'pattern_name' order by n)
                            from jsonb_array_elements(c.guard_findings) with ordinality x (f, n)
                            where (f->>'bypass_trust')::integer > $12::integer
                        ), '[]'::jsonb))
                    end as found,
                    case when c.id is not null then (
                        select record_guardrail_violations($1, $2, $4, $5, jsonb_agg(
                            f || jsonb_build_object('trust_level', $12::integer, 'blocked', false)))
                        from jsonb_array_elements(c.guard_findings) f
                        where (f->>'bypass_trust')::integer > $12::integer
                        having count(*) > 0
                    ) end as violations
                from (select) one
                left join stale on true
                left join picked p on true
                left join claimed c on true
                where stale.id is not null or p.id is not null or not exists (select from eligible)
            ), op as (
                select
                    *,
                    case when verdict = 'claimed' then true
                        when verdict = 'none' and not $14 then false end as audit_success,
                    coalesce(found, jsonb_build_object('reason', reason)) as audit_result
                from judged
            )
            "#,
            r#"
            op.verdict as "verdict!", op.id as "id?", op.task_type as "task_type?",
            op.description as "description?", op.input_data as "input_data?",
            op.priority as "priority?", op.deadline as "deadline?: Timestamp",
            op.attempt as "attempt?", op.claim_token as "claim_token?",
            op.lease_expires_at as "lease_expires_at?: Timestamp", op.reason as "reason?"
            "#,
            self.task_types.as_deref(),
            lease_minutes as i32,
            i32::from(cx.caller.trust),
            version,
            cx.may_wait(),
        )
        .fetch_optional(&mut *cx.db)
        .await?;
        Ok(row)
    }
}

/// Finds those for whom there may be a task now. Each task calls one of them, in the order of arrival;
/// where time has made tasks available that nobody has noticed, the first one looks for itself.
fn look<'a>(
    db: &'a mut Db,
    config: &'a Config,
    tickets: &'a [Arc<Ticket>],
) -> BoxFuture<'a, Result<Vec<Uuid>>> {
    Box::pin(async move {
        let asking: Vec<_> = tickets.iter().map(|it| asking(it)).collect();
        let found = sqlx::query!(
            r#"
            select
                asking.place as "place!",
                first_claimable_tasks(
                    $1, asking.agent_id, asking.trust, asking.task_types, declared.capabilities
                ) as "tasks!",
                exists (
                    select from work_task t
                    where t.workspace = $1 and t.status = 'pending' and t.open_dependencies = 0
                        and t.is_parked and t.available_at <= statement_timestamp()
                ) or exists (
                    select from work_task t
                    where t.workspace = $1 and t.status in ('claimed', 'running')
                        and not t.is_lapsed and t.held_until <= statement_timestamp()
                ) as "is_unnoticed!"
            from rows from (
                jsonb_to_recordset($2) as (
                    place uuid, agent_id text, trust integer, task_types text[])
            ) with ordinality as asking (place, agent_id, trust, task_types, n)
            cross join lateral (
                select array_agg(capability) as capabilities
                from agent_session s, unnest(s.capabilities) capability
                where s.workspace = $1 and s.agent_id = asking.agent_id and s.ended_at is null
                    and s.last_heartbeat_at > clock_timestamp() - $3::interval
            ) declared
            order by asking.n
            "#,
            tickets.first().map(|it| it.caller.workspace.as_str()),
            Value::Array(asking),
            config.session_timeout(),
        )
        .fetch_all(db)
        .await?;
        let mut taken = HashSet::new();
        let mut is_unnoticed = found.first().is_some_and(|it| it.is_unnoticed);
        let called = found.into_iter().filter(|it| {
            let found = it.tasks.iter().any(|task| taken.insert(*task));
            found || std::mem::take(&mut is_unnoticed)
        });
        Ok(called.map(|it| it.place).collect())
    })
}

fn asking(ticket: &Ticket) -> Value {
    json!({
        "place": ticket.place,
        "agent_id": ticket.caller.agent_id,
        "trust": ticket.caller.trust,
        "task_types": ticket.task_types,
    })
}
