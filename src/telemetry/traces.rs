//! Sends the spans of operations to an OTLP collector (feature `otel`). Starts no thread and opens no
//! connection unless a collector is configured.
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{Layer, Registry, filter::Targets};

use crate::{config::TraceSettings, values::VERSION};

/// The target of the spans that are sent: only those of this library, not those of its dependencies.
const TARGET: &str = "agent_coordinator";

/// The sender of spans, from the start of the process to its end. `None` without a collector.
#[derive(Debug)]
pub struct Traces(Option<Result<SdkTracerProvider, String>>);

/// Returns the sender, and the layer that collects spans for it.
pub(super) fn layer(settings: &TraceSettings) -> (Traces, Option<impl Layer<Registry> + use<>>) {
    match settings.endpoint.as_deref().map(|endpoint| provider(endpoint, &settings.service)) {
        None => (Traces(None), None),
        Some(Err(error)) => (Traces(Some(Err(error))), None),
        Some(Ok(provider)) => {
            let layer = spans(provider.tracer(TARGET));
            (Traces(Some(Ok(provider))), Some(layer))
        }
    }
}

fn spans(tracer: Tracer) -> impl Layer<Registry> {
    OpenTelemetryLayer::new(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
}

fn provider(endpoint: &str, service: &str) -> Result<SdkTracerProvider, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .build()
        .map_err(|error| error.to_string())?;
    let version = opentelemetry::KeyValue::new("service.version", VERSION);
    let resource = Resource::builder().with_service_name(service.to_owned());
    let resource = resource.with_attribute(version).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Traces {
    /// Logs where spans are sent. Call it after logging was started, which needs the layer above.
    pub(super) fn report(&self, settings: &TraceSettings) {
        match &self.0 {
            None => {}
            Some(Ok(_)) => tracing::info!(endpoint = settings.endpoint, "spans are sent"),
            Some(Err(error)) => tracing::error!(error, "spans cannot be sent"),
        }
    }

    /// Sends the remaining spans.
    pub fn finish(self) {
        if let Some(Ok(provider)) = self.0
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}
