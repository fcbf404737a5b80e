//! One message of an MCP request, as the handlers of the protocol see it.
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, StatusCode, request::Parts};
use rmcp::{ErrorData, RoleServer, service::RequestContext};
use serde_json::{Map, Value};
use tracing::{Instrument as _, Span};

use super::{
    arguments::are_enough,
    bounds::{Answer, read},
    form::{ARGUMENTS, OfferedTool},
    sets::ToolSets,
};
use crate::{
    access::{Caller, Claims, Door, IdentityMode, Key, find_session},
    database::Consumer,
    http::panic_text,
    operation::{
        Call, Cancelled, ClientCall, Operations, Registered, Reply, RequestInfo, Services, cancel,
        fingerprint,
        input::{canonical_input, check, keep_free_form_as_text},
        record_status,
    },
    values::{Error, Issue, Result, limits::MAX_ID_BYTES},
};

/// The header that names an MCP connection.
pub(super) const CONNECTION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The argument that names a session.
const SESSION: &str = "session_id";

/// One message of a request, with everything that is needed to run an operation for it.
#[derive(Clone)]
pub(super) struct McpRequest {
    pub(super) services: Arc<Services>,
    pub(super) key: Key,
    pub(super) info: RequestInfo,
    /// The tools that the request can call.
    pub(super) tools: Arc<[Arc<OfferedTool>]>,
    /// All tools.
    pub(super) sets: Arc<ToolSets>,
    pub(super) operations: Operations,
    /// The id of the request as JSON.
    pub(super) id: Arc<str>,
    pub(super) path: Arc<str>,
    /// The position of the message in a batch.
    pub(super) place_in_batch: Option<usize>,
    /// The span of the whole HTTP request.
    pub(super) span: Span,
    pub(super) outcome: Arc<OnceLock<Outcome>>,
    /// What the client should know about the arguments that were taken.
    pub(super) hint: Arc<OnceLock<String>>,
}

/// From where the input of an operation comes.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// The arguments of a call of a tool.
    Arguments(&'a OfferedTool, &'a Map<String, Value>),
    /// The input of a resource.
    Fixed(fn() -> Value),
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
        input: Input<'_>,
    ) -> Result<Result<Answer>, ErrorData> {
        let client_call = OnceLock::new();
        let running = self.execute(headers, operation, input, &client_call);
        let running = AssertUnwindSafe(running).catch_unwind();
        let span = self.span.in_scope(|| self.info.span(operation.meta.id));
        let result = tokio::select! {
            result = running.instrument(span.clone()) => result,
            // Never sent: its client has disconnected.
            () = cx.ct.cancelled() => {
                if let Some(call) = client_call.get() {
                    self.abandon(headers, call).await;
                }
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
        Ok(result
            .and_then(|reply| read(&reply.body).map_err(|error| Error::Internal(error.into()))))
    }

    async fn execute(
        &self,
        headers: &HeaderMap,
        operation: &Registered,
        input: Input<'_>,
        client_call: &OnceLock<ClientCall>,
    ) -> Result<Reply> {
        let mut claims = claims(headers, operation.meta.idempotent())?;
        // The header holds for the whole batch, and each of its calls has an effect of its own.
        if let (Some(place), Some(key)) = (self.place_in_batch, &mut claims.idempotency_key) {
            key.push_str(&format!("#{place}"));
        }
        let (mut input, unread) = match input {
            Input::Fixed(input) => (input(), Vec::new()),
            Input::Arguments(tool, arguments) => {
                // Where the tool has no such argument, it must name the session of the caller.
                let names_caller = arguments.contains_key(SESSION)
                    && !tool.form.arguments().any(|argument| argument == SESSION);
                let caller = match names_caller {
                    true => self.caller_in_connection(&claims).await,
                    false => self.caller(&claims),
                };
                let (input, issues, hint) =
                    tool.form.input(&operation.input, arguments, caller.as_ref());
                if let Some(hint) = hint {
                    self.hint.get_or_init(|| hint);
                }
                (input, issues)
            }
        };
        keep_free_form_as_text(&operation.input, &mut input);
        let mut issues = check(&operation.input, &mut input, |_| ARGUMENTS);
        // One issue for each value: what could not be read was checked as it was sent. Where it is only counted,
        // its place is not known.
        let is_told = |issue: &Issue| unread.iter().any(|other| other.loc == issue.loc);
        issues.retain(|issue| !are_enough(&unread) && !is_told(issue));
        issues.extend(unread);
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let method_and_path = format!("POST {} {}", self.path, operation.meta.id);
        let has_key = claims.idempotency_key.is_some();
        let fingerprint = has_key
            .then(|| fingerprint(&method_and_path, &canonical_input(&operation.input, &input)));
        let seconds = input["wait_seconds"].as_i64().unwrap_or_default();
        let time_to_wait = self.services.config.longest_wait(seconds);
        let client_call = (!time_to_wait.is_zero()).then(|| {
            client_call.get_or_init(|| {
                let connection_id = claims.connection_id.clone().unwrap_or_default();
                ClientCall::new(connection_id, self.id.to_string(), time_to_wait)
            })
        });
        let call = call(&self.services, &self.key, claims, &self.info, fingerprint);
        let call = Call { client_call, ..call };
        (operation.execute)(&call, &input).await
    }

    /// Ends a call whose client has disconnected, so that it keeps nothing. A run that was interrupted can
    /// be about to commit.
    async fn abandon(&self, headers: &HeaderMap, client_call: &ClientCall) {
        let Ok(claims) = claims(headers, false) else { return };
        let Some(caller) = self.caller_in_connection(&claims).await else { return };
        let call = call(&self.services, &self.key, claims, &self.info, None);
        let cancelled = Cancelled::Call(client_call);
        if let Err(error) = cancel(&call, &self.operations, &caller, cancelled).await {
            tracing::warn!(%error, "a call whose client has disconnected could not be cancelled");
        }
    }

    /// Returns the caller that the headers claim, where the key permits it. Its trust is not known yet.
    pub(super) fn caller(&self, claims: &Claims) -> Option<Caller> {
        let (keys, mode) = (&self.services.keys, IdentityMode::HeadersOnly);
        Caller::resolve(&self.key, keys, mode, &Value::Null, claims).ok()
    }

    /// Returns the caller that the headers claim, in the session that was registered through the
    /// connection.
    async fn caller_in_connection(&self, claims: &Claims) -> Option<Caller> {
        let mut caller = self.caller(claims)?;
        let mut db = self.services.db.connect_lazily(Consumer::workspace(&caller.workspace));
        let agent = (caller.workspace.as_str(), caller.agent_id.as_str());
        let named = caller.session_id.take();
        // A connection that has ended is refused when the operation runs.
        if let Ok(found) = find_session(&mut db, &self.services.config, claims, agent, named).await
        {
            db.commit_and_release().await.ok()?;
            caller.session_id = found;
        }
        Some(caller)
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
    Call::new(services, Some(key), claims, request, fingerprint)
}
