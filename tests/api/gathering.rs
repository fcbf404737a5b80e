//! Requests for one transition that are gathered under load: each gets the same answer as it gets alone.
use std::collections::BTreeSet;

use agent_coordinator::{App, router};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, Client, FREE, Service, config, execute, with_more};

/// How many transactions the database has committed.
const COMMITS: &str = "select pg_stat_get_db_xact_commit(oid) from pg_database
    where datname = current_database()";

/// A service in this process: gathering happens among the requests of one process.
fn client(service: &Service, more: &[(&str, &str)]) -> Client {
    let app = App::new(config(&with_more(&service.url, more)));
    Client::new(router(app)).header("x-api-key", FREE)
}

fn key(n: usize) -> String {
    format!("k{n}")
}

async fn acquire_all(client: &Client, count: usize) -> Vec<Value> {
    let acquired = (0..count).map(|n| {
        let client = client.clone();
        async move { client.acquire("a", &key(n), json!({ "reason": key(n) })).await }
    });
    join_all(acquired).await
}

#[tokio::test]
async fn many_requests_take_fewer_transactions_and_each_has_its_own_answer_and_row() {
    let service = Service::start().await;
    let (counted, answers) = service
        .counted(COMMITS, async |client: Client| {
            // The standing of the agent is read once, by its first request.
            client.acquire("a", "first", json!({})).await;
            acquire_all(&client, 300).await
        })
        .await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((&answer["action"], &answer["file_path"]), (&json!("acquired"), &json!(key(n))));
    }
    assert!(counted < 200, "{counted} transactions for 300 requests");
    let rows = service
        .rows(
            "select parameters->>'file_path' as key, parameters->>'reason' as reason
             from audit_log where parameters->>'file_path' <> 'first' and success",
        )
        .await;
    let distinct: BTreeSet<_> = rows.iter().map(Value::to_string).collect();
    assert_eq!((rows.len(), distinct.len()), (300, 300));
    assert!(rows.iter().all(|it| it["key"] == it["reason"]));
}

#[tokio::test]
async fn a_switch_keeps_every_request_alone() {
    let service = Service::start().await;
    let single = client(&service, &[("API_GATHER", "false")]);
    let transactions = "select count(distinct xmin::text) from audit_log";
    acquire_all(&single, 100).await;
    assert_eq!(service.scalar::<i64>(transactions).await, 100);
    let gathered = client(&service, &[]);
    let released = (0..100).map(|n| {
        let gathered = gathered.clone();
        async move { gathered.release("a", &key(n), json!({})).await }
    });
    assert!(join_all(released).await.iter().all(|it| it["success"] == true));
    assert!(service.scalar::<i64>(transactions).await < 180);
}

#[tokio::test]
async fn one_of_many_callers_acquires_a_key_and_the_others_are_refused() {
    let service = Service::start().await;
    let client = client(&service, &[]);
    let answers = join_all((0..200).map(|n| {
        let client = client.clone();
        async move { client.acquire(&format!("a{n}"), "k", json!({})).await }
    }))
    .await;
    let winners: Vec<_> = answers.iter().filter(|it| it["success"] == true).collect();
    assert_eq!(winners.len(), 1);
    let holder = service.rows("select agent_id, token from file_lock").await;
    assert_eq!((holder.len(), &holder[0]["token"]), (1, &json!(1)));
    for refused in answers.iter().filter(|it| it["success"] == false) {
        assert_eq!(refused["reason"], "locked_by_other");
        assert_eq!(refused["locked_by"], holder[0]["agent_id"]);
    }
    assert_eq!(service.audit_rows().await, 200);
}

#[tokio::test]
async fn an_error_of_one_request_is_its_own() {
    let service = Service::start().await;
    service
        .execute(
            "create function fail() returns trigger language plpgsql as $$ begin
                raise exception 'broken' using errcode = 'XX000'; end $$;
             create trigger fail before insert on file_lock for each row
                when (new.key = 'k7') execute function fail()",
        )
        .await;
    let client = client(&service, &[]);
    let answers = join_all((0..120).map(|n| {
        let client = client.clone();
        async move {
            let body = json!({ "file_path": key(n), "agent_id": "a", "agent_type": "t" });
            client.post("/locks/acquire", body).await
        }
    }))
    .await;
    for (n, answer) in answers.iter().enumerate() {
        let expected = if n == 7 { 500 } else { 200 };
        assert_eq!(answer.status.as_u16(), expected, "{n}: {}", answer.text);
    }
    assert_eq!(answers[7].json["detail"], "Internal Server Error");
    assert_eq!(service.audit_rows().await, 119, "each request has exactly one row");
}

#[tokio::test]
async fn a_lost_session_is_revived_for_its_own_request_and_no_other() {
    let service = Service::start().await;
    let client = client(&service, &[]);
    for session in ["lost", "live"] {
        let body = json!({ "agent_id": "a", "agent_type": "t", "session_id": session });
        assert_eq!(client.post("/discovery/register", body).await.status, 200);
    }
    let silent = "update agent_session set last_heartbeat_at = now() - interval '1 day'
        where session_id = 'lost'";
    service.execute(silent).await;
    let answers = join_all((0..120).map(|n| {
        let client = client.clone();
        let session = if n % 30 == 7 { "lost" } else { "live" };
        async move { client.acquire("a", &key(n), json!({ "session_id": session })).await }
    }))
    .await;
    assert!(answers.iter().all(|it| it["action"] == "acquired"), "{answers:?}");
    let told: Vec<_> = answers.iter().filter(|it| it["revived"] == true).collect();
    assert_eq!(told.len(), 1, "of the four calls that find it lost, one revives it and tells");
    assert_eq!(told[0]["session_id"], "lost");
    assert_eq!(service.audit_rows().await, 122, "each request has exactly one row");
}

