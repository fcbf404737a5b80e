//! The database killed, in part and as a whole, while the service works: no wrong answer, no
//! acknowledged lock lost, and recovery without a restart of the service.
use std::time::Duration;

use agent_coordinator::App;
use futures_util::future::{join, join_all};
use managed_postgres::{Server, throwaway};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    laws::{Asked, ask, permitted, request, routes},
    relay::relayed,
    support::{
        Answer, Client, FREE, Service, config, eventually, execute, scalar, signal, variables,
    },
    transport::Transport,
};

/// The service on a server of its own, which a test may kill.
struct Mortal {
    server: Server,
    client: Client,
}

impl Mortal {
    async fn start() -> Self {
        let server = throwaway::private().await.expect("a server");
        let app = App::new(config(&variables(&server.url("postgres"))));
        app.migrate().await.expect("an empty database is migrated");
        let variables = variables(&server.url("postgres"));
        let client = Client::over(Transport::start(&variables).await).header("x-api-key", FREE);
        Self { server, client }
    }

    /// A connection of the test. It has to be opened again after each kill.
    async fn look(&self) -> PgPool {
        PgPool::connect(&self.server.url("postgres")).await.expect("the database answers")
    }

    async fn acquire(&self, key: &str) -> Answer {
        let body = json!({ "file_path": key, "agent_id": "a", "agent_type": "t" });
        self.client.post("/locks/acquire", body).await
    }

    /// Waits until the service is healthy again.
    async fn recovered(&self) {
        let health = async || self.client.get("/health").await;
        eventually("the service recovers", health, |it| it.status == 200).await;
    }
}

/// Asserts the 503 of a request whose database ended meanwhile.
#[track_caller]
fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    let id = answer.headers["x-request-id"].to_str().expect("text");
    let expected = json!({ "detail": "Service temporarily unavailable", "request_id": id });
    assert_eq!(answer.json, expected);
}

fn kill(pid: i32) {
    signal("KILL", pid.to_string());
}

#[tokio::test]
async fn a_backend_killed_between_requests_is_replaced() {
    let mortal = Mortal::start().await;
    assert_eq!(mortal.acquire("k").await.status, 200);
    let db = mortal.look().await;
    execute(
        &db,
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'agent-coordinator'",
    )
    .await;
    // One request may get the closed connection. The next one gets a new connection.
    let found = mortal.acquire("k").await;
    if found.status != 200 {
        assert_unavailable(&found);
    }
    mortal.recovered().await;
    let answer = mortal.acquire("k").await;
    assert_eq!((answer.status.as_u16(), &answer.json["action"]), (200, &json!("refreshed")));
}

#[tokio::test]
async fn a_backend_killed_while_it_serves_a_request_costs_that_request() {
    let mortal = Mortal::start().await;
    let granted = mortal.acquire("k").await.json;
    let db = mortal.look().await;
    execute(&db, "update file_lock set expires_at = now() - interval '1 s'").await;
    // The row is locked, so that the acquisition waits in its backend until the backend is killed.
    let mut blocker = db.begin().await.expect("a transaction");
    sqlx::query_scalar!("select 1 as one from file_lock where workspace = 'default' for update")
        .fetch_one(&mut *blocker)
        .await
        .expect("the row is locked");
    let killer = async {
        let find = "select coalesce((select pid from pg_stat_activity
            where application_name = 'agent-coordinator' and wait_event_type = 'Lock'), 0)";
        let find = async || scalar::<i32>(&db, find).await;
        kill(eventually("a statement waits for the row", find, |pid| *pid != 0).await);
    };
    let (answer, ()) = join(mortal.acquire("k"), killer).await;
    assert_unavailable(&answer);
    mortal.recovered().await;
    let again = mortal.acquire("k").await.json;
    assert_eq!(again["action"], "acquired");
    let (old, new) = (granted["fencing_token"].as_i64(), again["fencing_token"].as_i64());
    assert!(new > old, "{old:?} {new:?}");
}

#[tokio::test]
async fn a_killed_database_loses_no_acknowledged_lock() {
    let mut mortal = Mortal::start().await;
    let health = mortal.client.get("/health").await;
    assert_eq!(health.status, 200);
    let (started, mut first) = tokio::sync::watch::channel(0);
    let load = {
        let client = mortal.client.clone();
        async move {
            let workers = (0..8).map(|worker| {
                let (client, started) = (client.clone(), started.clone());
                async move {
                    let mut granted = Vec::new();
                    for n in 0.. {
                        let body = json!({
                            "file_path": format!("w{worker}/{n}"), "agent_id": "a", "agent_type": "t",
                        });
                        let answer = client.post("/locks/acquire", body).await;
                        if answer.status != 200 {
                            assert_unavailable(&answer);
                            break;
                        }
                        assert_eq!(answer.json["action"], "acquired");
                        granted.push(answer.json);
                        started.send_modify(|it| *it += 1);
                    }
                    granted
                }
            });
            join_all(workers).await.concat()
        }
    };
    let killer = async {
        first.wait_for(|granted| *granted > 100).await.expect("the load goes on");
        mortal.server.kill().await.expect("the server is killed");
    };
    let (granted, ()): (Vec<Value>, ()) = join(load, killer).await;
    assert!(granted.len() > 100);

    assert_unavailable(&mortal.acquire("down").await);
    let unwell = json!({ "status": "degraded", "db": "unreachable", "version": "0.2.0" });
    mortal.client.get("/health").await.assert_is(503, unwell);
    let ready = mortal.client.get("/ready").await;
    ready.assert_is(
        503,
        json!({
            "status": "degraded", "db": "unreachable", "version": "0.2.0", "schema": "unknown",
            "write": "unknown", "failed": ["db"],
        }),
    );
    assert_eq!(mortal.client.get("/live").await.status, 200);

    mortal.server.restart().await.expect("the server starts again");
    mortal.recovered().await;
    for lock in &granted {
        let key = lock["file_path"].as_str().expect("a key");
        let status = mortal.client.get(&format!("/locks/status/{key}")).await.json;
        assert_eq!(status["lock"]["locked_by"], "a", "{key}");
        assert_eq!(status["lock"]["fencing_token"], lock["fencing_token"], "{key}");
        assert_eq!(status["lock"]["expires_at"], lock["expires_at"], "{key}");
    }
    // Every lock has an audit row and every audit row its lock.
    let db = mortal.look().await;
    let locks: i64 = scalar(&db, "select count(*) from file_lock").await;
    let recorded: i64 = scalar(
        &db,
        "select count(distinct parameters->>'file_path') from audit_log
         where operation = 'acquire_lock' and success",
    )
    .await;
    assert_eq!(locks, recorded);
    assert!(locks >= granted.len() as i64);
}

