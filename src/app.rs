//! What a process shares between requests: configuration, the database and a few small caches.
use std::{future::pending, ops::Deref, sync::Arc, time::Duration};

use crate::{
    Config, MigrateError, Result,
    authority::Authority,
    capabilities::{Gatherers, guardrails::Guardrails, maintenance, memory::bm25::Bm25},
    db::Database,
    engine::Engine,
    heartbeat::Heartbeats,
    metrics::Metrics,
    migrate,
    waiting::Waiting,
};

/// How many sweeps go by between two looks for records that are too old: an hour.
const SWEEPS_PER_RETENTION: u64 = 120;

/// How long closing waits for connections in use.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// Shared state; a clone is the same state. Nothing in it has to survive the process, and any replica may
/// answer any request.
#[derive(Clone, Debug)]
pub struct App(Arc<Shared>);

/// What [`App`] gives access to.
#[derive(Debug)]
pub struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) db: Arc<Database>,
    pub(crate) authority: Authority,
    pub(crate) engine: Engine,
    pub(crate) gatherers: Gatherers,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) guardrails: Guardrails,
    pub(crate) bm25: Bm25,
    pub(crate) metrics: Metrics,
    pub(crate) waiting: Waiting,
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// Builds the state without touching the network: the first operation makes the pool, its first
    /// query the first connection.
    pub fn new(config: Config) -> Self {
        let (db, engine) = (Database::new(&config), Engine::new(&config));
        let gatherers = Gatherers::new(config.gather_lanes());
        Self(Arc::new(Shared {
            config: Arc::new(config),
            db: Arc::new(db),
            authority: Authority::default(),
            engine,
            gatherers,
            heartbeats: Heartbeats::default(),
            guardrails: Guardrails::default(),
            bm25: Bm25::default(),
            metrics: Metrics::default(),
            waiting: Waiting::default(),
        }))
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings the database's schema up to date; needs a direct connection, not a pooler's.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        migrate::migrate(&self.db).await
    }

    /// Tidies up what time has ended, every 30 s until dropped. Nothing depends on it, so a service
    /// that is to sleep does without.
    pub async fn sweep(&self) -> ! {
        if self.config.sleep_friendly {
            pending::<()>().await;
        }
        let mut sweeps: u64 = 0;
        loop {
            tokio::time::sleep(self.config.sweep_interval).await;
            let mut swept = maintenance::sweep(self).await;
            if swept.is_ok() && sweeps.is_multiple_of(SWEEPS_PER_RETENTION) {
                swept = maintenance::retain(self).await;
            }
            match swept {
                Ok(()) => sweeps += 1,
                Err(error) => tracing::warn!(?error, "the sweep failed"),
            }
        }
    }

    /// Answers every waiting request with what holds now; from now on none waits. For the moment
    /// when the process is asked to stop.
    pub fn stop_waiting(&self) {
        self.waiting.stop();
    }

    /// Closes the connections, when the last request is answered. Requests that were cut off may
    /// still hold some: nobody waits for those long.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_PATIENCE, self.db.close()).await.is_err() {
            tracing::debug!("connections in use were left to the end of the process");
        }
    }
}
