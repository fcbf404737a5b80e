//! Runs every request with an id, a time limit and an access log. A panic fails only its own request.
//!
//! By hand, because the layers of tower-http do not fit the contract: `SetRequestId` keeps any id that a
//! client sends, and `CatchPanic` cannot put the id into the answer.
use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::respond::respond;
use crate::{
    operation::{Connection, RequestInfo, Services},
    values::Error,
};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The maximum length of a request id that a client chooses.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Runs a request with an id, within its time limit. Answers a panic with 500, and logs the request where
/// the access log is on.
pub(crate) async fn with_request_scope(
    State(services): State<Arc<Services>>,
    mut request: Request,
    next: Next,
) -> Response {
    let config = &services.config;
    let id = request_id(request.headers());
    let connection = request.extensions_mut().remove::<Arc<Connection>>();
    let info = RequestInfo::new(id, Instant::now(), config.timings.request_time);
    let info = RequestInfo { connection, ..info };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(info.clone());
    let _in_flight = services.metrics.in_flight.enter();
    let running = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = tokio::select! {
        result = running => match result {
            Ok(response) => response,
            Err(panic) => respond(&Error::Internal(panic_text(&*panic).into()), &info.id),
        },
        () = info.time_limit.exceeded() => {
            respond(&Error::Unavailable("the request exceeded its time limit".into()), &info.id)
        }
    };
    response.headers_mut().insert(REQUEST_ID, header_value(&info.id));
    if config.access_log {
        let (status, ms) = (response.status().as_u16(), info.started.elapsed().as_millis() as u64);
        let (request_id, operation, agent) = (info.id, info.log.operation(), info.log.agent());
        tracing::info!(%method, path, status, ms, request_id, operation, agent, "request");
    }
    response
}

/// Returns the answer to a request that the service has no room for.
pub(crate) fn busy(headers: &HeaderMap) -> Response {
    let id = request_id(headers);
    let mut response = respond(&Error::Busy, &id);
    response.headers_mut().insert(REQUEST_ID, header_value(&id));
    response
}

fn header_value(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).expect("a request id is plain ASCII")
}

/// Returns the text of a panic, for the log.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}

/// Returns the id that the client chose, where its form is safe for logs, or else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let is_safe = |id: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain)
    };
    let chosen = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_safe);
    chosen.map(str::to_owned).unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
}
