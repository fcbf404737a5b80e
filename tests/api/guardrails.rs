//! Guardrails: what is found, blocked and recorded, and that an error is never answered as `safe`.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, BOSS, CODEX, Client, FREE, REVIEWER, Service, TEAM};

const UNAVAILABLE: &str = "Service temporarily unavailable";

async fn check(client: &Client, text: &str) -> Value {
    let answer = client.post("/guardrails/check", json!({ "operation_text": text })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// The names of the patterns found in a text.
async fn found(client: &Client, text: &str) -> Vec<String> {
    let checked = check(client, text).await;
    let violations = checked["violations"].as_array().expect("a list");
    violations.iter().map(|it| it["pattern_name"].as_str().expect("a name").to_owned()).collect()
}

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), &answer.json["detail"]), (503, &json!(UNAVAILABLE)));
    assert_eq!(answer.headers["retry-after"], "1");
    let members: Vec<_> = answer.json.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["detail", "request_id"], "no text of a pattern or the database");
}

async fn violation_count(service: &Service) -> i64 {
    service.scalar("select count(*) from guardrail_violation").await
}

/// A service that does not cache patterns, so that a change of the table takes effect at once.
async fn uncached() -> Service {
    Service::with(&[("GUARDRAILS_CACHE_TTL", "0")]).await
}

/// A client of another process on the same database.
async fn restarted(service: &Service, key: &str) -> Client {
    service.replica(&[]).await.header("x-api-key", key)
}

const NOT_COMPILING: &str = "insert into guardrail_pattern (
    workspace, list_order, name, category, severity, min_trust_level, pattern, explanation
) values ('default', 99, 'broken', 'git', 'warn', 3, 'a(b', 'It is not closed.')";

#[tokio::test]
async fn a_destructive_command_is_blocked() {
    let service = Service::start().await;
    let body = json!({ "operation_text": "rm -rf / ", "file_paths": null });
    let answer = service.client().post("/guardrails/check", body).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text.as_str()),
        (
            200,
            r#"{"safe":false,"violations":[{"pattern_name":"rm_recursive_force","category":"file","severity":"block","matched_text":"rm -rf /","blocked":true,"explanation":"Recursive delete from an absolute path.","span":{"start":0,"end":8}},{"pattern_name":"rm_rf","category":"file","severity":"block","matched_text":"rm -rf ","blocked":true,"explanation":"Recursive forced delete.","span":{"start":0,"end":7}}]}"#
        )
    );
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "guardrail_violation");
    assert_eq!(audit["parameters"], json!({ "operation_text": "rm -rf / " }));
    assert_eq!(
        audit["result"],
        json!({
            "safe": false, "violation_count": 2, "blocked": true,
            "patterns": ["rm_recursive_force", "rm_rf"],
        })
    );
    assert_eq!(audit["success"], false);
    assert_eq!(service.audit_rows().await, 1);
}

#[tokio::test]
async fn a_harmless_command_is_safe_and_leaves_no_record() {
    let service = Service::start().await;
    let answer =
        service.client().post("/guardrails/check", json!({ "operation_text": "ls" })).await;
    assert_eq!(answer.text, r#"{"safe":true,"violations":[]}"#);
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["operation"], &audit["success"]),
        (&json!("check_guardrails"), &json!(true))
    );
    let result = json!({ "safe": true, "violation_count": 0, "blocked": false, "patterns": [] });
    assert_eq!(audit["result"], result);
    assert_eq!((violation_count(&service).await, service.audit_rows().await), (0, 1));
}

#[tokio::test]
async fn a_warning_is_listed_and_does_not_block() {
    let service = Service::start().await;
    let checked = check(&service.client(), "find . -delete").await;
    assert_eq!(
        (&checked["safe"], &checked["violations"][0]["blocked"]),
        (&json!(true), &json!(false))
    );
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["operation"], &audit["success"]),
        (&json!("guardrail_violation"), &json!(true))
    );
    assert_eq!(violation_count(&service).await, 1);
}

