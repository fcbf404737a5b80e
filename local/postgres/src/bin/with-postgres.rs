//! Runs a command with a PostgreSQL server that exists only for that command:
//! `with-postgres [--migrations DIR [--functions DIR]] -- command arguments…`. The command gets the connection
//! string as `DATABASE_URL`. Invariant: when this program ends, the server and its data are removed.

use std::{
    error::Error,
    ffi::OsString,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    str::FromStr,
};

use managed_postgres::throwaway;
use sqlx::{Connection, PgConnection, migrate::Migrator, postgres::PgConnectOptions};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str =
    "usage: with-postgres [--migrations DIR [--functions DIR]] -- command arguments…";

/// The command line. Parsed by hand: clap would become a dependency of the library in this package, and
/// so of every test.
struct Request {
    migrations: Option<PathBuf>,
    functions: Option<PathBuf>,
    command: OsString,
    arguments: Vec<OsString>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(request) = Request::read(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match serve(request).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("with-postgres: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Request {
    fn read(mut words: impl Iterator<Item = OsString>) -> Option<Request> {
        let (mut migrations, mut functions) = (None, None);
        loop {
            match words.next()?.to_str()? {
                "--migrations" => migrations = Some(words.next()?.into()),
                "--functions" => functions = Some(words.next()?.into()),
                "--" => break,
                _ => return None,
            }
        }
        let (command, arguments) = (words.next()?, words.collect());
        Some(Request { migrations, functions, command, arguments })
    }
}

async fn serve(request: Request) -> Result<ExitCode, Box<dyn Error>> {
    // Handlers replace the default action of signals, which would end this process before it cleans up.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let server = throwaway::private().await?;
    let url = server.url("postgres");
    if let Some(dir) = &request.migrations {
        migrate(dir, request.functions.as_deref(), &url).await?;
    }
    tokio::select! {
        biased;
        _ = interrupt.recv() => return Ok(ExitCode::from(128 + 2)),
        _ = terminate.recv() => return Ok(ExitCode::from(128 + 15)),
        () = std::future::ready(()) => {}
    }

    let mut command = Command::new(&request.command);
    command.args(&request.arguments).env("DATABASE_URL", &url);
    let mut child = command
        .spawn()
        .map_err(|error| format!("{}: {error}", request.command.to_string_lossy()))?;
    let pid = child.id().to_string();
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    let status = loop {
        tokio::select! {
            status = &mut ended => break status??,
            // The terminal sends SIGINT to the whole process group, so the command gets it too.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => forward_termination(&pid),
        }
    };
    server.stop().await;
    Ok(exit_code(status))
}

async fn migrate(dir: &Path, functions: Option<&Path>, url: &str) -> Result<(), Box<dyn Error>> {
    let migrator = Migrator::new(dir).await?;
    // A function can call a function that is created later, and `from current` takes this search path.
    let mut script = "set local check_function_bodies = off;
        select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);"
        .to_owned();
    if let Some(dir) = functions {
        append_sql(dir, &mut script)?;
    }
    let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(url)?).await?;
    throwaway::prepare(&mut connection, &migrator, &script).await?;
    connection.close().await?;
    Ok(())
}

/// Appends the text of all `.sql` files in a folder and in those below it.
fn append_sql(dir: &Path, script: &mut String) -> std::io::Result<()> {
    for entry in dir.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            append_sql(&path, script)?;
        } else if path.extension().is_some_and(|it| it == "sql") {
            script.push_str(&std::fs::read_to_string(path)?);
        }
    }
    Ok(())
}

/// Sends SIGTERM to the command. A failure means that the command has just ended, and is ignored.
fn forward_termination(pid: &str) {
    let _ = Command::new("/bin/sh").args(["-c", r#"kill -s TERM "$1""#, "sh", pid]).status();
}

/// Returns the exit code of the command, or like a shell 128 and the signal that ended the command.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
