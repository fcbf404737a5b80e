//! The report as text.

use std::fmt::Write as _;

use crate::{
    figures::{Figures, median},
    measure::{Results, Series, Way},
};

/// All series, and the ratio of each to the floor and to the transition at the same concurrency.
pub(crate) fn text(results: &Results) -> String {
    let mut text = format!(
        "{:18} {:11} {:>3} {:>9} {:>8} {:>8} {:>8} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8}\n",
        "operation",
        "way",
        "c",
        "rounds/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "PG ms",
        "own ms",
        "asks ms",
        "MB",
        "/floor",
        "/trans."
    );
    for series in &results.series {
        let it = Figures::medians(&series.figures);
        let _ = writeln!(
            text,
            "{:18} {:11} {:>3} {:>9.0} {:>8.2} {:>8.2} {:>8.2} {:>9.3} {:>8.3} {:>8.3} {:>7.1} {:>8} {:>8}",
            series.operation,
            format!("{:?}", series.way),
            series.clients,
            it.rate,
            it.p50_ms,
            it.p95_ms,
            it.p99_ms,
            it.database_ms,
            it.service_ms,
            it.asking_ms,
            it.memory_mb,
            ratio(results, series, Way::Floor),
            ratio(results, series, Way::Transition),
        );
    }
    text
}

/// The median of the ratios of rates, each taken within one repetition.
fn ratio(results: &Results, series: &Series, way: Way) -> String {
    let other = results.series.iter().find(|it| {
        it.operation == series.operation && it.way == way && it.clients == series.clients
    });
    other.map_or_else(String::new, |other| {
        let ratios =
            series.figures.iter().zip(&other.figures).map(|(it, other)| it.rate / other.rate);
        format!("{:.2}", median(ratios))
    })
}
