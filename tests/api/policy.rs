//! Policy checks, denials and the two policy engines, literally as the contract has them.
use agent_coordinator::{Category, capabilities};
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, FREE, REVIEWER, Service, TEAM};

const CEDAR: (&str, &str) = ("POLICY_ENGINE", "cedar");

fn question(operation: &str, resource: &str) -> Value {
    json!({ "agent_id": "", "agent_type": "", "operation": operation, "resource": resource })
}

async fn ask(client: &Client, question: Value) -> Value {
    let answer = client.post("/policy/check", question).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

fn native(allowed: bool, reason: &str) -> Value {
    json!({
        "allowed": allowed, "reason": reason, "engine": "NativePolicyEngine", "diagnostics": [],
    })
}

/// Adds a policy to those in the database, first in order.
async fn add_policy(service: &Service, workspace: &str, name: &str, text: &str) {
    service
        .execute(&format!(
            "insert into cedar_policy (workspace, name, priority, policy_text)
             values ('{workspace}', '{name}', 0, $policy${text}$policy$)"
        ))
        .await;
}

#[tokio::test]
async fn a_policy_check_answers_the_decision_with_its_reason_and_is_recorded() {
    let service = Service::start().await;
    let body = json!({
        "agent_id": "codex-9", "agent_type": "codex", "operation": "force_push",
        "resource": "main", "context": { "trust_level": 4, "files_modified": 1 },
    });
    let answer = service.client().post("/policy/check", body).await;
    let expected = native(false, "admin_denied: trust_level=2 < 3");
    assert_eq!((answer.status.as_u16(), &answer.text), (200, &expected.to_string()));
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "policy_decision");
    assert_eq!((&audit["agent_id"], &audit["success"]), (&json!("codex-9"), &json!(false)));
    assert_eq!(
        audit["parameters"],
        json!({
            "operation": "force_push", "resource": "main", "engine": "native",
            "context": { "trust_level": 4, "files_modified": 1 }, "advisory": true,
        })
    );
    assert_eq!(
        audit["result"],
        json!({
            "allowed": false, "reason": "admin_denied: trust_level=2 < 3", "policy_id": null,
            "diagnostics": [],
        })
    );
    let client = service.client();
    for (operation, allowed, reason) in [
        ("recall", true, "read_permitted"),
        ("public", true, "read_permitted"),
        ("remember", true, "write_permitted: trust_level=2"),
        ("delete_branch", false, "admin_denied: trust_level=2 < 3"),
        ("no_such_thing", false, "unknown_operation: no_such_thing"),
        ("", false, "unknown_operation: "),
        ("ACQUIRE_LOCK", false, "unknown_operation: ACQUIRE_LOCK"),
    ] {
        assert_eq!(ask(&client, question(operation, "")).await, native(allowed, reason));
        let audit = service.last_audit().await;
        assert_eq!(
            (&audit["success"], &audit["result"]["reason"]),
            (&json!(allowed), &json!(reason))
        );
        assert_eq!(audit["parameters"]["context"], Value::Null);
    }
    let boss = ask(&service.client_with(BOSS), question("force_push", "main")).await;
    assert_eq!(boss, native(true, "admin_permitted: trust_level=3"));
    let reviewer = service.client_with(REVIEWER);
    let denied = ask(&reviewer, question("acquire_lock", "a")).await;
    assert_eq!(denied["reason"], "profile_denied: operation_not_in_allowlist: acquire_lock");
    let denied = ask(&reviewer, question("no_such_thing", "")).await;
    assert_eq!(denied["reason"], "profile_denied: operation_not_in_allowlist: no_such_thing");
    assert_eq!(
        ask(&reviewer, question("check_guardrails", "")).await["reason"],
        "write_denied: trust_level=1 < 2",
        "an allow-list never lifts the tier"
    );
}

#[tokio::test]
async fn a_long_context_is_truncated_in_the_audit_row() {
    let service = Service::start().await;
    let mut body = question("recall", "");
    body["context"] = json!({ "note": "x".repeat(10_000) });
    ask(&service.client(), body).await;
    let kept = service.last_audit().await["parameters"]["context"].clone();
    assert_eq!(kept.as_str().map(str::len), Some(4096));
}

