//! Migrates the schema: the tables by migrations, each in a transaction of its own, then the functions.
//!
//! Each function is defined in a `.sql` file beside the code that calls it. All functions are installed
//! together, whenever their text differs from the text that was installed last.
use std::{io, sync::LazyLock};

use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection,
    migrate::{Migrate as _, Migrator},
};

use super::{
    connection::{Database, Db},
    partitions::{MONTHS_AHEAD, ensure_partitions},
    pool::ACQUIRE_TIMEOUT,
    privileges::{closing, functions_in, prepare_role, secure, set_time_limits},
};
use crate::{
    config::Statements,
    values::{Error, Result},
};

/// All migrations, embedded in the binary.
static MIGRATOR: Migrator = sqlx::migrate!();

/// The same migrations, each of which also closes the tables that it creates.
static CLOSING_MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| closing(&MIGRATOR));

/// The definitions of all functions, in the order of the paths of their files.
const FUNCTIONS: &str = include_str!(concat!(env!("OUT_DIR"), "/functions.sql"));

/// SHA-256 of [`FUNCTIONS`] in hex.
static DIGEST: LazyLock<String> = LazyLock::new(|| hex::encode(Sha256::digest(FUNCTIONS)));

/// The names of the functions in [`FUNCTIONS`].
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| functions_in(FUNCTIONS).collect());

/// The names of all functions, also of those that migrations create.
static ALL_NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let of_migrations = MIGRATOR.iter().flat_map(|it| functions_in(it.sql.as_str()));
    of_migrations.chain(NAMES.iter().cloned()).collect()
});

/// Installs the functions and stores their digest. The bodies are not checked during the installation,
/// because a function can call another function that is defined later. Functions that say `from current`
/// get a search path without the schemas of a user, and with temporary tables last: PostgreSQL otherwise
/// looks for tables there first, and anybody can create one.
static INSTALLATION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "set local check_function_bodies = off;
         select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);
         {FUNCTIONS}
         select finish_installation('{}');",
        *DIGEST
    )
});

/// The installation for programs that do not migrate by [`migrate`].
static SECURED_INSTALLATION: LazyLock<String> = LazyLock::new(|| {
    let names = ALL_NAMES.join(",");
    format!("{}\nselect secure_installation('{{{names}}}', null);", *INSTALLATION)
});

/// The schema that this version of the service needs.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The migrations, which create the tables.
    pub migrator: &'static Migrator,
    /// Statements that install the functions. Run them after the migrations, in a transaction.
    pub functions: &'static str,
}

/// Returns the schema that this version of the service needs, for programs that create databases for it.
pub fn schema() -> Schema {
    Schema { migrator: &MIGRATOR, functions: SECURED_INSTALLATION.as_str() }
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database is unreachable, at least for now.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// A pooler in transaction mode is in between. The advisory lock of the migrations belongs to a
    /// server connection, which such a pooler changes with each transaction.
    #[error(
        "migrations need the database's direct address: run `coordinator migrate` with it in \
         POSTGRES_DSN and without POSTGRES_POOLER"
    )]
    Pooled,
    /// A migration failed, or the schema has a migration that this version does not know.
    #[error("a migration failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The schema is up to date, but the role of the service could not be prepared.
    #[error("the role of the service could not be prepared: {0}")]
    Role(#[source] sqlx::Error),
}

/// What a migration sets beside the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    /// The least number of days for which the audit log is kept.
    pub(crate) audit_retention_days: i32,
    /// The role of the service that is created and gets its rights, if any.
    pub(crate) role: Option<&'a str>,
}

/// Brings the schema up to date, and returns what was done for the role of the service. Simultaneous callers
/// wait for one another.
pub(crate) async fn migrate(
    database: &Database,
    settings: Settings<'_>,
) -> Result<Vec<String>, MigrateError> {
    if database.statements() == Statements::OneTransaction {
        return Err(MigrateError::Pooled);
    }
    // A separate connection, without the time limits of requests.
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, database.address().connect()).await;
    let connected = connected.unwrap_or_else(|elapsed| {
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, elapsed)))
    });
    let mut db = connected.map_err(MigrateError::Unreachable)?;
    match database.mixes_up_statements().await {
        Ok(false) => {}
        Ok(true) => return Err(MigrateError::Pooled),
        Err(error) => {
            return Err(MigrateError::Unreachable(sqlx::Error::Io(io::Error::other(error))));
        }
    }
    lift_time_limits(&mut db).await.map_err(|error| MigrateError::Failed(error.into()))?;
    db.lock().await.map_err(|error| MigrateError::Failed(error.into()))?;
    update(&mut db, settings.audit_retention_days).await.map_err(MigrateError::Failed)?;
    let done = match settings.role {
        Some(role) => prepare_role(&mut db, role, &ALL_NAMES).await.map_err(MigrateError::Role)?,
        None => Vec::new(),
    };
    db.unlock().await.map_err(|error| MigrateError::Failed(error.into()))?;
    if let Err(error) = set_time_limits(&mut db).await {
        tracing::warn!(%error, "could not set the time limits of the database role");
    }
    // The migration is committed, so a failure to close the connection does not matter.
    if let Err(error) = db.close().await {
        tracing::debug!(%error, "closing the migrating connection failed");
    }
    Ok(done)
}