#[tokio::test]
async fn each_finding_is_recorded_with_its_caller() {
    let service = Service::start().await;
    let client = service.client().header("x-request-id", "req-1").header("x-session-id", "s-1");
    let text = format!("DROP TABLE {}", "é".repeat(600));
    let body = json!({
        "operation_text": text, "file_paths": ["a.sql", "rm -rf b"], "agent_id": "claude-1",
        "agent_type": "claude_code",
    });
    assert_eq!(client.post("/guardrails/check", body).await.status, 200);
    let rows = service
        .rows(
            "select workspace, agent_id, session_id, request_id, trust_level, pattern_name,
                category, severity, blocked, operation_text, matched_text, file_paths
             from guardrail_violation order by pattern_name",
        )
        .await;
    let record = |name: &str, category: &str, matched: &str| {
        json!({
            "workspace": "default", "agent_id": "claude-1", "session_id": "s-1",
            "request_id": "req-1", "trust_level": 2, "pattern_name": name, "category": category,
            "severity": "block", "blocked": true,
            "operation_text": text.chars().take(500).collect::<String>(), "matched_text": matched,
            "file_paths": ["a.sql", "rm -rf b"],
        })
    };
    let expected =
        [record("drop_table", "database", "DROP TABLE"), record("rm_rf", "file", "rm -rf ")];
    assert_eq!(rows, expected);
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"]["operation_text"], text.chars().take(200).collect::<String>());
    assert_eq!((&audit["agent_id"], &audit["session_id"]), (&json!("claude-1"), &json!("s-1")));
    check(&client, &text).await;
    check(&client, &text).await;
    assert_eq!(violation_count(&service).await, 4, "a repeat records again");
}

#[tokio::test]
async fn paths_are_scanned_after_the_text_a_line_each() {
    let service = Service::start().await;
    let client = service.client();
    let checked = async |text: &str, paths: Value| {
        let body = json!({ "operation_text": text, "file_paths": paths });
        client.post("/guardrails/check", body).await.json["violations"].clone()
    };
    let violations = checked("é", json!(["a", ".ssh/id_rsa"])).await;
    assert_eq!(violations[0]["pattern_name"], "ssh_key_modify");
    assert_eq!(violations[0]["span"], json!({ "start": 4, "end": 15 }));
    assert_eq!(
        checked("rm -rf", json!([])).await,
        json!([]),
        "without paths there is no line number"
    );
    assert_eq!(checked("rm -rf", json!(["x"])).await[0]["matched_text"], "rm -rf\n");
}

#[tokio::test]
async fn trust_decides_what_counts() {
    let service = Service::start().await;
    let text = "git push --force; rm -rf / ; drop table t; truncate t; .env secrets.json \
        .ssh/id_rsa npm publish";
    let ordinary = [
        "git_force_push",
        "rm_recursive_force",
        "rm_rf",
        "drop_table",
        "truncate_table",
        "ssh_key_modify",
        "npm_publish",
    ];
    assert_eq!(found(&service.client(), text).await, ordinary);
    assert_eq!(found(&service.client_with(CODEX), text).await, ordinary);
    let elevated = ["rm_recursive_force", "drop_table", "truncate_table", "ssh_key_modify"];
    assert_eq!(found(&service.client_with(BOSS), text).await, elevated);
    service.execute("update profile set trust_level = 4").await;
    assert_eq!(found(&restarted(&service, BOSS).await, text).await, [""; 0]);
}

#[tokio::test]
async fn an_agent_with_limited_trust_may_list_patterns_but_not_check() {
    let service = Service::start().await;
    let reviewer = service.client_with(REVIEWER);
    let body = json!({ "operation_text": "rm -rf / " });
    let denied = reviewer.post("/guardrails/check", body).await;
    denied.assert_is(403, json!({ "detail": "write_denied: trust_level=1 < 2" }));
    assert_eq!(violation_count(&service).await, 0);
    assert_eq!(reviewer.get("/guardrails/patterns").await.status, 200);
}

