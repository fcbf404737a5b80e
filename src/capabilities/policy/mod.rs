//! Policy checks that an agent asks for, and checks of policy texts.
use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    access::{
        IdentityMode, TargetKind,
        policy::{self, Question},
    },
    operation::{Context, Meta, Operation, Operations, Tool},
    values::{LockKey, RawJson, Result},
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<CheckPolicy>().with::<ValidatePolicy>()
}

/// The maximum size of a recorded context, in bytes.
const MAX_CONTEXT_BYTES: usize = 4096;

/// Ask whether you may do something before you do it: any operation of this service, `force_push`
/// or `delete_branch`. The answer says why. Nothing is done, but the question is recorded.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckPolicy {
    /// Id of the calling agent. Empty: the key's own, else `X-Agent-Id`. You can ask only about
    /// yourself.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: String,
    /// Type of the calling agent. Empty: the key's own, else `X-Agent-Type`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_type: String,
    /// What you want to do, such as `acquire_lock`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub operation: String,
    /// What you want to do it to, such as a path or a branch.
    #[serde(default)]
    #[schemars(extend("x-max-bytes" = 1024))]
    pub resource: String,
    /// Recorded with the question. `files_modified`, an integer, counts as that many locked files;
    /// other members have no effect. Absent: none.
    #[schemars(with = "Option<Map<String, Value>>")]
    pub context: Option<RawJson>,
}

/// Whether the caller may do what it asked about.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Advice {
    /// Whether you may do it.
    pub allowed: bool,
    /// Why, or why not.
    pub reason: String,
    /// The policy engine that decided: `NativePolicyEngine` or `CedarPolicyEngine`.
    pub engine: &'static str,
    /// The policies that determined the decision. Empty for the native engine.
    pub diagnostics: Vec<String>,
}

impl Operation for CheckPolicy {
    type Output = Advice;
    const META: Meta = Meta::read("check_policy")
        .at(&["POST /policy/check"])
        .identity(IdentityMode::Strict)
        .recorded_as("policy_decision")
        .tool(Tool::named("check_policy"));

    fn example() -> Value {
        json!({
            "agent_id": "claude-1",
            "agent_type": "claude_code",
            "operation": "force_push",
            "resource": "main",
        })
    }

    fn target(&self) -> Cow<'_, str> {
        self.resource.as_str().into()
    }

    async fn run(self, cx: Context<'_>) -> Result<Advice> {
        let known = cx.services.known.get(&self.operation);
        let question = Question {
            operation: &self.operation,
            category: known.map(|operation| operation.category),
            target_kind: known.map_or(TargetKind::Task, |operation| operation.target_kind),
            target: &self.resource,
        };
        let decision = cx.services.engine.decide(cx.db, cx.config, cx.caller, &question).await?;
        // Only locks on files are limited.
        let file = self.locked_file();
        let limit = policy::file_limit(cx.caller, cx.config.enforce_profile_limits)
            .filter(|_| decision.allowed && file.is_some());
        let row = sqlx::query!(
            r#"
            select allowed as "allowed!", reason as "reason!"
            from record_policy_check(
                $1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10, $11, $12, $13
            )
            "#,
            cx.caller.workspace,
            cx.request.id,
            cx.caller.agent_id,
            cx.caller.agent_type,
            cx.caller.session_id,
            cx.request.elapsed_ms(),
            cx.config.session_timeout(),
            json!({
                "operation": self.operation,
                "resource": self.resource,
                "engine": cx.services.engine.name(),
                "context": self.context.as_ref().map(recorded_context),
                "advisory": true,
            }),
            json!({
                "allowed": decision.allowed,
                "reason": decision.reason,
                "diagnostics": decision.diagnostics,
            }),
            file.unwrap_or_default(),
            limit,
            self.files_modified(),
            limit.map(policy::over_file_limit),
        )
        .fetch_one(cx.db)
        .await?;
        let is_over_limit = decision.allowed && !row.allowed;
        Ok(Advice {
            allowed: row.allowed,
            reason: row.reason,
            engine: cx.services.engine.title(),
            diagnostics: if is_over_limit { vec![] } else { decision.diagnostics },
        })
    }
}

impl CheckPolicy {
    /// Returns the file that the caller wants to lock. Empty if the resource is not a valid key,
    /// `None` if the question is not about a lock on a file.
    fn locked_file(&self) -> Option<String> {
        if self.operation != "acquire_lock" {
            return None;
        }
        match LockKey::parse(&self.resource) {
            Ok(key) if key.is_file() || key.as_str().is_empty() => Some(key.as_str().to_owned()),
            Ok(_) => None,
            Err(_) => Some(String::new()),
        }
    }

    /// Returns how many files the caller says that it has changed.
    fn files_modified(&self) -> i64 {
        let files = self.context.as_ref().and_then(|context| context.member("files_modified"));
        let files = files.and_then(|files| serde_json::from_str::<u64>(files).ok());
        files.map_or(0, |files| i64::try_from(files).unwrap_or(i64::MAX))
    }
}

/// Returns what is recorded of a context: the object, or the beginning of its text if it is too
/// long.
fn recorded_context(context: &RawJson) -> Value {
    let text = context.get();
    match text.len() <= MAX_CONTEXT_BYTES {
        true => json!(context),
        false => text[..text.floor_char_boundary(MAX_CONTEXT_BYTES)].into(),
    }
}

/// Check the text of Cedar policies before an operator stores them: the syntax, and whether they
/// fit the schema. Nothing is stored.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ValidatePolicy {
    /// One or more policies in Cedar.
    #[schemars(extend("x-max-bytes" = 16384))]
    pub policy_text: String,
}

/// Whether a text consists of valid policies.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Validated {
    /// Whether the policies are valid.
    pub valid: bool,
    /// What is wrong with them. Empty if they are valid.
    pub errors: Vec<String>,
}

impl Operation for ValidatePolicy {
    type Output = Validated;
    const META: Meta = Meta::read("validate_policy")
        .at(&["POST /policy/validate"])
        .tool(Tool::named("validate_cedar_policy"));

    fn example() -> Value {
        json!({
            "policy_text":
                "forbid (principal, action == Action::\"force_push\", resource == File::\"main\");",
        })
    }

    async fn run(self, cx: Context<'_>) -> Result<Validated> {
        // A request that waits for its turn must not keep a connection from others.
        cx.db.release();
        let errors = cx.services.engine.validate(self.policy_text).await;
        Ok(Validated { valid: errors.is_empty(), errors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_context_is_cut() {
        let context = |length: usize| json!({ "a": "ä".repeat(length) });
        let raw = |context: Value| serde_json::from_value(json!(context.to_string()));
        let recorded = |length| recorded_context(&raw(context(length)).expect("an object"));
        assert_eq!(recorded(100), context(100));
        let cut = recorded(3000);
        let cut = cut.as_str().expect("a text");
        assert!(cut.starts_with("{\"a\":\"ää") && (4093..=4096).contains(&cut.len()));
    }
}
