//! Requests that wait for something to become free instead of being refused at once:
//! `docs/decisions/0011-waiting-by-polling.md`.
//!
//! Read from top to bottom: a request runs; when its answer is a refusal and there is time left, it becomes
//! a waiter; one of the waiters of the process polls the database for all of them; a waiter that is ready
//! runs its request again.
//!
//! Invariant: no waiter holds a database connection between two polls.
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    time::sleep_until,
};
use uuid::Uuid;

use super::{client_call::find_cancelled, limits::Limit, wait_slots::WaitSlots};
use crate::{
    access::Caller,
    config::Config,
    database::{Consumer, Database, Db},
    values::{Result, lock},
};

/// The time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The maximum time between two runs of a waiting request. Changes that polls do not see, such as new
/// guardrail patterns, delay it no longer than this.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// What one run of a waiting request knows about its wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) waiter_id: Uuid,
    /// Whether there is time left to wait.
    pub(super) can_wait: bool,
    /// Whether the request has left the queue although there was time left.
    pub(super) has_given_up: bool,
    /// Whether the client can cancel the request.
    pub(super) can_be_cancelled: bool,
}

/// A request that can wait.
pub(super) struct WaitingRequest<'a> {
    /// The same for all runs, so that the request keeps its queue position.
    pub(super) waiter_id: Uuid,
    /// The order of arrival in this process.
    pub(super) number: u64,
    pub(super) waiters: &'a Waiters,
    /// The number of its key in the ring.
    pub(super) key: usize,
    pub(super) db: &'a Arc<Database>,
    pub(super) config: &'a Config,
    pub(super) started: Instant,
    pub(super) time_limit: &'a TimeLimit,
    pub(super) input: &'a Value,
    pub(super) poll: Poll,
    pub(super) time_to_wait: Duration,
    /// Whether its client can cancel it.
    pub(super) can_be_cancelled: bool,
}

/// The answer of one run, and what follows it.
pub(super) type RunOutcome<T> = (T, NextStep);

/// What follows a run of a request that can wait.
#[derive(Debug)]
pub(super) enum NextStep {
    /// Its answer is sent.
    Answer,
    /// The request waits for this caller.
    Wait(Caller),
    /// The request runs a last time, without waiting, so that it leaves the queue and its refusal is recorded.
    GiveUp,
}

impl WaitingRequest<'_> {
    /// Runs the request, and again whenever it is ready, until its answer is one to send or the time to
    /// wait is over. Where too many requests wait already, it does not wait. Returns that limit too.
    pub(super) async fn run_until_answered<'a, T>(
        &self,
        run: &(dyn Fn(Wait) -> BoxFuture<'a, Result<RunOutcome<T>>> + Sync),
    ) -> Result<(T, Option<Limit>)> {
        let (mut slot, mut limit) = (None, None);
        let deadline = self.started + self.time_to_wait;
        self.time_limit.extend(self.time_to_wait);
        let mut has_given_up = false;
        loop {
            let has_time = Instant::now() < deadline && !self.waiters.are_stopped();
            let can_wait = has_time && !has_given_up && limit.is_none();
            let Self { waiter_id: id, number, poll, input, can_be_cancelled, .. } = *self;
            let wait = Wait { waiter_id: id, can_wait, has_given_up, can_be_cancelled };
            let (answer, next) = run(wait).await?;
            let caller = match next {
                NextStep::Wait(caller) if can_wait => caller,
                NextStep::GiveUp if can_wait => {
                    has_given_up = true;
                    continue;
                }
                _ => return Ok((answer, limit)),
            };
            if slot.is_none() {
                match self.waiters.slots.take(&self.config.wait_limits, self.key, &caller) {
                    Ok(taken) => slot = Some(taken),
                    Err(reached) => {
                        limit = Some(reached);
                        continue;
                    }
                }
            }
            let input = input.clone();
            let waiter = Waiter { id, number, caller, input, poll, can_be_cancelled };
            self.waiters.wait_until_ready(self.db, self.config, waiter, deadline).await;
        }
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Waiter {
    /// Identifies the request among all waiters of all replicas.
    pub(crate) id: Uuid,
    /// The order of arrival in this process.
    number: u64,
    pub(crate) caller: Caller,
    /// The input of the operation.
    pub(crate) input: Value,
    poll: Poll,
    can_be_cancelled: bool,
}

/// How waiters of one kind are polled for, with one statement for all of them in a workspace.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// Identifies the kind.
    pub(crate) kind: &'static str,
    /// Returns the ids of the waiters that are ready.
    pub(crate) find_ready: FindReady,
}

type FindReady =
    for<'a> fn(&'a mut Db, &'a Config, &'a [Arc<Waiter>]) -> BoxFuture<'a, Result<Vec<Uuid>>>;

