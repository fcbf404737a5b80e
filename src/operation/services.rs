//! What all requests of a process share.
use std::{any::Any, sync::Arc};

use axum::body::Bytes;
use http::Extensions;

use super::{
    byte_budget::{ByteBudget, HeldBytes},
    heartbeat::Heartbeats,
    limits::{Limit, Party},
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
    bytes: Arc<ByteBudget>,
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
            bytes: ByteBudget::new(config.byte_limits),
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

    /// Counts the bytes of a body that arrives, until the returned value is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyBytes`] where the process, or the key, holds too many.
    pub(crate) fn hold_body(&self, party: Party<'_>, bytes: usize) -> Result<HeldBytes> {
        let held = self.bytes.hold(party.key.map(|key| key.number), bytes);
        held.map_err(|limit| self.too_many_bytes(limit, party))
    }

    /// Counts the bytes of an answer until they are written. One that reports an effect is always sent.
    ///
    /// # Errors
    /// As [`Services::hold_body`].
    pub(crate) fn hold_answer(
        &self,
        party: Party<'_>,
        answer: impl Into<Bytes>,
        has_effect: bool,
    ) -> Result<Bytes> {
        let (key, answer) = (party.key.map(|key| key.number), answer.into());
        let held = match has_effect {
            true => Ok(self.bytes.count(key, answer.len())),
            false => self.bytes.hold(key, answer.len()),
        };
        let held = held.map_err(|limit| self.too_many_bytes(limit, party))?;
        Ok(held.with(answer))
    }

    fn too_many_bytes(&self, limit: Limit, party: Party<'_>) -> Error {
        self.metrics.limits.count(limit, party);
        Error::TooManyBytes(match limit {
            Limit::BytesOfKey => "API_MAX_BYTES_IN_FLIGHT_PER_KEY",
            _ => "API_MAX_BYTES_IN_FLIGHT",
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