#[tokio::test]
async fn a_bound_key_checks_as_its_own_agent_whatever_the_body_says() {
    let service = Service::start().await;
    let body = json!({ "operation_text": "rm -rf x", "agent_id": "boss", "agent_type": "x" });
    assert_eq!(service.client_with(CODEX).post("/guardrails/check", body).await.status, 200);
    let agent: String = service.scalar("select agent_id from guardrail_violation").await;
    assert_eq!(agent, "codex-1");
}

#[tokio::test]
async fn invalid_input_is_refused_and_leaves_no_row() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    let kib = 1024;
    for (body, kind, loc) in [
        (json!({}), "missing", json!(["body", "operation_text"])),
        (json!({ "operation_text": null }), "string_type", json!(["body", "operation_text"])),
        (json!({ "operation_text": "a\0" }), "value_error", json!(["body", "operation_text"])),
        (
            json!({ "operation_text": "x".repeat(256 * kib + 1) }),
            "string_too_long",
            json!(["body", "operation_text"]),
        ),
        (
            json!({ "operation_text": "", "file_paths": "a" }),
            "list_type",
            json!(["body", "file_paths"]),
        ),
        (
            json!({ "operation_text": "", "file_paths": ["a", 1] }),
            "string_type",
            json!(["body", "file_paths", 1]),
        ),
        (
            json!({ "operation_text": "", "file_paths": vec!["a"; 1001] }),
            "too_long",
            json!(["body", "file_paths"]),
        ),
    ] {
        let answer = client.post("/guardrails/check", body).await;
        assert_eq!(answer.issues(), [(kind.to_owned(), loc)]);
    }
    assert_eq!(service.contents().await, before);
    assert_eq!(client.get("/guardrails/check").await.status, 405);
    let longest = json!({ "operation_text": "x".repeat(256 * kib), "file_paths": vec![""; 1000] });
    assert_eq!(client.post("/guardrails/check", longest).await.status, 200);
    assert_eq!(check(&client, "").await, json!({ "safe": true, "violations": [] }));
}

#[tokio::test]
async fn the_patterns_are_listed_in_order() {
    let service = Service::start().await;
    let client = service.client();
    let listed = client.get("/guardrails/patterns").await.json;
    let members: Vec<_> = listed.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["patterns", "count", "truncated"]);
    assert_eq!((&listed["count"], &listed["truncated"]), (&json!(15), &json!(false)));
    let first = &listed["patterns"][0];
    let members: Vec<_> = first.as_object().expect("an object").keys().collect();
    assert_eq!(
        members,
        ["name", "category", "severity", "min_trust_level", "pattern", "explanation", "enabled"]
    );
    assert_eq!(
        *first,
        json!({
            "name": "git_force_push", "category": "git", "severity": "block",
            "min_trust_level": 3, "pattern": "git\\s+push\\s+.*--force",
            "explanation": "Force push can overwrite other people's commits.", "enabled": true,
        })
    );
    let two = client.get("/guardrails/patterns?limit=2").await.json;
    assert_eq!((&two["count"], &two["truncated"]), (&json!(2), &json!(true)));
    assert_eq!(two["hint"], "showing first 2; re-run with a higher limit to see more");
    assert_eq!(two["patterns"][1], listed["patterns"][1]);
    let none = client.get("/guardrails/patterns?limit=0").await.json;
    assert_eq!((&none["patterns"], &none["truncated"]), (&json!([]), &json!(true)));
    assert_eq!(client.get("/guardrails/patterns?limit=-1").await.status, 422);
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn the_built_in_patterns_equal_the_seed_and_are_used_when_the_table_cannot_be_read() {
    let service = uncached().await;
    let client = service.client();
    let seeded = client.get("/guardrails/patterns").await.json;
    let text = "rm -rf / ; find . -delete; npm publish";
    let expected = check(&client, text).await;
    service.execute("alter table guardrail_pattern rename to hidden").await;
    for state in ["unreadable", "empty"] {
        assert_eq!(client.get("/guardrails/patterns").await.json, seeded, "{state}");
        assert_eq!(check(&client, text).await, expected, "{state}");
        // The transaction of an idempotency key survives a read that failed.
        let keyed = client.clone().header("idempotency-key", state);
        assert_eq!(check(&keyed, text).await, expected, "{state}");
        if state == "unreadable" {
            let ready = service.anonymous().get("/ready").await;
            assert_eq!((ready.status.as_u16(), &ready.json["failed"]), (503, &json!(["schema"])));
            service.execute("alter table hidden rename to guardrail_pattern").await;
            service.execute("delete from guardrail_pattern").await;
        }
    }
    assert_eq!(service.anonymous().get("/ready").await.status, 200);
}

