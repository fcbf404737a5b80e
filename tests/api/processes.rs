//! The real server as a process: its configuration, its start without a database, its end, and many
//! agents at once through a socket.
use std::{
    collections::HashMap,
    net::TcpListener,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr, Command},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use crate::support::{FREE, PATIENCE, blocked, eventually, scalar, signal, variables};

pub(crate) const COORDINATOR: &str = env!("CARGO_BIN_EXE_coordinator");

fn command(arguments: &[&str], variables: &HashMap<String, String>) -> Command {
    let mut command = Command::new(COORDINATOR);
    command.args(arguments).env_clear().envs(variables).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub(crate) async fn run(arguments: &[&str], variables: &HashMap<String, String>) -> Output {
    command(arguments, variables).output().await.expect("the program runs")
}

/// How long an answer or the end of a server may take: longer than any wait in these tests and more than
/// twice the default grace time.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) port: u16,
    log: UnboundedReceiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts the server and waits until it listens.
    pub(crate) async fn start(mut variables: HashMap<String, String>) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        variables.insert("API_HOST".to_owned(), "127.0.0.1".to_owned());
        variables.insert("API_PORT".to_owned(), port.to_string());
        let mut child =
            command(&[], &variables).stderr(Stdio::piped()).spawn().expect("the server starts");
        let log = read_lines(child.stderr.take().expect("piped"));
        let mut running = Self { child, port, log, seen: Vec::new() };
        running.wait_for_line("listening").await;
        running
    }

    pub(crate) async fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Ok(Some(line)) = tokio::time::timeout_at(deadline, self.log.recv()).await {
            self.seen.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with {text:?} in {:#?}", self.seen);
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> (u16, String, Value) {
        request(self.port, method, path, body).await.expect("an answer")
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.child.id().expect("running").to_string());
    }

    /// The exit code and everything that was logged.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let ends = tokio::time::timeout(LONGEST_ANSWER, self.child.wait()).await;
        let status = ends.expect("the server ends in time").expect("its exit code");
        while let Some(line) = self.log.recv().await {
            self.seen.push(line);
        }
        (status.code(), self.seen.join("\n"))
    }
}

/// Reads the log of a process as it is written, because a process stops when its pipe is full.
fn read_lines(log: ChildStderr) -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    let mut lines = BufReader::new(log).lines();
    #[expect(clippy::disallowed_methods, reason = "it ends with the process")]
    tokio::spawn(async move {
        while let Some(line) = lines.next_line().await.expect("a line") {
            // The receiver is gone where a test has ended.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// One request over a connection of its own: status, head and JSON.
pub(crate) async fn request(
    port: u16,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String, Value)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-api-key: {FREE}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    let mut answer = String::new();
    let reading = tokio::time::timeout(LONGEST_ANSWER, stream.read_to_string(&mut answer)).await;
    reading.map_err(|_| std::io::ErrorKind::TimedOut)??;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
    Ok((status, head.to_owned(), serde_json::from_str(body).unwrap_or_default()))
}

pub(crate) fn acquire(agent: &str, key: &str) -> String {
    json!({ "file_path": key, "agent_id": agent, "agent_type": "t" }).to_string()
}

/// The address of a new, empty database.
pub(crate) async fn empty_database() -> String {
    let server = throwaway::server().await.expect("a server");
    let name = format!("empty_{}", uuid::Uuid::new_v4().simple());
    let mut admin = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    #[expect(clippy::disallowed_methods, reason = "no parameter may stand for a database's name")]
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut admin)
        .await
        .expect("it is created");
    server.url(&name)
}

/// An address at which nothing listens.
pub(crate) fn nowhere() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    format!("postgresql://user:s3cret-word@127.0.0.1:{port}/db")
}