/// All waiters of this process.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// By order of arrival, so that the longest waiter comes first.
    waiting: Mutex<BTreeMap<u64, Entry>>,
    slots: WaitSlots,
    next_number: AtomicU64,
    /// Held by the waiter that polls for all. Contains the start of the last poll.
    polling: AsyncMutex<Option<Instant>>,
    stopped: watch::Sender<bool>,
}

#[derive(Clone, Debug)]
struct Entry {
    waiter: Arc<Waiter>,
    ready: Arc<Notify>,
}

impl Waiters {
    pub(super) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns when the waiter is ready, or at its deadline.
    async fn wait_until_ready(
        &self,
        db: &Arc<Database>,
        config: &Config,
        waiter: Waiter,
        deadline: Instant,
    ) {
        let (number, ready) = (waiter.number, Arc::new(Notify::new()));
        let entry = Entry { waiter: Arc::new(waiter), ready: ready.clone() };
        self.waiting().insert(number, entry);
        let _removed_at_the_end = Removal { waiters: self, number };
        let mut stopped = self.stopped.subscribe();
        let mut ended = pin!(async {
            tokio::select! {
                () = ready.notified() => {}
                () = sleep_until(deadline.min(Instant::now() + MAX_SLEEP).into()) => {}
                _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
            }
        });
        loop {
            let mut last_poll = tokio::select! {
                biased;
                () = &mut ended => return,
                last_poll = self.polling.lock() => last_poll,
            };
            // Counted from the last poll by any waiter, so that waiters that come and go delay nothing.
            let next_poll = last_poll.map_or_else(Instant::now, |start| start + POLL_INTERVAL);
            tokio::select! {
                biased;
                () = &mut ended => return,
                () = sleep_until(next_poll.into()) => {}
            }
            *last_poll = Some(Instant::now());
            // Not interrupted when this wait ends: the other waiters depend on the poll.
            if let Err(error) = self.poll(db, config).await {
                // Each waiter gets the same error when its request runs again.
                tracing::debug!(%error, "polling for the waiters failed");
            }
        }
    }

    /// Polls once for each workspace and kind, and wakes the waiters that are ready.
    async fn poll(&self, database: &Arc<Database>, config: &Config) -> Result<()> {
        let entries: Vec<_> = self.waiting().values().cloned().collect();
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for Entry { waiter, .. } in &entries {
            let group = (waiter.poll.kind, &waiter.caller.workspace);
            groups.entry(group).or_default().push(waiter.clone());
        }
        for waiters in groups.into_values() {
            let mut db = database.acquire_connection(Consumer::Service).await?;
            let find_ready = waiters[0].poll.find_ready;
            let mut ready = find_ready(&mut db, config, &waiters).await?;
            // Their next run finds the cancellation.
            let can_be_cancelled = waiters.iter().filter(|waiter| waiter.can_be_cancelled);
            let ids: Vec<_> = can_be_cancelled.map(|waiter| waiter.id).collect();
            if !ids.is_empty() {
                let workspace = &waiters[0].caller.workspace;
                ready.extend(find_cancelled(&mut db, workspace, &ids).await?);
            }
            db.commit_and_release().await?;
            for entry in entries.iter().filter(|entry| ready.contains(&entry.waiter.id)) {
                entry.ready.notify_one();
            }
        }
        Ok(())
    }

    /// Ends every wait, and those that would begin later. Called when the process is asked to stop.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    fn are_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    /// Returns how many requests wait.
    pub(crate) fn count(&self) -> usize {
        self.waiting().len()
    }

    /// A panic while the lock is held leaves the map whole, so poisoning is ignored.
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        lock(&self.waiting)
    }
}

/// Removes a waiter when dropped, however its wait ends.
struct Removal<'a> {
    waiters: &'a Waiters,
    number: u64,
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        self.waiters.waiting().remove(&self.number);
    }
}

/// The time limit of a request, which waiting extends. Clones are the same limit.
#[derive(Clone, Debug)]
pub(crate) struct TimeLimit {
    without_waiting: Instant,
    extension_ms: Arc<AtomicU64>,
}

impl TimeLimit {
    pub(super) fn new(without_waiting: Instant) -> Self {
        Self { without_waiting, extension_ms: Arc::default() }
    }

    fn extend(&self, time_to_wait: Duration) {
        let millis = u64::try_from(time_to_wait.as_millis()).unwrap_or(u64::MAX);
        self.extension_ms.store(millis, Ordering::Relaxed);
    }

    /// Resolves when the request has taken too long.
    pub(crate) async fn exceeded(&self) {
        loop {
            let extension = Duration::from_millis(self.extension_ms.load(Ordering::Relaxed));
            let end = self.without_waiting + extension;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end.into()).await;
        }
    }
}
