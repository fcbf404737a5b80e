//! Submitting one task.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::submission::{Submission, SubmitRow};
use crate::{
    access::IdentityMode,
    capabilities::{
        filter::{non_blank, non_empty},
        guardrails,
    },
    config::Quota,
    operation::{Context, Meta, Operation, Tool, is_quota_refusal},
    values::{Error, Issue, RawJson, Result, Timestamp, issue::value_error, nearest},
};

/// Submit a task for another agent to claim. Name the tasks that it depends on, and give it a
/// `unique_key` if a second task of the kind would be a mistake.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct NewTask<Dependency> {
    /// Kind of work, such as `test`; claimants select by it. Tasks of type `evaluate` or `review`
    /// are never given to their submitter.
    #[schemars(extend("x-max-bytes" = 256))]
    pub task_type: String,
    /// What to do, in words.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub task_description: String,
    /// What the claimant needs to know, as an object. Absent: nothing.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub input_data: Option<RawJson>,
    /// Priority from 1 (first) to 10.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 1, max = 10))]
    pub priority: i64,
    /// Ids of tasks that must be completed before this task can be claimed. Absent: none.
    pub depends_on: Option<Vec<Dependency>>,
    /// What a claimant must satisfy. Absent: any agent can claim the task.
    pub agent_requirements: Option<AgentRequirements>,
    /// The task fails if it is unclaimed at this time. Must be in the future. Absent: no deadline.
    pub deadline: Option<Timestamp>,
    /// The task cannot be claimed before this time. Absent: it can be claimed at once.
    pub not_before: Option<Timestamp>,
    /// How many times the task can be claimed, 1 to 20.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub max_attempts: i64,
    /// Whether a task that was reported as failed is tried again while attempts are left.
    #[serde(default)]
    pub retry_on_failure: bool,
    /// At most one pending, claimed or running task has this key. Submitting a second one returns
    /// the id of the first. Blank or absent: no such limit.
    #[schemars(extend("x-max-bytes" = 256))]
    pub unique_key: Option<String>,
    /// Id of a failed or cancelled task. Pending tasks that depend on it will depend on this task
    /// instead.
    pub replaces: Option<Uuid>,
}

/// The submission of one task.
pub type SubmitWork = NewTask<Uuid>;

fn default_priority() -> i64 {
    5
}

fn default_max_attempts() -> i64 {
    3
}

/// What a claimant must satisfy. Any other member is refused, because nothing would check it.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-closed" = true))]
pub struct AgentRequirements {
    /// A capability that a live session of the claimant must declare: the task waits until an agent
    /// whose session declares it claims work. Empty or absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-max-bytes" = 64))]
    pub archetype: Option<String>,
    /// Minimum trust of the claimant, 0 to 4. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4))]
    pub min_trust_level: Option<i64>,
    /// Other members. They are refused: nothing would check what they require.
    #[serde(flatten, skip_serializing)]
    #[schemars(skip)]
    pub others: Map<String, Value>,
}

/// The outcome of a submission.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Submitted {
    /// Whether the task is in the queue.
    pub success: bool,
    /// Id of the task. Null when refused.
    pub task_id: Option<Uuid>,
    /// `created`, or `deduplicated` if an unfinished task has this `unique_key`. Null when refused.
    pub action: Option<String>,
    /// Why the task was refused: `destructive_operation_blocked: <names>`, or `quota_exceeded: <what you
    /// or the workspace have too much of>`.
    pub reason: Option<String>,
}

impl Operation for SubmitWork {
    type Output = Submitted;
    const META: Meta = Meta::write("submit_work")
        .at(&["POST /work/submit"])
        .identity(IdentityMode::Soft)
        .recorded_as("submit_task")
        .tool(Tool::named("submit_work").rename(&[("task_description", "description")]));

    fn example() -> Value {
        json!({
            "task_type": "test",
            "task_description": "run the suite",
            "input_data": { "suite": "unit" },
            "priority": 3,
            "unique_key": "unit-main",
        })
    }

    fn took_effect(answer: &Submitted) -> bool {
        answer.success
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Submitted> {
        let issues = self.issues(&[json!("body")]);
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let submission = self.submission(&mut cx).await?;
        let refusal = submission.refusal.clone();
        let row = cx.transition(submission).await?;
        cx.count_refusal(&row.verdict);
        self.to_answer(row, refusal)
    }
}

/// Returns the answer to a task that is not stored.
fn refused(reason: Option<String>) -> Submitted {
    Submitted { success: false, task_id: None, action: None, reason }
}

/// The members of `agent_requirements`.
const REQUIREMENTS: [&str; 2] = ["archetype", "min_trust_level"];

/// How many unknown requirements an answer names.
const MAX_UNKNOWN: usize = 20;

/// Returns the problem of a requirement that the service does not know, with the known ones. Where the name
/// is close to a known one, that is named first.
fn unknown_requirement(name: &str) -> String {
    let near = nearest(name, REQUIREMENTS.into_iter());
    let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    format!(
        "unknown requirement{hint}: nothing would check it. Expected {}; put what the claimant only \
         needs to know into input_data",
        REQUIREMENTS.join(" or "),
    )
}

/// Returns a 422 for one member of the body.
fn invalid(field: &str, input: Value, text: &str) -> Error {
    let loc = [json!("body"), json!(field)];
    Error::Invalid(vec![Issue::new(value_error(text), &loc, &input)])
}

impl<Dependency: Clone + PartialEq + Serialize> NewTask<Dependency> {
    /// Returns what the schema cannot express: requirements that nothing would check, and a deadline that
    /// is not after `not_before`. `loc` is the path to the task.
    pub(super) fn issues(&self, loc: &[Value]) -> Vec<Issue> {
        let others = || self.agent_requirements.iter().flat_map(|it| &it.others);
        let unknown = others().take(MAX_UNKNOWN).map(|(name, value)| {
            let loc = [loc, &[json!("agent_requirements"), json!(name)]].concat();
            Issue::new(value_error(unknown_requirement(name)), &loc, value)
        });
        let mut issues: Vec<_> = unknown.collect();
        let more = others().count() - issues.len();
        if let (1.., Some(last)) = (more, issues.last_mut()) {
            last.msg.push_str(&format!(" (and {more} more unknown requirements)"));
        }
        if matches!((self.deadline, self.not_before), (Some(end), Some(begin)) if end <= begin) {
            let loc = [loc, &[json!("deadline")]].concat();
            let problem = value_error("expected a time after not_before");
            issues.push(Issue::new(problem, &loc, &json!(self.deadline)));
        }
        issues
    }