#[tokio::test]
async fn a_wrong_configuration_ends_with_2_and_names_every_variable_but_no_value() {
    let mut wrong = variables("postgresql://user:s3cret-word@localhost:70000/db");
    wrong.insert("API_PORT".to_owned(), "s3cret-word".to_owned());
    wrong.insert("LOCK_TTL_MINUTES".to_owned(), "s3cret-word".to_owned());
    wrong.insert(
        "COORDINATION_API_KEY_IDENTITIES".to_owned(),
        r#"{"s3cret-word":{"agent_id":5}}"#.to_owned(),
    );
    for arguments in [&[][..], &["serve"], &["migrate"]] {
        let output = run(arguments, &wrong).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(output.stdout.is_empty());
        for name in
            ["POSTGRES_DSN", "API_PORT", "LOCK_TTL_MINUTES", "COORDINATION_API_KEY_IDENTITIES"]
        {
            assert!(text.contains(&format!("{name}: expected ")), "{name} in {text}");
        }
        assert!(!text.contains("s3cret-word") && !text.contains("free-key"), "{text}");
    }
    let none = run(&[], &HashMap::new()).await;
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).starts_with("POSTGRES_DSN: expected"));
}

#[tokio::test]
async fn a_connection_string_is_refused_by_its_word_and_warned_of_by_its_parameter() {
    for word in ["no-verify", "required"] {
        let wrong = variables(&format!("{}?sslmode={word}", nowhere()));
        for arguments in [&[][..], &["migrate"]] {
            let output = run(arguments, &wrong).await;
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.starts_with("POSTGRES_DSN: expected sslmode to be disable"), "{text}");
            assert!(text.contains(&format!("not `{word}`")), "{text}");
            assert!(!text.contains("s3cret-word"), "{text}");
        }
    }
    for parameter in ["pgbouncer=true", "pool_timeout=97531"] {
        let running = Running::start(variables(&format!("{}?{parameter}", nowhere()))).await;
        running.signal("TERM");
        let (code, log) = running.end().await;
        assert_eq!(code, Some(0), "{log}");
        let (name, value) = parameter.split_once('=').expect("a value");
        let warnings: Vec<_> = log.lines().filter(|line| line.contains(name)).collect();
        assert_eq!(warnings.len(), 1, "{log}");
        assert!(warnings[0].contains("WARN") && warnings[0].contains("POSTGRES_DSN"), "{log}");
        assert!(!warnings[0].contains(&format!("={value}")), "{log}");
        assert!(!log.contains("s3cret-word") && !log.contains("97531"), "{log}");
    }
}

#[tokio::test]
async fn unknown_arguments_end_with_2_and_documents_need_no_configuration() {
    let none = HashMap::new();
    let unknown = run(&["fly"], &none).await;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).starts_with("error: unrecognized subcommand"));
    for (argument, start) in [
        ("openapi", "{\n  \"openapi\": \"3.1.0\""),
        ("mcp-tools", "{\n  \"initialize\": {"),
        ("operations", "# Operations"),
        ("configuration", "# Configuration"),
        ("env-example", "# Every variable"),
        ("help", "Locks, work, handoffs and guardrails"),
        ("--help", "Locks, work, handoffs and guardrails"),
        ("version", "coordinator 0.2.0\n"),
        ("--version", "coordinator 0.2.0\n"),
    ] {
        let output = run(&[argument], &none).await;
        assert!(output.status.success(), "{argument}");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with(start), "{argument}");
    }
}

#[tokio::test]
async fn without_a_database_the_server_runs_and_reports_what_is_missing() {
    let running = Running::start(variables(&nowhere())).await;
    assert_eq!(running.request("GET", "/live", "").await.0, 200);
    let (lock, health, ready) = join_all_three(&running).await;
    assert_eq!((health.0, &health.2["db"]), (503, &json!("unreachable")));
    assert_eq!((ready.0, &ready.2["failed"]), (503, &json!(["db"])));
    assert_eq!(lock.0, 503);
    assert!(lock.1.contains("retry-after: 1"), "{}", lock.1);
    running.signal("TERM");
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("s3cret-word") && !log.contains(FREE), "{log}");
}

