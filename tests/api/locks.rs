//! Locks, literally as the contract has them.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, Dice, REVIEWER, Service, TEAM, new_seed};

const ACQUIRED_KEYS: [&str; 12] = [
    "success",
    "action",
    "file_path",
    "expires_at",
    "reason",
    "locked_by",
    "lock_reason",
    "fencing_token",
    "agent_type",
    "locked_at",
    "session_id",
    "position",
];

#[track_caller]
fn assert_keys(answer: &Value, expected: &[&str]) {
    let keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
}

/// The answer with its times replaced by `"time"`, after a check of their format.
#[track_caller]
fn without_times(mut answer: Value) -> Value {
    for (name, value) in answer.as_object_mut().expect("an object") {
        if name.ends_with("_at")
            && let Some(time) = value.as_str()
        {
            let form = time.len() == 25 || time.len() == 32;
            assert!(form && time.ends_with("+00:00") && time.contains('T'), "{time}");
            *value = json!("time");
        }
    }
    answer
}

fn refusal(reason: &str) -> Value {
    json!({
        "success": false, "action": null, "file_path": null, "expires_at": null, "reason": reason,
        "locked_by": null, "lock_reason": null, "fencing_token": null, "agent_type": null,
        "locked_at": null, "session_id": null, "position": null,
    })
}

#[tokio::test]
async fn a_free_key_is_acquired() {
    let service = Service::start().await;
    let answer = service
        .client()
        .acquire("claude-1", "./src//main.rs", json!({ "session_id": "s-1", "reason": "refactor" }))
        .await;
    assert_keys(&answer, &ACQUIRED_KEYS);
    let expected = json!({
        "success": true, "action": "acquired", "file_path": "src/main.rs", "expires_at": "time",
        "reason": null, "locked_by": null, "lock_reason": null, "fencing_token": 1,
        "agent_type": "codex", "locked_at": "time", "session_id": "s-1", "position": null,
    });
    assert_eq!(without_times(answer), expected);
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "acquire_lock");
    assert_eq!((&audit["agent_id"], &audit["session_id"]), (&json!("claude-1"), &json!("s-1")));
    assert_eq!(audit["success"], true);
    assert_eq!(audit["parameters"], json!({ "file_path": "src/main.rs", "reason": "refactor" }));
    let result = json!({ "action": "acquired", "fencing_token": 1, "took_over_from": null });
    assert_eq!(audit["result"], result);
    assert!(audit["duration_ms"].as_i64().is_some_and(|ms| ms >= 0));
}

#[tokio::test]
async fn a_held_key_is_refused_to_others_and_names_its_holder() {
    let service = Service::start().await;
    let client = service.client();
    let held =
        client.acquire("claude-1", "a", json!({ "reason": "mine", "session_id": "s" })).await;
    let refused = client.acquire("codex-9", "a", json!({ "agent_type": "other" })).await;
    assert_keys(&refused, &[&ACQUIRED_KEYS[..], &["same_agent"]].concat());
    assert_eq!(
        refused,
        json!({
            "success": false, "action": null, "file_path": null, "expires_at": held["expires_at"],
            "reason": "locked_by_other", "locked_by": "claude-1", "lock_reason": "mine",
            "fencing_token": null, "agent_type": "codex", "locked_at": held["locked_at"],
            "session_id": "s", "position": null, "same_agent": false,
        })
    );
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("acquire_lock"), &json!(false)));
    assert_eq!(audit["result"], json!({ "reason": "locked_by_other", "locked_by": "claude-1" }));
    assert_eq!(audit["agent_id"], "codex-9");
}

#[tokio::test]
async fn the_holder_refreshes_and_keeps_its_token() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.acquire("a", "k", json!({ "reason": "one", "ttl_minutes": 60 })).await;
    let again = client.acquire("a", "k", json!({ "ttl_minutes": 1, "agent_type": "x" })).await;
    assert_keys(&again, &[&ACQUIRED_KEYS[..], &["note"]].concat());
    let since = first["locked_at"].as_str().expect("a time");
    let note = format!(
        "You, or another session or subagent of yours, hold this lock since {since}: make sure that only one of \
         you changes what it protects."
    );
    assert_eq!(again["note"], note);
    assert_eq!((&again["success"], &again["action"]), (&json!(true), &json!("refreshed")));
    for kept in ["fencing_token", "locked_at", "agent_type", "session_id"] {
        assert_eq!(again[kept], first[kept], "{kept}");
    }
    assert!(
        again["expires_at"].as_str() < first["expires_at"].as_str(),
        "a refresh can shorten the time to live"
    );
    let reason: Option<String> = service.scalar("select reason from file_lock").await;
    assert_eq!(reason.as_deref(), Some("one"), "the reason is kept when the new one is null");
    client.acquire("a", "k", json!({ "reason": "two" })).await;
    let reason: Option<String> = service.scalar("select reason from file_lock").await;
    assert_eq!(reason.as_deref(), Some("two"));
    let result = service.last_audit().await["result"].clone();
    assert_eq!(
        result,
        json!({ "action": "refreshed", "fencing_token": 1, "took_over_from": null })
    );
}