#[tokio::test]
async fn a_row_that_is_held_delays_its_own_request_and_no_other() {
    let service = Service::start().await;
    let client = client(&service, &[]);
    acquire_all(&client, 60).await;
    let mut holder = service.db.begin().await.expect("a transaction");
    execute(
        &mut *holder,
        "select from file_lock where workspace = 'default' and key = 'k7' for update",
    )
    .await;
    let release = async |n: usize| client.release("a", &key(n), json!({})).await;
    let waiting = release(7);
    let others = async {
        // All of these are answered while the row is still held.
        let answers = join_all((0..60).filter(|n| *n != 7).map(release)).await;
        assert!(answers.iter().all(|it| it["success"] == true), "{answers:?}");
        assert_eq!(
            service
                .scalar::<i64>("select count(*) from file_lock where agent_id is not null")
                .await,
            1
        );
        holder.rollback().await.expect("it ends");
    };
    let (waited, ()) = futures_util::future::join(waiting, others).await;
    assert_eq!(waited["success"], true);
    assert_eq!(service.audit_rows().await, 120);
}

#[tokio::test]
async fn limits_and_workspaces_hold_within_a_gathered_call() {
    let service = Service::start().await;
    service.execute("update profile set max_file_modifications = 5").await;
    let app = App::new(config(&with_more(&service.url, &[])));
    let boss = Client::new(router(app)).header("x-api-key", BOSS);
    let answers = join_all((0..60).map(|n| {
        let boss = boss.clone();
        async move {
            let body = json!({ "file_path": key(n), "agent_id": "", "agent_type": "" });
            boss.post("/locks/acquire", body).await
        }
    }))
    .await;
    let granted = answers.iter().filter(|it| it.status == 200).count();
    let denied = answers.iter().filter(|it| it.status == 403).count();
    assert_eq!((granted, denied), (5, 55));
    let denials = "select count(*) from audit_log where operation = 'policy_decision'";
    assert_eq!(service.scalar::<i64>(denials).await, 55);
    assert_eq!(service.audit_rows().await, 60);
}

#[tokio::test]
async fn every_gathered_transition_does_its_work_once_for_each_request() {
    let service = Service::start().await;
    let client = client(&service, &[]);
    let at_once = async |path: &'static str, body: &(dyn Fn(usize) -> Value + Sync)| {
        let answers = join_all((0..80).map(|n| {
            let (client, body) = (client.clone(), body(n));
            async move { client.post(path, body).await }
        }))
        .await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        }
        answers.into_iter().map(|it| it.json).collect::<Vec<_>>()
    };
    let submitted = at_once("/work/submit", &|n| {
        json!({
            "task_type": "t", "task_description": format!("d{n}"), "input_data": { "b": n, "a": 1 },
            "unique_key": format!("u{}", n / 2), "priority": n % 10 + 1,
        })
    })
    .await;
    let created = submitted.iter().filter(|it| it["action"] == "created").count();
    assert_eq!(created, 40, "one for each unique key");
    let claimed =
        at_once("/work/claim", &|n| json!({ "agent_id": format!("a{n}"), "agent_type": "t" }))
            .await;
    let tasks: BTreeSet<_> =
        claimed.iter().filter_map(|it| it["task_id"].as_str().map(str::to_owned)).collect();
    assert_eq!(tasks.len(), 40, "each task once");
    assert_eq!(claimed.iter().filter(|it| it["reason"] == "no_tasks_available").count(), 40);
    let completed = at_once("/work/complete", &|n| {
        json!({
            "agent_id": format!("a{n}"), "success": true, "result": { "z": n, "a": 0 },
            "task_id": claimed[n]["task_id"].as_str().unwrap_or("1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1"),
        })
    })
    .await;
    for (claimed, completed) in claimed.iter().zip(&completed) {
        assert_eq!(completed["success"], claimed["success"]);
        assert_eq!(completed["task_id"], claimed["task_id"]);
    }
    let stored = at_once("/memory/store", &|n| {
        json!({
            "agent_id": "a", "event_type": "e", "summary": format!("s{}", n / 4),
            "tags": [format!("t{n}")], "lessons": ["one", "two"],
        })
    })
    .await;
    assert_eq!(stored.iter().filter(|it| it["action"] == "created").count(), 20);
    let tags = "select sum(cardinality(tags))::bigint from memory";
    assert_eq!(service.scalar::<i64>(tags).await, 80, "every repetition was merged");
    let checked = at_once("/guardrails/check", &|n| {
        json!({ "operation_text": if n % 2 == 0 { "git status" } else { "git reset --hard" } })
    })
    .await;
    assert_eq!(checked.iter().filter(|it| it["safe"] == false).count(), 40);
    assert_eq!(service.scalar::<i64>("select count(*) from guardrail_violation").await, 40);
    assert_eq!(service.audit_rows().await, 5 * 80);
}
