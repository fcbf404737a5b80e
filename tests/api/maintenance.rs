//! Maintenance: expired rows are cleaned up, and live ones are left alone.
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Service};

async fn run(service: &Service, tasks: Value) -> Value {
    let answer =
        service.client_with(BOSS).post("/maintenance/run", json!({ "tasks": tasks })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// The counts that are not zero.
fn counts(answer: &Value) -> Value {
    let members = answer.as_object().expect("an object").clone();
    let told = members
        .into_iter()
        .filter(|(name, value)| name != "success" && name != "duration_ms" && *value != json!(0));
    Value::Object(told.collect())
}

/// A silent session with a lock, a claim and ports, and a live one with the same.
async fn held_by_silent_and_live(service: &Service) {
    let client = service.client();
    for session in ["silent", "live"] {
        service
            .execute(&format!(
                "insert into agent_session (workspace, agent_id, session_id, agent_type)
                 values ('default', 'a', '{session}', 't')"
            ))
            .await;
        client.acquire("a", session, json!({ "session_id": session })).await;
        let body = json!({ "task_type": "t", "task_description": session });
        client.post("/work/submit", body).await;
        let body = json!({ "agent_id": "a", "agent_type": "t", "session_id": session });
        assert_eq!(client.post("/work/claim", body).await.json["success"], true);
        let slot = u8::from(session == "live");
        service
            .execute(&format!(
                "insert into port_block (workspace, slot, agent_id, session_id, allocated_at, expires_at)
                 values ('default', {slot}, 'a', '{session}', clock_timestamp(), '2999-01-01')"
            ))
            .await;
    }
    service
        .execute(
            "update agent_session set last_heartbeat_at = now() - interval '121 minutes'
             where session_id = 'silent'",
        )
        .await;
}

#[tokio::test]
async fn silent_sessions_are_ended_and_their_locks_claims_and_ports_released() {
    let service = Service::start().await;
    held_by_silent_and_live(&service).await;
    let done = run(&service, json!(["sessions"])).await;
    let keys: Vec<_> = done.as_object().expect("an object").keys().collect();
    assert_eq!(
        keys,
        [
            "success",
            "sessions_expired",
            "locks_expired",
            "locks_released",
            "tasks_requeued",
            "tasks_failed",
            "ports_released",
            "approvals_expired",
            "rows_deleted",
            "audit_partitions_dropped",
            "duration_ms",
        ]
    );
    let expected = json!({
        "sessions_expired": 1, "locks_released": 1, "tasks_requeued": 1, "ports_released": 1,
    });
    assert_eq!(counts(&done), expected);
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("run_maintenance"), &json!(true)));
    assert_eq!(audit["parameters"], json!({ "tasks": ["sessions"] }));
    assert_eq!(counts(&audit["result"]), expected);
    let tasks = service
        .rows("select description, status, attempt, claimed_by, claim_token is null as free from work_task order by description")
        .await;
    assert_eq!(
        tasks,
        [
            json!({ "description": "live", "status": "claimed", "attempt": 1, "claimed_by": "a", "free": false }),
            json!({ "description": "silent", "status": "pending", "attempt": 1, "claimed_by": null, "free": true }),
        ]
    );
    let locks = service.rows("select key, agent_id from file_lock order by key").await;
    assert_eq!(
        locks,
        [json!({ "key": "live", "agent_id": "a" }), json!({ "key": "silent", "agent_id": null })]
    );
    assert_eq!(
        service.rows("select session_id from port_block").await,
        [json!({ "session_id": "live" })]
    );
    assert_eq!(
        counts(&run(&service, json!(["sessions"])).await),
        json!({}),
        "a repeat finds nothing"
    );
    let claimed = service
        .client()
        .post("/work/claim", json!({ "agent_id": "b", "agent_type": "t" }))
        .await
        .json;
    assert_eq!((&claimed["description"], &claimed["attempt"]), (&json!("silent"), &json!(2)));
}

#[tokio::test]
async fn a_requeued_task_out_of_attempts_has_failed() {
    let service = Service::start().await;
    held_by_silent_and_live(&service).await;
    service.execute("update work_task set max_attempts = 1").await;
    let done = run(&service, json!(["sessions"])).await;
    assert_eq!(done["tasks_requeued"], 0);
    let failed: i64 = service
        .scalar(
            "select count(*) from work_task where status = 'failed'
            and error_message = 'max_attempts_exceeded' and completed_at is not null",
        )
        .await;
    assert_eq!(failed, 1);
}

