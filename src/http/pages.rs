//! Requests to pages: health, documents, metrics.
use axum::{
    Json,
    body::Bytes,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use super::{body::authenticate, docs, health, openapi, respond::respond, routes::Page};
use crate::{
    access::{Claims, Key},
    operation::{Call, Levels, Meta, Operations, RequestInfo, Services, authorize_page},
    values::{Error, Result, VERSION},
};

/// The documents, generated once, at start. All answers share their bytes.
pub(super) struct Documents {
    openapi: Bytes,
    docs: Bytes,
}

impl Documents {
    pub(super) fn new(operations: &Operations) -> Self {
        let openapi = openapi::document(operations).to_string();
        Self { openapi: openapi.into(), docs: docs::page(operations).into() }
    }
}

/// Answers a request to a page. Counts the answer.
pub(super) async fn answer_page(
    services: &Services,
    documents: &Documents,
    page: Page,
    path: &'static str,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Response {
    info.log.set_operation(path);
    let shown = show(services, documents, page, info, headers).await;
    let response = shown.unwrap_or_else(|error| respond(&error, &info.id));
    services.metrics.count_answer(path, response.status().as_u16(), info.started.elapsed());
    response
}

async fn show(
    services: &Services,
    documents: &Documents,
    page: Page,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Response> {
    let key = authenticate(services, info, headers)?;
    // Those two tell whether the process and its database live, and are always answered.
    let is_counted = key.is_none() && !matches!(page, Page::Live | Page::Health);
    let _in_work = is_counted.then(|| services.begin_without_key(info.party(None))).transpose()?;
    Ok(match page {
        Page::Live => Json(health::live()).into_response(),
        Page::Health => ok_or_unavailable(health::health(services).await),
        Page::Ready => ok_or_unavailable(health::ready(services).await),
        Page::OpenApi => shared("application/json", &documents.openapi),
        Page::Docs => shared("text/html; charset=utf-8", &documents.docs),
        Page::Metrics => metrics(services, key, info, headers).await?,
    })
}

fn shared(content_type: &'static str, bytes: &Bytes) -> Response {
    ([(header::CONTENT_TYPE, content_type)], bytes.clone()).into_response()
}

fn ok_or_unavailable<T: Serialize>(state: Result<T, T>) -> Response {
    match state {
        Ok(state) => Json(state).into_response(),
        Err(state) => (StatusCode::SERVICE_UNAVAILABLE, Json(state)).into_response(),
    }
}

async fn metrics(
    services: &Services,
    key: Option<&Key>,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Response> {
    const META: Meta = Meta::read("read_metrics");
    let config = &services.config;
    if !config.public_metrics {
        let (claims, issues) = Claims::from_headers(headers, META.idempotent());
        if key.is_none() {
            return Err(Error::Unauthenticated);
        }
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let call = Call::new(services, key, claims, info, None);
        authorize_page(&call, &META).await?;
    }
    let levels = Levels {
        database: services.db.connections(),
        pool_max: config.database.pool_max,
        max_connections: config.max_connections,
        waiting: services.waiters.count(),
    };
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((content_type, services.metrics.text(VERSION, levels)).into_response())
}
