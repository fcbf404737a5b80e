//! Requests with `wait_seconds`: waiters for a lock, and claims that wait for a task.
mod limits;

use std::time::Duration;

use agent_coordinator::{App, router};
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, Service, TEAM, config, eventually, execute, variables};

const WAITERS: &str = "select count(*) from lock_waiter";

impl Service {
    /// Waits until so many requests are in the queue of a lock.
    async fn queued(&self, count: i64) {
        let what = format!("{count} requests are in the queue");
        eventually(&what, async || self.scalar::<i64>(WAITERS).await, |it| *it == count).await;
    }
}

/// A service within this process, whatever the tests are run through: each process counts the requests
/// that wait in it, and only those.
async fn here(more: &[(&str, &str)]) -> Service {
    Service::configured(more, |config| config).await
}

#[tokio::test]
async fn a_released_lock_goes_to_its_waiter() {
    let service = Service::start().await;
    let (client, other) = (service.client(), service.replica_here());
    client.acquire("a", "k", json!({})).await;
    let waits = other.acquire("b", "./k", json!({ "wait_seconds": 50, "reason": "mine now" }));
    let released = async {
        service.queued(1).await;
        client.release("a", "k", json!({})).await
    };
    let (got, released) = join(waits, released).await;
    assert_eq!(released["success"], true);
    assert_eq!((&got["action"], &got["fencing_token"]), (&json!("acquired"), &json!(2)));
    assert_eq!(got["position"], json!(null));
    assert_eq!(client.get("/locks/status/k").await.json["lock"]["reason"], "mine now");
    // The waiter is gone, and the whole wait leaves one audit row.
    assert_eq!(service.scalar::<i64>(WAITERS).await, 0);
    let rows = "select success, result->>'action' as action from audit_log
        where agent_id = 'b' and operation = 'acquire_lock'";
    assert_eq!(service.rows(rows).await, [json!({ "success": true, "action": "acquired" })]);
}

#[tokio::test]
async fn waiters_get_the_lock_in_the_order_of_arrival() {
    let service = here(&[]).await;
    let clients = [service.client(), service.replica_here()];
    clients[0].acquire("a", "k", json!({})).await;
    let order = std::sync::Mutex::new(Vec::new());
    let waits = (1..=6).map(|n| {
        let (service, clients, order) = (&service, &clients, &order);
        async move {
            service.queued(n - 1).await;
            let (agent, client) = (format!("w{n}"), &clients[n as usize % 2]);
            let got = client.acquire(&agent, "k", json!({ "wait_seconds": 50 })).await;
            assert_eq!(got["action"], "acquired", "{got}");
            order.lock().expect("whole").push(n);
            client.release(&agent, "k", json!({})).await;
        }
    });
    let begins = async {
        service.queued(6).await;
        clients[1].release("a", "k", json!({})).await;
    };
    join(join_all(waits), begins).await;
    assert_eq!(*order.lock().expect("whole"), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn a_waiter_that_times_out_learns_the_holder_and_its_queue_position() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({ "reason": "long work" })).await;
    let later = async {
        service.queued(1).await;
        client.acquire("c", "k", json!({ "wait_seconds": 1 })).await
    };
    let first = client.acquire("b", "k", json!({ "wait_seconds": 2 }));
    let (first, second) = join(first, later).await;
    for (refused, position) in [(first, 1), (second, 2)] {
        assert_eq!(refused["success"], false);
        assert_eq!(refused["reason"], "locked_by_other");
        assert_eq!(
            (&refused["locked_by"], &refused["lock_reason"]),
            (&json!("a"), &json!("long work"))
        );
        assert_eq!(refused["position"], position);
    }
    assert_eq!(service.scalar::<i64>(WAITERS).await, 0);
    let rows = "select success, result from audit_log where agent_id = 'b'";
    let refused = json!({ "reason": "locked_by_other", "locked_by": "a" });
    assert_eq!(service.rows(rows).await, [json!({ "success": false, "result": refused })]);
    // A caller that does not wait has no queue position.
    assert_eq!(client.acquire("d", "k", json!({})).await["position"], json!(null));
}

