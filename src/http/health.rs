//! The health pages: whether the process is running, the database answers, and the service can do its work.
use std::time::Duration;

use serde::Serialize;

use crate::{
    capabilities::guardrails,
    database::{self, Consumer, Db, SchemaState},
    operation::Services,
    values::{Result, VERSION},
};

/// State of the schema when its tables or guardrail patterns do not fit this version.
pub(crate) const MISMATCH: &str = "mismatch";

/// State of the schema when only the database functions are of another version.
pub(crate) const FUNCTIONS_DIFFER: &str =
    "mismatch: the functions differ; run `coordinator migrate`";

/// The time limit of each check. After it, the database counts as unreachable.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// Answer of `/live`.
#[derive(Debug, Serialize)]
pub(crate) struct Live {
    status: &'static str,
    version: &'static str,
}

/// Answer of `/health`.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    status: &'static str,
    db: &'static str,
    version: &'static str,
}

/// Answer of `/ready`.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    status: &'static str,
    db: &'static str,
    version: &'static str,
    schema: &'static str,
    write: &'static str,
    failed: Vec<&'static str>,
}

/// Reports that the process is running. Does not use the database.
pub(crate) fn live() -> Live {
    Live { status: "ok", version: VERSION }
}

/// Checks whether the database answers a query. `Err` is the body of a 503.
pub(crate) async fn health(services: &Services) -> Result<Health, Health> {
    let check = services.db.with_fresh_connection(async || {
        let mut db = services.db.acquire_connection(Consumer::Probes).await?;
        sqlx::query_scalar!("select 1").fetch_one(&mut db).await?;
        db.commit_and_release().await?;
        Ok(())
    });
    match within_time_limit("health", check).await {
        Some(()) => Ok(Health { status: "ok", db: "connected", version: VERSION }),
        None => Err(Health { status: "degraded", db: "unreachable", version: VERSION }),
    }
}

/// Whether the service can do its work: the database answers, its schema is this version's, its
/// guardrail patterns compile, and a row can be written (and is rolled back). `Err` holds the body of a
/// 503.
pub(crate) async fn ready(services: &Services) -> Result<Ready, Ready> {
    let mut ready = Ready {
        status: "degraded",
        db: "unreachable",
        version: VERSION,
        schema: "unknown",
        write: "unknown",
        failed: vec!["db"],
    };
    if within_time_limit("ready: pooler", services.db.mixes_up_statements()).await == Some(true) {
        ready.db = database::REMEDY;
        return Err(ready);
    }
    let check = services.db.with_fresh_connection(async || {
        let mut db = services.db.acquire_connection(Consumer::Probes).await?;
        let schema_state = database::schema_state(&mut db).await?;
        Ok((db, schema_state))
    });
    let Some((mut db, schema_state)) = within_time_limit("ready: database", check).await else {
        return Err(ready);
    };
    ready.db = "connected";
    ready.schema = match schema_state {
        SchemaState::Current => "ok",
        SchemaState::OtherMigrations => MISMATCH,
        SchemaState::OtherFunctions => FUNCTIONS_DIFFER,
    };
    if schema_state == SchemaState::Current {
        let compile = guardrails::all_compile(services, &mut db);
        if within_time_limit("ready: guardrails", compile).await != Some(true) {
            ready.schema = MISMATCH;
        }
    }
    if ready.schema != "ok" {
        ready.failed = vec!["schema"];
        return Err(ready);
    }
    if within_time_limit("ready: write", write_and_roll_back(&mut db)).await.is_none() {
        ready.write = "failed";
        ready.failed = vec!["write"];
        return Err(ready);
    }
    if within_time_limit("ready: end", db.commit_and_release()).await.is_none() {
        return Err(Ready { db: "unreachable", schema: "unknown", failed: vec!["db"], ..ready });
    }
    Ok(Ready { status: "ok", write: "ok", failed: vec![], ..ready })
}

async fn write_and_roll_back(db: &mut Db) -> Result<()> {
    db.begin().await?;
    // A real transition, so that its failures are found here. No client can guess the random key.
    sqlx::query!(
        r#"
        select verdict from acquire_lock(
            'default',
            row('readiness', 'readiness probe', 'service', null, 0, interval '1 hour')::request,
            'readiness:' || gen_random_uuid(), false, null, interval '1 minute', null, null, null, '',
            null, false, null
        )
        "#
    )
    .fetch_one(&mut *db)
    .await?;
    db.rollback().await
}

/// Returns the result of a check. Logs an error or a timeout and returns `None`.
async fn within_time_limit<T>(what: &str, check: impl Future<Output = Result<T>>) -> Option<T> {
    match tokio::time::timeout(TIME_LIMIT, check).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(?error, "{what} check failed");
            None
        }
        Err(_) => {
            tracing::warn!("{what} check took over {} s", TIME_LIMIT.as_secs());
            None
        }
    }
}
