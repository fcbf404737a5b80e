//! Recorded events through the real function and a runtime interface of the test's own.
use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc},
};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// The runtime interface: hands out events and takes answers.
#[derive(Clone)]
struct Runtime {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Value>,
    invocations: Arc<AtomicUsize>,
}

async fn next(State(runtime): State<Runtime>) -> Response {
    let Some(event) = runtime.events.lock().await.recv().await else {
        // No more events: the function waits, as a frozen one does.
        return std::future::pending().await;
    };
    let id = runtime.invocations.fetch_add(1, Ordering::SeqCst).to_string();
    let headers = [
        ("lambda-runtime-aws-request-id", id.as_str()),
        ("lambda-runtime-deadline-ms", "9999999999999"),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-west-1:1:function:handler"),
        ("content-type", "application/json"),
    ];
    (headers, event.to_string()).into_response()
}

async fn answer(
    State(runtime): State<Runtime>,
    Path((_, kind)): Path<(String, String)>,
    body: Bytes,
) {
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(kind, "response", "{body}");
    runtime.answers.send(body).await.expect("the test listens");
}

/// The function, running, with events to go in and answers to come out.
struct Function {
    events: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Value>,
    _child: Child,
    _database: throwaway::Database,
}

impl Function {
    async fn start() -> Self {
        let database = throwaway::database(&MIGRATOR).await.expect("a database");
        let (events, event_queue) = mpsc::channel(8);
        let (answer_queue, answers) = mpsc::channel(8);
        let runtime = Runtime {
            events: Arc::new(Mutex::new(event_queue)),
            answers: answer_queue,
            invocations: Arc::default(),
        };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .with_state(runtime);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        #[expect(
            clippy::disallowed_methods,
            reason = "the runtime interface runs beside the test"
        )]
        tokio::spawn(async move { axum::serve(listener, router).await });
        let variables = HashMap::from([
            ("AWS_LAMBDA_RUNTIME_API", address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", "handler".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "1".to_owned()),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "g".to_owned()),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "s".to_owned()),
            ("POSTGRES_DSN", database.url.clone()),
            ("COORDINATION_API_KEYS", "key".to_owned()),
        ]);
        let child = Command::new(env!("CARGO_BIN_EXE_handler"))
            .env_clear()
            .envs(variables)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the function starts");
        Self { events, answers, _child: child, _database: database }
    }

    /// Status and JSON body that an event is answered with.
    async fn invoke(&mut self, event: Value) -> (Value, Value) {
        self.events.send(event).await.expect("the runtime listens");
        let answer = self.answers.recv().await.expect("an answer");
        let body = answer["body"].as_str().unwrap_or_default();
        (answer["statusCode"].clone(), serde_json::from_str(body).unwrap_or_default())
    }
}

/// An event of an HTTP API or a function URL (payload version 2).
fn http_api(method: &str, path: &str, body: Value) -> Value {
    let mut event: Value =
        serde_json::from_str(include_str!("events/http_api.json")).expect("JSON");
    event["rawPath"] = json!(path);
    event["requestContext"]["http"]["method"] = json!(method);
    event["requestContext"]["http"]["path"] = json!(path);
    event["body"] = if body.is_null() { Value::Null } else { json!(body.to_string()) };
    event
}

#[tokio::test]
async fn the_function_answers_as_the_server_does() {
    let mut function = Function::start().await;
    let live = function.invoke(http_api("GET", "/live", Value::Null)).await;
    assert_eq!(live, (json!(200), json!({ "status": "ok", "version": "0.2.0" })));
    let (status, ready) = function.invoke(http_api("GET", "/ready", Value::Null)).await;
    assert_eq!((status, &ready["schema"]), (json!(200), &json!("ok")));
    let lock = |agent: &str| json!({ "file_path": "./src//a b.rs", "agent_id": agent, "agent_type": "codex" });
    let (status, first) = function.invoke(http_api("POST", "/locks/acquire", lock("a"))).await;
    assert_eq!((status, &first["action"]), (json!(200), &json!("acquired")));
    let (_, second) = function.invoke(http_api("POST", "/locks/acquire", lock("b"))).await;
    assert_eq!((&second["reason"], &second["locked_by"]), (&json!("locked_by_other"), &json!("a")));
    let (_, status) =
        function.invoke(http_api("GET", "/locks/status/src/a%20b.rs", Value::Null)).await;
    assert_eq!(status["lock"]["locked_by"], "a");
    let mut anonymous = http_api("POST", "/locks/acquire", lock("a"));
    anonymous["headers"].as_object_mut().expect("headers").remove("x-api-key");
    let denied = function.invoke(anonymous).await;
    assert_eq!(denied, (json!(401), json!({ "detail": "Invalid API key" })));
    let invalid = function.invoke(http_api("POST", "/locks/acquire", json!({}))).await;
    assert_eq!(invalid.0, json!(422));
}