type Answered = (u16, String, Value);

async fn join_all_three(running: &Running) -> (Answered, Answered, Answered) {
    let body = acquire("a", "k");
    let lock = running.request("POST", "/locks/acquire", &body);
    let probes = join(running.request("GET", "/health", ""), running.request("GET", "/ready", ""));
    let (lock, (health, ready)) = join(lock, probes).await;
    (lock, health, ready)
}

#[tokio::test]
async fn simultaneous_starters_migrate_once() {
    let url = empty_database().await;
    let variables = variables(&url);
    let outputs = join_all((0..5).map(|_| run(&["migrate"], &variables))).await;
    for output in &outputs {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let db = PgPool::connect(&url).await.expect("it answers");
    let applied: i64 = scalar(&db, "select count(*) from _sqlx_migrations where success").await;
    assert_eq!(applied, agent_coordinator::schema().migrator.iter().count() as i64);
    let limits: String = scalar(
        &db,
        "select array_to_string(setconfig, ' ') from pg_db_role_setting
         where setdatabase = (select oid from pg_database where datname = current_database())",
    )
    .await;
    assert!(limits.contains("statement_timeout=10s"), "{limits}");
}

#[tokio::test]
async fn five_servers_that_start_at_once_migrate_once() {
    let url = empty_database().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    // The migrator's table, not yet committed: the first migrator has to wait for it, and the others for the
    // first one, until all five wait.
    let mut gate = db.begin().await.expect("a transaction");
    crate::support::execute(&mut *gate, "create table _sqlx_migrations ()").await;
    let open = async {
        blocked(&db, 5).await;
        gate.rollback().await.expect("rolled back");
    };
    let starts = join_all((0..5).map(|_| Running::start(variables(&url))));
    let (servers, ()) = join(starts, open).await;
    for mut server in servers {
        let migrated = "the schema is up to date";
        if !server.seen.iter().any(|line| line.contains(migrated)) {
            server.wait_for_line(migrated).await;
        }
        let (status, _, ready) = server.request("GET", "/ready", "").await;
        assert_eq!((status, &ready["schema"]), (200, &json!("ok")), "{ready}");
    }
    let applied: i64 = scalar(&db, "select count(*) from _sqlx_migrations where success").await;
    assert_eq!(applied, agent_coordinator::schema().migrator.iter().count() as i64);
}

#[tokio::test]
async fn the_server_migrates_an_empty_database_at_start_unless_told_not_to() {
    let url = empty_database().await;
    let mut variables = variables(&url);
    variables.insert("COORDINATION_AUTO_MIGRATE".to_owned(), "false".to_owned());
    let running = Running::start(variables.clone()).await;
    let (status, _, ready) = running.request("GET", "/ready", "").await;
    assert_eq!((status, &ready["schema"]), (503, &json!("mismatch")));
    drop(running);
    variables.remove("COORDINATION_AUTO_MIGRATE");
    let running = Running::start(variables).await;
    let (status, _, ready) = running.request("GET", "/ready", "").await;
    assert_eq!((status, &ready["schema"]), (200, &json!("ok")));
}

#[tokio::test]
async fn a_schema_newer_than_the_binary_ends_the_start_with_1() {
    let database = crate::support::database().await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    crate::support::execute(
        &db,
        "insert into _sqlx_migrations values (99990101000000, 'newer', now(), true, '', 0)",
    )
    .await;
    for arguments in [&["serve"][..], &["migrate"]] {
        let output = run(arguments, &variables(&database.url)).await;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("99990101000000"), "{text}");
    }
}

