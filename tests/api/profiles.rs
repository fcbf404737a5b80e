//! Profiles, assignments and keys, literally as the contract has them.
use std::time::Duration;

use agent_coordinator::{App, router};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, FREE, REVIEWER, Service, TEAM, config, variables, with};

async fn assign(client: &Client, target: &str, more: Value) -> Value {
    let body = with(json!({ "target_agent_id": target }), more);
    let answer = client.post("/profiles/assign", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// The trust and the source of the profile of a client.
async fn standing(client: &Client) -> (i64, Value) {
    let mine = client.get("/profiles/me").await.json;
    (mine["identity"]["trust_level"].as_i64().expect("a trust"), mine["source"].clone())
}

/// Adds a profile to workspace `default`.
async fn add_profile(service: &Service, name: &str, trust: i64, more: &str) {
    service
        .execute(&format!(
            "insert into profile (
                workspace, name, agent_type, is_type_default, trust_level,
                max_file_modifications, max_execution_time_seconds, max_api_calls_per_hour,
                allowed_operations, blocked_operations, enabled
             ) values ('default', '{name}', 't', false, {trust}, 1, 2, 3, '{{}}', '{{}}', {more})"
        ))
        .await;
}

#[tokio::test]
async fn an_agent_sees_its_profile_and_its_identity() {
    let service = Service::start().await;
    let answer = service.client_with(REVIEWER).header("x-session-id", "s-1");
    let answer = answer.get("/profiles/me").await;
    let allowed: Value = service
        .rows("select allowed_operations from profile where name = 'claude_code_web_reviewer'")
        .await[0]["allowed_operations"]
        .clone();
    let expected = json!({
        "success": true,
        "profile": {
            "name": "claude_code_web_reviewer", "agent_type": "claude_code", "trust_level": 1,
            "allowed_operations": allowed, "blocked_operations": [], "max_file_modifications": 0,
            "max_execution_time_seconds": 300, "max_api_calls_per_hour": 1000,
        },
        "source": "assignment",
        "reason": null,
        "identity": {
            "agent_id": "reviewer", "agent_type": "cloud_agent", "workspace": "default",
            "session_id": "s-1", "bound": true, "trust_level": 1,
        },
    });
    answer.assert_is(200, expected.clone());
    assert_eq!(answer.text, expected.to_string(), "keys in the order of the contract");
    let defaulted = service.client_with(CODEX).get("/profiles/me").await.json;
    assert_eq!(defaulted["profile"]["name"], "codex_cloud_worker");
    assert_eq!(defaulted["source"], "default");
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn an_agent_without_a_profile_is_told_so() {
    let service = Service::start().await;
    let client = service.client().header("x-agent-id", "nobody").header("x-agent-type", "codex");
    client.get("/profiles/me").await.assert_is(
        200,
        json!({
            "success": false, "profile": null, "source": null, "reason": "no_profile_found",
            "identity": {
                "agent_id": "nobody", "agent_type": "codex", "workspace": "default",
                "session_id": null, "bound": false, "trust_level": 2,
            },
        }),
    );
}

#[tokio::test]
async fn an_assignment_never_raises_trust_above_that_of_an_unbound_key() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    let named = service.client().header("x-agent-id", "web-1");
    assert_eq!(standing(&named).await, (2, Value::Null));
    for (profile, trust) in [("strands_orchestrator", 2), ("claude_code_web_reviewer", 1)] {
        assert_eq!(assign(&boss, "web-1", json!({ "profile": profile })).await["success"], true);
        let mine = named.get("/profiles/me").await.json;
        assert_eq!(mine["profile"]["name"], profile);
        assert_eq!(mine["source"], "assignment");
        assert_eq!(mine["identity"]["trust_level"], trust);
        assert_eq!(mine["identity"]["bound"], false);
    }
    let denied = named.post(
        "/locks/acquire",
        json!({
            "file_path": "a", "agent_id": "", "agent_type": ""
        }),
    );
    let reason = "profile_denied: operation_not_in_allowlist: acquire_lock";
    denied.await.assert_is(403, json!({ "detail": reason }));
}

#[tokio::test]
async fn an_assignment_takes_effect_with_the_next_request() {
    let service = Service::start().await;
    let (boss, codex) = (service.client_with(BOSS), service.client_with(CODEX));
    assert_eq!(standing(&codex).await, (2, json!("default")));
    let answer = boss
        .post(
            "/profiles/assign",
            json!({ "target_agent_id": "codex-1", "profile": "claude_code_web_reviewer" }),
        )
        .await;
    let expected = json!({
        "success": true, "target_agent_id": "codex-1", "profile": "claude_code_web_reviewer",
        "suspended": false, "reason": null,
    });
    assert_eq!((answer.status.as_u16(), &answer.text), (200, &expected.to_string()));
    // Standings are cached for an hour here, so only the assignment itself can update them.
    assert_eq!(standing(&codex).await, (1, json!("assignment")));
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("assign_profile"), &json!(true)));
    assert_eq!(audit["agent_id"], "boss");
    assert_eq!(
        audit["parameters"],
        json!({
            "target_agent_id": "codex-1", "profile": "claude_code_web_reviewer", "suspended": false
        })
    );
    assert_eq!(audit["result"], json!({}));

    let suspended = assign(&boss, "codex-1", json!({ "suspended": true })).await;
    assert_eq!(suspended["suspended"], true);
    let denied = codex.get("/profiles/me").await;
    denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
    let again = assign(&boss, "codex-1", json!({ "suspended": true })).await;
    assert_eq!(again, suspended, "a repetition changes nothing");
    assert_eq!(service.scalar::<i64>("select count(*) from agent_assignment").await, 1);
    assign(&boss, "codex-1", json!({ "profile": null })).await;
    assert_eq!(standing(&codex).await, (2, json!("default")), "the assignment is removed");
}