#[tokio::test]
async fn without_the_built_in_patterns_a_missing_or_empty_table_is_an_error() {
    let more = [("GUARDRAILS_CACHE_TTL", "0"), ("GUARDRAILS_CODE_FALLBACK", "false")];
    let service = Service::with(&more).await;
    let client = service.client();
    let body = json!({ "operation_text": "ls" });
    assert_eq!(client.post("/guardrails/check", body.clone()).await.status, 200);
    let audited = service.audit_rows().await;
    for (change, undo) in [
        (
            "create table kept as select * from guardrail_pattern; delete from guardrail_pattern",
            "insert into guardrail_pattern select * from kept",
        ),
        (
            "alter table guardrail_pattern rename to hidden",
            "alter table hidden rename to guardrail_pattern",
        ),
    ] {
        service.execute(change).await;
        assert_unavailable(&client.post("/guardrails/check", body.clone()).await);
        assert_unavailable(&client.get("/guardrails/patterns").await);
        service.execute(undo).await;
        assert_eq!(client.get("/guardrails/patterns").await.status, 200, "{undo}");
    }
    assert_eq!(service.audit_rows().await, audited);
    assert_eq!(client.post("/guardrails/check", body).await.status, 200);
}

#[tokio::test]
async fn a_pattern_that_does_not_compile_refuses_every_check_until_it_is_repaired() {
    let service = uncached().await;
    let client = service.client();
    service.execute(NOT_COMPILING).await;
    for text in ["ls", "rm -rf / "] {
        let body = json!({ "operation_text": text });
        assert_unavailable(&client.post("/guardrails/check", body).await);
    }
    assert_eq!((service.audit_rows().await, violation_count(&service).await), (0, 0));
    let ready = service.anonymous().get("/ready").await;
    assert_eq!(ready.status, 503);
    let expected = json!({
        "status": "degraded", "db": "connected", "version": "0.2.0", "schema": "mismatch",
        "write": "unknown", "failed": ["schema"],
    });
    assert_eq!(ready.json, expected);
    let listed = client.get("/guardrails/patterns").await.json;
    assert_eq!(listed["patterns"][15]["pattern"], "a(b", "the list shows the pattern to repair");
    service.execute("update guardrail_pattern set enabled = false where name = 'broken'").await;
    check(&client, "ls").await;
    assert_eq!(service.anonymous().get("/ready").await.status, 200);
    service
        .execute("update guardrail_pattern set enabled = true, pattern = 'a' where name = 'broken'")
        .await;
    assert_eq!(found(&client, "A").await, ["broken"]);
}

#[tokio::test]
async fn patterns_are_cached_and_failures_are_not() {
    let service = Service::start().await;
    let client = service.client();
    service.execute(NOT_COMPILING).await;
    let body = json!({ "operation_text": "rm -rf x" });
    assert_unavailable(&client.post("/guardrails/check", body).await);
    service.execute("delete from guardrail_pattern where name = 'broken'").await;
    assert_eq!(found(&client, "rm -rf x").await, ["rm_rf"], "the repaired pattern is used at once");
    service.execute("update guardrail_pattern set enabled = false").await;
    assert_eq!(found(&client, "rm -rf x").await, ["rm_rf"]);
    let listed = client.get("/guardrails/patterns").await.json;
    assert_eq!(listed["patterns"][0]["enabled"], false, "the list is always that of the table");
    assert_eq!(found(&restarted(&service, FREE).await, "rm -rf x").await, [""; 0]);
}

