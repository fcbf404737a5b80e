//! What a process shares between requests: configuration, the database and a few small caches.
use std::sync::Arc;

use crate::{
    Config, MigrateError, Result, authority::Authority, db::Database, engine::Engine,
    heartbeat::Heartbeats,
};

/// Shared, cheaply cloned state. Nothing in it has to survive the process, and any replica may
/// answer any request.
#[derive(Clone, Debug)]
pub struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) db: Arc<Database>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) heartbeats: Arc<Heartbeats>,
}

impl App {
    /// Builds the state without touching the network: the first operation makes the pool, its first
    /// query the first connection.
    pub fn new(config: Config) -> Self {
        let (db, engine) = (Database::new(&config), Engine::new(&config));
        Self {
            config: Arc::new(config),
            db: Arc::new(db),
            authority: Arc::default(),
            engine: Arc::new(engine),
            heartbeats: Arc::default(),
        }
    }

    /// The configuration it was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings the database's schema up to date; needs a direct connection, not a pooler's.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        self.db.migrate().await
    }

    /// Closes the connections. Called when the last request is answered.
    pub async fn close(&self) {
        self.db.close().await;
    }
}