#[tokio::test]
async fn policy_checks_are_validated() {
    let service = Service::start().await;
    let client = service.client();
    let missing = client.post("/policy/check", json!({})).await.issues();
    let named = |kind: &str, name: &str| (kind.to_owned(), json!(["body", name]));
    let required = ["agent_id", "agent_type", "operation"];
    assert_eq!(missing, required.map(|it| named("missing", it)));
    for (name, value, kind) in [
        ("operation", json!("x".repeat(257)), "string_too_long"),
        ("operation", json!(null), "string_type"),
        ("resource", json!("x".repeat(1025)), "string_too_long"),
        ("resource", json!(null), "string_type"),
        ("context", json!([]), "dict_type"),
        ("context", json!({ "a": ["\0"] }), "value_error"),
    ] {
        let mut body = question("recall", "");
        body[name] = value;
        assert_eq!(client.post("/policy/check", body).await.issues(), [named(kind, name)]);
    }
    let issues = client.post("/policy/validate", json!({})).await.issues();
    assert_eq!(issues, [named("missing", "policy_text")]);
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn a_policy_check_for_a_lock_counts_locked_files_and_those_of_the_context() {
    let service = Service::start().await;
    service
        .execute("update profile set max_file_modifications = 2 where name = 'codex_cloud_worker'")
        .await;
    let (client, boss) = (service.client_with(CODEX), service.client_with(BOSS));
    let permitted = native(true, "write_permitted: trust_level=2");
    let over = "profile_denied: resource_limit_exceeded: max_file_modifications=2";
    let with = |resource: &str, files: Value| {
        let mut body = question("acquire_lock", resource);
        body["context"] = json!({ "files_modified": files, "trust_level": 4 });
        body
    };
    client.acquire("codex-1", "a", json!({})).await;
    for (files, allowed) in [
        (json!(0), true),
        (json!(1), true),
        (json!(-9), true),
        (json!(2), false),
        (json!(u64::MAX), false),
        (json!("9"), true),
        (json!(2.5), true),
        (json!(null), true),
    ] {
        let expected = if allowed { permitted.clone() } else { native(false, over) };
        assert_eq!(ask(&client, with("b", files.clone())).await, expected, "{files}");
        assert_eq!(service.last_audit().await["success"], allowed);
    }
    client.acquire("codex-1", "b", json!({})).await;
    let denied = native(false, over);
    assert_eq!(ask(&client, question("acquire_lock", "c")).await, denied);
    assert_eq!(ask(&client, with("c", json!(0))).await, denied, "only ever stricter");
    assert_eq!(ask(&client, question("acquire_lock", "")).await, denied);
    assert_eq!(ask(&client, question("acquire_lock", "../x")).await, denied);
    assert_eq!(
        ask(&client, question("acquire_lock", "./a")).await,
        permitted,
        "the agent holds that file"
    );
    assert_eq!(
        ask(&client, with("api:GET /x", json!(9))).await,
        permitted,
        "the key is not a file"
    );
    assert_eq!(ask(&client, with("c", json!(1))).await, denied);
    let mut other = question("release_lock", "c");
    other["context"] = json!({ "files_modified": 9 });
    assert_eq!(ask(&client, other).await, permitted, "locks alone are limited");
    assert_eq!(ask(&boss, question("acquire_lock", "c")).await["allowed"], true);
    let lax =
        service.replica(&[("PROFILES_ENFORCE_LIMITS", "false")]).await.header("x-api-key", CODEX);
    assert_eq!(ask(&lax, with("c", json!(9))).await, permitted);
}

#[tokio::test]
async fn a_suspended_caller_is_denied_before_the_policy_check() {
    for engine in ["native", "cedar"] {
        let service = Service::with(&[("POLICY_ENGINE", engine)]).await;
        service
            .execute(
                "insert into agent_assignment (workspace, agent_id, suspended)
                 values ('default', 'boss', true)",
            )
            .await;
        let denied = service.client_with(BOSS).post("/policy/check", question("recall", "")).await;
        denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
        let audit = service.last_audit().await;
        assert_eq!(audit["parameters"]["operation"], "check_policy");
        assert_eq!(audit["parameters"]["engine"], engine);
        assert_eq!(audit["parameters"]["advisory"], false);
    }
}

#[tokio::test]
async fn profiles_list_the_operations_of_each_category() {
    let service = Service::start().await;
    let sorted = |it: Vec<&str>| -> Vec<String> {
        let mut names: Vec<_> = it.into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    // `public` needs no key, so no profile lists it.
    let known = capabilities::all().known();
    let of = |wanted: &[Category]| -> Vec<&'static str> {
        let known =
            known.iter().filter(|(name, it)| wanted.contains(&it.category) && *name != "public");
        known.map(|(name, _)| name).collect()
    };
    let read = of(&[Category::Read]);
    let write = of(&[Category::Read, Category::Write]);
    let cli = [
        "force_release_lock",
        "decide_approval",
        "evict_agent",
        "rollback_policy",
        "force_push",
        "delete_branch",
    ];
    for (profile, expected) in [
        ("claude_code_web_reviewer", [read.clone(), vec!["check_guardrails"]].concat()),
        ("claude_code_web_implementer", write.clone()),
        ("codex_cloud_worker", write.clone()),
        ("claude_code_cli", [write, cli.to_vec()].concat()),
        ("strands_orchestrator", of(&[Category::Read, Category::Write, Category::Admin])),
    ] {
        let listed: Vec<String> = service
            .scalar(&format!("select allowed_operations from profile where name = '{profile}'"))
            .await;
        assert_eq!(listed, sorted(expected), "{profile}");
    }
    let listed: Vec<String> =
        service.scalar("select allowed_operations from profile where name = 'evaluator'").await;
    assert!(read.iter().all(|it| listed.iter().any(|listed| listed == it)));
}

#[tokio::test]
async fn with_the_policies_of_the_database_both_engines_decide_alike() {
    let service = Service::start().await;
    let all: Vec<_> = capabilities::all().known().iter().map(|(name, _)| name).collect();
    let others: Vec<_> = all.iter().copied().filter(|it| *it != "check_policy").collect();
    let array = |names: &[&str]| format!("'{{{}}}'", names.join(","));
    let lists = [
        (array(&[]), array(&[])),
        (array(&all), array(&[])),
        (array(&["check_policy"]), array(&[])),
        (array(&[]), array(&others)),
    ];
    let mut permitted = 0;
    for trust in 0..=4 {
        for (allowed, blocked) in &lists {
            service
                .execute(&format!(
                    "update profile set trust_level = {trust}, allowed_operations = {allowed},
                        blocked_operations = {blocked}
                     where name = 'codex_cloud_worker'"
                ))
                .await;
            let native = service.replica(&[]).await.header("x-api-key", CODEX);
            let cedar = service.replica(&[CEDAR]).await.header("x-api-key", CODEX);
            for operation in &all {
                let one = native.post("/policy/check", question(operation, "x")).await;
                let other = cedar.post("/policy/check", question(operation, "x")).await;
                assert_eq!(one.status, other.status, "{operation} {trust}");
                if trust == 0 {
                    assert_eq!(one.status, 403);
                    break;
                }
                let (one, other) = (one.json, other.json);
                assert_eq!(one["allowed"], other["allowed"], "{operation} {trust} {allowed}");
                assert_eq!(other["engine"], "CedarPolicyEngine");
                if one["reason"].as_str().is_some_and(|it| it.starts_with("profile_denied")) {
                    assert_eq!(one["reason"], other["reason"]);
                } else {
                    let word = if other["allowed"] == true { "cedar:allow" } else { "cedar:deny" };
                    assert_eq!(other["reason"], word);
                }
                permitted += i32::from(one["allowed"] == true);
            }
        }
    }
    assert!(permitted > 300, "{permitted}");
}

#[tokio::test]
async fn the_policies_of_the_database_are_the_bundled_ones() {
    let service = Service::start().await;
    let stored = service
        .rows("select name, priority, policy_text, enabled, version from cedar_policy order by 2")
        .await;
    let expected = [
        ("suspended-agents", 1),
        ("read-operations", 10),
        ("write-operations", 20),
        ("admin-operations", 30),
        ("network-access", 40),
    ]
    .map(|(name, priority)| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/access/policy");
        let text = std::fs::read_to_string(format!("{folder}/{name}.cedar")).expect("bundled");
        json!({
            "name": name, "priority": priority, "policy_text": text, "enabled": true, "version": 1
        })
    });
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn under_cedar_policies_decide_and_are_named_in_the_record() {
    let service = Service::with(&[CEDAR]).await;
    let forbidding = "forbid (principal, action == Action::\"acquire_lock\", resource)
        when { resource.path like \"secret/*\" };";
    add_policy(&service, "default", "keep-out", forbidding).await;
    let client = service.client();
    assert_eq!(client.acquire("a", "src/main.rs", json!({})).await["success"], true);
    let body = json!({ "file_path": "./secret//key", "agent_id": "a", "agent_type": "codex" });
    let denied = client.post("/locks/acquire", body).await;
    denied.assert_is(403, json!({ "detail": "cedar:deny" }));
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["operation"], &audit["success"]),
        (&json!("policy_decision"), &json!(false))
    );
    assert_eq!(
        audit["parameters"],
        json!({
            "operation": "acquire_lock", "resource": "secret/key", "engine": "cedar",
            "context": null, "advisory": false,
        })
    );
    assert_eq!(
        audit["result"],
        json!({
            "allowed": false, "reason": "cedar:deny", "policy_id": null, "diagnostics": ["keep-out"],
        })
    );
    let advice = ask(&client, question("acquire_lock", "secret/key")).await;
    let expected = json!({
        "allowed": false, "reason": "cedar:deny", "engine": "CedarPolicyEngine",
        "diagnostics": ["keep-out"],
    });
    assert_eq!(advice, expected);
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"]["engine"], "cedar");
    assert_eq!(audit["result"]["diagnostics"], json!(["keep-out"]));
    let advice = ask(&client, question("acquire_lock", "src/a")).await;
    assert_eq!(advice["diagnostics"], json!(["write-operations"]));
    let advice = ask(&client, question("no_such_thing", "")).await;
    assert_eq!((&advice["allowed"], &advice["reason"]), (&json!(false), &json!("cedar:deny")));
    assert_eq!(client.get("/locks").await.status, 200);
}

