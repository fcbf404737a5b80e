//! Which database to use. Nearest to the developer's wish first: the one they name, then the one
//! that Docker can run, then a PostgreSQL server of our own, then one that is downloaded.

use std::{path::Path, time::Duration};

use managed_postgres::{Binaries, Error, Server};

use crate::{
    STATE,
    arguments::{Arguments, Choice},
    compose, download,
    environment::Environment,
};

const CHOICES: &str = "\
Any one of these helps:
  - POSTGRES_DSN, in the environment or in .env: a PostgreSQL 15 or newer that is there already
  - Docker, started
  - the PostgreSQL server, 15 or newer: `apt install postgresql`, `dnf install postgresql-server`
    or `brew install postgresql@17`; PG_BIN_DIR says where it is if it is not found
  - the network, to download it from github.com";

/// How often a server of our own is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A database that is ready to be used.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) dsn: String,
    /// Which one it is and why, in one line.
    pub(crate) description: String,
    /// Present if the database is a server of our own, which ends with this value.
    server: Option<Server>,
}

/// Refuses what would take data away that is not ours.
pub(crate) fn check(arguments: &Arguments, environment: &Environment) -> Result<(), String> {
    let Some(name) = variable(environment) else {
        if arguments.database == Choice::Dsn {
            return Err("--db dsn expects POSTGRES_DSN or DATABASE_URL to be set.".to_owned());
        }
        return Ok(());
    };
    let uses_it = matches!(arguments.database, Choice::Auto | Choice::Dsn);
    if arguments.reset && uses_it {
        return Err(format!(
            "--reset does not touch the database of {name}. Empty that one yourself, or choose \
             another with --db compose or --db embedded."
        ));
    }
    Ok(())
}

/// The variable with the connection string, if one is set.
fn variable(environment: &Environment) -> Option<&'static str> {
    ["POSTGRES_DSN", "DATABASE_URL"].into_iter().find(|name| environment.filled(name).is_some())
}

impl Database {
    /// Opens the database asked for, starting it if need be.
    pub(crate) async fn open(
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<Database, String> {
        match arguments.database {
            Choice::Auto => first_that_works(arguments, environment).await,
            Choice::Dsn => given(environment).ok_or_else(|| "POSTGRES_DSN is not set.".to_owned()),
            Choice::Compose => composed(arguments, environment).await,
            Choice::Embedded => match installed(environment)? {
                Ok(binaries) => own(arguments, &binaries).await,
                Err(missing) => downloaded(arguments, missing).await,
            },
        }
    }

    /// Starts the server anew whenever it has ended by itself, if it is ours; returns only when that
    /// fails, with the reason.
    pub(crate) async fn keep_running(&mut self) -> Error {
        let Some(server) = &mut self.server else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            if server.pid().is_some() {
                continue;
            }
            eprintln!("The database has ended; starting it again.");
            if let Err(error) = server.restart().await {
                return error;
            }
        }
    }

    /// Ends the server, if it is ours.
    pub(crate) async fn close(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }

    fn because(mut self, passed_over: &[String]) -> Database {
        self.description = format!("{} ({})", self.description, passed_over.join("; "));
        self
    }
}

