//! What all requests of a process share.
use std::{any::Any, sync::Arc};

use http::Extensions;

use super::{
    heartbeat::Heartbeats,
    limits::Party,
    metrics::Metrics,
    waiting::Waiters,
    without_key::{InWork, WithoutKey},
};
use crate::{
    access::{
        Keyring, Standings,
        policy::{Engine, KnownOperations},
    },
    config::Config,
    database::Database,
    values::{Error, Result},
};

/// The state of a process. Nothing in it has to survive the process, and any replica can answer any
/// request.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) config: Config,
    pub(crate) db: Arc<Database>,
    pub(crate) keys: Keyring,
    pub(crate) standings: Standings,
    pub(crate) engine: Engine,
    /// The names that policies know.
    pub(crate) known: KnownOperations,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) waiters: Waiters,
    pub(crate) metrics: Metrics,
    without_key: WithoutKey,
    state: State,
}

/// What capabilities keep in the process, one value per type.
#[derive(Clone, Debug, Default)]
pub(crate) struct State(Extensions);

impl State {
    /// Adds a value.
    pub(crate) fn with<T: Any + Send + Sync>(mut self, value: T) -> Self {
        self.0.insert(Arc::new(value));
        self
    }
}

impl Services {
    /// Creates the state without touching the network: the first operation opens the first connection.
    pub(crate) fn new(config: Config, known: KnownOperations, state: State) -> Self {
        let metrics = Metrics::default();
        let keys = config.keys.iter().map(|(key, identity)| (key.0.as_str(), identity.clone()));
        Self {
            db: Arc::new(Database::new(&config.database, metrics.limits.clone())),
            keys: Keyring::new(keys, config.allow_workspace_header),
            standings: Standings::new(),
            engine: Engine::new(&config),
            known,
            heartbeats: Heartbeats::new(),
            waiters: Waiters::default(),
            metrics,
            without_key: WithoutKey::default(),
            state,
            config,
        }
    }

    /// Counts a request without a key as in work, until the returned value is dropped. At most as many as
    /// half of the connections: the others are left to clients with a key.
    ///
    /// # Errors
    /// [`Error::Busy`] at that limit, and at that of the client's address.
    pub(crate) fn begin_without_key(&self, party: Party<'_>) -> Result<InWork<'_>> {
        let config = &self.config;
        let (max, of_address) = (config.half_of_connections(), config.max_requests_per_address);
        let begun = self.without_key.begin(party.address, max, of_address);
        begun.map_err(|limit| {
            self.metrics.limits.count(limit, party);
            Error::Busy
        })
    }

    /// Returns the state of a capability.
    ///
    /// # Panics
    /// When `capabilities::state` lacks it.
    pub(crate) fn state<T: Any + Send + Sync>(&self) -> &Arc<T> {
        self.state.0.get().expect("every state is registered in capabilities::state")
    }
}
