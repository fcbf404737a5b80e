//! The agents that are not to notice an attack, and a prober of `/live`. They run on a thread of their own, so that
//! the attackers do not delay them in this process.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Builder,
    sync::watch,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    Result,
    agent::{Agent, State, WORK},
    load,
    service::KEY,
};

/// The agents: their number, the pause after a call, and the number of calls on a connection. Every other agent
/// keeps its connection.
const AGENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(40);
const CALLS_PER_CONNECTION: [usize; 2] = [WORK.len(), usize::MAX];

/// The time between two probes. They do not wait for one another.
const PROBE: Duration = Duration::from_millis(100);

/// A call without an answer within this time has failed.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// The witnesses at work.
pub(super) struct Witness {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Result<Observed>>,
}

/// A call or a probe: when it began, and how long it took.
type Timed = (Instant, Duration);

/// What the witnesses have seen.
#[derive(Debug, Default)]
pub(super) struct Observed {
    calls: Vec<Timed>,
    probes: Vec<Timed>,
    /// The calls that failed, each with the reason. A probe without an answer is only a long one.
    pub(super) failures: Vec<String>,
}

/// The times of calls and probes, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) calls: Vec<f64>,
    pub(super) probes: Vec<f64>,
}

/// What a witness reports.
enum Seen {
    Call(Timed),
    Probe(Timed),
    Failure(String),
}

impl Witness {
    pub(super) fn start(port: u16) -> Result<Witness> {
        let (stop, stopped) = watch::channel(false);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || runtime.block_on(observe(port, &stopped)));
        Ok(Witness { stop, thread })
    }

    /// Ends the work, waits for the calls that have begun, and returns what was seen.
    pub(super) async fn stop(self) -> Result<Observed> {
        self.stop.send_replace(true);
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        joined.map_err(|_| "a witness has panicked")?
    }
}

async fn observe(port: u16, stopped: &watch::Receiver<bool>) -> Result<Observed> {
    let (report, reports) = mpsc::channel();
    let report = Arc::new(report);
    let mut witnesses = JoinSet::new();
    for n in 0..AGENTS {
        let agent = Agent {
            name: format!("agent-{n}"),
            key: KEY,
            port,
            round: &WORK,
            calls_per_connection: CALLS_PER_CONNECTION[n % 2],
            patience: None,
            state: State::default(),
        };
        witnesses.spawn(work(agent, stopped.clone(), report.clone()));
    }
    witnesses.spawn(probe(port, stopped.clone(), report));
    while let Some(ended) = witnesses.join_next().await {
        ended?;
    }
    let mut observed = Observed::default();
    for seen in reports {
        match seen {
            Seen::Call(call) => observed.calls.push(call),
            Seen::Probe(probe) => observed.probes.push(probe),
            Seen::Failure(reason) => observed.failures.push(reason),
        }
    }
    Ok(observed)
}

async fn work(mut agent: Agent, stopped: watch::Receiver<bool>, report: Arc<mpsc::Sender<Seen>>) {
    while !*stopped.borrow() {
        let from = Instant::now();
        let problem = match timeout(CALL_LIMIT, agent.call()).await {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem.to_string()),
            Err(_) => Some(format!("{} got no answer within {CALL_LIMIT:?}", agent.name)),
        };
        let _ = report.send(Seen::Call((from, from.elapsed())));
        if let Some(problem) = problem {
            let _ = report.send(Seen::Failure(problem));
        }
        sleep(PAUSE).await;
    }
}

async fn probe(port: u16, stopped: watch::Receiver<bool>, report: Arc<mpsc::Sender<Seen>>) {
    let mut pace = interval(PROBE);
    let mut probes = JoinSet::new();
    while !*stopped.borrow() {
        pace.tick().await;
        let report = report.clone();
        probes.spawn(async move {
            let from = Instant::now();
            let answered = timeout(CALL_LIMIT, load::is_answered(port, "/live")).await;
            // A refused connection is as bad as no answer.
            let took = if answered == Ok(true) { from.elapsed() } else { CALL_LIMIT };
            let _ = report.send(Seen::Probe((from, took)));
        });
    }
    while probes.join_next().await.is_some() {}
}

impl Observed {
    /// Returns what began and ended within a time.
    pub(super) fn between(&self, from: Instant, until: Instant) -> Times {
        self.times(|(began, took)| began >= from && began + took <= until)
    }

    /// Returns what began at a time or later.
    pub(super) fn since(&self, from: Instant) -> Times {
        self.times(|(began, _)| began >= from)
    }

    fn times(&self, belongs: impl Fn(Timed) -> bool) -> Times {
        let of = |all: &[Timed]| {
            let taken = all.iter().filter(|it| belongs(**it));
            taken.map(|(_, took)| 1000.0 * took.as_secs_f64()).collect()
        };
        Times { calls: of(&self.calls), probes: of(&self.probes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_lasts_into_the_attack_is_not_one_of_the_quiet_service() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let took = Duration::from_millis(10);
        let calls = vec![(at(0), took), (at(95), took), (at(100), took)];
        let observed = Observed { calls, ..Observed::default() };
        assert_eq!(observed.between(at(0), at(100)).calls, [10.0]);
        assert_eq!(observed.since(at(100)).calls, [10.0]);
    }
}
