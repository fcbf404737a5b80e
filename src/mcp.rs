//! The MCP endpoint: the operations as tools, over streamable HTTP without any state in the process.
//!
//! Its protocol, for clients that `initialize` and for those that do not, is the library's; a tool's
//! name, arguments and description are its operation's. Each tool call is authorised as its own
//! operation, everything else as `use_mcp`.
mod message;
mod prompts;
mod server;
mod sets;

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, OnceLock},
};

use axum::{
    Json,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use rmcp::{
    ErrorData, RoleServer,
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::never::NeverSessionManager,
    },
};
use serde_json::{Value, json};
use tracing::{Instrument as _, Span};

use self::{
    message::{Asks, Incoming, Message},
    server::Server,
    sets::Sets,
};
use crate::{
    App, Error, Result,
    auth::{Caller, Claims, Key, MAX_ID_BYTES},
    connection,
    http::{self as door, MAX_BODY_BYTES, RequestId},
    idempotency, input,
    operation::{Call, IdentityMode, Meta, Reply, admit_alone},
    registry::{Operations, Registered},
    telemetry::record_status,
    waiting::Patience,
};

/// What a request to the endpoint is authorised as, unless it calls a tool or reads a resource.
pub(crate) const META: Meta = Meta::read("use_mcp").writes();

/// The methods that the endpoint answers.
pub(crate) const METHODS: [Method; 2] = [Method::POST, Method::DELETE];

/// The header that names a connection.
pub(crate) const CONNECTION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// The endpoint over a list of operations.
pub(crate) struct Endpoint {
    service: StreamableHttpService<Server, NeverSessionManager>,
    sets: Sets,
    resources: HashSet<&'static str>,
}

/// One message as the protocol's handlers see it.
#[derive(Clone)]
struct Visit {
    app: App,
    key: Key,
    id: RequestId,
    tools: Arc<[Arc<Registered>]>,
    target: Arc<str>,
    span: Span,
    outcome: Arc<OnceLock<Outcome>>,
}

/// What became of an operation that a message asked for.
struct Outcome {
    operation: &'static str,
    /// The status that it would have had over HTTP.
    status: StatusCode,
    replayed: bool,
    /// Whether the connection turned out to be over.
    has_ended: bool,
}