#[tokio::test]
async fn clients_that_hang_up_lose_no_acknowledged_lock() {
    let service = Service::with(&[("POSTGRES_POOL_MAX", "2")]).await;
    let client = service.client();
    let mut granted = Vec::new();
    for round in 0..300_u64 {
        // Each request is dropped after a longer time: before, within and after its transaction. The last
        // ones complete even on a slow machine.
        let rude = client.clone().header("idempotency-key", &format!("rude-{round}"));
        let body =
            json!({ "file_path": format!("rude/{round}"), "agent_id": "r", "agent_type": "t" });
        let patience =
            if round < 290 { Duration::from_micros(round * 20) } else { Duration::from_secs(60) };
        let hung_up = tokio::time::timeout(patience, rude.post("/locks/acquire", body)).await;
        if let Ok(answer) = hung_up {
            granted.push(answer.json);
        }
        if round % 3 == 0 {
            let hung_up = tokio::time::timeout(patience, client.get("/ready")).await;
            assert!(hung_up.is_err() || hung_up.is_ok_and(|it| it.status == 200));
        }
        granted.push(client.acquire("honest", &format!("honest/{round}"), json!({})).await);
    }
    assert!(granted.len() > 300, "some requests completed");
    for lock in &granted {
        assert_eq!(lock["action"], "acquired", "{lock}");
        let key = lock["file_path"].as_str().expect("a key");
        let count =
            format!("select count(*) from file_lock where key = '{key}' and agent_id is not null");
        assert_eq!(service.scalar::<i64>(&count).await, 1, "{key} was acknowledged and is lost");
        let count =
            format!("select count(*) from audit_log where parameters->>'file_path' = '{key}'");
        assert_eq!(service.scalar::<i64>(&count).await, 1, "{key} has no record");
    }
}

#[tokio::test]
async fn a_connection_that_fell_silent_while_nothing_used_it_is_replaced() {
    let service = Service::start().await;
    // The service has a single connection.
    let (relay, client, _) = relayed(&service.url, &[]).await;
    assert_eq!(client.acquire("a", "k", json!({})).await["success"], true);
    relay.silence();
    // After a second without requests the service pings the connection.
    let before = relay.pings();
    let pings = async || relay.pings();
    eventually("the service pings the connection", pings, |pings| *pings > before).await;
    let body = json!({ "file_path": "k", "agent_id": "a", "agent_type": "t" });
    let mut answers = 0;
    let acquire = async || {
        answers += 1;
        client.post("/locks/acquire", body.clone()).await
    };
    eventually("the connection is replaced", acquire, |it| it.status == 200).await;
    assert!(answers <= 4, "{} requests were refused", answers - 1);
}

/// Has the database refuse every row of the audit log.
const NO_RECORD: &str = "
    create function refuse_row() returns trigger language plpgsql as $$
    begin
        raise exception 's3cret-cause';
    end $$;
    create trigger refuse_row before insert on audit_log for each row execute function refuse_row()";

#[tokio::test]
async fn a_write_that_cannot_be_recorded_has_no_effect_and_tells_no_cause() {
    let service = Service::start().await;
    for (op, route) in routes() {
        assert_eq!(ask(&permitted(&service, &op), &op, route).await.status, 200, "{route}");
    }
    // Some example has ended the session of others. A revival is a transaction of its own.
    let session = json!({ "agent_id": "claude-1", "agent_type": "t", "session_id": "s-1" });
    assert_eq!(service.client().post("/discovery/register", session).await.status, 200);
    service.execute(NO_RECORD).await;
    let before = service.contents().await;
    for (op, route) in routes().into_iter().filter(|(op, _)| op.meta.is_audited()) {
        let Asked { method, path, body } = request(route, &op.example);
        let client = permitted(&service, &op).header("x-request-id", "the-request");
        let failed = client.send(method, &path, body).await;
        let text = json!({ "detail": "Internal Server Error", "request_id": "the-request" });
        failed.assert_is(500, text);
        assert_eq!(service.contents().await, before, "{route}");
    }
}