    /// Returns the requirements as they are stored: empty texts count as absent, and requirements that
    /// require nothing are none.
    fn requirements(&self) -> Option<AgentRequirements> {
        let asked = self.agent_requirements.as_ref()?;
        let archetype = non_empty(asked.archetype.clone());
        let requirements = AgentRequirements {
            archetype,
            min_trust_level: asked.min_trust_level,
            others: Map::new(),
        };
        let is_empty = requirements.archetype.is_none() && requirements.min_trust_level.is_none();
        (!is_empty).then_some(requirements)
    }

    /// Returns the dependencies without duplicates.
    fn dependencies(&self) -> Vec<Dependency> {
        let mut distinct = Vec::new();
        for id in self.depends_on.iter().flatten() {
            if !distinct.contains(id) {
                distinct.push(id.clone());
            }
        }
        distinct
    }

    /// Returns the call that stores the task, with what the guardrails find in its text.
    pub(super) async fn submission(&self, cx: &mut Context<'_>) -> Result<Submission> {
        let data = self.input_data.as_ref();
        let text = guardrails::task_text(&self.task_description, data.map(RawJson::get));
        let scan = guardrails::scan_all(cx, text).await?;
        let trust = cx.caller.trust;
        let requirements = self.requirements();
        let text = |name: &str| data.and_then(|data| data.text(name));
        Ok(Submission {
            actor: cx.actor(),
            task_type: self.task_type.clone(),
            description: self.task_description.clone(),
            input_data: data.map(|data| data.get().to_owned()),
            priority: self.priority as i16,
            depends_on: json!(self.dependencies()),
            agent_requirements: requirements.as_ref().map(|value| json!(value).to_string()),
            min_trust: requirements
                .as_ref()
                .and_then(|value| value.min_trust_level)
                .unwrap_or_default() as i16,
            archetype: requirements.and_then(|value| value.archetype),
            deadline: self.deadline,
            not_before: self.not_before,
            max_attempts: self.max_attempts as i16,
            retry_on_failure: self.retry_on_failure,
            unique_key: non_blank(self.unique_key.clone()),
            replaces: self.replaces,
            authored_by: text("submitted_by"),
            change_id: text("change_id"),
            guard_version: scan.version.clone(),
            guard_trust: scan.needed_trust(),
            guard_findings: scan.to_json(),
            refusal: scan.refusal(trust),
            patterns: scan.pattern_names(trust),
            violations: scan.violations(trust),
            quota: cx.config.quotas.of(Quota::Tasks),
        })
    }
}

impl SubmitWork {
    /// Translates the verdict of `submit_task`.
    fn to_answer(&self, row: SubmitRow, refusal: Option<String>) -> Result<Submitted> {
        match row.verdict.as_str() {
            "unknown_dependency" => {
                Err(self.unknown_dependency(row.dependency_number.unwrap_or_default()))
            }
            "not_replaceable" => {
                let text = "expected the id of a failed or cancelled task";
                Err(invalid("replaces", json!(self.replaces), text))
            }
            "deadline_past" => {
                Err(invalid("deadline", json!(self.deadline), "expected a time in the future"))
            }
            "blocked" => Ok(refused(refusal)),
            verdict if is_quota_refusal(verdict) => Ok(refused(Some(row.verdict))),
            _ => Ok(Submitted {
                success: true,
                task_id: row.task_id,
                action: Some(row.verdict),
                reason: None,
            }),
        }
    }

    /// Returns the error for an unknown dependency. `number` is its rank among the distinct ones,
    /// starting at 1.
    fn unknown_dependency(&self, number: i64) -> Error {
        let distinct = self.dependencies();
        let id = usize::try_from(number - 1).ok().and_then(|index| distinct.get(index));
        let index = self.depends_on.iter().flatten().position(|other| Some(other) == id);
        let loc = [json!("body"), json!("depends_on"), json!(index)];
        let problem = value_error("expected the id of a task");
        Error::Invalid(vec![Issue::new(problem, &loc, &json!(id))])
    }
}