/// An answer with what to count it as.
type Counted = (Response, &'static str, StatusCode);

/// The answers to the messages of a request.
struct Answers {
    counted: Vec<Counted>,
    is_batch: bool,
}

impl Answers {
    fn to_one(response: Response) -> Self {
        let status = response.status();
        Self { counted: vec![(response, META.name, status)], is_batch: false }
    }
}

impl Endpoint {
    pub(crate) fn new(operations: &Operations) -> Self {
        // Host and Origin are looked at for every method, which the library does not see.
        let mut transport = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(false)
            .with_json_response(true)
            .with_max_request_body_bytes(MAX_BODY_BYTES)
            .disable_allowed_hosts()
            .disable_allowed_origins();
        transport.sse_keep_alive = None;
        let server = Server { operations: operations.clone() };
        let service =
            StreamableHttpService::new(move || Ok(server.clone()), Arc::default(), transport);
        let resources = operations.resources().map(|it| it.uri).collect();
        Self { service, sets: Sets::new(operations), resources }
    }

    /// Answers a request, and counts each of its messages as what it asked for.
    pub(crate) async fn answer(&self, app: App, id: RequestId, request: Request) -> Response {
        let span = door::span(META.name, &id);
        let answered = self.receive(&app, &id, request, &span).instrument(span.clone()).await;
        let Answers { counted, is_batch } = answered
            .unwrap_or_else(|error| Answers::to_one(span.in_scope(|| error.respond(&id.id))));
        let names: Vec<_> = counted.iter().map(|it| it.1).collect();
        for (_, name, status) in &counted {
            app.metrics.answered(name, status.as_u16(), id.elapsed());
            record_status(&span, *status);
        }
        id.noted.set_operation(if let [only] = names[..] { only } else { META.name });
        let mut responses = counted.into_iter().map(|it| it.0);
        match responses.next() {
            Some(only) if !is_batch => only,
            first => together(first.into_iter().chain(responses)).await,
        }
    }

    async fn receive(
        &self,
        app: &App,
        id: &RequestId,
        request: Request,
        span: &Span,
    ) -> Result<Answers> {
        let (mut parts, body) = request.into_parts();
        let (key, body) = door::read_request(app, false, &parts.headers, body).await?;
        let key = key.ok_or(Error::Unauthenticated)?;
        app.config.mcp.admit(&parts.headers)?;
        let query = parts.uri.query().unwrap_or_default();
        let asked = door::pairs(query).find(|it| it.0 == "tools");
        let asked = asked.map(|it| door::decode(&it.1).unwrap_or(it.1));
        let tools: Arc<[_]> = self.sets.select(asked.as_deref())?.into();
        if parts.method == Method::DELETE {
            return end(app, key, id, &parts.headers).await.map(Answers::to_one);
        }
        // The library wants a name, and has nothing against any.
        let localhost = const { HeaderValue::from_static("localhost") };
        parts.headers.entry(header::HOST).or_insert(localhost);
        let visit = |outcome| Visit {
            app: app.clone(),
            key: key.clone(),
            id: id.clone(),
            tools: tools.clone(),
            target: parts.uri.path().into(),
            span: span.clone(),
            outcome,
        };
        let Incoming { messages, is_batch } = match message::read(&parts.headers, body) {
            Ok(incoming) => incoming,
            Err(refused) => return Ok(Answers::to_one(refused.respond())),
        };
        let runs_something = |message: &Message| match &message.asks {
            Asks::Tool(name) => tools.iter().any(|it| it.is_tool(name)),
            Asks::Resource(uri) => self.resources.contains(uri.as_str()),
            Asks::Nothing { .. } => false,
        };
        // What runs no operation is authorised here, before anything has an effect.
        if !messages.iter().all(runs_something) {
            let claims = claims(&parts.headers, false)?;
            admit_alone(&call(app, key, claims, id, None), &META).await?;
        }
        let mut counted = Vec::new();
        for message in messages {
            counted.push(self.pass(visit(Arc::default()), &parts, message).await?);
        }
        Ok(Answers { counted, is_batch })
    }

    /// The answer to one message.
    async fn pass(&self, visit: Visit, parts: &Parts, message: Message) -> Result<Counted> {
        let outcome = visit.outcome.clone();
        let mut parts = parts.clone();
        parts.extensions.insert(visit);
        let request = Request::from_parts(parts, Body::from(message.body));
        let mut response = readable(self.service.handle(request).await.map(Body::new)).await;
        if message.asks == (Asks::Nothing { is_initialize: true }) && response.status().is_success()
        {
            let fresh = uuid::Uuid::new_v4().to_string().parse().expect("plain ASCII");
            response.headers_mut().insert(CONNECTION_ID, fresh);
        }
        let Some(outcome) = outcome.get() else {
            let status = response.status();
            return Ok((response, META.name, status));
        };
        if outcome.has_ended {
            return Err(Error::ConnectionEnded);
        }
        if outcome.replayed {
            let replayed = const { HeaderValue::from_static("true") };
            response.headers_mut().insert(door::REPLAYED, replayed);
        }
        Ok((response, outcome.operation, outcome.status))
    }
}

/// The same answer; where it is a failure in plain words, as JSON like every other failure.
async fn readable(response: Response) -> Response {
    let content = response.headers().get(header::CONTENT_TYPE);
    let is_json = content.is_some_and(|it| it.as_bytes().starts_with(b"application/json"));
    let status = response.status();
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = body.collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut response = (status, Json(json!({ "detail": text }))).into_response();
    response.headers_mut().extend(parts.headers);
    response
}

/// One response for a batch: the list of the answers; notifications have none.
async fn together(responses: impl Iterator<Item = Response>) -> Response {
    let mut bodies: Vec<Value> = Vec::new();
    for response in responses {
        let body = response.into_body().collect().await.map(|it| it.to_bytes()).unwrap_or_default();
        bodies.extend(serde_json::from_slice::<Value>(&body));
    }
    match bodies.is_empty() {
        true => StatusCode::ACCEPTED.into_response(),
        false => Json(bodies).into_response(),
    }
}

/// Ends a connection whose client says that it is over; said twice, it is so already.
async fn end(app: &App, key: &Key, id: &RequestId, headers: &HeaderMap) -> Result<Response> {
    let claims = claims(headers, false)?;
    let Some(connection_id) = claims.connection_id.clone() else {
        return Err(Error::BadRequest("Mcp-Session-Id: expected the connection to end".to_owned()));
    };
    let call = call(app, key, claims, id, None);
    let caller = match admit_alone(&call, &META).await {
        Err(Error::ConnectionEnded) => return Ok(StatusCode::NO_CONTENT.into_response()),
        admitted => admitted?,
    };
    let mut db = app.db.acquire().await?;
    connection::end(&mut db, &caller, &connection_id).await?;
    db.done().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What the headers claim, with the connection that the request came through.
fn claims(headers: &HeaderMap, idempotent: bool) -> Result<Claims> {
    let (mut claims, issues) = Claims::from_headers(headers, idempotent);
    if !issues.is_empty() {
        return Err(Error::Invalid(issues));
    }
    let connection = headers.get(CONNECTION_ID).and_then(|it| it.to_str().ok());
    claims.connection_id =
        connection.filter(|it| (1..=MAX_ID_BYTES).contains(&it.len())).map(str::to_owned);
    Ok(claims)
}

fn call<'a>(
    app: &'a App,
    key: &'a Key,
    claims: Claims,
    id: &RequestId,
    fingerprint: Option<[u8; 32]>,
) -> Call<'a> {
    let (request, patience) = (id.info(), Patience::new(&id.granted));
    Call { app, key: Some(key), claims, request, patience, fingerprint }
}

