//! Memory: storing, merging and recall.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{CODEX, Client, REVIEWER, Service, TEAM, with};

/// Stores a memory as an agent; `more` are further members of the body.
async fn remember(client: &Client, agent: &str, summary: &str, more: Value) -> Value {
    let body = json!({ "agent_id": agent, "event_type": "decision", "summary": summary });
    let answer = client.post("/memory/store", with(body, more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn recall(client: &Client, agent: &str, more: Value) -> Value {
    let body = with(json!({ "agent_id": agent }), more);
    let answer = client.post("/memory/query", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// The summaries of the recalled memories, in order.
async fn found(client: &Client, agent: &str, more: Value) -> Vec<String> {
    let answer = recall(client, agent, more).await;
    let memories = answer["memories"].as_array().expect("a list");
    memories.iter().map(|it| it["summary"].as_str().expect("a summary").to_owned()).collect()
}

/// Makes memories older, as time would.
async fn age(service: &Service, summary: &str, interval: &str) {
    service
        .execute(&format!(
            "update memory set created_at =
                (created_at at time zone 'utc' - interval '{interval}') at time zone 'utc'
             where summary = '{summary}'"
        ))
        .await;
}

async fn count(service: &Service) -> i64 {
    service.scalar("select count(*) from memory").await
}

const NONE: [&str; 0] = [];

#[tokio::test]
async fn a_memory_is_recalled_as_it_was_stored() {
    let service = Service::start().await;
    let client = service.client();
    let more = json!({
        "session_id": "s-1", "details": { "n": [1, null] }, "outcome": "positive",
        "lessons": ["measure first"], "tags": ["db", "severity:high", "db"],
    });
    let stored = remember(&client, "claude-1", "one pool per process", more).await;
    let members: Vec<_> = stored.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["success", "memory_id", "action"]);
    assert_eq!((&stored["success"], &stored["action"]), (&json!(true), &json!("created")));
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("remember"), &json!(true)));
    let parameters = json!({ "event_type": "decision", "tags": ["db", "severity:high", "db"] });
    assert_eq!(audit["parameters"], parameters);
    let result = json!({ "action": "created", "memory_id": stored["memory_id"] });
    assert_eq!(audit["result"], result);
    assert_eq!((&audit["agent_id"], &audit["session_id"]), (&json!("claude-1"), &json!("s-1")));

    let mut answer = recall(&client, "claude-1", json!({})).await;
    let members: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["memories", "count", "truncated"]);
    assert_eq!((&answer["count"], &answer["truncated"]), (&json!(1), &json!(false)));
    let memory = answer["memories"][0].as_object_mut().expect("an object");
    let members: Vec<_> = memory.keys().collect();
    assert_eq!(
        members,
        [
            "id",
            "event_type",
            "summary",
            "details",
            "outcome",
            "lessons",
            "tags",
            "relevance_score",
            "created_at",
            "agent_id",
            "session_id",
            "own"
        ]
    );
    let score = memory.remove("relevance_score").and_then(|it| it.as_f64()).expect("a number");
    assert!(score > 0.999 && score <= 1.0, "{score}");
    let created_at = memory.remove("created_at").expect("a time");
    assert!(created_at.as_str().is_some_and(|it| it.ends_with("+00:00")), "{created_at}");
    assert_eq!(
        answer["memories"][0],
        json!({
            "id": stored["memory_id"], "event_type": "decision",
            "summary": "one pool per process", "details": { "n": [1, null] },
            "outcome": "positive", "lessons": ["measure first"],
            "tags": ["db", "severity:high", "db"], "agent_id": "claude-1", "session_id": "s-1",
            "own": true,
        })
    );
    assert_eq!(service.audit_rows().await, 1, "to recall is not audited");
}

#[tokio::test]
async fn omitted_members_are_stored_as_empty() {
    let service = Service::start().await;
    let client = service.client();
    let nulls = json!({
        "session_id": null, "details": null, "outcome": null, "lessons": null, "tags": null,
    });
    remember(&client, "a", "", nulls).await;
    remember(&client, "a", "x", json!({})).await;
    for memory in recall(&client, "a", json!({})).await["memories"].as_array().expect("a list") {
        assert_eq!(memory["details"], json!({}));
        assert_eq!((&memory["lessons"], &memory["tags"]), (&json!([]), &json!([])));
        assert_eq!((&memory["outcome"], &memory["session_id"]), (&json!(null), &json!(null)));
    }
}

#[tokio::test]
async fn a_repeated_memory_is_merged_within_an_hour() {
    let service = Service::start().await;
    let client = service.client();
    let more = json!({
        "session_id": "s-1", "details": { "a": 1 }, "outcome": "neutral", "lessons": ["x", "y"],
        "tags": ["b", "a"],
    });
    let first = remember(&client, "a", "s", more).await;
    age(&service, "s", "59 minutes").await;
    let created_at = recall(&client, "a", json!({})).await["memories"][0]["created_at"].clone();
    let more = json!({
        "session_id": "s-2", "details": {}, "outcome": null, "lessons": ["z", "x"],
        "tags": ["c", "a", "d", "c"],
    });
    let again = remember(&client, "a", "s", more).await;
    let id = &first["memory_id"];
    assert_eq!(again, json!({ "success": true, "memory_id": id, "action": "deduplicated" }));
    let audit = service.last_audit().await;
    assert_eq!(audit["result"], json!({ "action": "deduplicated", "memory_id": id }));
    let memory = recall(&client, "a", json!({})).await["memories"][0].clone();
    assert_eq!(memory["lessons"], json!(["x", "y", "z"]));
    assert_eq!(memory["tags"], json!(["b", "a", "c", "d"]));
    assert_eq!((&memory["details"], &memory["outcome"]), (&json!({ "a": 1 }), &json!("neutral")));
    assert_eq!((&memory["created_at"], &memory["session_id"]), (&created_at, &json!("s-1")));
    remember(&client, "a", "s", json!({ "details": { "b": 2 }, "outcome": "negative" })).await;
    let memory = recall(&client, "a", json!({ "tags": ["d"] })).await["memories"][0].clone();
    assert_eq!((&memory["details"], &memory["outcome"]), (&json!({ "b": 2 }), &json!("negative")));
    assert_eq!(memory["tags"], json!(["b", "a", "c", "d"]));
    assert_eq!(count(&service).await, 1);
    assert_eq!(found(&client, "a", json!({ "query": "z d" })).await, ["s"], "merged words too");
}

#[tokio::test]
async fn a_repeated_memory_is_a_new_one_after_an_hour() {
    let service = Service::start().await;
    let client = service.client();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let stored = remember(&client, "a", "s", json!({ "tags": ["x"] })).await;
        assert_eq!(stored["action"], "created");
        let again = remember(&client, "a", "s", json!({})).await;
        assert_eq!(
            (&again["action"], &again["memory_id"]),
            (&json!("deduplicated"), &stored["memory_id"])
        );
        ids.push(stored["memory_id"].clone());
        age(&service, "s", "1 hour").await;
    }
    let answer = recall(&client, "a", json!({})).await;
    let memories = answer["memories"].as_array().expect("a list");
    ids.reverse();
    assert!(memories.iter().map(|it| &it["id"]).eq(&ids), "the latest first: {memories:?}");
}

