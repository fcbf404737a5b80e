//! Reading tasks.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    access::IdentityMode,
    capabilities::filter::non_empty,
    operation::{Context, Meta, Operation, Tool},
    values::{
        Limit, ListPage, Order, RawJson, Result, Timestamp,
        list_page::{Entry, default_limit},
        read_cursor,
    },
};

/// See one task: its status, its result and what blocks it.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct GetTask {
    /// Id of the task.
    pub task_id: Uuid,
}

/// A task, if it exists.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FoundTask {
    /// Whether the task exists.
    pub success: bool,
    /// The task. Absent if it does not exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// `task_not_found`. Absent if the task exists.
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
    /// What to do.
    pub description: String,
    /// `pending`, `claimed`, `running`, `completed`, `failed` or `cancelled`.
    pub status: String,
    /// Priority from 1 (first) to 10.
    pub priority: i16,
    /// What the claimant needs to know. Null if nothing.
    #[schemars(with = "Option<Value>")]
    pub input_data: Option<RawJson>,
    /// Agent of the latest claim. Null if the task was never claimed, or is back in the queue.
    pub claimed_by: Option<String>,
    /// When the task was last claimed.
    pub claimed_at: Option<Timestamp>,
    /// The result that the claimant reported.
    #[schemars(with = "Option<Value>")]
    pub result: Option<RawJson>,
    /// Why the task failed or was cancelled.
    pub error_message: Option<String>,
    /// Ids of the tasks that this task depends on.
    pub depends_on: Vec<Uuid>,
    /// When the task fails if it is unclaimed. Null if it has no deadline.
    pub deadline: Option<Timestamp>,
    /// When the task was submitted.
    pub created_at: Timestamp,
    /// When the task reached a final state.
    pub completed_at: Option<Timestamp>,
    /// Agent that submitted the task.
    pub submitted_by: String,
    /// Session that submitted the task.
    pub submitted_session_id: Option<String>,
    /// Session of the latest claim.
    pub claimed_session_id: Option<String>,
    /// What a claimant must satisfy. Null if nothing.
    #[schemars(with = "Option<Value>")]
    pub agent_requirements: Option<RawJson>,
    /// How many times the task was claimed.
    pub attempt: i16,
    /// How many times the task can be claimed.
    pub max_attempts: i16,
    /// Whether the task is tried again after a failure.
    pub retry_on_failure: bool,
    /// When the current lease expires.
    pub lease_expires_at: Option<Timestamp>,
    /// The task cannot be claimed before this time. Null if there is no such time.
    pub not_before: Option<Timestamp>,
    /// Key that at most one unfinished task has.
    pub unique_key: Option<String>,
    /// When the task was first claimed.
    pub started_at: Option<Timestamp>,
    /// Dependencies that are not completed.
    #[schemars(with = "Vec<Blocker>")]
    pub blocked_by: RawJson,
    /// Token of the current claim, in a list of your own claims. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_token: Option<String>,
    /// Whether there are tasks after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for Task {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

/// A dependency that is not completed.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Blocker {
    /// Id of the dependency.
    pub id: Uuid,
    /// Status of the dependency.
    pub status: String,
}

/// Selects a page of whole tasks by a condition, which can have an order and a limit. The first argument is
/// the workspace.
macro_rules! tasks {
    ($condition:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Task,
            r#"
            select
                id as "id!", task_type as "task_type!", description as "description!",
                status as "status!", priority as "priority!", input_data as "input_data: RawJson",
                claimed_by, claimed_at as "claimed_at: Timestamp", result as "result: RawJson",
                error_message, depends_on as "depends_on!", deadline as "deadline: Timestamp",
                created_at as "created_at!: Timestamp", completed_at as "completed_at: Timestamp",
                submitted_by as "submitted_by!", submitted_session_id, claimed_session_id,
                agent_requirements as "agent_requirements: RawJson", attempt as "attempt!",
                max_attempts as "max_attempts!", retry_on_failure as "retry_on_failure!",
                lease_expires_at as "lease_expires_at: Timestamp",
                not_before as "not_before: Timestamp", unique_key,
                started_at as "started_at: Timestamp", blocked_by as "blocked_by!: RawJson",
                null::text as claim_token, has_more as "has_more!"
            from (
                select found.*, row_number() over page as place, lead(true, 1, false) over page as has_more,
                    sum(stored_bytes + 39 * cardinality(depends_on) + octet_length(blocked_by::text))
                        over page as bytes
                from (
                    select t.id, t.task_type, t.description, computed.status, t.priority, t.input_data,
                        t.claimed_by, t.claimed_at, t.result,
                        coalesce(computed.expiry_reason, t.error_message) as error_message,
                        array(
                            select d.depends_on from work_dependency d
                            where d.workspace = $1 and d.task_id = t.id order by d.list_order
                        ) as depends_on,
                        t.deadline, t.created_at,
                        case when computed.expiry_reason is null then t.completed_at
                            else task_expired_at(
                                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts)
                            end as completed_at,
                        t.submitted_by, t.submitted_session_id, t.claimed_session_id,
                        t.agent_requirements, t.attempt, t.max_attempts, t.retry_on_failure,
                        t.lease_expires_at, t.not_before, t.unique_key, t.started_at, t.stored_bytes,
                        coalesce((
                            select jsonb_agg(
                                jsonb_build_object('id', b.id, 'status', task_status(
                                    b.status, b.deadline, b.claim_expires_at, b.attempt,
                                    b.max_attempts, statement_timestamp())) order by d.list_order)
                            from work_dependency d
                            join work_task b on b.workspace = $1 and b.id = d.depends_on
                            where d.workspace = $1 and d.task_id = t.id
                                and b.status <> 'completed'
                        ), '[]') as blocked_by
                    from work_task t, lateral (
                        select
                            task_status(
                                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts,
                                statement_timestamp()) as status,
                            task_expiry_reason(
                                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts,
                                statement_timestamp()) as expiry_reason
                    ) computed
                    where t.workspace = $1 and "# + $condition + r#"
                ) found
                window page as (order by priority, created_at, id rows unbounded preceding)
            ) listed
            where is_on_page(place, bytes)
            order by place
            "#
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
        let reason = task.is_none().then_some("task_not_found");
        Ok(FoundTask { success: task.is_some(), task, reason })
    }
}

