//! The database of `docker-compose.yml`. Invariant: every wait has a limit, except that for the download
//! of the image, whose progress Docker shows.

use std::{path::Path, process::Stdio, str::FromStr, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::environment::Environment;

const FILE: &str = "docker-compose.yml";
const SERVICE: &str = "paradedb";

/// Short, because a Docker engine that hangs must not delay a developer who does not use Docker.
const ENGINE_LIMIT: Duration = Duration::from_secs(3);
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Starts the database and returns its connection string. `reset` erases its data first. The error is a
/// clause that explains why the database cannot be used.
pub(crate) async fn start(environment: &Environment, reset: bool) -> Result<String, String> {
    if !Path::new(FILE).exists() {
        return Err(format!("there is no {FILE} in this folder"));
    }
    check_engine().await?;
    if reset {
        run(&["compose", "down", "--volumes"]).await?;
    }
    run(&["compose", "up", "-d", "--wait", SERVICE]).await?;

    let dsn = dsn(environment);
    let connected = timeout(CONNECT_LIMIT, wait_until_reachable(&dsn)).await;
    connected.map_err(|_| {
        format!("{SERVICE} runs, but refused connections for {} s", CONNECT_LIMIT.as_secs())
    })?;
    Ok(dsn)
}

/// Checks that Docker is installed and its engine answers.
async fn check_engine() -> Result<(), String> {
    let mut command = Command::new("docker");
    command.args(["version", "--format", "{{.Server.Version}}"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match timeout(ENGINE_LIMIT, command.status()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Err(_)) => Err("Docker is not installed".to_owned()),
        Ok(Ok(_)) | Err(_) => Err("no Docker engine answers".to_owned()),
    }
}

/// Runs `docker`. Its standard error is shown: the first start downloads the image, which takes minutes.
async fn run(arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("docker");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`docker {}` failed ({status})", arguments.join(" "))),
        Err(error) => Err(format!("`docker {}` failed ({error})", arguments.join(" "))),
    }
}

/// Returns the connection string, from the variables and defaults of `docker-compose.yml`.
fn dsn(environment: &Environment) -> String {
    let value =
        |name, default: &str| environment.filled(name).unwrap_or_else(|| default.to_owned());
    let (password, database) =
        (value("POSTGRES_PASSWORD", "postgres"), value("POSTGRES_DB", "postgres"));
    let password = utf8_percent_encode(&password, NON_ALPHANUMERIC);
    let database = utf8_percent_encode(&database, NON_ALPHANUMERIC);
    let port = value("AGENT_COORDINATOR_DB_PORT", "54322");
    format!("postgresql://postgres:{password}@127.0.0.1:{port}/{database}")
}

/// Waits until a connection succeeds. Docker reports a container as healthy by a check inside it, before
/// the published port accepts connections.
async fn wait_until_reachable(dsn: &str) {
    let Ok(options) = PgConnectOptions::from_str(dsn) else { return };
    while PgConnection::connect_with(&options).await.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_string_follows_the_variables_of_the_compose_file() {
        let mut environment = Environment::default();
        for name in ["POSTGRES_PASSWORD", "POSTGRES_DB", "AGENT_COORDINATOR_DB_PORT"] {
            environment.set(name, "");
        }
        assert_eq!(dsn(&environment), "postgresql://postgres:postgres@127.0.0.1:54322/postgres");

        environment.set("POSTGRES_PASSWORD", "p@ss/word");
        environment.set("POSTGRES_DB", "dev");
        environment.set("AGENT_COORDINATOR_DB_PORT", "10000");
        assert_eq!(dsn(&environment), "postgresql://postgres:p%40ss%2Fword@127.0.0.1:10000/dev");
    }
}