#[tokio::test]
async fn expired_rows_are_deleted() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("a", "gone", json!({})).await;
    client.acquire("a", "kept", json!({})).await;
    service.expire("gone").await;
    for description in ["late", "out", "fine"] {
        client
            .post("/work/submit", json!({ "task_type": "t", "task_description": description }))
            .await;
    }
    service
        .execute(
            "update work_task set deadline = now() where description = 'late';
             update work_task set status = 'claimed', attempt = 3, claim_token = 'c', claimed_by = 'a',
                claimed_at = now(), lease_minutes = 1, claim_lease_minutes = 1, lease_expires_at = now(),
                claim_expires_at = now() where description = 'out';
             insert into port_block (workspace, slot, agent_id, session_id, allocated_at, expires_at)
             values ('default', 0, 'a', 's', now(), now()),
                ('default', 1, 'a', 's2', now(), '2999-01-01'),
                ('team', 1, 'a', 's2', now(), now())",
        )
        .await;
    assert_eq!(counts(&run(&service, json!(["locks"])).await), json!({ "locks_expired": 1 }));
    assert_eq!(counts(&run(&service, json!(["work"])).await), json!({ "tasks_failed": 2 }));
    assert_eq!(counts(&run(&service, json!(["ports"])).await), json!({ "ports_released": 1 }));
    let done = run(&service, Value::Null).await;
    assert_eq!(counts(&done), json!({}));
    let tasks = service
        .rows(
            "select description, status, error_message as why from work_task order by description",
        )
        .await;
    assert_eq!(
        tasks,
        [
            json!({ "description": "fine", "status": "pending", "why": null }),
            json!({ "description": "late", "status": "failed", "why": "deadline_exceeded" }),
            json!({ "description": "out", "status": "failed", "why": "max_attempts_exceeded" }),
        ]
    );
    let again = client.acquire("b", "gone", json!({})).await;
    assert_eq!(again["fencing_token"], 2, "the counter stays");
    assert_eq!(client.get("/locks/status/kept").await.json["locked"], true);
}

#[tokio::test]
async fn old_records_are_deleted_by_month() {
    let service = Service::with(&[("AUDIT_RETENTION_DAYS", "90")]).await;
    service
        .execute(
            "do $$ declare month date; begin
                for n in 1..6 loop
                    month := date_trunc('month', clock_timestamp() at time zone 'UTC')::date - make_interval(months => n);
                    execute format('create table audit_log_%s partition of audit_log for values from (%L) to (%L)',
                        to_char(month, 'YYYY_MM'), month, (month + interval '1 month')::date);
                end loop;
             end $$;
             insert into idempotency_key (workspace, agent_id, key, fingerprint, created_at) values
                ('default', 'a', 'old', '', clock_timestamp() - interval '25 hours'),
                ('team', 'a', 'old', '', clock_timestamp() - interval '25 hours'),
                ('default', 'a', 'new', '', clock_timestamp() - interval '23 hours');
             insert into guardrail_violation (workspace, created_at, agent_id, request_id, trust_level,
                pattern_name, category, severity, blocked, operation_text, matched_text)
             select 'default', clock_timestamp() - make_interval(days => days), 'a', 'r', 2, 'p', 'c',
                'block', true, 't', 'm' from unnest(array[1, 80, 130]) days",
        )
        .await;
    let ended = "select count(*) from generate_series(1, 6) n
        where (date_trunc('month', clock_timestamp() at time zone 'UTC') - make_interval(months => n - 1))::date
            <= (clock_timestamp() at time zone 'UTC')::date - 90";
    let expected: i64 = service.scalar(ended).await;
    assert!((2..=4).contains(&expected), "{expected}");
    let done = run(&service, json!(["retention"])).await;
    assert_eq!(counts(&done), json!({ "rows_deleted": 3, "audit_partitions_dropped": expected }));
    assert_eq!(service.scalar::<String>("select key from idempotency_key").await, "new");
    assert_eq!(service.scalar::<i64>("select count(*) from guardrail_violation").await, 2);
    let months = "select count(*) from pg_inherits where inhparent = 'audit_log'::regclass";
    assert_eq!(service.scalar::<i64>(months).await, 10 - expected);
    assert_eq!(counts(&run(&service, json!(["retention"])).await), json!({}));
}

