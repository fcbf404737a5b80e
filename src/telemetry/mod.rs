//! The one log subscriber of a process: JSON lines for machines, or a form for people.
//!
//! What may be logged is decided where it is logged: no key, token or connection string ever is.
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    layer::{Identity, SubscriberExt as _},
};

use crate::config::Config;

#[cfg_attr(not(feature = "otel"), path = "no_traces.rs")]
mod traces;

pub use traces::Traces;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Compact text for a terminal.
    Pretty,
}

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn init(format: Format, filter: Targets) {
    start(format, filter, None::<Identity>);
}

/// Starts logging as a server does: JSON, and the spans of operations go to the collector of the
/// configuration, if there is one and this build can send any.
pub fn init_server(config: &Config) -> Traces {
    let (traces, layer) = traces::layer(&config.traces);
    start(Format::Json, config.log.clone(), layer);
    traces.report(&config.traces);
    traces
}

fn start<L: Layer<Registry> + Send + Sync>(format: Format, filter: Targets, spans: Option<L>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Pretty => lines.compact().with_target(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(spans).with(layer.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging was already started");
    }
}
