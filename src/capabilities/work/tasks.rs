//! Looking at tasks.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::{
    access::IdentityMode,
    operation::{Context, Meta, Operation, Tool},
    values::{Limit, ListPage, Result, Timestamp, list_page::default_limit},
};

/// See one task: its state, its result, what blocks it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetTask {
    /// Id of the task.
    pub task_id: Uuid,
}

/// One task, if there is one.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FoundTask {
    /// Whether the task exists.
    pub success: bool,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// `task_not_found`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// A task of the queue.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct Task {
    /// Id of the task.
    pub id: Uuid,
    /// Kind of work.
    pub task_type: String,
    /// What is to be done.
    pub description: String,
    /// `pending`, `claimed`, `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// 1 (first) to 10.
    pub priority: i16,
    /// What the claimant needs to know.
    pub input_data: Option<Value>,
    /// Agent of the latest claim.
    pub claimed_by: Option<String>,
    /// When it was last claimed.
    pub claimed_at: Option<Timestamp>,
    /// What the claimant reported.
    pub result: Option<Value>,
    /// Why it failed or was cancelled.
    pub error_message: Option<String>,
    /// The tasks it waits for, or waited for.
    pub depends_on: Vec<Uuid>,
    /// When it fails unless somebody has claimed it.
    pub deadline: Option<Timestamp>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it reached a final state.
    pub completed_at: Option<Timestamp>,
    /// Who submitted it.
    pub submitted_by: String,
    /// Session that submitted it.
    pub submitted_session_id: Option<String>,
    /// Session of the latest claim.
    pub claimed_session_id: Option<String>,
    /// What a claimant must be.
    pub agent_requirements: Option<Value>,
    /// How often it was claimed.
    pub attempt: i16,
    /// How often it may be claimed.
    pub max_attempts: i16,
    /// Whether a failure is tried again.
    pub retry_on_failure: bool,
    /// When the current lease ends.
    pub lease_expires_at: Option<Timestamp>,
    /// Not handed out before.
    pub not_before: Option<Timestamp>,
    /// Key that only one live task may have.
    pub unique_key: Option<String>,
    /// When the first claimant took it up.
    pub started_at: Option<Timestamp>,
    /// Dependencies that are not completed.
    #[schemars(with = "Vec<Blocker>")]
    pub blocked_by: Json<Vec<Blocker>>,
}

/// A dependency that is not completed.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Blocker {
    /// Id of the task waited for.
    pub id: Uuid,
    /// Its status.
    pub status: String,
}

/// Selects whole tasks by a condition, which ends the statement.
macro_rules! tasks {
    ($condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Task,
            r#"
            select
                t.id, t.task_type, t.description, computed.status as "status!", t.priority,
                t.input_data, t.claimed_by, t.claimed_at as "claimed_at: Timestamp",
                t.result, coalesce(computed.expiry_reason, t.error_message) as error_message,
                array(
                    select d.depends_on from work_dependency d
                    where d.workspace = $1 and d.task_id = t.id order by d.list_order
                ) as "depends_on!",
                t.deadline as "deadline: Timestamp", t.created_at as "created_at: Timestamp",
                case when computed.expiry_reason is null then t.completed_at
                    else task_expired_at(
                        t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts)
                    end as "completed_at: Timestamp",
                t.submitted_by, t.submitted_session_id, t.claimed_session_id,
                t.agent_requirements, t.attempt, t.max_attempts, t.retry_on_failure,
                t.lease_expires_at as "lease_expires_at: Timestamp",
                t.not_before as "not_before: Timestamp", t.unique_key,
                t.started_at as "started_at: Timestamp",
                coalesce((
                    select jsonb_agg(
                        jsonb_build_object('id', b.id, 'status', task_status(
                            b.status, b.deadline, b.claim_expires_at, b.attempt, b.max_attempts,
                            statement_timestamp())) order by d.list_order)
                    from work_dependency d
                    join work_task b on b.workspace = $1 and b.id = d.depends_on
                    where d.workspace = $1 and d.task_id = t.id
                        and b.status <> 'completed'
                ), '[]') as "blocked_by!: Json<Vec<Blocker>>"
            from work_task t, lateral (
                select
                    task_status(
                        t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts,
                        statement_timestamp()) as status,
                    task_expiry_reason(
                        t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts,
                        statement_timestamp()) as expiry_reason
            ) computed
            where t.workspace = $1 and "# + $condition
            $(, $argument)*
        )
    };
}

impl Operation for GetTask {
    type Output = FoundTask;
    const META: Meta = Meta::read("get_task")
        .at(&["POST /work/get"])
        .identity(IdentityMode::Soft)
        .tool(Tool::named("get_task"));

    fn example() -> Value {
        json!({ "task_id": "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1" })
    }

    fn target(&self) -> Cow<'_, str> {
        self.task_id.to_string().into()
    }

    async fn run(self, cx: Context<'_>) -> Result<FoundTask> {
        let task =
            tasks!("t.id = $2", cx.caller.workspace, self.task_id).fetch_optional(cx.db).await?;
        let success = task.is_some();
        Ok(FoundTask { success, task, reason: (!success).then_some("task_not_found") })
    }
}

/// See the queue: which tasks there are, in the order in which they are handed out.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListWork {
    /// Only those with this status.
    #[schemars(extend("x-max-bytes" = 256))]
    pub status: Option<String>,
    /// Only those of this kind.
    #[schemars(extend("x-max-bytes" = 256))]
    pub task_type: Option<String>,
    /// Only those whose latest claim is this agent's.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claimed_by: Option<String>,
    /// Only those that this agent submitted.
    #[schemars(extend("x-max-bytes" = 256))]
    pub submitted_by: Option<String>,
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit::<50>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

/// Tasks of the queue.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
}

impl Operation for ListWork {
    type Output = TaskList;
    const META: Meta =
        Meta::read("get_task").id("list_work").at(&["GET /work"]).tool(Tool::named("list_work"));

    fn example() -> Value {
        json!({ "status": "pending", "limit": 10 })
    }

    async fn run(self, cx: Context<'_>) -> Result<TaskList> {
        let limit = Limit::new(self.limit);
        let given = |filter: Option<String>| filter.filter(|it| !it.is_empty());
        let rows = tasks!(
            "($2::text is null or computed.status = $2)
                and ($3::text is null or t.task_type = $3)
                and ($4::text is null or t.claimed_by = $4)
                and ($5::text is null or t.submitted_by = $5)
            order by t.priority, t.created_at, t.id
            limit $6",
            cx.caller.workspace,
            given(self.status),
            given(self.task_type),
            given(self.claimed_by),
            given(self.submitted_by),
            limit.rows(),
        )
        .fetch_all(cx.db)
        .await?;
        let (tasks, page) = limit.cut(rows);
        Ok(TaskList { tasks, page })
    }
}
