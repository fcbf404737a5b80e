//! Runs the real program as a new developer does: in an empty folder, with an environment without settings.

mod support;

use std::{fs, net::TcpListener, path::Path};

use managed_postgres::{is_alive, throwaway, until};

use crate::support::{
    Folder, LIMIT, Running, paste, port_and_password, refused, send, send_as, send_signal,
};

#[test]
fn a_bad_command_line_is_explained() {
    let folder = Folder::new();

    let (code, text) = folder.refused(&["--prot", "1"]);

    assert_eq!(code, 2);
    assert!(text.starts_with("error: unexpected argument '--prot'"), "{text}");
    assert!(text.contains("--port"), "{text}");
}

#[test]
fn the_options_are_printed_when_asked_for() {
    let output = Folder::new().command(&["--help"]).output().unwrap();

    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("--db <WHICH>"));
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
fn the_line_for_claude_code_connects_a_named_agent() {
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
    assert_eq!(status, 403, "a page can have its own name resolve to loopback: {answer}");
}

#[test]
fn a_wrong_folder_of_programs_is_explained() {
    let folder = Folder::new();
    let mut command = folder.command(&["--port", "0"]);
    command.env("PG_BIN_DIR", "/nonexistent");

    let (code, text) = refused(command);

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
    assert!(text.contains("--reset does not erase the database of DATABASE_URL"), "{text}");
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
fn key_and_locks_are_kept_between_runs_and_erased_by_reset() {
    let folder = Folder::new();

    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let postgres = folder.postgres();
    let key = running.line("Key:").to_owned();
    assert_eq!(running.line("Header:"), key.replace("Key:      ", "Header:   X-API-Key: "));
    for path in ["/live", "/health"] {
        let (status, body) = running.get(path);
        assert_eq!(status, 200, "{path}: {body}");
    }
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"acquired""#), "{}", answers[0]);
    assert!(answers[1].contains(r#""reason":"locked_by_other""#), "{}", answers[1]);
    assert!(answers[2].contains(r#"{"valid":true"#), "{}", answers[2]);
    assert_eq!(running.end_by("INT"), 0);
    assert!(!is_alive(postgres), "Ctrl-C left the database running");

    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    assert_eq!(running.line("Key:"), key);
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"refreshed""#), "{}", answers[0]);
    assert!(answers[2].contains(r#"{"valid":true"#), "{}", answers[2]);
    assert_eq!(running.end_by("TERM"), 0);

    let mut running = folder.start(&["--db", "embedded", "--port", "0", "--reset"]);
    assert_eq!(running.line("Key:"), key);
    let answers = running.pasted();
    assert!(answers[0].contains(r#""action":"acquired""#), "{}", answers[0]);
    let postgres = folder.postgres();
    assert_eq!(running.end_by("INT"), 0);
    assert!(!is_alive(postgres));
}

#[tokio::test]
async fn a_killed_program_leaves_no_database_behind_and_can_be_started_at_once() {
    let folder = Folder::new();
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let first = folder.postgres();

    running.end_by("KILL");
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    let second = folder.postgres();

    assert!(!is_alive(first));
    assert_eq!(running.get("/health").0, 200);
    running.end_by("KILL");
    assert!(until(LIMIT, || !is_alive(second)).await, "the database server is still running");
}

#[tokio::test]
async fn a_killed_database_is_restarted_and_keeps_its_locks() {
    let folder = Folder::new();
    let mut running = folder.start(&["--db", "embedded", "--port", "0"]);
    assert!(running.pasted()[0].contains(r#""action":"acquired""#));
    let first = folder.postgres();
    send_signal(first, "KILL");

    let is_restarted = || folder.postgres_now().is_some_and(|pid| pid != first);
    let is_healthy = || is_restarted() && running.get("/health").0 == 200;
    assert!(until(LIMIT, is_healthy).await, "the database server was not restarted");

    assert!(running.pasted()[0].contains(r#""action":"refreshed""#));
    assert_eq!(running.end_by("INT"), 0);
}

#[test]
fn a_second_program_in_one_folder_is_refused_with_the_pid_of_the_first() {
    let folder = Folder::new();
    let running = folder.start(&["--db", "embedded", "--port", "0"]);

    let (code, text) = folder.refused(&["--db", "embedded", "--port", "0"]);

    assert_eq!(code, 1);
    let expected = format!("PostgreSQL: already running, pid {}", running.pid());
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
    assert_eq!(running.end_by("INT"), 0);
    assert!(server.pid().is_some(), "a given database was stopped");
}

#[test]
fn docker_without_an_engine_is_skipped() {
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
fn a_failure_of_docker_ends_a_run_with_db_compose() {
    let folder = Folder::new();
    let mut command = folder.command(&["--db", "compose", "--port", "0"]);
    folder.fake_docker(&mut command, "[ $1 = version ]");

    let (code, text) = refused(command);

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

    assert_eq!(running.line("Database:"), "Database: as given by POSTGRES_DSN");
    let printed = running.line("printf").replacen("'X-API-Key: %s'", "", 1);
    let (_, printed) = printed.split_once(r#""$KEY" | "#).unwrap();
    let header_file = folder.0.join("header");
    fs::write(&header_file, "X-API-Key: of-the-team").unwrap();
    let printed = printed.replacen("@-", &format!("'@{}'", header_file.display()), 1);
    assert!(paste(&printed).contains(r#""action":"acquired""#));
    assert!(!Path::new(&folder.0.join(".local")).exists());
    assert_eq!(running.end_by("INT"), 0);
    assert!(server.pid().is_some(), "a given database was stopped");
}