#[tokio::test]
async fn the_lists_and_the_limit_of_a_profile_hold_around_cedar_too() {
    let service = Service::with(&[CEDAR]).await;
    add_policy(&service, "default", "all", "permit (principal, action, resource);").await;
    service
        .execute("update profile set max_file_modifications = 1 where name = 'codex_cloud_worker'")
        .await;
    let codex = service.client_with(CODEX);
    let denied = codex.get("/keys").await;
    let reason = "profile_denied: operation_not_in_allowlist: manage_keys";
    denied.assert_is(403, json!({ "detail": reason }));
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["parameters"]["engine"], &audit["result"]["diagnostics"]),
        (&json!("cedar"), &json!([]))
    );
    codex.acquire("codex-1", "a", json!({})).await;
    let body = json!({ "file_path": "b", "agent_id": "codex-1", "agent_type": "codex" });
    let over = "profile_denied: resource_limit_exceeded: max_file_modifications=1";
    codex.post("/locks/acquire", body).await.assert_is(403, json!({ "detail": over }));
    assert_eq!(service.last_audit().await["parameters"]["engine"], "cedar");
    let advice = ask(&codex, question("acquire_lock", "b")).await;
    let expected = json!({
        "allowed": false, "reason": over, "engine": "CedarPolicyEngine", "diagnostics": [],
    });
    assert_eq!(advice, expected);
    assert_eq!(service.last_audit().await["result"]["diagnostics"], json!([]));
    // A policy can permit what the levels of trust would deny.
    assert_eq!(service.client().get("/keys").await.status, 200);
}

