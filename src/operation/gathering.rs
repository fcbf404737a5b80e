//! Gathering: requests for one transition that arrive while others are in flight go to the database
//! together, in one call that runs the function of the transition once for each.
//!
//! Invariant: a request gets the answer that it would have got alone. A single request is never delayed.
//! A gathered call that fails had no effect, and each of its requests then runs alone.
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    database::{Consumer, Database, Db},
    values::{Error, Result, lock},
};

/// The maximum number of requests in one call. A larger call would delay its first requests.
const MAX_GATHERED: usize = 64;

/// A call that takes longer than this, because it waits for a row, gives its lane to another one.
const LANE_TIME: Duration = Duration::from_millis(20);

/// A transition that the database can run for several requests in one call.
pub(crate) trait Transition: fmt::Debug + Send + Sync + Sized + 'static {
    /// What the function returns.
    type Row: fmt::Debug + Send + 'static;

    /// Runs the function for one request.
    fn call(&self, db: &mut Db) -> impl Future<Output = Result<Self::Row>> + Send;

    /// Runs the function once for each request, in this order, in one statement.
    fn call_all(
        requests: &[Arc<Self>],
        db: &mut Db,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// Returns the workspace of the request.
    fn workspace(&self) -> &str;

    /// Returns a name for the rows that the function locks. Gathered calls lock in the order of these
    /// names, so that two calls cannot deadlock.
    fn lock_order(&self) -> String;
}

/// Returns one column of a gathered call: a value from each of its requests.
pub(crate) fn column<'a, T, V>(requests: &'a [Arc<T>], value: impl Fn(&'a T) -> V) -> Vec<V> {
    requests.iter().map(|request| value(request)).collect()
}

/// The requests for one transition in this process.
#[derive(Debug)]
pub(crate) struct Gatherer<T: Transition> {
    queue: Mutex<VecDeque<Entry<T>>>,
    /// How many calls can be in flight before requests are gathered.
    lanes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entry<T: Transition> {
    request: Arc<T>,
    answer: oneshot::Sender<CallResult<T::Row>>,
}

/// What a gathered call did for one of its requests.
#[derive(Debug)]
enum CallResult<R> {
    Done(R),
    /// The call had no effect. The request runs alone.
    Alone,
    /// Whether the call had an effect is not known.
    Failed(Error),
}

impl<T: Transition> Gatherer<T> {
    /// Creates a gatherer with `lanes` calls that can be in flight at once. Without lanes nothing is gathered.
    pub(crate) fn new(lanes: usize) -> Self {
        Self { queue: Mutex::default(), lanes: Arc::new(Semaphore::new(lanes)) }
    }
}

/// Runs a transition, together with others like it where no lane is free.
pub(super) async fn gather<T: Transition>(
    gatherer: &Arc<Gatherer<T>>,
    database: &Arc<Database>,
    request: T,
) -> Result<T::Row> {
    if let Ok(lane) = gatherer.lanes.clone().try_acquire_owned() {
        return within_lane(lane, call_alone(database, &request)).await;
    }
    let (answer, answered) = oneshot::channel();
    let request = Arc::new(request);
    gatherer.queue().push_back(Entry { request: request.clone(), answer });
    match gatherer.wait(database, &request, answered).await {
        Ok(CallResult::Done(row)) => Ok(row),
        Ok(CallResult::Alone) => call_alone(database, &*request).await,
        Ok(CallResult::Failed(error)) => Err(error),
        Err(lost) => Err(Error::Unavailable(lost.into())),
    }
}

async fn call_alone<T: Transition>(database: &Arc<Database>, request: &T) -> Result<T::Row> {
    let mut db = database.connect_lazily(Consumer::workspace(request.workspace()));
    let called = request.call(&mut db).await;
    if called.as_ref().is_err_and(Error::is_session_lost) {
        // The database has only refused the statement, so the connection can be used again.
        db.release();
        return called;
    }
    let row = called?;
    db.commit_and_release().await?;
    Ok(row)
}

/// Does the work, and gives its lane back at the end, or earlier when the work takes long.
async fn within_lane<R>(lane: OwnedSemaphorePermit, work: impl Future<Output = R>) -> R {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(LANE_TIME) => drop(lane),
    }
    work.await
}

impl<T: Transition> Gatherer<T> {
    /// Waits until a call has answered the request. The request that gets a free lane begins the next call.
    async fn wait(
        &self,
        database: &Arc<Database>,
        request: &Arc<T>,
        answered: oneshot::Receiver<CallResult<T::Row>>,
    ) -> Result<CallResult<T::Row>, oneshot::error::RecvError> {
        let mut answered = pin!(answered);
        while self.is_queued(request) {
            tokio::select! {
                biased;
                answer = &mut answered => return answer,
                lane = self.lanes.clone().acquire_owned() => {
                    if let Ok(lane) = lane {
                        self.begin_call(database, lane);
                    }
                }
            }
        }
        answered.await
    }