#[tokio::test]
async fn a_free_lock_is_reserved_for_its_waiter() {
    let service = here(&[]).await;
    let client = service.client();
    let waiter = |seconds: i64| {
        format!(
            "insert into lock_waiter (workspace, id, key, agent_id, agent_type, session_id,
                reason, alive_until)
             values ('default', gen_random_uuid(), 'k', 'w', 'codex', 's', 'patient',
                clock_timestamp() + interval '{seconds} seconds')"
        )
    };
    service.execute(&waiter(600)).await;
    let refused = client.acquire("a", "k", json!({})).await;
    assert_eq!(
        (&refused["success"], &refused["reason"]),
        (&json!(false), &json!("locked_by_other"))
    );
    assert_eq!((&refused["locked_by"], &refused["lock_reason"]), (&json!("w"), &json!("patient")));
    assert_eq!((&refused["agent_type"], &refused["session_id"]), (&json!("codex"), &json!("s")));
    assert_eq!(refused["locked_at"], json!(null));
    assert!(refused["expires_at"].is_string());
    // Another workspace has another queue.
    let team = service.client_with(TEAM).acquire("a", "k", json!({})).await;
    assert_eq!(team["action"], "acquired");
    // A waiter acquires the lock that is reserved for it, and a holder refreshes its lock despite waiters.
    let taken = client.acquire("w", "k", json!({ "session_id": "s" })).await;
    assert_eq!(taken["action"], "acquired");
    service.execute(&waiter(600).replace("'w'", "'x'")).await;
    let refreshed = client.acquire("w", "k", json!({ "session_id": "s" })).await;
    assert_eq!(refreshed["action"], "refreshed");
}

#[tokio::test]
async fn a_lock_that_expires_or_loses_its_session_goes_to_its_waiter() {
    let service = here(&[]).await;
    let client = service.client();
    let ends = [
        "update file_lock set expires_at = now() - interval '1 second'",
        "update agent_session set last_heartbeat_at = now() - interval '1 day'",
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let (key, agent) = (format!("k{n}"), format!("holder-{n}"));
        let who = json!({ "agent_id": agent, "agent_type": "t", "session_id": "s" });
        assert_eq!(client.post("/discovery/register", who).await.status, 200);
        client.acquire(&agent, &key, json!({ "session_id": "s" })).await;
        let ended = async {
            service.queued(1).await;
            service.execute(end).await;
        };
        let waits = client.acquire("b", &key, json!({ "wait_seconds": 50 }));
        let (got, ()) = join(waits, ended).await;
        assert_eq!(got["action"], "acquired", "{end}");
    }
}

