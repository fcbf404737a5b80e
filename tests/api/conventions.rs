//! The rules that hold on every route: order of checks, keys, identity, errors, idempotency,
//! sessions, health.
use std::time::Duration;

use agent_coordinator::{App, router};
use axum::body::Body;
use futures_util::{future::join_all, stream};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::mcp::Mcp;
use crate::support::{BOSS, CODEX, Client, FREE, REVIEWER, Service, config, variables, with_more};

fn lock_body() -> Value {
    json!({ "file_path": "k", "agent_id": "a", "agent_type": "t" })
}

const ID_FORBIDDEN: &str = "API key is not permitted to act as requested agent_id";

#[tokio::test]
async fn checks_happen_in_the_order_of_the_contract() {
    let service = Service::start().await;
    let huge = "x".repeat((1 << 20) + 1);
    let anonymous = service.anonymous();

    // The route comes before the key.
    anonymous.get("/nope").await.assert_is(404, json!({ "detail": "Not Found" }));
    let wrong_verb = anonymous.get("/locks/acquire").await;
    wrong_verb.assert_is(405, json!({ "detail": "Method Not Allowed" }));
    // The declared length comes before the key, the key before the content.
    let too_large = json!({ "detail": "Request body too large" });
    let declared = anonymous.clone().header("content-length", &huge.len().to_string());
    declared.post_text("/locks/acquire", huge.clone()).await.assert_is(413, too_large.clone());
    let no_key = anonymous.post_text("/locks/acquire", "{").await;
    no_key.assert_is(401, json!({ "detail": "Invalid API key" }));
    // An undeclared length is noticed while reading.
    let chunks = stream::iter([Ok::<_, std::io::Error>(huge.clone()), Ok(huge.clone())]);
    let client = service.client_with(CODEX);
    let undeclared = client.post_text("/locks/acquire", Body::from_stream(chunks)).await;
    undeclared.assert_is(413, too_large);
    // Syntax, then schema, then identity, then workspace, then policy.
    let syntax = client.post_text("/locks/acquire", "{").await.issues();
    assert_eq!(syntax, [("json_invalid".to_owned(), json!(["body", 1]))]);
    let spoofing = client.clone().header("x-workspace", "other");
    let schema = spoofing.post("/locks/acquire", json!({ "agent_id": "x" })).await.issues();
    assert_eq!(schema[0].1, json!(["body", "file_path"]));
    let identity = spoofing.post("/locks/acquire", lock_body()).await;
    identity.assert_is(403, json!({ "detail": ID_FORBIDDEN }));
    let own = json!({ "file_path": "k", "agent_id": "codex-1", "agent_type": "codex" });
    let workspace = spoofing.post("/locks/acquire", own).await;
    let detail = "API key is not permitted to use requested workspace";
    workspace.assert_is(403, json!({ "detail": detail }));
    // Policy comes before the operation's own refusals.
    let reviewer = service.client_with(REVIEWER);
    let blank = json!({ "file_path": " ", "agent_id": "reviewer", "agent_type": "x" });
    let policy = reviewer.post("/locks/acquire", blank).await;
    let detail = "profile_denied: operation_not_in_allowlist: acquire_lock";
    policy.assert_is(403, json!({ "detail": detail }));
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
    assert_eq!(service.audit_rows().await, 3, "one row for each 403 and nothing else");
}

