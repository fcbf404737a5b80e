//! The Cedar engine: decides by policies that the operator keeps in the database.
//!
//! What a request says is handed to Cedar as typed values and never becomes part of a policy's
//! text. Whatever goes wrong denies.
use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId,
    PolicySet, Request, RestrictedExpression as Value, Schema, ValidationMode, Validator,
};
use sqlx::PgConnection;

use crate::{
    Domain, LockKey, Result,
    auth::Caller,
    config::PolicySettings,
    policy::{Decision, Question},
};

const POLICY_LOAD_ERROR: &str = "policy_load_error";
const CEDAR_EVALUATION_ERROR: &str = "cedar_evaluation_error";
const TOO_DEEP: &str = "the policy is nested too deeply";

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

/// The policies that the migrations put into the database, by name in order of priority.
const BUNDLED: [(&str, &str); 5] = [
    ("suspended-agents", include_str!("capabilities/policy/suspended-agents.cedar")),
    ("read-operations", include_str!("capabilities/policy/read-operations.cedar")),
    ("write-operations", include_str!("capabilities/policy/write-operations.cedar")),
    ("admin-operations", include_str!("capabilities/policy/admin-operations.cedar")),
    ("network-access", include_str!("capabilities/policy/network-access.cedar")),
];

const BUNDLED_SCHEMA: &str = include_str!("capabilities/policy/schema.cedarschema");

/// How long at most the outcome of a reading that failed is kept.
const FAILURE_MAX_AGE: Duration = Duration::from_secs(5);

/// How deep brackets and conditions of a policy may be nested. The parser recurses, and a stack that
/// is used up ends the process.
const MAX_DEPTH: usize = 64;

/// The stack that is enough for policies of that depth in every build: that of a thread that serves
/// requests is not.
const PARSER_STACK_BYTES: usize = 32 << 20;

/// How many workspaces' policies are kept in memory at most.
const MOST_KNOWN: usize = 1_000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

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
        let schema = settings.schema.as_deref().unwrap_or(BUNDLED_SCHEMA);
        let schema = parse_schema(schema).expect("a schema is checked before it is configured");
        Self {
            validator: Validator::new(schema),
            cache_ttl: settings.cache_ttl,
            fallback: settings.code_fallback.then(|| Arc::new(bundled())),
            known: Mutex::default(),
        }
    }

    /// Decides step 5 of conventions 5.1.
    pub(crate) async fn decide(
        &self,
        db: &mut PgConnection,
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
        if is_too_deep(policy_text) {
            return vec![TOO_DEEP.to_owned()];
        }
        let errors = on_a_deep_stack(|| match policy_text.parse::<PolicySet>() {
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
            Ok(policies) => {
                let validated = self.validator.validate(&policies, ValidationMode::Strict);
                validated.validation_errors().map(ToString::to_string).collect()
            }
        });
        errors.unwrap_or_else(|error| {
            tracing::error!(%error, "a policy could not be validated");
            vec!["the policy could not be validated".to_owned()]
        })
    }

    /// The policies of a workspace, read again when they are too old.
    async fn policies(&self, db: &mut PgConnection, workspace: &str) -> Option<Arc<PolicySet>> {
        if let Some(known) = self.known(workspace) {
            return known.policies;
        }
        let read_at = Instant::now();
        let (policies, max_age) = match read(db, workspace).await {
            Ok(Some(policies)) => (Some(Arc::new(policies)), self.cache_ttl),
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

/// Runs something on a stack of its own and waits for it.
fn on_a_deep_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(PARSER_STACK_BYTES);
        let thread = builder.spawn_scoped(scope, run)?;
        thread.join().map_err(|_| "the parser panicked".into())
    })
}

/// Whether brackets, conditions and calls on the results of calls are nested deeper than is parsed.
/// Reads strings and comments as the parser does; what it would refuse anyway need not be counted
/// right.
fn is_too_deep(text: &str) -> bool {
    // How many calls follow one another here, and in front of each open bracket.
    let (mut calls, mut outside) = (0_usize, Vec::new());
    let (mut conditions, mut last) = (0, ' ');
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let comment = rest.starts_with("//");
        let length = match next {
            '"' => string_length(rest),
            _ if comment => rest.find(['\n', '\r']).unwrap_or(rest.len()),
            it if is_word(it) => rest.find(|it| !is_word(it)).unwrap_or(rest.len()),
            it => it.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        rest = behind;
        if comment || next.is_whitespace() {
            continue;
        }
        match token {
            "(" | "[" | "{" => outside.push(std::mem::take(&mut calls)),
            ")" | "]" | "}" => calls = outside.pop().unwrap_or_default(),
            "if" => conditions += 1,
            "." if [')', ']'].contains(&last) => calls += 1,
            "|" | "&" | "," | ";" => calls = 0,
            _ => {}
        }
        if outside.is_empty() {
            conditions = 0;
        }
        if outside.len() + conditions + calls > MAX_DEPTH {
            return true;
        }
        last = next;
    }
    false
}