#[tokio::test]
async fn waiting_takes_no_connection() {
    let service = here(&[("POSTGRES_POOL_MAX", "1")]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let waits = (0..5).map(|n| {
        let client = client.clone();
        async move { client.acquire(&format!("w{n}"), "k", json!({ "wait_seconds": 1 })).await }
    });
    let claims = (0..5).map(|n| {
        let client = client.clone();
        async move { client.claim(&format!("w{n}"), json!({ "wait_seconds": 1 })).await }
    });
    let others = async {
        service.queued(5).await;
        for n in 0..20 {
            let got = client.acquire("a", &format!("other-{n}"), json!({})).await;
            assert_eq!(got["action"], "acquired");
        }
    };
    let ((locks, claims), ()) = join(join(join_all(waits), join_all(claims)), others).await;
    assert!(locks.iter().all(|it| it["reason"] == "locked_by_other"), "{locks:?}");
    assert!(claims.iter().all(|it| it["reason"] == "no_tasks_available"), "{claims:?}");
}

#[tokio::test]
async fn a_wait_has_an_upper_bound_and_does_not_count_as_slow() {
    let service = here(&[("WAIT_MAX_SECONDS", "0")]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let refused = client.acquire("b", "k", json!({ "wait_seconds": 1_000_000 })).await;
    assert_eq!(
        (&refused["reason"], &refused["position"]),
        (&json!("locked_by_other"), &json!(null))
    );
    assert_eq!(
        client.claim("b", json!({ "wait_seconds": 1_000_000 })).await["reason"],
        "no_tasks_available"
    );
    for (path, body) in [
        ("/locks/acquire", json!({ "file_path": "k", "agent_id": "b", "agent_type": "t" })),
        ("/work/claim", json!({ "agent_id": "b", "agent_type": "t" })),
    ] {
        let mut body = body;
        body["wait_seconds"] = json!(-1);
        let issues = client.post(path, body).await.issues();
        assert_eq!(issues, [("greater_than_equal".to_owned(), json!(["body", "wait_seconds"]))]);
    }

    let limit = Duration::from_secs(1);
    let service = Service::configured(&[], |config| {
        config.with_timings(|timings| timings.request_time = limit)
    })
    .await;
    let client = service.client();
    assert_eq!(
        client.claim("b", json!({ "wait_seconds": 2 })).await["reason"],
        "no_tasks_available"
    );
}

#[tokio::test]
async fn a_claim_waits_for_a_task() {
    let service = here(&[]).await;
    let (client, other) = (service.client(), service.replica_here());
    let waits = other.claim("a", json!({ "wait_seconds": 50 }));
    let submits = async {
        other.until_waiting(1).await;
        client.submit(json!({})).await
    };
    let (got, id) = join(waits, submits).await;
    assert_eq!(
        (&got["success"], &got["task_id"], &got["attempt"]),
        (&json!(true), &json!(id), &json!(1))
    );
    let rows =
        "select success, result->>'task_id' as id from audit_log where operation = 'claim_task'";
    assert_eq!(service.rows(rows).await, [json!({ "success": true, "id": id })]);
}

#[tokio::test]
async fn each_waiting_claim_gets_a_task_of_its_own() {
    let service = here(&[]).await;
    let clients = [service.client(), service.replica_here()];
    let waits = (0..20).map(|n| {
        let client = clients[n % 2].clone();
        async move { client.claim(&format!("w{n}"), json!({ "wait_seconds": 50 })).await }
    });
    let submits = async {
        let waiting = async || clients[0].waiting().await + clients[1].waiting().await;
        eventually("all twenty claims wait", waiting, |waiting| *waiting == 20).await;
        for _ in 0..20 {
            clients[0].submit(json!({})).await;
        }
    };
    let (got, ()) = join(join_all(waits), submits).await;
    let mut ids: Vec<_> = got.iter().map(|it| it["task_id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert!(got.iter().all(|it| it["success"] == true));
}

#[tokio::test]
async fn a_waiting_claim_gets_a_task_whose_delay_or_lease_has_ended() {
    let service = here(&[]).await;
    let client = service.client();
    let parked = client.submit(json!({ "not_before": "2999-01-01T00:00:00Z" })).await;
    let waits = client.claim("a", json!({ "wait_seconds": 50 }));
    let passes = async {
        client.until_waiting(1).await;
        service.execute("update work_task set available_at = now()").await;
    };
    let (got, ()) = join(waits, passes).await;
    assert_eq!(got["task_id"], parked);
    let waits = client.claim("b", json!({ "wait_seconds": 50 }));
    let ends = async {
        client.until_waiting(1).await;
        service.execute("update work_task set claim_expires_at = now()").await;
    };
    let (got, ()) = join(waits, ends).await;
    assert_eq!((&got["task_id"], &got["attempt"]), (&json!(parked), &json!(2)));
}

#[tokio::test]
async fn a_task_that_a_claimant_may_not_take_does_not_end_its_wait() {
    let service = here(&[]).await;
    let client = service.client();
    let codex = service.client_with(CODEX);
    let waits = async {
        let body = json!({ "agent_id": "codex-1", "agent_type": "codex", "wait_seconds": 2 });
        codex.post("/work/claim", body).await.json
    };
    let submits = async {
        client.until_waiting(1).await;
        let review = json!({ "task_type": "review", "input_data": { "submitted_by": "codex-1" } });
        client.submit(review).await;
        client.submit(json!({ "agent_requirements": { "min_trust_level": 4 } })).await;
        let text = json!({ "task_description": "then git push --force origin main" });
        service.client_with(BOSS).submit(text).await;
    };
    let (got, ()) = join(waits, submits).await;
    assert_eq!(got["success"], false);
    assert_eq!(got["reason"], "destructive_operation_blocked: git_force_push");
}

#[tokio::test]
async fn a_waiter_that_is_suspended_is_denied() {
    let service = Service::configured(&[], |config| {
        config.with_timings(|timings| timings.standing_max_age = Duration::ZERO)
    })
    .await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let waits = async {
        let body =
            json!({ "file_path": "k", "agent_id": "b", "agent_type": "t", "wait_seconds": 50 });
        client.post("/locks/acquire", body).await
    };
    let suspends = async {
        service.queued(1).await;
        let body = json!({ "target_agent_id": "b", "suspended": true });
        let answer = service.client_with(BOSS).post("/profiles/assign", body).await;
        assert_eq!(answer.json["success"], true);
        client.release("a", "k", json!({})).await;
    };
    let (refused, ()) = join(waits, suspends).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
}

#[tokio::test]
async fn an_idempotency_key_holds_for_a_request_that_waits() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let keyed = client.clone().header("idempotency-key", "once");
    let body = json!({ "wait_seconds": 50 });
    let twins = join(keyed.acquire("b", "k", body.clone()), async {
        service.queued(1).await;
        let twin = keyed.acquire("b", "k", body.clone());
        let release = async {
            service.queued(2).await;
            client.release("a", "k", json!({})).await;
        };
        join(twin, release).await.0
    });
    let (first, second) = twins.await;
    assert_eq!(first, second);
    assert_eq!(first["action"], "acquired");
    let rows = "select count(*) from audit_log where agent_id = 'b'";
    assert_eq!(service.scalar::<i64>(rows).await, 1);
}

#[tokio::test]
async fn expired_waiters_are_deleted() {
    let service = here(&[]).await;
    let client = service.client();
    execute(
        &service.db,
        "insert into lock_waiter (workspace, id, key, agent_id, agent_type, alive_until)
         select 'default', gen_random_uuid(), 'old', 'x', 't',
            clock_timestamp() - interval '2 minutes' from generate_series(1, 50)",
    )
    .await;
    client.acquire("a", "k", json!({})).await;
    client.acquire("b", "k", json!({ "wait_seconds": 1 })).await;
    assert_eq!(service.scalar::<i64>(WAITERS).await, 0);
}

/// The answer of a request that waits and that a poll found ready. Without one, the request runs again
/// after five seconds.
async fn found_ready<T>(waits: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(4), waits).await.expect("a poll finds it ready")
}

#[tokio::test]
async fn a_waiter_runs_again_as_soon_as_the_lock_is_free() {
    let service = here(&[]).await;
    let client = service.client();
    for (n, end) in [
        "released",
        "update file_lock set expires_at = now() where agent_id = 'holder'",
        "update agent_session set last_heartbeat_at = now() - interval '1 day'
         where agent_id = 'holder'",
        "update agent_session set ended_at = now() where agent_id = 'holder'",
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("k{n}");
        let who = json!({ "agent_id": "holder", "agent_type": "t", "session_id": "s" });
        assert_eq!(client.post("/discovery/register", who).await.status, 200);
        client.acquire("holder", &key, json!({ "session_id": "s" })).await;
        let ends = async {
            service.queued(1).await;
            if end == "released" {
                client.release("holder", &key, json!({ "session_id": "s" })).await;
            } else {
                service.execute(end).await;
            }
        };
        let got = found_ready(join(client.acquire("b", &key, json!({ "wait_seconds": 50 })), ends))
            .await
            .0;
        assert_eq!(got["action"], "acquired", "{end}");
    }
}

#[tokio::test]
async fn each_waiter_runs_again_as_soon_as_it_is_first_in_the_queue() {
    let service = here(&[]).await;
    let clients = [service.client(), service.replica_here()];
    clients[0].acquire("a", "k", json!({})).await;
    let waits = (1..=3).map(|n| {
        let (service, client) = (&service, &clients[n as usize % 2]);
        async move {
            service.queued(n - 1).await;
            let agent = format!("w{n}");
            let got = client.acquire(&agent, "k", json!({ "wait_seconds": 50 })).await;
            client.release(&agent, "k", json!({})).await;
            got
        }
    });
    let release = async {
        service.queued(3).await;
        clients[0].release("a", "k", json!({})).await;
    };
    let (got, ()) = found_ready(join(join_all(waits), release)).await;
    let tokens: Vec<_> = got.iter().map(|it| it["fencing_token"].clone()).collect();
    assert_eq!(tokens, [2, 3, 4]);
}

#[tokio::test]
async fn a_waiting_claim_runs_again_as_soon_as_there_is_a_task() {
    let service = here(&[]).await;
    let client = service.client();
    // A waiter for a lock is polled for as well. Neither kind keeps the other from being found ready.
    client.acquire("a", "k", json!({})).await;
    let lock = client.acquire("b", "k", json!({ "wait_seconds": 50 }));
    let work = async {
        for (n, change) in ["submitted", "update work_task set claim_expires_at = now()", "parked"]
            .into_iter()
            .enumerate()
        {
            if change == "parked" {
                client.submit(json!({ "not_before": "2999-01-01T00:00:00Z" })).await;
            }
            let changes = async {
                client.until_waiting(2).await;
                match change {
                    "submitted" => drop(client.submit(json!({})).await),
                    "parked" => service.execute("update work_task set available_at = now()").await,
                    sql => service.execute(sql).await,
                }
            };
            let got = found_ready(join(
                client.claim(&format!("c{n}"), json!({ "wait_seconds": 50 })),
                changes,
            ))
            .await
            .0;
            assert_eq!(got["success"], true, "{change}");
        }
        client.release("a", "k", json!({})).await;
    };
    let (lock, ()) = join(lock, work).await;
    assert_eq!(lock["action"], "acquired");
}

#[tokio::test]
async fn of_two_waiting_claims_the_one_that_takes_the_task_type_runs_again() {
    let service = here(&[]).await;
    let client = service.client();
    let wants = |agent: &'static str, kinds: Value| {
        let client = client.clone();
        async move {
            let body = json!({ "agent_id": agent, "agent_type": "t", "task_types": kinds,
                "wait_seconds": 50 });
            client.post("/work/claim", body).await.json
        }
    };
    let first = wants("a", json!(["x"]));
    let rest = async {
        client.until_waiting(1).await;
        let second = wants("b", json!(["y"]));
        let submits = async {
            client.until_waiting(2).await;
            client.submit(json!({ "task_type": "y" })).await
        };
        let (got, id) = found_ready(join(second, submits)).await;
        assert_eq!(got["task_id"], id);
        client.submit(json!({ "task_type": "x" })).await
    };
    let (got, id) = join(first, rest).await;
    assert_eq!(got["task_id"], id);
}

#[tokio::test]
async fn requests_that_wait_do_not_run_again_while_nothing_is_ready_for_them() {
    let service = here(&[]).await;
    // Each attempt calls `record_heartbeat` once for the heartbeat of its caller. A poll does not call it.
    service
        .execute(
            "do $$ begin
                execute format('alter database %I set track_functions to ''all''', current_database());
             end $$",
        )
        .await;
    let attempts = "select coalesce(sum(calls), 0)::bigint from pg_stat_user_functions
        where funcname = 'record_heartbeat'";
    let expired = |agent: String, key: &'static str, client: Client| async move {
        let refused = client.acquire(&agent, key, json!({ "wait_seconds": 3 })).await;
        assert_eq!(refused["reason"], "locked_by_other");
    };
    add_waiter(&service, "elsewhere", 600).await;
    let (counted, ()) = service
        .counted(attempts, async |client: Client| {
            client.acquire("a", "held", json!({})).await;
            let held = (0..10).map(|n| expired(format!("h{n}"), "held", client.clone()));
            let kept = (0..10).map(|n| expired(format!("w{n}"), "k", client.clone()));
            join(join_all(held), join_all(kept)).await;
        })
        .await;
    assert_eq!(counted, 1 + 20 * 2, "one attempt at the start and one at the end");
    let (counted, ()) = service
        .counted(attempts, async |client: Client| {
            client.submit(json!({ "task_type": "other" })).await;
            client.submit(json!({ "agent_requirements": { "min_trust_level": 4 } })).await;
            let claims = (0..20).map(|n| {
                let client = client.clone();
                async move {
                    let body = json!({ "agent_id": format!("w{n}"), "agent_type": "t",
                        "task_types": ["test"], "wait_seconds": 3 });
                    let refused = client.post("/work/claim", body).await.json;
                    assert_eq!(refused["reason"], "no_tasks_available");
                }
            });
            join_all(claims).await;
        })
        .await;
    assert_eq!(counted, 2 + 20 * 2, "one attempt at the start and one at the end");
    service.execute("delete from work_task").await;
    let (counted, ()) = service
        .counted(attempts, async |client: Client| {
            let waits = (0..20).map(|n| {
                let client = client.clone();
                async move {
                    client.claim(&format!("v{n}"), json!({ "wait_seconds": 4 })).await["success"]
                        == true
                }
            });
            let submits = async {
                client.until_waiting(20).await;
                client.submit(json!({ "task_type": "test" })).await
            };
            let (got, _) = join(join_all(waits), submits).await;
            assert_eq!(got.iter().filter(|it| **it).count(), 1);
        })
        .await;
    assert!(counted < 50, "a task makes one claim run again, not all twenty: {counted}");
}

