//! The application: the state that requests share, and the work that runs beside them.
use std::{future::pending, sync::Arc, time::Duration};

use axum::Router;

use crate::{
    capabilities::{self, maintenance, retention},
    config::Config,
    database::{self, MigrateError},
    http, mcp,
    operation::Services,
};

/// The time between two deletions of old records. After a failure, the next one comes with the next sweep.
const RETENTION_INTERVAL: Duration = Duration::from_secs(3600);

/// How long closing waits for connections in use.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The state of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct App(pub(crate) Arc<Services>);

/// Builds the router over all operations, which the server, Lambda, the development loop and the tests
/// share.
pub fn router(app: App) -> Router {
    let operations = capabilities::all();
    let mcp_endpoint = mcp::endpoint(&app.0, operations);
    http::router(app.0, operations, mcp_endpoint)
}

impl App {
    /// Creates the state without touching the network: the first operation opens the first connection.
    pub fn new(config: Config) -> Self {
        let (known, state) = (capabilities::all().known(), capabilities::state(&config));
        Self(Arc::new(Services::new(config, known, state)))
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Brings the schema of the database up to date. Needs a direct connection, not one through a pooler.
    ///
    /// # Errors
    /// Tells whether the database is unreachable or behind a pooler, or a migration failed.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        self.migrate_with(None).await.map(drop)
    }

    /// Brings the schema up to date, then creates the service's role of that name, which owns nothing, if it
    /// is missing, and gives it the rights that it needs. Returns what was done, one sentence for each step.
    ///
    /// # Errors
    /// As [`App::migrate`], and tells whether only the role could not be prepared.
    pub async fn migrate_with_role(&self, role: &str) -> Result<Vec<String>, MigrateError> {
        self.migrate_with(Some(role)).await
    }

    async fn migrate_with(&self, role: Option<&str>) -> Result<Vec<String>, MigrateError> {
        let audit_retention_days = self.0.config.audit_retention_days;
        database::migrate(&self.0.db, database::Settings { audit_retention_days, role }).await
    }

    /// Sweeps expired records at regular intervals, and deletes old ones independently of that, until
    /// dropped. Correctness does not depend on it. A service that the platform puts to sleep does not sweep,
    /// because the queries would keep it awake.
    pub async fn sweep(&self) -> ! {
        let Self(services) = self;
        if services.config.sleep_friendly {
            pending::<()>().await;
        }
        let interval = services.config.timings.sweep_interval;
        let sweeps = async {
            loop {
                tokio::time::sleep(interval).await;
                maintenance::sweep(services).await;
            }
        };
        let deletions = async {
            let mut pause = interval;
            loop {
                tokio::time::sleep(pause).await;
                let has_succeeded = retention::run(services).await;
                pause = if has_succeeded { RETENTION_INTERVAL } else { interval };
            }
        };
        tokio::select! {
            never = sweeps => never,
            never = deletions => never,
        }
    }

    /// Answers every waiting request with its current outcome. From now on no request waits. Called when
    /// the process is asked to stop.
    pub fn stop_waiting(&self) {
        self.0.waiters.stop();
    }

    /// Closes the database connections after the last answer. Requests that were cut off can still hold
    /// some, so the wait is short.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.0.db.close()).await.is_err() {
            tracing::debug!("connections in use were left to the end of the process");
        }
    }
}
