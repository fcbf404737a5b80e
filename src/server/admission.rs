//! Which connections are open, and which one is closed for another at the maximum number:
//! `docs/decisions/0020-connections-under-attack.md`.
use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::{AbortHandle, Id, JoinSet};

use crate::operation::Connection;

/// How many connections are accepted beyond the maximum, once there was no room for another one for long enough.
/// They can only ask whether the service is running and its database answers.
const RESERVE: usize = 16;

/// How long there must have been no room for that, as a multiple of the time after which a stalled connection can
/// be closed.
const RESERVE_AFTER: u32 = 10;

/// How many connections are chosen at once to be closed for others. The choice looks at every connection, which
/// would cost too much for each one where thousands come in a second.
const CHOSEN_AT_ONCE: usize = 64;

/// The open connections.
pub(super) struct Admission {
    /// How long a connection must be stalled before it can be closed for another one.
    patience: Duration,
    /// Since when none of the open connections could be closed for another one.
    no_room_since: Option<Instant>,
    open: HashMap<Id, (Arc<Connection>, AbortHandle)>,
    /// The connections to close next for others, and since when they were stalled when they were chosen.
    chosen: VecDeque<(Id, Instant)>,
    /// Dropping the set aborts the requests that are still running.
    tasks: JoinSet<()>,
    level: Arc<Level>,
}

/// How many connections are open.
pub(super) struct Level {
    open: AtomicUsize,
    max: usize,
}

impl Level {
    /// Whether the maximum number of connections is open.
    pub(super) fn is_full(&self) -> bool {
        self.open.load(Ordering::Relaxed) >= self.max
    }

    /// Whether more connections than the maximum are open.
    pub(super) fn is_exceeded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.max
    }
}

impl Admission {
    pub(super) fn new(max: usize, patience: Duration) -> Self {
        let level = Arc::new(Level { open: AtomicUsize::new(0), max });
        let (open, chosen, tasks) = Default::default();
        Self { patience, no_room_since: None, open, chosen, tasks, level }
    }

    /// Returns how many connections are open, as it changes.
    pub(super) fn level(&self) -> Arc<Level> {
        self.level.clone()
    }

    /// Whether another connection can be accepted, if need be for one that is closed, or beyond the maximum.
    pub(super) fn can_accept(&mut self) -> bool {
        if !self.level.is_full() || self.next_to_close().is_some() {
            self.no_room_since = None;
            return true;
        }
        self.no_room_since.get_or_insert_with(Instant::now);
        self.is_reserve_open() && self.open.len() < self.level.max + RESERVE
    }

    /// Whether a connection that is accepted now is one beyond the maximum.
    pub(super) fn is_beyond_max(&self) -> bool {
        self.level.is_full() && self.is_reserve_open()
    }

    fn is_reserve_open(&self) -> bool {
        self.no_room_since.is_some_and(|since| since.elapsed() >= self.patience * RESERVE_AFTER)
    }

    /// Serves a connection.
    pub(super) fn serve(
        &mut self,
        connection: Arc<Connection>,
        serving: impl Future<Output = ()> + Send + 'static,
    ) {
        // Before the task runs, on another thread perhaps: its first answer depends on it.
        self.level.open.store(self.open.len() + 1, Ordering::Relaxed);
        let handle = self.tasks.spawn(serving);
        self.open.insert(handle.id(), (connection, handle));
    }

