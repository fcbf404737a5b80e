//! The installation of the database functions: a mismatch of versions is detected, and an installation is
//! complete or has no effect.
use agent_coordinator::{App, router};
use futures_util::future::join;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    processes::{Running, acquire, empty_database},
    support::{Answer, Client, Service, blocked, config, execute, scalar, variables},
};

const MISMATCH: &str = "mismatch: the functions differ; run `coordinator migrate`";

/// A function that `create or replace` cannot replace, because it returns something else.
const STUBBORN: &str =
    "create function waiter_lifetime() returns text language sql as $$ select '' $$";

fn app(url: &str) -> App {
    App::new(config(&variables(url)))
}

async fn ready(url: &str) -> Answer {
    Client::new(router(app(url))).get("/ready").await
}

async fn digest(db: &PgPool) -> Option<String> {
    scalar(db, "select max(digest) from installed_functions").await
}

#[tokio::test]
async fn functions_of_another_version_are_a_mismatch_until_the_next_migration() {
    let service = Service::start().await;
    for sabotage in [
        "update installed_functions set digest = 'another'",
        "delete from installed_functions",
        "drop function release_lock",
    ] {
        let before = ready(&service.url).await;
        assert_eq!((before.status.as_u16(), &before.json["schema"]), (200, &json!("ok")));
        service.execute(sabotage).await;
        let expected = json!({
            "status": "degraded", "db": "connected", "version": "0.2.0", "schema": MISMATCH,
            "write": "unknown", "failed": ["schema"],
        });
        ready(&service.url).await.assert_is(503, expected);
        app(&service.url).migrate().await.expect("it is migrated");
        let released = service.client().release("a", "k", json!({})).await;
        assert_eq!(released["reason"], "lock_not_found_or_not_owner", "{sabotage}");
    }
    assert_eq!(ready(&service.url).await.status, 200);
    service.execute("update _sqlx_migrations set checksum = '' where version = 5").await;
    let other_tables = ready(&service.url).await;
    assert_eq!(other_tables.json["schema"], "mismatch", "{}", other_tables.text);
}

#[tokio::test]
async fn functions_that_cannot_be_installed_leave_everything_as_it_was() {
    let service = Service::start().await;
    service
        .execute(&format!(
            "update installed_functions set digest = 'another'; drop function release_lock;
             drop function waiter_lifetime; {STUBBORN}"
        ))
        .await;
    let error = app(&service.url).migrate().await.expect_err("it fails").to_string();
    assert!(error.contains("cannot change return type"), "{error}");
    assert_eq!(digest(&service.db).await.as_deref(), Some("another"));
    let missing: bool = service.scalar("select to_regproc('release_lock') is null").await;
    assert!(missing, "no other function was installed");
    // The advisory lock of the migrator has been released.
    service.execute("drop function waiter_lifetime").await;
    app(&service.url).migrate().await.expect("it is migrated");
    assert_eq!(ready(&service.url).await.status, 200);

    let url = empty_database().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    execute(&db, STUBBORN).await;
    app(&url).migrate().await.expect_err("it fails");
    let made = "select concat(to_regclass('file_lock'), to_regproc('release_lock'))";
    assert_eq!(scalar::<String>(&db, made).await, "file_lock", "each migration is committed");
    execute(&db, "drop function waiter_lifetime").await;
    app(&url).migrate().await.expect("the next run goes on");
    assert_eq!(ready(&url).await.status, 200);
}

#[tokio::test]
async fn of_two_migrators_at_once_one_installs_the_functions() {
    let service = Service::start().await;
    service
        .execute(
            "update installed_functions set digest = 'another';
             create table installation ();
             create function log_installation() returns trigger language plpgsql as $$
             begin
                insert into installation default values;
                return null;
             end
             $$;
             create trigger log_installation after insert on installed_functions
             for each row execute function log_installation()",
        )
        .await;
    let mut gate = service.db.begin().await.expect("a transaction");
    execute(&mut *gate, "lock table installed_functions").await;
    let open = async {
        blocked(&service.db, 2).await;
        gate.rollback().await.expect("rolled back");
    };
    let (one, other) = (app(&service.url), app(&service.url));
    let ((one, other), ()) = join(join(one.migrate(), other.migrate()), open).await;
    one.expect("it is migrated");
    other.expect("it is migrated");
    assert_eq!(service.scalar::<i64>("select count(*) from installation").await, 1);
    assert_eq!(ready(&service.url).await.status, 200);
}

#[tokio::test]
async fn the_log_names_the_failed_function_and_the_sqlstate() {
    let database = crate::support::database().await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let running = Running::start(variables(&database.url)).await;
    let release = json!({ "file_path": "k", "agent_id": "a" }).to_string();
    let mut answers = Vec::new();
    // The second error says that the database is busy, so a client can retry.
    for (sqlstate, status) in [("P0001", 500), ("55P03", 503)] {
        running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
        let failing = format!(
            "do $do$
             begin
                execute regexp_replace(
                    pg_get_functiondef('free_unchanged_lock'::regproc), 'AS \\$function\\$.*',
                    'AS $body$ begin
                        raise exception ''a secret of the database'' using errcode = ''{sqlstate}'';
                    end $body$');
             end
             $do$"
        );
        execute(&db, &failing).await;
        let (answered, _, answer) = running.request("POST", "/locks/release", &release).await;
        assert_eq!(answered, status, "{answer}");
        answers.push((sqlstate, answer));
    }
    running.signal("TERM");
    let (_, log) = running.end().await;
    for ((sqlstate, answer), detail) in
        answers.iter().zip(["Internal Server Error", "Service temporarily unavailable"])
    {
        let id = answer["request_id"].as_str().expect("an id");
        assert_eq!(*answer, json!({ "detail": detail, "request_id": id }));
        let lines = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
        let lines: Vec<_> =
            lines.filter(|it| it["level"] == "ERROR" && it["request_id"] == id).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert_eq!(lines[0]["sqlstate"], *sqlstate, "{}", lines[0]);
        assert_eq!(lines[0]["function"], "free_unchanged_lock", "{}", lines[0]);
        let span = &lines[0]["span"];
        assert_eq!((&span["operation"], &span["agent.id"]), (&json!("release_lock"), &json!("a")));
    }
}
