//! The results of a run.

use crate::figures::{Figures, Spread};

/// How an operation is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A database function that writes the same rows and checks nothing.
    Floor,
    /// The service's statement, sent by pgbench.
    Transition,
    /// Requests to a service that does not gather.
    Http,
    /// Requests to a service that gathers, as it does by default.
    Gathered,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [Way::Floor, Way::Transition, Way::Http, Way::Gathered];

    /// Returns the name in tables and plots.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Floor => "floor",
            Way::Transition => "transition",
            Way::Http => "HTTP",
            Way::Gathered => "HTTP, gathered",
        }
    }
}

/// All measurements of one operation in one way at one concurrency, in the order of repetitions.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) operation: &'static str,
    pub(crate) way: Way,
    pub(crate) clients: usize,
    pub(crate) figures: Vec<Figures>,
}

/// All measurements of one transition among a number of live rows, in the order of repetitions.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) operation: &'static str,
    /// The kind of the rows.
    pub(crate) kind: &'static str,
    pub(crate) rows: u64,
    pub(crate) figures: Vec<Figures>,
}

/// Measurements of this build of the service and of another one, taken alternately.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) name: String,
    pub(crate) ours: Vec<Figures>,
    pub(crate) gathered: Vec<Figures>,
    pub(crate) theirs: Vec<Figures>,
}

/// The results of a run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) series: Vec<Series>,
    pub(crate) grown: Vec<Grown>,
    pub(crate) comparison: Option<Comparison>,
    /// The memory of services that answered only `/health`, in megabytes.
    pub(crate) idle_mb: Vec<f64>,
}

impl Results {
    /// Adds a measurement to its series.
    pub(crate) fn add(
        &mut self,
        operation: &'static str,
        way: Way,
        clients: usize,
        figures: Figures,
    ) {
        let known = self
            .series
            .iter_mut()
            .find(|it| it.operation == operation && it.way == way && it.clients == clients);
        if let Some(series) = known {
            series.figures.push(figures);
        } else {
            self.series.push(Series { operation, way, clients, figures: vec![figures] });
        }
    }

    /// Adds a measurement among a number of rows to its series.
    pub(crate) fn add_grown(
        &mut self,
        operation: &'static str,
        kind: &'static str,
        rows: u64,
        figures: Figures,
    ) {
        let known = self.grown.iter_mut().find(|it| it.operation == operation && it.rows == rows);
        if let Some(grown) = known {
            grown.figures.push(figures);
        } else {
            self.grown.push(Grown { operation, kind, rows, figures: vec![figures] });
        }
    }

    /// Returns the measurements of a series; empty if there are none.
    pub(crate) fn figures(&self, operation: &str, way: Way, clients: usize) -> &[Figures] {
        self.series
            .iter()
            .find(|it| it.operation == operation && it.way == way && it.clients == clients)
            .map_or(&[], |it| &it.figures)
    }

    /// Returns the measurements of a transition among a number of rows; empty if there are none.
    pub(crate) fn grown(&self, operation: &str, rows: u64) -> &[Figures] {
        self.grown
            .iter()
            .find(|it| it.operation == operation && it.rows == rows)
            .map_or(&[], |it| &it.figures)
    }

    /// Returns the memory of the service after the measurements over HTTP, in megabytes.
    pub(crate) fn loaded_mb(&self) -> Option<Spread> {
        let over_http = self.series.iter().filter(|it| matches!(it.way, Way::Http | Way::Gathered));
        Spread::of(over_http.flat_map(|it| &it.figures).map(|it| it.memory_mb))
    }
}