/// Adds a waiter for `k` of a request that no replica is answering.
async fn add_waiter(service: &Service, agent: &str, seconds_left: i32) {
    service
        .execute(&format!(
            "insert into lock_waiter (workspace, id, key, agent_id, agent_type, alive_until)
             values ('default', gen_random_uuid(), 'k', '{agent}', 't',
                clock_timestamp() + interval '{seconds_left} seconds')"
        ))
        .await;
}

#[tokio::test]
async fn an_expired_waiter_neither_reserves_the_lock_nor_counts_in_the_queue() {
    let service = here(&[]).await;
    let client = service.client();
    add_waiter(&service, "gone", -1).await;
    assert_eq!(client.acquire("a", "k", json!({})).await["action"], "acquired");
    let timed_out = client.acquire("b", "k", json!({ "wait_seconds": 1 })).await;
    assert_eq!((&timed_out["locked_by"], &timed_out["position"]), (&json!("a"), &json!(1)));
    let waits = client.acquire("b", "k", json!({ "wait_seconds": 50 }));
    let release = async {
        service.queued(2).await;
        client.release("a", "k", json!({})).await;
    };
    assert_eq!(found_ready(join(waits, release)).await.0["action"], "acquired");
}

#[tokio::test]
async fn a_poll_keeps_its_own_waiters_and_leaves_those_of_other_replicas() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    add_waiter(&service, "elsewhere", 30).await;
    let waits = client.acquire("b", "k", json!({ "wait_seconds": 50 }));
    let kept = async {
        service.queued(2).await;
        let lives = "select extract(epoch from max(alive_until))::float8 from lock_waiter
            where agent_id = 'b'";
        let first: f64 = service.scalar(lives).await;
        let alive_until = async || service.scalar::<f64>(lives).await;
        eventually("the poll keeps the waiter", alive_until, |until| *until > first).await;
        assert_eq!(service.scalar::<i64>(WAITERS).await, 2);
        service.execute("delete from lock_waiter where agent_id = 'elsewhere'").await;
        client.release("a", "k", json!({})).await;
    };
    assert_eq!(found_ready(join(waits, kept)).await.0["action"], "acquired");
}