#[tokio::test]
async fn only_memories_with_the_same_agent_type_and_summary_are_merged() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "s", json!({})).await;
    for (agent, summary, more) in [
        ("b", "s", json!({})),
        ("a", "S", json!({})),
        ("a", "s ", json!({})),
        ("a", "s", json!({ "event_type": "error" })),
        ("a", "s", json!({ "event_type": "Decision" })),
        ("a", "\u{e9}", json!({})),
        ("a", "e\u{301}", json!({})),
    ] {
        assert_eq!(remember(&client, agent, summary, more).await["action"], "created");
    }
    let team = remember(&service.client_with(TEAM), "a", "s", json!({})).await;
    assert_eq!((&team["action"], count(&service).await), (&json!("created"), 9));
}

#[tokio::test]
async fn concurrent_repetitions_are_merged_into_one_memory() {
    let service = Service::start().await;
    for (round, actions) in [("first", 1), ("an hour later", 1)] {
        let answers = join_all((0..24).map(|n| {
            let client = service.client();
            let more = json!({ "tags": [format!("t{n}")], "lessons": [format!("l{n}")] });
            async move { remember(&client, "a", "s", more).await }
        }))
        .await;
        let id = &answers[0]["memory_id"];
        assert!(answers.iter().all(|it| it["memory_id"] == *id), "{round}: {answers:?}");
        let created = answers.iter().filter(|it| it["action"] == "created").count();
        assert_eq!(created, actions, "{round}");
        let memory = recall(&service.client(), "a", json!({})).await["memories"][0].clone();
        assert_eq!(memory["id"], *id);
        for list in ["tags", "lessons"] {
            assert_eq!(memory[list].as_array().map(Vec::len), Some(24), "{round}: {list}");
        }
        age(&service, "s", "1 hour").await;
    }
    assert_eq!((count(&service).await, service.audit_rows().await), (2, 48));
}