#[tokio::test]
async fn probes_find_the_lock_routes_and_change_nothing() {
    let service = Service::start().await;
    let before = service.contents().await;
    let missing = |fields: &[&str]| -> Vec<_> {
        fields.iter().map(|it| ("missing".to_owned(), json!(["body", it]))).collect()
    };
    for (path, fields) in [
        ("/locks/acquire", &["file_path", "agent_id", "agent_type"][..]),
        ("/locks/release", &["file_path", "agent_id"]),
        ("/locks/verify", &["locks"]),
    ] {
        let bound = service.client_with(CODEX).post(path, json!({})).await;
        assert_eq!(bound.json["detail"][0]["input"], json!({}));
        assert_eq!(bound.json["detail"][0]["msg"], "Field required");
        assert_eq!(bound.issues(), missing(fields), "{path}");
        let empty = service.client().post_text(path, "").await;
        assert_eq!(empty.json["detail"][0]["input"], Value::Null);
        assert_eq!(empty.issues(), [("missing".to_owned(), json!(["body"]))], "{path}");
        assert_eq!(service.client_with("wrong").post(path, json!({})).await.status, 401, "{path}");
        let get = service.client().get(path).await;
        assert_eq!(get.status, 405, "{path}");
        assert!(get.headers["allow"].to_str().expect("text").contains("POST"), "{path}");
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn unknown_paths_methods_and_slashes_are_refused() {
    let service = Service::start().await;
    let client = service.client();
    for path in ["/", "/nope", "/nope/", "/lock", "/health/x", "//health", "/Health"] {
        let answer = client.get(path).await;
        answer.assert_is(404, json!({ "detail": "Not Found" }));
    }
    for (path, location) in [
        ("/health/", "/health"),
        ("/locks/?limit=3", "/locks?limit=3"),
        ("/openapi.json/", "/openapi.json"),
    ] {
        let moved = client.get(path).await;
        assert_eq!(
            (moved.status.as_u16(), &moved.headers["location"]),
            (307, &location.parse().expect("a value"))
        );
        assert!(!moved.headers.contains_key("allow"), "{path}");
    }
    let deep = client.post("/locks/acquire/", lock_body()).await;
    assert_eq!((deep.status.as_u16(), deep.headers["allow"].to_str().ok()), (405, Some("DELETE")));
    let refused = client.post("/health", json!({})).await;
    assert_eq!(refused.headers["allow"], "GET");
    let head = client.send(Method::HEAD, "/live", Body::empty()).await;
    assert_eq!(head.status, 200);
    let options = service.anonymous().send(Method::OPTIONS, "/locks/acquire", Body::empty()).await;
    assert_eq!((options.status.as_u16(), options.text.as_str()), (200, ""), "no key is needed");
}

#[tokio::test]
async fn every_answer_carries_a_request_id() {
    let service = Service::start().await;
    let own = service.client().header("x-request-id", "req-17._A");
    let answer = own.post("/locks/acquire", lock_body()).await;
    assert_eq!(answer.headers["x-request-id"], "req-17._A");
    assert_eq!(service.last_audit().await["request_id"], "req-17._A");
    for unfit in ["a b", "a/b", &"x".repeat(129)] {
        for path in ["/live", "/nope"] {
            let answer = service.client().header("x-request-id", unfit).get(path).await;
            let id = answer.headers["x-request-id"].to_str().expect("text");
            assert!(uuid::Uuid::try_parse(id).is_ok(), "{id}");
        }
    }
}

#[tokio::test]
async fn a_key_is_taken_from_three_headers() {
    let service = Service::start().await;
    let anonymous = service.anonymous();
    let status = async |name: &'static str, value: &str| {
        anonymous.clone().header(name, value).get("/locks").await.status.as_u16()
    };
    assert_eq!(status("authorization", &format!("bearer {FREE}")).await, 200);
    assert_eq!(status("x-coordinator-api-key", &format!(" {FREE} ")).await, 200);
    assert_eq!(status("x-api-key", FREE).await, 200);
    assert_eq!(status("x-api-key", "").await, 401);
    assert_eq!(status("authorization", FREE).await, 401);
    assert_eq!(
        service.client().header("authorization", "Bearer wrong").get("/locks").await.status,
        401
    );
    // A wrong key is refused even where none is needed.
    for path in ["/live", "/health", "/docs"] {
        assert_eq!(anonymous.get(path).await.status, 200, "{path}");
        assert_eq!(service.client_with("wrong").get(path).await.status, 401, "{path}");
    }
    assert_eq!(service.audit_rows().await, 0, "failed authentication is not audited");
}

#[tokio::test]
async fn without_any_key_the_service_answers_401() {
    let none = [("COORDINATION_API_KEYS", ""), ("COORDINATION_API_KEY_IDENTITIES", "")];
    let service = Service::with(&none).await;
    assert_eq!(service.client().get("/locks").await.status, 401);
    assert_eq!(service.anonymous().get("/live").await.status, 200);
}

#[tokio::test]
async fn a_forbidden_identity_is_recorded_for_the_keys_own_agent() {
    let service = Service::start().await;
    let denied = service.client_with(CODEX).post("/locks/acquire", lock_body()).await;
    denied.assert_is(403, json!({ "detail": ID_FORBIDDEN }));
    let audit = service.last_audit().await;
    assert_eq!((&audit["agent_id"], &audit["agent_type"]), (&json!("codex-1"), &json!("codex")));
    assert_eq!(
        (&audit["operation"], &audit["success"]),
        (&json!("policy_decision"), &json!(false))
    );
    assert_eq!(audit["result"]["reason"], ID_FORBIDDEN);
    let bound = json!({ "file_path": "k", "agent_id": "codex-1", "agent_type": "t" });
    assert_eq!(service.client().post("/locks/acquire", bound).await.status, 403);
    assert_eq!(service.last_audit().await["agent_id"], "cloud-agent");
    let read = service.client_with(CODEX).header("x-agent-id", "other").get("/locks").await;
    read.assert_is(403, json!({ "detail": ID_FORBIDDEN }));
    assert_eq!(service.audit_rows().await, 3, "denied reads are recorded too");
}

#[tokio::test]
async fn a_release_ignores_the_type_it_is_sent() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    client.acquire("", "k", json!({ "agent_type": "" })).await;
    assert_eq!(service.scalar::<String>("select agent_id from file_lock").await, "codex-1");
    let released = client.release("codex-1", "k", json!({ "agent_type": "other" })).await;
    assert_eq!(released["success"], true);
    let strict =
        json!({ "locks": [{ "file_path": "k", "fencing_token": 1 }], "agent_type": "other" });
    assert_eq!(client.post("/locks/verify", strict).await.status, 403);
}