#[tokio::test]
async fn a_waiter_whose_client_hung_up_expires_and_the_next_one_gets_the_lock() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let breaks_off = client.acquire("b", "k", json!({ "wait_seconds": 50 }));
    let queued = service.queued(1);
    tokio::select! {
        answer = breaks_off => panic!("{answer}"),
        () = queued => {}
    }
    client.release("a", "k", json!({})).await;
    let kept = client.acquire("c", "k", json!({})).await;
    assert_eq!((&kept["reason"], &kept["locked_by"]), (&json!("locked_by_other"), &json!("b")));
    let got = client.acquire("c", "k", json!({ "wait_seconds": 20 })).await;
    assert_eq!(got["action"], "acquired");
}

#[tokio::test]
async fn a_waiting_claim_that_gets_no_task_leaves_one_audit_row() {
    let service = here(&[]).await;
    let client = service.client();
    assert_eq!(
        client.claim("a", json!({ "wait_seconds": 1 })).await["reason"],
        "no_tasks_available"
    );
    let rows = "select success, result from audit_log where operation = 'claim_task'";
    let expected = json!({ "success": false, "result": { "reason": "no_tasks_available" } });
    assert_eq!(service.rows(rows).await, [expected]);
}

#[tokio::test]
async fn waiters_of_one_workspace_do_not_see_locks_and_tasks_of_another() {
    let service = here(&[]).await;
    let (client, team) = (service.client(), service.client_with(TEAM));
    for it in [&client, &team] {
        it.acquire("a", "k", json!({})).await;
    }
    let waits = join(
        team.acquire("t", "k", json!({ "wait_seconds": 50 })),
        join(team.claim("t", json!({ "wait_seconds": 50 })), async {
            service.queued(1).await;
            client.acquire("b", "k", json!({ "wait_seconds": 50 })).await
        }),
    );
    let changes = async {
        service.queued(2).await;
        client.until_waiting(3).await;
        client.release("a", "k", json!({})).await;
        service.queued(1).await;
        let other = "select workspace from lock_waiter";
        assert_eq!(service.scalar::<String>(other).await, "team");
        team.release("a", "k", json!({})).await;
        team.submit(json!({})).await;
    };
    let ((first, (work, second)), ()) = found_ready(join(waits, changes)).await;
    assert_eq!((&first["action"], &second["action"]), (&json!("acquired"), &json!("acquired")));
    assert_eq!(work["success"], true);
}