#[tokio::test]
async fn invalid_input_is_refused_and_leaves_no_row() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    let loc = |name: &str| json!(["body", name]);
    let missing = ["agent_id", "event_type", "summary"].map(|it| ("missing".to_owned(), loc(it)));
    assert_eq!(client.post("/memory/store", json!({})).await.issues(), missing);
    for (name, value, kind) in [
        ("session_id", json!("x".repeat(257)), "string_too_long"),
        ("event_type", json!("x".repeat(257)), "string_too_long"),
        ("summary", json!("x".repeat(16_385)), "string_too_long"),
        ("summary", json!(null), "string_type"),
        ("details", json!([]), "dict_type"),
        ("details", json!({ "a": ["\0"] }), "value_error"),
        ("outcome", json!(1), "string_type"),
        ("lessons", json!("x"), "list_type"),
        ("lessons", json!(vec!["x"; 1001]), "too_long"),
        ("tags", json!(vec!["x"; 1001]), "too_long"),
    ] {
        let mut body = json!({ "agent_id": "a", "event_type": "e", "summary": "s" });
        body[name] = value;
        let issues = client.post("/memory/store", body).await.issues();
        assert_eq!(issues, [(kind.to_owned(), loc(name))]);
    }
    let body = json!({
        "agent_id": "a", "event_type": "e", "summary": "s", "tags": ["ok", "x".repeat(257)],
        "lessons": [1],
    });
    assert_eq!(
        client.post("/memory/store", body).await.issues(),
        [
            ("string_type".to_owned(), json!(["body", "lessons", 0])),
            ("string_too_long".to_owned(), json!(["body", "tags", 1])),
        ]
    );
    let missing = [("missing".to_owned(), loc("agent_id"))];
    assert_eq!(client.post("/memory/query", json!({})).await.issues(), missing);
    for (name, value, kind) in [
        ("tags", json!("x"), "list_type"),
        ("limit", json!(-1), "greater_than_equal"),
        ("limit", json!(null), "int_type"),
        ("query", json!("x".repeat(4097)), "string_too_long"),
        ("scope", json!("all"), "enum"),
        ("scope", json!(null), "string_type"),
        ("min_relevance", json!(1.01), "less_than_equal"),
        ("min_relevance", json!(-0.1), "greater_than_equal"),
        ("min_relevance", json!("much"), "value_error"),
        ("since", json!("2026-09-01T10:00:00"), "value_error"),
        ("since", json!("soon"), "value_error"),
    ] {
        let mut body = json!({ "agent_id": "a" });
        body[name] = value;
        let issues = client.post("/memory/query", body).await.issues();
        assert_eq!(issues, [(kind.to_owned(), loc(name))]);
    }
    assert_eq!(service.contents().await, before);
    for route in ["/memory/store", "/memory/query"] {
        assert_eq!(client.get(route).await.status, 405);
    }
}