#[tokio::test]
async fn an_assignment_with_an_idempotency_key_takes_effect_with_the_next_request() {
    let service = Service::start().await;
    let codex = service.client_with(CODEX);
    standing(&codex).await;
    let boss = service.client_with(BOSS).header("idempotency-key", "once");
    let first = assign(&boss, "codex-1", json!({ "suspended": true })).await;
    assert_eq!(codex.get("/profiles/me").await.status, 403);
    let rows = service.audit_rows().await;
    assert_eq!(assign(&boss, "codex-1", json!({ "suspended": true })).await, first);
    assert_eq!(service.audit_rows().await, rows, "replayed");
}

#[tokio::test]
async fn other_replicas_apply_an_assignment_when_their_cache_expires() {
    let service = Service::start().await;
    let replica = |age| {
        let config =
            config(&variables(&service.url)).with_timings(|timings| timings.standing_max_age = age);
        Client::new(router(App::new(config))).header("x-api-key", CODEX)
    };
    let (lasting, forgetful) = (replica(Duration::from_secs(3600)), replica(Duration::ZERO));
    assert_eq!(standing(&lasting).await, (2, json!("default")));
    assert_eq!(standing(&forgetful).await, (2, json!("default")));
    let boss = service.client_with(BOSS);
    assign(&boss, "codex-1", json!({ "profile": "claude_code_web_reviewer" })).await;
    assert_eq!(standing(&forgetful).await, (1, json!("assignment")));
    assert_eq!(standing(&lasting).await, (2, json!("default")), "kept as long as configured");
}

