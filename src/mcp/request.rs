//! One message of an MCP request, as the handlers of the protocol see it.
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, StatusCode, request::Parts};
use rmcp::{ErrorData, RoleServer, service::RequestContext};
use serde_json::Value;
use tracing::{Instrument as _, Span};

use super::form::OfferedTool;
use crate::{
    access::{Caller, Claims, Door, IdentityMode, Key},
    http::panic_text,
    operation::{
        Call, Notice, Registered, Reply, RequestInfo, Services, fingerprint, input::check,
        record_status,
    },
    values::{Error, Result, limits::MAX_ID_BYTES},
};

/// The header that names an MCP connection.
pub(super) const CONNECTION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// One message of a request, with everything that is needed to run an operation for it.
#[derive(Clone)]
pub(super) struct McpRequest {
    pub(super) services: Arc<Services>,
    pub(super) key: Key,
    pub(super) info: RequestInfo,
    /// The tools that the request can call.
    pub(super) tools: Arc<[Arc<OfferedTool>]>,
    pub(super) path: Arc<str>,
    /// The span of the whole HTTP request.
    pub(super) span: Span,
    pub(super) outcome: Arc<OnceLock<Outcome>>,
}

/// The outcome of the operation that a message asked for.
pub(super) struct Outcome {
    pub(super) operation: &'static str,
    /// The status that the answer would have had over HTTP.
    pub(super) status: StatusCode,
    pub(super) replayed: bool,
    /// Whether the MCP connection turned out to have ended.
    pub(super) has_ended: bool,
}

impl McpRequest {
    /// Returns the message that a handler of the protocol was called for, with the headers of its
    /// request.
    pub(super) fn of(cx: &RequestContext<RoleServer>) -> Result<(&Self, &HeaderMap), ErrorData> {
        let parts = cx.extensions.get::<Parts>();
        let found = parts.and_then(|parts| Some((parts.extensions.get::<Self>()?, &parts.headers)));
        found.ok_or_else(|| ErrorData::internal_error("the request is gone", None))
    }

    /// Runs an operation. A panic costs only this message, and a client that disconnects ends the run.
    pub(super) async fn run(
        &self,
        cx: &RequestContext<RoleServer>,
        headers: &HeaderMap,
        operation: &Registered,
        input: impl FnOnce(&Claims) -> Value,
    ) -> Result<Result<Value>, ErrorData> {
        let running = AssertUnwindSafe(self.execute(headers, operation, input)).catch_unwind();
        let span = self.span.in_scope(|| self.info.span(operation.meta.id));
        let result = tokio::select! {
            result = running.instrument(span.clone()) => result,
            // Never sent: its client has disconnected.
            () = cx.ct.cancelled() => {
                return Err(ErrorData::internal_error("the client has disconnected", None));
            }
        };
        let result =
            result.unwrap_or_else(|panic| Err(Error::Internal(panic_text(&*panic).into())));
        if result.is_err() {
            self.span.record("agent.id", self.info.log.agent());
        }
        let status = result.as_ref().map_or_else(Error::status, |_| StatusCode::OK);
        record_status(&span, status);
        self.outcome.get_or_init(|| Outcome {
            operation: operation.meta.id,
            status,
            replayed: result.as_ref().is_ok_and(|reply| reply.replayed),
            has_ended: matches!(result, Err(Error::ConnectionEnded)),
        });
        Ok(result.and_then(|reply| reply.value()))
    }

    async fn execute(
        &self,
        headers: &HeaderMap,
        operation: &Registered,
        input: impl FnOnce(&Claims) -> Value,
    ) -> Result<Reply> {
        let claims = claims(headers, operation.meta.idempotent())?;
        let mut input = input(&claims);
        let issues = check(&operation.input, &mut input, |_| "arguments");
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let method_and_path = format!("POST {} {}", self.path, operation.meta.id);
        let has_key = claims.idempotency_key.is_some();
        let fingerprint = has_key.then(|| fingerprint(&method_and_path, &input));
        let call = call(&self.services, &self.key, claims, &self.info, fingerprint);
        (operation.execute)(&call, &input).await
    }

    /// Returns the agent that the request acts as, where the key permits what the headers claim.
    pub(super) fn caller_id(&self, claims: &Claims) -> Option<String> {
        let (keys, mode) = (&self.services.keys, IdentityMode::HeadersOnly);
        let caller = Caller::resolve(&self.key, keys, mode, &Value::Null, claims);
        caller.ok().map(|caller| caller.agent_id)
    }
}

/// Returns what the headers claim, with the MCP connection that the request came through.
pub(super) fn claims(headers: &HeaderMap, is_idempotent: bool) -> Result<Claims> {
    let (mut claims, issues) = Claims::from_headers(headers, is_idempotent);
    if !issues.is_empty() {
        return Err(Error::Invalid(issues));
    }
    let connection = headers.get(CONNECTION_ID).and_then(|value| value.to_str().ok());
    let connection = connection.filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()));
    claims.door = Door::Mcp;
    claims.connection_id = connection.map(str::to_owned);
    Ok(claims)
}

/// Returns the call of an operation.
pub(super) fn call<'a>(
    services: &'a Services,
    key: &'a Key,
    claims: Claims,
    request: &'a RequestInfo,
    fingerprint: Option<[u8; 32]>,
) -> Call<'a> {
    Call { services, key: Some(key), claims, request, fingerprint, notice: Notice::default() }
}
