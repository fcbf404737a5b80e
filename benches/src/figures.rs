//! The figures of one measurement, and medians of several.

use std::time::Duration;

use crate::Result;

/// The part of a measurement that is left out: connections are made, caches filled, plans chosen.
const WARM: f64 = 0.2;

/// What was measured, one entry a round: a request, or two that belong together.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<(Duration, Duration)>);

impl Rounds {
    /// Notes when a round ended, on any clock, and how long it took.
    pub(crate) fn push(&mut self, ended: Duration, took: Duration) {
        self.0.push((ended, took));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// Figures of one measurement, or medians of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Rounds a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time a round: of PostgreSQL, of the service, of the program that asks.
    pub(crate) database_ms: f64,
    pub(crate) service_ms: f64,
    pub(crate) asking_ms: f64,
    /// Resident memory of the service at the end, in megabytes.
    pub(crate) memory_mb: f64,
}

impl Figures {
    /// Rate and latencies of the rounds that ended after the warm-up.
    pub(crate) fn of(rounds: &Rounds, length: Duration) -> Result<Figures> {
        let last = rounds.0.iter().map(|it| it.0).max().ok_or("no round has ended")?;
        let measured = length.mul_f64(1.0 - WARM);
        let from = last.saturating_sub(measured);
        let mut took: Vec<f64> = rounds
            .0
            .iter()
            .filter(|it| it.0 > from)
            .map(|it| it.1.as_secs_f64() * 1000.0)
            .collect();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
        Ok(Figures {
            rate: took.len() as f64 / measured.as_secs_f64(),
            p50_ms: at(0.50),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            ..Figures::default()
        })
    }

    /// The median of each figure by itself.
    pub(crate) fn medians(all: &[Figures]) -> Figures {
        let of = |get: fn(&Figures) -> f64| median(all.iter().map(get));
        Figures {
            rate: of(|it| it.rate),
            p50_ms: of(|it| it.p50_ms),
            p95_ms: of(|it| it.p95_ms),
            p99_ms: of(|it| it.p99_ms),
            database_ms: of(|it| it.database_ms),
            service_ms: of(|it| it.service_ms),
            asking_ms: of(|it| it.asking_ms),
            memory_mb: of(|it| it.memory_mb),
        }
    }
}

/// The median, and 0 of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