#[tokio::test]
async fn an_agent_recalls_its_own_or_everybodys_but_never_another_workspaces() {
    let service = Service::start().await;
    let (client, codex, team) =
        (service.client(), service.client_with(CODEX), service.client_with(TEAM));
    remember(&client, "a", "of a", json!({})).await;
    remember(&codex, "codex-1", "of codex", json!({})).await;
    remember(&team, "a", "of team", json!({})).await;
    assert_eq!(found(&client, "a", json!({})).await, ["of a"]);
    assert_eq!(found(&client, "b", json!({})).await, NONE);
    assert_eq!(found(&codex, "", json!({ "scope": "own" })).await, ["of codex"]);
    let everybody = json!({ "scope": "workspace" });
    assert_eq!(found(&client, "b", everybody.clone()).await, ["of codex", "of a"]);
    assert_eq!(found(&team, "b", everybody).await, ["of team"]);
    let words = json!({ "scope": "workspace", "query": "of", "tags": [] });
    assert_eq!(found(&team, "b", words).await, ["of team"]);
    let denial = json!({ "detail": "API key is not permitted to act as requested agent_id" });
    for route in ["/memory/store", "/memory/query"] {
        let body = json!({ "agent_id": "a", "event_type": "e", "summary": "s" });
        codex.post(route, body.clone()).await.assert_is(403, denial.clone());
        let mut typed = body;
        typed["agent_id"] = json!("codex-1");
        typed["agent_type"] = json!("another");
        assert_eq!(codex.post(route, typed).await.status, 200, "a body's type is ignored");
    }
    let reviewer = service.client_with(REVIEWER);
    assert_eq!(found(&reviewer, "reviewer", json!({ "scope": "workspace" })).await.len(), 3);
    let body = json!({ "agent_id": "reviewer", "event_type": "e", "summary": "s" });
    assert_eq!(reviewer.post("/memory/store", body).await.status, 403);
}

#[tokio::test]
async fn filters_narrow_what_is_recalled() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "one", json!({ "tags": ["x", "y"], "event_type": "error" })).await;
    remember(&client, "a", "two", json!({ "tags": ["y", "z"] })).await;
    remember(&client, "a", "three", json!({})).await;
    age(&service, "one", "2 days").await;
    age(&service, "two", "1 day").await;
    for (filter, expected) in [
        (json!({}), vec!["three", "two", "one"]),
        (
            json!({ "tags": null, "event_type": null, "since": null, "query": null }),
            vec!["three", "two", "one"],
        ),
        (json!({ "tags": [], "event_type": "", "query": "" }), vec!["three", "two", "one"]),
        (json!({ "tags": ["x"] }), vec!["one"]),
        (json!({ "tags": ["x", "z"] }), vec!["two", "one"]),
        (json!({ "tags": ["X"] }), vec![]),
        (json!({ "event_type": "error" }), vec!["one"]),
        (json!({ "event_type": "Error" }), vec![]),
        (json!({ "min_relevance": 0.82 }), vec!["three", "two"]),
        (json!({ "min_relevance": "0.9" }), vec!["three", "two"]),
        (json!({ "min_relevance": 0.91 }), vec!["three"]),
        (json!({ "tags": ["y"], "event_type": "decision", "query": "two" }), vec!["two"]),
        (json!({ "since": "0001-01-01T00:00:00Z" }), vec!["three", "two", "one"]),
        (json!({ "since": "9999-12-31T23:59:59+00:00" }), vec![]),
    ] {
        assert_eq!(found(&client, "a", filter.clone()).await, expected, "{filter}");
    }
    let newest = recall(&client, "a", json!({})).await["memories"][1]["created_at"].clone();
    assert_eq!(found(&client, "a", json!({ "since": newest })).await, ["three", "two"]);
}

#[tokio::test]
async fn the_limit_truncates_and_says_so() {
    let service = Service::start().await;
    let client = service.client();
    for n in 0..12 {
        remember(&client, "a", &format!("s{n}"), json!({})).await;
    }
    let ten = recall(&client, "a", json!({})).await;
    assert_eq!((&ten["count"], &ten["truncated"]), (&json!(10), &json!(true)));
    assert_eq!(
        ten["hint"],
        "showing first 10; re-run with a higher limit to see more; or repeat the request \
         with next_cursor as cursor for those that follow"
    );
    let all = recall(&client, "a", json!({ "limit": 100_000 })).await;
    assert_eq!((&all["count"], &all["truncated"]), (&json!(12), &json!(false)));
    assert!(all.get("hint").is_none());
    let none = recall(&client, "a", json!({ "limit": 0 })).await;
    assert_eq!((&none["memories"], &none["truncated"]), (&json!([]), &json!(true)));
}