#[tokio::test]
async fn sessions_of_one_agent_are_different_holders_when_both_are_named() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    let refused = client.acquire("a", "k", json!({ "session_id": "s-2" })).await;
    assert_eq!(refused["reason"], "locked_by_other_session");
    assert_eq!((&refused["locked_by"], &refused["session_id"]), (&json!("a"), &json!("s-1")));
    assert_eq!(refused["same_agent"], true);
    assert!(refused["note"].as_str().is_some_and(|it| it.contains("subagent of yours")));
    let audit = service.last_audit().await;
    assert_eq!(audit["result"], json!({ "reason": "locked_by_other_session", "locked_by": "a" }));
    let own = client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    assert_eq!(own["action"], "refreshed");
    let unnamed = client.acquire("a", "k", json!({})).await;
    assert_eq!((&unnamed["action"], &unnamed["session_id"]), (&json!("refreshed"), &json!("s-1")));
    client.acquire("a", "unnamed", json!({})).await;
    let named = client.acquire("a", "unnamed", json!({ "session_id": "s-2" })).await;
    assert_eq!((&named["action"], &named["session_id"]), (&json!("refreshed"), &json!(null)));
    let other = client.acquire("b", "k", json!({ "session_id": "s-1" })).await;
    assert_eq!(other["reason"], "locked_by_other", "a session is the agent's own");
}

#[tokio::test]
async fn an_expired_lock_is_free_and_the_next_token_is_higher() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("a", "k", json!({ "reason": "old", "session_id": "s" })).await;
    service.expire("k").await;
    let taken = client.acquire("b", "k", json!({})).await;
    assert_eq!((&taken["action"], &taken["fencing_token"]), (&json!("acquired"), &json!(2)));
    assert_eq!(taken["session_id"], Value::Null);
    let reason: Option<String> = service.scalar("select reason from file_lock").await;
    assert_eq!(reason, None, "an acquisition resets it");
    let result = service.last_audit().await["result"].clone();
    let expected = json!({ "action": "acquired", "fencing_token": 2, "took_over_from": "a" });
    assert_eq!(result, expected);
    service.expire("k").await;
    let own = client.acquire("b", "k", json!({})).await;
    assert_eq!((&own["action"], &own["fencing_token"]), (&json!("acquired"), &json!(3)));
}

#[tokio::test]
async fn tokens_outlive_release_and_force_release() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let mut tokens = Vec::new();
    for round in 0..4 {
        let granted = client.acquire("a", "k", json!({})).await;
        tokens.push(granted["fencing_token"].as_i64().expect("a token"));
        match round % 2 {
            0 => assert_eq!(client.release("a", "k", json!({})).await["success"], true),
            _ => assert_eq!(boss.delete("/locks/k").await.json["released"], true),
        }
    }
    assert_eq!(tokens, [1, 2, 3, 4]);
    let taken_over: Value = service.last_audit().await["result"]["took_over_from"].clone();
    assert_eq!(taken_over, Value::Null, "a released lock was not taken over");
}

#[tokio::test]
async fn an_acquisition_of_an_empty_key_is_refused_and_recorded() {
    let service = Service::start().await;
    let client = service.client();
    assert_eq!(client.acquire("a", "  ", json!({})).await, refusal("invalid_file_path"));
    assert_eq!(client.acquire("a", "x/..", json!({})).await, refusal("invalid_file_path"));
    assert_eq!(client.acquire("  ", "k", json!({})).await, refusal("invalid_agent_id"));
    for ttl in [-1, 481, i64::MAX, i64::MIN] {
        let answer = client.acquire("a", "k", json!({ "ttl_minutes": ttl })).await;
        assert_eq!(answer, refusal("ttl_out_of_range"), "{ttl}");
        let audit = service.last_audit().await;
        assert_eq!(audit["success"], false);
        assert_eq!(audit["result"]["reason"], "ttl_out_of_range");
    }
    assert_eq!(service.audit_rows().await, 7);
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
    for ttl in [1, 480] {
        let answer = client.acquire("a", "k", json!({ "ttl_minutes": ttl })).await;
        assert_eq!(answer["success"], true, "{ttl}");
    }
}

#[tokio::test]
async fn the_time_to_live_is_the_requested_one_or_30_minutes_or_the_configured_one() {
    let service = Service::with(&[("LOCK_TTL_MINUTES", "77")]).await;
    let client = service.client();
    for (more, minutes) in [
        (json!({}), 30),
        (json!({ "ttl_minutes": 0 }), 77),
        (json!({ "ttl_minutes": "45" }), 45),
        (json!({ "ttl_minutes": 2.0 }), 2),
    ] {
        client.acquire("a", "k", more).await;
        let left: f64 = service
            .scalar("select extract(epoch from expires_at - clock_timestamp())::float8 / 60 from file_lock")
            .await;
        assert!(left > f64::from(minutes - 1) && left <= f64::from(minutes), "{minutes}: {left}");
    }
}

