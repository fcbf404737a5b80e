//! The bounds that figures must reach. Invariant: a bound is judged by the median of its repetitions, and is
//! left out if the run did not measure what the bound needs.

use crate::{
    figures::{Figures, Spread},
    operations::ALL,
    results::{Results, Way},
};

/// A bound with its measured figure.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) what: String,
    pub(crate) limit: Limit,
    pub(crate) measured: Spread,
    pub(crate) unit: &'static str,
}

/// The limit of a figure.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn new(
        what: String,
        limit: Limit,
        unit: &'static str,
        measured: Option<Spread>,
    ) -> Option<Bound> {
        Some(Bound { what, limit, measured: measured?, unit })
    }

    pub(crate) fn is_reached(&self) -> bool {
        match self.limit {
            Limit::AtLeast(least) => self.measured.median >= least,
            Limit::AtMost(most) => self.measured.median <= most,
        }
    }
}

/// Returns all bounds that the run can judge.
pub(crate) fn all(results: &Results) -> Vec<Bound> {
    [
        transitions(results),
        claims(results),
        http(results),
        gathered(results),
        service_cpu(results),
        tails(results),
        health(results),
        memory(results),
        growth(results),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn rate(figures: &Figures) -> f64 {
    figures.rate
}

fn transitions(results: &Results) -> Vec<Bound> {
    [("acquire+release", 0.80), ("submit", 0.80), ("remember", 0.80), ("claim+complete", 0.60)]
        .into_iter()
        .filter_map(|(operation, least)| {
            Bound::new(
                format!("{operation}, 16 clients: rate of the transition to the floor"),
                Limit::AtLeast(least),
                "×",
                Spread::of_ratios(
                    results.figures(operation, Way::Transition, 16),
                    results.figures(operation, Way::Floor, 16),
                    rate,
                ),
            )
        })
        .collect()
}

fn claims(results: &Results) -> Vec<Bound> {
    // A round is a claim and a completion.
    let each = results
        .figures("claim+complete", Way::Transition, 16)
        .iter()
        .zip(results.figures("submit", Way::Transition, 16))
        .map(|(claims, submissions)| claims.database_ms / 2.0 / submissions.database_ms);
    Bound::new(
        "CPU of PostgreSQL for a claim or a completion to that for a submission".to_owned(),
        Limit::AtMost(1.5),
        "×",
        Spread::of(each),
    )
    .into_iter()
    .collect()
}

fn http(results: &Results) -> Vec<Bound> {
    without_gathering(results, "rate", Limit::AtLeast(0.75), rate)
}

fn tails(results: &Results) -> Vec<Bound> {
    without_gathering(results, "p99", Limit::AtMost(3.0), |it| it.p99_ms)
}

/// Returns a bound for each operation: the ratio of a figure over HTTP to that of the transition.
fn without_gathering(
    results: &Results,
    what: &str,
    limit: Limit,
    of: fn(&Figures) -> f64,
) -> Vec<Bound> {
    let bound = |operation: &str| {
        Bound::new(
            format!(
                "{operation}, 16 clients: {what} over HTTP without gathering to the transition"
            ),
            limit,
            "×",
            Spread::of_ratios(
                results.figures(operation, Way::Http, 16),
                results.figures(operation, Way::Transition, 16),
                of,
            ),
        )
    };
    ALL.iter().filter_map(|it| bound(it.name)).collect()
}

fn gathered(results: &Results) -> Vec<Bound> {
    ["acquire+release", "submit", "remember"]
        .into_iter()
        .filter_map(|operation| {
            Bound::new(
                format!("{operation}, 64 clients: rate over HTTP with gathering to the transition"),
                Limit::AtLeast(1.5),
                "×",
                Spread::of_ratios(
                    results.figures(operation, Way::Gathered, 64),
                    results.figures(operation, Way::Transition, 64),
                    rate,
                ),
            )
        })
        .collect()
}

fn service_cpu(results: &Results) -> Vec<Bound> {
    results
        .comparison
        .iter()
        .filter_map(|it| {
            Bound::new(
                format!("acquire+release, 16 clients: CPU of the service to that of {}", it.name),
                Limit::AtMost(1.1),
                "×",
                Spread::of_ratios(&it.ours, &it.theirs, |it| it.service_ms),
            )
        })
        .collect()
}

fn health(results: &Results) -> Vec<Bound> {
    let figures = results.figures("/health", Way::Gathered, 16);
    Bound::new(
        "/health, 16 clients: p99".to_owned(),
        Limit::AtMost(10.0),
        "ms",
        Spread::of(figures.iter().map(|it| it.p99_ms)),
    )
    .into_iter()
    .collect()
}

fn memory(results: &Results) -> Vec<Bound> {
    // After load, the worst measurement counts.
    let loaded = results.loaded_mb().map(|it| Spread { median: it.most, ..it });
    [
        Bound::new(
            "memory of the idle service".to_owned(),
            Limit::AtMost(20.0),
            "MB",
            Spread::of(results.idle_mb.iter().copied()),
        ),
        Bound::new("memory after load, at most".to_owned(), Limit::AtMost(60.0), "MB", loaded),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn growth(results: &Results) -> Vec<Bound> {
    let among = |operation: &str| {
        Bound::new(
            format!("{operation}: CPU of PostgreSQL among a million rows to that among a thousand"),
            Limit::AtMost(1.5),
            "×",
            Spread::of_ratios(
                results.grown(operation, 1_000_000),
                results.grown(operation, 1000),
                |it| it.database_ms,
            ),
        )
    };
    let recall = Bound::new(
        "recall: p95 among 100 thousand memories".to_owned(),
        Limit::AtMost(50.0),
        "ms",
        Spread::of(results.grown("recall", 100_000).iter().map(|it| it.p95_ms)),
    );
    let others = ALL.iter().filter(|it| it.name != "recall").filter_map(|it| among(it.name));
    others.chain(recall).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(of_http: f64) -> Results {
        let mut results = Results::default();
        for (way, rate) in [(Way::Transition, 1000.0), (Way::Http, of_http)] {
            results.add("submit", way, 16, Figures { rate, p99_ms: 1.0, ..Figures::default() });
        }
        results
    }

    #[test]
    fn bounds_that_cannot_be_judged_are_left_out() {
        assert!(all(&Results::default()).is_empty());
        let whats: Vec<_> = all(&results(800.0)).into_iter().map(|it| it.what).collect();
        assert_eq!(whats.len(), 3, "{whats:?}");
    }

    #[test]
    fn a_bound_is_judged_by_its_median() {
        assert!(http(&results(760.0))[0].is_reached());
        assert!(!http(&results(740.0))[0].is_reached());
        assert!(tails(&results(740.0))[0].is_reached());
    }

    #[test]
    fn memory_after_load_is_judged_by_the_most() {
        let mut results = results(800.0);
        let figures = Figures { memory_mb: 70.0, ..Figures::default() };
        results.add("recall", Way::Http, 1, figures);
        let bound = &memory(&results)[0];
        assert!(!bound.is_reached());
        assert_eq!(bound.measured.median, 70.0);
    }

    #[test]
    fn a_claim_is_half_a_round() {
        let mut results = Results::default();
        for (operation, database_ms) in [("claim+complete", 3.0), ("submit", 1.0)] {
            let figures = Figures { database_ms, ..Figures::default() };
            results.add(operation, Way::Transition, 16, figures);
        }
        assert_eq!(claims(&results)[0].measured.median, 1.5);
        assert!(claims(&results)[0].is_reached());
    }
}
