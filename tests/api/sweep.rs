//! The clean-up works in batches: it makes progress however much there is, says what is left, and what fails
//! in one workspace stops neither the others nor retention.
use std::time::Duration;

use agent_coordinator::App;
use serde_json::{Value, json};

use crate::support::{BOSS, Client, Service, config, eventually, variables};

/// Lowers the number of rows of a batch.
async fn batches_of(service: &Service, rows: u32) {
    service
        .execute(&format!(
            "create or replace function maintenance_batch() returns integer
             language sql immutable parallel safe as 'select {rows}'"
        ))
        .await;
}

/// Silent sessions of one agent, each with a lock.
async fn silent(service: &Service, workspace: &str, sessions: u32) {
    service
        .execute_uncounted(&format!(
            "insert into agent_session
                (workspace, agent_id, session_id, agent_type, started_at, last_heartbeat_at)
             select '{workspace}', 'a', 's' || n, 't', now() - interval '1 day',
                now() - interval '3 hours'
             from generate_series(1, {sessions}) n;
             insert into file_lock (workspace, key, token, is_file, agent_id, agent_type, session_id,
                locked_at, expires_at)
             select '{workspace}', 'k' || n, 1, true, 'a', 't', 's' || n, now() - interval '4 hours',
                now() + interval '1 hour'
             from generate_series(1, {sessions}) n;
             analyze agent_session; analyze file_lock"
        ))
        .await;
}