impl Visit {
    fn of(cx: &RequestContext<RoleServer>) -> Result<(&Self, &HeaderMap), ErrorData> {
        let parts = cx.extensions.get::<Parts>();
        let found = parts.and_then(|it| Some((it.extensions.get::<Self>()?, &it.headers)));
        found.ok_or_else(|| ErrorData::internal_error("the request is gone", None))
    }

    /// Runs an operation; nothing of it outlives its request, and a panic costs only that.
    async fn run(
        &self,
        cx: &RequestContext<RoleServer>,
        headers: &HeaderMap,
        op: &Registered,
        input: impl FnOnce(&Claims) -> Value,
    ) -> Result<Result<Value>, ErrorData> {
        let running = AssertUnwindSafe(self.run_to_end(headers, op, input)).catch_unwind();
        let span = self.span.in_scope(|| door::span(op.meta.id, &self.id));
        let answered = tokio::select! {
            answered = running.instrument(span.clone()) => answered,
            // Nobody reads this.
            () = cx.ct.cancelled() => {
                return Err(ErrorData::internal_error("the client has gone", None));
            }
        };
        let answered =
            answered.unwrap_or_else(|panic| Err(Error::Internal(door::panic_text(&*panic).into())));
        if answered.is_err() {
            self.span.record("agent.id", self.id.noted.agent());
        }
        let status = answered.as_ref().map_or_else(Error::status, |_| StatusCode::OK);
        record_status(&span, status);
        self.outcome.get_or_init(|| Outcome {
            operation: op.meta.id,
            status,
            replayed: answered.as_ref().is_ok_and(|it| it.replayed),
            has_ended: matches!(answered, Err(Error::ConnectionEnded)),
        });
        Ok(answered.and_then(|it| it.value()))
    }

    async fn run_to_end(
        &self,
        headers: &HeaderMap,
        op: &Registered,
        input: impl FnOnce(&Claims) -> Value,
    ) -> Result<Reply> {
        let claims = claims(headers, op.meta.idempotent())?;
        let mut input = input(&claims);
        let issues = input::check(&op.input, &mut input, |_| "arguments");
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let target = format!("POST {} {}", self.target, op.meta.id);
        let key_given = claims.idempotency_key.is_some();
        let fingerprint = key_given.then(|| idempotency::fingerprint(&target, &input));
        op.call(&call(&self.app, &self.key, claims, &self.id, fingerprint), &input).await
    }

    /// The agent that the request acts as, if it may act as the one that it names.
    fn caller_id(&self, claims: &Claims) -> Option<String> {
        let (config, mode) = (&self.app.config, IdentityMode::HeadersOnly);
        let free = config.allow_workspace_header;
        let claimed = Caller::claim(&self.key, &config.keys, mode, &Value::Null, claims, free);
        claimed.ok().map(|it| it.agent_id)
    }
}