    fn is_queued(&self, request: &Arc<T>) -> bool {
        self.queue().iter().any(|entry| Arc::ptr_eq(&entry.request, request))
    }

    /// Runs the waiting requests as one call, in a task of its own: the client of the request that got the
    /// lane can disconnect, and the other requests must not lose their answers because of that.
    fn begin_call(&self, database: &Arc<Database>, lane: OwnedSemaphorePermit) {
        let mut entries: Vec<_> = {
            let mut queue = self.queue();
            queue.retain(|entry| !entry.answer.is_closed());
            take_in_turns(&mut queue, |entry| entry.request.workspace())
        };
        if entries.is_empty() {
            return;
        }
        // The sort is stable: requests that lock the same row stay in the order of their arrival.
        entries.sort_by_cached_key(|entry| entry.request.lock_order());
        let database = database.clone();
        #[expect(clippy::disallowed_methods, reason = "a call serves several requests")]
        tokio::spawn(async move { within_lane(lane, call(&database, entries)).await });
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Entry<T>>> {
        lock(&self.queue)
    }
}

/// Takes up to `MAX_GATHERED` entries: the first ones, or where more wait, one of each workspace in turn.
fn take_in_turns<E>(queue: &mut VecDeque<E>, workspace: impl Fn(&E) -> &str) -> Vec<E> {
    if queue.len() > MAX_GATHERED {
        let mut taken = HashMap::<String, usize>::new();
        // The sort is stable: the entries of one workspace stay in their order.
        queue.make_contiguous().sort_by_cached_key(|entry| {
            let turn = taken.entry(workspace(entry).to_owned()).or_default();
            *turn += 1;
            *turn
        });
    }
    queue.drain(..queue.len().min(MAX_GATHERED)).collect()
}

/// Returns for whom the connection of a gathered call is used: `docs/decisions/0022-shares-of-the-pool.md`.
fn consumer<T: Transition>(requests: &[Arc<T>]) -> Consumer {
    let first = requests.first().map_or("", |request| request.workspace());
    match requests.iter().all(|request| request.workspace() == first) {
        true => Consumer::workspace(first),
        false => Consumer::Gathered,
    }
}

async fn call<T: Transition>(database: &Arc<Database>, entries: Vec<Entry<T>>) {
    let requests: Vec<_> = entries.iter().map(|entry| entry.request.clone()).collect();
    let called = async {
        let mut db = database.connect_lazily(consumer(&requests));
        let rows = T::call_all(&requests, &mut db).await?;
        db.commit_and_release().await?;
        Ok::<_, Error>(rows)
    };
    let entries = entries.into_iter();
    match called.await {
        Ok(rows) => {
            // A client that has disconnected gets no answer, as without gathering.
            for (entry, row) in entries.zip(rows) {
                let _ = entry.answer.send(CallResult::Done(row));
            }
        }
        Err(error) if error.is_statement_error() => {
            tracing::debug!(%error, "a gathered call failed; its requests run alone");
            entries.for_each(|entry| drop(entry.answer.send(CallResult::Alone)));
        }
        Err(error) => {
            let text = format!("a gathered call failed: {error:?}");
            entries.for_each(|entry| {
                drop(
                    entry.answer.send(CallResult::Failed(Error::Unavailable(text.clone().into()))),
                );
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_with_many_requests_leaves_room_for_the_others() {
        let mut queue: VecDeque<_> = (0..200).map(|n| ("a", n)).collect();
        queue.extend([("b", 0), ("b", 1), ("c", 0)]);
        let taken = take_in_turns(&mut queue, |(workspace, _)| workspace);
        let of = |name| taken.iter().filter(|(it, _)| *it == name).map(|(_, n)| *n).collect();
        let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) = (of("a"), of("b"), of("c"));
        assert_eq!((a, b, c), ((0..61).collect(), vec![0, 1], vec![0]));
        let left: Vec<_> = queue.into();
        assert_eq!(left, (61..200).map(|n| ("a", n)).collect::<Vec<_>>());
    }

    #[test]
    fn few_requests_stay_in_the_order_of_arrival() {
        let mut queue: VecDeque<_> = [("b", 0), ("b", 1), ("a", 0)].into();
        let taken = take_in_turns(&mut queue, |(workspace, _)| workspace);
        assert_eq!(taken, [("b", 0), ("b", 1), ("a", 0)]);
        assert!(queue.is_empty());
    }
}