#[tokio::test]
async fn memories_are_ordered_by_relevance_which_falls_with_age() {
    let service = Service::start().await;
    let client = service.client();
    for summary in ["hour", "day", "month", "century"] {
        remember(&client, "a", summary, json!({})).await;
    }
    for (summary, interval) in
        [("hour", "12 hours"), ("day", "1 day"), ("month", "30 days"), ("century", "100 years")]
    {
        age(&service, summary, interval).await;
    }
    let answer = recall(&client, "a", json!({ "query": "" })).await;
    let expected =
        [("hour", 0.951_229), ("day", 0.904_837), ("month", 0.049_787), ("century", 0.0)];
    for (memory, (summary, score)) in
        answer["memories"].as_array().expect("a list").iter().zip(expected)
    {
        assert_eq!(memory["summary"], summary);
        let found = memory["relevance_score"].as_f64().expect("a number");
        assert!((found - score).abs() < 1e-4, "{summary}: {found}");
    }
    service.execute("update memory set created_at = now() + interval '1 day'").await;
    let ahead = recall(&client, "a", json!({ "query": "century" })).await;
    assert_eq!(ahead["memories"][0]["relevance_score"], 1.0, "never above the weight");
}

#[tokio::test]
async fn identifiers_paths_and_error_codes_are_found_whole_and_in_part() {
    let service = Service::start().await;
    let client = service.client();
    let summary = "Fixed `src/capabilities/locks.rs`: error[E0433] in crate::LockKey::parse, \
        it's \u{201c}3.11.0\u{201d} of HTTPServer; snake_case_name --force C:\\Users\\x größe";
    remember(&client, "a", summary, json!({})).await;
    remember(&client, "a", "something else: 11 3 0, rs and locks, name snake", json!({})).await;
    for query in [
        "E0433",
        "e0433",
        "error[E0433]",
        "src/capabilities/locks.rs",
        "./src/capabilities/",
        "capabilities/locks.rs",
        "locks.rs",
        "locks.rs:",
        "\"locks.rs\"",
        "LockKey",
        "lockkey",
        "key fixed",
        "LockKey::parse",
        "lockkey::parse",
        "crate::LockKey",
        "3.11.0",
        "3.11",
        "it's",
        "it\u{2019}s",
        "httpserver",
        "server http",
        "snake_case_name",
        "case_name",
        "--force",
        "C:\\Users\\x",
        "Users\\x",
        "größe",
        "E04",
        "fixed E04",
        "src/cap",
    ] {
        assert_eq!(found(&client, "a", json!({ "query": query })).await, [summary], "{query}");
    }
    for query in ["Lock Key", "case snake", "fixed nothing", "E04 fixed", "3.11.0 nothing"] {
        assert_eq!(found(&client, "a", json!({ "query": query })).await[0], summary, "{query}");
    }
    for query in ["E0434", "3.0.11", "snake_name", "locks.py", "parse::LockKey"] {
        assert_eq!(found(&client, "a", json!({ "query": query })).await, NONE, "{query}");
    }
    assert_eq!(found(&client, "a", json!({ "query": "rs locks" })).await.len(), 2);
}

/// Each word is found by itself, and not in the other memories.
async fn assert_found(words: &[(&str, &[&str])]) {
    let service = Service::start().await;
    let client = service.client();
    for (summary, _) in words {
        remember(&client, "a", summary, json!({})).await;
    }
    for (summary, queries) in words {
        for query in *queries {
            let found = found(&client, "b", json!({ "query": query, "scope": "workspace" })).await;
            assert_eq!(found, [*summary], "{query}");
        }
    }
}

#[tokio::test]
async fn a_word_of_a_script_without_spaces_is_found_anywhere() {
    assert_found(&[
        ("サーバーへの接続がタイムアウトした", &["接続", "タイムアウト", "サーバー", "アウトした"]),
        ("数据库连接池已耗尽", &["连接池", "耗尽", "数据库", "池"]),
        ("การเชื่อมต่อฐานข้อมูลล้มเหลว", &["ฐานข้อมูล", "ล้มเหลว"]),
        // A particle that the memory has, or only the query.
        ("캐시를 비우면 빌드가 성공한다", &["캐시", "빌드", "캐시는"]),
        ("ロックfile.rsを解放", &["file.rs", "解放", "ロック"]),
        ("配置🦀完成", &["🦀", "完成"]),
        // A question in words that no one has as a whole.
        ("令牌过期导致登录失败", &["为什么登录失败了"]),
    ])
    .await;
}

