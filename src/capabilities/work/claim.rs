//! Claiming tasks.
use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    claimed::{ClaimAnswer, Claimed, OpenClaim, TaskText},
    unavailable::{self, UnavailableWork},
};
use crate::{
    access::IdentityMode,
    capabilities::guardrails,
    config::Config,
    database::Db,
    operation::{Actor, Context, Meta, Operation, Poll, Tool, Transition, Waiter, column},
    values::{Error, RawJson, Result, Timestamp},
};

/// How many times one claim scans texts again after the guardrail patterns have changed. The
/// remaining texts are left to the next claim. `claim_tasks` returns up to a hundred texts at a
/// time.
const MAX_SCANS: u32 = 32;

/// Claim the next task that you can work on. The task is yours until its lease expires. Once you have
/// sent the `claim_token` with renew_work, any call of your session extends the lease. Finish the task
/// with complete_work and the `claim_token`.
///
/// If you have other open claims, `open_claims` lists them with their tokens: you may have lost the
/// answer of an earlier call.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetWork {
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Type of the calling agent. Empty: the key's own, else `X-Agent-Type`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_type: String,
    /// Kinds of work to choose from. Absent: any. An empty list: none over HTTP, any over MCP.
    pub task_types: Option<Vec<String>>,
    /// Session of the calling agent. With it, the claim belongs to this session only.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// Minutes until the lease expires, 1 to 1440. Absent: the service's default.
    #[schemars(range(min = 1, max = 1440))]
    pub lease_minutes: Option<i64>,
    /// Maximum number of tasks to claim, 1 to 100. Above 1, the answer lists them in `tasks`.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = 100))]
    pub count: i64,
    /// Seconds to wait if there is no task for you. The answer comes as soon as there is one. The
    /// service sets a maximum.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub wait_seconds: i64,
}

fn default_count() -> i64 {
    1
}

impl Operation for GetWork {
    type Output = ClaimAnswer;
    const META: Meta = Meta::write("get_work")
        .at(&["POST /work/claim"])
        .identity(IdentityMode::Strict)
        .recorded_as("claim_task")
        .tool(Tool::named("get_work").hide(&["count"]));

    const POLL: Option<Poll> = Some(Poll { kind: Self::META.name, find_ready: find_ready_waiters });

    fn example() -> Value {
        json!({ "agent_id": "claude-1", "agent_type": "claude_code", "task_types": ["test"] })
    }

    fn should_wait(answer: &ClaimAnswer) -> bool {
        !Self::took_effect(answer)
    }

    fn took_effect(answer: &ClaimAnswer) -> bool {
        match answer {
            ClaimAnswer::One(one) => one.claimed.success,
            ClaimAnswer::Many(claimed) => claimed.success,
        }
    }

    fn taken(answer: &ClaimAnswer) -> Option<Value> {
        let tasks = match answer {
            ClaimAnswer::One(one) => std::slice::from_ref(&one.claimed),
            ClaimAnswer::Many(claimed) => &claimed.tasks[..],
        };
        let claims = tasks.iter().filter(|task| task.success);
        let claims: Vec<_> = claims.map(|task| json!([task.task_id, task.claim_token])).collect();
        (!claims.is_empty()).then(|| json!(claims))
    }

    fn give_back<'a>(taken: &'a Value, cx: Context<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let claims = Vec::<(Uuid, String)>::deserialize(taken)
                .map_err(|error| Error::Internal(error.into()))?;
            let actor = cx.actor();
            for (id, claim_token) in claims {
                sqlx::query!(
                    "select give_back_claim($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9)",
                    actor.workspace,
                    actor.request_id,
                    actor.agent_id,
                    actor.agent_type,
                    actor.session_id,
                    actor.elapsed_ms(),
                    actor.session_timeout.clone(),
                    id,
                    claim_token,
                )
                .execute(&mut *cx.db)
                .await?;
            }
            Ok(())
        })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<ClaimAnswer> {
        let mut claim = Claim {
            actor: cx.actor(),
            task_types: json!(self.task_types),
            lease_minutes: self.lease_minutes.unwrap_or(cx.config.work_lease_minutes) as i32,
            trust: i32::from(cx.caller.trust),
            guard_version: guardrails::current_version(&mut cx).await?,
            scans: None,
            may_rescan: true,
            can_wait: cx.can_wait(),
        };
        let is_one = self.count == 1;
        let mut tasks = if is_one {
            vec![cx.transition(claim.clone()).await?]
        } else {
            claim.call_many(self.count as i32, cx.db).await?
        };
        let mut says_more = false;
        for scan in 1..=MAX_SCANS {
            match tasks.first_mut().map(|task| (task.verdict.as_str(), task.texts.take())) {
                Some(("rescan", texts)) => claim.scans = Some(rescan(&mut cx, texts).await?),
                // Rivals had locked every remaining task. A gathered call does not wait for them;
                // the next call does.
                Some(("contended", _)) => {}
                Some(("none", texts)) => {
                    says_more = texts.is_some();
                    break;
                }
                _ => break,
            }
            claim.may_rescan = scan < MAX_SCANS;
            tasks = claim.call_many(self.count as i32, cx.db).await?;
        }
        let unavailable = if says_more && !claim.can_wait {
            unavailable::explain(cx, claim.task_types).await?
        } else {
            UnavailableWork::default()
        };
        Ok(ClaimAnswer::new(is_one, tasks, unavailable))
    }
}

