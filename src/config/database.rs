//! The address of the database, and how statements are sent to it.
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::{
    dsn::{Dsn, parse_dsn},
    home::Home,
    reader::Reader,
};
use crate::values::Secret;

/// How the service reaches the database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseSettings {
    pub(crate) options: Secret<PgConnectOptions>,
    /// The minimum number of open connections.
    pub(crate) pool_min: u32,
    /// The maximum number of open connections.
    pub(crate) pool_max: u32,
    /// How long a connection can be idle before it is closed.
    pub(crate) idle_time: Duration,
    pub(crate) statements: Statements,
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statements {
    /// As named prepared statements, each in its own transaction. Needs a direct connection, or a pooler
    /// that tracks prepared statements.
    Named,
    /// Without names, in one transaction from acquiring a connection to releasing it. For a pooler in
    /// transaction mode, which can give each transaction another connection to the server.
    OneTransaction,
}

/// How long a connection can be idle. The default of the driver.
const IDLE_TIME: Duration = Duration::from_secs(600);

/// How long a connection can be idle with `SLEEP_FRIENDLY`: an open connection keeps a platform from
/// putting the service to sleep.
const IDLE_TIME_SLEEPY: Duration = Duration::from_secs(60);

impl Reader<'_> {
    pub(super) fn database(&mut self, home: Home, sleep_friendly: bool) -> DatabaseSettings {
        let is_server = home == Home::Server;
        let (pool_min, pool_max): (u32, u32) =
            (self.int("POSTGRES_POOL_MIN"), self.int("POSTGRES_POOL_MAX"));
        // An invalid bound was read as 0, and its problem is already recorded.
        if pool_max > 0 && pool_min > pool_max {
            self.problem("POSTGRES_POOL_MIN", "not more than POSTGRES_POOL_MAX");
        }
        let statements = match self.word("POSTGRES_POOLER").as_str() {
            "transaction" => Statements::OneTransaction,
            _ => Statements::Named,
        };
        DatabaseSettings {
            options: Secret(self.connect_options()),
            pool_min: if is_server && !sleep_friendly { pool_min } else { 0 },
            pool_max: if is_server { pool_max } else { 1 },
            idle_time: if sleep_friendly { IDLE_TIME_SLEEPY } else { IDLE_TIME },
            statements,
        }
    }

    fn connect_options(&mut self) -> PgConnectOptions {
        let backend = self.word("DB_BACKEND");
        let name =
            if self.text("POSTGRES_DSN").is_some() { "POSTGRES_DSN" } else { "DATABASE_URL" };
        if backend == "supabase" && name != "POSTGRES_DSN" {
            let how = "the Postgres connection string of the project, for DB_BACKEND=supabase";
            self.problem("POSTGRES_DSN", how);
            return PgConnectOptions::new_without_pgpass();
        }
        let Some(dsn) = self.text(name) else {
            self.invalid("POSTGRES_DSN");
            return PgConnectOptions::new_without_pgpass();
        };
        match parse_dsn(&dsn) {
            Ok(Dsn { options, warnings }) => {
                self.warnings.extend(warnings.iter().map(|text| format!("{name}: {text}")));
                options
            }
            Err(expected) => {
                self.problem(name, &expected);
                PgConnectOptions::new_without_pgpass()
            }
        }
    }
}
