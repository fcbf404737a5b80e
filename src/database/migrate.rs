//! Bringing the schema up to date: tables by migrations, then the functions, in one transaction.
//!
//! The text of each function stands in a `.sql` file beside the code that calls it. All of them are
//! installed together whenever they differ from those that were installed last.
use std::{io, sync::LazyLock};

use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection,
    migrate::{Migrate as _, Migrator},
};

use super::{
    connection::{Database, Db},
    partitions::{MONTHS_AHEAD, ensure_partitions},
    pool::ACQUIRE_TIMEOUT,
};
use crate::{
    config::Statements,
    values::{Error, Result},
};

/// All migrations, embedded in the binary.
static MIGRATOR: Migrator = sqlx::migrate!();

/// The text of all functions, in the order of their files' paths.
const FUNCTIONS: &str = include_str!(concat!(env!("OUT_DIR"), "/functions.sql"));

/// SHA-256 of [`FUNCTIONS`] in hex.
static DIGEST: LazyLock<String> =
    LazyLock::new(|| Sha256::digest(FUNCTIONS).iter().map(|byte| format!("{byte:02x}")).collect());

/// The names of all functions.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let heads = FUNCTIONS.lines().filter_map(|it| it.strip_prefix("create or replace function "));
    heads.filter_map(|it| it.split('(').next()).map(str::to_owned).collect()
});

/// Installs the functions and remembers their digest. Bodies are not checked while they are created,
/// because a function may call one that comes later.
static INSTALLATION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "set local check_function_bodies = off;\n{FUNCTIONS}\nselect finish_installation('{}');",
        *DIGEST
    )
});

/// The schema that this version of the service needs.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// The migrations, which make the tables.
    pub migrator: &'static Migrator,
    /// Installs the functions; run after the migrations, in a transaction.
    pub functions: &'static str,
}

/// The schema that this version of the service needs, for whatever makes databases for it.
pub fn schema() -> Schema {
    Schema { migrator: &MIGRATOR, functions: INSTALLATION.as_str() }
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database cannot be reached (yet).
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// There is a pooler in transaction mode, through which the lock of the migrations does not hold.
    #[error(
        "migrations need the database's direct address: run `coordinator migrate` with it in \
         POSTGRES_DSN and without POSTGRES_POOLER"
    )]
    Pooled,
    /// A migration failed, or the schema is one that this version does not know.
    #[error("a migration failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Brings the schema up to date. Simultaneous callers wait for one another.
pub(crate) async fn migrate(database: &Database) -> Result<(), MigrateError> {
    if database.statements() == Statements::OneTransaction {
        return Err(MigrateError::Pooled);
    }
    // A connection of its own, without the time limits that requests have.
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, database.options().connect()).await;
    let connected = connected.unwrap_or_else(|elapsed| {
        Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, elapsed)))
    });
    let mut db = connected.map_err(MigrateError::Unreachable)?;
    match database.is_mixed_up().await {
        Ok(false) => {}
        Ok(true) => return Err(MigrateError::Pooled),
        Err(error) => {
            return Err(MigrateError::Unreachable(sqlx::Error::Io(io::Error::other(error))));
        }
    }
    lift_time_limits(&mut db).await.map_err(|error| MigrateError::Failed(error.into()))?;
    update(&mut db).await.map_err(MigrateError::Failed)?;
    if let Err(error) = set_time_limits(&mut db).await {
        tracing::warn!(%error, "could not set the time limits of the database role");
    }
    // The work is done, whether the server hears the end of the connection or not.
    if let Err(error) = db.close().await {
        tracing::debug!(%error, "closing the migrating connection failed");
    }
    Ok(())
}

/// Applies the migrations and installs the functions, in one transaction under the migrator's lock.
#[expect(clippy::disallowed_methods, reason = "the text of the functions is no query")]
async fn update(db: &mut PgConnection) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // The migrator takes this lock too; taken here as well, it holds until the transaction is over.
    db.lock().await?;
    let mut tx = db.begin().await?;
    // Citus otherwise refuses to change a table and a function in one transaction.
    sqlx::query!("set local citus.multi_shard_modify_mode = 'sequential'")
        .execute(&mut *tx)
        .await?;
    MIGRATOR.run_direct(None, &mut *tx, false).await?;
    if !has_functions(&mut *tx).await? {
        sqlx::raw_sql(AssertSqlSafe(INSTALLATION.as_str())).execute(&mut *tx).await?;
    }
    ensure_partitions(&mut *tx, MONTHS_AHEAD).await?;
    tx.commit().await?;
    db.unlock().await?;
    Ok(())
}

/// Whether the functions of this binary are installed, and none of them was dropped since.
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

/// Sets the time limits of the role in this database. They are set on the role, because a start-up
/// parameter would be refused by a connection pooler and a plain SET would leak through it to other
/// clients.
async fn set_time_limits(db: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        r#"
        do $$
        declare
            target text := format(
                'alter role %I in database %I set ', current_user, current_database());
        begin
            execute target || 'statement_timeout = ''10s''';
            execute target || 'lock_timeout = ''5s''';
            execute target || 'idle_in_transaction_session_timeout = ''30s''';
        end
        $$
        "#
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How the schema of a database differs from the one that this binary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SchemaState {
    /// The schemas are the same.
    Current,
    /// Migrations are missing, or unknown to this binary.
    OtherMigrations,
    /// The tables are the same, and the functions are not.
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
        // No such table: nothing was ever migrated.
        Err(_) => return Ok(SchemaState::OtherMigrations),
    };
    let known = MIGRATOR.iter().map(|it| (it.version, &*it.checksum));
    if !known.eq(applied.iter().map(|it| (it.version, &*it.checksum))) {
        return Ok(SchemaState::OtherMigrations);
    }
    let has_functions = has_functions(db).await?;
    Ok(if has_functions { SchemaState::Current } else { SchemaState::OtherFunctions })
}
