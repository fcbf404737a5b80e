//! Retention: what nobody needs any more is deleted in batches, and what is named or still counts stays.
use futures_util::future::join;
use serde_json::{Value, json};

use crate::support::{BOSS, Client, Service, TEAM, blocked, execute};

async fn retain(service: &Service) -> Value {
    let body = json!({ "tasks": ["retention"] });
    let answer = service.client_with(BOSS).post("/maintenance/run", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn names(service: &Service, sql: &str) -> Vec<String> {
    let rows = service.rows(sql).await;
    rows.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn sessions_that_ended_long_ago_are_deleted_unless_something_names_them() {
    let service = Service::start().await;
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, last_heartbeat_at,
                ended_at)
             select workspace, 'a', name, 't', now() - interval '32 days', ended_at
             from unnest(array['default', 'team']) workspace, (values
                ('old', now() - interval '31 days'), ('younger', now() - interval '29 days'),
                ('silent', null), ('locks', now() - interval '31 days'),
                ('lost', now() - interval '31 days'), ('connected', now() - interval '31 days'),
                ('ports', now() - interval '31 days')
             ) sessions (name, ended_at);
             insert into file_lock (workspace, key, token, is_file, agent_id, agent_type, session_id,
                locked_at, expires_at)
             values ('default', 'k', 7, true, 'a', 't', 'locks', now() - interval '40 days',
                now() + interval '1 hour');
             insert into session_loss (workspace, agent_id, session_id, kind, name, since)
             values ('default', 'a', 'lost', 'lock', 'x', now());
             insert into mcp_connection (workspace, agent_id, connection_id, session_id)
             values ('default', 'a', 'c', 'connected');
             insert into port_block (workspace, slot, agent_id, session_id, allocated_at, expires_at)
             values ('default', 0, 'a', 'ports', now() - interval '40 days', now() + interval '1 hour')",
        )
        .await;
    let deleted = retain(&service).await;
    assert_eq!(deleted["rows_deleted"], 6, "{deleted}");
    let left = |workspace: &str| {
        format!(
            "select session_id as name from agent_session where workspace = '{workspace}' order by 1"
        )
    };
    let kept = names(&service, &left("default")).await;
    assert_eq!(kept, ["connected", "locks", "lost", "ports", "silent", "younger"]);
    assert_eq!(names(&service, &left("team")).await, ["silent", "younger"]);
    let status = service.client().get("/locks/status/k").await.json;
    assert_eq!(status["locked"], false, "a lock of an ended session stays lost");
    // A call in a session that is forgotten is one in a session that was never registered.
    let again = service.client().acquire("a", "other", json!({ "session_id": "old" })).await;
    assert_eq!((&again["action"], again.get("revived")), (&json!("acquired"), None));
}

async fn submit(client: &Client, description: &str, depends_on: Value) -> Value {
    let body =
        json!({ "task_type": "t", "task_description": description, "depends_on": depends_on });
    let answer = client.post("/work/submit", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json["task_id"].clone()
}

#[tokio::test]
async fn finished_tasks_are_deleted_once_nothing_depends_on_them() {
    let service = Service::with(&[("WORK_RETENTION_DAYS", "30")]).await;
    let client = service.client();
    let needed = submit(&client, "needed", json!([])).await;
    submit(&client, "waiting", json!([needed])).await;
    let earlier = submit(&client, "earlier", json!([])).await;
    submit(&client, "later", json!([earlier])).await;
    for description in ["old", "younger", "pending"] {
        submit(&client, description, json!([])).await;
    }
    service
        .execute(
            "update work_task set status = 'completed', completed_at = now() - interval '31 days'
             where description in ('needed', 'earlier', 'later', 'old');
             update work_task set status = 'cancelled', completed_at = now() - interval '29 days'
             where description = 'younger'",
        )
        .await;
    let deleted = retain(&service).await;
    assert_eq!(deleted["rows_deleted"], 3, "{deleted}");
    let left = names(&service, "select description as name from work_task order by 1").await;
    assert_eq!(left, ["needed", "pending", "waiting", "younger"]);
    let dependencies: i64 = service.scalar("select count(*) from work_dependency").await;
    assert_eq!(dependencies, 1);
}

#[tokio::test]
async fn old_records_are_deleted_in_batches_until_none_is_left() {
    let service = Service::start().await;
    service
        .execute(
            "create or replace function maintenance_batch() returns integer
             language sql immutable parallel safe as 'select 2';
             insert into idempotency_key (workspace, agent_id, key, fingerprint, created_at)
             select w, 'a', 'k' || n, '', now() - interval '2 days'
             from unnest(array['default', 'team']) w, generate_series(1, 3) n;
             insert into session_loss (workspace, agent_id, session_id, kind, name, since, lost_at)
             select 'team', 'a', 's', 'lock', 'k' || n, now(), now() - n * interval '8 days'
             from generate_series(1, 5) n;
             insert into mcp_connection (workspace, agent_id, connection_id, bound_at)
             select 'team', 'a', 'c' || n, now() - interval '8 days' from generate_series(1, 5) n;
             insert into mcp_call (workspace, id, agent_id, connection_id, request_id, due_at)
             select 'team', gen_random_uuid(), 'a', 'c', 'r' || n, now() - n * interval '2 days'
             from generate_series(1, 5) n;
             insert into network_log (workspace, created_at, agent_id, agent_type, request_id, domain,
                allowed, reason)
             select 'team', now() - n * interval '200 days', 'a', 't', 'r', 'd', true, 'r'
             from generate_series(0, 5) n",
        )
        .await;
    let deleted = retain(&service).await;
    assert_eq!((&deleted["rows_deleted"], deleted.get("more")), (&json!(26), None), "{deleted}");
    assert_eq!(service.scalar::<i64>("select count(*) from network_log").await, 1);
    assert_eq!(retain(&service).await["rows_deleted"], 0);
}

/// Acquires a key, and returns the fencing token.
async fn token(client: &Client, key: &str) -> i64 {
    let acquired = client.acquire("a", key, json!({})).await;
    acquired["fencing_token"].as_i64().unwrap_or_else(|| panic!("{acquired}"))
}

/// Acquires and releases a key so many times.
async fn used(client: &Client, key: &str, times: i64) {
    for n in 1..=times {
        assert_eq!(token(client, key).await, n);
        client.release("a", key, json!({})).await;
    }
}

const FREED_LONG_AGO: &str = "update file_lock set freed_at = now() - interval '8 days' where key like 'old%' or key = 'held'";

#[tokio::test]
async fn a_key_that_was_free_for_a_week_is_deleted_and_its_tokens_go_on() {
    let service = Service::start().await;
    let client = service.client();
    used(&client, "old-1", 2).await;
    used(&client, "old-2", 3).await;
    used(&client, "young", 1).await;
    used(&client, "held", 1).await;
    assert_eq!(token(&client, "held").await, 2);
    service.execute(FREED_LONG_AGO).await;
    assert_eq!(retain(&service).await["rows_deleted"], 2);
    let left = names(&service, "select key as name from file_lock order by 1").await;
    assert_eq!(left, ["held", "young"]);
    // No token of a key is given twice, and a proof by an earlier one does not hold.
    for key in ["old-1", "old-2", "new"] {
        assert_eq!(token(&client, key).await, 4, "{key}");
    }
    assert_eq!(token(&client, "young").await, 2, "a key with a row goes on counting there");
    let stale = json!({ "locks": [{ "file_path": "old-2", "fencing_token": 3 }] });
    let verified = client.post("/locks/verify", stale).await.json;
    assert_eq!(verified["results"][0]["reason"], "stale_fencing_token", "{verified}");
    assert_eq!(token(&service.client_with(TEAM), "old-2").await, 1, "each workspace has its own");
    // A later deletion of lower tokens does not lower the beginning.
    client.release("a", "young", json!({})).await;
    service.execute("update file_lock set freed_at = now() - interval '8 days'").await;
    assert_eq!(retain(&service).await["rows_deleted"], 1);
    assert_eq!(token(&client, "young").await, 4);
}

#[tokio::test]
async fn an_acquisition_that_meets_the_deletion_of_its_key_gets_a_higher_token() {
    let service = Service::start().await;
    let client = service.client();
    used(&client, "old", 3).await;
    service.execute(FREED_LONG_AGO).await;
    let mut deletion = service.db.begin().await.expect("a transaction");
    execute(&mut *deletion, "select delete_free_keys('default')").await;
    let committed = async {
        blocked(&service.db, 1).await;
        deletion.commit().await.expect("a commit");
    };
    let (token, ()) = join(token(&client, "old"), committed).await;
    assert_eq!(token, 4);
}

#[tokio::test]
async fn a_quota_that_nobody_tries_any_more_is_forgotten() {
    let service = Service::start().await;
    service
        .execute(
            "insert into quota_reached (workspace, kind, agent_id, counted_at) values
                ('default', 'tasks', 'old', now() - interval '25 hours'),
                ('team', 'tasks', 'young', now() - interval '23 hours')",
        )
        .await;
    assert_eq!(retain(&service).await["rows_deleted"], 1);
    assert_eq!(names(&service, "select agent_id as name from quota_reached").await, ["young"]);
}
