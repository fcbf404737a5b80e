//! The address of the database, and how statements are sent to it.
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use super::{home::Home, reader::Reader};
use crate::values::Secret;

/// How the service reaches the database.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseSettings {
    pub(crate) options: Secret<PgConnectOptions>,
    /// Connections that stay open.
    pub(crate) pool_min: u32,
    /// Connections that are open at most.
    pub(crate) pool_max: u32,
    /// How long a connection can be idle before it is closed.
    pub(crate) idle_time: Duration,
    pub(crate) statements: Statements,
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statements {
    /// As prepared statements with names, each a transaction of its own: the connection is the
    /// server's own, or a pooler keeps track of such statements.
    Named,
    /// Without names, and in one transaction from taking the connection to giving it back, because a
    /// pooler can give every transaction another connection to the server.
    OneTransaction,
}

/// How long a connection can be idle: the driver's own default, and a shorter time for a service that
/// the platform puts to sleep.
const IDLE_TIME: Duration = Duration::from_secs(600);
const IDLE_TIME_SLEEPY: Duration = Duration::from_secs(60);

impl Reader<'_> {
    pub(super) fn database(&mut self, home: Home, sleep_friendly: bool) -> DatabaseSettings {
        let is_server = home == Home::Server;
        let (pool_min, pool_max): (u32, u32) =
            (self.int("POSTGRES_POOL_MIN"), self.int("POSTGRES_POOL_MAX"));
        // A bound that is wrong by itself counts as 0 here and has a problem of its own.
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
        let parsed = self.text(name).and_then(|dsn| parse_dsn(&dsn));
        parsed.unwrap_or_else(|| {
            let name = if self.text(name).is_some() { name } else { "POSTGRES_DSN" };
            self.invalid(name);
            PgConnectOptions::new_without_pgpass()
        })
    }
}

/// Parses a connection string into options that also work behind a connection pooler, which refuses the
/// start-up parameter that the driver sends by default.
fn parse_dsn(dsn: &str) -> Option<PgConnectOptions> {
    let scheme = dsn.split_once("://")?.0;
    if !["postgres", "postgresql"].contains(&scheme) {
        return None;
    }
    let options: PgConnectOptions = dsn.parse().ok()?;
    Some(options.extra_float_digits(None).application_name("agent-coordinator"))
}