#[tokio::test]
async fn a_lock_is_released_by_its_holder_only() {
    let service = Service::start().await;
    let client = service.client();
    let lost = json!({
        "success": false, "action": null, "file_path": null,
        "reason": "lock_not_found_or_not_owner",
    });
    assert_eq!(client.release("a", "k", json!({})).await, lost, "never held");
    client.acquire("a", "k", json!({})).await;
    assert_eq!(client.release("b", "k", json!({})).await, lost, "another agent");
    let released = client.release("a", "./k", json!({})).await;
    let expected =
        json!({ "success": true, "action": "released", "file_path": "k", "reason": null });
    assert_eq!(released, expected);
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("release_lock"), &json!(true)));
    assert_eq!(audit["parameters"], json!({ "file_path": "k" }));
    assert_eq!(audit["result"], json!({ "action": "released" }));
    assert_eq!(client.release("a", "k", json!({})).await, lost, "released already");
    assert_eq!(service.last_audit().await["success"], false);
    client.acquire("a", "k", json!({})).await;
    service.expire("k").await;
    assert_eq!(client.release("a", "k", json!({})).await, lost, "expired");
    assert_eq!(client.release("a", " ", json!({})).await, lost, "blank");
}

#[tokio::test]
async fn a_release_can_name_session_and_token() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    let other_session = client.release("a", "k", json!({ "session_id": "s-2" })).await;
    assert_eq!(other_session["reason"], "lock_not_found_or_not_owner");
    let by_header = client.clone().header("x-session-id", "s-2");
    let other_session = by_header.release("a", "k", json!({})).await;
    assert_eq!(other_session["reason"], "lock_not_found_or_not_owner");
    let stale = client.release("a", "k", json!({ "fencing_token": 2 })).await;
    assert_eq!(stale["reason"], "stale_fencing_token");
    assert_eq!(service.last_audit().await["result"], json!({ "reason": "stale_fencing_token" }));
    let not_mine = client.release("b", "k", json!({ "fencing_token": 2 })).await;
    assert_eq!(not_mine["reason"], "lock_not_found_or_not_owner");
    let right = json!({ "session_id": "s-1", "fencing_token": "1" });
    assert_eq!(client.release("a", "k", right).await["success"], true);
    client.acquire("a", "k", json!({})).await;
    let named = client.release("a", "k", json!({ "session_id": "s-9" })).await;
    assert_eq!(named["success"], true, "the holder has no session");
}

#[tokio::test]
async fn tokens_are_verified_in_order_at_one_time() {
    let service = Service::start().await;
    let client = service.client();
    let held = client.acquire("a", "held", json!({})).await;
    client.acquire("b", "expired", json!({})).await;
    service.expire("expired").await;
    client.acquire("b", "given back", json!({})).await;
    client.release("b", "given back", json!({})).await;
    let locks = json!([
        { "file_path": "./held", "fencing_token": 1 },
        { "file_path": "held", "fencing_token": "2" },
        { "file_path": "expired", "fencing_token": 1 },
        { "file_path": "never", "fencing_token": 1 },
        { "file_path": "given back", "fencing_token": 1 },
        { "file_path": "given back", "fencing_token": 2 },
        { "file_path": " ", "fencing_token": 1 },
        { "file_path": "held", "fencing_token": 1 },
    ]);
    let before = service.audit_rows().await;
    let answer = client.post("/locks/verify", json!({ "locks": locks })).await;
    let until = &held["expires_at"];
    let result = |file_path, fencing_token, valid, reason: Value, held: bool| {
        json!({
            "file_path": file_path, "fencing_token": fencing_token, "valid": valid,
            "reason": reason, "locked_by": held.then_some("a"),
            "expires_at": held.then_some(until),
        })
    };
    let mut given_back = result("given back", 1, false, json!("not_locked"), false);
    given_back["given_back"] = true.into();
    answer.assert_is(
        200,
        json!({ "valid": false, "results": [
            result("held", 1, true, json!(null), true),
            result("held", 2, false, json!("stale_fencing_token"), true),
            result("expired", 1, false, json!("not_locked"), false),
            result("never", 1, false, json!("not_locked"), false),
            given_back,
            result("given back", 2, false, json!("not_locked"), false),
            result("", 1, false, json!("invalid_file_path"), false),
            result("held", 1, true, json!(null), true),
        ]}),
    );
    let one = json!({ "locks": [{ "file_path": "held", "fencing_token": 1 }] });
    assert_eq!(client.post("/locks/verify", one).await.json["valid"], true);
    assert_eq!(service.audit_rows().await, before, "a read is not audited");
}

