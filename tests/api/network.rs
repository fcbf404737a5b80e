//! Which domains agents may reach, literally as the contract has it.
use serde_json::{Value, json};

use crate::support::{BOSS, Client, REVIEWER, Service, TEAM};

async fn check(client: &Client, domain: &str) -> Value {
    let answer = client.post("/network/check", json!({ "domain": domain })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// Replaces the rules of a workspace by these: profile, pattern, action, priority.
async fn rules(service: &Service, workspace: &str, rules: &[(Option<&str>, &str, &str, i64)]) {
    service.execute(&format!("delete from domain_rule where workspace = '{workspace}'")).await;
    for (profile, pattern, action, priority) in rules {
        let profile = profile.map_or("null".to_owned(), |it| format!("'{it}'"));
        service
            .execute(&format!(
                "insert into domain_rule (workspace, profile, pattern, action, priority)
                 values ('{workspace}', {profile}, '{pattern}', '{action}', {priority})"
            ))
            .await;
    }
}

#[tokio::test]
async fn an_unlisted_domain_is_refused_in_its_canonical_form_and_logged() {
    let service = Service::start().await;
    let client = service.client().header("x-session-id", "s-1").header("x-request-id", "r-1");
    let body = json!({ "domain": "Evil.Example.com.", "agent_id": "a", "agent_type": "codex" });
    let answer = client.post("/network/check", body).await;
    let expected = json!({
        "allowed": false, "domain": "evil.example.com", "reason": "no_matching_policy",
        "policy_id": null,
    });
    assert_eq!((answer.status.as_u16(), &answer.text), (200, &expected.to_string()));
    let mut logged = service.rows("select * from network_log").await.remove(0);
    for made in ["id", "created_at"] {
        assert!(logged.as_object_mut().expect("an object").shift_remove(made).is_some());
    }
    assert_eq!(
        logged,
        json!({
            "workspace": "default", "agent_id": "a", "agent_type": "codex", "session_id": "s-1",
            "request_id": "r-1", "domain": "evil.example.com", "allowed": false,
            "policy_id": null, "reason": "no_matching_policy",
        })
    );
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn the_seeded_domains_are_allowed_to_every_agent() {
    let service = Service::start().await;
    let reviewer = service.client_with(REVIEWER);
    for (domain, allowed) in [
        ("github.com", true),
        ("api.github.com", true),
        ("a.b.github.com", true),
        ("RAW.githubusercontent.com", true),
        ("x.supabase.co", true),
        ("supabase.co", false),
        ("githubusercontent.com", false),
        ("evilgithub.com", false),
        ("github.com.evil.example", false),
        ("packages.example.com", false),
    ] {
        let answer = check(&reviewer, domain).await;
        assert_eq!(answer["allowed"], allowed, "{domain}");
        let reason = if allowed { "allow" } else { "no_matching_policy" };
        assert_eq!(answer["reason"], reason);
        assert_eq!(answer["policy_id"].is_string(), allowed);
    }
    let shipped = service.rows("select distinct action, priority from domain_rule").await;
    assert_eq!(shipped, [json!({ "action": "allow", "priority": 1 })]);
    let ids = service
        .rows("select policy_id from network_log where domain = 'github.com' and allowed")
        .await;
    let id: String =
        service.scalar("select id::text from domain_rule where pattern = 'github.com'").await;
    assert_eq!(ids, [json!({ "policy_id": id })]);
}

#[tokio::test]
async fn the_first_matching_rule_decides() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    let own = Some("strands_orchestrator");
    for (given, allowed) in [
        // First a rule of the profile, whatever its priority.
        (vec![(None, "a.example", "deny", 1), (own, "*", "allow", 9)], true),
        (vec![(None, "a.example", "allow", 1), (own, "*.example", "deny", 9)], false),
        // Then the rule with the lower priority number.
        (vec![(None, "a.example", "deny", 2), (None, "*", "allow", 1)], true),
        // Then an exact pattern.
        (vec![(None, "*.example", "deny", 1), (None, "a.example", "allow", 1)], true),
        (vec![(None, "*", "allow", 1), (None, "a.example", "deny", 1)], false),
        // Then a rule that denies.
        (vec![(None, "a.example", "allow", 1), (None, "a.example", "deny", 1)], false),
        (vec![(None, "*", "allow", 1), (None, "*.example", "deny", 1)], false),
        // A rule of another profile does not apply.
        (vec![(Some("evaluator"), "a.example", "allow", 1)], false),
    ] {
        rules(&service, "default", &given).await;
        let answer = check(&boss, "a.example").await;
        assert_eq!(answer["allowed"], allowed, "{given:?}");
    }
    rules(&service, "default", &[(own, "a.example", "allow", 1)]).await;
    assert_eq!(check(&service.client(), "a.example").await["reason"], "no_matching_policy");
    service.execute("update domain_rule set profile = null, enabled = false").await;
    assert_eq!(check(&boss, "a.example").await["reason"], "no_matching_policy");
    service.execute("update domain_rule set enabled = true, action = 'deny'").await;
    let denied = check(&boss, "a.example").await;
    assert_eq!((&denied["allowed"], &denied["reason"]), (&json!(false), &json!("deny")));
    assert!(denied["policy_id"].is_string());
    rules(&service, "default", &[(None, "*", "allow", 1), (None, "*", "allow", 1)]).await;
    let least: String =
        service.scalar("select id::text from domain_rule order by id limit 1").await;
    assert_eq!(check(&boss, "a.example").await["policy_id"], least, "the id is the last resort");
}

#[tokio::test]
async fn patterns_match_whole_labels_and_no_character_but_the_star_is_special() {
    let service = Service::start().await;
    let client = service.client();
    for (pattern, domain, matches) in [
        ("*.x.example", "a.x.example", true),
        ("*.x.example", "a.b.x.example", true),
        ("*.x.example", "x.example", false),
        ("*.x.example", "ax.example", false),
        ("*.X.Example", "a.x.example", true),
        ("A.Example", "a.example", true),
        ("a_b.example", "a_b.example", true),
        ("a_b.example", "axb.example", false),
        ("*.a_b.example", "c.a_b.example", true),
        ("*.a_b.example", "c.axb.example", false),
        ("a%b.example", "axxb.example", false),
        ("*.%.example", "a.b.example", false),
        ("*", "localhost", true),
        ("example", "a.example", false),
    ] {
        rules(&service, "default", &[(None, pattern, "allow", 1)]).await;
        let answer = check(&client, domain).await;
        assert_eq!(answer["allowed"], matches, "{pattern} {domain}");
    }
    for pattern in ["a.*", "*a.example", "a*b", "**", "*.*", "", "*.", "a b", ".a", "a..b", "*.a."]
    {
        let refused = crate::support::try_execute(
            &service.db,
            &format!(
                "insert into domain_rule (workspace, pattern, action, priority)
                 values ('default', '{pattern}', 'allow', 1)"
            ),
        )
        .await;
        assert!(refused.is_err(), "{pattern}");
    }
}

#[tokio::test]
async fn without_a_rule_the_configuration_decides() {
    let service = Service::with(&[("NETWORK_DEFAULT_POLICY", "allow")]).await;
    rules(&service, "default", &[(None, "bad.example", "deny", 1)]).await;
    let client = service.client();
    assert_eq!(
        check(&client, "any.example").await,
        json!({
            "allowed": true, "domain": "any.example", "reason": "default_policy:allow",
            "policy_id": null,
        })
    );
    assert_eq!(check(&client, "bad.example").await["allowed"], false);
    let logged = service.rows("select allowed, reason from network_log order by created_at").await;
    assert_eq!(
        logged,
        [
            json!({ "allowed": true, "reason": "default_policy:allow" }),
            json!({ "allowed": false, "reason": "deny" }),
        ]
    );
}

#[tokio::test]
async fn a_workspace_with_rules_of_its_own_uses_only_those() {
    let service = Service::start().await;
    let team = service.client_with(TEAM);
    assert_eq!(check(&team, "github.com").await["allowed"], true, "those of `default` serve");
    rules(&service, "team", &[(None, "team.example", "allow", 1)]).await;
    assert_eq!(check(&team, "github.com").await["allowed"], false);
    assert_eq!(check(&team, "team.example").await["allowed"], true);
    assert_eq!(check(&service.client(), "team.example").await["allowed"], false);
    let logged = service.rows("select workspace, count(*) from network_log group by 1").await;
    assert!(logged.contains(&json!({ "workspace": "team", "count": 3 })), "{logged:?}");
    service.execute("update domain_rule set enabled = false where workspace = 'team'").await;
    assert_eq!(check(&team, "github.com").await["allowed"], false, "a row is a row");
}

#[tokio::test]
async fn only_host_names_are_accepted() {
    let service = Service::start().await;
    let client = service.client();
    for domain in ["", ".", "https://github.com", "github.com:443", "github.com/x", "*.github.com"]
    {
        let answer = client.post("/network/check", json!({ "domain": domain })).await;
        let expected = [("value_error".to_owned(), json!(["body", "domain"]))];
        assert_eq!(answer.issues(), expected, "{domain}");
    }
    let answer = client.post("/network/check", json!({})).await;
    assert_eq!(answer.issues(), [("missing".to_owned(), json!(["body", "domain"]))]);
    let answer = client.post("/network/check", json!({ "domain": null })).await;
    assert_eq!(answer.issues(), [("string_type".to_owned(), json!(["body", "domain"]))]);
    let longest = format!("{}a", "a.".repeat(126));
    assert_eq!(check(&client, &longest).await["domain"], longest.as_str());
    assert_eq!(service.scalar::<i64>("select count(*) from network_log").await, 1);
}

#[tokio::test]
async fn a_check_that_cannot_be_logged_fails() {
    let service = Service::start().await;
    service
        .execute("alter table network_log add constraint log_full check (domain <> 'github.com')")
        .await;
    let answer = service.client().post("/network/check", json!({ "domain": "github.com" })).await;
    assert_eq!(answer.status, 500, "never allowed without a record");
}