#[tokio::test]
async fn trust_comes_from_the_database_and_never_from_the_request() {
    let service = Service::start().await;
    let sql = |rows: &str| {
        format!(
            "insert into agent_assignment (workspace, agent_id, profile, suspended) values {rows}"
        )
    };
    let statuses = async |key: &str, agent: &str| {
        let client = service.client_with(key).header("x-agent-id", agent);
        let write = json!({ "file_path": agent, "agent_id": agent, "agent_type": "strands" });
        let write = client.post("/locks/acquire", write).await;
        let admin = client.delete("/locks/nothing").await;
        (client.get("/locks").await.status.as_u16(), write.status.as_u16(), admin.status.as_u16())
    };
    service
        .execute(&sql(
            "('default', 'suspended', null, true), ('default', 'raised', 'strands_orchestrator', false),
             ('default', 'lowered', 'claude_code_web_reviewer', false), ('default', 'broken', 'gone', false),
             ('team', 'elsewhere', null, true)",
        ))
        .await;
    assert_eq!(statuses(FREE, "plain").await, (200, 200, 403));
    assert_eq!(statuses(FREE, "raised").await, (200, 200, 403), "an unbound key is never above 2");
    assert_eq!(statuses(FREE, "lowered").await, (200, 403, 403));
    assert_eq!(statuses(FREE, "suspended").await, (403, 403, 403));
    assert_eq!(statuses(FREE, "broken").await, (403, 403, 403));
    assert_eq!(statuses(FREE, "elsewhere").await, (200, 200, 403));
    assert_eq!(statuses(CODEX, "codex-1").await.1, 403, "its type is bound");
    assert_eq!(statuses(BOSS, "boss").await, (200, 200, 200));
    let denied = service.client().header("x-agent-id", "suspended").get("/locks").await;
    denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
}

#[tokio::test]
async fn a_suspension_takes_effect_in_a_process_that_has_cached_the_agent() {
    // Maximum age 0: every request reads the database, as it does after the default five seconds.
    let service = Service::configured(&[], |it| {
        it.with_timings(|timings| timings.standing_max_age = Duration::ZERO)
    })
    .await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    service
        .execute("insert into agent_assignment (workspace, agent_id, suspended) values ('default', 'a', true)")
        .await;
    let denied = client.post("/locks/acquire", lock_body()).await;
    denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
    service.execute("update agent_assignment set suspended = false").await;
    assert_eq!(client.acquire("a", "k", json!({})).await["success"], true);
}

#[tokio::test]
async fn a_workspace_without_profiles_has_those_of_default() {
    let more = [("COORDINATION_ALLOW_WORKSPACE_HEADER", "true")];
    let service = Service::with(&more).await;
    service
        .execute(
            "insert into agent_assignment (workspace, agent_id, profile) values
             ('borrowing', 'a', 'claude_code_web_reviewer'), ('own', 'a', 'claude_code_web_reviewer');
             insert into profile select 'own', name, agent_type, is_type_default, trust_level,
                max_file_modifications, max_execution_time_seconds, max_api_calls_per_hour,
                allowed_operations, blocked_operations, enabled
             from profile where name = 'evaluator'",
        )
        .await;
    let borrowing = service.client().header("x-workspace", "borrowing");
    let denied = borrowing.post("/locks/acquire", lock_body()).await;
    let detail = "profile_denied: operation_not_in_allowlist: acquire_lock";
    denied.assert_is(403, json!({ "detail": detail }));
    let own =
        service.client().header("x-workspace", "own").post("/locks/acquire", lock_body()).await;
    own.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
}

#[tokio::test]
async fn bodies_that_are_not_json_objects_are_refused() {
    let service = Service::start().await;
    let client = service.client();
    let post = async |text: &'static [u8]| client.post_text("/locks/release", text).await;
    for (text, offset) in [
        (&b"{\"file_path\": x}"[..], 14),
        (b"{\"a\":", 5),
        (b"{}\n {", 4),
        (b"{\"a\": NaN}", 6),
        (b"{\"a\": -Infinity}", 7),
        (b"{\"a\": 1,}", 8),
        (b"  ", 2),
    ] {
        let answer = post(text).await;
        let text = String::from_utf8_lossy(text);
        assert_eq!(answer.json["detail"][0]["input"], json!({}), "{text}");
        assert_eq!(answer.json["detail"][0]["msg"], "JSON decode error");
        assert_eq!(
            answer.issues(),
            [("json_invalid".to_owned(), json!(["body", offset]))],
            "{text}"
        );
    }
    for text in
        [&b"{\"a\":\"\\ud800\"}"[..], b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}", b"{\"a\":1e999}"]
    {
        assert_eq!(post(text).await.issues()[0].0, "json_invalid");
    }
    let deep: Vec<u8> = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let answer = client.post_text("/locks/release", deep).await;
    assert_eq!(answer.issues()[0].0, "json_invalid");
    for text in [&b"[]"[..], b"\"x\"", b"1", b"null", b"true"] {
        let issues = post(text).await.issues();
        assert_eq!(issues, [("model_attributes_type".to_owned(), json!(["body"]))]);
    }
    let twice = post(b"{\"file_path\":\"one\",\"agent_id\":\"a\",\"file_path\":\"../x\"}").await;
    assert_eq!(twice.json["detail"][0]["input"], "../x", "the last of two members wins");
}

#[tokio::test]
async fn a_body_is_json_by_its_content_type() {
    let service = Service::start().await;
    let status = async |content_type: &str| {
        let client = service.client().header("content-type", content_type);
        client.post("/locks/acquire", lock_body()).await
    };
    for fine in
        ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json", ""]
    {
        assert_eq!(status(fine).await.status, 200, "{fine}");
    }
    for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
        let issues = status(other).await.issues();
        assert_eq!(issues, [("model_attributes_type".to_owned(), json!(["body"]))], "{other}");
    }
}

