//! The Cedar engine: decides by policies that the operator keeps in the database.
//!
//! What a request says is handed to Cedar as typed values and never becomes part of a policy's
//! text. Whatever goes wrong denies.
mod text;

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression as Value, Validator,
};

pub(crate) use text::is_schema;
use text::{Failure, bundled, parse};

use crate::{
    Domain, LockKey, Result,
    auth::Caller,
    config::PolicySettings,
    db::Db,
    policy::{Decision, Question},
};

const POLICY_LOAD_ERROR: &str = "policy_load_error";
const CEDAR_EVALUATION_ERROR: &str = "cedar_evaluation_error";

/// What the principal is told where the caller has no profile (conventions 5.4).
const DEFAULT_MAX_FILE_MODIFICATIONS: i64 = 100;
const DEFAULT_MAX_EXECUTION_TIME_SECONDS: i64 = 3600;

/// The id of the resource of a request that names none.
const NO_RESOURCE: &str = "default";

/// Operations whose resource is a file; `network_access` has a domain, all others a task.
const ON_FILES: [&str; 7] = [
    "acquire_lock",
    "release_lock",
    "check_locks",
    "verify_locks",
    "force_release_lock",
    "force_push",
    "delete_branch",
];

/// How long at most the outcome of a reading that failed is kept.
const FAILURE_MAX_AGE: Duration = Duration::from_secs(5);

/// How many workspaces' policies are kept in memory at most.
const MOST_KNOWN: usize = 1_000;

/// The engine with the policies it has read.
#[derive(Debug)]
pub(crate) struct Cedar {
    validator: Validator,
    cache_ttl: Duration,
    /// What serves where the database has no policies, unless that is switched off.
    fallback: Option<Arc<PolicySet>>,
    known: Mutex<HashMap<String, Known>>,
}

/// Policies of a workspace as last read; none: they could not be had.
#[derive(Clone, Debug)]
struct Known {
    read_at: Instant,
    max_age: Duration,
    policies: Option<Arc<PolicySet>>,
}

impl Cedar {
    pub(crate) fn new(settings: &PolicySettings) -> Self {
        Self {
            validator: text::validator(settings.schema.as_deref()),
            cache_ttl: settings.cache_ttl,
            fallback: settings.code_fallback.then(|| Arc::new(bundled())),
            known: Mutex::default(),
        }
    }

    /// Decides step 5 of conventions 5.1.
    pub(crate) async fn decide(
        &self,
        db: &mut Db,
        caller: &Caller,
        question: &Question<'_>,
    ) -> Result<Decision> {
        let Some(policies) = self.policies(db, &caller.workspace).await else {
            return Ok(Err(POLICY_LOAD_ERROR.to_owned()).into());
        };
        let delegated_by = delegated_by(db, caller).await?;
        Ok(judge(&policies, caller, delegated_by, question))
    }

    /// What is wrong with a policy's text, by its form and by the schema.
    pub(crate) fn validate(&self, policy_text: &str) -> Vec<String> {
        text::validate(&self.validator, policy_text)
    }

    /// The policies of a workspace, read again when they are too old.
    async fn policies(&self, db: &mut Db, workspace: &str) -> Option<Arc<PolicySet>> {
        if let Some(known) = self.known(workspace) {
            return known.policies;
        }
        let read_at = Instant::now();
        let (policies, max_age) = match read(db, workspace).await {
            Ok(Some(Ok(policies))) => (Some(Arc::new(policies)), self.cache_ttl),
            // The one that is broken may be the one that forbids.
            Ok(Some(Err(error))) => {
                tracing::error!(workspace, %error, "a policy is broken: nothing is allowed");
                (None, self.cache_ttl.min(FAILURE_MAX_AGE))
            }
            Ok(None) => (self.fallback.clone(), self.cache_ttl),
            Err(error) => {
                tracing::error!(workspace, %error, "the policies could not be read");
                (self.fallback.clone(), self.cache_ttl.min(FAILURE_MAX_AGE))
            }
        };
        let known = Known { read_at, max_age, policies: policies.clone() };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_KNOWN {
            all.clear();
        }
        all.insert(workspace.to_owned(), known);
        policies
    }

    fn known(&self, workspace: &str) -> Option<Known> {
        let all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(workspace).filter(|it| it.read_at.elapsed() < it.max_age).cloned()
    }
}

