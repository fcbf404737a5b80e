//! The development loop: one command that finds or starts a database, brings its schema up to
//! date, makes a key and serves on loopback until Ctrl-C.
//!
//! The invariant: whatever this starts ends with it, and a database given by connection string is
//! migrated and used, but never started, stopped or emptied.

mod arguments;
mod compose;
mod database;
mod download;
mod environment;
mod greeting;
mod key;

use std::{future::Future, io::Write, net::Ipv4Addr, path::Path, process::ExitCode};

use agent_coordinator::{App, Config, Home, listen, router, stop_signal, telemetry};
use tokio::net::TcpListener;

use crate::{
    arguments::{Arguments, Request, USAGE},
    database::Database,
    environment::Environment,
    greeting::Greeting,
    key::Key,
};

/// Where everything is kept that outlives a run, in the folder that this is run from.
const STATE: &str = ".local";

/// Why nothing is served, in words for the person who wanted it.
enum Failure {
    /// The command line or the configuration is wrong.
    Refused(String),
    /// It was right and still did not work.
    Broken(String),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(Request::Run(arguments)) => arguments,
        Ok(Request::Help) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(problem) => return report(Failure::Refused(format!("{problem}\n\n{USAGE}"))),
    };
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure),
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Watched from the start: Ctrl-C must also end what is only being started.
    let mut stop = Box::pin(stopped());
    tokio::select! {
        biased;
        () = &mut stop => Ok(()),
        started = Service::start(arguments) => started?.serve(stop).await,
    }
}

async fn stopped() {
    if let Err(error) = stop_signal().await {
        eprintln!("Signals cannot be received ({error}); end this process to stop.");
        std::future::pending::<()>().await;
    }
}

/// Everything that is ready to serve.
struct Service {
    app: App,
    listener: TcpListener,
    database: Database,
}

impl Service {
    async fn start(arguments: &Arguments) -> Result<Service, Failure> {
        let mut environment = Environment::read().map_err(Failure::Refused)?;
        database::check(arguments, &environment).map_err(Failure::Refused)?;
        let key = Key::choose(&environment, &Path::new(STATE).join("key")).map_err(broken)?;
        if let Key::Made(key) = &key {
            environment.set("COORDINATION_API_KEYS", key);
        }
        environment.set_default("COORDINATION_PUBLIC_READS", "true");
        // Whoever presses Ctrl-C at a terminal does not wait for a forgotten connection.
        environment.set_default("SHUTDOWN_GRACE_SECONDS", "2");
        // By no other address is it reached: the names that it answers to follow from this.
        environment.set("API_HOST", &Ipv4Addr::LOCALHOST.to_string());

        // The rest of the configuration and the port are checked before a database is started.
        let mut trial = environment.clone();
        trial.set("POSTGRES_DSN", "postgresql://localhost/postgres");
        let config = configuration(&trial)?;
        let listener = bind(arguments.port.unwrap_or(config.port)).await?;

        let database = Database::open(arguments, &environment).await.map_err(broken)?;
        say(&format!("Database: {}\n", database.description));
        // Not earlier: what a download tries again would be logged between the lines above.
        telemetry::init(telemetry::Format::Pretty, config.log.clone());
        environment.set("POSTGRES_DSN", &database.dsn);
        let app = App::new(configuration(&environment)?);
        app.migrate().await.map_err(broken)?;

        let address = listener.local_addr().map_err(broken)?;
        let silence = app.config().session_timeout();
        let greeting =
            Greeting::new(address, &key, &database.dsn, silence).await.map_err(broken)?;
        say(&greeting.to_string());
        Ok(Service { app, listener, database })
    }

    async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Service { app, listener, mut database } = self;
        let stop = async {
            stop.await;
            app.stop_waiting();
        };
        let served = tokio::select! {
            served = listen(listener, router(app.clone()), &app, stop) => served.map_err(broken),
            error = database.keep_running() => {
                Err(Failure::Broken(format!("The database could not be started again: {error}")))
            }
        };
        app.close().await;
        database.close().await;
        served
    }
}

fn configuration(environment: &Environment) -> Result<Config, Failure> {
    Config::parse(Home::Server, |name| environment.get(name))
        .map_err(|error| Failure::Refused(error.to_string()))
}

async fn bind(port: u16) -> Result<TcpListener, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Failure::Broken(format!(
            "Port {port} is in use. Choose another with --port N, or any free one with --port 0."
        )),
        _ => Failure::Broken(format!("Port {port} cannot be listened on: {error}")),
    })
}

fn broken(error: impl std::fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

/// Standard output may be gone, as behind `| head`; that is no reason to stop serving.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn report(failure: Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::Refused(text) => (text, 2),
        Failure::Broken(text) => (text, 1),
    };
    eprintln!("{}", text.trim_end());
    ExitCode::from(code)
}
