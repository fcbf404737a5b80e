//! The binary `coordinator`: the long-running server, and the commands around it.
use std::{pin::pin, process::ExitCode, time::Duration};

use agent_coordinator::{
    App, Config, Home, MigrateError, bind, capabilities, configuration_table, document,
    env_example, key_for_environment, key_report, listen, mcp_document, operations_table, router,
    stop_signal, telemetry,
};
use clap::{Args, CommandFactory as _, Parser, Subcommand, error::ErrorKind};

/// Locks, work, handoffs and guardrails for AI coding agents that share a codebase
#[derive(Parser)]
#[command(name = "coordinator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Answer requests (the default)
    Serve,
    /// Bring the database's schema up to date, over a direct connection
    Migrate(Migration),
    /// Print the OpenAPI document
    Openapi,
    /// Print what MCP clients learn before they call a tool
    McpTools,
    /// Print the table of operations
    Operations,
    /// Print the table of environment variables
    Configuration,
    /// Print an example environment with every variable
    EnvExample,
    /// Make and check API keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print the version
    Version,
}

#[derive(Args)]
struct Migration {
    /// Create the role of the service, which owns nothing, and give it the rights that it needs; it can be
    /// repeated. The role gets no password: set it with `\password` of psql
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "coordinator_app",
        value_parser = role_name,
    )]
    roles: Option<String>,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Print a fresh API key as lines for the environment
    Generate(KeyIdentity),
    /// Check that the key on standard input is complete, and print its fingerprint
    Check,
}

/// The identity that a fresh key is bound to.
#[derive(Args)]
struct KeyIdentity {
    /// The only agent that the key can act as; without this option, any agent
    #[arg(long, value_name = "ID")]
    agent_id: Option<String>,
    /// The kind of agent, such as claude_code
    #[arg(long, value_name = "TYPE")]
    agent_type: Option<String>,
    /// The workspace whose data the key reaches [default: default]
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// The profile that applies to the agent, instead of the default of its kind
    #[arg(long, value_name = "NAME", requires = "agent_id")]
    profile: Option<String>,
}

/// The pause between attempts to migrate a database that is unreachable.
const MIGRATION_RETRY: Duration = Duration::from_secs(1);

/// How long the server waits for the migration before it listens.
const MIGRATION_WAIT: Duration = Duration::from_millis(1500);

fn main() -> ExitCode {
    match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => run_configured(serve),
        Command::Migrate(migration) => run_configured(|config| migrate(config, migration.roles)),
        Command::Openapi => print(&format!("{:#}\n", document(capabilities::all()))),
        Command::McpTools => print(&format!("{:#}\n", mcp_document(capabilities::all()))),
        Command::Operations => print(&operations_table()),
        Command::Configuration => print(&configuration_table()),
        Command::EnvExample => print(&env_example()),
        Command::Keys(KeysCommand::Generate(identity)) => generate_key(identity),
        Command::Keys(KeysCommand::Check) => check_key(),
        Command::Version => print(&Arguments::command().render_version()),
    }
}

/// Writes to standard output. A closed pipe is a failure, not a panic as with `print!`.
fn print(text: &str) -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn generate_key(identity: KeyIdentity) -> ExitCode {
    let KeyIdentity { agent_id, agent_type, workspace, profile } = identity;
    let members = [
        ("agent_id", agent_id),
        ("agent_type", agent_type),
        ("workspace", workspace),
        ("profile", profile),
    ];
    let members = members.into_iter().filter_map(|(name, value)| Some((name, value?)));
    match key_for_environment(members) {
        Ok(text) => print(&text),
        Err(problem) => Arguments::command().error(ErrorKind::ValueValidation, problem).exit(),
    }
}

fn check_key() -> ExitCode {
    let mut key = String::new();
    if let Err(error) = std::io::stdin().read_line(&mut key) {
        eprintln!("The key could not be read from standard input: {error}");
        return ExitCode::FAILURE;
    }
    let (is_complete, report) = key_report(&key);
    match print(&report) {
        ExitCode::SUCCESS if is_complete => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs a command with the configuration of the environment. Exits with 2 when that is invalid.
fn run_configured<F: Future<Output = ExitCode>>(command: impl FnOnce(Config) -> F) -> ExitCode {
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
        Err(error) => fail("the async runtime could not be started", &error),
    }
}

/// Checks the name of a role: what needs no quotes in SQL, and is not reserved.
fn role_name(name: &str) -> Result<String, &'static str> {
    let is_plain = name.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let is_name = is_plain && (1..=63).contains(&name.len()) && !name.starts_with("pg_");
    if is_name && !name.starts_with(|it: char| it.is_ascii_digit()) {
        return Ok(name.to_owned());
    }
    Err("expected 1 to 63 characters a-z, 0-9 and _, not beginning with a digit or pg_")
}

async fn migrate(config: Config, role: Option<String>) -> ExitCode {
    let app = App::new(config);
    let migrated = match &role {
        None => app.migrate().await.map(|()| Vec::new()),
        Some(role) => app.migrate_with_role(role).await,
    };
    match migrated {
        Ok(done) => {
            let mut text = "The schema is up to date.\n".to_owned();
            if let Some(role) = role {
                text += &format!("The role {role}: {}.\n", done.join("; "));
            }
            print(&text)
        }
        Err(error) => fail("migration failed", &error),
    }
}

async fn serve(config: Config) -> ExitCode {
    if !config.has_keys() {
        tracing::warn!("no API key is configured: every route that needs one answers 401");
    }
    let app = App::new(config);
    let mut stop = pin!(async {
        if let Err(error) = stop_signal().await {
            tracing::error!(%error, "signals cannot be received; only SIGKILL stops this process");
        }
        tracing::info!("stopping");
        app.stop_waiting();
    });
    // A short migration ends before the first request, which then finds its tables. A longer one, or an
    // unreachable database, must not keep the process from answering /live: a platform would take that
    // for a crash. The migration then continues while requests are served.
    let mut migration = pin!(migrate_when_reachable(&app));
    let is_migrating = tokio::select! {
        result = &mut migration => match result {
            Ok(()) => false,
            Err(error) => return fail("migration failed", &error),
        },
        () = tokio::time::sleep(MIGRATION_WAIT) => true,
        () = &mut stop => return ExitCode::SUCCESS,
    };
    let listener = match bind(app.config()).await {
        Ok(listener) => listener,
        Err(error) => return fail("could not bind the address", &error),
    };
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "listening"),
        Err(error) => return fail("the bound address is unknown", &error),
    }
    let served = listen(listener, router(app.clone()), &app, stop);
    let failed_migration = async {
        if is_migrating && let Err(error) = migration.await {
            return error;
        }
        std::future::pending().await
    };
    let code = tokio::select! {
        result = served => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail("serving failed", &error),
        },
        error = failed_migration => fail("migration failed", &error),
        never = app.sweep() => never,
    };
    app.close().await;
    code
}

/// Migrates as soon as the database is reachable, if the configuration allows automatic migration.
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
                tracing::warn!(%error, "the database is unreachable; retrying the migration");
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(MIGRATION_RETRY).await;
    }
}

/// Logs an error that ends the process.
fn fail(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(%error, "{what}");
    ExitCode::FAILURE
}