#[tokio::test]
async fn assignments_are_refused_with_a_reason_and_recorded() {
    let service = Service::start().await;
    add_profile(&service, "over", 4, "true").await;
    add_profile(&service, "off", 1, "false").await;
    let boss = service.client_with(BOSS);
    let refused = async |target: &str, profile: Value, reason: &str| {
        let before = service.rows("select * from agent_assignment").await;
        let answer = assign(&boss, target, json!({ "profile": profile, "suspended": true })).await;
        assert_eq!(
            answer,
            json!({
                "success": false, "target_agent_id": target, "profile": profile,
                "suspended": true, "reason": reason,
            })
        );
        let audit = service.last_audit().await;
        assert_eq!(audit["operation"], "assign_profile");
        assert_eq!(
            (&audit["success"], &audit["result"]),
            (&json!(false), &json!({ "reason": reason }))
        );
        assert_eq!(service.rows("select * from agent_assignment").await, before);
    };
    refused("codex-1", json!("no-such"), "profile_not_found").await;
    refused("codex-1", json!("off"), "profile_not_found").await;
    refused("codex-1", json!(""), "profile_not_found").await;
    refused("boss", json!(null), "cannot_assign_self").await;
    refused("boss", json!("codex_cloud_worker"), "cannot_assign_self").await;
    refused("codex-1", json!("over"), "trust_above_caller").await;
    assert_eq!(service.scalar::<i64>("select count(*) from agent_assignment").await, 0);
    service
        .execute(
            "insert into agent_assignment (workspace, agent_id, profile, suspended)
             values ('default', 'codex-1', 'over', true)",
        )
        .await;
    // A suspended agent keeps its rank: a caller with less trust cannot lift the suspension.
    refused("codex-1", json!(null), "trust_above_caller").await;
    refused("codex-1", json!("codex_cloud_worker"), "trust_above_caller").await;
}

#[tokio::test]
async fn the_trust_of_an_agent_comes_from_its_keys_when_nothing_is_assigned() {
    let identities = r#"{
        "boss-key": {"agent_id": "boss", "profile": "strands_orchestrator"},
        "chief-key": {"agent_id": "chief", "profile": "over"},
        "old-chief-key": {"agent_id": "chief", "profile": "claude_code_web_reviewer"},
        "typed-key": {"agent_id": "typed", "agent_type": "top"},
        "plain-key": {"agent_id": "plain"},
        "elsewhere-key": {"agent_id": "guest", "profile": "over", "workspace": "team"}
    }"#;
    let keys = "boss-key,chief-key,old-chief-key,typed-key,plain-key,elsewhere-key";
    let service = Service::with(&[
        ("COORDINATION_API_KEYS", keys),
        ("COORDINATION_API_KEY_IDENTITIES", identities),
    ])
    .await;
    add_profile(&service, "over", 4, "true").await;
    service
        .execute(
            "update profile set agent_type = 'top', is_type_default = true where name = 'over'",
        )
        .await;
    let boss = service.client_with("boss-key");
    let worker = json!({ "profile": "codex_cloud_worker" });
    for (target, allowed) in
        [("chief", false), ("typed", false), ("plain", true), ("guest", true), ("stranger", true)]
    {
        let answer = assign(&boss, target, worker.clone()).await;
        assert_eq!(answer["success"], allowed, "{target}");
        assert_eq!(answer["reason"] == "trust_above_caller", !allowed, "{target}");
    }
    service.execute("update profile set enabled = false where name = 'over'").await;
    assert_eq!(
        assign(&boss, "typed", worker).await["success"],
        true,
        "the type has no default profile now"
    );
}