#[tokio::test]
async fn a_database_that_becomes_reachable_later_is_migrated_then() {
    let mut server = throwaway::private().await.expect("a server");
    let url = server.url("postgres");
    server.kill().await.expect("it is killed");
    let mut running = Running::start(variables(&url)).await;
    assert_eq!(running.request("GET", "/live", "").await.0, 200);
    server.restart().await.expect("it starts again");
    running.wait_for_line("the schema is up to date").await;
    let (status, _, ready) = running.request("GET", "/ready", "").await;
    assert_eq!((status, &ready["schema"]), (200, &json!("ok")), "{ready}");
}

#[tokio::test]
async fn of_200_agents_at_once_one_gets_the_lock() {
    let database = crate::support::database().await;
    let running = Running::start(variables(&database.url)).await;
    let answers = join_all((0..200).map(|n| {
        let running = &running;
        async move {
            let body = acquire(&format!("agent-{n}"), "src/contended.rs");
            running.request("POST", "/locks/acquire", &body).await
        }
    }))
    .await;
    assert!(answers.iter().all(|(status, ..)| *status == 200));
    let winners: Vec<_> = answers.iter().filter(|it| it.2["action"] == "acquired").collect();
    assert_eq!(winners.len(), 1);
    let db = PgPool::connect(&database.url).await.expect("it answers");
    let holder: String = scalar(&db, "select agent_id from file_lock").await;
    let refused = answers.iter().filter(|(.., it)| {
        it["success"] == false && it["reason"] == "locked_by_other" && it["locked_by"] == holder
    });
    assert_eq!(refused.count(), 199);
    let count = "select count(*) from audit_log where operation = 'acquire_lock'";
    assert_eq!(scalar::<i64>(&db, count).await, 200);
}

#[tokio::test]
async fn a_request_in_flight_is_answered_after_sigterm_and_new_ones_are_refused() {
    let database = crate::support::database().await;
    let mut variables = variables(&database.url);
    variables.insert("API_ACCESS_LOG".to_owned(), "true".to_owned());
    variables.insert("API_TIMEOUT_KEEP_ALIVE".to_owned(), "600".to_owned());
    let mut running = Running::start(variables).await;
    running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    crate::support::execute(&db, "update file_lock set expires_at = now()").await;
    let mut blocker = db.begin().await.expect("a transaction");
    sqlx::query_scalar!("select 1 as one from file_lock where workspace = 'default' for update")
        .fetch_one(&mut *blocker)
        .await
        .expect("the row is locked");
    let port = running.port;
    let mut idle = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let head = b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle.write_all(head).await.expect("sent");
    idle.readable().await.expect("an answer");
    let stop = async {
        blocked(&db, 1).await;
        running.signal("TERM");
        running.wait_for_line("stopping").await;
        // Idle connections are closed last: from here on only the grace time keeps the process.
        idle.read_to_end(&mut Vec::new()).await.expect("the end");
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
        blocker.rollback().await.expect("rolled back");
    };
    let body = acquire("b", "k");
    let in_flight = request(port, "POST", "/locks/acquire", &body);
    let (answered, ()) = join(in_flight, stop).await;
    let (status, _, answer) = answered.expect("an answer");
    assert_eq!((status, &answer["action"]), (200, &json!("acquired")));
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");

    let line = log.lines().find(|it| it.contains("/locks/acquire")).expect("a line per request");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["method"], &line["path"]), (&json!("POST"), &json!("/locks/acquire")));
    assert_eq!(line["status"], 200);
    assert!(line["ms"].is_u64() && line["request_id"].is_string(), "{line}");
    let password = database.url.split([':', '@']).nth(2).expect("a password");
    assert!(!log.contains(FREE) && !log.contains(password), "{log}");
}

