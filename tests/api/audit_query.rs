//! Queries of the audit log, literally as the contract has them.
use serde_json::{Value, json};

use crate::support::{BOSS, Client, REVIEWER, Service, TEAM};

const ENTRY_KEYS: [&str; 12] = [
    "id",
    "agent_id",
    "agent_type",
    "operation",
    "parameters",
    "result",
    "duration_ms",
    "success",
    "created_at",
    "error_message",
    "request_id",
    "session_id",
];

#[track_caller]
fn assert_keys(answer: &Value, expected: &[&str]) {
    let keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
}

/// The entries' `request_id`s, in order.
async fn found(client: &Client, query: &str) -> Vec<String> {
    let answer = client.get(&format!("/audit?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let entries = answer.json["entries"].as_array().expect("a list");
    let id = |it: &Value| it["request_id"].as_str().expect("a string").to_owned();
    entries.iter().map(id).collect()
}

/// Records one entry, `minutes` after the start of the current month.
async fn record(service: &Service, minutes: u32, request_id: &str, more: Value) {
    let text = |name: &str, default: &str| more[name].as_str().unwrap_or(default).to_owned();
    let session = more["session_id"].as_str().map_or("null".to_owned(), |it| format!("'{it}'"));
    let parameters = more.get("parameters").cloned().unwrap_or(json!({}));
    service
        .execute(&format!(
            "insert into audit_log (
                workspace, created_at, agent_id, agent_type, session_id, request_id, operation,
                parameters, result, success, duration_ms
             ) values (
                '{}', date_trunc('month', now(), 'UTC') + interval '{minutes} minutes',
                '{}', 't', {session}, '{request_id}', '{}', '{parameters}', '{{}}', {}, 1)",
            text("workspace", "default"),
            text("agent_id", "a"),
            text("operation", "acquire_lock"),
            more["success"].as_bool().unwrap_or(true),
        ))
        .await;
}

#[tokio::test]
async fn an_entry_has_every_member_and_a_query_leaves_no_entry() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("claude-1", "src/main.rs", json!({})).await;
    let named = client.clone().header("x-request-id", "req-17");
    named.acquire("codex-9", "src/main.rs", json!({ "session_id": "s-1" })).await;
    let answer = client.get("/audit?operation=acquire_lock&limit=1").await.json;
    assert_keys(&answer, &["entries", "count", "truncated", "hint", "next_cursor"]);
    assert_eq!((&answer["count"], &answer["truncated"]), (&json!(1), &json!(true)));
    assert_eq!(
        answer["hint"],
        "showing first 1; re-run with a higher limit to see more; or repeat the request \
         with next_cursor as cursor for those that follow"
    );
    let entry = &answer["entries"][0];
    assert_keys(entry, &ENTRY_KEYS);
    assert!(entry["id"].as_str().is_some_and(|it| uuid::Uuid::try_parse(it).is_ok()));
    assert!(entry["duration_ms"].is_i64());
    assert!(entry["created_at"].as_str().is_some_and(|it| it.ends_with("+00:00")));
    for (name, expected) in [
        ("agent_id", json!("codex-9")),
        ("agent_type", json!("codex")),
        ("operation", json!("acquire_lock")),
        ("parameters", json!({ "file_path": "src/main.rs", "reason": null })),
        ("result", json!({ "reason": "locked_by_other", "locked_by": "claude-1" })),
        ("success", json!(false)),
        ("error_message", json!(null)),
        ("request_id", json!("req-17")),
        ("session_id", json!("s-1")),
    ] {
        assert_eq!(entry[name], expected, "{name}");
    }
    let all = client.get("/audit").await.json;
    assert_keys(&all, &["entries", "count", "truncated"]);
    assert_eq!((&all["count"], service.audit_rows().await), (&json!(2), 2));
    assert_eq!(service.client_with(REVIEWER).get("/audit").await.json["count"], 2, "a read");
}

#[tokio::test]
async fn every_filter_narrows_and_an_empty_one_does_not() {
    let service = Service::start().await;
    let client = service.client();
    record(&service, 1, "r1", json!({ "agent_id": "a", "session_id": "s" })).await;
    record(&service, 2, "r2", json!({ "agent_id": "b", "success": false })).await;
    let change = json!({ "change_id": "c-1" });
    record(&service, 3, "r3", json!({ "agent_id": "a", "parameters": change })).await;
    record(&service, 4, "r4", json!({ "agent_id": "A", "operation": "x", "parameters": change }))
        .await;
    let other = json!({ "change_id": "c-2", "list": ["c-1"] });
    record(&service, 5, "r5", json!({ "agent_id": "a", "parameters": other, "success": false }))
        .await;
    record(&service, 6, "r6", json!({ "workspace": "team", "parameters": change })).await;
    for (query, expected) in [
        ("", "r5 r4 r3 r2 r1"),
        ("limit=2", "r5 r4"),
        ("limit=0", ""),
        ("agent_id=a", "r5 r3 r1"),
        ("agent_id=A", "r4"),
        ("agent_id=nobody", ""),
        ("agent_id=&operation=&change_id=&request_id=&session_id=&since=&until=", "r5 r4 r3 r2 r1"),
        ("operation=x", "r4"),
        ("change_id=c-1", "r4 r3"),
        ("change_id=c-1&agent_id=a", "r3"),
        ("change_id=c-1&agent_id=a&success=false", ""),
        ("change_id=c-", ""),
        ("success=true", "r4 r3 r1"),
        ("success=false", "r5 r2"),
        ("request_id=r2", "r2"),
        ("request_id=r", ""),
        ("session_id=s", "r1"),
        ("agent_id=a&operation=acquire_lock&success=true&request_id=r1&session_id=s", "r1"),
        ("unknown=1", "r5 r4 r3 r2 r1"),
    ] {
        assert_eq!(found(&client, query).await.join(" "), expected, "{query}");
    }
    let none = client.get("/audit?limit=0").await.json;
    assert_eq!((&none["entries"], &none["truncated"]), (&json!([]), &json!(true)));
    assert_eq!(found(&service.client_with(TEAM), "change_id=c-1").await, ["r6"]);
    let elsewhere = service.client_with(BOSS).header("x-workspace", "team").get("/audit").await;
    assert_eq!(elsewhere.status, 403);
}

