//! Writes the report: `performance.md` and its plots.

use std::{fs, path::Path};

use crate::{
    Result,
    bounds::{self, Limit},
    chart::{Chart, Group, Panel},
    figures::{Figures, Spread, median},
    machine::Facts,
    operations::ALL,
    results::{Comparison, Grown, Results, Series, Way},
    table::markdown,
};

const INTRODUCTION: &str = "# Performance

Written by `make bench`, which takes about half an hour on an idle machine.
`make bench-short` prints a part of it in less than three minutes.
Both need Linux and the PostgreSQL server programs with `pgbench`; `make bench ARGS=--help` lists the options.

";

const HOW_TO_READ: &str = "## How to read the figures

Each operation is run in up to four ways, one after the other, each time on a fresh database:

- **floor**: `pgbench` calls a minimal database function that writes the same rows and checks nothing.
- **transition**: `pgbench` sends the statement that the service sends, with all its checks.
- **HTTP**: clients send requests over kept-alive connections to a service with `API_GATHER=false`.
- **HTTP, gathered**: the same with gathering, which is on by default.

A round is one call, or the two calls that the operation's name joins with a plus sign.
Rates, latencies and CPU times are those of rounds, and medians of the repetitions.
The CPU time of PostgreSQL includes its background processes, and every commit waits for the disk.
Clients, service and PostgreSQL share the processors.
`pgbench` opens a connection for each client, the service ten at most: with 64 clients the many processes slow PostgreSQL down, and a request over HTTP can be faster than its transition.

Compare ratios, not figures of other machines or days. A ratio is taken within one repetition, whose measurements follow one another.
The rate to the floor shows what the checks cost.
The rate to the transition shows what HTTP, keys, policy and JSON cost, or what gathering gains.
The least and the most of the repetitions are in parentheses. A difference smaller than this spread is not significant.

";

const GROWTH: &str = "\
The transition alone, measured by `pgbench` with one client and `synchronous_commit = off`, so that CPU time dominates.
One row in five is in another workspace.
The CPU time is that of all PostgreSQL processes, less the cost of a new connection.
`recall` searches a whole workspace for words that one memory in a hundred contains, and ranks all of these.";

/// Writes the report into a folder.
pub(crate) fn write(folder: &Path, facts: &Facts, results: &Results) -> Result<()> {
    let plots = folder.join("performance");
    fs::create_dir_all(&plots)?;
    fs::write(folder.join("performance.md"), text(facts, results))?;
    if !results.series.is_empty() {
        fs::write(plots.join("rates.svg"), rates_chart(results))?;
    }
    if !results.grown.is_empty() {
        fs::write(plots.join("growth.svg"), growth_chart(results))?;
    }
    Ok(())
}

/// Returns the text of the report, without what was not measured.
pub(crate) fn text(facts: &Facts, results: &Results) -> String {
    let facts: Vec<_> =
        facts.iter().map(|(name, it)| vec![(*name).to_owned(), it.clone()]).collect();
    let mut text = INTRODUCTION.to_owned()
        + "## Machine and run\n\n"
        + &markdown(&["Fact", "Value"], 2, &facts)
        + "\n"
        + HOW_TO_READ
        + &bounds_section(results);
    if !results.series.is_empty() {
        text += &rates_section(results);
    }
    if !results.idle_mb.is_empty() {
        text += &memory_section(results);
    }
    if let Some(comparison) = &results.comparison {
        text += &comparison_section(comparison);
    }
    if !results.grown.is_empty() {
        text += &growth_section(results);
    }
    text.trim_end().to_owned() + "\n"
}

fn bounds_section(results: &Results) -> String {
    let bounds = bounds::all(results);
    if bounds.is_empty() {
        return String::new();
    }
    let reached = bounds.iter().filter(|it| it.is_reached()).count();
    let rows: Vec<_> = bounds
        .iter()
        .map(|it| {
            let limit = match it.limit {
                Limit::AtLeast(limit) => format!("≥ {limit} {}", it.unit),
                Limit::AtMost(limit) => format!("≤ {limit} {}", it.unit),
            };
            // With fewer digits, a ratio just below its limit would look like the limit.
            let digits = if it.unit == "×" { 3 } else { 1 };
            let verdict = if it.is_reached() { "reached" } else { "**missed**" };
            vec![it.what.clone(), limit, it.measured.text(digits), verdict.to_owned()]
        })
        .collect();
    format!(
        "## Bounds\n\n{reached} of {} bounds are reached.\n\n{}\n",
        bounds.len(),
        markdown(&["Bound", "Limit", "Measured", "Verdict"], 1, &rows)
    )
}

fn rates_section(results: &Results) -> String {
    let head = [
        "Operation",
        "Way",
        "Clients",
        "Rounds/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "PostgreSQL CPU ms",
        "Service CPU ms",
        "Client CPU ms",
        "Rate to floor",
        "Rate to transition",
    ];
    let rows: Vec<_> = results.series.iter().map(|it| rates_row(results, it)).collect();
    format!(
        "## Rates, latencies and CPU time\n\n\
         ![Bar charts, one for each operation: rounds per second by number of clients and way. The table \
         below has the numbers.](performance/rates.svg)\n\n{}\n",
        markdown(&head, 2, &rows)
    )
}