#[tokio::test]
async fn a_verification_names_every_problem_of_every_member() {
    let service = Service::start().await;
    let client = service.client();
    let problems =
        async |locks: Value| client.post("/locks/verify", json!({ "locks": locks })).await.issues();
    let one = |kind: &str, loc: Value| vec![(kind.to_owned(), loc)];
    assert_eq!(problems(json!([])).await, one("value_error", json!(["body", "locks"])));
    assert_eq!(problems(json!("x")).await, one("list_type", json!(["body", "locks"])));
    assert_eq!(problems(json!([7])).await, one("dict_type", json!(["body", "locks", 0])));
    let members = json!([
        { "file_path": "a", "fencing_token": 1 },
        { "file_path": "../a" },
        { "fencing_token": "x" },
        { "file_path": "a\0", "fencing_token": null },
    ]);
    assert_eq!(
        problems(members).await,
        [
            ("value_error".to_owned(), json!(["body", "locks", 1, "file_path"])),
            ("missing".to_owned(), json!(["body", "locks", 1, "fencing_token"])),
            ("missing".to_owned(), json!(["body", "locks", 2, "file_path"])),
            ("int_parsing".to_owned(), json!(["body", "locks", 2, "fencing_token"])),
            ("value_error".to_owned(), json!(["body", "locks", 3, "file_path"])),
            ("int_type".to_owned(), json!(["body", "locks", 3, "fencing_token"])),
        ]
    );
    let many = vec![json!({ "file_path": "a", "fencing_token": 1 }); 1001];
    assert_eq!(problems(json!(many)).await, one("too_long", json!(["body", "locks"])));
    let most = json!({ "locks": many[..1000] });
    assert_eq!(client.post("/locks/verify", most).await.status, 200);
}

#[tokio::test]
async fn the_status_of_a_key_is_asked_by_path() {
    let service = Service::start().await;
    let client = service.client();
    let free = |key: &str| json!({ "locked": false, "file_path": key });
    client.get("/locks/status/src/a.rs").await.assert_is(200, free("src/a.rs"));
    client.get("/locks/status/").await.assert_is(200, free(""));
    client.get("/locks/status/%20").await.assert_is(200, free(""));
    let held =
        client.acquire("a", "src/a b.rs", json!({ "session_id": "s", "reason": "why" })).await;
    let expected = json!({
        "locked": true,
        "file_path": "src/a b.rs",
        "lock": {
            "locked_by": "a", "agent_type": "codex", "locked_at": held["locked_at"],
            "expires_at": held["expires_at"], "reason": "why", "session_id": "s",
            "fencing_token": 1, "same_agent": false,
        },
    });
    let own = client.clone().header("x-agent-id", "a");
    let status = own.get("/locks/status/src/a%20b.rs").await.json;
    assert_eq!(status["lock"]["same_agent"], true, "in whatever session");
    for path in
        ["src/a%20b.rs", "./src//a%20b.rs", "src%2Fa%20b.rs?path=other&x=%ff", "src/a%20b.rs/"]
    {
        client.get(&format!("/locks/status/{path}")).await.assert_is(200, expected.clone());
    }
    service.expire("src/a b.rs").await;
    client.get("/locks/status/src/a%20b.rs").await.assert_is(200, free("src/a b.rs"));
    client.acquire("a", "api:get   /users", json!({})).await;
    let status = client.get("/locks/status/api:GET%20/users").await;
    assert_eq!(status.json["lock"]["locked_by"], "a");
    let escaping = client.get("/locks/status/..%2Fx").await.issues();
    assert_eq!(escaping, [("value_error".to_owned(), json!(["path", "path"]))]);
    let garbled = client.get("/locks/status/%ff").await.issues();
    assert_eq!(garbled[0], ("value_error".to_owned(), json!(["path", "path"])));
}

