//! The answer to a claim of tasks.
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};
use sqlx::types::Json;
use uuid::Uuid;

use super::unavailable::UnavailableWork;
use crate::{
    operation::NULL_OR_ABSENT,
    values::{RawJson, Timestamp},
};

/// The answer to a claim: one task, or a list if more than one was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ClaimAnswer {
    /// The answer with `count` 1.
    One(Box<OneClaim>),
    /// The answer with a greater `count`.
    Many(ClaimedTasks),
}

impl ClaimAnswer {
    /// Creates the answer from the rows of `get_work`: one for each task, or a single one that says why there
    /// is none. `is_one` is whether one task was asked for.
    pub(super) fn new(is_one: bool, rows: Vec<Claimed>, unavailable: UnavailableWork) -> Self {
        let mut tasks = rows;
        if is_one {
            tasks.truncate(1);
            let claimed = tasks.pop().unwrap_or_default();
            return Self::One(Box::new(OneClaim { claimed, unavailable }));
        }
        let success = tasks.first().is_some_and(|task| task.success);
        let reason = tasks.first().and_then(|task| task.reason.clone());
        let open_claims = tasks.first_mut().and_then(|task| task.open_claims.take());
        let open_claims = open_claims.map(|Json(claims)| claims);
        if !success {
            tasks.clear();
        }
        Self::Many(ClaimedTasks { success, tasks, reason, unavailable, open_claims })
    }
}

impl JsonSchema for ClaimAnswer {
    fn schema_name() -> Cow<'static, str> {
        "ClaimAnswer".into()
    }

    /// Merges the members of both forms. Members that only one form has are not required.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = OneClaim::json_schema(generator);
        let many = ClaimedTasks::json_schema(generator);
        let tasks = many.get("properties").and_then(|properties| properties.get("tasks"));
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            for property in properties.values_mut() {
                property[NULL_OR_ABSENT] = json!(true);
            }
            properties.extend(tasks.map(|schema| ("tasks".to_owned(), schema.clone())));
        }
        schema.insert("required".to_owned(), json!(["success", "reason"]));
        schema
    }
}

/// The answer to a claim of one task.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OneClaim {
    /// The task, or why there is none.
    #[serde(flatten)]
    pub claimed: Claimed,
    /// Tasks that you could claim otherwise, if you got none.
    #[serde(flatten)]
    pub unavailable: UnavailableWork,
}

/// Claimed tasks, or why there are none.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClaimedTasks {
    /// Whether you have claimed a task.
    pub success: bool,
    /// Only with `count` above 1: the tasks, each like the answer with `count` 1.
    pub tasks: Vec<Claimed>,
    /// Why there is no task: `no_tasks_available` or `destructive_operation_blocked: <names>`.
    pub reason: Option<String>,
    /// Tasks that you could claim otherwise, if you got none.
    #[serde(flatten)]
    pub unavailable: UnavailableWork,
    /// Your other open claims, up to 20. Absent if you have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_claims: Option<Vec<OpenClaim>>,
}

/// A claim that you hold.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
pub struct OpenClaim {
    /// Id of the task.
    pub task_id: Uuid,
    /// Token of the claim.
    pub claim_token: String,
    /// When the claim expires unless it is renewed.
    pub claim_expires_at: Timestamp,
    /// Whether your calls have extended the lease so far. From now on they do.
    pub renewed: bool,
}

/// A claimed task, or why there is none.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Claimed {
    /// Whether you have claimed a task.
    pub success: bool,
    /// Id of the task.
    pub task_id: Option<Uuid>,
    /// Kind of work.
    #[schemars(extend("x-untrusted" = true))]
    pub task_type: Option<String>,
    /// What to do.
    #[schemars(extend("x-untrusted" = true))]
    pub description: Option<String>,
    /// What the submitter wants the claimant to know. Null if nothing.
    #[schemars(with = "Option<Value>", extend("x-untrusted" = true))]
    pub input_data: Option<RawJson>,
    /// Priority from 1 (first) to 10.
    pub priority: Option<i16>,
    /// The task's deadline. Null if it has none.
    pub deadline: Option<Timestamp>,
    /// Why there is no task: `no_tasks_available` or `destructive_operation_blocked: <names>`.
    pub reason: Option<String>,
    /// Attempt number, starting at 1.
    pub attempt: Option<i16>,
    /// Proves, when you renew or complete the task, that no other agent has claimed it since.
    pub claim_token: Option<String>,
    /// When the lease expires unless it is renewed.
    pub lease_expires_at: Option<Timestamp>,
    /// Your other open claims, up to 20. Absent if you have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<OpenClaim>>")]
    pub open_claims: Option<Json<Vec<OpenClaim>>>,
    /// The verdict of `claim_tasks`, see `work/claim.sql`.
    #[serde(skip)]
    pub(super) verdict: String,
    /// With the verdict `rescan`: the texts to scan again. With the verdict `none`: empty where
    /// `explain_unavailable_work` can say more.
    #[serde(skip)]
    pub(super) texts: Option<Json<Vec<TaskText>>>,
}

/// The text of a task that must be scanned again.
#[derive(Debug, Deserialize)]
pub(crate) struct TaskText {
    pub(super) id: Uuid,
    pub(super) description: String,
    pub(super) input_data: Option<Box<RawValue>>,
}
