//! The process of the function: failures, its database connection, and the migrations it never runs.
use std::path::Path;

use lambda_emulator::{Kind, Lambda};
use managed_postgres::{eventually, throwaway};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use crate::support::{Function, acquire, get, json_of, variables};

#[tokio::test]
async fn an_event_that_is_not_a_request_or_panics_fails_one_invocation() {
    let function = Function::start().await;
    let mut unreadable = Kind::FunctionUrl.recorded();
    unreadable["body"] = json!("no base64!");
    unreadable["isBase64Encoded"] = json!(true);
    let panicked = function.lambda.invoke(&unreadable).await.expect_err("a failure");
    assert!(
        panicked["errorMessage"].as_str().is_some_and(|it| it.contains("panicked")),
        "{panicked}"
    );
    for event in
        [json!({}), json!([]), json!("x"), json!({ "Records": [{ "eventSource": "aws:s3" }] })]
    {
        let failed = function.lambda.invoke(&event).await.expect_err("a failure");
        assert!(failed["errorMessage"].is_string(), "{failed}");
    }
    assert_eq!(function.ask(Kind::FunctionUrl, get("/live")).await.status(), 200);
    assert_eq!(function.lambda.processes(), 1, "the process survived");
}

#[tokio::test]
async fn the_function_has_one_connection_and_replaces_one_that_broke_while_frozen() {
    let function = Function::start().await;
    const OWN: &str = "from pg_stat_activity
        where datname = current_database() and application_name = 'agent-coordinator'";
    assert_eq!(function.ask(Kind::FunctionUrl, get("/live")).await.status(), 200);
    assert_eq!(
        function.scalar::<i64>(&format!("select count(*) {OWN}")).await,
        0,
        "made on demand"
    );
    for n in 0..5 {
        let taken = function.ask(Kind::FunctionUrl, acquire("a", &format!("k{n}"))).await;
        assert_eq!(taken.status(), 200);
    }
    assert_eq!(function.scalar::<i64>(&format!("select count(*) {OWN}")).await, 1);
    for _ in 0..2 {
        // The function checks a connection that was idle for a second, because it can have been frozen.
        let idle = format!(
            "select count(*) {OWN} and state_change < clock_timestamp() - interval '1.2 s'"
        );
        let is_idle = async || function.scalar::<i64>(&idle).await > 0;
        eventually("an idle connection", is_idle).await;
        let killed: bool = function
            .scalar(&format!("select bool_and(pg_terminate_backend(pid, 5000)) {OWN}"))
            .await;
        assert!(killed);
        assert_eq!(function.ask(Kind::FunctionUrl, acquire("a", "k0")).await.status(), 200);
        assert_eq!(function.scalar::<i64>(&format!("select count(*) {OWN}")).await, 1);
    }
}

#[tokio::test]
async fn the_function_never_migrates() {
    let server = throwaway::server().await.expect("a server");
    let name = format!("unmigrated_{}", std::process::id());
    let mut admin =
        PgConnection::connect(&server.url("postgres")).await.expect("the server answers");
    #[expect(clippy::disallowed_methods, reason = "a database name cannot be a parameter")]
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut admin)
        .await
        .expect("the database is created");
    let url = server.url(&name);
    let mut variables = variables(&url);
    variables.insert("COORDINATION_AUTO_MIGRATE".to_owned(), "true".to_owned());
    let program = Path::new(env!("CARGO_BIN_EXE_handler"));
    let lambda = Lambda::new(program, &variables, 1).await.expect("a Runtime API");
    let ask = async |request| {
        let answer = lambda.invoke(&Kind::FunctionUrl.event(&request)).await.expect("an answer");
        Kind::FunctionUrl.response(&answer)
    };
    assert_eq!(ask(get("/health")).await.status(), 200);
    let ready = ask(get("/ready")).await;
    assert_eq!((ready.status().as_u16(), &json_of(&ready)["schema"]), (503, &json!("mismatch")));
    assert_eq!(ask(acquire("a", "k")).await.status(), 500);
    let db = PgPool::connect(&url).await.expect("the database answers");
    #[expect(clippy::disallowed_methods, reason = "a test reads what no operation returns")]
    let relations: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace",
    )
    .fetch_one(&db)
    .await
    .expect("one value");
    assert_eq!(relations, 0, "nothing was created");
}