fn is_word(it: char) -> bool {
    it.is_ascii_alphanumeric() || it == '_'
}

/// The bytes of the string that a text begins with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, it) in text.char_indices().skip(1) {
        match it {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// Whether a text is a schema.
pub(crate) fn is_schema(text: &str) -> bool {
    parse_schema(text).is_some()
}

/// A schema in either of its forms.
fn parse_schema(text: &str) -> Option<Schema> {
    if text.trim_start().starts_with('{') {
        return Schema::from_json_str(text).ok();
    }
    Schema::from_cedarschema_str(text).ok().map(|(schema, _)| schema)
}

fn bundled() -> PolicySet {
    parse(BUNDLED).expect("the bundled policies are well-formed")
}

/// The enabled policies of a workspace, or of `default` where it has no rows; nothing where there
/// are none at all.
async fn read(db: &mut PgConnection, workspace: &str) -> Result<Option<PolicySet>, Failure> {
    let rows = sqlx::query!(
        r#"
        select name, policy_text from cedar_policy
        where enabled and workspace = case
            when exists (select from cedar_policy where workspace = $1) then $1 else 'default' end
        order by priority, name
        "#,
        workspace,
    )
    .fetch_all(db)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(parse(rows.iter().map(|it| (it.name.as_str(), it.policy_text.as_str())))?))
}

/// Makes one set of texts with their names. A text of one policy gives it its name; those of several
/// are numbered.
fn parse<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<PolicySet, Failure> {
    let mut all = PolicySet::new();
    for (name, text) in texts {
        if is_too_deep(text) {
            return Err(TOO_DEEP.into());
        }
        let parsed = on_a_deep_stack(|| text.parse::<PolicySet>())??;
        if parsed.num_of_templates() > 0 {
            return Err(format!("policy {name} is a template").into());
        }
        let numbered = parsed.num_of_policies() > 1;
        for (number, policy) in (1..).zip(parsed.policies()) {
            let id = if numbered { format!("{name}#{number}") } else { name.to_owned() };
            all.add(policy.new_id(PolicyId::new(id)))?;
        }
    }
    Ok(all)
}

