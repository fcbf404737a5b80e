//! A build without the feature `otel`: no span is sent.
use tracing_subscriber::layer::Identity;

use crate::config::TraceSettings;

/// What sends spans: in this build nothing.
#[derive(Debug)]
pub struct Traces(());

pub(super) fn layer(_: &TraceSettings) -> (Traces, Option<Identity>) {
    (Traces(()), None)
}

impl Traces {
    /// Says in the log when spans are asked for.
    pub(super) fn report(&self, settings: &TraceSettings) {
        if settings.endpoint.is_some() {
            tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build sends no spans");
        }
    }

    /// Nothing is left to send.
    pub fn finish(self) {}
}
