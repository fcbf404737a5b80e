//! The modes of the tests: the router within this process; a server over a socket, with or without PgBouncer
//! in front of its database; a Lambda function behind a Runtime API; or the router with a Citus cluster as its
//! database. The variable `AGENT_COORDINATOR_TESTS` chooses.
use std::{
    collections::HashMap,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use agent_coordinator::{App, router};
use axum::{
    Router,
    body::{Body, Bytes},
};
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lambda_emulator::{Kind, Lambda};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tower::ServiceExt as _;

use crate::{pooler::Pooler, support::config};

/// The most concurrent processes of a function. AWS allows a thousand per account.
const MOST_PROCESSES: usize = 8;

/// How often another port is tried for a server, because a free port can be taken meanwhile.
const PORTS_TO_TRY: usize = 5;

#[derive(Clone)]
pub(crate) enum Transport {
    Router(Router),
    Server(Arc<Server>),
    Lambda(Arc<Lambda>),
}

/// The mode of the tests, from `AGENT_COORDINATOR_TESTS`.
#[expect(clippy::disallowed_methods, reason = "this is no configuration of the service")]
fn chosen() -> String {
    std::env::var("AGENT_COORDINATOR_TESTS").unwrap_or_else(|_| "router".to_owned())
}

/// Whether the databases are distributed over a Citus cluster.
pub(crate) fn is_citus() -> bool {
    chosen() == "citus"
}

/// A router within this process. In modes with processes, this is noted.
pub(crate) fn in_process(router: Router) -> Transport {
    if !is_citus() {
        note("this process");
    }
    Transport::Router(router)
}

/// Prints the mode of a test, bypassing the output capture of passing tests. `make` counts these lines.
pub(crate) fn note(through: &str) {
    let chosen = chosen();
    if chosen != "router" {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        let line = format!("{test} goes through {through} ({chosen})\n");
        std::io::stderr().write_all(line.as_bytes()).expect("the output is there");
    }
}

impl Transport {
    /// A service with this environment.
    pub(crate) async fn start(variables: &HashMap<String, String>) -> Self {
        match chosen().as_str() {
            "router" | "citus" | "paradedb" => Self::Router(router(App::new(config(variables)))),
            "pooler" => {
                note("a pooler");
                let url = &variables["POSTGRES_DSN"];
                let pooler = Pooler::start(url).await;
                let mut variables = variables.clone();
                variables.insert("POSTGRES_DSN".to_owned(), pooler.url(url));
                variables.insert("POSTGRES_POOLER".to_owned(), "transaction".to_owned());
                let server = Server::start(&variables).await;
                Self::Server(Arc::new(Server { _pooler: Some(pooler), ..server }))
            }
            "server" => {
                note("a server");
                Self::Server(Arc::new(Server::start(variables).await))
            }
            "lambda" => {
                note("a function");
                let variables = with_defaults(variables, &[("RUST_LOG", "off")]);
                let lambda = Lambda::new(&handler(), &variables, MOST_PROCESSES).await;
                Self::Lambda(Arc::new(lambda.expect("a Runtime API")))
            }
            other => {
                panic!(
                    "AGENT_COORDINATOR_TESTS is {other}, not router, pooler, server, lambda, citus or \
                     paradedb"
                )
            }
        }
    }

    /// A server that a test has started at this port.
    pub(crate) fn at(port: u16) -> Self {
        Self::Server(Arc::new(Server { port, idle: Mutex::default(), _child: None, _pooler: None }))
    }

    pub(crate) fn is_router(&self) -> bool {
        matches!(self, Self::Router(_))
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Response<Bytes> {
        match self {
            Self::Router(router) => {
                whole(router.clone().oneshot(request).await.expect("an answer")).await
            }
            Self::Server(server) => server.send(request).await,
            Self::Lambda(lambda) => {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a whole body").to_bytes();
                let event = Kind::FunctionUrl.event(&Request::from_parts(parts, body));
                Kind::FunctionUrl.response(&lambda.invoke(&event).await.expect("an answer"))
            }
        }
    }
}

async fn whole<B: hyper::body::Body<Error: std::fmt::Debug>>(
    response: Response<B>,
) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    Response::from_parts(parts, body)
}

fn with_defaults(
    variables: &HashMap<String, String>,
    defaults: &[(&str, &str)],
) -> HashMap<String, String> {
    let defaults = defaults.iter().map(|(name, value)| ((*name).into(), (*value).into()));
    let mut all: HashMap<String, String> = defaults.collect();
    all.extend(variables.clone());
    all
}

/// The program of the function, in the same folder as that of the server.
fn handler() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_coordinator")).with_file_name("handler");
    assert!(program.is_file(), "{} is missing: cargo build --bin handler", program.display());
    program
}

/// A server process, and idle connections to it for further requests.
pub(crate) struct Server {
    port: u16,
    idle: Mutex<Vec<SendRequest<Body>>>,
    /// The process, if it belongs to this transport.
    _child: Option<Child>,
    /// The pooler in front of its database.
    _pooler: Option<Pooler>,
}

impl Server {
    async fn start(variables: &HashMap<String, String>) -> Self {
        for _ in 0..PORTS_TO_TRY {
            if let Some(server) = Self::try_start(variables).await {
                return server;
            }
        }
        panic!("the server does not start");
    }

    async fn try_start(variables: &HashMap<String, String>) -> Option<Self> {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut variables = with_defaults(
            variables,
            &[
                // The databases of tests are migrated already.
                ("COORDINATION_AUTO_MIGRATE", "false"),
                // Idle connections must outlast the test.
                ("API_TIMEOUT_KEEP_ALIVE", "3600"),
                ("API_HOST", "127.0.0.1"),
                // Only the line that says that it listens, because the rest of the log is not read.
                ("RUST_LOG", "off,coordinator=info"),
            ],
        );
        variables.insert("API_PORT".to_owned(), port.to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .env_clear()
            .envs(&variables)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
        while let Some(line) = log.next_line().await.expect("a line") {
            if line.contains("listening") {
                return Some(Self {
                    port,
                    idle: Mutex::default(),
                    _child: Some(child),
                    _pooler: None,
                });
            }
            eprintln!("{line}");
        }
        None
    }

    async fn send(&self, mut request: Request<Body>) -> Response<Bytes> {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().entry(header::HOST).or_insert(host);
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect().await,
        };
        let response = connection.send_request(request).await.expect("an answer");
        let response = whole(response).await;
        if connection.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        response
    }

    async fn connect(&self) -> SendRequest<Body> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection");
        stream.set_nodelay(true).expect("a connection");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(connection);
        sender
    }
}