#[tokio::test]
async fn maintenance_needs_an_admin_and_known_tasks() {
    let service = Service::start().await;
    let denied = service.client_with(CODEX).post("/maintenance/run", json!({})).await;
    assert_eq!(denied.status, 403);
    let boss = service.client_with(BOSS);
    let issues =
        boss.post("/maintenance/run", json!({ "tasks": ["sessions", "x"] })).await.issues();
    assert_eq!(issues, [("enum".to_owned(), json!(["body", "tasks", 1]))]);
    assert_eq!(
        boss.post_text("/maintenance/run", "").await.status,
        200,
        "an empty body asks for all"
    );
}

#[tokio::test]
async fn maintenance_makes_the_partitions_that_are_missing() {
    let service = Service::start().await;
    service
        .execute(
            "do $$ declare it text; begin
                select max(inhrelid::regclass::text) into it from pg_inherits
                where inhparent = 'audit_log'::regclass;
                execute 'drop table ' || it;
            end $$",
        )
        .await;
    let months = "select count(*) from pg_inherits where inhparent = 'audit_log'::regclass";
    assert_eq!(service.scalar::<i64>(months).await, 3);
    assert_eq!(counts(&run(&service, Value::Null).await), json!({}));
    assert_eq!(service.scalar::<i64>(months).await, 4);
}

#[tokio::test]
async fn a_task_that_fails_with_its_session_keeps_its_last_claimant() {
    let service = Service::start().await;
    let client = service.client();
    service
        .execute("insert into agent_session (workspace, agent_id, session_id, agent_type) values ('default', 'a', 's', 't')")
        .await;
    let body = json!({ "task_type": "t", "task_description": "d", "max_attempts": 1 });
    let id = client.post("/work/submit", body).await.json["task_id"].clone();
    let body = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" });
    let token = client.post("/work/claim", body).await.json["claim_token"].clone();
    service
        .execute("update agent_session set last_heartbeat_at = now() - interval '121 minutes'")
        .await;
    run(&service, json!(["sessions"])).await;
    let body = json!({ "agent_id": "a", "task_id": id, "success": true, "claim_token": token });
    let refused = client.post("/work/complete", body).await.json;
    assert_eq!(refused["reason"], "task_already_finished");
}

#[tokio::test]
async fn what_a_silent_session_holds_counts_as_expired() {
    let service = Service::start().await;
    held_by_silent_and_live(&service).await;
    assert_eq!(counts(&run(&service, json!(["locks"])).await), json!({ "locks_expired": 1 }));
    assert_eq!(counts(&run(&service, json!(["ports"])).await), json!({ "ports_released": 1 }));
    let held = "select key from file_lock where agent_id is not null";
    assert_eq!(service.rows(held).await, [json!({ "key": "live" })]);
    let held = "select session_id from port_block";
    assert_eq!(service.rows(held).await, [json!({ "session_id": "live" })]);
}

#[tokio::test]
async fn maintenance_leaves_other_workspaces_alone() {
    let service = Service::start().await;
    let (client, team) = (service.client(), service.client_with(crate::support::TEAM));
    team.acquire("a", "k", json!({})).await;
    service.expire("k").await;
    client.acquire("a", "k", json!({})).await;
    assert_eq!(counts(&run(&service, Value::Null).await), json!({}));
    assert_eq!(client.get("/locks/status/k").await.json["locked"], true);
    let kept = "select workspace from file_lock where agent_id is not null order by 1";
    assert_eq!(
        service.rows(kept).await,
        [json!({ "workspace": "default" }), json!({ "workspace": "team" })]
    );
}

#[tokio::test]
async fn a_claimed_task_may_finish_after_its_deadline() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({ "task_type": "t", "task_description": "d", "max_attempts": 1,
        "deadline": "2999-01-01T00:00:00Z" });
    let id = client.post("/work/submit", body).await.json["task_id"].clone();
    client.post("/work/claim", json!({ "agent_id": "a", "agent_type": "t" })).await;
    service.execute("update work_task set deadline = now()").await;
    assert_eq!(counts(&run(&service, Value::Null).await), json!({}));
    let body = json!({ "agent_id": "a", "task_id": id, "success": true });
    assert_eq!(client.post("/work/complete", body).await.json["status"], "completed");
}