#[tokio::test]
async fn since_is_inclusive_and_until_is_exclusive() {
    let service = Service::start().await;
    let client = service.client();
    for minute in 1..=3 {
        record(&service, minute, &format!("r{minute}"), json!({})).await;
    }
    let at = async |minute: u32| -> String {
        service
            .scalar(&format!(
                "select to_char(date_trunc('month', now(), 'UTC') at time zone 'UTC'
                    + interval '{minute} minutes', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
            ))
            .await
    };
    let second = at(2).await;
    for (query, expected) in [
        (format!("since={second}Z"), "r3 r2"),
        (format!("since={second}.000001Z"), "r3"),
        (format!("until={second}Z"), "r1"),
        (format!("until={second}%2B00:00"), "r1"),
        (format!("since={second}+00:00&until={}Z", at(3).await), "r2"),
        (format!("since={second}-01:00"), ""),
        (format!("since={second}Z&agent_id=a"), "r3 r2"),
        (format!("since={second}Z&until={second}Z"), ""),
    ] {
        assert_eq!(found(&client, &query).await.join(" "), expected, "{query}");
    }
}

#[tokio::test]
async fn a_malformed_time_is_a_400_and_a_time_without_an_offset_is_a_422() {
    let service = Service::start().await;
    let client = service.client();
    for name in ["since", "until"] {
        for text in ["yesterday", "2026-13-01T00:00:00Z", "1788256800", "%20"] {
            let answer = client.get(&format!("/audit?{name}={text}")).await;
            let detail = format!("Invalid {name} format; use ISO-8601");
            answer.assert_is(400, json!({ "detail": detail }));
        }
        for text in ["2026-09-01T10:00:00", "2026-09-01"] {
            let answer = client.get(&format!("/audit?{name}={text}")).await;
            assert_eq!(answer.issues(), [("value_error".to_owned(), json!(["query", name]))]);
            assert_eq!(answer.json["detail"][0]["input"], text);
        }
    }
    let issues = client.get("/audit?limit=-1&success=maybe").await.issues();
    let expected = [
        ("greater_than_equal", json!(["query", "limit"])),
        ("bool_parsing", json!(["query", "success"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
    assert_eq!(service.audit_rows().await, 0);
    assert_eq!(service.anonymous().get("/audit?since=x").await.status, 401);
    assert_eq!(client.post("/audit", json!({})).await.status, 405);
}

#[tokio::test]
async fn a_new_month_gets_the_indexes_of_the_log_and_refuses_changes() {
    let service = Service::start().await;
    let made: i32 = service.scalar("select ensure_audit_partitions(8)").await;
    assert_eq!(made, 5);
    let rows = service
        .rows(
            "select c.relname, (
                select count(*) from pg_index x
                join pg_inherits i on i.inhrelid = x.indexrelid where x.indrelid = c.oid
             ) as indexes
             from pg_inherits p join pg_class c on c.oid = p.inhrelid
             where p.inhparent = 'audit_log'::regclass",
        )
        .await;
    assert_eq!(rows.len(), 9);
    for row in &rows {
        assert_eq!(row["indexes"], 3, "{row}");
    }
}

/// The statements that read the log, as the build has checked them.
fn statements() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx");
    let files = std::fs::read_dir(folder).expect(".sqlx");
    let mut statements: Vec<String> = files
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("readable"))
        .map(|text| serde_json::from_str::<Value>(&text).expect("JSON")["query"].clone())
        .filter_map(|query| query.as_str().map(str::to_owned))
        .filter(|sql| {
            sql.contains("from audit_log") && sql.contains("order by created_at desc, id")
        })
        .collect();
    statements.sort();
    statements
}

/// Which partitions the plan reads, and whether it uses an index for each.
fn visited(plan: &Value, partitions: &mut Vec<String>) {
    if let Some(relation) = plan["Relation Name"].as_str()
        && plan["Actual Loops"].as_f64().is_some_and(|it| it > 0.0)
    {
        assert_eq!(plan["Node Type"], "Index Scan", "{relation}");
        partitions.push(relation.to_owned());
    }
    for child in plan["Plans"].as_array().into_iter().flatten() {
        visited(child, partitions);
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the plan of a statement shows where it looks")]
async fn a_query_reads_no_month_that_it_does_not_need() {
    let service = Service::start().await;
    service.execute("select ensure_audit_partitions(11)").await;
    service
        .execute(
            "insert into audit_log (
                workspace, created_at, agent_id, agent_type, request_id, operation, parameters,
                result, success, duration_ms
             )
             select
                'default', date_trunc('month', now(), 'UTC') + n * interval '1 hour',
                'a-' || n % 40, 't', 'r' || n, 'op',
                case when n % 20 = 0 then jsonb_build_object('change_id', 'c-' || n % 80)
                    else '{}' end,
                '{}', true, 1
             from generate_series(1, 8700) n",
        )
        .await;
    service.execute("analyze audit_log").await;
    let statements = statements();
    assert_eq!(statements.len(), 3, "by time, by agent and by change");
    let mut db = service.db.acquire().await.expect("a connection");
    // The generic plan, which must serve every request, is the harder case.
    let prepare = "set plan_cache_mode = force_generic_plan";
    sqlx::raw_sql(prepare).execute(&mut *db).await.expect("it runs");
    for (n, sql) in statements.iter().enumerate() {
        let prepare = sqlx::AssertSqlSafe(format!("prepare s{n} as {sql}"));
        sqlx::raw_sql(prepare).execute(&mut *db).await.expect("it runs");
        let explain = format!(
            "explain (analyze, format json)
             execute s{n}('default', {}, {}, null, null, null, null, null, null, 4, 10000, null,
                null)",
            if sql.contains("and agent_id = $2") { "'a-3'" } else { "null" },
            if sql.contains("and parameters ->> 'change_id' = $3") { "'c-0'" } else { "null" },
        );
        let explain = sqlx::query_scalar(sqlx::AssertSqlSafe(explain));
        let plan: Value = explain.fetch_one(&mut *db).await.expect("a plan");
        let mut partitions = Vec::new();
        visited(&plan[0]["Plan"], &mut partitions);
        assert_eq!(partitions.len(), 1, "twelve months are filled: {partitions:?} {sql}");
    }
}

#[tokio::test]
async fn every_filter_reads_a_bounded_number_of_entries_and_says_where_it_ended() {
    let service = Service::start().await;
    service
        .execute_uncounted(
            "insert into audit_log (
                workspace, created_at, agent_id, agent_type, request_id, operation, parameters,
                result, success, duration_ms
             )
             select
                'default', date_trunc('month', now(), 'UTC') + n * interval '1 ms', 'a', 't', 'r' || n,
                'op', '{\"change_id\": \"c\"}', '{}', true, 1
             from generate_series(1, 25000) n;
             analyze audit_log",
        )
        .await;
    let statistic = "select (select sum(idx_tup_read) from pg_stat_user_indexes
            where indexrelname like 'audit_log%')::bigint
        + (select sum(seq_tup_read) from pg_stat_user_tables
            where relname like 'audit_log%')::bigint";
    let month: String = service
        .scalar(
            "select to_char(date_trunc('month', now(), 'UTC') at time zone 'UTC',
                'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
        )
        .await;
    let since = format!("request_id=none&since={month}");
    for query in [
        "request_id=none",
        "session_id=none",
        "operation=none",
        "success=false",
        "agent_id=a&success=false&limit=500",
        "change_id=c&agent_id=none",
        &since,
    ] {
        let (read, answer) = service
            .counted(statistic, async |client| client.get(&format!("/audit?{query}")).await.json)
            .await;
        // Of a month with few entries, the planner may sort all of a change.
        let is_bounded = read <= 20_100 || query.contains("change_id");
        assert!(is_bounded, "{query} reads {read} entries");
        assert_eq!((&answer["count"], &answer["truncated"]), (&json!(0), &json!(true)), "{query}");
        let until =
            answer["continue_until"].as_str().unwrap_or_else(|| panic!("{query}: {answer}"));
        let hint =
            format!("searched the newest 10000; re-run with until={until} to search earlier ones");
        assert_eq!(answer["hint"], hint, "{query}");
    }
    // Following the hints, a search finds the oldest entry.
    let client = service.client();
    let (mut query, mut searches) = ("request_id=r1".to_owned(), 1);
    let entries = loop {
        let answer = client.get(&format!("/audit?{query}")).await.json;
        match answer["continue_until"].as_str() {
            Some(until) => query = format!("request_id=r1&until={until}"),
            None => break answer["entries"].clone(),
        }
        searches += 1;
        assert!(searches <= 4, "{answer}");
    };
    assert_eq!((&entries[0]["request_id"], searches), (&json!("r1"), 3));
    let near = client.get("/audit?request_id=r24000&limit=1").await.json;
    assert_eq!(
        (&near["count"], &near["truncated"]),
        (&json!(1), &json!(true)),
        "one, perhaps more"
    );
    assert_eq!(client.get("/audit?limit=500").await.json.get("continue_until"), None);
}
