//! How many rows statements read: ended sessions must not add to them.
use serde_json::Value;

use crate::support::{Service, execute};

/// The checked statement that contains this text.
fn statement(text: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/.sqlx");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let data = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let data: Value = serde_json::from_str(&data).expect("JSON");
        data["query"].as_str().expect("a query").to_owned()
    };
    let all = std::fs::read_dir(folder).expect("a folder").map(read);
    let mut found: Vec<_> = all.filter(|it| it.contains(text)).collect();
    assert_eq!(found.len(), 1, "{text}: {found:?}");
    found.remove(0)
}

/// The rows that a plan has read, including those that it filtered out.
fn rows_read(plan: &Value) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let loops = number("Actual Loops");
    let below: f64 = plan["Plans"].as_array().into_iter().flatten().map(rows_read).sum();
    let own = ["Rows Removed by Filter", "Rows Removed by Index Recheck"].map(number);
    let scanned = if below == 0.0 { number("Actual Rows") } else { 0.0 };
    below + loops * (scanned + own.iter().sum::<f64>())
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the plan of a statement shows what it reads")]
async fn the_list_of_agents_does_not_read_sessions_that_are_over() {
    let service = Service::start().await;
    service
        .execute(
            "insert into agent_session
                (workspace, agent_id, session_id, agent_type, last_heartbeat_at, ended_at)
             select 'default', 'a', 's-' || n, 't', now() - interval '1 day' - n * interval '1 s',
                case when n > 20 then now() end
             from generate_series(1, 20000) n;
             insert into agent_session (workspace, agent_id, session_id, agent_type)
             select 'default', 'b', 's-' || n, 't' from generate_series(1, 5) n;
             analyze agent_session",
        )
        .await;
    let mut db = service.db.acquire().await.expect("a connection");
    let sql = statement("order by last_heartbeat_at desc, agent_id, session_id");
    // The generic plan, which must serve every request, is the harder case.
    execute(&mut *db, &format!("set plan_cache_mode = force_generic_plan; prepare s as {sql}"))
        .await;
    for (status, shown) in [("null", 5), ("'active'", 5), ("'idle'", 0), ("'disconnected'", 101)] {
        let explain = format!(
            "explain (analyze, format json) execute s('default', null, {status}, 101, '2 hours')"
        );
        let explain = sqlx::query_scalar(sqlx::AssertSqlSafe(explain));
        let plan: Value = explain.fetch_one(&mut *db).await.expect("a plan");
        let plan = &plan[0]["Plan"];
        // A fraction from PostgreSQL 18 on.
        assert_eq!(plan["Actual Rows"].as_f64(), Some(f64::from(shown)), "{status}");
        assert!(rows_read(plan) <= 300.0, "{status}: {plan:#}");
    }
    let over = service.client().get("/discovery/agents?status=disconnected&limit=500").await.json;
    assert_eq!(over["count"], 500);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "only the transaction that searches sees its counts")]
async fn a_search_reads_no_memory_that_the_index_does_not_find() {
    let service = Service::start().await;
    service
        .execute(
            "insert into memory
                (workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags)
             select 'default', 'a', 'e',
                'memory ' || n || case when n % 500 = 0 then ' of getUserById' else '' end,
                decode(md5(n::text), 'hex'), '{}', '{}', '{}'
             from generate_series(1, 3000) n",
        )
        .await;
    for statistics in ["select 1", "analyze memory"] {
        service.execute(statistics).await;
        let mut db = service.db.begin().await.expect("a transaction");
        // Often enough for the generic plans of the functions.
        for _ in 0..6 {
            for query in ["UserById", "why does UserById return 503?", "nowhere"] {
                execute(
                    &mut *db,
                    &format!(
                        "select recall_memories('default', null, null, null, null, 0, '{query}', null, 11);
                         select unknown_words('default', '{query}')"
                    ),
                )
                .await;
            }
        }
        let read = "select seq_tup_read, idx_tup_fetch from pg_stat_xact_user_tables
                    where relname = 'memory'";
        let (all, found): (i64, i64) =
            sqlx::query_as(read).fetch_one(&mut *db).await.expect("counts");
        assert!(all == 0 && found < 5000, "{statistics}: {all} and {found} memories are read");
    }
}