/// Scans the texts of tasks that were scanned with an earlier set of patterns. Returns the findings
/// in the form in which `claim_tasks` stores them.
async fn rescan(cx: &mut Context<'_>, texts: Option<Json<Vec<TaskText>>>) -> Result<Value> {
    let mut scans = Vec::new();
    for task in texts.map(|Json(texts)| texts).unwrap_or_default() {
        let text =
            guardrails::task_text(&task.description, task.input_data.as_deref().map(RawValue::get));
        let scan = guardrails::scan_all(cx, text).await?;
        scans.push(json!({
            "id": task.id,
            "guard_trust": scan.needed_trust(),
            "findings": scan.to_json(),
        }));
    }
    Ok(Value::Array(scans))
}

/// A call of the database function `get_work`.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    actor: Actor,
    /// A JSON array of texts, or null: a gathered call cannot pass arrays of different lengths
    /// otherwise.
    task_types: Value,
    lease_minutes: i32,
    trust: i32,
    guard_version: String,
    scans: Option<Value>,
    may_rescan: bool,
    can_wait: bool,
}

impl Claim {
    /// Claims up to `count` tasks. Returns one row for each, or a single row that says why there is
    /// none.
    async fn call_many(&self, count: i32, db: &mut Db) -> Result<Vec<Claimed>> {
        let rows = sqlx::query_as!(
            Claimed,
            r#"
            select
                verdict as "verdict!", verdict = 'claimed' as "success!", id as task_id, task_type,
                description, input_data as "input_data: RawJson", priority,
                deadline as "deadline: Timestamp", attempt, claim_token,
                lease_expires_at as "lease_expires_at: Timestamp", reason,
                texts as "texts: Json<Vec<TaskText>>",
                open_claims as "open_claims: Json<Vec<OpenClaim>>"
            from get_work(
                $1, row($2, $3, $4, $5, $6, $7)::request, $15, $8, $9, $10, $11, $12, $13, $14,
                true
            )
            "#,
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.task_types,
            self.lease_minutes,
            self.trust,
            self.guard_version,
            self.scans,
            self.may_rescan,
            self.can_wait,
            count,
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }
}

impl Transition for Claim {
    type Row = Claimed;

    async fn call(&self, db: &mut Db) -> Result<Claimed> {
        let rows = self.call_many(1, db).await?;
        let row = rows.into_iter().next();
        row.ok_or_else(|| Error::Internal("get_work returned no row".into()))
    }

    async fn call_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<Claimed>> {
        let rows = sqlx::query_as!(
            Claimed,
            r#"
            select
                a.verdict as "verdict!", a.verdict = 'claimed' as "success!", a.id as task_id, a.task_type,
                a.description, a.input_data as "input_data: RawJson", a.priority,
                a.deadline as "deadline: Timestamp", a.attempt, a.claim_token,
                a.lease_expires_at as "lease_expires_at: Timestamp", a.reason,
                a.texts as "texts: Json<Vec<TaskText>>",
                a.open_claims as "open_claims: Json<Vec<OpenClaim>>"
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::jsonb[], $9::int[], $10::int[],
                $11::text[], $12::bool[]
            ) with ordinality as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, task_types,
                lease_minutes, trust, guard_version, may_wait, n
            ),
            get_work(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                1, r.task_types, r.lease_minutes, r.trust, r.guard_version, null, true, r.may_wait,
                false
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
            &column(requests, |request| request.task_types.clone()),
            &column(requests, |request| request.lease_minutes),
            &column(requests, |request| request.trust),
            &column(requests, |request| request.guard_version.as_str()) as _,
            &column(requests, |request| request.can_wait),
        )
        .fetch_all(db)
        .await?;
        Ok(rows)
    }

    /// Returns the empty text: claims skip locked rows and cannot deadlock.
    fn workspace(&self) -> &str {
        &self.actor.workspace
    }

    fn lock_order(&self) -> String {
        String::new()
    }
}

/// Returns the waiters for which there can be a task now.
fn find_ready_waiters<'a>(
    db: &'a mut Db,
    config: &'a Config,
    waiters: &'a [Arc<Waiter>],
) -> BoxFuture<'a, Result<Vec<Uuid>>> {
    Box::pin(async move {
        let ready = sqlx::query_scalar!(
            r#"select id as "id!" from poll_work_waiters($1, $2, $3, $4, $5, $6) id"#,
            waiters.first().map(|waiter| waiter.caller.workspace.as_str()),
            &column(waiters, |waiter| waiter.id),
            &column(waiters, |waiter| waiter.caller.agent_id.clone()),
            &column(waiters, |waiter| i32::from(waiter.caller.trust)),
            json!(column(waiters, |waiter| &waiter.input["task_types"])),
            config.session_timeout(),
        )
        .fetch_all(db)
        .await?;
        Ok(ready)
    })
}