/// Removing an assignment gives back what the agent's key or type grants, which can be more than the
/// caller has.
#[tokio::test]
async fn an_assignment_cannot_be_removed_where_the_agent_would_exceed_the_caller() {
    let identities = r#"{
        "boss-key": {"agent_id": "boss", "profile": "strands_orchestrator"},
        "root-key": {"agent_id": "root", "profile": "over"},
        "typed-key": {"agent_id": "typed", "agent_type": "top"},
        "equal-key": {"agent_id": "equal", "profile": "strands_orchestrator"}
    }"#;
    let service = Service::with(&[
        ("COORDINATION_API_KEYS", "boss-key,root-key,typed-key,equal-key"),
        ("COORDINATION_API_KEY_IDENTITIES", identities),
    ])
    .await;
    add_profile(&service, "over", 4, "true").await;
    service
        .execute(
            "update profile set agent_type = 'top', is_type_default = true where name = 'over';
             insert into agent_assignment (workspace, agent_id, profile, suspended)
             select 'default', agent, 'claude_code_web_reviewer', true
             from unnest('{root,typed,equal}'::text[]) agent",
        )
        .await;
    let boss = service.client_with("boss-key");
    for (target, allowed) in [("root", false), ("typed", false), ("equal", true)] {
        for suspended in [true, false] {
            let body = json!({ "profile": null, "suspended": suspended });
            let answer = assign(&boss, target, body).await;
            let reason = if allowed { json!(null) } else { json!("trust_above_caller") };
            assert_eq!((&answer["success"], &answer["reason"]), (&json!(allowed), &reason));
        }
    }
    assert_eq!(service.client_with("root-key").get("/profiles/me").await.status, 403);
    // Under a profile that the caller may give, the suspension can be lifted.
    let lifted = json!({ "profile": "claude_code_web_reviewer", "suspended": false });
    assert_eq!(assign(&boss, "root", lifted).await["success"], true);
    let mine = service.client_with("root-key").get("/profiles/me").await;
    assert_eq!(mine.json["identity"]["trust_level"], 1, "{}", mine.text);
}

#[tokio::test]
async fn only_administrators_assign_and_only_in_their_workspace() {
    let service = Service::start().await;
    let body = json!({ "target_agent_id": "x", "profile": "codex_cloud_worker" });
    let denied = service.client().post("/profiles/assign", body.clone()).await;
    denied.assert_is(403, json!({ "detail": "admin_denied: trust_level=2 < 3" }));
    let denied = service.client_with(CODEX).post("/profiles/assign", body.clone()).await;
    let reason = "profile_denied: operation_not_in_allowlist: assign_profile";
    denied.assert_is(403, json!({ "detail": reason }));
    let other = json!({ "target_agent_id": "x", "agent_id": "other" });
    let denied = service.client_with(BOSS).post("/profiles/assign", other).await;
    let reason = "API key is not permitted to act as requested agent_id";
    denied.assert_is(403, json!({ "detail": reason }));
    assert_eq!(service.scalar::<i64>("select count(*) from agent_assignment").await, 0);

    assign(&service.client_with(BOSS), "x", json!({ "suspended": true })).await;
    let named = |key: &str| service.client_with(key).header("x-agent-id", "x");
    assert_eq!(named(FREE).get("/profiles/me").await.status, 403);
    assert_eq!(named(TEAM).get("/profiles/me").await.status, 200);
}

#[tokio::test]
async fn a_workspace_with_profiles_of_its_own_uses_only_those() {
    let identities = r#"{"a": {"agent_id": "a", "workspace": "team", "profile": "own"}}"#;
    let service = Service::with(&[
        ("COORDINATION_API_KEYS", "a"),
        ("COORDINATION_API_KEY_IDENTITIES", identities),
    ])
    .await;
    add_profile(&service, "own", 3, "true").await;
    let client = service.client_with("a");
    let answer = assign(&client, "x", json!({ "profile": "codex_cloud_worker" })).await;
    assert_eq!(answer["success"], true, "those of `default` serve");
    service.execute("update profile set workspace = 'team' where name = 'own'").await;
    let answer = assign(&client, "x", json!({ "profile": "codex_cloud_worker" })).await;
    assert_eq!(answer["reason"], "profile_not_found");
    assert_eq!(assign(&client, "x", json!({ "profile": "own" })).await["success"], true);
}