#[tokio::test]
async fn live_locks_are_listed_by_key() {
    let service = Service::start().await;
    let client = service.client();
    client
        .get("/locks")
        .await
        .assert_is(200, json!({ "locks": [], "count": 0, "truncated": false }));
    let limited = client.get("/locks?limit=0").await;
    limited.assert_is(200, json!({ "locks": [], "count": 0, "truncated": false }));
    for (agent, key) in [("b", "src/z.rs"), ("a", "src/B.rs"), ("a", "src/a.rs"), ("a", "doc/x")] {
        client.acquire(agent, key, json!({})).await;
    }
    client.acquire("a", "gone", json!({})).await;
    service.expire("gone").await;
    let keys = async |path: &str| {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let locks = answer.json["locks"].as_array().expect("a list").clone();
        assert_eq!(answer.json["count"], locks.len());
        let keys: Vec<_> = locks.iter().map(|it| it["file_path"].clone()).collect();
        (json!(keys), answer.json["truncated"].clone(), answer.json["hint"].clone())
    };
    let whole = |keys: Value| (keys, json!(false), Value::Null);
    let all = json!(["doc/x", "src/B.rs", "src/a.rs", "src/z.rs"]);
    assert_eq!(keys("/locks").await, whole(all.clone()));
    assert_eq!(keys("/locks?locked_by=&prefix=").await, whole(all.clone()));
    assert_eq!(keys("/locks?limit=501&other=1").await, whole(all.clone()));
    assert_eq!(keys("/locks?locked_by=b").await, whole(json!(["src/z.rs"])));
    assert_eq!(keys("/locks?prefix=src/a").await, whole(json!(["src/a.rs"])));
    assert_eq!(
        keys("/locks?prefix=src%2F&locked_by=a").await,
        whole(json!(["src/B.rs", "src/a.rs"]))
    );
    assert_eq!(
        keys("/locks?prefix=%25").await,
        whole(json!([])),
        "pattern characters have no meaning"
    );
    let hint = "showing first 2; re-run with a higher limit to see more; or repeat the request \
         with next_cursor as cursor for those that follow";
    let cut = (json!(["doc/x", "src/B.rs"]), json!(true), json!(hint));
    assert_eq!(keys("/locks?limit=2").await, cut);
    let none = "showing first 0; re-run with a higher limit to see more";
    assert_eq!(keys("/locks?limit=0").await, (json!([]), json!(true), json!(none)));
    let first = client.get("/locks?limit=1").await.json["locks"][0].clone();
    assert_keys(
        &first,
        &[
            "file_path",
            "locked_by",
            "agent_type",
            "locked_at",
            "expires_at",
            "reason",
            "session_id",
            "fencing_token",
            "same_agent",
        ],
    );
    let of = async |agent: &str| {
        let locks = client.clone().header("x-agent-id", agent).get("/locks").await.json;
        let own = locks["locks"].as_array().expect("a list").iter();
        let own = own.filter(|it| it["same_agent"] == true);
        own.map(|it| it["file_path"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("a").await, ["doc/x", "src/B.rs", "src/a.rs"]);
    assert_eq!(of("b").await, ["src/z.rs"]);
    for (path, kind) in
        [("/locks?limit=-1", "greater_than_equal"), ("/locks?limit=x", "int_parsing")]
    {
        let issues = client.get(path).await.issues();
        assert_eq!(issues, [(kind.to_owned(), json!(["query", "limit"]))]);
    }
}

#[tokio::test]
async fn an_admin_releases_any_lock_and_learns_its_holder() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let none = |reason: &str| {
        json!({
            "released": false, "prior_holder_agent_id": null, "prior_acquired_at": null,
            "reason": reason,
        })
    };
    boss.delete("/locks/src/a.rs").await.assert_is(200, none("not_locked"));
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "force_release_lock");
    assert_eq!((&audit["success"], &audit["agent_id"]), (&json!(false), &json!("boss")));
    assert_eq!(audit["result"], json!({ "reason": "not_locked" }));
    let held = client.acquire("a", "src/a.rs", json!({ "session_id": "s" })).await;
    let stale = boss.delete("/locks/src/a.rs?fencing_token=2").await;
    stale.assert_is(200, none("stale_fencing_token"));
    let freed = boss.delete("/locks/./src//a.rs?fencing_token=1").await;
    freed.assert_is(
        200,
        json!({
            "released": true, "prior_holder_agent_id": "a",
            "prior_acquired_at": held["locked_at"], "reason": null,
        }),
    );
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"], json!({ "file_path": "src/a.rs" }));
    assert_eq!(audit["result"], json!({ "prior_holder_agent_id": "a", "fencing_token": 1 }));
    boss.delete("/locks/src/a.rs").await.assert_is(200, none("not_locked"));
    let again = client.acquire("b", "src/a.rs", json!({})).await;
    assert_eq!((&again["action"], &again["fencing_token"]), (&json!("acquired"), &json!(2)));
    service.expire("src/a.rs").await;
    boss.delete("/locks/src/a.rs").await.assert_is(200, none("not_locked"));
    boss.delete("/locks/").await.assert_is(200, none("not_locked"));
    let issues = boss.delete("/locks/x?fencing_token=y").await.issues();
    assert_eq!(issues, [("int_parsing".to_owned(), json!(["query", "fencing_token"]))]);
}

#[tokio::test]
async fn keys_named_like_routes_can_be_released() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    for key in ["acquire", "release", "verify", "status", "status/x"] {
        client.acquire("a", key, json!({})).await;
        assert_eq!(boss.delete(&format!("/locks/{key}")).await.json["released"], true, "{key}");
    }
}