#[tokio::test]
async fn the_server_runs_although_its_database_accepts_connections_and_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let running =
        Running::start(variables(&format!("postgresql://u:p@127.0.0.1:{port}/db?sslmode=disable")))
            .await;
    assert_eq!(running.request("GET", "/live", "").await.0, 200);
    assert_eq!(running.request("GET", "/health", "").await.0, 503);
    running.signal("TERM");
    assert_eq!(running.end().await.0, Some(0));
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_time_does_not_keep_the_process() {
    let database = crate::support::database().await;
    let mut variables = variables(&database.url);
    variables.insert("SHUTDOWN_GRACE_SECONDS".to_owned(), "0".to_owned());
    let running = Running::start(variables).await;
    running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    let db = PgPool::connect(&database.url).await.expect("it answers");
    crate::support::execute(&db, "update file_lock set expires_at = now()").await;
    let mut blocker = db.begin().await.expect("a transaction");
    let lock = "select 1 as one from file_lock where workspace = 'default' for update";
    crate::support::execute(&mut *blocker, lock).await;
    let port = running.port;
    let stop = async {
        blocked(&db, 1).await;
        running.signal("TERM");
        // The row stays locked until the process has ended.
        let code = running.end().await.0;
        blocker.rollback().await.expect("rolled back");
        code
    };
    let body = acquire("b", "k");
    let cut_off = request(port, "POST", "/locks/acquire", &body);
    let (answered, code) = join(cut_off, stop).await;
    assert_eq!(code, Some(0));
    assert!(answered.is_err() || answered.is_ok_and(|it| it.0 != 200));
}

#[tokio::test]
async fn idle_and_slow_connections_are_closed_after_the_keep_alive_time() {
    let mut variables = variables(&nowhere());
    variables.insert("API_TIMEOUT_KEEP_ALIVE".to_owned(), "1".to_owned());
    let running = Running::start(variables).await;
    let head = "GET /live HTTP/1.1\r\nhost: localhost\r\n";
    // A connection without a byte, one within its request head, and one that is idle after two answers.
    for (sent, answers) in [("", 0), (head, 0), (&format!("{head}\r\n{head}\r\n"), 2)] {
        let before = Instant::now();
        let mut stream =
            TcpStream::connect(("127.0.0.1", running.port)).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let mut answered = String::new();
        // This ends when the server closes the connection.
        stream.read_to_string(&mut answered).await.expect("read to the end");
        assert_eq!(answered.matches("HTTP/1.1 200").count(), answers, "{sent:?}: {answered}");
        assert!(before.elapsed() >= Duration::from_secs(1), "{sent:?}");
    }
}

#[tokio::test]
async fn a_request_that_waits_is_answered_at_once_on_sigterm() {
    let database = crate::support::database().await;
    let running = Running::start(variables(&database.url)).await;
    running.request("POST", "/locks/acquire", &acquire("a", "k")).await;
    let mut lock: Value = serde_json::from_str(&acquire("b", "k")).expect("JSON");
    lock["wait_seconds"] = json!(50);
    let work = json!({ "agent_id": "b", "agent_type": "t", "wait_seconds": 50 });
    let (lock, work) = (lock.to_string(), work.to_string());
    let waits = join(
        request(running.port, "POST", "/locks/acquire", &lock),
        request(running.port, "POST", "/work/claim", &work),
    );
    let stop = async {
        let metrics = async || {
            let mut stream = TcpStream::connect(("127.0.0.1", running.port)).await.expect("open");
            let head = format!(
                "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: {FREE}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.expect("sent");
            let mut metrics = String::new();
            stream.read_to_string(&mut metrics).await.expect("received");
            metrics
        };
        eventually("both requests wait", metrics, |metrics| {
            metrics.contains("coordinator_waiting_requests 2")
        })
        .await;
        running.signal("TERM");
    };
    let ((lock, work), ()) = join(waits, stop).await;
    let (status, _, refused) = lock.expect("an answer");
    assert_eq!((status, &refused["reason"]), (200, &json!("locked_by_other")));
    assert_eq!((&refused["locked_by"], &refused["position"]), (&json!("a"), &json!(1)));
    let (status, _, nothing) = work.expect("an answer");
    assert_eq!((status, &nothing["reason"]), (200, &json!("no_tasks_available")));
    let (code, log) = running.end().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("cut off"), "{log}");
}
