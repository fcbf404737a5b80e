//! A build without the feature `otel`: no span is sent.
use http::StatusCode;
use tracing_subscriber::layer::Identity;

use crate::config::TraceSettings;

/// What sends spans: in this build nothing.
#[derive(Debug)]
pub struct Traces(());

pub(super) fn layer(_: &TraceSettings) -> (Traces, Option<Identity>) {
    (Traces(()), None)
}

/// A span is not sent, and what would be added to it costs more than the rest of it. The log gets the agent
/// of a request that failed.
pub(crate) fn record_caller(_agent_id: &str, _resource: &str) {}

/// As above.
pub(crate) fn record_status(_: &tracing::Span, _: StatusCode) {}

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