#[tokio::test]
async fn only_an_admin_releases_locks_of_other_agents() {
    let service = Service::start().await;
    service.client().acquire("a", "k", json!({})).await;
    for (key, reason) in [
        (CODEX, "profile_denied: operation_not_in_allowlist: force_release_lock"),
        (REVIEWER, "profile_denied: operation_not_in_allowlist: force_release_lock"),
        (crate::support::FREE, "admin_denied: trust_level=2 < 3"),
    ] {
        let denied = service.client_with(key).delete("/locks/k").await;
        denied.assert_is(403, json!({ "detail": reason }));
        let audit = service.last_audit().await;
        assert_eq!(audit["operation"], "policy_decision");
        assert_eq!(audit["success"], false);
        assert_eq!(
            audit["parameters"],
            json!({
                "operation": "force_release_lock", "resource": "k", "engine": "native",
                "context": null, "advisory": false,
            })
        );
        assert_eq!(
            audit["result"],
            json!({ "allowed": false, "reason": reason, "policy_id": null, "diagnostics": [] })
        );
    }
    assert_eq!(service.client().get("/locks/status/k").await.json["locked"], true);
}

#[tokio::test]
async fn workspaces_do_not_see_each_other() {
    let service = Service::start().await;
    let (client, team) = (service.client(), service.client_with(TEAM));
    client.acquire("a", "k", json!({})).await;
    let other = team.acquire("b", "k", json!({})).await;
    assert_eq!((&other["action"], &other["fencing_token"]), (&json!("acquired"), &json!(1)));
    assert_eq!(client.get("/locks").await.json["count"], 1);
    assert_eq!(client.release("b", "k", json!({})).await["success"], false);
    assert_eq!(team.release("b", "k", json!({})).await["success"], true);
    let verified = json!({ "locks": [{ "file_path": "k", "fencing_token": 1 }] });
    assert_eq!(team.post("/locks/verify", verified.clone()).await.json["valid"], false);
    assert_eq!(client.post("/locks/verify", verified).await.json["valid"], true);
    let workspaces = service.rows("select distinct workspace from audit_log order by 1").await;
    assert_eq!(workspaces, [json!({ "workspace": "default" }), json!({ "workspace": "team" })]);
}

/// Gives agent `codex-1` a profile with this file limit.
async fn limit_files(service: &Service, limit: i64) {
    let sql = format!(
        "update profile set max_file_modifications = {limit} where name = 'codex_cloud_worker'"
    );
    service.execute(&sql).await;
}

#[tokio::test]
async fn a_profile_limits_how_many_files_are_locked_at_once() {
    let service = Service::start().await;
    limit_files(&service, 2).await;
    let client = service.client_with(CODEX);
    client.acquire("codex-1", "a", json!({})).await;
    client.acquire("codex-1", "b", json!({})).await;
    let body = json!({ "file_path": "c", "agent_id": "codex-1", "agent_type": "codex" });
    let denied = client.post("/locks/acquire", body.clone()).await;
    let reason = "profile_denied: resource_limit_exceeded: max_file_modifications=2";
    denied.assert_is(403, json!({ "detail": reason }));
    assert_eq!(service.audit_rows().await, 3, "one row for the denial");
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "policy_decision");
    assert_eq!(audit["parameters"]["resource"], "c");
    assert_eq!(audit["result"]["reason"], reason);
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 2);

    let refreshed = client.acquire("codex-1", "b", json!({})).await;
    assert_eq!(refreshed["action"], "refreshed", "its own lock does not count against itself");
    let other_kind = client.acquire("codex-1", "api:GET /x", json!({})).await;
    assert_eq!(other_kind["success"], true, "only files count");
    service.expire("a").await;
    assert_eq!(client.acquire("codex-1", "c", json!({})).await["success"], true);
    client.release("codex-1", "c", json!({})).await;
    assert_eq!(client.acquire("codex-1", "d", json!({})).await["success"], true);
    service.client().acquire("free", "held-by-other", json!({})).await;
    let held = json!({ "file_path": "held-by-other", "agent_id": "", "agent_type": "" });
    assert_eq!(client.post("/locks/acquire", held).await.status, 403, "the limit comes first");
}

#[tokio::test]
async fn the_file_limit_holds_when_many_acquire_at_once() {
    let service = Service::start().await;
    limit_files(&service, 3).await;
    let client = service.client_with(CODEX);
    let answers = join_all((0..24).map(|n| {
        let body = json!({ "file_path": format!("f{n}"), "agent_id": "", "agent_type": "" });
        client.post("/locks/acquire", body)
    }))
    .await;
    let count = |status| answers.iter().filter(|it| it.status == status).count();
    assert_eq!((count(http::StatusCode::OK), count(http::StatusCode::FORBIDDEN)), (3, 21));
    let live: i64 =
        service.scalar("select count(*) from file_lock where expires_at > clock_timestamp()").await;
    assert_eq!(live, 3);
}

#[tokio::test]
async fn limits_can_be_switched_off() {
    let service = Service::with(&[("PROFILES_ENFORCE_LIMITS", "false")]).await;
    limit_files(&service, 0).await;
    let client = service.client_with(CODEX);
    assert_eq!(client.acquire("codex-1", "a", json!({})).await["success"], true);
}