#[tokio::test]
async fn sessions_of_one_agent_are_separate_waiters() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    let waits = client.acquire("a", "k", json!({ "session_id": "s-2", "wait_seconds": 50 }));
    let rest = async {
        service.queued(1).await;
        client.release("a", "k", json!({ "session_id": "s-1" })).await;
        client.acquire("a", "k", json!({ "session_id": "s-3" })).await
    };
    let (got, late) = join(waits, rest).await;
    assert_eq!(got["session_id"], "s-2");
    assert_eq!(
        (&late["success"], &late["reason"]),
        (&json!(false), &json!("locked_by_other_session"))
    );
    assert_eq!((&late["locked_by"], &late["session_id"]), (&json!("a"), &json!("s-2")));
}

#[tokio::test]
async fn all_requests_that_wait_are_answered_at_once_when_waiting_is_stopped() {
    let service = here(&[]).await;
    let app = App::new(config(&variables(&service.url)));
    let client = Client::new(router(app.clone())).header("x-api-key", crate::support::FREE);
    client.acquire("a", "k", json!({})).await;
    let waits = join(
        client.acquire("b", "k", json!({ "wait_seconds": 50 })),
        client.claim("b", json!({ "wait_seconds": 50 })),
    );
    let stops = async {
        client.until_waiting(2).await;
        app.stop_waiting();
    };
    let ((lock, work), ()) = found_ready(join(waits, stops)).await;
    assert_eq!((&lock["reason"], &lock["position"]), (&json!("locked_by_other"), &json!(1)));
    assert_eq!(work["reason"], "no_tasks_available");
    assert_eq!(client.waiting().await, 0);
    // From now on no request waits.
    let lock = found_ready(client.acquire("b", "k", json!({ "wait_seconds": 50 }))).await;
    assert_eq!(lock["reason"], "locked_by_other");
    assert_eq!(
        found_ready(client.claim("b", json!({ "wait_seconds": 50 }))).await["reason"],
        "no_tasks_available"
    );
    assert_eq!(service.scalar::<i64>(WAITERS).await, 0);
}