async fn ask(client: &Client, path: &str, body: &Value) -> Value {
    let answer = client.post(path, body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// Repeats a request while its answer says that more is left.
async fn repeat(client: &Client, path: &str, body: &Value) -> Vec<Value> {
    let mut answers = vec![ask(client, path, body).await];
    while answers.last().is_some_and(|it| it["more"] == true) {
        assert!(answers.len() < 30, "{answers:?}");
        answers.push(ask(client, path, body).await);
    }
    answers
}

fn sum(answers: &[Value], member: &str) -> i64 {
    answers.iter().map(|it| it[member].as_i64().expect("a number")).sum()
}

#[tokio::test]
async fn a_cleanup_ends_sessions_in_batches_and_says_that_more_are_left() {
    let service = Service::start().await;
    silent(&service, "default", 7).await;
    batches_of(&service, 4).await;
    let boss = service.client_with(BOSS);
    let dry = ask(&boss, "/discovery/cleanup", &json!({ "dry_run": true })).await;
    assert_eq!(
        dry,
        json!({ "success": true, "agents_cleaned": 1, "locks_released": 2, "sessions_cleaned": 2,
            "tasks_requeued": 0, "ports_released": 0, "dry_run": true, "more": true })
    );
    let answers = repeat(&boss, "/discovery/cleanup", &json!({})).await;
    assert_eq!(answers.len(), 4, "{answers:?}");
    assert!(answers.iter().all(|it| it["sessions_cleaned"].as_i64() > Some(0)), "{answers:?}");
    assert_eq!(sum(&answers, "sessions_cleaned"), 7);
    assert_eq!(sum(&answers, "locks_released"), 7);
    assert_eq!(answers[3].get("more"), None, "as before where nothing is left");
    let rows = service
        .rows("select result -> 'more' as more from audit_log order by created_at desc limit 4")
        .await;
    assert_eq!(
        json!(rows),
        json!([{ "more": null }, { "more": true }, { "more": true }, { "more": true }])
    );
    let left = "select (select count(*) from agent_session where ended_at is null)
        + (select count(*) from file_lock where agent_id is not null)";
    assert_eq!(service.scalar::<i64>(left).await, 0);
}

#[tokio::test]
async fn maintenance_does_a_batch_of_each_task_and_says_that_more_is_left() {
    let service = Service::start().await;
    silent(&service, "default", 3).await;
    service
        .execute(
            "insert into file_lock (workspace, key, token, is_file, agent_id, agent_type, locked_at,
                expires_at)
             select 'default', 'x' || n, 1, true, 'b', 't', now() - interval '2 hours',
                now() - interval '1 hour' from generate_series(1, 5) n",
        )
        .await;
    let client = service.client();
    for n in 0..3 {
        let body = json!({ "task_type": "t", "task_description": n.to_string() });
        client.post("/work/submit", body).await;
    }
    service.execute("update work_task set deadline = now()").await;
    batches_of(&service, 2).await;
    let boss = service.client_with(BOSS);
    let answers = repeat(&boss, "/maintenance/run", &json!({})).await;
    assert_eq!(
        (
            &answers[0]["sessions_expired"],
            &answers[0]["locks_expired"],
            &answers[0]["tasks_failed"]
        ),
        (&json!(1), &json!(2), &json!(2)),
        "{answers:?}"
    );
    assert_eq!(sum(&answers, "sessions_expired"), 3);
    let freed = sum(&answers, "locks_expired") + sum(&answers, "locks_released");
    assert_eq!((freed, sum(&answers, "tasks_failed")), (8, 3), "{answers:?}");
    assert_eq!(answers.last().expect("an answer").get("more"), None);
}

#[tokio::test]
async fn a_session_that_holds_more_than_a_batch_ends_with_its_last_part() {
    let service = Service::start().await;
    let client = service.client();
    let session = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" });
    client.post("/discovery/register", session.clone()).await;
    for n in 0..4 {
        client.acquire("a", &format!("k{n}"), json!({ "session_id": "s" })).await;
        let task = json!({ "task_type": "t", "task_description": n.to_string() });
        client.post("/work/submit", task).await;
        client.post("/work/claim", session.clone()).await;
    }
    let quiet = "update agent_session set last_heartbeat_at = now() - interval '20 minutes'";
    service.execute(quiet).await;
    batches_of(&service, 3).await;
    let boss = service.client_with(BOSS);
    let cleanup = async || ask(&boss, "/discovery/cleanup", &json!({})).await;
    let first = cleanup().await;
    let freed = (&first["sessions_cleaned"], &first["locks_released"], &first["more"]);
    assert_eq!(freed, (&json!(0), &json!(3), &json!(true)), "{first}");
    let second = cleanup().await;
    let freed = (&second["locks_released"], &second["tasks_requeued"], &second["more"]);
    assert_eq!(freed, (&json!(1), &json!(2), &json!(true)), "{second}");

    // The session calls before it has ended: it is told what it lost, and keeps the rest.
    let kept = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s", "file_path": "new" });
    let told = ask(&client, "/locks/acquire", &kept).await;
    assert_eq!(told["revived"], true, "{told}");
    let lost = |kind: &str| told["lost"][kind].as_array().map(Vec::len);
    assert_eq!((lost("locks"), lost("claims")), (Some(4), Some(2)), "{told}");
    let claims = "select count(*) from work_task where status = 'claimed'";
    assert_eq!(service.scalar::<i64>(claims).await, 2);
    assert_eq!(cleanup().await["more"], Value::Null, "the session is not silent any more");

    service.execute(quiet).await;
    let answers = repeat(&boss, "/discovery/cleanup", &json!({})).await;
    assert_eq!(sum(&answers, "sessions_cleaned"), 1, "{answers:?}");
    assert_eq!(sum(&answers, "locks_released") + sum(&answers, "tasks_requeued"), 3);
    assert_eq!(service.scalar::<i64>(claims).await, 0);
}

#[tokio::test]
async fn a_session_that_holds_more_than_a_batch_is_ended_by_one_request() {
    for key in [None, Some("the-key")] {
        let service = Service::start().await;
        let client = service.client();
        let session = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" });
        client.post("/discovery/register", session.clone()).await;
        for n in 0..7 {
            client.acquire("a", &format!("k{n}"), json!({ "session_id": "s" })).await;
            let task = json!({ "task_type": "t", "task_description": n.to_string() });
            client.post("/work/submit", task).await;
            client.post("/work/claim", session.clone()).await;
        }
        batches_of(&service, 3).await;
        let rows = service.audit_rows().await;
        let client = key.into_iter().fold(client, |it, key| it.header("idempotency-key", key));
        let ended = ask(&client, "/discovery/deregister", &session).await;
        let freed = (&ended["locks_released"], &ended["tasks_requeued"], &ended["success"]);
        assert_eq!(freed, (&json!(7), &json!(7), &json!(true)), "{ended}");
        assert_eq!(service.audit_rows().await, rows + 1, "one request is one row");
        let left = "select (select count(*) from agent_session where ended_at is null)
            + (select count(*) from file_lock where agent_id is not null)
            + (select count(*) from work_task where status <> 'pending')
            + (select count(*) from session_loss where not is_told)";
        assert_eq!(service.scalar::<i64>(left).await, 0);
        let again = ask(&service.client(), "/discovery/deregister", &session).await;
        assert_eq!((&again["success"], &again["locks_released"]), (&json!(true), &json!(0)));
    }
}

#[tokio::test]
async fn a_batch_reads_what_it_changes_and_not_all_that_is_silent() {
    let service = Service::start().await;
    silent(&service, "default", 4000).await;
    let statistic = "select sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
        from pg_stat_user_tables where relname in ('agent_session', 'file_lock', 'work_task')";
    for (path, body, ended) in [
        ("/discovery/cleanup", json!({}), "sessions_cleaned"),
        ("/maintenance/run", json!({ "tasks": ["sessions"] }), "sessions_expired"),
    ] {
        let (read, answer) = service
            .counted(statistic, async |client| {
                ask(&client.header("x-api-key", BOSS), path, &body).await
            })
            .await;
        assert_eq!((&answer[ended], &answer["more"]), (&json!(500), &json!(true)), "{answer}");
        assert!(read < 20_000, "{path} reads {read} rows to end 500 sessions with a lock each");
    }
}

#[tokio::test]
async fn what_fails_in_one_workspace_stops_neither_the_others_nor_retention() {
    let service = Service::start().await;
    for workspace in ["aaa", "default", "zzz"] {
        silent(&service, workspace, 1).await;
    }
    service
        .execute(
            "create function refuse() returns trigger language plpgsql as $$
             begin
                raise exception 'this workspace cannot be swept';
             end
             $$;
             create trigger refuse before update on agent_session for each row
             when (new.workspace = 'aaa') execute function refuse();
             insert into file_lock (workspace, key, token, is_file, agent_id, agent_type, locked_at,
                expires_at)
             values ('aaa', 'expired', 1, true, 'b', 't', now() - interval '2 hours',
                now() - interval '1 hour');
             insert into idempotency_key (workspace, agent_id, key, fingerprint, created_at)
             values ('default', 'a', 'old', '', now() - interval '3 days')",
        )
        .await;
    let config = config(&variables(&service.url));
    let app = App::new(config.with_timings(|it| it.sweep_interval = Duration::from_millis(5)));
    let swept = async {
        let state = "select
            (select count(*) from agent_session where ended_at is null and workspace <> 'aaa')
            + (select count(*) from file_lock where workspace = 'aaa' and key = 'expired'
                and agent_id is not null)
            + (select count(*) from idempotency_key)";
        let left = async || service.scalar::<i64>(state).await;
        eventually("the rest is swept, and old records are deleted", left, |left| *left == 0).await;
    };
    tokio::select! {
        () = swept => {}
        never = app.sweep() => never,
    }
    let open = "select count(*) from agent_session where ended_at is null";
    assert_eq!(service.scalar::<i64>(open).await, 1);
}