#[tokio::test]
async fn under_cedar_a_forbidden_domain_is_a_denial() {
    let service = Service::with(&[CEDAR]).await;
    let forbidding = "forbid (principal, action == Action::\"network_access\", resource)
        when { resource.name like \"*.github.com\" };";
    add_policy(&service, "default", "no-hub", forbidding).await;
    let client = service.client();
    let check =
        async |domain: &str| client.post("/network/check", json!({ "domain": domain })).await;
    let allowed = check("github.com").await;
    assert_eq!((allowed.status.as_u16(), &allowed.json["allowed"]), (200, &json!(true)));
    let unlisted = check("x.example").await;
    assert_eq!((unlisted.status.as_u16(), &unlisted.json["allowed"]), (200, &json!(false)));
    check("API.github.com.").await.assert_is(403, json!({ "detail": "cedar:deny" }));
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"]["resource"], "api.github.com");
    assert_eq!(audit["result"]["diagnostics"], json!(["no-hub"]));
    assert_eq!(service.scalar::<i64>("select count(*) from network_log").await, 2);
}

#[tokio::test]
async fn under_cedar_policies_see_who_delegated_to_a_session() {
    let service = Service::with(&[CEDAR]).await;
    service
        .execute(
            "insert into agent_session (
                workspace, agent_id, session_id, agent_type, delegated_from
             ) values ('default', 'a', 's-1', 'codex', 'human-1'), ('default', 'b', 's-1', 't', null)",
        )
        .await;
    let forbidding = "forbid (principal, action, resource)
        when { principal.delegated_by == \"human-1\" && principal.session_id == \"s-1\" };";
    add_policy(&service, "default", "no-delegates", forbidding).await;
    let as_agent = |agent: &str| service.client().header("x-agent-id", agent);
    for (client, status) in [
        (as_agent("a"), 200),
        (as_agent("a").header("x-session-id", "s-1"), 403),
        (as_agent("a").header("x-session-id", "s-2"), 200),
        (as_agent("b").header("x-session-id", "s-1"), 200),
    ] {
        assert_eq!(client.get("/locks").await.status, status);
    }
}

#[tokio::test]
async fn a_policy_that_fails_denies_and_its_text_is_not_revealed() {
    let service = Service::with(&[CEDAR]).await;
    let failing = "forbid (principal, action, resource) when { principal.no_such_attribute };";
    add_policy(&service, "default", "failing", failing).await;
    let denied = service.client_with(BOSS).get("/locks").await;
    denied.assert_is(403, json!({ "detail": "cedar_evaluation_error" }));
    assert_eq!(service.last_audit().await["result"]["diagnostics"], json!(["failing"]));
}

#[tokio::test]
async fn without_policies_the_bundled_ones_decide_or_nothing_is_allowed() {
    let service = Service::start().await;
    for change in [
        "update cedar_policy set enabled = false",
        "delete from cedar_policy",
        "alter table cedar_policy rename to elsewhere",
    ] {
        service.execute(change).await;
        let bundled = service.replica(&[CEDAR]).await.header("x-api-key", FREE);
        let advice = ask(&bundled, question("remember", "")).await;
        assert_eq!(advice["reason"], "cedar:allow", "{change}");
        assert_eq!(advice["diagnostics"], json!(["write-operations"]), "{change}");
        let strict = service.replica(&[CEDAR, ("POLICY_CODE_FALLBACK", "false")]).await;
        let denied = strict.header("x-api-key", BOSS).get("/locks").await;
        denied.assert_is(403, json!({ "detail": "policy_load_error" }));
        let audit = service.last_audit().await;
        assert_eq!(audit["result"]["reason"], "policy_load_error", "{change}");
        assert_eq!(audit["parameters"]["engine"], "cedar");
    }
}

#[tokio::test]
async fn a_broken_policy_denies_everything_because_it_may_be_the_one_that_forbids() {
    let service = Service::start().await;
    add_policy(&service, "default", "no-locks", "forbid (principal, action, resource").await;
    for fallback in ["true", "false"] {
        let cedar = service.replica(&[CEDAR, ("POLICY_CODE_FALLBACK", fallback)]).await;
        let denied = cedar.header("x-api-key", BOSS).get("/locks").await;
        denied.assert_is(403, json!({ "detail": "policy_load_error" }));
    }
}

#[tokio::test]
async fn policies_are_cached_as_long_as_configured() {
    let service = Service::start().await;
    let with = async |ttl| {
        service.replica(&[CEDAR, ("POLICY_CACHE_TTL", ttl)]).await.header("x-api-key", FREE)
    };
    let (kept, fresh) = (with("300").await, with("0").await);
    for client in [&kept, &fresh] {
        assert_eq!(client.get("/locks").await.status, 200);
    }
    let closed = "forbid (principal, action, resource);";
    add_policy(&service, "default", "closed", closed).await;
    assert_eq!(kept.get("/locks").await.status, 200);
    assert_eq!(fresh.get("/locks").await.status, 403);
    service.execute("update cedar_policy set enabled = false where name = 'closed'").await;
    assert_eq!(fresh.get("/locks").await.status, 200);
}

#[tokio::test]
async fn a_workspace_with_policies_of_its_own_uses_only_those() {
    let service = Service::start().await;
    let get = async |key| {
        service.replica(&[CEDAR]).await.header("x-api-key", key).get("/locks").await.status
    };
    assert_eq!(get(TEAM).await, 200);
    add_policy(&service, "team", "closed", "forbid (principal, action, resource);").await;
    assert_eq!(get(TEAM).await, 403);
    assert_eq!(get(FREE).await, 200);
}

#[tokio::test]
async fn texts_of_policies_are_checked_by_cedar_only() {
    let service = Service::start().await;
    let text = "permit (principal, action == Action::\"recall\", resource);";
    let body = json!({ "policy_text": text });
    let answer = service.client().post("/policy/validate", body.clone()).await;
    let inactive = "Cedar engine not active. Set POLICY_ENGINE=cedar";
    let expected = json!({ "valid": false, "errors": [inactive] });
    assert_eq!((answer.status.as_u16(), &answer.text), (200, &expected.to_string()));

    let cedar = service.replica(&[CEDAR]).await.header("x-api-key", REVIEWER);
    let answer = cedar.post("/policy/validate", body).await;
    answer.assert_is(200, json!({ "valid": true, "errors": [] }));
    for wrong in [
        "permit (",
        "permit (principal, action == Action::\"fly\", resource);",
        "permit (principal, action, resource) when { principal.trust_level == \"high\" };",
        &format!("permit (principal, action, resource) when {{ {} }};", "(".repeat(16_000)),
    ] {
        let answer = cedar.post("/policy/validate", json!({ "policy_text": wrong })).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.json["valid"]),
            (200, &json!(false)),
            "{wrong}"
        );
        let errors = answer.json["errors"].as_array().expect("a list");
        assert!(!errors.is_empty() && errors.iter().all(Value::is_string), "{wrong}");
    }
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn policies_are_checked_against_a_configured_schema() {
    let service = Service::start().await;
    let file = std::env::temp_dir().join(format!("schema-{}.json", std::process::id()));
    let schema = json!({ "": {
        "entityTypes": { "Agent": {}, "Task": {} },
        "actions": { "fly": { "appliesTo": { "principalTypes": ["Agent"], "resourceTypes": ["Task"] } } },
    } });
    std::fs::write(&file, schema.to_string()).expect("written");
    let path = file.to_str().expect("a path");
    let cedar =
        service.replica(&[CEDAR, ("CEDAR_SCHEMA_PATH", path)]).await.header("x-api-key", FREE);
    for (action, valid) in [("fly", true), ("recall", false)] {
        let text = format!("permit (principal, action == Action::\"{action}\", resource);");
        let answer = cedar.post("/policy/validate", json!({ "policy_text": text })).await.json;
        assert_eq!(answer["valid"], valid, "{answer}");
    }
    std::fs::remove_file(&file).expect("removed");
}