/// The enabled policies of a workspace, or of `default` where it has no rows; nothing where there
/// are none at all. The nested transaction keeps a failure from breaking the one around it.
async fn read(db: &mut Db, workspace: &str) -> Result<Option<Result<PolicySet, Failure>>> {
    db.begin().await?;
    let rows = sqlx::query!(
        r#"
        select name, policy_text from cedar_policy
        where enabled and workspace = case
            when exists (select from cedar_policy where workspace = $1) then $1 else 'default' end
        order by priority, name
        "#,
        workspace,
    )
    .fetch_all(&mut *db)
    .await;
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            db.rollback().await?;
            return Err(error.into());
        }
    };
    db.commit().await?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(parse(rows.iter().map(|it| (it.name.as_str(), it.policy_text.as_str())))))
}

/// Who delegated the work of the caller's session to it.
async fn delegated_by(db: &mut Db, caller: &Caller) -> Result<String> {
    let Some(session_id) = &caller.session_id else { return Ok(String::new()) };
    let delegated_from = sqlx::query_scalar!(
        "select delegated_from from agent_session
         where workspace = $1 and agent_id = $2 and session_id = $3",
        caller.workspace,
        caller.agent_id,
        session_id,
    )
    .fetch_optional(db)
    .await?;
    Ok(delegated_from.flatten().unwrap_or_default())
}

/// What these policies say. An error in one of them denies, even where others permit: the one that
/// failed may be the one that forbids.
fn judge(
    policies: &PolicySet,
    caller: &Caller,
    delegated_by: String,
    question: &Question<'_>,
) -> Decision {
    let (request, entities) = match situation(caller, delegated_by, question) {
        Ok(situation) => situation,
        Err(error) => {
            tracing::error!(%error, "a request could not be put to the policies");
            return Err(CEDAR_EVALUATION_ERROR.to_owned()).into();
        }
    };
    let response = Authorizer::new().is_authorized(&request, policies, &entities);
    let diagnostics = response.diagnostics();
    let mut failed: Vec<String> = Vec::new();
    for error in diagnostics.errors() {
        tracing::error!(%error, "a policy could not be evaluated");
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        failed.push(error.policy_id().to_string());
    }
    if !failed.is_empty() {
        return denied(CEDAR_EVALUATION_ERROR, failed);
    }
    let determining = diagnostics.reason().map(ToString::to_string).collect();
    match response.decision() {
        cedar_policy::Decision::Allow => {
            Decision { allowed: true, ..denied("cedar:allow", determining) }
        }
        cedar_policy::Decision::Deny => denied("cedar:deny", determining),
    }
}

fn denied(reason: &str, mut diagnostics: Vec<String>) -> Decision {
    diagnostics.sort();
    Decision { allowed: false, reason: reason.to_owned(), diagnostics }
}

/// The request and the entities that a question becomes (conventions 5.4).
fn situation(
    caller: &Caller,
    delegated_by: String,
    question: &Question<'_>,
) -> Result<(Request, Entities), Failure> {
    let profile = caller.profile.as_deref();
    let text = |value: &str| Value::new_string(value.to_owned());
    let principal = entity("Agent", &caller.agent_id)?;
    let agent_type = entity("AgentType", &caller.agent_type)?;
    let max_files = profile.map_or(DEFAULT_MAX_FILE_MODIFICATIONS, |it| it.max_file_modifications);
    let max_seconds =
        profile.map_or(DEFAULT_MAX_EXECUTION_TIME_SECONDS, |it| it.max_execution_time_seconds);
    let attributes = [
        ("trust_level", Value::new_long(caller.trust.into())),
        ("agent_type", text(&caller.agent_type)),
        ("session_id", text(caller.session_id.as_deref().unwrap_or_default())),
        ("max_file_modifications", Value::new_long(max_files)),
        ("max_execution_time_seconds", Value::new_long(max_seconds)),
        ("delegated_by", Value::new_string(delegated_by)),
        ("session_grants", Value::new_set([])),
    ];
    let agent = with_attributes(&principal, attributes, HashSet::from([agent_type.clone()]))?;

    let action = entity("Action", question.operation)?;
    let (kind, name) = resource(question);
    let resource = entity(kind, &name)?;
    let attributes = match kind {
        "File" => vec![("path", text(&name))],
        "Domain" => vec![("name", text(&name))],
        _ => vec![("task_type", text("general")), ("priority", Value::new_long(5))],
    };
    let thing = with_attributes(&resource, attributes, HashSet::new())?;
    let types = Entity::new_no_attrs(agent_type, HashSet::new());
    let entities = Entities::from_entities([agent, types, thing], None)?;
    Ok((Request::new(principal, action, resource, Context::empty(), None)?, entities))
}

