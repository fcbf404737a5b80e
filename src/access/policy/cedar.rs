//! The Cedar engine: decides by policies that the operator stores in the database.
//!
//! Values of a request are passed to Cedar as typed values and never become part of the text of a policy.
//! Every failure denies.
use std::{
    borrow::Cow,
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression as Value, Validator,
};
use tokio::sync::Semaphore;

use super::{
    cedar_text::{self, Failure, bundled, parse},
    decision::{Decision, Question},
};
use crate::{
    access::{caller::Caller, kinds::TargetKind},
    config::PolicySettings,
    database::Db,
    values::{Cache, Domain, LockKey, Result},
};

const POLICY_LOAD_ERROR: &str = "policy_load_error";
const CEDAR_EVALUATION_ERROR: &str = "cedar_evaluation_error";

/// Attributes of the principal when the caller has no profile.
const DEFAULT_MAX_FILE_MODIFICATIONS: i64 = 100;
const DEFAULT_MAX_EXECUTION_TIME_SECONDS: i64 = 3600;

/// The id of the Cedar resource of a request without a target.
const NO_RESOURCE: &str = "default";

/// How long a failed read of the policies is cached, at most.
const FAILURE_MAX_AGE: Duration = Duration::from_secs(5);

/// The maximum number of workspaces whose policies are cached.
const CAPACITY: usize = 1_000;

/// The engine, with a cache of the policies.
#[derive(Debug)]
pub(crate) struct Cedar {
    validator: Arc<Validator>,
    /// The turn of a validation: each occupies a core.
    validation: Arc<Semaphore>,
    cache_ttl: Duration,
    /// The policies that apply when the database has none. `None` if the configuration disables them.
    fallback: Option<Arc<PolicySet>>,
    /// The policies of each workspace. `None` if they cannot be parsed; then every request is denied.
    known: Cache<String, Option<Arc<PolicySet>>>,
}

impl Cedar {
    pub(crate) fn new(settings: &PolicySettings) -> Self {
        Self {
            validator: Arc::new(cedar_text::validator(settings.schema.as_deref())),
            validation: Arc::new(Semaphore::new(1)),
            cache_ttl: settings.cache_ttl,
            fallback: settings.code_fallback.then(|| Arc::new(bundled())),
            known: Cache::new(CAPACITY),
        }
    }

    /// Decides by the policies of the workspace of the caller.
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
        Ok(evaluate(&policies, caller, delegated_by, question))
    }

    /// Returns the errors in the text of a policy, by syntax and by the schema. Works on a thread of its own,
    /// one text at a time, because the type checker needs much longer than a request may hold a thread.
    pub(crate) async fn validate(&self, policy_text: String) -> Vec<String> {
        let turn = self.validation.clone().acquire_owned().await;
        let validator = self.validator.clone();
        let validated = tokio::task::spawn_blocking(move || {
            // The thread continues when the client disconnects, and ends its turn only then.
            let _turn = turn;
            cedar_text::validate(&validator, &policy_text)
        });
        validated.await.unwrap_or_else(|error| cedar_text::not_validated(&error))
    }

    /// Returns the policies of a workspace. Reads them again when they are too old.
    async fn policies(&self, db: &mut Db, workspace: &str) -> Option<Arc<PolicySet>> {
        let generation = match self.known.get(workspace) {
            Ok(policies) => return policies,
            Err(generation) => generation,
        };
        let read_at = Instant::now();
        let (policies, max_age) = match read_policies(db, workspace).await {
            Ok(Some(Ok(policies))) => (Some(Arc::new(policies)), self.cache_ttl),
            // The broken policy can be the policy that forbids the request.
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
        self.known.insert(generation, workspace.to_owned(), policies.clone(), read_at, max_age);
        policies
    }
}

/// Reads the enabled policies of a workspace, or of `default` where it has no rows. Returns `None` where
/// both have none. The nested transaction keeps a failure from breaking the one around it.
async fn read_policies(db: &mut Db, workspace: &str) -> Result<Option<Result<PolicySet, Failure>>> {
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
    Ok(Some(parse(rows.iter().map(|row| (row.name.as_str(), row.policy_text.as_str())))))
}

/// Returns the agent that delegated the work of the caller's session.
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