fn rates_row(results: &Results, series: &Series) -> Vec<String> {
    let medians = Figures::medians(&series.figures);
    let over_http = matches!(series.way, Way::Http | Way::Gathered);
    let ratio_to = |way: Way| {
        let others = results.figures(series.operation, way, series.clients);
        let ratio = Spread::of_ratios(&series.figures, others, |it| it.rate);
        ratio.filter(|_| way != series.way).map_or_else(String::new, |it| it.text(2))
    };
    let if_http = |value: f64| if over_http { format!("{value:.3}") } else { String::new() };
    vec![
        series.operation.to_owned(),
        series.way.name().to_owned(),
        series.clients.to_string(),
        format!("{:.0}", medians.rate),
        format!("{:.2}", medians.p50_ms),
        format!("{:.2}", medians.p95_ms),
        format!("{:.2}", medians.p99_ms),
        format!("{:.3}", medians.database_ms),
        if_http(medians.service_ms),
        if_http(medians.client_ms),
        ratio_to(Way::Floor),
        if over_http { ratio_to(Way::Transition) } else { String::new() },
    ]
}

fn memory_section(results: &Results) -> String {
    let idle = Spread::of(results.idle_mb.iter().copied());
    let rows: Vec<_> = [("after the start", idle), ("after load", results.loaded_mb())]
        .into_iter()
        .filter_map(|(when, it)| Some(vec![when.to_owned(), it?.text(1)]))
        .collect();
    format!(
        "## Memory of the service\n\n\
         Resident memory of the process: once it no longer grows after the start, and at the end of each \
         measurement over HTTP.\n\n{}\n",
        markdown(&["When", "MB"], 1, &rows)
    )
}

fn comparison_section(comparison: &Comparison) -> String {
    let row = |name: &str, all: &[Figures]| {
        let medians = Figures::medians(all);
        let ratio = Spread::of_ratios(all, &comparison.theirs, |it| it.service_ms);
        vec![
            name.to_owned(),
            format!("{:.0}", medians.rate),
            format!("{:.3}", medians.service_ms),
            format!("{:.3}", medians.database_ms),
            ratio.map_or_else(String::new, |it| it.text(2)),
        ]
    };
    let rows = [
        row("this build, without gathering", &comparison.ours),
        row("this build, gathered", &comparison.gathered),
        row(&comparison.name, &comparison.theirs),
    ];
    let head =
        ["Service", "Rounds/s", "Service CPU ms", "PostgreSQL CPU ms", "Service CPU to the last"];
    format!(
        "## Another build beside this one\n\n\
         acquire+release with 16 clients: the same requests to all, one service after the other in each \
         repetition.\n\n{}\n",
        markdown(&head, 1, &rows)
    )
}

fn growth_section(results: &Results) -> String {
    let rows: Vec<_> = results.grown.iter().map(|it| growth_row(results, it)).collect();
    let head = [
        "Operation",
        "Live rows",
        "Number",
        "PostgreSQL CPU ms",
        "p50 ms",
        "p95 ms",
        "CPU to the fewest",
    ];
    format!(
        "## Cost among many rows\n\n{GROWTH}\n\n\
         ![Bar charts, one for each operation: CPU time of PostgreSQL and p95 by number of live rows. The \
         table below has the numbers.](performance/growth.svg)\n\n{}\n",
        markdown(&head, 2, &rows)
    )
}

fn growth_row(results: &Results, grown: &Grown) -> Vec<String> {
    let medians = Figures::medians(&grown.figures);
    let rows = results.grown.iter().filter(|it| it.operation == grown.operation).map(|it| it.rows);
    let fewest = rows.min().filter(|it| *it != grown.rows);
    let ratio = fewest.and_then(|fewest| {
        let few = results.grown(grown.operation, fewest);
        Spread::of_ratios(&grown.figures, few, |it| it.database_ms)
    });
    vec![
        grown.operation.to_owned(),
        grown.kind.to_owned(),
        grown.rows.to_string(),
        format!("{:.3}", medians.database_ms),
        format!("{:.3}", medians.p50_ms),
        format!("{:.3}", medians.p95_ms),
        ratio.map_or_else(String::new, |it| it.text(2)),
    ]
}

fn rates_chart(results: &Results) -> String {
    let mut clients: Vec<usize> = results.series.iter().map(|it| it.clients).collect();
    clients.sort_unstable();
    clients.dedup();
    let bar = |operation: &str, way: Way, clients: usize| {
        let figures = results.figures(operation, way, clients);
        (!figures.is_empty()).then(|| median(figures.iter().map(|it| it.rate)))
    };
    let group = |operation: &str, clients: usize| Group {
        label: format!("{clients} client{}", if clients == 1 { "" } else { "s" }),
        bars: Way::ALL.map(|way| bar(operation, way, clients)).to_vec(),
    };
    let panels = ALL
        .iter()
        .filter(|it| results.series.iter().any(|series| series.operation == it.name))
        .map(|it| Panel {
            name: it.name.to_owned(),
            groups: clients.iter().map(|clients| group(it.name, *clients)).collect(),
        })
        .collect();
    Chart { heading: "Rounds per second", legend: &Way::ALL.map(Way::name), panels }.svg()
}

fn growth_chart(results: &Results) -> String {
    let group = |it: &Grown| {
        let figures = Figures::medians(&it.figures);
        Group {
            label: it.rows.to_string(),
            bars: vec![Some(figures.database_ms), Some(figures.p95_ms)],
        }
    };
    let panels = ALL
        .iter()
        .map(|operation| {
            let grown = results.grown.iter().filter(|it| it.operation == operation.name);
            Panel { name: operation.name.to_owned(), groups: grown.map(group).collect() }
        })
        .filter(|it| !it.groups.is_empty())
        .collect();
    let legend = ["CPU of PostgreSQL", "p95"];
    Chart { heading: "Milliseconds for a transition, by live rows", legend: &legend, panels }.svg()
}
