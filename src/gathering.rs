//! Gathering: calls of one transition that arrive while others of it are under way go to the database
//! together, as one call that runs the transition's function once for each.
//!
//! The invariant: a request gets the answer that it would have got alone. A lone request is never delayed.
//! A gathered call that fails had no effect, and each of its requests then runs alone.
use std::{
    collections::VecDeque,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::postgres::types::PgInterval;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    Error, Result,
    capabilities::Gatherers,
    db::{Database, Db},
};

/// The most requests in one call. More would keep the first ones waiting for the last ones' work.
const MOST_GATHERED: usize = 64;

/// A call that takes longer than this, because it waits for a row, lets others begin.
const LANE_TIME: Duration = Duration::from_millis(20);

/// A transition that the database can run for several requests in one call.
pub(crate) trait Transition: fmt::Debug + Send + Sync + Sized + 'static {
    /// What the function returns.
    type Row: fmt::Debug + Send + 'static;

    /// Runs the function for one request.
    fn run(&self, db: &mut Db) -> impl Future<Output = Result<Self::Row>> + Send;

    /// Runs the function once for each request, in this order, in one statement.
    fn run_all(
        requests: &[Arc<Self>],
        db: &mut Db,
    ) -> impl Future<Output = Result<Vec<Self::Row>>> + Send;

    /// The gatherer of this transition.
    fn gatherer(all: &Gatherers) -> &Arc<Gatherer<Self>>;

    /// What the function locks. Gathered calls lock in the order of it, so that two of them cannot wait for
    /// each other.
    fn locks(&self) -> String;
}

/// Whom a transition acts for: the workspace and the columns of the database's type `request`.
#[derive(Clone, Debug)]
pub(crate) struct Acting {
    pub(crate) workspace: String,
    pub(crate) request_id: String,
    pub(crate) agent_id: String,
    pub(crate) agent_type: String,
    pub(crate) session_id: Option<String>,
    pub(crate) started: Instant,
    pub(crate) silence: PgInterval,
}

impl Acting {
    /// Milliseconds since the request came in.
    pub(crate) fn elapsed_ms(&self) -> f64 {
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}

/// One column of a gathered call: a value from each of its requests.
pub(crate) fn column<'a, T, V>(requests: &'a [Arc<T>], value: impl Fn(&'a T) -> V) -> Vec<V> {
    requests.iter().map(|it| value(it)).collect()
}

/// The requests for one transition in this process.
#[derive(Debug)]
pub(crate) struct Gatherer<T: Transition> {
    queue: Mutex<VecDeque<Entry<T>>>,
    /// How many calls may be under way before requests are gathered.
    lanes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entry<T: Transition> {
    request: Arc<T>,
    answer: oneshot::Sender<Answer<T::Row>>,
}

/// What a gathered call did for one of its requests.
#[derive(Debug)]
enum Answer<R> {
    Done(R),
    /// The call had no effect; the request runs alone.
    Alone,
    /// Whether the call had an effect is not known.
    Failed(Error),
}

impl<T: Transition> Gatherer<T> {
    /// With `lanes` calls that may be under way at once; none switches gathering off.
    pub(crate) fn new(lanes: usize) -> Self {
        Self { queue: Mutex::default(), lanes: Arc::new(Semaphore::new(lanes)) }
    }
}

/// Runs a transition, together with others like it where the lanes are taken.
pub(crate) async fn run<T: Transition>(
    gatherer: &Arc<Gatherer<T>>,
    database: &Arc<Database>,
    request: T,
) -> Result<T::Row> {
    if let Ok(lane) = gatherer.lanes.clone().try_acquire_owned() {
        return within_lane(lane, run_alone(database, &request)).await;
    }
    let (answer, answered) = oneshot::channel();
    let request = Arc::new(request);
    gatherer.queue().push_back(Entry { request: request.clone(), answer });
    match gatherer.wait(database, &request, answered).await {
        Ok(Answer::Done(row)) => Ok(row),
        Ok(Answer::Alone) => run_alone(database, &*request).await,
        Ok(Answer::Failed(error)) => Err(error),
        Err(lost) => Err(Error::Unavailable(lost.into())),
    }
}

async fn run_alone<T: Transition>(database: &Arc<Database>, request: &T) -> Result<T::Row> {
    let mut db = database.lazily();
    let row = request.run(&mut db).await?;
    db.done().await?;
    Ok(row)
}

/// Gives the lane back when the work is done, or earlier when it takes long.
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
    /// Waits until a call has answered the request; whichever request gets a lane begins the next call.
    async fn wait(
        &self,
        database: &Arc<Database>,
        request: &Arc<T>,
        answered: oneshot::Receiver<Answer<T::Row>>,
    ) -> Result<Answer<T::Row>, oneshot::error::RecvError> {
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
        self.queue().iter().any(|it| Arc::ptr_eq(&it.request, request))
    }

    /// Takes what waits and runs it as one call, apart from the request that happened to get the lane: its
    /// client may hang up, and the others must not lose their answers by that.
    fn begin_call(&self, database: &Arc<Database>, lane: OwnedSemaphorePermit) {
        let mut entries: Vec<_> = {
            let mut queue = self.queue();
            let count = queue.len().min(MOST_GATHERED);
            queue.drain(..count).filter(|it| !it.answer.is_closed()).collect()
        };
        if entries.is_empty() {
            return;
        }
        // Requests that lock the same thing stay in the order of their arrival.
        entries.sort_by_cached_key(|it| it.request.locks());
        let database = database.clone();
        #[expect(clippy::disallowed_methods, reason = "a call serves several requests")]
        tokio::spawn(async move { within_lane(lane, call(&database, entries)).await });
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Entry<T>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn call<T: Transition>(database: &Arc<Database>, entries: Vec<Entry<T>>) {
    let requests: Vec<_> = entries.iter().map(|it| it.request.clone()).collect();
    let called = async {
        let mut db = database.lazily();
        let rows = T::run_all(&requests, &mut db).await?;
        db.done().await?;
        Ok::<_, Error>(rows)
    };
    let entries = entries.into_iter();
    match called.await {
        Ok(rows) => {
            // A client that has hung up does not hear its answer, as without gathering.
            for (entry, row) in entries.zip(rows) {
                let _ = entry.answer.send(Answer::Done(row));
            }
        }
        Err(error) if error.is_of_statement() => {
            tracing::debug!(%error, "a gathered call failed; its requests run alone");
            entries.for_each(|it| drop(it.answer.send(Answer::Alone)));
        }
        Err(error) => {
            let text = format!("a gathered call failed: {error:?}");
            entries.for_each(|it| {
                drop(it.answer.send(Answer::Failed(Error::Unavailable(text.clone().into()))));
            });
        }
    }
}