#[tokio::test]
async fn parts_of_compounds_and_identifiers_are_found() {
    assert_found(&[
        ("Der Datenbankverbindungspool ist leer", &["verbindungspool", "VERBINDUNG", "bankverb"]),
        ("upgraded to v1.2.3 of the library", &["1.2.3", "v1.2", "2.3"]),
        ("the proxy answered HTTP503", &["503", "http503", "P50"]),
        ("call getUserById instead", &["UserById", "user_by_id", "user-by-id", "userby"]),
        ("the RateLimiter in rate_limit.rs", &["rate-limit", "Rate_Limiter", "limit.rs"]),
        ("see https://ci.example.com/jobs/4711?tab=log", &["example.com/jobs", "4711", "tab=log"]),
        ("broken by 3f9a2c7d41", &["3f9a2c", "9a2c7d"]),
        ("ARM64 needs another linker", &["arm", "arm64", "64"]),
    ])
    .await;
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "alarm at 12.3, version 1.23.4 of ab", json!({})).await;
    // A word that is indexed in pieces, of which one ends within what is looked for.
    let long = format!("{}needle42{}", "x".repeat(197), "y".repeat(500));
    remember(&client, "a", &long, json!({})).await;
    for query in ["needle42", "xxneedle", "le42yy", &long] {
        assert_eq!(
            found(&client, "a", json!({ "query": query })).await,
            [long.as_str()],
            "{query}"
        );
    }
    for query in ["1.2.3", "arm", "3.4.1", "b", "larmat"] {
        assert_eq!(found(&client, "a", json!({ "query": query })).await, NONE, "{query}");
    }
}

#[tokio::test]
async fn accents_umlauts_and_width_make_no_difference() {
    assert_found(&[
        (
            "Frau Müller kennt den Schlüssel",
            &["muller", "Mueller", "MÜLLER", "mu\u{308}ller", "schluessel"],
        ),
        ("une requête trop générale", &["requete", "GENERALE", "générale"]),
        ("Straße und Øresund", &["strasse", "STRASSE", "oresund"]),
        ("ＡＰＩ returned ４２９", &["api", "429"]),
    ])
    .await;
}

#[tokio::test]
async fn a_single_letter_is_found_as_a_word_and_not_as_a_part() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "one pool", json!({})).await;
    remember(&client, "a", "vitamin e", json!({})).await;
    for (query, expected) in [("xyzzy é", &[][..]), ("xyzzy e", &["vitamin e"])] {
        assert_eq!(found(&client, "a", json!({ "query": query })).await, expected, "{query}");
    }
}

#[tokio::test]
async fn a_question_finds_what_fits_most() {
    let service = Service::start().await;
    let client = service.client();
    let summaries = [
        "The build fails on ARM: the linker is too old",
        "The build of the documents is slow",
        "arm64 has no valgrind",
        "failing tests are retried",
        "unrelated",
    ];
    for summary in summaries {
        remember(&client, "a", summary, json!({})).await;
    }
    let ask = async |query: &str| found(&client, "a", json!({ "query": query })).await;
    let found = ask("why does the build fail on arm?").await;
    assert_eq!(found[0], summaries[0]);
    let mut others = found[1..].to_vec();
    others.sort();
    assert_eq!(others, [summaries[1], summaries[2], summaries[3]]);
    assert_eq!(ask("build failing").await[0], summaries[0]);
    assert_eq!(ask("retry failed test").await[0], summaries[3]);
    // Only words without a meaning of their own: they count then.
    assert_eq!(ask("is the").await, [summaries[1], summaries[0]]);
    let two = recall(&client, "a", json!({ "query": "why does arm fail?", "limit": 2 })).await;
    assert_eq!((&two["count"], &two["truncated"]), (&json!(2), &json!(true)));
    assert_eq!(two["memories"][0]["summary"], summaries[0], "all words first");
}

#[tokio::test]
async fn whole_words_come_before_parts_of_words_however_new_these_are() {
    let service = Service::start().await;
    let client = service.client();
    for summary in ["src/pool.rs", "pool", "pooling", "spooled", "whirlpools"] {
        remember(&client, "a", summary, json!({})).await;
        age(&service, summary, "1 day").await;
    }
    age(&service, "pool", "9 days").await;
    let found = found(&client, "a", json!({ "query": "pool" })).await;
    assert_eq!(found, ["src/pool.rs", "pool", "pooling", "whirlpools", "spooled"]);
}

