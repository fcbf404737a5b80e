//! The one log subscriber of a process: JSON lines for machines, or a form for people.
//!
//! What may be logged is decided where it is logged: no key, token or connection string ever is.
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _};

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
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Pretty => lines.compact().with_target(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("logging was already started");
    }
}