#[tokio::test]
async fn a_workspace_has_its_own_patterns_or_those_of_default() {
    let service = uncached().await;
    let (free, team) = (service.client(), service.client_with(TEAM));
    assert_eq!(found(&team, "rm -rf x").await, ["rm_rf"]);
    let listed = team.get("/guardrails/patterns").await.json;
    assert_eq!(listed["count"], 15);
    service
        .execute(
            "insert into guardrail_pattern (
                workspace, list_order, name, category, severity, min_trust_level, pattern,
                explanation, enabled
            ) values
                ('team', 2, 'a', 'own', 'log', 5, 'deploy', 'Second.', true),
                ('team', 1, 'z', 'own', 'approval_required', 5, 'deploy', 'First.', true),
                ('team', 3, 'c', 'own', 'block', 5, 'deploy', 'Off.', false)",
        )
        .await;
    assert_eq!(found(&team, "rm -rf x").await, [""; 0]);
    let checked = check(&team, "deploy").await;
    assert_eq!(checked["safe"], true);
    let expected = ["z", "a"].map(|name| json!(name));
    let violations = checked["violations"].as_array().expect("a list");
    assert!(violations.iter().map(|it| &it["pattern_name"]).eq(&expected), "{violations:?}");
    assert!(violations.iter().all(|it| it["blocked"] == false));
    assert_eq!(found(&free, "deploy; rm -rf x").await, ["rm_rf"], "other workspaces do not see it");
    let recorded = service
        .rows("select workspace, count(*) from guardrail_violation group by 1 order by 1")
        .await;
    let count = |workspace: &str, count: i64| json!({ "workspace": workspace, "count": count });
    assert_eq!(recorded, [count("default", 1), count("team", 3)]);
    service.execute(&NOT_COMPILING.replace("'default'", "'team'")).await;
    let body = json!({ "operation_text": "ls" });
    assert_unavailable(&team.post("/guardrails/check", body.clone()).await);
    assert_eq!(free.post("/guardrails/check", body).await.status, 200);
}

#[tokio::test]
async fn an_idempotency_key_records_findings_once_and_never_stores_a_safe_answer() {
    let service = uncached().await;
    let client = service.client().header("idempotency-key", "k");
    let first = check(&client, "rm -rf x").await;
    let body = json!({ "operation_text": "rm -rf x" });
    let again = client.post("/guardrails/check", body).await;
    assert_eq!(
        (&again.json, &again.headers["idempotent-replayed"]),
        (&first, &"true".parse().expect("a value"))
    );
    assert_eq!((violation_count(&service).await, service.audit_rows().await), (1, 1));
    let client = service.client().header("idempotency-key", "clean");
    assert_eq!(found(&client, "make release").await, [""; 0]);
    service.execute("update guardrail_pattern set pattern = 'release' where name = 'rm_rf'").await;
    assert_eq!(found(&client, "make release").await, ["rm_rf"], "judged again");
}

#[tokio::test]
async fn concurrent_checks_are_all_recorded() {
    let service = Service::start().await;
    let checks = (0..16).map(|n| {
        let client = service.client();
        async move { found(&client, &format!("rm -rf {n}")).await }
    });
    for names in join_all(checks).await {
        assert_eq!(names, ["rm_rf"]);
    }
    assert_eq!((violation_count(&service).await, service.audit_rows().await), (16, 16));
}

#[tokio::test]
async fn a_finding_without_its_record_is_not_answered() {
    let service = Service::start().await;
    service.execute("alter table guardrail_violation rename to hidden").await;
    let body = json!({ "operation_text": "rm -rf x" });
    assert_eq!(service.client().post("/guardrails/check", body).await.status, 500);
    assert_eq!(service.audit_rows().await, 0);
}
