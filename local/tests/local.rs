//! The real program, as a newcomer runs it: in a folder of its own, with an environment of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use managed_postgres::{Server, is_alive, throwaway, until};

const SOON: Duration = Duration::from_secs(20);
const LAST_LINE: &str = "Ctrl-C stops everything.";

/// A folder to run the program in.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("local-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Folder(dir)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command.args(arguments).current_dir(&self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in [
            "API_PORT",
            "PORT",
            "POSTGRES_DSN",
            "DATABASE_URL",
            "POSTGRES_PASSWORD",
            "POSTGRES_DB",
            "AGENT_COORDINATOR_DB_PORT",
            "COORDINATION_API_KEYS",
            "COORDINATION_API_KEY_IDENTITIES",
            "DB_BACKEND",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program when it is expected to end by itself.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        ended(self.command(arguments).output().unwrap())
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running::new(self.command(arguments))
    }

    fn postgres(&self) -> u32 {
        self.postgres_now().unwrap()
    }

    /// The server's process, unless it is just between two lives.
    fn postgres_now(&self) -> Option<u32> {
        let file = self.0.join(".local/postgres/data/postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.parse().ok()
    }

    /// Puts a `docker` on the path that notes how it is called, and an (unused) compose file.
    fn fake_docker(&self, command: &mut Command, script: &str) {
        let docker = self.0.join("bin/docker");
        fs::create_dir(self.0.join("bin")).unwrap();
        fs::write(&docker, format!("#!/bin/sh\necho \"$*\" >>calls\n{script}\n")).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.0.join("docker-compose.yml"), "services: {}\n").unwrap();
        #[expect(clippy::disallowed_methods, reason = "it is passed on with a folder added")]
        let path = std::env::var_os("PATH").unwrap();
        let path = format!("{}:{}", self.0.join("bin").display(), path.display());
        command.env("PATH", path);
    }

    fn docker_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ended(output: Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

/// A program that serves.
struct Running {
    child: Child,
    greeting: String,
}

impl Running {
    fn new(mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let mut greeting = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !greeting.ends_with(&format!("{LAST_LINE}\n")) {
            if lines.read_line(&mut greeting).unwrap() == 0 {
                let (code, text) = ended(child.wait_with_output().unwrap());
                panic!("it ended with {code}: {greeting}{text}");
            }
        }
        Running { child, greeting }
    }

    fn line(&self, start: &str) -> &str {
        let line = self.greeting.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line {start} in {}", self.greeting))
    }

    fn address(&self) -> &str {
        let url = self.line("Service:").split_whitespace().nth(1).unwrap();
        url.strip_prefix("http://").unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        send(self.address(), &format!("GET {path} HTTP/1.1\r\n"), "")
    }

    /// The requests that are printed, answered as if they were pasted.
    fn pasted(&self) -> Vec<String> {
        self.greeting.lines().filter(|line| line.starts_with("curl")).map(paste).collect()
    }

    fn signal(&mut self, name: &str) -> i32 {
        let script = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends what a printed command line would, without needing `curl` on the machine.
fn paste(line: &str) -> String {
    let parts: Vec<&str> = line.split('\'').collect();
    let ["curl -sS -H ", key, " -H ", json, " -d ", body, url] = parts[..] else {
        panic!("cannot be pasted: {line}");
    };
    let url = url.trim().strip_prefix("http://").unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let head = format!("POST /{path} HTTP/1.1\r\n{key}\r\n{json}\r\n");
    let (status, answer) = send(address, &head, body);
    assert_eq!(status, 200, "{line}: {answer}");
    answer
}

fn send(address: &str, head: &str, body: &str) -> (u16, String) {
    send_as(address, address, head, body)
}

/// Sends a request to an address by another name.
fn send_as(host: &str, address: &str, head: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let mut stream = TcpStream::connect(address).unwrap();
    let rest = format!("Host: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{rest}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A server's port and password, as for the variables of the compose file.
fn port_and_password(server: &Server) -> (String, String) {
    let url = server.url("postgres");
    let (user, rest) = url.split_once('@').unwrap();
    let port = rest.split([':', '/']).nth(1).unwrap();
    (port.to_owned(), user.rsplit_once(':').unwrap().1.to_owned())
}

#[test]
fn a_bad_command_line_is_explained() {
    let folder = Folder::new();

    let (code, text) = folder.refused(&["--prot", "1"]);

    assert_eq!(code, 2);
    assert!(text.starts_with("`--prot` is not an option."), "{text}");
    assert!(text.contains("--port N"), "{text}");
}

#[test]
fn the_options_are_printed_when_asked_for() {
    let output = Folder::new().command(&["--help"]).output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("--db WHICH"));
}

#[test]
fn a_bad_configuration_is_explained_before_anything_is_started() {
    let folder = Folder::new();
    fs::write(folder.0.join(".env"), "LOCK_TTL_MINUTES=soon\n").unwrap();

    let (code, text) = folder.refused(&["--db", "embedded"]);

    assert_eq!(code, 2);
    assert!(text.contains("LOCK_TTL_MINUTES"), "{text}");
    assert!(!folder.0.join(".local/postgres").exists());
}

#[test]
fn the_line_for_an_agent_connects_it_as_one_of_its_own() {
    let folder = Folder::new();
    let running = folder.start(&["--db", "embedded", "--port", "0"]);
    let line = running.line("claude mcp add --transport http coord http://");
    let parts: Vec<&str> = line.split('"').collect();
    let [url, key, _, agent, _] = parts[..] else { panic!("{line}") };
    let url = url.split_whitespace().find(|it| it.starts_with("http://")).unwrap();
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\n{key}\r\n{agent}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n"
    );
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"acquire_lock","arguments":{"file_path":"a.rs"}}}"#;

    let (status, answer) = send(address, &head, call);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#""action":"acquired""#), "{answer}");
    let check = call.replace("acquire_lock", "check_locks").replace(r#""file_path":"a.rs""#, "");
    let (_, answer) = send(address, &head, &check);
    assert!(answer.contains(r#""locked_by":"claude-1""#), "{answer}");

    let (status, answer) = send_as("evil.example", address, &head, call);
    assert_eq!(status, 403, "a page may have its own name lead here: {answer}");
}

#[test]
fn a_wrong_folder_of_programs_is_explained() {
    let folder = Folder::new();
    let mut command = folder.command(&["--port", "0"]);
    command.env("PG_BIN_DIR", "/nonexistent");

    let (code, text) = ended(command.output().unwrap());

    assert_eq!(code, 1);
    assert!(text.starts_with("PG_BIN_DIR has no usable PostgreSQL server"), "{text}");
}

#[test]
fn a_given_database_must_be_given_and_is_not_reset() {
    let folder = Folder::new();

    let (code, text) = folder.refused(&["--db", "dsn"]);
    assert_eq!((code, text.contains("POSTGRES_DSN")), (2, true), "{text}");

    fs::write(folder.0.join(".env"), "DATABASE_URL=postgresql://localhost/mine\n").unwrap();
    let (code, text) = folder.refused(&["--reset"]);
    assert_eq!(code, 2);
    assert!(text.contains("--reset does not touch the database of DATABASE_URL"), "{text}");
}

#[test]
fn a_port_in_use_is_explained_before_a_database_is_started() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();

    let (code, text) = folder.refused(&["--db", "embedded", "--port", &port]);

    assert_eq!(code, 1);
    assert!(text.starts_with(&format!("Port {port} is in use.")), "{text}");
    assert!(text.contains("--port"), "{text}");
    assert!(!folder.0.join(".local/postgres").exists());
}

#[test]
fn a_newcomer_is_served_and_finds_everything_again_after_a_restart() {
    let folder = Folder::new();

    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let postgres = folder.postgres();
    let key = running.line("Key:").to_owned();
    for path in ["/live", "/health"] {
        let (status, body) = running.get(path);
        assert_eq!(status, 200, "{path}: {body}");
    }
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"acquired""#), "{}", answers[0]);
    assert!(answers[1].contains(r#""reason":"locked_by_other""#), "{}", answers[1]);
    assert!(answers[2].contains(r#"{"valid":true"#), "{}", answers[2]);
    assert_eq!(running.signal("INT"), 0);
    assert!(!is_alive(postgres), "Ctrl-C left the database running");

    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    assert_eq!(running.line("Key:"), key);
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"refreshed""#), "{}", answers[0]);
    assert!(answers[2].contains(r#"{"valid":true"#), "{}", answers[2]);
    assert_eq!(running.signal("TERM"), 0);

    let mut running = folder.start(&["--db", "embedded", "--port", "0", "--reset"]);
    assert_eq!(running.line("Key:"), key);
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"acquired""#), "{}", answers[0]);
    let postgres = folder.postgres();
    assert_eq!(running.signal("INT"), 0);
    assert!(!is_alive(postgres));
}

#[tokio::test]
async fn a_killed_program_leaves_no_database_behind_and_can_be_started_at_once() {
    let folder = Folder::new();
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let first = folder.postgres();

    running.signal("KILL");
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let second = folder.postgres();

    assert!(!is_alive(first));
    assert_eq!(running.get("/health").0, 200);
    running.signal("KILL");
    assert!(until(SOON, || !is_alive(second)).await, "the database lives on");
}

#[tokio::test]
async fn a_database_that_dies_is_started_again_and_keeps_its_locks() {
    let folder = Folder::new();
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    assert!(running.pasted()[0].contains(r#""action":"acquired""#));
    let first = folder.postgres();
    let script = format!("kill -s KILL {first}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());

    let again = || folder.postgres_now().is_some_and(|pid| pid != first);
    assert!(until(Duration::from_secs(30), || again() && running.get("/health").0 == 200).await);

    assert!(running.pasted()[0].contains(r#""action":"refreshed""#));
    assert_eq!(running.signal("INT"), 0);
}

#[test]
fn a_second_program_in_one_folder_is_told_about_the_first() {
    let folder = Folder::new();
    let running = folder.start(&["--db", "embedded", "--port", "0"]);

    let (code, text) = folder.refused(&["--db", "embedded", "--port", "0"]);

    assert_eq!(code, 1);
    let expected = format!("PostgreSQL: already running, pid {}", running.child.id());
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(running.get("/health").0, 200);
}

#[tokio::test]
async fn docker_is_used_where_an_engine_answers() {
    let server = throwaway::private().await.unwrap();
    let (port, password) = port_and_password(&server);
    let folder = Folder::new();
    let mut command = folder.command(&["--port", "0", "--reset"]);
    folder.fake_docker(&mut command, "exit 0");
    command.env("AGENT_COORDINATOR_DB_PORT", port).env("POSTGRES_PASSWORD", password);

    let mut running = Running::new(command);

    let expected =
        "Database: ParadeDB of docker-compose.yml, left running (POSTGRES_DSN is not set)";
    assert_eq!(running.line("Database:"), expected);
    assert_eq!(running.get("/health").0, 200);
    let calls = [
        "version --format {{.Server.Version}}",
        "compose down --volumes",
        "compose up -d --wait paradedb",
    ];
    assert_eq!(folder.docker_calls(), calls);
    assert_eq!(running.signal("INT"), 0);
    assert!(server.pid().is_some(), "a database that is not ours was stopped");
}

#[test]
fn docker_without_an_engine_is_passed_over() {
    let folder = Folder::new();
    let mut command = folder.command(&["--port", "0"]);
    folder.fake_docker(&mut command, "exit 1");

    let running = Running::new(command);

    let line = running.line("Database:");
    assert!(line.starts_with("Database: PostgreSQL "), "{line}");
    assert!(line.ends_with("(POSTGRES_DSN is not set; no Docker engine answers)"), "{line}");
    assert_eq!(folder.docker_calls(), ["version --format {{.Server.Version}}"]);
}

#[test]
fn docker_that_was_asked_for_is_not_passed_over() {
    let folder = Folder::new();
    let mut command = folder.command(&["--db", "compose", "--port", "0"]);
    folder.fake_docker(&mut command, "[ $1 = version ]");

    let (code, text) = ended(command.output().unwrap());

    assert_eq!(code, 1);
    assert!(text.contains("`docker compose up -d --wait paradedb` failed"), "{text}");
}

#[tokio::test]
async fn a_given_database_and_configured_keys_are_used_as_they_are() {
    let server = throwaway::private().await.unwrap();
    let folder = Folder::new();
    let variables = format!(
        "POSTGRES_DSN={}\nCOORDINATION_API_KEYS=of-the-team\nPORT=1\n",
        server.url("postgres")
    );
    fs::write(folder.0.join(".env"), variables).unwrap();

    let mut running = folder.start(&["--port", "0"]);

    assert_eq!(running.line("Database:"), "Database: the one of POSTGRES_DSN");
    assert!(running.line("curl").contains(r#"-H "X-API-Key: $KEY" -H"#));
    let printed = running.line("curl").replace("\"X-API-Key: $KEY\"", "'X-API-Key: of-the-team'");
    assert!(paste(&printed).contains(r#""action":"acquired""#));
    assert!(!Path::new(&folder.0.join(".local")).exists());
    assert_eq!(running.signal("INT"), 0);
    assert!(server.pid().is_some(), "a database that is not ours was stopped");
}