/// Evaluates policies. An error in one of them denies, even where others permit: the policy that failed
/// can be the one that forbids.
fn evaluate(
    policies: &PolicySet,
    caller: &Caller,
    delegated_by: String,
    question: &Question<'_>,
) -> Decision {
    let (request, entities) = match cedar_request(caller, delegated_by, question) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!(%error, "a request could not be converted for Cedar");
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

/// Converts a question into a Cedar request and its entities: `docs/api-design.md#authorization`.
fn cedar_request(
    caller: &Caller,
    delegated_by: String,
    question: &Question<'_>,
) -> Result<(Request, Entities), Failure> {
    let profile = caller.profile.as_deref();
    let text = |value: &str| Value::new_string(value.to_owned());
    let principal = entity("Agent", &caller.agent_id)?;
    let agent_type = entity("AgentType", &caller.agent_type)?;
    let max_files =
        profile.map_or(DEFAULT_MAX_FILE_MODIFICATIONS, |own| own.max_file_modifications);
    let max_seconds =
        profile.map_or(DEFAULT_MAX_EXECUTION_TIME_SECONDS, |own| own.max_execution_time_seconds);
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

/// Returns type and id of the Cedar resource, with the id in canonical form.
fn resource<'a>(question: &Question<'a>) -> (&'static str, Cow<'a, str>) {
    let target = question.target;
    let (entity_type, canonical) = match question.target_kind {
        TargetKind::File => {
            ("File", LockKey::parse(target).map(|key| key.as_str().to_owned()).ok())
        }
        TargetKind::Domain => {
            ("Domain", Domain::parse(target).map(|domain| domain.as_str().to_owned()).ok())
        }
        TargetKind::Task => ("Task", None),
    };
    let id = canonical.map_or(Cow::Borrowed(target), Cow::Owned);
    (entity_type, if id.is_empty() { NO_RESOURCE.into() } else { id })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        access::policy::{
            names::KnownOperations,
            native::{self, tests::caller},
        },
        capabilities,
    };

    pub(in crate::access::policy) fn known() -> KnownOperations {
        capabilities::all().known()
    }

    /// Evaluates policies for any request: it is enough that they answer at all.
    pub(in crate::access::policy) fn evaluate_any(policies: &PolicySet) {
        evaluate(policies, &caller(2, None), String::new(), &question("recall", ""));
    }

    /// Returns what a policy decides beside another one that permits everything.
    fn decided(policy: &str, caller: &Caller, question: &Question<'_>) -> Decision {
        let texts = [("all", "permit (principal, action, resource);"), ("p", policy)];
        evaluate(&parse(texts).expect("well-formed"), caller, "human-1".to_owned(), question)
    }

    fn question<'a>(operation: &'a str, resource: &'a str) -> Question<'a> {
        let known = known().get(operation);
        Question {
            operation,
            category: known.map(|it| it.category),
            target_kind: known.map_or(TargetKind::Task, |it| it.target_kind),
            target: resource,
        }
    }

    #[test]
    fn with_the_bundled_policies_both_engines_decide_alike() {
        let policies = bundled();
        let mut compared = 0;
        for (operation, _) in known().iter() {
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
                    let question = question(operation, "x");
                    let native = native::decide(&caller, &question, true);
                    let cedar = match native::check_lists(&caller, operation, true) {
                        Ok(()) => evaluate(&policies, &caller, String::new(), &question),
                        Err(reason) => Err(reason).into(),
                    };
                    assert_eq!(cedar.allowed, native.is_ok(), "{operation} {trust} {lists:?}");
                    // Where the lists decide, both engines give the same reason.
                    if !cedar.reason.starts_with("cedar:") {
                        assert_eq!(Err(cedar.reason), native);
                    }
                    compared += 1;
                }
                // The policies themselves, without the steps around them.
                let question = question(operation, "");
                let caller = caller(trust, None);
                let alone = evaluate(&policies, &caller, String::new(), &question);
                let native = native::decide(&caller, &question, true);
                assert_eq!(alone.allowed, native.is_ok(), "{operation} {trust}");
            }
        }
        assert_eq!(compared, known().iter().count() * 25);
    }

    #[test]
    fn the_bundled_policies_name_themselves_in_decisions() {
        let judged = |trust, operation| {
            let question = question(operation, "");
            evaluate(&bundled(), &caller(trust, None), String::new(), &question)
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

    #[tokio::test]
    async fn a_validation_leaves_the_thread_to_other_requests() {
        let settings = PolicySettings {
            engine: crate::config::PolicyEngine::Cedar,
            cache_ttl: Duration::ZERO,
            code_fallback: true,
            schema: None,
        };
        let cedar = Cedar::new(&settings);
        let text = "permit (principal, action, resource);";
        let mut validation = std::pin::pin!(cedar.validate(text.to_owned()));
        assert!(futures_util::poll!(validation.as_mut()).is_pending());
        assert_eq!(validation.await, [""; 0]);
    }
}
