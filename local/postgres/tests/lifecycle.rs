//! The life cycle of a server: it starts, keeps its data, refuses a second owner, and stops when its owner
//! ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use managed_postgres::{Binaries, Error, Server, eventually, is_alive, throwaway, until};
use sqlx::{Connection, PgConnection, migrate::Migrator};

/// How long a server can take to stop: its supervisor sends SIGQUIT after ten seconds.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A folder of one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("managed-postgres-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Scratch(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

async fn start(folder: &Path) -> Result<Server, Error> {
    Server::start(folder, &Binaries::installed()?).await
}

#[expect(clippy::disallowed_methods, reason = "there is no schema here to check it against")]
async fn answer(url: &str, query: &'static str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let answer = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    answer
}

#[expect(clippy::disallowed_methods, reason = "there is no schema here to check it against")]
async fn run(url: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn with_postgres(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// Starts a command that prints its connection string, and then waits for the end of its input.
fn waiting_owner() -> (Child, String) {
    let mut owner =
        with_postgres(&["--", "sh", "-c", "echo $DATABASE_URL; exec cat"]).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(owner.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
    (owner, url.trim().to_owned())
}

/// Waits for the end of a process. Kills it and fails after `STOP_LIMIT`.
async fn wait_for_end(child: &mut Child) -> ExitStatus {
    let has_ended = until(STOP_LIMIT, || matches!(child.try_wait(), Ok(Some(_)))).await;
    if !has_ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    assert!(has_ended, "the process did not end within {STOP_LIMIT:?}");
    status
}

fn signal(pid: u32, name: &str) {
    let script = format!("kill -s {name} {pid}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

async fn pid_and_folder(url: &str) -> (u32, PathBuf) {
    let pid = answer(url, "select split_part(pg_read_file('postmaster.pid'), e'\\n', 1)").await;
    let data = answer(url, "select current_setting('data_directory')").await;
    (pid.parse().unwrap(), PathBuf::from(data).parent().unwrap().to_owned())
}

#[tokio::test]
async fn data_and_password_are_kept_between_runs() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");

    let server = start(&folder).await.unwrap();
    run(&server.url("postgres"), "create table kept as select 'yes' as answer").await;
    server.stop().await;
    let server = start(&folder).await.unwrap();

    assert_eq!(answer(&server.url("postgres"), "select answer from kept").await, "yes");
    let wrong = server.url("postgres").replacen("postgres:", "postgres:wrong", 2);
    assert!(PgConnection::connect(&wrong).await.is_err(), "a wrong password was accepted");
}

#[tokio::test]
async fn erased_data_is_gone_and_the_next_start_creates_a_cluster() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");
    let server = start(&folder).await.unwrap();
    run(&server.url("postgres"), "create table kept as select 'yes' as answer").await;
    server.stop().await;

    managed_postgres::erase(&folder).await.unwrap();
    let server = start(&folder).await.unwrap();

    let found = answer(&server.url("postgres"), "select to_regclass('kept') is null || ''").await;
    assert_eq!(found, "true");
}

#[tokio::test]
async fn a_second_owner_is_refused_and_the_first_is_not_disturbed() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");
    let server = start(&folder).await.unwrap();

    let error = start(&folder).await.unwrap_err();

    let expected = format!("already running, pid {}", std::process::id());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(answer(&server.url("postgres"), "select 'alive'").await, "alive");
}

#[tokio::test]
async fn an_incomplete_cluster_is_created_again() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");
    for half in ["data", "data.unfinished"] {
        fs::create_dir_all(folder.join(half).join("base")).unwrap();
    }

    let server = start(&folder).await.unwrap();

    assert_eq!(answer(&server.url("postgres"), "select 'alive'").await, "alive");
    assert!(!folder.join("data.unfinished").exists());
}

#[tokio::test]
async fn a_failed_start_reports_the_log_of_the_server() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");
    start(&folder).await.unwrap().stop().await;
    fs::write(folder.join("data/postgresql.auto.conf"), "no_such_setting = 1\n").unwrap();

    let error = start(&folder).await.unwrap_err().to_string();

    assert!(error.contains("no_such_setting"), "{error}");
    assert!(error.contains("postgres.log"), "{error}");
}

#[tokio::test]
async fn data_of_another_version_is_not_touched() {
    let scratch = Scratch::new();
    let folder = scratch.path("postgres");
    start(&folder).await.unwrap().stop().await;
    fs::write(folder.join("data/PG_VERSION"), "9\n").unwrap();

    let error = start(&folder).await.unwrap_err();

    assert!(matches!(error, Error::OtherVersion { .. }), "{error}");
    assert!(folder.join("data/base").exists());
}

