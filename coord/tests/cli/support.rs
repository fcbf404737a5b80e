//! The service with a database of its own, servers with given answers, and the program.
use std::{
    collections::HashMap,
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

use agent_coordinator::{App, Config, Home, listen, router, schema};
use coord::{Client, DEFAULT_TIMEOUT, Given, Settings};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

/// A key that is not bound to an agent: trust 2.
pub(crate) const FREE: &str = "free-key";
/// A key that is bound to agent `boss`, with every operation.
pub(crate) const BOSS: &str = "boss-key";
/// A key that is bound to agent `reviewer`, which may only read.
pub(crate) const REVIEWER: &str = "reviewer-key";

/// How long a test waits before it fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

const IDENTITIES: &str = r#"{
    "boss-key": {"agent_id": "boss", "agent_type": "strands", "profile": "strands_orchestrator"},
    "reviewer-key": {"agent_id": "reviewer", "profile": "claude_code_web_reviewer"}
}"#;

/// The service on a port of this machine, with a migrated database of its own.
pub(crate) struct Service {
    pub(crate) url: String,
    db: PgPool,
    _database: throwaway::Database,
}

impl Service {
    pub(crate) async fn start() -> Service {
        Service::start_with(&[]).await
    }

    /// Starts it with these variables as well.
    pub(crate) async fn start_with(more: &[(&str, &str)]) -> Service {
        let schema = schema();
        let database = throwaway::database(schema.migrator, schema.functions);
        let database = database.await.expect("a database");
        let keys = [FREE, BOSS, REVIEWER].join(",");
        let variables: HashMap<_, _> = [
            ("POSTGRES_DSN", database.url.as_str()),
            ("POSTGRES_POOL_MIN", "1"),
            ("POLICY_ENGINE", "cedar"),
            ("COORDINATION_API_KEYS", &keys),
            ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES),
        ]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
        let variable = |name: &str| variables.get(name).map(|it| (*it).to_owned());
        let app = App::new(Config::parse(Home::Server, variable).expect("a configuration"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        tokio::spawn(async move {
            let served = listen(listener, router(app.clone()), &app, std::future::pending());
            served.await.expect("it serves");
        });
        let db = PgPool::connect(&database.url).await.expect("the database answers");
        Service { url, db, _database: database }
    }

    pub(crate) fn coord(&self) -> Coord {
        self.coord_with(FREE)
    }

    pub(crate) fn coord_with(&self, key: &str) -> Coord {
        Coord::at(&self.url).with("COORDINATION_API_KEY", key)
    }

    /// Acquires a lock with any key, as a client of the HTTP routes can.
    pub(crate) fn lock_over_http(&self, agent_id: &str, key: &str) {
        let given = Given { url: Some(self.url.clone()), ..Given::default() };
        let variable = |name: &str| (name == "COORDINATION_API_KEY").then(|| FREE.to_owned());
        let settings = Settings::new(&given, variable, DEFAULT_TIMEOUT).expect("settings");
        let body = json!({ "file_path": key, "agent_id": agent_id, "agent_type": "x" });
        let answer = Client::new(settings).call("POST", "/locks/acquire", Some(&body));
        let answer = answer.expect("an answer");
        assert!(answer.text.starts_with(r#"{"success":true"#), "{key}: {}", answer.text);
    }

    /// Makes a session fall silent.
    #[expect(clippy::disallowed_methods, reason = "a test moves time where no operation can")]
    pub(crate) async fn silence(&self, session: &str) {
        let sql = format!(
            "update agent_session set last_heartbeat_at = clock_timestamp() - interval '1 day'
             where session_id = '{session}'"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.db).await.expect("it runs");
    }

    /// Makes a lock expire.
    #[expect(clippy::disallowed_methods, reason = "a test moves time where no operation can")]
    pub(crate) async fn expire(&self, key: &str) {
        let sql = format!(
            "update file_lock set expires_at = clock_timestamp() - interval '1 second'
             where key = '{key}' and agent_id is not null"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.db).await.expect("it runs");
    }
}

/// Three callers of one service.
pub(crate) struct Agents {
    pub(crate) me: Coord,
    pub(crate) other: Coord,
    /// Has every permission.
    pub(crate) boss: Coord,
}

impl Agents {
    pub(crate) fn of(service: &Service) -> Agents {
        let agent = |id: &str| service.coord().with("AGENT_ID", id);
        Agents { me: agent("me"), other: agent("other"), boss: service.coord_with(BOSS) }
    }

    /// Submits a task and returns its id.
    pub(crate) fn task(&self, kind: &str) -> String {
        self.task_id(&["submit", "--task-type", kind, "--description", "run it"])
    }

    /// Submits a task, claims it and returns its id.
    pub(crate) fn claimed(&self, kind: &str) -> String {
        self.task(kind);
        self.task_id(&["claim", "--task-types", kind])
    }

    fn task_id(&self, arguments: &[&str]) -> String {
        let answer = self.me.json(arguments);
        answer["task_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// Repeats a check until it is true. Fails after 10 s, so that a test never runs for ever.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < LIMIT, "not within {} s: {what}", LIMIT.as_secs());
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits for the end of a program and returns its exit code.
#[track_caller]
pub(crate) fn exit_code(child: &mut Child) -> i32 {
    let mut code = None;
    eventually("the program ends", || {
        code = child.try_wait().expect("a status").map(|status| status.code().expect("a code"));
        code.is_some()
    });
    code.expect("it has ended")
}

/// Returns the lines of a program's output as they come.
pub(crate) fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(output).lines();
        lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    receiver
}

/// A folder that is removed with the test.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("coord-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path.canonicalize().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program in an environment and a folder.
#[derive(Clone)]
pub(crate) struct Coord {
    variables: HashMap<String, String>,
    folder: PathBuf,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Coord {
    pub(crate) fn new() -> Coord {
        // A folder outside of every git work tree.
        Coord { variables: HashMap::new(), folder: std::env::temp_dir() }
    }

    pub(crate) fn at(url: &str) -> Coord {
        Coord::new().with("COORDINATION_API_URL", url)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Coord {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn inside(mut self, folder: &Path) -> Coord {
        folder.clone_into(&mut self.folder);
        self
    }

    /// A command in this environment, with `coord` on its path.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let coord = Path::new(env!("CARGO_BIN_EXE_coord"));
        let beside = coord.parent().expect("a folder").display();
        #[expect(clippy::disallowed_methods, reason = "where git is")]
        let path = std::env::var("PATH").expect("a path");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{beside}:{path}"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(&self.variables)
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Done {
        finish(self.command(env!("CARGO_BIN_EXE_coord")).args(arguments), "")
    }

    pub(crate) fn fed<S: AsRef<OsStr>>(&self, arguments: &[S], input: &str) -> Done {
        finish(
            self.command(env!("CARGO_BIN_EXE_coord")).args(arguments).stdin(Stdio::piped()),
            input,
        )
    }

    /// Runs a line in a shell.
    pub(crate) fn shell(&self, line: &str, input: &str) -> Done {
        finish(self.command("sh").args(["-c", line]).stdin(Stdio::piped()), input)
    }

    /// Runs a command that succeeds, and returns its JSON.
    #[track_caller]
    pub(crate) fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Value {
        let mut all: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        all.push("--json".as_ref());
        let done = self.run(&all);
        assert_eq!(done.code, 0, "{all:?}: {done:?}");
        done.json()
    }
}

pub(crate) fn finish(command: &mut Command, input: &str) -> Done {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes the pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("it ends");
    Done {
        code: output.status.code().expect("an exit code"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

impl Done {
    /// Parses standard output, which is one line of JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self:?}"))
    }

    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Done {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn assert_says(&self, text: &str) -> &Done {
        assert!(self.err.contains(text) || self.out.contains(text), "{text} is not in {self:?}");
        self
    }
}

/// A request that a [`Server`] received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// The answer of a healthy service to `GET /health`.
pub(crate) const HEALTHY: &str = r#"{"status":"ok","version":"0.2.0","db":"connected"}"#;

/// The answer of a [`Server`].
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status with a JSON body.
    Json(u16, String),
    /// An answer with its head; then the connection ends.
    Raw(String),
    /// The connection ends without an answer.
    Hang,
    /// There is no answer, and the connection stays open.
    Silence,
    /// There is no answer, and the callback is called when the client closes the connection.
    SilenceUntilClosed(Callback),
}

/// A function that a [`Server`] calls.
#[derive(Clone)]
pub(crate) struct Callback(pub(crate) Arc<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Callback")
    }
}

/// A server that answers each request with a function, and keeps the requests.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (seen_there, answer) = (seen.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen_there.clone(), answer.clone());
                thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        Server { url, seen }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(&Request, usize) -> Reply,
) {
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    while let Some(request) = read(&mut reader) {
        let number = {
            let mut seen = seen.lock().expect("not poisoned");
            seen.push(request.clone());
            seen.len() - 1
        };
        let text = match answer(&request, number) {
            Reply::Json(status, body) => format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            ),
            Reply::Raw(text) => {
                // Else the client can send its next request before it notices the end.
                let text = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
                let _ = stream.write_all(text.as_bytes());
                return;
            }
            Reply::Hang => return,
            Reply::Silence => {
                let _ = reader.read(&mut [0]);
                return;
            }
            Reply::SilenceUntilClosed(Callback(closed)) => {
                let _ = reader.read(&mut [0]);
                closed();
                return;
            }
        };
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|it| *it > 0)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let earlier = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        assert_eq!(earlier, None, "{name} came twice");
    }
    let length = headers.get("content-length").map_or(0, |it| it.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body: String::from_utf8(body).expect("UTF-8") })
}

/// A URL without a server.
pub(crate) fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}
