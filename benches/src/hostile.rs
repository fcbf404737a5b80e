//! Attacks a server, in one way after the other, while agents of another workspace work. `make hostile` runs it.
//!
//! Each attack gets a process and a database of its own. The figures before the attack are those of the same
//! process, so that other load on the machine affects both alike. The agents, who work in workspace `innocent`,
//! and the attacker use different API keys.

mod attacks;
mod bounds;
mod lists;
mod sockets;
mod witness;

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use managed_postgres::{Server, throwaway};
use tokio::time::{sleep, timeout};

use crate::{
    Result,
    arguments::Hostile,
    cluster::{execute, text},
    load::{Connection, Members, Sender, message},
    operations::Request,
    service::{KEY, Service, free_port},
    usage,
};

pub(crate) use self::attacks::Attack;
use self::{
    attacks::{Done, Target},
    bounds::Phase,
    witness::Witness,
};

/// The API key of the attacker. [`KEY`] is that of the agents.
const ATTACKER_KEY: &str = "bench-key-of-an-attacker";
const IDENTITIES: &str = r#"{
    "bench-key-of-one-run": {"workspace": "innocent"},
    "bench-key-of-an-attacker": {"workspace": "attack"}
}"#;

/// The migrated database that those of the attacks are copied from.
const TEMPLATE: &str = "base";

/// How long the process gets to warm up, how long the quiet service is observed, and how long the attack takes.
const WARM_UP: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_secs(5);
const ATTACK: Duration = Duration::from_secs(15);

/// How long `/metrics` may take after an attack.
const METRICS_LIMIT: Duration = Duration::from_secs(10);

const METRICS: Request = Request { method: "GET", path: "/metrics", body: "", expected: "# TYPE" };

/// Runs the chosen attacks and prints a table. Fails if the service missed a bound.
pub(crate) async fn run(arguments: &Hostile) -> Result<()> {
    let server = throwaway::private().await?;
    let phases = attack_all(arguments, &server).await;
    server.stop().await;
    let phases = phases?;
    println!("{}", bounds::report(&phases));
    bounds::judge(&phases)
}

async fn attack_all(arguments: &Hostile, server: &Server) -> Result<Vec<Phase>> {
    migrate(&arguments.coordinator, server).await?;
    let mut phases = Vec::new();
    for attack in arguments.attacks() {
        eprintln!("attack: {}", attack.name());
        let dsn = create(server, attack).await?;
        phases.push(observe(&arguments.coordinator, &dsn, attack).await?);
        let name = attack.database();
        execute(&server.url("postgres"), &format!("drop database {name} with (force)")).await?;
    }
    Ok(phases)
}

/// Creates the template of the databases, by the program itself.
async fn migrate(program: &Path, server: &Server) -> Result<()> {
    execute(&server.url("postgres"), &format!("create database {TEMPLATE}")).await?;
    let mut command = Command::new(program);
    command.arg("migrate").env("POSTGRES_DSN", server.url(TEMPLATE)).env("RUST_LOG", "warn");
    let output = command.output().map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`migrate` failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Creates the database of an attack, with the rows that it needs, and returns its connection string.
async fn create(server: &Server, attack: Attack) -> Result<String> {
    let name = attack.database();
    let statement = format!("create database {name} template {TEMPLATE} strategy file_copy");
    execute(&server.url("postgres"), &statement).await?;
    let dsn = server.url(&name);
    if !attack.seed().is_empty() {
        execute(&dsn, attack.seed()).await?;
        execute(&dsn, "vacuum analyze").await?;
    }
    Ok(dsn)
}

/// Starts a server, lets agents work, attacks, and returns what the agents saw.
async fn observe(program: &Path, dsn: &str, attack: Attack) -> Result<Phase> {
    let variables = [
        ("COORDINATION_API_KEYS", ""),
        ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES),
        ("COORDINATION_PUBLIC_READS", "true"),
        ("RUST_LOG", "error"),
    ];
    let mut service =
        Service::start_with(program, dsn, free_port()?, &variables, "/health").await?;
    let witness = Witness::start(service.port)?;
    sleep(WARM_UP).await;
    let quiet_from = Instant::now();
    sleep(QUIET.max(attack.begins_after().saturating_sub(WARM_UP))).await;

    usage::reset_peak(service.pid())?;
    let target = Target { port: service.port, done: Arc::new(Done::default()) };
    let attacked_from = Instant::now();
    let attacked = timeout(ATTACK, attack.run(&target)).await;
    let peak_mb = usage::peak_memory(service.pid());
    // The attack is over: its sockets are closed. Calls that have begun are still waited for.
    let mut observed = witness.stop().await?;
    if let Ok(Err(problem)) = attacked {
        observed.failures.push(format!("the attack ended early: {problem}"));
    }
    let limits = timeout(METRICS_LIMIT, limits(service.port)).await;
    Ok(Phase {
        attack,
        done: done(dsn, attack, &target.done).await?,
        quiet: observed.between(quiet_from, attacked_from),
        attacked: observed.since(attacked_from),
        failures: observed.failures,
        // A process that has ended has no peak.
        peak_mb: peak_mb.unwrap_or(f64::INFINITY),
        limits: match limits {
            Ok(Ok(limits)) => limits,
            _ => "no answer".to_owned(),
        },
        ended: service.ended()?.map(|status| status.to_string()),
    })
}

/// Returns how much the attacker has done.
async fn done(dsn: &str, attack: Attack, done: &Done) -> Result<usize> {
    match attack.counted_by() {
        Some(statement) => Ok(text(dsn, statement).await?.parse()?),
        None => Ok(done.count()),
    }
}

/// Returns the header with the attacker's key.
fn key_header() -> String {
    format!("X-API-Key: {ATTACKER_KEY}\r\n")
}

/// Returns the HTTP message of a request of the attacker. Each header has its line end.
fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads which limits were reached, and how often.
async fn limits(port: u16) -> Result<String> {
    let mut connection = Connection::open(port).await?;
    let sender = Sender { port, key: KEY, agent: "", headers: "" };
    let message = message(&METRICS, &sender, 0, &Members::default());
    let metrics = connection.exchange(message.as_bytes()).await?.body;
    METRICS.check(&metrics)?;
    Ok(bounds::reached(&metrics))
}
