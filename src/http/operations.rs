//! Requests to operations.
use axum::{
    body::{Body, Bytes},
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, header, request::Parts};
use tracing::Instrument as _;

use super::{
    body::{HeldBody, read_request},
    input::{RequestInput, located},
    respond::respond,
    routes::PathParameters,
};
use crate::{
    access::Claims,
    operation::{Call, Registered, RequestInfo, Services, record_status},
    values::json::text_bytes,
};

pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Answers a request to an operation, in one span that lasts until the answer is known. Counts the answer.
///
/// The steps before authorization are here, in the order of `docs/api-design.md#order-of-checks`: declared
/// length, key, body, JSON and schema. `execute` of the operation does the rest.
pub(super) async fn answer_operation(
    services: &Services,
    operation: &Registered,
    parameters: &PathParameters<'_>,
    info: &RequestInfo,
    parts: &Parts,
    body: Body,
) -> Response {
    let name = operation.meta.id;
    info.log.set_operation(name);
    let span = info.span(name);
    let executing = async {
        let needs_key = !(operation.meta.open && services.config.public_reads);
        let (key, body) = read_request(services, info, needs_key, &parts.headers, body).await?;
        if key.is_none() {
            // A page can send such a request by DNS rebinding; it has no key to send.
            services.config.mcp.check_host(&parts.headers)?;
        }
        let _in_work =
            key.is_none().then(|| services.begin_without_key(info.party(None))).transpose()?;
        let (claims, issues) = Claims::from_headers(&parts.headers, operation.meta.idempotent());
        let has_idempotency_key = claims.idempotency_key.is_some();
        let HeldBody { bytes, mut held } = body;
        let request_input = RequestInput { operation, parameters, parts, body: &bytes };
        let (input, fingerprint) = request_input.parse(has_idempotency_key, issues)?;
        // A request that waits would keep it for all of its wait.
        drop(bytes);
        held.keep(text_bytes(&input));
        let call = Call::new(services, key, claims, info, fingerprint);
        let executed = (operation.execute)(&call, &input).await;
        let reply = executed.map_err(|error| located(error, parts, parameters))?;
        let has_effect = !operation.meta.is_pure_read();
        let body = services.hold_answer(info.party(key), reply.body, has_effect)?;
        Ok((body, reply.replayed))
    };
    let response = match executing.instrument(span.clone()).await {
        Ok((body, replayed)) => ok(body, replayed),
        Err(error) => {
            span.record("agent.id", info.log.agent());
            span.in_scope(|| respond(&error, &info.id))
        }
    };
    record_status(&span, response.status());
    services.metrics.count_answer(name, response.status().as_u16(), info.started.elapsed());
    response
}

fn ok(body: Bytes, replayed: bool) -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (content_type, body).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, const { HeaderValue::from_static("true") });
    }
    response
}
