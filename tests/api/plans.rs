//! How many rows statements read: ended sessions must not add to them.
use serde_json::Value;

use crate::{
    support::{Service, execute},
    work_unavailable::store_chain,
};

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
            "explain (analyze, format json)
             execute s('default', null, {status}, 101, '2 hours', null, null, null)"
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
        // Each of 72 calls looks whether there are a hundred memories; all of them would be 200 000.
        assert!(all == 0 && found < 10_000, "{statistics}: {all} and {found} memories are read");
    }
}

/// How often functions are called while a statement runs.
#[expect(clippy::disallowed_methods, reason = "only the transaction that calls sees its counts")]
async fn calls(service: &Service, sql: &str, names: [&str; 3]) -> Vec<i64> {
    let count = "select coalesce(sum(f.calls), 0)::bigint
                 from unnest($1::text[]) with ordinality as asked (name, place)
                 left join pg_stat_xact_user_functions f on f.funcname = asked.name
                 group by place order by place";
    let mut db = service.db.begin().await.expect("a transaction");
    let query = || sqlx::query_scalar::<_, i64>(count).bind(names);
    // The connection can have counts that it has not reported yet.
    let before = query().fetch_all(&mut *db).await.expect("counts");
    execute(&mut *db, &format!("set local track_functions = 'all'; {sql}")).await;
    let after = query().fetch_all(&mut *db).await.expect("counts");
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test]
async fn a_search_computes_the_text_of_a_memory_at_most_once() {
    let service = Service::start().await;
    service
        .execute(
            "insert into memory
                (workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags)
             select 'default', 'a', 'e', 'deploy ' || n, decode(md5(n::text), 'hex'), '{}',
                array['ü' || repeat(' database lock queue', 5000)], '{}'
             from generate_series(1, 8) n",
        )
        .await;
    let search = |query: &str| {
        format!("select recall_memories('default', null, null, null, null, 0, '{query}', null, 11)")
    };
    let names = ["memory_fit", "memory_text", "memory_terms"];
    // Few memories are not looked for by the index, whose terms would be computed again.
    let parts = calls(&service, &search("eploy atabase ueue nowhere"), names).await;
    assert_eq!(parts, [8, 8, 0]);
    let words = calls(&service, &search("deploy database"), names).await;
    assert_eq!(words, [8, 0, 0], "the words alone tell");
}

#[tokio::test]
async fn a_search_compares_a_bounded_number_of_memories() {
    let service = Service::start().await;
    service
        .execute(
            "insert into memory
                (workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags)
             select 'default', 'a', 'e', 'memory ' || n, decode(md5(n::text), 'hex'), '{}', '{}', '{}'
             from generate_series(1, 3500) n",
        )
        .await;
    let sql =
        "select recall_memories('default', null, null, null, null, 0, 'emory emor', null, 11)";
    let found = calls(&service, sql, ["memory_fit", "memory_text", "memory_terms"]).await;
    assert_eq!(found, [3000, 3000, 0]);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "only the transaction that reads sees its counts")]
async fn an_explanation_reads_each_dependency_a_few_times_at_most() {
    let service = Service::start().await;
    store_chain(&service, 600).await;
    let mut db = service.db.begin().await.expect("a transaction");
    execute(&mut *db, "select explain_unavailable_work('default', 'a', 2, null, '1 hour')").await;
    let count = "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                 from pg_stat_xact_user_tables where relname in ('work_task', 'work_dependency')";
    let read: i64 = sqlx::query_scalar(count).fetch_one(&mut *db).await.expect("a count");
    assert!(read < 5000, "{read} rows are read");
}