#[tokio::test]
async fn one_of_many_callers_acquires_the_lock_and_the_rest_learn_its_holder() {
    let service = Service::start().await;
    let client = service.client();
    let answers = join_all((0..64).map(|n| {
        let client = client.clone();
        async move { client.acquire(&format!("agent-{n}"), "k", json!({})).await }
    }))
    .await;
    let winners: Vec<_> = answers.iter().filter(|it| it["success"] == true).collect();
    assert_eq!(winners.len(), 1);
    let holder: String = service.scalar("select agent_id from file_lock").await;
    for refused in answers.iter().filter(|it| it["success"] == false) {
        assert_eq!(refused["reason"], "locked_by_other");
        assert_eq!(refused["locked_by"], holder);
        assert!(refused["expires_at"].is_string() && refused["locked_at"].is_string());
    }
    let rows = service
        .rows("select success, count(*) as n from audit_log group by success order by success")
        .await;
    assert_eq!(rows, [json!({ "success": false, "n": 63 }), json!({ "success": true, "n": 1 })]);
}

#[tokio::test]
async fn concurrent_acquisitions_of_an_expired_lock_get_one_new_token() {
    let service = Service::start().await;
    let client = service.client();
    for round in 1..=5 {
        client.acquire("old", "k", json!({})).await;
        service.expire("k").await;
        let answers = join_all((0..16).map(|n| {
            let client = client.clone();
            async move { client.acquire(&format!("agent-{n}"), "k", json!({})).await }
        }))
        .await;
        let tokens: Vec<_> = answers
            .iter()
            .filter(|it| it["success"] == true)
            .map(|it| &it["fencing_token"])
            .collect();
        assert_eq!(tokens, [&json!(2 * round)]);
        service.expire("k").await;
    }
}

#[tokio::test]
async fn concurrent_acquisitions_of_one_agent_acquire_once_and_then_refresh() {
    let service = Service::start().await;
    let client = service.client();
    let answers = join_all((0..16).map(|_| client.acquire("a", "k", json!({})))).await;
    let acquired = answers.iter().filter(|it| it["action"] == "acquired").count();
    let refreshed = answers.iter().filter(|it| it["action"] == "refreshed").count();
    assert_eq!((acquired, refreshed), (1, 15));
    assert!(answers.iter().all(|it| it["fencing_token"] == 1));
}

/// The state of one key in the model.
#[derive(Clone, Default)]
struct Model {
    token: i64,
    holder: Option<(u64, Option<u64>)>,
}

#[tokio::test]
async fn ten_thousand_random_steps_agree_with_a_model_and_never_repeat_a_token() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let seed = new_seed();
    let mut dice = Dice::new(seed);
    let mut models = vec![Model::default(); 3];
    for step in 0..10_000 {
        let key = dice.roll(3) as usize;
        let (agent, session) = (dice.roll(3), dice.roll(3).checked_sub(1));
        let model = &mut models[key];
        let name = format!("k{key}");
        let place = format!("seed {seed} step {step} key {key}");
        let mine = |holder: (u64, Option<u64>)| {
            holder.0 == agent && (holder.1.is_none() || session.is_none() || holder.1 == session)
        };
        let more = json!({ "session_id": session.map(|it| format!("s{it}")) });
        match dice.roll(10) {
            0..5 => {
                let answer = client.acquire(&format!("agent-{agent}"), &name, more).await;
                match model.holder {
                    Some(holder) if !mine(holder) => {
                        assert_eq!(answer["success"], false, "{place}");
                        assert_eq!(answer["locked_by"], format!("agent-{}", holder.0), "{place}");
                    }
                    Some(_) => {
                        assert_eq!(answer["action"], "refreshed", "{place}");
                        assert_eq!(answer["fencing_token"], model.token, "{place}");
                    }
                    None => {
                        assert_eq!(answer["action"], "acquired", "{place}");
                        model.token += 1;
                        assert_eq!(answer["fencing_token"], model.token, "{place}");
                        model.holder = Some((agent, session));
                    }
                }
            }
            5..8 => {
                let answer = client.release(&format!("agent-{agent}"), &name, more).await;
                let released = model.holder.is_some_and(mine);
                assert_eq!(answer["success"], released, "{place}");
                model.holder = model.holder.filter(|_| !released);
            }
            8 => {
                service.expire(&name).await;
                model.holder = None;
            }
            _ => {
                let answer = boss.delete(&format!("/locks/{name}")).await.json;
                assert_eq!(answer["released"], model.holder.is_some(), "{place}");
                model.holder = None;
            }
        }
    }
}

#[tokio::test]
async fn tokens_of_concurrent_acquisitions_grow_and_never_repeat() {
    let service = Service::start().await;
    let client = service.client();
    let rival = |n: u64| {
        let (client, agent) = (client.clone(), format!("agent-{n}"));
        async move {
            let mut tokens = Vec::new();
            for _ in 0..60 {
                let answer = client.acquire(&agent, "k", json!({})).await;
                if answer["success"] == true {
                    tokens.push(answer["fencing_token"].as_i64().expect("a token"));
                    client.release(&agent, "k", json!({})).await;
                }
            }
            tokens
        }
    };
    let granted = join_all((0..8).map(rival)).await;
    for tokens in &granted {
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    }
    let mut all: Vec<_> = granted.concat();
    all.sort_unstable();
    let count = all.len() as i64;
    assert_eq!(all, (1..=count).collect::<Vec<_>>(), "every token is granted once");
    let recorded = service
        .rows(
            "select (result->>'fencing_token')::bigint as token from audit_log
             where operation = 'acquire_lock' and success order by created_at",
        )
        .await;
    assert_eq!(recorded.len() as i64, count);
}