fn entity(kind: &str, id: &str) -> Result<EntityUid, Failure> {
    let kind: EntityTypeName = kind.parse()?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn with_attributes(
    uid: &EntityUid,
    attributes: impl IntoIterator<Item = (&'static str, Value)>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, Failure> {
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value));
    Ok(Entity::new(uid.clone(), attributes.collect(), parents)?)
}

/// Type and id of the resource, in the form in which the operation itself would see it.
fn resource<'a>(question: &Question<'a>) -> (&'static str, Cow<'a, str>) {
    let asked = question.resource;
    let (kind, canonical) = if ON_FILES.contains(&question.operation) {
        ("File", LockKey::parse(asked).map(|it| it.as_str().to_owned()).ok())
    } else if question.operation == "network_access" {
        ("Domain", Domain::parse(asked).map(|it| it.as_str().to_owned()).ok())
    } else {
        ("Task", None)
    };
    let id = canonical.map_or(Cow::Borrowed(asked), Cow::Owned);
    (kind, if id.is_empty() { NO_RESOURCE.into() } else { id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, known_operations, tests::caller};

    /// Has policies judge something: it is enough that they answer at all.
    pub(super) fn judge_something(policies: &PolicySet) {
        judge(policies, &caller(2, None), String::new(), &question("recall", ""));
    }

    /// What one policy beside a permission of everything says.
    fn decided(policy: &str, caller: &Caller, question: &Question<'_>) -> Decision {
        let texts = [("all", "permit (principal, action, resource);"), ("p", policy)];
        judge(&parse(texts).expect("well-formed"), caller, "human-1".to_owned(), question)
    }

    fn question<'a>(operation: &'a str, resource: &'a str) -> Question<'a> {
        Question { operation, category: policy::category(operation), resource }
    }

    #[test]
    fn with_the_bundled_policies_both_engines_decide_alike() {
        let policies = bundled();
        let mut compared = 0;
        for (operation, category) in known_operations() {
            for trust in 0..=4 {
                let lists: [Option<(&[&str], &[&str])>; 5] = [
                    None,
                    Some((&[], &[])),
                    Some((&[operation], &[])),
                    Some((&["another"], &[])),
                    Some((&[operation], &[operation])),
                ];
                for lists in lists {
                    let caller = caller(trust, lists);
                    let question = Question { operation, category: Some(category), resource: "x" };
                    let native = policy::decide(&caller, &question, true);
                    let cedar = match policy::admit(&caller, operation, true) {
                        Ok(()) => judge(&policies, &caller, String::new(), &question),
                        Err(reason) => Err(reason).into(),
                    };
                    assert_eq!(cedar.allowed, native.is_ok(), "{operation} {trust} {lists:?}");
                    // Where the lists decide, they do so in the same words.
                    if !cedar.reason.starts_with("cedar:") {
                        assert_eq!(Err(cedar.reason), native);
                    }
                    compared += 1;
                }
                // The policies themselves, without the steps around them.
                let question = Question { operation, category: Some(category), resource: "" };
                let caller = caller(trust, None);
                let alone = judge(&policies, &caller, String::new(), &question);
                let native = policy::decide(&caller, &question, true);
                assert_eq!(alone.allowed, native.is_ok(), "{operation} {trust}");
            }
        }
        assert_eq!(compared, known_operations().count() * 25);
    }

    #[test]
    fn the_bundled_policies_name_themselves_in_decisions() {
        let judged = |trust, operation| {
            let question = question(operation, "");
            judge(&bundled(), &caller(trust, None), String::new(), &question)
        };
        let decision = |allowed, reason: &str, diagnostics: &[&str]| Decision {
            allowed,
            reason: reason.to_owned(),
            diagnostics: diagnostics.iter().map(|it| (*it).to_owned()).collect(),
        };
        let suspended = decision(false, "cedar:deny", &["suspended-agents"]);
        assert_eq!(judged(0, "check_locks"), suspended);
        assert_eq!(judged(1, "check_locks"), decision(true, "cedar:allow", &["read-operations"]));
        assert_eq!(judged(1, "acquire_lock"), decision(false, "cedar:deny", &[]));
        let network = decision(true, "cedar:allow", &["network-access", "read-operations"]);
        assert_eq!(judged(1, "network_access"), network);
        assert_eq!(judged(4, "no_such_operation"), decision(false, "cedar:deny", &[]));
    }

    #[test]
    fn policies_see_the_principal_and_the_resource() {
        let mut known = caller(2, Some((&[], &[])));
        known.agent_id = "a-1".to_owned();
        known.agent_type = "codex".to_owned();
        known.session_id = Some("s-1".to_owned());
        let mut plain = caller(2, None);
        plain.agent_type = "other".to_owned();
        for (condition, operation, resource) in [
            (r#"principal == Agent::"a-1""#, "recall", ""),
            (r#"principal in AgentType::"codex""#, "recall", ""),
            (r#"principal.agent_type == "codex""#, "recall", ""),
            (r#"principal.session_id == "s-1""#, "recall", ""),
            ("principal.max_file_modifications == 7", "recall", ""),
            ("principal.max_execution_time_seconds == 300", "recall", ""),
        ] {
            let policy = format!("forbid (principal, action, resource) when {{ {condition} }};");
            let question = question(operation, resource);
            assert!(!decided(&policy, &known, &question).allowed, "{condition}");
            assert!(decided(&policy, &plain, &question).allowed, "{condition}");
        }
        for (condition, operation, resource) in [
            ("principal.trust_level == 2", "recall", ""),
            (r#"principal.delegated_by == "human-1""#, "recall", ""),
            (r#"principal.session_grants == []"#, "recall", ""),
            (r#"action == Action::"recall""#, "recall", ""),
            (r#"resource == Task::"default""#, "recall", ""),
            (r#"resource == Task::"t-1""#, "recall", "t-1"),
            (r#"resource.task_type == "general" && resource.priority == 5"#, "recall", ""),
            (r#"resource == File::"src/a.rs""#, "acquire_lock", "./src//a.rs"),
            (r#"resource.path like "src/*""#, "acquire_lock", "src/a.rs"),
            (r#"resource == File::"default""#, "verify_locks", ""),
            (r#"resource == File::"main""#, "force_push", "main"),
            (r#"resource.name == "evil.example""#, "network_access", "Evil.Example."),
        ] {
            let policy = format!("forbid (principal, action, resource) when {{ {condition} }};");
            let decision = decided(&policy, &plain, &question(operation, resource));
            assert_eq!((decision.allowed, &*decision.reason), (false, "cedar:deny"), "{condition}");
            assert_eq!(decision.diagnostics, ["p"], "{condition}");
        }
        let condition = "principal.max_file_modifications == 100
            && principal.max_execution_time_seconds == 3600 && principal.session_id == \"\"";
        let policy = format!("forbid (principal, action, resource) when {{ {condition} }};");
        assert!(!decided(&policy, &plain, &question("recall", "")).allowed);
    }

    #[test]
    fn what_a_request_says_is_a_value_and_never_policy() {
        let policy = r#"forbid (principal, action, resource) unless { principal == Agent::"a" };"#;
        for id in
            ["a\" || true || \"", "a\\", "\u{0}", "a::\"b\"", "", "💥", "a\"};permit(principal"]
        {
            let mut caller = caller(2, None);
            caller.agent_id = id.to_owned();
            caller.agent_type = id.to_owned();
            caller.session_id = Some(id.to_owned());
            for operation in ["acquire_lock", "network_access", "recall", id] {
                let decision = decided(policy, &caller, &question(operation, id));
                assert_eq!(&*decision.reason, "cedar:deny", "{id}");
            }
        }
    }

    #[test]
    fn a_policy_that_cannot_be_evaluated_denies() {
        let policy = "forbid (principal, action, resource) when { principal.no_such_thing };";
        let decision = decided(policy, &caller(4, None), &question("recall", ""));
        let expected = denied("cedar_evaluation_error", vec!["p".to_owned()]);
        assert_eq!(decision, expected);
    }
}
