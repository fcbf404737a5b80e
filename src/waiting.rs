//! Requests that wait for something to become free, instead of being refused at once.
//!
//! The invariant: nobody holds a connection of the pool while waiting. One of the requests that wait
//! in this process looks for all of them, a few times a second; when it ends, the next one goes on.
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex as Turn, Notify, watch};
use uuid::Uuid;

use crate::{App, Config, Result, auth::Caller, db::Db};

/// Time from one look to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// After this time a request tries anew, whatever the looks have found: what they do not see, such
/// as patterns that changed, delays it no longer.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// What a look for all who wait in one workspace for one kind of thing finds: the places of those
/// who should try again now.
pub(crate) type Look =
    for<'a> fn(&'a mut Db, &'a Config, &'a [Arc<Ticket>]) -> BoxFuture<'a, Result<Vec<Uuid>>>;

/// What a request waits for.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Identifies the request among all that wait.
    pub(crate) place: Uuid,
    /// The order of arrival in this process, the same for every attempt of the request.
    pub(crate) number: u64,
    pub(crate) caller: Caller,
    /// The kinds of work it takes, when it waits for work.
    pub(crate) task_types: Option<Vec<String>>,
    /// Tells the kinds of tickets apart.
    pub(crate) kind: &'static str,
    pub(crate) look: Look,
}

/// What a request that may wait carries through its attempts.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    place: OnceLock<Uuid>,
    number: OnceLock<u64>,
    ticket: Mutex<Option<Ticket>>,
    granted_ms: Arc<AtomicU64>,
}

impl Patience {
    /// With the time that waiting adds to the request's own limit.
    pub(crate) fn new(granted: &Granted) -> Self {
        Self { granted_ms: granted.0.clone(), ..Self::default() }
    }

    /// The same for every attempt of the request.
    pub(crate) fn place(&self) -> Uuid {
        *self.place.get_or_init(Uuid::new_v4)
    }

    /// The request's number among all that wait in this process.
    pub(crate) fn number(&self, waiting: &Waiting) -> u64 {
        *self.number.get_or_init(|| waiting.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Has the request wait and try again: what the attempt answers is not sent.
    pub(crate) fn postpone(&self, ticket: Ticket) {
        *lock(&self.ticket) = Some(ticket);
    }

    pub(crate) fn take(&self) -> Option<Ticket> {
        lock(&self.ticket).take()
    }

    /// Lets the request take this much longer than others.
    pub(crate) fn grant(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        self.granted_ms.store(millis, Ordering::Relaxed);
    }
}

/// How much longer than others a request may take, because it asked to wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Granted(Arc<AtomicU64>);

impl Granted {
    /// Resolves when a request that came in at `started` has taken longer than it may.
    pub(crate) async fn over(&self, started: Instant, limit: Duration) {
        loop {
            let end = started + limit + Duration::from_millis(self.0.load(Ordering::Relaxed));
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end.into()).await;
        }
    }
}

/// All requests of this process that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    seats: Mutex<BTreeMap<u64, Seat>>,
    next: AtomicU64,
    /// Whoever holds this looks for all; when the last look began.
    turn: Turn<Option<Instant>>,
    stopped: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
struct Seat {
    ticket: Arc<Ticket>,
    called: Arc<Notify>,
}

/// Gives the seat back, however the wait ends.
struct Seated<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        lock(&self.waiting.seats).remove(&self.number);
    }
}

impl Waiting {
    /// Ends every wait at once, and those that would begin later.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// How many requests wait.
    pub(crate) fn count(&self) -> usize {
        lock(&self.seats).len()
    }

    /// Returns when the request should try again, at `until` at the latest.
    pub(crate) async fn wait(&self, app: &App, ticket: Ticket, until: Instant) {
        let called = Arc::new(Notify::new());
        let number = ticket.number;
        let seat = Seat { ticket: Arc::new(ticket), called: called.clone() };
        lock(&self.seats).insert(number, seat);
        let _seated = Seated { waiting: self, number };
        let mut stopped = self.stopped.subscribe();
        let ended = async {
            tokio::select! {
                () = called.notified() => {}
                () = tokio::time::sleep_until(until.min(Instant::now() + LONGEST_SLEEP).into()) => {}
                _ = stopped.wait_for(|it| *it) => {}
            }
        };
        let mut ended = std::pin::pin!(ended);
        loop {
            let mut last = tokio::select! {
                biased;
                () = &mut ended => return,
                last = self.turn.lock() => last,
            };
            // Counted from the last look, whoever made it: those who come and go delay nothing.
            let next = last.map_or_else(Instant::now, |it| it + LOOK_INTERVAL);
            tokio::select! {
                biased;
                () = &mut ended => return,
                () = tokio::time::sleep_until(next.into()) => {}
            }
            *last = Some(Instant::now());
            // Not cut off when this request's own wait ends: the others wait for it.
            if let Err(error) = self.look(app).await {
                // Each request finds out for itself when it tries again.
                tracing::debug!(%error, "looking for those who wait failed");
            }
        }
    }

    /// Looks once for each workspace and kind of ticket, and calls those who should try again.
    async fn look(&self, app: &App) -> Result<()> {
        let seats: Vec<_> = lock(&self.seats).values().cloned().collect();
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for seat in &seats {
            let Ticket { kind, caller, .. } = &*seat.ticket;
            groups.entry((*kind, &caller.workspace)).or_default().push(seat.ticket.clone());
        }
        for tickets in groups.into_values() {
            let mut db = app.db.acquire().await?;
            let places = (tickets[0].look)(&mut db, &app.config, &tickets).await?;
            db.done().await?;
            for seat in seats.iter().filter(|it| places.contains(&it.ticket.place)) {
                seat.called.notify_one();
            }
        }
        Ok(())
    }
}

/// What is behind these locks is whole after every step, so that a panic elsewhere does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
