//! Counters of the process since its start, in the text format of Prometheus. By hand: two hundred lines
//! without a dependency, and the labels are those of the operations.
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::limits::Limits;
use crate::values::lock;

/// Upper bounds of the buckets of request times, in seconds. They reach from a request that does not use
/// the database to one that waits. A time limit falls just above a bound: 3 s for a connection, 10 s for a
/// statement, 30 s for a request that does not wait.
const BOUNDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Counters of one process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    times: Mutex<BTreeMap<&'static str, Times>>,
    unknown_keys: AtomicU64,
    /// How often clients have reached limits.
    pub(crate) limits: Arc<Limits>,
    /// Requests in flight.
    pub(crate) in_flight: Gauge,
    /// HTTP connections of clients.
    pub(crate) connections: Gauge,
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Counts one more, until the returned value is dropped.
    pub(crate) fn enter(&self) -> Present {
        self.0.fetch_add(1, Ordering::Relaxed);
        Present(self.0.clone())
    }

    /// Returns the number.
    pub(crate) fn level(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A unit that a [`Gauge`] counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Present(Arc<AtomicU64>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Levels that other parts of the service know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    /// Open connections to the database, and how many of them are idle.
    pub(crate) database: (u32, usize),
    pub(crate) pool_max: u32,
    pub(crate) max_connections: usize,
    /// Requests that wait for a lock or a task.
    pub(crate) waiting: usize,
}

#[derive(Debug, Default)]
struct Times {
    buckets: [u64; BOUNDS.len()],
    seconds: f64,
    count: u64,
}

impl Metrics {
    /// Counts the answer to a request of an operation or a page.
    pub(crate) fn count_answer(&self, operation: &'static str, status: u16, time: Duration) {
        let mut requests = lock(&self.requests);
        *requests.entry((operation, status)).or_default() += 1;
        drop(requests);
        let seconds = time.as_secs_f64();
        let mut times = lock(&self.times);
        let times = times.entry(operation).or_default();
        for (bucket, bound) in times.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        times.seconds += seconds;
        times.count += 1;
    }

    /// Counts a request with an unknown key, or one without a key that was denied.
    pub(crate) fn count_unknown_key(&self) {
        self.unknown_keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the text of `/metrics`.
    pub(crate) fn text(&self, version: &str, levels: Levels) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: String| {
            write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}")
                .expect("a String takes any text");
        };
        let sample = format!("coordinator_build_info{{version=\"{version}\"}} 1\n");
        family("coordinator_build_info", "gauge", "The running version.", sample);
        let requests = lock(&self.requests);
        let samples = requests.iter().map(|((operation, status), n)| {
            let labels = format!("operation=\"{operation}\",status=\"{status}\"");
            format!("coordinator_requests_total{{{labels}}} {n}\n")
        });
        let help = "Answered requests by operation and status.";
        family("coordinator_requests_total", "counter", help, samples.collect());
        let times = lock(&self.times);
        let samples = times.iter().map(|(operation, times)| times.samples(operation));
        let help = "Time to answer, in seconds, by operation.";
        family("coordinator_request_seconds", "histogram", help, samples.collect());
        let refused = self.unknown_keys.load(Ordering::Relaxed);
        let help = "Requests with an unknown API key, and denied ones without a key.";
        let sample = format!("coordinator_unknown_keys_total {refused}\n");
        family("coordinator_unknown_keys_total", "counter", help, sample);
        let help = "How often clients have reached a limit.";
        family("coordinator_limits_reached_total", "counter", help, self.limits.samples());
        let mut level = |name: &str, help: &str, value: u64| {
            family(name, "gauge", help, format!("{name} {value}\n"));
        };
        let help = "Requests that are being answered, this one included.";
        level("coordinator_requests_in_flight", help, self.in_flight.level());
        let help = "Requests that wait for a lock or a task.";
        level("coordinator_waiting_requests", help, levels.waiting as u64);
        let help = "Open connections of clients.";
        level("coordinator_connections", help, self.connections.level());
        let help = "Most connections of clients at once.";
        level("coordinator_connections_max", help, levels.max_connections as u64);
        let help = "Most connections to the database at once.";
        level("coordinator_database_connections_max", help, u64::from(levels.pool_max));
        let (open, idle) = levels.database;
        let in_use = u64::from(open).saturating_sub(idle as u64);
        let samples = format!(
            "coordinator_database_connections{{state=\"idle\"}} {idle}\n\
             coordinator_database_connections{{state=\"used\"}} {in_use}\n"
        );
        let help = "Open connections to the database.";
        family("coordinator_database_connections", "gauge", help, samples);
        text
    }
}

impl Times {
    fn samples(&self, operation: &str) -> String {
        let name = "coordinator_request_seconds";
        let mut samples = String::new();
        let mut sample = |suffix: &str, labels: &str, value: &dyn std::fmt::Display| {
            writeln!(samples, "{name}_{suffix}{{operation=\"{operation}\"{labels}}} {value}")
                .expect("a String takes any text");
        };
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            sample("bucket", &format!(",le=\"{bound}\""), bucket);
        }
        sample("bucket", ",le=\"+Inf\"", &self.count);
        sample("sum", "", &self.seconds);
        sample("count", "", &self.count);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_buckets_add_up() {
        let metrics = Metrics::default();
        metrics.count_answer("acquire_lock", 200, Duration::from_millis(4));
        metrics.count_answer("acquire_lock", 200, Duration::from_millis(40));
        metrics.count_answer("acquire_lock", 503, Duration::from_secs(60));
        metrics.count_unknown_key();
        let (_one, two) = (metrics.in_flight.enter(), metrics.in_flight.enter());
        drop(two);
        let levels = Levels { database: (5, 3), pool_max: 10, max_connections: 99, waiting: 4 };
        let text = metrics.text("1.2.3", levels);
        for line in [
            "coordinator_build_info{version=\"1.2.3\"} 1",
            "coordinator_requests_total{operation=\"acquire_lock\",status=\"200\"} 2",
            "coordinator_requests_total{operation=\"acquire_lock\",status=\"503\"} 1",
            "coordinator_request_seconds_bucket{operation=\"acquire_lock\",le=\"0.0025\"} 0",
            "coordinator_request_seconds_bucket{operation=\"acquire_lock\",le=\"0.005\"} 1",
            "coordinator_request_seconds_bucket{operation=\"acquire_lock\",le=\"0.05\"} 2",
            "coordinator_request_seconds_bucket{operation=\"acquire_lock\",le=\"30\"} 2",
            "coordinator_request_seconds_bucket{operation=\"acquire_lock\",le=\"+Inf\"} 3",
            "coordinator_request_seconds_sum{operation=\"acquire_lock\"} 60.044",
            "coordinator_request_seconds_count{operation=\"acquire_lock\"} 3",
            "coordinator_unknown_keys_total 1",
            "coordinator_database_connections{state=\"idle\"} 3",
            "coordinator_database_connections{state=\"used\"} 2",
            "coordinator_database_connections_max 10",
            "coordinator_requests_in_flight 1",
            "coordinator_connections 0",
            "coordinator_connections_max 99",
            "coordinator_waiting_requests 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        let named = text.lines().filter(|it| it.starts_with("# TYPE")).count();
        assert_eq!(named, 11);
    }
}
