//! Claiming: the next task for an agent, as a lease.
use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    Config, Error, Result, Timestamp,
    capabilities::guardrails,
    db::Db,
    operation::{Context, IdentityMode, Meta, Operation},
    tool::Tool,
    waiting::Ticket,
};

/// How often a claim scans the texts of tasks again, after the guardrail patterns have changed, before it
/// leaves the rest to the next claim. The database asks for up to a hundred texts at a time.
const MAX_SCANS: u32 = 32;

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
    /// Attempt number, starting at 1.
    pub attempt: Option<i16>,
    /// Proves at renewal and completion that nobody else has claimed the task since.
    pub claim_token: Option<String>,
    /// When the lease ends unless it is renewed.
    pub lease_expires_at: Option<Timestamp>,
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
    texts: Option<Json<Vec<TaskText>>>,
}

/// A task whose text is to be scanned again.
#[derive(Deserialize)]
struct TaskText {
    id: Uuid,
    description: String,
    input_data: Option<Value>,
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
        let mut scans = None;
        for scan in 0..=MAX_SCANS {
            let row = self.claim(&mut cx, &version, scans.take(), scan < MAX_SCANS).await?;
            match row.verdict.as_str() {
                "rescan" => scans = Some(rescan(&mut cx, row.texts).await?),
                "claimed" => return Ok(claimed(row)),
                _ => {
                    cx.postpone(Self::META.name, self.task_types.as_deref(), look);
                    return Ok(Claimed { reason: row.reason, ..Claimed::default() });
                }
            }
        }
        Err(Error::Internal("a claim that must not ask for scans asked for one".into()))
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

/// Scans the texts of tasks that another set of patterns has judged, for `claim_tasks` to store.
async fn rescan(cx: &mut Context<'_>, texts: Option<Json<Vec<TaskText>>>) -> Result<Value> {
    let mut scans = Vec::new();
    for task in texts.map(|it| it.0).unwrap_or_default() {
        let text = guardrails::task_text(&task.description, task.input_data.as_ref());
        let scan = guardrails::scan_all(cx, text).await?;
        scans.push(json!({
            "id": task.id,
            "guard_trust": scan.needed_trust(),
            "findings": scan.to_json(),
        }));
    }
    Ok(Value::Array(scans))
}

impl GetWork {
    async fn claim(
        &self,
        cx: &mut Context<'_>,
        version: &str,
        scans: Option<Value>,
        may_rescan: bool,
    ) -> Result<ClaimRow> {
        let lease_minutes = self.lease_minutes.unwrap_or(cx.config.work_lease_minutes);
        let row = sqlx::query_as!(
            ClaimRow,
            r#"
            select
                verdict as "verdict!", id, task_type, description, input_data, priority,
                deadline as "deadline: Timestamp", attempt, claim_token,
                lease_expires_at as "lease_expires_at: Timestamp", reason,
                texts as "texts: Json<Vec<TaskText>>"
            from claim_tasks(
                $1, row($2, $3, $4, $5, $6, $7)::request, 1, $8, $9, $10, $11, $12, $13, $14
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            self.task_types.as_deref(),
            lease_minutes as i32,
            i32::from(cx.caller.trust),
            version,
            scans,
            may_rescan,
            cx.may_wait(),
        )
        .fetch_one(&mut *cx.db)
        .await?;
        Ok(row)
    }
}

/// Finds the requests for which there may be a task now.
fn look<'a>(
    db: &'a mut Db,
    config: &'a Config,
    tickets: &'a [Arc<Ticket>],
) -> BoxFuture<'a, Result<Vec<Uuid>>> {
    Box::pin(async move {
        let places: Vec<_> = tickets.iter().map(|it| it.place).collect();
        let agent_ids: Vec<_> = tickets.iter().map(|it| it.caller.agent_id.clone()).collect();
        let trusts: Vec<_> = tickets.iter().map(|it| i32::from(it.caller.trust)).collect();
        let task_types: Vec<_> = tickets.iter().map(|it| &it.task_types).collect();
        let ready = sqlx::query_scalar!(
            r#"select place as "place!" from ready_work_waiters($1, $2, $3, $4, $5, $6) place"#,
            tickets.first().map(|it| it.caller.workspace.as_str()),
            &places,
            &agent_ids,
            &trusts,
            json!(task_types),
            config.session_timeout(),
        )
        .fetch_all(db)
        .await?;
        Ok(ready)
    })
}
