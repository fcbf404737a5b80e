//! The MCP endpoint: from an HTTP request to the messages in it, and back.
use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, OnceLock},
};

use axum::{
    Extension, Json,
    body::Body,
    extract::Request,
    middleware::from_fn_with_state,
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use rmcp::{
    model::ProtocolVersion,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use serde_json::{json, value::RawValue};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{Instrument as _, Span};

use super::{
    form::OfferedTool,
    message::{self, Asks, Incoming, Message},
    request::{CONNECTION_ID, McpRequest, call, claims},
    server::Server,
    sets::ToolSets,
};
use crate::{
    access::{Caller, Key, end_connection},
    config::Config,
    database::Consumer,
    http::{
        EXPOSED_HEADERS, HeldBody, REPLAYED, cors, decode, method_not_allowed, pairs, read_request,
        request_headers, respond, with_request_scope,
    },
    operation::{
        Call, Cancelled, Meta, Operations, RequestInfo, Services, authorize_page, cancel,
        count_refusal, record_status,
    },
    values::{Error, Result, limits::MAX_BODY_BYTES},
};

/// The operation by which a request is authorized, unless it calls a tool or reads a resource.
const META: Meta = Meta::read("use_mcp").writes();

/// The endpoint over a list of operations.
struct Endpoint {
    services: Arc<Services>,
    protocol: StreamableHttpService<Server, NeverSessionManager>,
    sets: Arc<ToolSets>,
    resources: HashSet<&'static str>,
    operations: Operations,
}

/// Returns the handlers for the path of the endpoint.
pub(crate) fn endpoint(services: &Arc<Services>, operations: &Operations) -> MethodRouter {
    let endpoint = Arc::new(Endpoint::new(services.clone(), operations));
    let answer = async move |Extension(info): Extension<RequestInfo>, request: Request| {
        endpoint.answer_request(&info, request).await
    };
    post(answer.clone())
        .delete(answer)
        .fallback(async || method_not_allowed("POST, DELETE"))
        .layer::<_, Infallible>(from_fn_with_state(services.clone(), with_request_scope))
        .layer(mcp_cors(&services.config))
}

/// Returns the CORS layer of the endpoint, with its own origins and the headers of its protocol.
fn mcp_cors(config: &Config) -> CorsLayer {
    let own = ["mcp-protocol-version", "mcp-method", "mcp-name"].map(HeaderName::from_static);
    let headers: Vec<_> = request_headers().into_iter().chain(own).chain([CONNECTION_ID]).collect();
    let exposed: Vec<_> = EXPOSED_HEADERS.into_iter().chain([CONNECTION_ID]).collect();
    let settings = config.mcp.clone();
    cors(config)
        .allow_origin(AllowOrigin::predicate(move |origin, _| settings.allows_origin(origin)))
        .allow_headers(headers)
        .expose_headers(exposed)
}

/// The answer to a message, with the operation and the status for the metrics.
struct Answer {
    response: Response,
    operation: &'static str,
    status: StatusCode,
}

/// The answers to the messages of a request.
struct Answers {
    list: Vec<Answer>,
    is_batch: bool,
    /// The key of the request, unless it was refused.
    key: Option<Key>,
}

impl Answers {
    fn single(response: Response) -> Self {
        let (operation, status) = (META.name, response.status());
        Self { list: vec![Answer { response, operation, status }], is_batch: false, key: None }
    }
}

impl Endpoint {
    fn new(services: Arc<Services>, operations: &Operations) -> Self {
        // Host and Origin are checked here, for every method. The library checks them for some.
        let mut transport = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_max_request_body_bytes(MAX_BODY_BYTES)
            .disable_allowed_hosts()
            .disable_allowed_origins();
        transport.sse_keep_alive = None;
        let server = Server { operations: operations.clone() };
        let protocol =
            StreamableHttpService::new(move || Ok(server.clone()), Arc::default(), transport);
        let resources = operations.resources().map(|resource| resource.uri).collect();
        let sets = Arc::new(ToolSets::new(operations));
        Self { services, protocol, sets, resources, operations: operations.clone() }
    }

    /// Answers a request. Counts each of its messages for the operation that it runs.
    async fn answer_request(&self, info: &RequestInfo, request: Request) -> Response {
        let span = info.span(META.name);
        let result = self.receive(info, request, &span).instrument(span.clone()).await;
        let Answers { list, is_batch, key } = result
            .unwrap_or_else(|error| Answers::single(span.in_scope(|| respond(&error, &info.id))));
        for Answer { operation, status, .. } in &list {
            let metrics = &self.services.metrics;
            metrics.count_answer(operation, status.as_u16(), info.started.elapsed());
            record_status(&span, *status);
        }
        let only = if let [only] = &list[..] { only.operation } else { META.name };
        info.log.set_operation(only);
        let mut responses = list.into_iter().map(|answer| answer.response);
        let response = match responses.next() {
            Some(only) if !is_batch => only,
            first => combined(first.into_iter().chain(responses)).await,
        };
        match key {
            Some(key) => self.hold_answer(info, &key, response).await,
            None => response,
        }
    }

    /// Counts the bytes of an answer until they are written. It is always sent: its calls have had their effects.
    async fn hold_answer(&self, info: &RequestInfo, key: &Key, response: Response) -> Response {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        match self.services.hold_answer(info.party(Some(key)), body, true) {
            Ok(body) => Response::from_parts(parts, Body::from(body)),
            Err(error) => respond(&error, &info.id),
        }
    }

    async fn receive(&self, info: &RequestInfo, request: Request, span: &Span) -> Result<Answers> {
        let (services, (mut parts, body)) = (&self.services, request.into_parts());
        let (key, body) = read_request(services, info, true, &parts.headers, body).await?;
        let HeldBody { bytes: body, mut held } = body;
        let key = key.ok_or(Error::Unauthenticated)?;
        services.config.mcp.check_source(&parts.headers)?;
        let tools = self.selected_tools(parts.uri.query().unwrap_or_default())?;
        if parts.method == Method::DELETE {
            return end(services, key, info, &parts.headers).await.map(Answers::single);
        }
        // The library requires a host name and accepts any.
        let localhost = const { HeaderValue::from_static("localhost") };
        parts.headers.entry(header::HOST).or_insert(localhost);
        accept_both_types(&mut parts.headers);
        // Absent, it is that of JSON, as for every other route.
        let json = const { HeaderValue::from_static("application/json") };
        parts.headers.entry(header::CONTENT_TYPE).or_insert(json);
        let is_free_form = |tool: &str, argument: &str| {
            let tool = tools.iter().find(|offered| offered.name() == tool);
            tool.is_some_and(|tool| tool.is_free_form(argument))
        };
        let Incoming { messages, is_batch } =
            match message::parse(&parts.headers, body, &is_free_form) {
                Ok(incoming) => incoming,
                Err(refusal) => return Ok(Answers::single(refusal.respond())),
            };
        held.keep(messages.iter().map(|message| message.body.len()).sum());
        // A message that runs no operation is authorized here, before any message has an effect.
        if !messages.iter().all(|message| self.runs_operation(message, &tools)) {
            let call = call(services, key, claims(&parts.headers, false)?, info, None);
            let caller = authorize_page(&call, &META).await?;
            self.cancel(&call, &caller, &messages).await?;
        }
        let mut list = Vec::new();
        for (place, message) in messages.into_iter().enumerate() {
            let request = McpRequest {
                services: services.clone(),
                key: key.clone(),
                info: info.clone(),
                tools: tools.clone(),
                sets: self.sets.clone(),
                operations: self.operations.clone(),
                id: message.id.clone().unwrap_or_default().into(),
                path: parts.uri.path().into(),
                place_in_batch: is_batch.then_some(place),
                span: span.clone(),
                outcome: Arc::default(),
                hint: Arc::default(),
            };
            list.push(self.pass_on(request, &parts, message).await?);
        }
        Ok(Answers { list, is_batch, key: Some(key.clone()) })
    }

    /// Ends the calls that the messages cancel.
    async fn cancel(&self, call: &Call<'_>, caller: &Caller, messages: &[Message]) -> Result<()> {
        let connection_id = call.claims.connection_id.as_deref().unwrap_or_default();
        for message in messages {
            if let Asks::Cancellation(request_id) = &message.asks {
                let cancelled = Cancelled::Request { connection_id, request_id };
                cancel(call, &self.operations, caller, cancelled).await?;
            }
        }
        Ok(())
    }

    /// Returns the tools that the query asks for.
    fn selected_tools(&self, query: &str) -> Result<Arc<[Arc<OfferedTool>]>> {
        let tools = pairs(query).find(|(name, _)| name == "tools");
        let tools = tools.map(|(_, value)| decode(&value).unwrap_or(value));
        Ok(self.sets.select(tools.as_deref())?.into())
    }

    fn runs_operation(&self, message: &Message, tools: &[Arc<OfferedTool>]) -> bool {
        match &message.asks {
            Asks::Tool(name) => tools.iter().any(|tool| tool.name() == name),
            Asks::Resource(uri) => self.resources.contains(uri.as_str()),
            Asks::Cancellation(_) | Asks::Nothing { .. } => false,
        }
    }

    /// Passes a message on to the library, which calls the handlers of [`Server`].
    async fn pass_on(
        &self,
        request: McpRequest,
        parts: &Parts,
        message: Message,
    ) -> Result<Answer> {
        let outcome: Arc<OnceLock<_>> = request.outcome.clone();
        let mut parts = parts.clone();
        parts.extensions.insert(request);
        let request = Request::from_parts(parts, Body::from(message.body));
        let answered = self.protocol.handle(request).await.map(Body::new);
        let mut response = failure_as_json(answered).await;
        let is_initialize = message.asks == (Asks::Nothing { is_initialize: true });
        if is_initialize && response.status().is_success() {
            let id = uuid::Uuid::new_v4().to_string();
            response.headers_mut().insert(CONNECTION_ID, id.parse().expect("plain ASCII"));
        }
        let Some(outcome) = outcome.get() else {
            let (operation, status) = (META.name, response.status());
            return Ok(Answer { response, operation, status });
        };
        if outcome.has_ended {
            return Err(Error::ConnectionEnded);
        }
        if outcome.replayed {
            let replayed = const { HeaderValue::from_static("true") };
            response.headers_mut().insert(REPLAYED, replayed);
        }
        Ok(Answer { response, operation: outcome.operation, status: outcome.status })
    }
}

/// Lets a client that takes JSON pass the library, which requires that it names the type of event streams
/// too. No answer is an event stream.
fn accept_both_types(headers: &mut HeaderMap) {
    let accepted: Vec<_> = headers.get_all(header::ACCEPT).iter().cloned().collect();
    let types = accepted.iter().filter_map(|value| value.to_str().ok());
    let mut types = types.flat_map(|value| value.split(',')).map(|range| {
        let essence = range.split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    });
    let takes_json = |essence: String| {
        ["*/*", "application/*", "application/json", ""].contains(&essence.as_str())
    };
    if accepted.is_empty() || types.any(takes_json) {
        let both = const { HeaderValue::from_static("application/json, text/event-stream") };
        headers.insert(header::ACCEPT, both);
    }
}

/// Why a request is refused whose `Accept` includes no form of JSON.
const NOT_JSON: &str = "Accept: expected application/json, alone or with other types, or no such header: answers are JSON";

/// Converts a failure that the library answers as plain text into JSON, like every other failure.
async fn failure_as_json(response: Response) -> Response {
    let content = response.headers().get(header::CONTENT_TYPE);
    let is_json =
        content.is_some_and(|content| content.as_bytes().starts_with(b"application/json"));
    let status = response.status();
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if text.contains("Unsupported MCP-Protocol-Version") {
        let known: Vec<_> = ProtocolVersion::KNOWN_VERSIONS.iter().map(|it| it.as_str()).collect();
        text.push_str(&format!("; expected one of {}", known.join(", ")));
    }
    if status == StatusCode::NOT_ACCEPTABLE {
        NOT_JSON.clone_into(&mut text);
    }
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = (status, Json(json!({ "detail": text }))).into_response();
    response.headers_mut().extend(parts.headers);
    response
}

/// Combines the answers to a batch into one response. Notifications have no answer.
async fn combined(responses: impl Iterator<Item = Response>) -> Response {
    let mut list = String::new();
    for response in responses {
        let body =
            response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        // A notification has no answer.
        if let Ok(body) = serde_json::from_slice::<&RawValue>(&body) {
            list.push(if list.is_empty() { '[' } else { ',' });
            list.push_str(body.get());
        }
    }
    if list.is_empty() {
        return StatusCode::ACCEPTED.into_response();
    }
    list.push(']');
    ([(header::CONTENT_TYPE, "application/json")], list).into_response()
}

/// Ends an MCP connection. Idempotent: a connection that has ended stays so. A quota bounds how many unknown
/// connections an agent can end.
async fn end(
    services: &Services,
    key: &Key,
    info: &RequestInfo,
    headers: &HeaderMap,
) -> Result<Response> {
    let claims = claims(headers, false)?;
    let Some(connection_id) = claims.connection_id.clone() else {
        return Err(Error::BadRequest("Mcp-Session-Id: expected the connection to end".to_owned()));
    };
    let call = call(services, key, claims, info, None);
    let caller = match authorize_page(&call, &META).await {
        Err(Error::ConnectionEnded) => return Ok(StatusCode::NO_CONTENT.into_response()),
        result => result?,
    };
    let agent = (&*caller.workspace, &*caller.agent_id);
    let ending = services.db.with_fresh_connection(async || {
        let mut db = services.db.acquire_connection(Consumer::workspace(agent.0)).await?;
        let refusal = end_connection(&mut db, &services.config, agent, &connection_id).await?;
        db.commit_and_release().await?;
        Ok(refusal)
    });
    let Some(reason) = ending.await? else { return Ok(StatusCode::NO_CONTENT.into_response()) };
    count_refusal(&services.metrics.limits, &reason, agent, info.party(Some(key)));
    Err(Error::QuotaExceeded(reason))
}
