//! The log subscriber of a process: JSON lines, or text for a terminal.
//!
//! There is no filter for secrets in our own lines: the code that logs must never pass a key, a token, a
//! connection string or a text of an agent. Libraries that write whole messages are limited whatever
//! `RUST_LOG` says.
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt as _, LevelFilter, Targets},
    layer::{Identity, SubscriberExt as _},
};

use crate::config::Config;

#[cfg_attr(not(feature = "otel"), path = "no_traces.rs")]
mod traces;

pub use traces::Traces;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Compact text for a terminal.
    Pretty,
}

/// Starts logging to standard error. A second call in one process changes nothing.
pub fn init(format: Format, filter: Targets) {
    start(format, filter, None::<Identity>);
}

/// Starts logging for a server: JSON lines. Also sends the spans of operations to the configured
/// collector, in builds with the feature `otel`.
pub fn init_server(config: &Config) -> Traces {
    let (traces, layer) = traces::layer(&config.traces);
    start(Format::Json, config.log.clone(), layer);
    traces.report(&config.traces);
    warn(&config.warnings);
    traces
}

/// Logs what the configuration says without effect.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn start<L: Layer<Registry> + Send + Sync>(format: Format, filter: Targets, spans: Option<L>) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Pretty => lines.compact().with_target(false).boxed(),
    };
    let filter = filter.and(ceiling());
    let subscriber = tracing_subscriber::registry().with(spans).with(layer.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging was already started");
    }
}

/// The most that each target may log. The MCP library writes arguments, answers and the texts of errors at
/// every level below `error`.
fn ceiling() -> Targets {
    Targets::new().with_default(LevelFilter::TRACE).with_target("rmcp", LevelFilter::ERROR)
}
