//! Replaces `traces.rs` in a build without the feature `otel`, which sends no spans.
use tracing_subscriber::layer::Identity;

use crate::config::TraceSettings;

/// The sender of spans, which does nothing in this build.
#[derive(Debug)]
pub struct Traces(());

pub(super) fn layer(_: &TraceSettings) -> (Traces, Option<Identity>) {
    (Traces(()), None)
}

impl Traces {
    /// Logs a warning when a collector is configured.
    pub(super) fn report(&self, settings: &TraceSettings) {
        if settings.endpoint.is_some() {
            tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build sends no spans");
        }
    }

    /// Does nothing in this build.
    pub fn finish(self) {}
}