#[tokio::test]
async fn public_reads_show_the_default_workspace_only() {
    let service = Service::with(&[("COORDINATION_PUBLIC_READS", "true")]).await;
    service.client().acquire("a", "k", json!({})).await;
    service.client_with(TEAM).acquire("b", "secret", json!({})).await;
    let anonymous: Client = service.anonymous();
    let listed = anonymous.get("/locks").await.json;
    assert_eq!((&listed["count"], &listed["locks"][0]["file_path"]), (&json!(1), &json!("k")));
    assert_eq!(anonymous.get("/locks/status/k").await.json["locked"], true);
    assert_eq!(anonymous.get("/locks/status/secret").await.json["locked"], false);
    let wrong = service.client_with("wrong").get("/locks").await;
    wrong.assert_is(401, json!({ "detail": "Invalid API key" }));
    let elsewhere = anonymous.header("x-workspace", "team").get("/locks").await;
    let detail = "API key is not permitted to use requested workspace";
    elsewhere.assert_is(403, json!({ "detail": detail }));
}

/// Registers session `s-1` of agent `a` with its last heartbeat so many minutes ago.
async fn session(service: &Service, minutes_ago: u32) {
    service
        .execute(&format!(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, last_heartbeat_at)
             values ('default', 'a', 's-1', 't', clock_timestamp() - interval '{minutes_ago} minutes')
             on conflict (workspace, agent_id, session_id) do update
             set last_heartbeat_at = excluded.last_heartbeat_at"
        ))
        .await;
}

#[tokio::test]
async fn locks_of_an_ended_session_are_free_at_once_and_are_not_restored() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "20")]).await;
    let client = service.client();
    session(&service, 0).await;
    let own = json!({ "session_id": "s-1", "ttl_minutes": 480 });
    for key in ["k1", "k2", "k3"] {
        client.acquire("a", key, own.clone()).await;
    }
    client.acquire("a", "sibling", json!({ "session_id": "s-2", "ttl_minutes": 480 })).await;
    session(&service, 19).await;
    assert_eq!(client.get("/locks").await.json["count"], 4);
    session(&service, 21).await;
    let listed = client.get("/locks").await.json;
    assert_eq!(
        (&listed["count"], &listed["locks"][0]["file_path"]),
        (&json!(1), &json!("sibling"))
    );
    assert_eq!(client.get("/locks/status/k1").await.json["locked"], false);
    let verify = json!({ "locks": [{ "file_path": "k1", "fencing_token": 1 }] });
    let verified = client.post("/locks/verify", verify).await.json;
    assert_eq!(verified["results"][0]["reason"], "not_locked");
    let taken = client.acquire("b", "k1", json!({})).await;
    assert_eq!((&taken["action"], &taken["fencing_token"]), (&json!("acquired"), &json!(2)));
    assert_eq!(service.last_audit().await["result"]["took_over_from"], "a");
    let boss = service.client_with(BOSS);
    assert_eq!(boss.delete("/locks/k2").await.json["reason"], "not_locked");
    // The next heartbeat revives the session. Its old locks stay lost, and it holds those that it acquires now.
    let again = client.acquire("a", "k2", own.clone()).await;
    assert_eq!((&again["action"], &again["fencing_token"]), (&json!("acquired"), &json!(2)));
    let released = client.release("a", "k3", json!({ "session_id": "s-1" })).await;
    assert_eq!(released["reason"], "lock_not_found_or_not_owner");
    let refreshed = client.acquire("a", "k2", own).await;
    assert_eq!(refreshed["action"], "refreshed");
    let lost: i64 =
        service.scalar("select count(*) from file_lock where key = 'k3' and agent_id = 'a'").await;
    assert_eq!(lost, 1, "no clean-up had to run");
}

#[tokio::test]
async fn locks_of_an_ended_session_do_not_count_against_the_file_limit() {
    let service = Service::start().await;
    limit_files(&service, 1).await;
    let client = service.client_with(CODEX);
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type)
             values ('default', 'codex-1', 's', 't')",
        )
        .await;
    client.acquire("codex-1", "a", json!({ "session_id": "s" })).await;
    let body = json!({ "file_path": "b", "agent_id": "", "agent_type": "" });
    assert_eq!(client.post("/locks/acquire", body.clone()).await.status, 403);
    service.execute("update agent_session set ended_at = now()").await;
    assert_eq!(client.post("/locks/acquire", body).await.status, 200);
}
