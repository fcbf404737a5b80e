//! The development loop: one command that finds or starts a database, migrates it, makes an API key and
//! serves on loopback until Ctrl-C.
//!
//! Invariants: every process that this program starts ends with it. A database given by connection string
//! is migrated and used, but never started, stopped or erased.

mod arguments;
mod compose;
mod database;
mod download;
mod environment;
mod greeting;
mod key;
mod state;

use std::{future::Future, io::Write, net::Ipv4Addr, path::Path, process::ExitCode};

use agent_coordinator::{App, Config, Home, listen, router, stop_signal, telemetry};
use clap::Parser as _;
use tokio::net::TcpListener;

use crate::{
    arguments::Arguments, database::Database, environment::Environment, greeting::Greeting,
    key::Key,
};

/// The folder of everything that outlives a run, below the current folder.
const STATE: &str = ".local";

/// Why the program ends with an error, as text for the developer.
enum Failure {
    /// The command line or the configuration is invalid.
    Invalid(String),
    /// A step failed at run time.
    Failed(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure),
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Installed first, so that Ctrl-C also stops a database that is still starting.
    let mut stop = Box::pin(wait_for_stop_signal());
    tokio::select! {
        biased;
        () = &mut stop => Ok(()),
        started = Service::start(arguments) => started?.serve(stop).await,
    }
}

async fn wait_for_stop_signal() {
    if let Err(error) = stop_signal().await {
        eprintln!("Signals cannot be received ({error}): stop this process with `kill -KILL`.");
        std::future::pending::<()>().await;
    }
}

/// A migrated database, and a listener for the service on it.
struct Service {
    app: App,
    listener: TcpListener,
    database: Database,
}

impl Service {
    async fn start(arguments: &Arguments) -> Result<Service, Failure> {
        let mut environment = Environment::read().map_err(Failure::Invalid)?;
        database::check_choice(arguments, &environment).map_err(Failure::Invalid)?;
        let key = Key::choose(&environment, Path::new(STATE)).map_err(failed)?;
        if let Key::Made(key) = &key {
            environment.set("COORDINATION_API_KEYS", &key.text);
        }
        environment.set_default("COORDINATION_PUBLIC_READS", "true");
        // Short, because a developer who presses Ctrl-C does not want to wait for a connection that a
        // browser keeps open.
        environment.set_default("SHUTDOWN_GRACE_SECONDS", "2");
        // The listener below is on loopback. The allowed hosts of MCP (DNS rebinding) follow from this.
        environment.set("API_HOST", &Ipv4Addr::LOCALHOST.to_string());

        // Checks the configuration and the port before a database is started, which takes seconds.
        let mut trial = environment.clone();
        trial.set("POSTGRES_DSN", "postgresql://localhost/postgres");
        let config = configuration(&trial)?;
        let listener = bind(arguments.port.unwrap_or(config.port)).await?;

        let database = Database::open(arguments, &environment).await.map_err(failed)?;
        print(&format!("Database: {}\n", database.description));
        // Not earlier: the retries of a download would be logged between the lines above.
        telemetry::init(telemetry::Format::Pretty, config.log.clone());
        environment.set("POSTGRES_DSN", &database.dsn);
        let app = App::new(configuration(&environment)?);
        telemetry::warn(&app.config().warnings);
        app.migrate().await.map_err(failed)?;

        let address = listener.local_addr().map_err(failed)?;
        let session_timeout = app.config().session_timeout();
        let greeting =
            Greeting::new(address, &key, &database.dsn, session_timeout).await.map_err(failed)?;
        print(&greeting.to_string());
        Ok(Service { app, listener, database })
    }

    async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Service { app, listener, mut database } = self;
        let stop = async {
            stop.await;
            app.stop_waiting();
        };
        let served = tokio::select! {
            served = listen(listener, router(app.clone()), &app, stop) => served.map_err(failed),
            error = database.keep_running() => {
                Err(Failure::Failed(format!("The database ended, and its restart failed: {error}")))
            }
        };
        app.close().await;
        database.close().await;
        served
    }
}

fn configuration(environment: &Environment) -> Result<Config, Failure> {
    Config::parse(Home::Server, |name| environment.get(name))
        .map_err(|error| Failure::Invalid(error.to_string()))
}

async fn bind(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::Failed(format!(
            "Port {port} is in use. Choose another one with --port N, or any free one with --port 0."
        )),
        _ => Failure::Failed(format!("Could not listen on port {port}: {error}")),
    })
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

/// Writes to standard output. Ignores a closed pipe, as behind `| head`: the service keeps serving.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn report(failure: Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::Invalid(text) => (text, 2),
        Failure::Failed(text) => (text, 1),
    };
    eprintln!("{}", text.trim_end());
    ExitCode::from(code)
}
