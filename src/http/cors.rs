//! Which pages can call the service from a browser, and with which methods and headers.
use std::time::Duration;

use http::{HeaderName, Method};
use tower_http::cors::CorsLayer;

use super::{middleware::REQUEST_ID, operations::REPLAYED};
use crate::config::Config;

/// How long a browser can remember the answer to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(600);

/// The headers of answers that pages can read.
pub(crate) const EXPOSED_HEADERS: [HeaderName; 2] = [REQUEST_ID, REPLAYED];

/// Returns the headers that pages can send.
pub(crate) fn request_headers() -> Vec<HeaderName> {
    const NAMES: [&str; 10] = [
        "authorization",
        "x-coordinator-api-key",
        "x-api-key",
        "content-type",
        "idempotency-key",
        "x-session-id",
        "x-agent-id",
        "x-agent-type",
        "x-workspace",
        "last-event-id",
    ];
    NAMES.map(HeaderName::from_static).to_vec()
}

/// Returns the layer that adds CORS headers and answers every OPTIONS request.
pub(crate) fn cors(config: &Config) -> CorsLayer {
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    CorsLayer::new()
        .allow_origin(config.cors_origins.clone())
        .allow_methods(methods)
        .allow_headers(request_headers())
        .expose_headers(EXPOSED_HEADERS)
        .max_age(MAX_AGE)
}
