//! SLEEP_FRIENDLY: an idle service sends nothing to its database, so that its platform can suspend it.
use std::time::Duration;

use agent_coordinator::{App, Config};

use crate::support::{FREE, Service, config, eventually, scalar, with_more};

const OPEN: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'agent-coordinator'";

const SESSION: &str = "insert into agent_session
    (workspace, agent_id, session_id, agent_type, last_heartbeat_at)
    values ('default', 'a', 'silent', 't', now() - interval '1 year')";

const ENDED: &str = "select count(*) from agent_session where ended_at is not null";

/// A short sweep interval, and a short time until idle connections are closed.
fn impatient(config: Config) -> Config {
    let moment = Duration::from_millis(5);
    config
        .with_sleepy_idle_time(Duration::from_millis(100))
        .with_timings(|timings| timings.sweep_interval = moment)
}

async fn service(more: &[(&str, &str)]) -> Service {
    Service::configured(more, impatient).await
}

/// Another process on the database of `service`.
fn app(service: &Service, more: &[(&str, &str)]) -> App {
    App::new(impatient(config(&with_more(&service.url, more))))
}

#[tokio::test]
async fn a_sleepy_service_keeps_no_connection_and_another_does() {
    let (sleepy, lively) = (service(&[("SLEEP_FRIENDLY", "true")]).await, service(&[]).await);
    for service in [&sleepy, &lively] {
        assert_eq!(service.client_with(FREE).get("/locks").await.status, 200);
        assert!(service.scalar::<i64>(OPEN).await > 0);
    }
    let open = async || sleepy.scalar::<i64>(OPEN).await;
    eventually("the sleepy service closes its connections", open, |open| *open == 0).await;
    assert!(lively.scalar::<i64>(OPEN).await > 0);
    // The next request opens a connection again.
    assert_eq!(sleepy.client_with(FREE).get("/locks").await.status, 200);
}

#[tokio::test]
async fn a_sleepy_service_does_not_sweep_and_another_does() {
    let (sleepy, lively) = (service(&[("SLEEP_FRIENDLY", "true")]).await, service(&[]).await);
    sleepy.execute(SESSION).await;
    let swept = async {
        // Ten sweeps of the other service give the sleepy one enough time for one.
        for _ in 0..10 {
            lively.execute("delete from agent_session").await;
            lively.execute(SESSION).await;
            let ended = async || scalar::<i64>(&lively.db, ENDED).await;
            eventually("the sweep ends the silent session", ended, |ended| *ended > 0).await;
        }
    };
    let (asleep, awake) = (app(&sleepy, &[("SLEEP_FRIENDLY", "true")]), app(&lively, &[]));
    tokio::select! {
        () = swept => {}
        never = asleep.sweep() => never,
        never = awake.sweep() => never,
    }
    assert_eq!(sleepy.scalar::<i64>(ENDED).await, 0);
    assert_eq!(sleepy.scalar::<i64>(OPEN).await, 0);
}