    /// Closes a connection, if there is no room for another one and one can be closed. Returns the closed one.
    pub(super) fn make_room(&mut self) -> Option<Arc<Connection>> {
        if !self.level.is_full() {
            return None;
        }
        let id = self.next_to_close()?;
        let (connection, handle) = self.open.remove(&id)?;
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

    /// Returns the connections that can be closed for another one, and since when they are stalled.
    fn stalled(&self) -> impl Iterator<Item = (Id, &Connection, Instant)> {
        let now = Instant::now();
        self.open.iter().filter_map(move |(id, (connection, _))| {
            let since = connection.stalled_since()?;
            let is_stalled = now.saturating_duration_since(since) >= self.patience;
            is_stalled.then_some((*id, &**connection, since))
        })
    }

    /// Returns the connection to close next for another one.
    fn next_to_close(&mut self) -> Option<Id> {
        self.forget_revived();
        if self.chosen.is_empty() {
            self.choose();
        }
        self.chosen.front().map(|(id, _)| *id)
    }

    /// Takes those that are not stalled any more from the front of the chosen ones.
    fn forget_revived(&mut self) {
        while let Some((id, since)) = self.chosen.front() {
            let chosen = self.open.get(id);
            if chosen.is_some_and(|(it, _)| it.stalled_since() == Some(*since)) {
                return;
            }
            self.chosen.pop_front();
        }
    }

    /// Chooses the connections to close next: those of clients without a key before those of clients with one, of
    /// these those of the address with the most connections without a key, then those that have been stalled
    /// longest.
    fn choose(&mut self) {
        let mut without_key = HashMap::<IpAddr, usize>::new();
        for (connection, _) in self.open.values().filter(|(it, _)| it.key_number().is_none()) {
            *without_key.entry(connection.network()).or_default() += 1;
        }
        let order = |connection: &Connection, since: Instant| match connection.key_number() {
            None => (false, Reverse(without_key.get(&connection.network()).copied()), since),
            Some(_) => (true, Reverse(None), since),
        };
        let stalled = self.stalled().map(|(id, connection, since)| (order(connection, since), id));
        let mut stalled: Vec<_> = stalled.collect();
        if stalled.len() > CHOSEN_AT_ONCE {
            stalled.select_nth_unstable_by_key(CHOSEN_AT_ONCE, |(order, _)| *order);
            stalled.truncate(CHOSEN_AT_ONCE);
        }
        stalled.sort_unstable_by_key(|(order, _)| *order);
        self.chosen = stalled.into_iter().map(|((_, _, since), id)| (id, since)).collect();
    }

    fn note_level(&self) {
        self.level.open.store(self.open.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn open(admission: &mut Admission, address: &str, key: Option<usize>) -> Arc<Connection> {
        let address = address.parse().expect("an address");
        let connection = Arc::new(Connection::new(address, admission.is_beyond_max()));
        connection.note_key(key);
        connection.stall();
        admission.serve(connection.clone(), pending());
        connection
    }

    #[tokio::test]
    async fn the_address_with_the_most_connections_without_a_key_loses_the_oldest_of_them() {
        let mut admission = Admission::new(5, Duration::ZERO);
        let with_key = open(&mut admission, "192.0.2.1", Some(0));
        let other = open(&mut admission, "192.0.2.2", None);
        let first = open(&mut admission, "192.0.2.1", None);
        let in_work = open(&mut admission, "192.0.2.1", None);
        in_work.begin_work();
        let second = open(&mut admission, "192.0.2.1", None);
        for expected in [&first, &second, &other, &with_key] {
            let closed = admission.make_room().expect("one is closed");
            assert!(Arc::ptr_eq(&closed, expected), "{closed:?} instead of {expected:?}");
            open(&mut admission, "192.0.2.1", Some(0)).begin_work();
        }
        assert!(admission.make_room().is_none());
    }

    #[tokio::test]
    async fn beyond_the_maximum_there_is_a_reserve() {
        let mut admission = Admission::new(2, Duration::ZERO);
        let beyond: Vec<_> = (0..2 + RESERVE)
            .map(|_| {
                assert!(admission.can_accept() && admission.make_room().is_none());
                let connection = open(&mut admission, "192.0.2.1", None);
                connection.begin_work();
                connection.is_beyond_max
            })
            .collect();
        assert_eq!(beyond.iter().filter(|it| **it).count(), RESERVE);
        assert!(!admission.can_accept());
        assert!(admission.level.is_exceeded());
    }
}
