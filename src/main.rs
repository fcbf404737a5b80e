//! The long-running server, and the commands around it.
use std::{pin::pin, process::ExitCode, time::Duration};

use agent_coordinator::{
    App, Config, Home, MigrateError, bind, capabilities, configuration_table, document,
    env_example, key_for_environment, key_report, listen, operations_table, router, stop_signal,
    telemetry,
};

const USAGE: &str = "\
Usage: coordinator [COMMAND]

  serve          answer requests (the default)
  migrate        bring the database's schema up to date, over a direct connection
  openapi        print the OpenAPI document
  operations     print the table of operations
  configuration  print the table of environment variables
  env-example    print an example of an environment, with every variable
  keys generate  print a fresh API key as lines for the environment; bound to an agent by
                 --agent-id ID, --agent-type TYPE, --workspace NAME, --profile NAME
  keys check     say whether the key on standard input is whole, and its fingerprint
  help           print this text
  version        print the version
";

/// How often an unreachable database is tried again before the schema is known to be up to date.
const MIGRATION_RETRY: Duration = Duration::from_secs(1);

/// How long listening waits for the migration.
const MIGRATION_PATIENCE: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] | ["serve"] => configured(serve),
        ["migrate"] => configured(migrate),
        ["openapi"] => print(&format!("{:#}\n", document(&capabilities::all()))),
        ["operations"] => print(&operations_table()),
        ["configuration"] => print(&configuration_table()),
        ["env-example"] => print(&env_example()),
        ["keys", "generate", ref options @ ..] => match key_for_environment(options) {
            Ok(text) => print(&text),
            Err(text) => {
                eprint!("{text}");
                ExitCode::from(2)
            }
        },
        ["keys", "check"] => check_key(),
        ["help" | "--help" | "-h"] => print(USAGE),
        ["version" | "--version" | "-V"] => {
            print(concat!("coordinator ", env!("CARGO_PKG_VERSION"), "\n"))
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn print(text: &str) -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn check_key() -> ExitCode {
    let mut key = String::new();
    if let Err(error) = std::io::stdin().read_line(&mut key) {
        eprintln!("The key cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    match key_report(&key) {
        (true, report) => print(&report),
        (false, report) => {
            print(&report);
            ExitCode::FAILURE
        }
    }
}

/// Runs a command with the configuration of the environment: exit code 2 when that is wrong.
fn configured<F: Future<Output = ExitCode>>(command: impl FnOnce(Config) -> F) -> ExitCode {
    let config = match Config::from_env(Home::Server) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let traces = telemetry::init_server(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(command(config));
            traces.finish();
            code
        }
        Err(error) => failed("the runtime could not be started", &error),
    }
}

async fn migrate(config: Config) -> ExitCode {
    match App::new(config).migrate().await {
        Ok(()) => {
            println!("The schema is up to date.");
            ExitCode::SUCCESS
        }
        Err(error) => failed("migration failed", &error),
    }
}

async fn serve(config: Config) -> ExitCode {
    if !config.has_keys() {
        tracing::warn!("no API key is configured: every route that needs one answers 401");
    }
    let app = App::new(config);
    let mut stop = pin!(async {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "signals cannot be received");
        }
        tracing::info!("stopping");
        app.stop_waiting();
    });
    // Most often this is over before the first request comes, which then finds its tables. A
    // database that cannot be reached, or takes long, must not keep the process from answering
    // /live: the migration then goes on beside the requests.
    let mut migrated = pin!(migrate_when_reachable(&app));
    let goes_on = tokio::select! {
        result = &mut migrated => match result {
            Ok(()) => false,
            Err(error) => return failed("migration failed", &error),
        },
        () = tokio::time::sleep(MIGRATION_PATIENCE) => true,
        () = &mut stop => return ExitCode::SUCCESS,
    };
    let listener = match bind(app.config()).await {
        Ok(listener) => listener,
        Err(error) => return failed("the address cannot be listened on", &error),
    };
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "listening"),
        Err(error) => return failed("the address is unknown", &error),
    }
    let served = listen(listener, router(app.clone()), &app, stop);
    let later = async {
        if goes_on && let Err(error) = migrated.await {
            return error;
        }
        std::future::pending().await
    };
    let code = tokio::select! {
        ended = served => match ended {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("serving failed", &error),
        },
        error = later => failed("migration failed", &error),
        never = app.sweep() => never,
    };
    app.close().await;
    code
}

/// Migrates as soon as the database can be reached, if the configuration wants that.
async fn migrate_when_reachable(app: &App) -> Result<(), MigrateError> {
    if !app.config().auto_migrate {
        return Ok(());
    }
    loop {
        match app.migrate().await {
            Ok(()) => {
                tracing::info!("the schema is up to date");
                return Ok(());
            }
            Err(MigrateError::Unreachable(error)) => {
                tracing::warn!(%error, "the database cannot be reached yet");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(MIGRATION_RETRY).await;
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}