#[tokio::test]
async fn as_root_the_data_is_elsewhere_if_the_servers_account_cannot_reach_the_folder() {
    let scratch = Scratch::new();
    if fs::metadata(&scratch.0).unwrap().uid() != 0 {
        // Only root runs the server as another account.
        return;
    }
    let closed = scratch.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let folder = closed.join("postgres");

    let server = start(&folder).await.unwrap();
    let place = server.folder().to_owned();

    assert!(place.starts_with("/var/tmp"), "{}", place.display());
    assert_eq!(folder.read_link().unwrap(), place);
    run(&server.url("postgres"), "create table kept as select 'yes' as answer").await;
    server.stop().await;
    let server = start(&folder).await.unwrap();
    assert_eq!(answer(&server.url("postgres"), "select answer from kept").await, "yes");
    server.stop().await;
    fs::remove_dir_all(place).unwrap();
}

#[tokio::test]
async fn a_server_stops_when_its_owner_is_killed() {
    let (mut owner, url) = waiting_owner();
    let (pid, folder) = pid_and_folder(&url).await;
    assert!(is_alive(pid));

    owner.kill().unwrap();
    owner.wait().unwrap();

    assert!(until(STOP_LIMIT, || !is_alive(pid)).await, "the server is still running");
    assert!(until(STOP_LIMIT, || !folder.exists()).await, "the data still exists");
}

#[tokio::test]
async fn a_server_stops_when_its_supervisor_is_killed() {
    if Command::new("setpriv").arg("--version").output().is_err() {
        // Only on Linux does the kernel signal the server when the supervisor dies (`PR_SET_PDEATHSIG`).
        return;
    }
    let server = throwaway::private().await.unwrap();
    let pid = server.pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();

    signal(supervisor.parse().unwrap(), "KILL");

    assert!(until(STOP_LIMIT, || !is_alive(pid)).await, "the server is still running");
}

#[tokio::test]
async fn a_command_gets_a_migrated_database_and_its_status_is_passed_on() {
    let scratch = Scratch::new();
    fs::write(scratch.path("1_thing.sql"), "create table thing as select 'there' as answer")
        .unwrap();
    let migrations = scratch.0.to_str().unwrap();

    let script = "echo $DATABASE_URL; read _; exit 7";
    let mut owner =
        with_postgres(&["--migrations", migrations, "--", "sh", "-c", script]).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(owner.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
    let (pid, folder) = pid_and_folder(url.trim()).await;

    assert_eq!(answer(url.trim(), "select answer from thing").await, "there");
    drop(owner.stdin.take());
    assert_eq!(wait_for_end(&mut owner).await.code(), Some(7));
    assert!(!is_alive(pid) && !folder.exists());
}

#[tokio::test]
async fn a_terminated_owner_ends_its_command_and_cleans_up() {
    let (mut owner, url) = waiting_owner();
    let (pid, folder) = pid_and_folder(&url).await;

    // `Child::wait` closes standard input, and the command would then end by itself.
    let _input = owner.stdin.take();
    signal(owner.id(), "TERM");

    assert_eq!(wait_for_end(&mut owner).await.code(), Some(128 + 15));
    assert!(!is_alive(pid) && !folder.exists());
}

#[test]
fn an_invalid_command_line_is_refused() {
    for arguments in [&[][..], &["--"], &["--what"], &["--migrations"]] {
        let output = with_postgres(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_killed_server_restarts_on_the_same_address_with_its_data() {
    let mut server = throwaway::private().await.unwrap();
    let url = server.url("postgres");
    run(&url, "create table kept as select 'yes' as answer").await;
    let first = server.pid().unwrap();

    server.kill().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(PgConnection::connect(&url).await.is_err());
    server.restart().await.unwrap();

    assert_eq!(answer(&url, "select answer from kept").await, "yes");
    assert_ne!(server.pid().unwrap(), first);
    let folder = server.folder().to_owned();
    server.stop().await;
    assert!(!folder.exists());
}

#[tokio::test]
async fn every_test_gets_its_own_migrated_database() {
    let scratch = Scratch::new();
    fs::write(scratch.path("1_thing.sql"), "create table thing (name text)").unwrap();
    let migrator = Migrator::new(scratch.0.as_path()).await.unwrap();

    let (first, second) =
        tokio::join!(throwaway::database(&migrator, ""), throwaway::database(&migrator, ""));
    let (first, second) = (first.unwrap(), second.unwrap());
    run(&first.url, "insert into thing values ('mine')").await;

    assert_eq!(answer(&first.url, "select count(*)::text from thing").await, "1");
    assert_eq!(answer(&second.url, "select count(*)::text from thing").await, "0");
}

#[tokio::test]
async fn the_database_of_an_ended_test_is_dropped() {
    let scratch = Scratch::new();
    fs::write(scratch.path("1_other.sql"), "create table other (name text)").unwrap();
    let migrator = Migrator::new(scratch.0.as_path()).await.unwrap();
    let finished = throwaway::database(&migrator, "").await.unwrap().url.clone();

    let next = throwaway::database(&migrator, "").await.unwrap();

    // A concurrent test that creates a database can be the one that drops this one.
    let is_dropped = async || PgConnection::connect(&finished).await.is_err();
    eventually("the end of the database", is_dropped).await;
    assert_eq!(answer(&next.url, "select 'alive'").await, "alive");
}
