//! The figures of one measurement, and medians of several.

use std::time::Duration;

use crate::Result;

/// The share of a measurement that is left out as warm-up: the service opens connections and fills caches, and
/// PostgreSQL chooses plans.
const WARM_UP: f64 = 0.2;

/// The rounds of a measurement, each with its end and its duration. A round is a request, or two that belong
/// together.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Vec<(Duration, Duration)>);

impl Rounds {
    /// Records when a round ended, on any clock, and how long it took.
    pub(crate) fn push(&mut self, ended: Duration, took: Duration) {
        self.0.push((ended, took));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// The figures of one measurement, or the medians of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    /// Rounds per second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU time per round: of PostgreSQL, of the service, and of this program as the client.
    pub(crate) database_ms: f64,
    pub(crate) service_ms: f64,
    pub(crate) client_ms: f64,
    /// Resident memory of the service at the end, in megabytes.
    pub(crate) memory_mb: f64,
}

impl Figures {
    /// Computes rate and latencies of the rounds that ended after the warm-up.
    pub(crate) fn of(rounds: &Rounds, length: Duration) -> Result<Figures> {
        let last = rounds.0.iter().map(|it| it.0).max().ok_or("no round has ended")?;
        let measured = length.mul_f64(1.0 - WARM_UP);
        let from = last.saturating_sub(measured);
        let mut took: Vec<f64> = rounds
            .0
            .iter()
            .filter(|it| it.0 > from)
            .map(|it| it.1.as_secs_f64() * 1000.0)
            .collect();
        took.sort_by(f64::total_cmp);
        Ok(Figures {
            rate: took.len() as f64 / measured.as_secs_f64(),
            p50_ms: percentile(&took, 0.50),
            p95_ms: percentile(&took, 0.95),
            p99_ms: percentile(&took, 0.99),
            ..Figures::default()
        })
    }

    /// Returns the median of each figure.
    pub(crate) fn medians(all: &[Figures]) -> Figures {
        let of = |get: fn(&Figures) -> f64| median(all.iter().map(get));
        Figures {
            rate: of(|it| it.rate),
            p50_ms: of(|it| it.p50_ms),
            p95_ms: of(|it| it.p95_ms),
            p99_ms: of(|it| it.p99_ms),
            database_ms: of(|it| it.database_ms),
            service_ms: of(|it| it.service_ms),
            client_ms: of(|it| it.client_ms),
            memory_mb: of(|it| it.memory_mb),
        }
    }
}

/// Returns the value below which a share of the sorted values lies.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Returns the value below which a share of the values lies, or 0 without values.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    if sorted.is_empty() { 0.0 } else { percentile(&sorted, share) }
}

/// Returns the median, or 0 without values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The median of the repetitions, with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Computes the spread of values. `None` without values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| Spread {
            median: median(values.iter().copied()),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            most: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }

    /// Computes the spread of the ratios of a figure in two series, each ratio within one repetition.
    pub(crate) fn of_ratios(
        all: &[Figures],
        others: &[Figures],
        get: fn(&Figures) -> f64,
    ) -> Option<Spread> {
        Spread::of(all.iter().zip(others).map(|(it, other)| get(it) / get(other)))
    }

    /// Formats the median, with the least and the most in parentheses.
    pub(crate) fn text(&self, digits: usize) -> String {
        if self.least == self.most {
            return format!("{:.digits$}", self.median);
        }
        format!("{:.digits$} ({:.digits$}–{:.digits$})", self.median, self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }

    #[test]
    fn percentiles_are_those_of_the_values_in_order() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 0.99].map(|it| percentile(&values, it)), [50.0, 95.0, 99.0]);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert_eq!((quantile(&[3.0, 1.0, 2.0], 1.0), quantile(&[], 0.5)), (3.0, 0.0));
    }

    #[test]
    fn the_warm_up_is_left_out() {
        let mut rounds = Rounds::default();
        for n in 1..=100 {
            // The first fifth is slow.
            rounds.push(milliseconds(10 * n), milliseconds(if n <= 20 { 90 } else { 10 }));
        }
        let figures = Figures::of(&rounds, milliseconds(1000)).expect("rounds");
        assert_eq!((figures.rate, figures.p99_ms), (100.0, 10.0));
        assert!(Figures::of(&Rounds::default(), milliseconds(1000)).is_err());
    }

    #[test]
    fn ratios_are_taken_within_repetitions() {
        let rates = |all: [f64; 3]| all.map(|rate| Figures { rate, ..Figures::default() });
        let ratio = Spread::of_ratios(&rates([50.0, 90.0, 30.0]), &rates([100.0; 3]), |it| it.rate)
            .expect("ratios");
        assert_eq!(ratio, Spread { median: 0.5, least: 0.3, most: 0.9 });
        assert_eq!(ratio.text(2), "0.50 (0.30–0.90)");
        assert_eq!(Spread::of_ratios(&[], &[], |it| it.rate), None);
    }

    #[test]
    fn a_spread_of_one_value_is_that_value() {
        assert_eq!(Spread::of([2.0].into_iter()).expect("a value").text(1), "2.0");
    }
}
