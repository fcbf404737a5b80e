//! For tests: AWS Lambda around a function. The Runtime API hands events to processes of the function, as many
//! as there are concurrent events. The services in front convert a request to an event, and the function's
//! answer to a response.
//!
//! Written by hand, although `cargo lambda watch` and the Runtime Interface Emulator of AWS exist: tests run it
//! in their own process, offline, and with the events of every service, not only of function URLs.
mod event;

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as InPath, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

pub use event::Kind;

/// The most bytes of an answer that AWS passes on.
const MOST_BYTES: usize = 6_291_556;

/// How long a function can take to answer before the test fails.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A function with its processes.
pub struct Lambda {
    api: Arc<Api>,
    command: Mutex<Command>,
    most_processes: usize,
    processes: Mutex<Vec<Child>>,
    under_way: AtomicUsize,
    events: mpsc::UnboundedSender<Event>,
    _server: JoinSet<()>,
}

/// An event, and the channel for its outcome.
struct Event {
    text: String,
    outcome: oneshot::Sender<Outcome>,
}

/// An answer, or what the function reported as its failure.
type Outcome = Result<Value, Value>;

struct Api {
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    awaited: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    count: AtomicUsize,
}

impl Lambda {
    /// Creates a function without a process. An event starts one whenever all others are busy, up to
    /// `most_processes`.
    pub async fn new(
        program: &Path,
        variables: &HashMap<String, String>,
        most_processes: usize,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let api = Arc::new(Api {
            events: receiver.into(),
            awaited: Mutex::default(),
            count: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(answer))
            .layer(DefaultBodyLimit::disable())
            .with_state(api.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            // Runs until the set is dropped, which aborts this task.
            let _result = axum::serve(listener, router).await;
        });
        Ok(Self {
            api,
            command: command(program, &address.to_string(), variables).into(),
            most_processes,
            processes: Mutex::default(),
            under_way: AtomicUsize::new(0),
            events: sender,
            _server: server,
        })
    }

    /// Sends an event to the function and returns its outcome.
    ///
    /// # Panics
    /// When a process cannot be started, or does not answer within a minute.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        let busy = self.under_way.fetch_add(1, Ordering::SeqCst);
        self.start_another(busy + 1);
        let (outcome, awaited) = oneshot::channel();
        let sent = self.events.send(Event { text: event.to_string(), outcome });
        assert!(sent.is_ok(), "the Runtime API has ended");
        let outcome = tokio::time::timeout(ANSWER_LIMIT, awaited).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            _ => panic!("the function did not answer; its processes: {:?}", self.states()),
        }
    }

    /// Returns how many processes were started.
    pub fn processes(&self) -> usize {
        lock(&self.processes).len()
    }

    /// Returns how many events were handed to processes.
    pub fn invocations(&self) -> usize {
        self.api.count.load(Ordering::SeqCst)
    }

    fn start_another(&self, needed: usize) {
        let mut processes = lock(&self.processes);
        if processes.len() < needed.min(self.most_processes) {
            let child = lock(&self.command).spawn();
            processes.push(child.expect("the function's program can be started"));
        }
    }

    /// Returns the state of each process, for messages: its exit code if it has ended.
    fn states(&self) -> Vec<String> {
        lock(&self.processes).iter_mut().map(|it| format!("{:?}", it.try_wait())).collect()
    }
}

/// Returns the command that starts a process of the function, with the environment of Lambda.
fn command(program: &Path, api: &str, variables: &HashMap<String, String>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs([
            ("AWS_LAMBDA_RUNTIME_API", api),
            ("AWS_LAMBDA_FUNCTION_NAME", "handler"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/handler"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/09/10/[$LATEST]0123456789abcdef"),
        ])
        .envs(variables)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles a process's request for its next event.
async fn next(State(api): State<Arc<Api>>) -> Response {
    let Some(event) = api.events.lock().await.recv().await else {
        return StatusCode::GONE.into_response();
    };
    let id = format!("00000000-0000-4000-8000-{:012}", api.count.fetch_add(1, Ordering::SeqCst));
    lock(&api.awaited).insert(id.clone(), event.outcome);
    let headers = [
        ("lambda-runtime-aws-request-id", id.as_str()),
        ("lambda-runtime-deadline-ms", "9999999999999"),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:eu-west-1:123456789012:function:handler",
        ),
        ("lambda-runtime-trace-id", "Root=1-5e6722a7-cc56xmpl46db7ae02d4da47e"),
        ("content-type", "application/json"),
    ];
    (headers, event.text).into_response()
}

/// Handles a process's answer to an event, or its report of a failure.
async fn answer(
    State(api): State<Arc<Api>>,
    InPath((id, kind)): InPath<(String, String)>,
    body: Bytes,
) -> StatusCode {
    let Some(awaited) = lock(&api.awaited).remove(&id) else { return StatusCode::BAD_REQUEST };
    let parsed = |body: &[u8]| serde_json::from_slice(body).unwrap_or(Value::Null);
    let (outcome, status) = if body.len() > MOST_BYTES {
        let error = json!({ "errorType": "Function.ResponseSizeTooLarge" });
        (Err(error), StatusCode::PAYLOAD_TOO_LARGE)
    } else if kind == "response" {
        (Ok(parsed(&body)), StatusCode::ACCEPTED)
    } else {
        (Err(parsed(&body)), StatusCode::ACCEPTED)
    };
    // The receiver is dropped if the test has stopped waiting.
    let _sent = awaited.send(outcome);
    status
}