/// List the tasks of the queue, in the order in which they are given to claimants.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListWork {
    /// Only tasks with this status. Absent: any.
    #[schemars(extend("enum" = [
        "pending", "claimed", "running", "completed", "failed", "cancelled", "", null
    ]))]
    pub status: Option<String>,
    /// Only tasks of this type. Absent: any.
    #[schemars(extend("x-max-bytes" = 256))]
    pub task_type: Option<String>,
    /// Only tasks whose latest claim is of this agent. Absent: of any agent or unclaimed.
    #[schemars(extend("x-max-bytes" = 256))]
    pub claimed_by: Option<String>,
    /// Only tasks that this agent submitted. Absent: any.
    #[schemars(extend("x-max-bytes" = 256))]
    pub submitted_by: Option<String>,
    /// Only the open claims of the calling agent, in all its sessions, with their tokens.
    #[serde(default)]
    pub mine: bool,
    /// Maximum number of tasks, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<50>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// The `next_cursor` of an earlier answer, for the tasks after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub cursor: Option<String>,
}

/// Tasks of the queue.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// How many tasks are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
}

/// The order in which tasks are given to claimants.
const ORDER: Order = Order::By(&["priority", "created_at", "id"]);

impl Operation for ListWork {
    type Output = TaskList;
    const META: Meta = Meta::read("get_task")
        .id("list_work")
        .at(&["GET /work"])
        .tool(Tool::named("list_work").pages(ORDER).whole("get_task", "task_id", "id"));

    fn example() -> Value {
        json!({ "status": "pending", "limit": 10 })
    }

    async fn run(self, cx: Context<'_>) -> Result<TaskList> {
        let limit = Limit::new(self.limit);
        let after: Option<(i16, Timestamp, Uuid)> =
            read_cursor(self.cursor.as_deref(), |values| {
                Some((values.next()?, values.next()?, values.next()?))
            })?;
        let rows = tasks!(
            "($2::text is null or computed.status = $2)
                and ($3::text is null or t.task_type = $3)
                and ($4::text is null or t.claimed_by = $4)
                and ($5::text is null or t.submitted_by = $5)
                and ($7::text is null or (t.claimed_by = $7 and t.status in ('claimed', 'running')
                    and not is_claim_expired(t.status, t.claim_expires_at, statement_timestamp())))
                and ($8::smallint is null or (t.priority, t.created_at, t.id) > ($8, $9, $10))
            order by t.priority, t.created_at, t.id
            limit $6",
            cx.caller.workspace,
            non_empty(self.status),
            non_empty(self.task_type),
            non_empty(self.claimed_by),
            non_empty(self.submitted_by),
            limit.rows(),
            self.mine.then_some(cx.caller.agent_id.as_str()),
            after.map(|(priority, _, _)| priority),
            after.map(|(_, created_at, _)| created_at) as Option<Timestamp>,
            after.map(|(_, _, id)| id),
        )
        .fetch_all(&mut *cx.db)
        .await?;
        let (mut tasks, page) = limit.cut_in_order(rows, ORDER, self.cursor.as_deref());
        if self.mine {
            add_tokens(cx, &mut tasks).await?;
        }
        Ok(TaskList { tasks, page })
    }
}

/// Adds the tokens of the caller's own claims, of which the caller then knows.
async fn add_tokens(cx: Context<'_>, tasks: &mut [Task]) -> Result<()> {
    let ids: Vec<_> = tasks.iter().map(|task| task.id).collect();
    let claims = sqlx::query!(
        r#"
        select task_id as "task_id!", claim_token as "claim_token!"
        from list_claim_tokens($1, $2, $3)
        "#,
        cx.caller.workspace,
        cx.caller.agent_id,
        &ids,
    )
    .fetch_all(cx.db)
    .await?;
    for claim in claims {
        if let Some(task) = tasks.iter_mut().find(|task| task.id == claim.task_id) {
            task.claim_token = Some(claim.claim_token);
        }
    }
    Ok(())
}