#[tokio::test]
async fn assignments_are_validated() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    for (body, issues) in [
        (json!({}), vec![("missing", "target_agent_id")]),
        (json!({ "target_agent_id": "" }), vec![("value_error", "target_agent_id")]),
        (json!({ "target_agent_id": " \t" }), vec![("value_error", "target_agent_id")]),
        (
            json!({ "target_agent_id": "x".repeat(257) }),
            vec![("string_too_long", "target_agent_id")],
        ),
        (
            json!({ "target_agent_id": null, "profile": 1, "suspended": "maybe" }),
            vec![
                ("string_type", "target_agent_id"),
                ("string_type", "profile"),
                ("bool_parsing", "suspended"),
            ],
        ),
    ] {
        let expected: Vec<_> = issues
            .into_iter()
            .map(|(kind, name)| (kind.to_owned(), json!(["body", name])))
            .collect();
        let answer = boss.post("/profiles/assign", body).await;
        assert_eq!(answer.issues(), expected, "{}", answer.text);
    }
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn simultaneous_assignments_leave_one_row_and_a_record_of_each() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    let profiles =
        ["codex_cloud_worker", "evaluator", "claude_code_web_reviewer", "claude_code_cli"];
    let calls = (0..16).map(|n| assign(&boss, "x", json!({ "profile": profiles[n % 4] })));
    for answer in join_all(calls).await {
        assert_eq!(answer["success"], true);
    }
    let kept: String = service.scalar("select profile from agent_assignment").await;
    let mine = service.client().header("x-agent-id", "x").get("/profiles/me").await.json;
    assert_eq!(mine["profile"]["name"], kept);
    assert_eq!(service.audit_rows().await, 16);
}

#[tokio::test]
async fn keys_are_listed_by_fingerprint_in_their_workspace_and_never_themselves() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    let answer = boss.get("/keys").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for key in [FREE, CODEX, BOSS, REVIEWER, TEAM] {
        assert!(!answer.text.contains(key), "{}", answer.text);
    }
    let listed = answer.json["keys"].as_array().expect("a list");
    assert_eq!((listed.len(), &answer.json["count"]), (4, &json!(4)), "that of `team` is not ours");
    assert_eq!(answer.json["truncated"], false);
    assert_eq!(answer.json.get("hint"), None);
    for key in listed {
        let members: Vec<_> = key.as_object().expect("an object").keys().collect();
        let expected = ["fingerprint", "agent_id", "agent_type", "workspace", "profile", "bound"];
        assert_eq!(members, expected);
        let fingerprint = key["fingerprint"].as_str().expect("a text");
        assert!(fingerprint.starts_with("sha256:") && fingerprint.len() == 19, "{fingerprint}");
    }
    let of = |agent: Value| listed.iter().find(|it| it["agent_id"] == agent).expect("listed");
    let boss_key = of(json!("boss"));
    assert_eq!(boss_key["fingerprint"], "sha256:2b1088ac7a26");
    assert_eq!(
        (&boss_key["profile"], &boss_key["bound"]),
        (&json!("strands_orchestrator"), &json!(true))
    );
    let free = of(Value::Null);
    assert_eq!(
        (&free["agent_type"], &free["profile"], &free["bound"]),
        (&json!(null), &json!(null), &json!(false))
    );
    assert_eq!(free["workspace"], "default");
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("manage_keys"), &json!(true)));
    assert_eq!((&audit["parameters"], &audit["result"]), (&json!({}), &json!({ "count": 4 })));

    let cut = boss.get("/keys?limit=1").await.json;
    assert_eq!((&cut["count"], &cut["truncated"]), (&json!(1), &json!(true)));
    assert_eq!(cut["hint"], "showing first 1; re-run with a higher limit to see more");
    assert_eq!(boss.get("/keys?limit=0").await.json["keys"], json!([]));
    let issues = boss.get("/keys?limit=-1").await.issues();
    assert_eq!(issues, [("greater_than_equal".to_owned(), json!(["query", "limit"]))]);
    assert_eq!(service.client().get("/keys").await.status, 403);
    assert_eq!(
        service.client().get("/keys").await.json["detail"],
        "admin_denied: trust_level=2 < 3"
    );
}
