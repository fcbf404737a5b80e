//! What is logged, and where the spans of requests are sent.
use http::Uri;

use super::reader::Reader;

/// Where the spans of requests are sent, in builds that can (feature `otel`).
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// Base address of an OTLP collector. `None`: spans are not sent.
    pub endpoint: Option<String>,
    /// Service name of the spans.
    pub service: String,
}

impl Reader<'_> {
    pub(super) fn log(&mut self) -> tracing_subscriber::filter::Targets {
        self.checked("RUST_LOG", |_, value| value.parse().ok())
    }

    pub(super) fn traces(&mut self) -> TraceSettings {
        let endpoint = self.checked("OTEL_EXPORTER_OTLP_ENDPOINT", |_, value| {
            let uri: Uri = value.parse().ok()?;
            let plain = uri.scheme_str() == Some("http") && uri.authority().is_some();
            plain.then(|| Some(value.trim_end_matches('/').to_owned()))
        });
        let service = self.text("OTEL_SERVICE_NAME").unwrap_or_default();
        TraceSettings { endpoint, service }
    }
}
