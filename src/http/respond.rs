//! Responses that are not answers of an operation.
use axum::{
    Json,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::values::Error;

/// Returns the response for an error. Failures of the service itself are logged.
pub(crate) fn respond(error: &Error, request_id: &str) -> Response {
    let mut response = (error.status(), Json(error.body(request_id))).into_response();
    if matches!(
        error,
        Error::Unavailable(_) | Error::Busy | Error::TooLong(_) | Error::TooManyBytes(_)
    ) {
        let seconds = const { HeaderValue::from_static("1") };
        response.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    if matches!(error, Error::Unauthenticated) {
        let scheme = const { HeaderValue::from_static("Bearer") };
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Returns `405` with the methods that are allowed.
pub(crate) fn method_not_allowed(allowed: &str) -> Response {
    let body = Json(json!({ "detail": "Method Not Allowed" }));
    (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allowed)], body).into_response()
}

/// Returns `307` to another path of this service.
pub(super) fn redirect(path: &str, query: Option<&str>) -> Response {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let location = [(header::LOCATION, format!("{path}{query}"))];
    (StatusCode::TEMPORARY_REDIRECT, location).into_response()
}