async fn first_that_works(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<Database, String> {
    if let Some(database) = given(environment) {
        return Ok(database);
    }
    let mut passed_over = vec!["POSTGRES_DSN is not set".to_owned()];
    match composed(arguments, environment).await {
        Ok(database) => return Ok(database.because(&passed_over)),
        Err(reason) => passed_over.push(reason),
    }
    match installed(environment)? {
        // A server that is there but does not start is the error to tell; another would not help.
        Ok(binaries) => Ok(own(arguments, &binaries).await?.because(&passed_over)),
        Err(missing) => {
            passed_over.push(missing.clone());
            match downloaded(arguments, missing).await {
                Ok(database) => Ok(database.because(&passed_over)),
                Err(reason) => {
                    Err(format!("No database: {}.\n{reason}", passed_over[..2].join("; ")))
                }
            }
        }
    }
}

fn given(environment: &Environment) -> Option<Database> {
    let name = variable(environment)?;
    let dsn = environment.get(name)?;
    Some(Database { dsn, description: format!("the one of {name}"), server: None })
}

async fn composed(arguments: &Arguments, environment: &Environment) -> Result<Database, String> {
    let dsn = compose::start(environment, arguments.reset).await?;
    let description = "ParadeDB of docker-compose.yml, left running".to_owned();
    Ok(Database { dsn, description, server: None })
}

/// The server on this machine, or why there is none. A wrong `PG_BIN_DIR` is an error of its own:
/// whoever set it does not want another server.
fn installed(environment: &Environment) -> Result<Result<Binaries, String>, String> {
    match Binaries::find(|name| environment.get(name)) {
        Ok(binaries) => Ok(Ok(binaries)),
        Err(error @ Error::NotFound { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}

async fn downloaded(arguments: &Arguments, missing: String) -> Result<Database, String> {
    match download::binaries(&Path::new(STATE).join("postgresql")).await {
        Ok(binaries) => own(arguments, &binaries).await,
        Err(reason) => Err(format!("{missing}\n{reason}\n\n{CHOICES}")),
    }
}

async fn own(arguments: &Arguments, binaries: &Binaries) -> Result<Database, String> {
    let folder = Path::new(STATE).join("postgres");
    if arguments.reset {
        managed_postgres::erase(&folder).await.map_err(explain)?;
    }
    let server = Server::start(&folder, binaries).await.map_err(explain)?;
    let description = format!(
        "PostgreSQL {} of {}, data in {}",
        binaries.version().text,
        binaries.dir().display(),
        folder.display()
    );
    Ok(Database { dsn: server.url("postgres"), description, server: Some(server) })
}

/// Adds to an error what the developer can do about it.
fn explain(error: Error) -> String {
    let advice = match error {
        Error::AlreadyRunning { .. } => "Another `local` runs in this folder; stop it first.",
        Error::OtherVersion { .. } => {
            "Set PG_BIN_DIR to a server of that version, or throw the data away with --reset."
        }
        _ => "Another database can be chosen with --db, or this one started afresh with --reset.",
    };
    format!("PostgreSQL: {error}\n{advice}")
}

#[cfg(test)]
mod tests {
    use managed_postgres::OLDEST_MAJOR;

    use super::*;

    #[track_caller]
    fn refusal(database: Choice, reset: bool, dsn: Option<&str>) -> Option<String> {
        let mut environment = Environment::default();
        environment.set("POSTGRES_DSN", dsn.unwrap_or_default());
        environment.set("DATABASE_URL", "");
        let arguments = Arguments { database, reset, port: None };
        check(&arguments, &environment).err()
    }

    #[test]
    fn a_given_database_is_never_reset() {
        let dsn = Some("postgresql://elsewhere/precious");

        for database in [Choice::Auto, Choice::Dsn] {
            let refused = refusal(database, true, dsn).unwrap();
            assert!(refused.starts_with("--reset does not touch"), "{refused}");
            assert!(!refused.contains("precious"), "{refused}");
        }
        assert_eq!(refusal(Choice::Embedded, true, dsn), None);
        assert_eq!(refusal(Choice::Auto, true, None), None);
        assert_eq!(refusal(Choice::Auto, false, dsn), None);
    }

    #[test]
    fn asking_for_a_given_database_without_giving_one_is_refused() {
        let refused = refusal(Choice::Dsn, false, None).unwrap();

        assert_eq!(refused, "--db dsn expects POSTGRES_DSN or DATABASE_URL to be set.");
    }

    #[test]
    fn the_choices_name_the_version_that_is_demanded() {
        assert!(CHOICES.contains(&format!("{OLDEST_MAJOR} or newer")));
    }
}
