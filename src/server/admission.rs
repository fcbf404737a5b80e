//! Which connections are open, and which one is closed for another at the maximum number:
//! `docs/decisions/0020-connections-under-attack.md`.
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{AbortHandle, Id, JoinSet};

use crate::operation::Connection;

/// The open connections.
pub(super) struct Admission {
    max: usize,
    /// How long a connection must be stalled before it can be closed for another one.
    patience: Duration,
    open: HashMap<Id, (Arc<Connection>, AbortHandle)>,
    /// Dropping the set aborts the requests that are still running.
    tasks: JoinSet<()>,
    is_full: Arc<AtomicBool>,
}

impl Admission {
    pub(super) fn new(max: usize, patience: Duration) -> Self {
        let (open, tasks, is_full) = Default::default();
        Self { max, patience, open, tasks, is_full }
    }

    /// Returns whether the maximum number of connections is open, as it changes.
    pub(super) fn is_full(&self) -> Arc<AtomicBool> {
        self.is_full.clone()
    }

    /// Whether another connection can be accepted, if need be for one that is closed.
    pub(super) fn can_accept(&self) -> bool {
        self.open.len() < self.max || self.most_stalled().is_some()
    }

    /// Serves a connection.
    pub(super) fn serve(
        &mut self,
        connection: Arc<Connection>,
        serving: impl Future<Output = ()> + Send + 'static,
    ) {
        // Before the task runs, on another thread perhaps: its first answer depends on it.
        self.is_full.store(self.open.len() + 1 >= self.max, Ordering::Relaxed);
        let handle = self.tasks.spawn(serving);
        self.open.insert(handle.id(), (connection, handle));
    }

    /// Closes the connection that has been stalled longest, if there is no room for another one. Returns
    /// the closed connection.
    pub(super) fn make_room(&mut self) -> Option<Arc<Connection>> {
        if self.open.len() < self.max {
            return None;
        }
        let (connection, handle) = self.open.remove(&self.most_stalled()?)?;
        handle.abort();
        self.note_level();
        Some(connection)
    }

    /// Waits until a connection ends. Returns `None` if none is left.
    pub(super) async fn end_of_one(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        self.note_level();
        Some(())
    }

    /// Returns the connection to close for another one: that of a client without a key before that of a
    /// client with one, then the one that has been stalled longest.
    fn most_stalled(&self) -> Option<Id> {
        let now = Instant::now();
        let stalled = self.open.iter().filter_map(|(id, (connection, _))| {
            let since = connection.stalled_since()?;
            let is_stalled = now.saturating_duration_since(since) >= self.patience;
            is_stalled.then(|| ((connection.key_number().is_some(), since), *id))
        });
        stalled.min_by_key(|(order, _)| *order).map(|(_, id)| id)
    }

    fn note_level(&self) {
        self.is_full.store(self.open.len() >= self.max, Ordering::Relaxed);
    }
}