#[tokio::test]
async fn a_request_is_ended_after_its_time_limit_and_its_wait() {
    let limit = Duration::from_secs(1);
    let service = Service::configured(&[], |config| {
        config.with_timings(|timings| timings.request_time = limit)
    })
    .await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    client.release("a", "k", json!({})).await;
    let mut rival = service.db.begin().await.expect("a transaction");
    execute(&mut *rival, "select 1 as one from file_lock where workspace = 'default' for update")
        .await;
    let body = json!({ "file_path": "k", "agent_id": "b", "agent_type": "t", "wait_seconds": 1 });
    assert_eq!(found_ready(client.post("/locks/acquire", body)).await.status, 503);
}

#[tokio::test]
async fn polling_goes_on_after_a_poll_that_failed() {
    let service = here(&[]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let waits = client.acquire("b", "k", json!({ "wait_seconds": 50 }));
    let breaks = async {
        service.queued(1).await;
        let mut rival = service.db.begin().await.expect("a transaction");
        execute(&mut *rival, "lock table lock_waiter in share mode").await;
        let killed = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        let killed = async || service.scalar::<i64>(killed).await;
        eventually("a poll waits for the table and is ended", killed, |it| *it > 0).await;
        rival.rollback().await.expect("rolled back");
        client.release("a", "k", json!({})).await;
    };
    let (got, ()) = found_ready(join(waits, breaks)).await;
    assert_eq!(got["action"], "acquired");
}

#[tokio::test]
async fn a_request_that_no_poll_finds_ready_runs_again_after_seconds() {
    let service = here(&[("GUARDRAILS_CACHE_TTL", "0")]).await;
    let client = service.client();
    let text = json!({ "task_description": "git push --force" });
    let id = service.client_with(BOSS).submit(text).await;
    let waits = client.claim("a", json!({ "wait_seconds": 20 }));
    let allows = async {
        client.until_waiting(1).await;
        service
            .execute("update guardrail_pattern set enabled = false where name = 'git_force_push'")
            .await;
    };
    let within = tokio::time::timeout(Duration::from_secs(15), join(waits, allows));
    assert_eq!(within.await.expect("it runs again").0["task_id"], id);
}

#[tokio::test]
async fn polls_reuse_a_connection() {
    let service = here(&[]).await;
    let sessions = "select sessions from pg_stat_database where datname = current_database()";
    let (opened, _) = service
        .counted(sessions, async |client: Client| {
            client.acquire("a", "k", json!({})).await;
            client.acquire("b", "k", json!({ "wait_seconds": 3 })).await
        })
        .await;
    // The check for a pooler opens two of its own. One for each poll would be fifteen.
    assert!(opened < 8, "{opened} connections");
}