/// Who delegated the work of the caller's session to it.
async fn delegated_by(db: &mut PgConnection, caller: &Caller) -> Result<String> {
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

    fn engine() -> Cedar {
        Cedar::new(&PolicySettings {
            engine: crate::config::PolicyEngine::Cedar,
            cache_ttl: Duration::ZERO,
            code_fallback: true,
            schema: None,
        })
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

    #[test]
    fn texts_of_several_policies_are_numbered_and_templates_are_refused() {
        let text = "permit (principal, action, resource); forbid (principal, action, resource);";
        let policies = parse([("both", text)]).expect("well-formed");
        let decision = judge(&policies, &caller(2, None), String::new(), &question("recall", ""));
        assert_eq!(decision, denied("cedar:deny", vec!["both#2".to_owned()]));
        let template = "permit (principal == ?principal, action, resource);";
        assert!(parse([("t", template)]).is_err());
        assert!(parse([("broken", "permit (")]).is_err());
        assert!(parse([("twice", text), ("twice", text)]).is_err());
    }

    #[test]
    fn the_bundled_policies_are_valid_by_the_bundled_schema() {
        let engine = engine();
        for (name, text) in BUNDLED {
            assert_eq!(engine.validate(text), [""; 0], "{name}");
        }
        for (operation, _) in known_operations() {
            let text = format!("permit (principal, action == Action::\"{operation}\", resource);");
            assert_eq!(engine.validate(&text), [""; 0]);
        }
    }

    #[test]
    fn a_text_is_wrong_by_its_form_or_by_the_schema() {
        for (text, part) in [
            ("permit (", "unexpected end of input"),
            ("permit (principal, action, resource) when { principal.trust };", "trust"),
            ("permit (principal, action == Action::\"fly\", resource);", "fly"),
            ("permit (principal is Robot, action, resource);", "Robot"),
        ] {
            let errors = engine().validate(text);
            assert!(errors.iter().any(|it| it.contains(part)), "{text}: {errors:?}");
        }
        let fine = "forbid (principal, action == Action::\"network_access\", resource)
            when { resource.name like \"*.example.com\" };";
        assert_eq!(engine().validate(fine), [""; 0]);
    }

    /// `middle` within as many pairs as a request has room for, or as `depth` says.
    fn nested((open, middle, close): (&str, &str, &str), depth: Option<usize>) -> String {
        let depth = depth.unwrap_or(16_000 / (open.len() + close.len()));
        let nested = [&open.repeat(depth), middle, &close.repeat(depth)].concat();
        format!("permit (principal, action, resource) when {{ {nested} }};")
    }

    #[test]
    fn a_text_that_is_nested_too_deeply_is_refused_before_it_is_parsed() {
        let engine = engine();
        for pair in [
            ("(", "true", ")"),
            ("[", "1", "]"),
            ("{a:", "1", "}"),
            ("principal.contains(", "1", ")"),
            ("ip(", "1", ")"),
            ("if true then ", "1", " else 1"),
            ("if true then 1 else ", "1", ""),
            ("if ", "true", " then true else true"),
            ("if (", "true", ") then true else true"),
            ("/*\"*/(", "true", ")"),
            ("\")\"==(", "true", ")"),
            ("\"\\\")\"==(", "true", ")"),
            ("// )\n(", "true", ")"),
            ("", "principal", ".contains(1)"),
            ("", "principal", ".contains(1 || 1)[\"a\"]"),
            ("", "principal", " // .\n . contains(1)\n"),
        ] {
            let deep = nested(pair, None);
            assert_eq!(engine.validate(&deep), ["the policy is nested too deeply"], "{pair:?}");
            assert!(parse([("deep", &*deep)]).is_err());
            assert!(parse([("unclosed", deep.split(pair.1).next().unwrap_or_default())]).is_err());
            // As deep as is allowed, it is answered, one way or another.
            let allowed = nested(pair, Some(if pair.0.contains("if (") { 31 } else { 62 }));
            assert_ne!(engine.validate(&allowed), ["the policy is nested too deeply"], "{pair:?}");
            let policies = parse([("allowed", &*allowed)]).unwrap_or_default();
            judge(&policies, &caller(2, None), String::new(), &question("recall", ""));
        }
        let braces = nested(("(", "\"((((\" == \"\" // ((((\n", ")"), Some(MAX_DEPTH - 1));
        assert_eq!(engine.validate(&braces), [""; 0]);
        let listed = nested(("ip(\"10.0.0.1\").isIpv4() || ", "true", ""), Some(300));
        assert_eq!(engine.validate(&listed), [""; 0], "each call counts alone");
        let policy = "permit (principal, action, resource) when { if true then true else true };";
        assert_eq!(engine.validate(&policy.repeat(200)), [""; 0], "each policy counts alone");
    }

    #[test]
    fn long_texts_are_answered_like_any_other() {
        let engine = engine();
        for pair in [
            ("!", "true", ""),
            ("-", "1", ""),
            ("true||", "true", ""),
            ("true&&", "true", ""),
            ("1+", "1", ""),
            ("1*", "1", ""),
            ("1==", "1", ""),
            ("A::", "a", ""),
            ("", "principal", ".a"),
            ("", "principal", "[\"a\"]"),
            ("", "principal", " has a"),
            ("", "1", ");("),
            // A string without an end, and one that its escape does not end.
            ("(", "\"", "("),
            ("(", "\"\\\n\"", "("),
            ("(", "'", "("),
            ("(", "\u{a0}", "("),
        ] {
            let text = nested(pair, None);
            for text in [&text, text.split('{').next_back().unwrap_or_default()] {
                engine.validate(text);
                let policies = parse([("long", text)]).unwrap_or_default();
                judge(&policies, &caller(2, None), String::new(), &question("recall", ""));
            }
        }
        let many = "permit(principal,action,resource);".repeat(470);
        assert_eq!(engine.validate(&many), [""; 0]);
    }

    #[test]
    fn schemas_come_in_two_forms() {
        assert!(is_schema(BUNDLED_SCHEMA));
        assert!(is_schema(r#"{"": {"entityTypes": {"Agent": {}}, "actions": {}}}"#));
        assert!(!is_schema("entity Agent in [Nowhere];"));
        assert!(!is_schema("{}}"));
    }
}