#[tokio::test]
async fn issues_come_in_order_with_headers_first() {
    let service = Service::start().await;
    let client =
        service.client().header("x-workspace", "NO").header("x-agent-id", &"x".repeat(257));
    let body = json!({ "agent_type": 5, "ttl_minutes": null, "reason": "r".repeat(16385) });
    let issues = client.post("/locks/acquire", body).await.issues();
    let expected = [
        ("string_too_long", json!(["header", "x-agent-id"])),
        ("value_error", json!(["header", "x-workspace"])),
        ("missing", json!(["body", "file_path"])),
        ("missing", json!(["body", "agent_id"])),
        ("string_type", json!(["body", "agent_type"])),
        ("string_too_long", json!(["body", "reason"])),
        ("int_type", json!(["body", "ttl_minutes"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
}

#[tokio::test]
async fn health_live_and_ready() {
    let service = Service::start().await;
    let anonymous = service.anonymous();
    let live = anonymous.get("/live").await;
    assert_eq!(live.text, r#"{"status":"ok","version":"0.2.0"}"#);
    let health = anonymous.get("/health").await;
    assert_eq!(health.text, r#"{"status":"ok","db":"connected","version":"0.2.0"}"#);
    let ready = anonymous.get("/ready").await;
    let well = r#"{"status":"ok","db":"connected","version":"0.2.0","schema":"ok","write":"ok","failed":[]}"#;
    assert_eq!((ready.status.as_u16(), ready.text.as_str()), (200, well));
    assert_eq!(service.scalar::<i64>("select count(*) from idempotency_key").await, 0);
}

#[tokio::test]
async fn ready_names_what_fails() {
    let service = Service::start().await;
    let ready = async || service.anonymous().get("/ready").await;
    let body = |schema: &str, write: &str, failed: &str| {
        json!({
            "status": "degraded", "db": "connected", "version": "0.2.0", "schema": schema,
            "write": write, "failed": [failed],
        })
    };
    service.execute("alter table file_lock rename to hidden").await;
    ready().await.assert_is(503, body("ok", "failed", "write"));
    service.execute("alter table hidden rename to file_lock").await;
    assert_eq!(ready().await.status, 200);
    let mismatch = body("mismatch", "unknown", "schema");
    for (change, undo) in [
        (
            "update _sqlx_migrations set version = version + 1000 where version = 1",
            "update _sqlx_migrations set version = 1 where version = 1001",
        ),
        (
            "update _sqlx_migrations set success = false where version = 2",
            "update _sqlx_migrations set success = true",
        ),
        (
            "update _sqlx_migrations set checksum = checksum || 'x' where version = 3",
            "update _sqlx_migrations set checksum = substring(checksum for 48)",
        ),
        (
            "insert into _sqlx_migrations values (99990101000000, 'newer', now(), true, '', 0)",
            "delete from _sqlx_migrations where version = 99990101000000",
        ),
        ("alter table _sqlx_migrations rename to m", "alter table m rename to _sqlx_migrations"),
    ] {
        service.execute(change).await;
        ready().await.assert_is(503, mismatch.clone());
        service.execute(undo).await;
        assert_eq!(ready().await.status, 200, "{undo}");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_503() {
    let limit = Duration::from_millis(300);
    let service =
        Service::configured(&[], |it| it.with_timings(|timings| timings.request_time = limit))
            .await;
    let mut blocker = service.db.begin().await.expect("a transaction");
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    service.expire("k").await;
    sqlx::query_scalar!("select 1 as one from file_lock where workspace = 'default' for update")
        .fetch_one(&mut *blocker)
        .await
        .expect("the row is locked");
    let answer = client.post("/locks/acquire", lock_body()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.json["detail"], "Service temporarily unavailable");
    assert_eq!(answer.json["request_id"], answer.headers["x-request-id"].to_str().expect("text"));
    blocker.rollback().await.expect("rolled back");
    // A request whose body never ends is ended too.
    let endless = Body::from_stream(stream::pending::<Result<String, std::io::Error>>());
    assert_eq!(client.post_text("/locks/acquire", endless).await.status, 503);
}

/// A client whose requests carry this idempotency key.
fn once(service: &Service, key: &str) -> Client {
    service.client().header("idempotency-key", key)
}

#[tokio::test]
async fn a_repeated_request_is_answered_as_the_first_and_has_no_second_effect() {
    let service = Service::start().await;
    let client = once(&service, "key 1");
    let first = client.post("/locks/acquire", lock_body()).await;
    assert_eq!(
        (first.json["action"].as_str(), first.headers.get("idempotent-replayed")),
        (Some("acquired"), None)
    );
    service.client().release("a", "k", json!({})).await;
    let rows = service.audit_rows().await;
    let spaced = r#"{ "agent_type":"t", "agent_id":"a",  "file_path":"k" }"#;
    let again = client.post_text("/locks/acquire", spaced).await;
    assert_eq!(
        (&again.text, &again.headers["idempotent-replayed"]),
        (&first.text, &"true".parse().expect("a value"))
    );
    assert_eq!(service.audit_rows().await, rows, "a replay is not audited");
    assert_eq!(service.client().get("/locks").await.json["count"], 0);

    let other_body = json!({ "file_path": "other", "agent_id": "a", "agent_type": "t" });
    let mismatch = client.post("/locks/acquire", other_body.clone()).await;
    let loc = json!(["header", "idempotency-key"]);
    assert_eq!(mismatch.issues(), [("value_error".to_owned(), loc.clone())]);
    let release = json!({ "file_path": "k", "agent_id": "a" });
    assert_eq!(client.post("/locks/release", release).await.issues()[0].1, loc);

    let other_agent = json!({ "file_path": "k", "agent_id": "b", "agent_type": "t" });
    assert_eq!(client.post("/locks/acquire", other_agent).await.json["action"], "acquired");
    service
        .execute(
            "update idempotency_key set created_at =
                (created_at at time zone 'utc' - interval '24 hours 1 second') at time zone 'utc'",
        )
        .await;
    let expired = client.post("/locks/acquire", other_body).await;
    assert_eq!((expired.status.as_u16(), &expired.json["action"]), (200, &json!("acquired")));
}

#[tokio::test]
async fn a_retry_is_the_same_request_however_it_reaches_the_service() {
    let service = Service::start().await;
    let client = once(&service, "k");
    let first = client.post("/locks/acquire", lock_body()).await;
    for path in ["http://other.example/locks/acquire", "/locks/acquire?x=1"] {
        let again = client.post(path, lock_body()).await;
        assert_eq!((again.status.as_u16(), &again.text), (200, &first.text), "{path}");
    }
    let boss = service.client_with(BOSS).header("idempotency-key", "d");
    let freed = boss.delete("/locks/k?fencing_token=1&x=1").await;
    assert_eq!(freed.json["released"], true);
    assert_eq!(boss.delete("/locks/k?fencing_token=1").await.text, freed.text);
    assert_eq!(boss.delete("/locks/k?fencing_token=2").await.status, 422, "another request");
}

#[tokio::test]
async fn a_repeated_request_that_was_refused_is_judged_again() {
    let service = Service::start().await;
    service.client().acquire("holder", "k", json!({})).await;
    let client = once(&service, "x");
    let refused = client.post("/locks/acquire", lock_body()).await;
    assert_eq!(refused.json["reason"], "locked_by_other");
    assert_eq!(service.audit_rows().await, 2, "refusals are recorded");
    assert_eq!(service.scalar::<i64>("select count(*) from idempotency_key").await, 0);
    service.client().release("holder", "k", json!({})).await;
    let granted = client.post("/locks/acquire", lock_body()).await;
    assert_eq!(granted.json["action"], "acquired");
    let denied = service.client_with(REVIEWER).header("idempotency-key", "x");
    let body = json!({ "file_path": "k", "agent_id": "reviewer", "agent_type": "" });
    for _ in 0..2 {
        assert_eq!(denied.post("/locks/acquire", body.clone()).await.status, 403);
    }
    assert_eq!(service.audit_rows().await, 6, "each denial is recorded");
}

#[tokio::test]
async fn concurrent_twins_have_one_effect() {
    let service = Service::start().await;
    let client = once(&service, "twin");
    let answers = join_all((0..8).map(|_| client.post("/locks/acquire", lock_body()))).await;
    let replayed =
        answers.iter().filter(|it| it.headers.contains_key("idempotent-replayed")).count();
    assert_eq!(replayed, 7);
    assert!(answers.iter().all(|it| it.text == answers[0].text && it.json["action"] == "acquired"));
    assert_eq!(service.audit_rows().await, 1);
    assert_eq!(service.scalar::<i32>("select refresh_count from file_lock").await, 0);
}

#[tokio::test]
async fn an_idempotency_key_on_a_read_is_ignored_and_a_malformed_one_on_a_write_is_an_issue() {
    let service = Service::start().await;
    let read = once(&service, &"x".repeat(257)).get("/locks").await;
    assert_eq!(read.status, 200);
    let issues =
        once(&service, &"x".repeat(257)).post("/locks/acquire", lock_body()).await.issues();
    assert_eq!(issues, [("string_too_long".to_owned(), json!(["header", "idempotency-key"]))]);
    let denied = service.client_with(BOSS).header("idempotency-key", "d");
    let first = denied.delete("/locks/nothing").await;
    assert_eq!(first.json["released"], false);
}

#[tokio::test]
async fn any_call_keeps_the_named_session_or_every_live_one_alive() {
    let service = Service::start().await;
    let session = async |ago: &str, ended: &str| {
        service
            .execute(&format!(
                "delete from agent_session;
                 insert into agent_session (workspace, agent_id, session_id, agent_type,
                    last_heartbeat_at, ended_at)
                 values ('default', 'a', 's', 't', clock_timestamp() - interval '{ago}', {ended}),
                    ('default', 'b', 's', 't', clock_timestamp() - interval '1 hour', null)"
            ))
            .await;
    };
    let has_heartbeat = async || -> bool {
        service
            .scalar(
                "select last_heartbeat_at > clock_timestamp() - interval '5 seconds'
                    and ended_at is null
                 from agent_session where agent_id = 'a'",
            )
            .await
    };
    let acquire = async |more: Value| service.client().acquire("a", "k", more).await;
    session("1 hour", "null").await;
    acquire(json!({})).await;
    assert!(has_heartbeat().await, "a call that names no session counts for every live one");
    session("3 hours", "null").await;
    acquire(json!({})).await;
    assert!(!has_heartbeat().await, "a silent session stays lost without its name");
    session("1 hour", "null").await;
    acquire(json!({ "session_id": "another" })).await;
    assert!(!has_heartbeat().await, "another session is named");
    acquire(json!({ "session_id": "s" })).await;
    assert!(has_heartbeat().await, "a write records a heartbeat");
    session("8 seconds", "null").await;
    acquire(json!({ "session_id": "s" })).await;
    assert!(!has_heartbeat().await, "at most one heartbeat in ten seconds");
    session("1 hour", "clock_timestamp()").await;
    acquire(json!({ "session_id": "s", "ttl_minutes": 999 })).await;
    assert!(has_heartbeat().await, "a refused write records a heartbeat and revives the session");
    session("1 hour", "null").await;
    let reader = service.client().header("x-agent-id", "a").header("x-session-id", "s");
    assert_eq!(reader.get("/locks").await.status, 200);
    assert!(has_heartbeat().await, "a read records a heartbeat");
    session("1 hour", "null").await;
    reader.get("/locks").await;
    assert!(!has_heartbeat().await, "one process records at most one heartbeat in ten seconds");
    let other: bool = service
        .scalar("select last_heartbeat_at < clock_timestamp() - interval '30 minutes' from agent_session where agent_id = 'b'")
        .await;
    assert!(other, "another agent's session of the same name is left alone");
}

#[tokio::test]
async fn the_audit_log_refuses_change() {
    let service = Service::start().await;
    service.client().acquire("a", "k", json!({})).await;
    let partition: String =
        service.scalar("select tableoid::regclass::text from audit_log limit 1").await;
    // A worker of a Citus cluster answers with the name of a shard, which has a number at its end.
    let partition = partition.split('_').take(4).collect::<Vec<_>>().join("_");
    assert!(partition.starts_with("audit_log_2"), "{partition}");
    for table in ["audit_log", &partition] {
        for statement in [
            format!("update {table} set success = false"),
            format!("delete from {table}"),
            format!("truncate {table}"),
            format!("set session_replication_role = replica; delete from {table}"),
        ] {
            let refused = crate::support::try_execute(&service.db, &statement).await;
            let error = refused.expect_err(&statement).to_string();
            assert!(error.contains("append-only"), "{statement}: {error}");
        }
    }
    assert_eq!(service.audit_rows().await, 1);
}

#[tokio::test]
async fn the_first_audit_row_of_a_month_creates_its_partition() {
    let service = Service::start().await;
    let count = "select count(*) from pg_inherits where inhparent = 'audit_log'::regclass";
    assert_eq!(service.scalar::<i64>(count).await, 4, "this month and three more");
    let drop_all = "do $$ declare it text; begin
        for it in select inhrelid::regclass::text from pg_inherits
            where inhparent = 'audit_log'::regclass loop
            execute 'drop table ' || it;
        end loop; end $$";
    service.execute(drop_all).await;
    let client = service.client();
    let answers = join_all((0..8).map(|n| {
        let client = client.clone();
        async move { client.acquire(&format!("agent-{n}"), "k", json!({})).await }
    }))
    .await;
    assert_eq!(answers.iter().filter(|it| it["success"] == true).count(), 1);
    assert_eq!(service.scalar::<i64>(count).await, 1);
    assert_eq!(service.audit_rows().await, 8);
    service.execute(drop_all).await;
    let denied = service.client().delete("/locks/k").await;
    assert_eq!((denied.status.as_u16(), service.audit_rows().await), (403, 1));
    service.execute(drop_all).await;
    let replayable = once(&service, "month").post("/locks/acquire", lock_body()).await;
    assert_eq!(replayable.json["reason"], "locked_by_other");
    let app = App::new(config(&variables(&service.url)));
    app.migrate().await.expect("nothing to do but partitions");
    assert_eq!(service.scalar::<i64>(count).await, 4);
}

#[tokio::test]
async fn a_denial_without_a_key_counts_as_failed_authentication_and_writes_no_row() {
    let more = [("COORDINATION_PUBLIC_READS", "true"), ("METRICS_PUBLIC", "true")];
    let service = Service::with(&more).await;
    let elsewhere = service.anonymous().header("x-workspace", "team");
    let detail = "API key is not permitted to use requested workspace";
    for path in ["/locks/status/k", "/locks", "/ports/status", "/discovery/agents"] {
        elsewhere.get(path).await.assert_is(403, json!({ "detail": detail }));
    }
    assert_eq!(service.audit_rows().await, 0);
    let metrics = service.anonymous().get("/metrics").await.text;
    assert!(metrics.lines().any(|it| it == "coordinator_unknown_keys_total 4"), "{metrics}");
    let with_key = service.client().header("x-workspace", "team").get("/locks").await;
    assert_eq!((with_key.status.as_u16(), service.audit_rows().await), (403, 1));
}

#[tokio::test]
async fn pages_of_known_origins_may_call() {
    let more =
        [("COORDINATOR_CORS_ALLOWED_ORIGINS", "https://board.example.com, https://b.example")];
    let service = Service::with(&more).await;
    let preflight = async |origin: &str| {
        let client = service
            .anonymous()
            .header("origin", origin)
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "x-api-key,idempotency-key");
        client.send(Method::OPTIONS, "/locks/acquire", Body::empty()).await
    };
    for origin in ["http://localhost:5173", "https://board.example.com", "https://b.example"] {
        let answer = preflight(origin).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
        assert_eq!(answer.headers["access-control-max-age"], "600");
        let methods = answer.headers["access-control-allow-methods"].to_str().expect("text");
        assert_eq!(methods, "GET,POST,PUT,PATCH,DELETE,OPTIONS");
        let headers = answer.headers["access-control-allow-headers"].to_str().expect("text");
        for name in ["authorization", "x-workspace", "last-event-id", "idempotency-key"] {
            assert!(headers.contains(name), "{headers}");
        }
        assert!(!answer.headers.contains_key("access-control-allow-credentials"));
        let call = service.client().header("origin", origin).get("/locks").await;
        assert_eq!(call.headers["access-control-allow-origin"], origin);
        let exposed = call.headers["access-control-expose-headers"].to_str().expect("text");
        assert_eq!(exposed, "x-request-id,idempotent-replayed");
    }
    assert!(
        !preflight("https://evil.example")
            .await
            .headers
            .contains_key("access-control-allow-origin")
    );
    assert_eq!(service.audit_rows().await, 0);
}

#[tokio::test]
async fn metrics_count_answered_requests() {
    let service = Service::start().await;
    service.client().acquire("a", "k", json!({})).await;
    service.client_with("wrong").get("/locks").await;
    let anonymous = service.anonymous().get("/metrics").await;
    anonymous.assert_is(401, json!({ "detail": "Invalid API key" }));
    let metrics = service.client().get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "coordinator_requests_total{operation=\"acquire_lock\",status=\"200\"} 1",
        "coordinator_requests_total{operation=\"list_locks\",status=\"401\"} 1",
        "coordinator_requests_total{operation=\"/metrics\",status=\"401\"} 1",
        "coordinator_unknown_keys_total 1",
        "coordinator_build_info{version=\"0.2.0\"} 1",
    ] {
        assert!(metrics.text.lines().any(|it| it == line), "{line} in\n{}", metrics.text);
    }
    assert!(!metrics.text.contains(FREE));
    service
        .execute("insert into agent_assignment (workspace, agent_id, suspended) values ('default', 'gone', true)")
        .await;
    let suspended = service.client().header("x-agent-id", "gone").get("/metrics").await;
    suspended.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
    assert_eq!(service.last_audit().await["parameters"]["operation"], "read_metrics");
    let public = Service::with(&[("METRICS_PUBLIC", "true")]).await;
    assert_eq!(public.anonymous().get("/metrics").await.status, 200);
}

#[tokio::test]
async fn the_fallback_identity_of_a_free_key_is_checked_too() {
    let identities = r#"{"c": {"agent_id": "cloud-agent"}}"#;
    let more =
        [("COORDINATION_API_KEYS", "c,free-key"), ("COORDINATION_API_KEY_IDENTITIES", identities)];
    let service = Service::with(&more).await;
    let unnamed = json!({ "file_path": "k", "agent_id": "", "agent_type": "" });
    let denied = service.client().post("/locks/acquire", unnamed.clone()).await;
    denied.assert_is(403, json!({ "detail": ID_FORBIDDEN }));
    assert_eq!(service.client().get("/locks").await.status, 403);
    assert_eq!(service.client_with("c").post("/locks/acquire", unnamed).await.status, 200);
    assert_eq!(service.client().post("/locks/acquire", lock_body()).await.status, 200);
}

#[tokio::test]
async fn an_agent_whose_default_profile_is_disabled_has_trust_0() {
    let service = Service::start().await;
    service.execute("update profile set enabled = false where name = 'codex_cloud_worker'").await;
    let denied = service.client_with(CODEX).get("/locks").await;
    denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
}

#[tokio::test]
async fn query_strings_are_decoded_like_forms() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("my agent", "api:GET /users", json!({})).await;
    for query in
        ["prefix=api:GET+/", "prefix=api%3AGET%20%2F", "locked_by=my+agent", "%70refix=api"]
    {
        let listed = client.get(&format!("/locks?{query}")).await.json;
        assert_eq!(listed["count"], 1, "{query}");
    }
    assert_eq!(
        client.get("/locks/status/a+b").await.json["file_path"],
        "a+b",
        "a path is not decoded like a form"
    );
    let ignored = client.get("/locks/status/a?path=%ff&path=b").await;
    ignored.assert_is(200, json!({ "locked": false, "file_path": "a" }));
    let garbled = client.get("/locks/status/%ff").await.issues();
    assert_eq!(
        garbled,
        [("value_error".to_owned(), json!(["path", "path"]))],
        "one item for each field"
    );
}

#[tokio::test]
async fn an_issue_repeats_what_was_sent() {
    let service = Service::start().await;
    let body = json!({ "file_path": "./src//x", "agent_type": "t", "ttl_minutes": "5" });
    let answer = service.client().post("/locks/acquire", body.clone()).await;
    assert_eq!(answer.json["detail"][0]["input"], body);
}

#[tokio::test]
async fn a_refusal_is_not_much_longer_than_what_was_wrong() {
    let service = Service::start().await;
    let client = service.client();
    let junk = "0,".repeat(400_000);
    let names = format!("\"{}\":0", "n".repeat(900_000));
    let bodies = [format!("{{\"junk\":[{junk}0]}}"), format!("{{{names}}}"), format!("[{junk}0]")];
    for body in bodies {
        let answer = client.post_text("/locks/acquire", body).await;
        assert!(!answer.issues().is_empty());
        assert!(answer.text.len() < 20_000, "{} bytes", answer.text.len());
    }
    let files: Vec<_> = (0..1000).map(|n| json!({ "n": n })).collect();
    let body = json!({ "agent_id": "a", "summary": "s", "session_id": [], "relevant_files": files,
        "tags": files });
    let answer = client.post("/memory/store", body).await;
    assert!((1..=100).contains(&answer.issues().len()), "{}", answer.issues().len());
    let tools = format!("/mcp?tools={}", "a,".repeat(10_000));
    let answer = client.post(&tools, json!({})).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert!(answer.text.len() < 150_000, "{} bytes", answer.text.len());
}

#[tokio::test]
async fn a_page_cannot_read_a_local_service_by_dns_rebinding() {
    let service = Service::start().await;
    let more = [("API_HOST", "127.0.0.1"), ("COORDINATION_PUBLIC_READS", "true")];
    let variables = with_more(&service.url, &more);
    let anonymous = Client::new(router(App::new(config(&variables))));
    for path in ["/locks", "/discovery/agents", "/locks/status/k"] {
        for (host, status) in [("localhost:8081", 200), ("127.0.0.1", 200), ("evil.example", 403)] {
            let answer = anonymous.clone().header("host", host).get(path).await;
            assert_eq!(answer.status, status, "{path} {host}: {}", answer.text);
        }
        let with_key = anonymous.clone().header("host", "evil.example").header("x-api-key", FREE);
        assert_eq!(with_key.get(path).await.status, 200, "{path}: a page has no key");
    }
}

#[tokio::test]
async fn replays_keep_their_session_alive_and_denials_do_not() {
    let service = Service::start().await;
    let sleep = "insert into agent_session (workspace, agent_id, session_id, agent_type, last_heartbeat_at)
         values ('default', 'a', 's', 't', clock_timestamp() - interval '1 hour'),
            ('default', 'reviewer', 's', 't', clock_timestamp() - interval '1 hour')
         on conflict (workspace, agent_id, session_id) do update set last_heartbeat_at = excluded.last_heartbeat_at";
    let has_heartbeat = async |agent: &str| -> bool {
        let sql = format!(
            "select last_heartbeat_at > clock_timestamp() - interval '5 seconds'
             from agent_session where agent_id = '{agent}'"
        );
        service.scalar(&sql).await
    };
    let client = once(&service, "s").header("x-session-id", "s");
    client.post("/locks/acquire", lock_body()).await;
    service.execute(sleep).await;
    let replayed = client.post("/locks/acquire", lock_body()).await;
    assert!(replayed.headers.contains_key("idempotent-replayed"));
    assert!(has_heartbeat("a").await, "a replay");
    let reviewer = service.client_with(REVIEWER).header("x-session-id", "s");
    assert_eq!(reviewer.delete("/locks/k").await.status, 403);
    assert!(!has_heartbeat("reviewer").await, "a denial");
    assert_eq!(reviewer.get("/locks").await.status, 200);
    assert!(has_heartbeat("reviewer").await, "a read that is permitted");
}

#[tokio::test]
async fn a_suspended_agent_renews_nothing() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    service.client().submit(json!({})).await;
    let claim = client.claim("codex-1", json!({ "agent_type": "codex" })).await;
    client
        .post(
            "/work/renew",
            json!({ "task_id": claim["task_id"], "claim_token": claim["claim_token"] }),
        )
        .await;
    service
        .execute(
            "update work_task set claim_expires_at = now() + interval '1 minute';
             insert into agent_assignment (workspace, agent_id, suspended) values ('default', 'codex-1', true)",
        )
        .await;
    let lease = "select claim_expires_at::text from work_task";
    let before: String = service.scalar(lease).await;
    let fresh = service.replica_here().header("x-api-key", CODEX);
    for path in ["/locks", "/profiles/me", "/work"] {
        assert_eq!(fresh.get(path).await.status, 403, "{path}");
    }
    let mcp = Mcp::new(fresh);
    assert_eq!(mcp.send("tools/list", json!({})).await.status, 403);
    let denied = mcp.tool_failure("heartbeat", json!({})).await;
    assert_eq!(denied["detail"], "agent_suspended: trust_level=0");
    assert_eq!(service.scalar::<String>(lease).await, before);
}

#[tokio::test]
async fn a_replay_is_only_for_the_session_that_asked() {
    let service = Service::start().await;
    let client = service.client().header("idempotency-key", "k");
    let first = client.clone().header("x-session-id", "s1");
    let granted = first.post("/locks/acquire", lock_body()).await;
    assert_eq!(granted.json["success"], true, "{}", granted.text);
    let again = first.post("/locks/acquire", lock_body()).await;
    assert_eq!(again.text, granted.text);
    assert!(again.headers.contains_key("idempotent-replayed"));
    for other in [client.clone().header("x-session-id", "s2"), client] {
        let refused = other.post("/locks/acquire", lock_body()).await;
        let loc = json!(["header", "idempotency-key"]);
        assert_eq!(refused.issues(), [("value_error".to_owned(), loc)]);
    }
}

#[tokio::test]
async fn every_number_comes_back_as_it_was_sent() {
    let service = Service::start().await;
    let client = service.client();
    // The largest and the smallest numbers, some that lose digits when they are parsed imprecisely, and the
    // neighbours of the largest exact integers of a double.
    let numbers = "[1.7976931348623157e308,-1.7976931348623157e308,2.2250738585072014e-308,5e-324,\
                   8.988465674311580e307,1e23,0.1,9007199254740993]";
    let sent: Value = serde_json::from_str(numbers).expect("JSON");
    let session = format!(r#"{{"agent_id":"a","session_id":"s","metadata":{{"n":{numbers}}}}}"#);
    assert_eq!(client.post_text("/discovery/register", session).await.status, 200);
    let agents = client.get("/discovery/agents").await;
    assert_eq!(agents.json["agents"][0]["metadata"]["n"], sent, "{}", agents.text);
    let task = format!(
        r#"{{"task_type":"t","task_description":"d","input_data":{{"n":{numbers}}},"agent_id":"a"}}"#
    );
    assert_eq!(client.post_text("/work/submit", task).await.status, 200);
    let claim = json!({ "agent_id": "b", "agent_type": "t" });
    let claimed = client.post("/work/claim", claim).await;
    assert_eq!(claimed.json["input_data"]["n"], sent, "{}", claimed.text);
}