/// Applies the migrations and installs the functions. Each migration is a transaction of its own, so that
/// one that takes long does not hold the locks of those before it. The caller holds the migrator's lock; the
/// migrator acquires it too, and releases only that.
#[expect(clippy::disallowed_methods, reason = "the definitions of the functions are not a query")]
async fn update(
    db: &mut PgConnection,
    audit_retention_days: i32,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Without this, Citus refuses to change a table and a function in one transaction.
    sqlx::query!("set citus.multi_shard_modify_mode = 'sequential'").execute(&mut *db).await?;
    CLOSING_MIGRATOR.run_direct(None, &mut *db, false).await?;
    let mut tx = db.begin().await?;
    if has_functions(&mut *tx).await? {
        ensure_partitions(&mut *tx, MONTHS_AHEAD).await?;
    } else {
        // The installation creates the partitions too.
        sqlx::raw_sql(AssertSqlSafe(INSTALLATION.as_str())).execute(&mut *tx).await?;
    }
    secure(&mut *tx, &ALL_NAMES, audit_retention_days).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether the functions of this binary are installed and none of them was dropped afterwards.
async fn has_functions(db: impl sqlx::PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select
            exists (select from installed_functions where digest = $1)
            and not exists (
                select from unnest($2::text[]) as needed (name)
                where not exists (
                    select from pg_proc p
                    where p.proname = needed.name and pg_function_is_visible(p.oid)
                )
            ) as "has!"
        "#,
        *DIGEST,
        &*NAMES,
    )
    .fetch_one(db)
    .await
}

async fn lift_time_limits(db: &mut PgConnection) -> Result<()> {
    sqlx::query!("set statement_timeout = 0").execute(&mut *db).await?;
    sqlx::query!("set lock_timeout = 0").execute(db).await?;
    Ok(())
}

/// How the schema of a database differs from the one that this binary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaState {
    /// The schemas are equal.
    Current,
    /// Migrations are missing, or unknown to this binary.
    OtherMigrations,
    /// The tables are equal, the functions differ.
    OtherFunctions,
}

/// Compares the migrations and the functions in the database with those of this binary.
pub(crate) async fn schema_state(db: &mut Db) -> Result<SchemaState> {
    let applied = sqlx::query!(
        "select version, checksum from _sqlx_migrations where success order by version"
    )
    .fetch_all(&mut *db)
    .await;
    let applied = match applied.map_err(Error::from) {
        Ok(applied) => applied,
        Err(unavailable @ Error::Unavailable(_)) => return Err(unavailable),
        // The table does not exist: the database was never migrated.
        Err(_) => return Ok(SchemaState::OtherMigrations),
    };
    let known = MIGRATOR.iter().map(|migration| (migration.version, &*migration.checksum));
    if !known.eq(applied.iter().map(|row| (row.version, &*row.checksum))) {
        return Ok(SchemaState::OtherMigrations);
    }
    let has_functions = has_functions(db).await?;
    Ok(if has_functions { SchemaState::Current } else { SchemaState::OtherFunctions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installation_creates_as_many_partitions_as_a_start() {
        let call = format!("perform ensure_audit_partitions({MONTHS_AHEAD});");
        assert!(FUNCTIONS.contains(&call), "{call}");
    }

    #[test]
    fn every_text_about_the_time_limits_has_the_same_values() {
        // Returns the value of a setting, which a text writes as `name = 'value'`, with or without quotes
        // that are doubled.
        let value = |text: &str, name: &str| {
            let (_, rest) = text.split_once(&format!("{name} = '")).expect(name);
            rest.trim_start_matches('\'').split('\'').next().map(str::to_owned)
        };
        let own = include_str!("privileges.sql");
        let others =
            [include_str!("../../SECURITY.md"), include_str!("../../docs/cloud-deployment.md")];
        for name in [
            "statement_timeout",
            "lock_timeout",
            "idle_in_transaction_session_timeout",
            "client_connection_check_interval",
        ] {
            for text in others {
                assert_eq!(value(text, name), value(own, name), "{name}");
            }
        }
    }
}