#[tokio::test]
async fn an_answer_without_hits_names_the_unknown_words() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "one pool in locks.rs", json!({ "tags": ["db"] })).await;
    remember(&service.client_with(TEAM), "a", "secret", json!({})).await;
    let ask = async |more: Value| recall(&client, "a", more).await;
    let nothing = ask(json!({ "query": "Why is locks.py secret?" })).await;
    assert_eq!(nothing["unknown_words"], json!(["locks.py", "secret"]));
    assert_eq!((&nothing["count"], &nothing["truncated"]), (&json!(0), &json!(false)));
    // Known words that a filter excludes.
    let filtered = ask(json!({ "query": "pool nowhere", "tags": ["other"] })).await;
    assert_eq!(filtered["unknown_words"], json!(["nowhere"]));
    let filtered = ask(json!({ "query": "pool", "event_type": "error" })).await;
    assert_eq!((&filtered["count"], filtered.get("unknown_words")), (&json!(0), None));
    let hit = ask(json!({ "query": "pool nowhere" })).await;
    assert_eq!((&hit["count"], hit.get("unknown_words")), (&json!(1), None));
    for query in ["", "?!", " "] {
        assert_eq!(ask(json!({ "query": query })).await["count"], 1, "{query:?}");
    }
}

#[tokio::test]
async fn summary_lessons_and_tags_are_searched_and_count_in_this_order() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "a", "in the tags", json!({ "tags": ["failure_type:flaky"] })).await;
    remember(&client, "a", "in the lessons", json!({ "lessons": ["x", "A flaky test"] })).await;
    remember(&client, "a", "flaky in the summary", json!({})).await;
    remember(&client, "a", "elsewhere", json!({ "details": { "flaky": "flaky" } })).await;
    let ranked = ["flaky in the summary", "in the lessons", "in the tags"];
    assert_eq!(found(&client, "a", json!({ "query": "flaky" })).await, ranked);
    age(&service, "flaky in the summary", "30 days").await;
    let ranked = ["in the lessons", "in the tags", "flaky in the summary"];
    assert_eq!(found(&client, "a", json!({ "query": "flaky" })).await, ranked, "age counts too");
    assert_eq!(
        found(&client, "a", json!({ "query": "failure_type:flaky" })).await,
        ["in the tags"]
    );
    assert_eq!(found(&client, "a", json!({ "query": "lessons test" })).await, ["in the lessons"]);
}

#[tokio::test]
async fn any_text_can_be_stored_and_searched() {
    let service = Service::start().await;
    let client = service.client();
    let texts = [
        "'; drop table memory; --".to_owned(),
        "a & b | !c <-> (d):* \\ ' '' \\' \u{1}".to_owned(),
        "::".to_owned(),
        " \t\n ".to_owned(),
        "\u{65e5}\u{672c}\u{8a9e} \u{1f980}\u{202e}".to_owned(),
        "x".repeat(4096),
        "a/".repeat(2048),
        "a ".repeat(2048),
        "\u{10ffff}".repeat(1024),
        "aB".repeat(2048),
    ];
    for text in &texts {
        remember(&client, "a", text, json!({})).await;
        let matches = found(&client, "a", json!({ "query": text, "limit": 500 })).await;
        assert!(matches.contains(text), "{text:.40}");
    }
    let wide: Vec<_> = (0..1000).map(|n| format!("w{n}-{} ", "xY-".repeat(150))).collect();
    let short: String = (0..32_000)
        .filter_map(char::from_u32)
        .filter(|it| *it > ' ')
        .flat_map(|it| [it, ' '])
        .collect();
    let tags: Vec<_> = (0..1000).map(|n| format!("t{n}-{}", "z.".repeat(100))).collect();
    for lessons in [wide, vec![short]] {
        let summary = format!("{} {}", lessons.len(), "s-T ".repeat(4000));
        remember(&client, "a", &summary, json!({ "lessons": lessons, "tags": tags })).await;
        remember(&client, "a", &summary, json!({ "lessons": ["more"], "tags": ["more"] })).await;
    }
    assert_eq!(count(&service).await, 12);
}

#[tokio::test]
async fn a_backup_can_be_restored() {
    let service = Service::start().await;
    remember(&service.client(), "a", "src/a.rs", json!({ "lessons": ["x"] })).await;
    // pg_restore has an empty search path, and the search column is computed again.
    service
        .execute(
            "begin;
             set local search_path = '';
             update public.memory set summary = 'src/b.rs';
             commit",
        )
        .await;
    assert_eq!(found(&service.client(), "a", json!({ "query": "b.rs x" })).await, ["src/b.rs"]);
}
