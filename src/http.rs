//! The router: the same for the server, Lambda, the development loop and the tests.
//!
//! It knows no operation by name. The order of checks is part of the wire contract (conventions
//! 6): route, declared length, key, body and JSON, schema, then what `operation::execute` does.
use std::{
    convert::Infallible,
    mem,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, any},
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::Instrument as _;

use crate::{
    App, Config, Error, Issue, Result,
    auth::{Claims, Key},
    capabilities, docs, idempotency,
    input::{self, issue, value_error},
    mcp,
    metrics::Levels,
    openapi,
    operation::{Call, Meta, RequestInfo, admit_alone},
    probe,
    registry::{Operations, Registered},
    telemetry::{Noted, record_status},
    waiting::{Granted, Patience},
};

/// The most bytes a request's body may have (conventions, limits).
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// What is read of a body that is refused, and for how long, so that the client gets to read why.
const DISCARDED_BYTES: usize = 16 << 20;
const DISCARDING_TIME: Duration = Duration::from_secs(2);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Builds the router over all operations.
pub fn router(app: App) -> Router {
    let operations = capabilities::all();
    let site = Arc::new(Site::new(&operations));
    let mut router = Router::new();
    for path in site.paths().iter().filter(|it| *it != MCP) {
        router = router.route(path, methods(&site, path));
    }
    let mcp: MethodRouter<App> = methods(&site, MCP)
        .layer::<_, Infallible>(from_fn_with_state(app.clone(), around))
        .layer(mcp_cors(&app.config));
    router
        .fallback(async move |request: Request| {
            let moved = redirect(&site, None, request.uri());
            moved.unwrap_or_else(|| Error::NotFound("Not Found".to_owned()).respond(""))
        })
        .layer(from_fn_with_state(app.clone(), around))
        .layer(cors(&app.config))
        .route(MCP, mcp)
        .with_state(app)
}

/// What answers the methods of one registered path: a handler for each route, and one for the others.
fn methods(site: &Arc<Site>, path: &str) -> MethodRouter<App> {
    let routes = site.routes_at(path);
    let allowed: Vec<_> = routes.iter().map(|it| it.method.as_str()).collect();
    let allowed = allowed.join(", ");
    let all = site.clone();
    let mut methods = any(async move |request: Request| {
        let moved = redirect(&all, Some(request.method()), request.uri());
        moved.unwrap_or_else(|| other_method(&allowed))
    });
    for Route { method, template, target } in routes {
        let filter = MethodFilter::try_from(method).expect("a method of HTTP");
        let site = site.clone();
        methods = match target {
            Target::Operation(op) => {
                methods.on(filter, async move |State(app), Extension(id), request| {
                    answer_operation(app, &op, template, id, request).await
                })
            }
            Target::Page(page) => {
                methods.on(filter, async move |State(app), Extension(id), headers| {
                    answer_page(app, &site, page, template, id, headers).await
                })
            }
            Target::Mcp => methods.on(filter, async move |State(app), Extension(id), request| {
                site.mcp.answer(app, id, request).await
            }),
        };
    }
    methods
}

/// The same for the MCP endpoint: other pages, and the headers of its protocol besides.
fn mcp_cors(config: &Config) -> CorsLayer {
    let own = ["mcp-protocol-version", "mcp-method", "mcp-name"];
    let headers = HEADERS.iter().chain(&own).map(|it| HeaderName::from_static(it));
    let headers = headers.chain([mcp::CONNECTION_ID]).collect::<Vec<_>>();
    let settings = config.mcp.clone();
    cors(config)
        .allow_origin(AllowOrigin::predicate(move |origin, _| settings.takes_origin(origin)))
        .allow_headers(headers)
        .expose_headers([REQUEST_ID, REPLAYED, mcp::CONNECTION_ID])
}

/// The headers that pages may send.
const HEADERS: [&str; 10] = [
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

/// Which pages may call the service from a browser, and with what. Answers every OPTIONS itself.
fn cors(config: &Config) -> CorsLayer {
    let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    CorsLayer::new()
        .allow_origin(config.cors_origins.clone())
        .allow_methods(methods.map(|it| it.parse::<Method>().expect("a known method")))
        .allow_headers(HEADERS.map(HeaderName::from_static))
        .expose_headers([REQUEST_ID, REPLAYED])
        .max_age(Duration::from_secs(600))
}

/// Everything that can be reached.
struct Site {
    routes: Vec<Route>,
    mcp: mcp::Endpoint,
    openapi: Value,
    docs: String,
}

#[derive(Clone)]
struct Route {
    method: Method,
    /// As in `/locks/status/{*path}`: a starred part takes the rest of the path.
    template: &'static str,
    target: Target,
}

#[derive(Clone)]
enum Target {
    Operation(Arc<Registered>),
    Page(Page),
    Mcp,
}

/// The routes that are no operations. None but the metrics needs a key; a wrong one is refused all
/// the same.
#[derive(Clone, Copy)]
pub(crate) enum Page {
    Health,
    Live,
    Ready,
    OpenApi,
    Docs,
    Metrics,
}

/// Path, summary and content of each route that is no operation.
pub(crate) const PAGES: [(&str, &str, Page); 6] = [
    ("/health", "Whether the database answers.", Page::Health),
    ("/live", "Whether the process lives; does not touch the database.", Page::Live),
    (
        "/ready",
        "Whether the service can do its work: database, schema and a trial write.",
        Page::Ready,
    ),
    ("/openapi.json", "This document.", Page::OpenApi),
    ("/docs", "The same for people.", Page::Docs),
    ("/metrics", "Counters for Prometheus; needs a key unless they are public.", Page::Metrics),
];

/// The path of the MCP endpoint.
pub(crate) const MCP: &str = "/mcp";

impl Site {
    fn new(operations: &Operations) -> Self {
        let pages = PAGES.map(|(template, _, page)| Route {
            method: Method::GET,
            template,
            target: Target::Page(page),
        });
        let mcp = mcp::METHODS.map(|method| Route { method, template: MCP, target: Target::Mcp });
        let mut routes = [&pages[..], &mcp[..]].concat();
        for operation in operations.iter() {
            for route in operation.meta.routes {
                let (method, template) = route.split_once(' ').expect("a method and a path");
                let method = method.parse().expect("a known method");
                let target = Target::Operation(operation.clone());
                routes.push(Route { method, template, target });
            }
        }
        let (openapi, docs) = (openapi::document(operations), docs::page(operations));
        Self { routes, mcp: mcp::Endpoint::new(operations), openapi, docs }
    }

    /// Every path to register. The part that a star takes may be empty, which a star of axum's
    /// does not match, so such a template is registered a second time without it.
    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<_> = self.routes.iter().map(|it| it.template.to_owned()).collect();
        paths.extend(self.routes.iter().filter_map(|it| open_end(it.template)).map(str::to_owned));
        paths.sort();
        paths.dedup();
        paths
    }

    /// The routes of one registered path, one for each method. A path that lies below an open-ended template
    /// answers the methods of that one too: `DELETE /locks/acquire` frees the lock `acquire`.
    fn routes_at(&self, path: &str) -> Vec<Route> {
        let below =
            |it: &&Route| open_end(it.template).is_some_and(|start| path.starts_with(start));
        let mut candidates: Vec<_> =
            self.routes.iter().filter(|it| it.template == path || below(it)).collect();
        candidates.sort_by_key(|it| std::cmp::Reverse((it.template == path, it.template.len())));
        let mut routes: Vec<Route> = Vec::new();
        for route in candidates {
            if routes.iter().all(|it| it.method != route.method) {
                routes.push(route.clone());
            }
        }
        routes
    }
}

/// `/locks/` of `/locks/{*path}`; nothing for a template without a star.
fn open_end(template: &str) -> Option<&str> {
    template.split_once("{*").map(|(start, _)| start)
}

/// The parts of a path that a template names, still percent-encoded; nothing when it does not fit.
fn capture<'a>(template: &'a str, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
    let mut captured = Vec::new();
    let (mut template, mut path) = (template, path);
    loop {
        let Some((literal, rest)) = template.split_once('{') else {
            return (template == path).then_some(captured);
        };
        path = path.strip_prefix(literal)?;
        let (name, rest) = rest.split_once('}')?;
        if let Some(name) = name.strip_prefix('*') {
            captured.push((name, path));
            return Some(captured);
        }
        let end = path.find('/').unwrap_or(path.len());
        captured.push((name, &path[..end]));
        (template, path) = (rest, &path[end..]);
    }
}

/// Around every request: its id, its time limit, its line in the log; a panic costs only the
/// request it happened in.
async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (noted, granted) = (Noted::default(), Granted::default());
    let limit = app.config.request_time;
    request.extensions_mut().insert(RequestId {
        id: id.clone(),
        started,
        noted: noted.clone(),
        granted: granted.clone(),
    });
    let _in_flight = app.metrics.in_flight.enter();
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = tokio::select! {
        answered = answered => match answered {
            Ok(response) => response,
            Err(panic) => Error::Internal(panic_text(&*panic).into()).respond(&id),
        },
        () = granted.over(started, limit) => {
            Error::Unavailable("the request took longer than it may".into()).respond(&id)
        }
    };
    let value = HeaderValue::from_str(&id).expect("a request id is plain ASCII");
    response.headers_mut().insert(REQUEST_ID, value);
    if app.config.access_log {
        let (status, ms) = (response.status().as_u16(), started.elapsed().as_millis() as u64);
        let (operation, agent) = (noted.operation(), noted.agent());
        tracing::info!(%method, path, status, ms, request_id = id, operation, agent, "request");
    }
    response
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|it| (*it).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}

/// What accompanies a request from its beginning.
#[derive(Clone)]
pub(crate) struct RequestId {
    pub(crate) id: String,
    started: Instant,
    pub(crate) noted: Noted,
    pub(crate) granted: Granted,
}

impl RequestId {
    /// Time since the request came in.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn info(&self) -> RequestInfo {
        RequestInfo { id: self.id.clone(), started: self.started, noted: self.noted.clone() }
    }
}

/// The caller's own id where it is a plain one, else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let own = headers.get(REQUEST_ID).and_then(|it| it.to_str().ok()).filter(|id| {
        let plain = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
        (1..=128).contains(&id.len()) && id.bytes().all(plain)
    });
    own.map(str::to_owned).unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
}

/// Answers a request to an operation, as a span from its key to its answer. Failures are logged in it.
async fn answer_operation(
    app: App,
    op: &Registered,
    template: &str,
    id: RequestId,
    request: Request,
) -> Response {
    id.noted.set_operation(op.meta.id);
    let span = span(op.meta.id, &id);
    let answered = operate(&app, op, template, &id, request).instrument(span.clone()).await;
    let response = answered.unwrap_or_else(|error| {
        span.record("agent.id", id.noted.agent());
        span.in_scope(|| error.respond(&id.id))
    });
    record_status(&span, response.status());
    app.metrics.answered(op.meta.id, response.status().as_u16(), id.elapsed());
    response
}

/// Answers a request to a page.
async fn answer_page(
    app: App,
    site: &Site,
    page: Page,
    template: &'static str,
    id: RequestId,
    headers: HeaderMap,
) -> Response {
    id.noted.set_operation(template);
    let shown = show(&app, site, page, &id, &headers).await;
    let response = shown.unwrap_or_else(|error| error.respond(&id.id));
    app.metrics.answered(template, response.status().as_u16(), id.elapsed());
    response
}

/// The span of a request, or of a tool call where a request carries several. Agent and resource become
/// known on the way.
pub(crate) fn span(operation: &'static str, id: &RequestId) -> tracing::Span {
    tracing::info_span!(
        "http",
        otel.name = operation,
        otel.kind = "server",
        operation,
        request_id = id.id,
        agent.id = tracing::field::Empty,
        resource = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
    )
}

/// `307` to the path without its trailing slash, where that one is answered (by `method`, if
/// given; a HEAD asks for what a GET does). Not where the slash may belong to a lock key.
fn redirect(site: &Site, method: Option<&Method>, uri: &Uri) -> Option<Response> {
    let path = uri.path().strip_suffix('/')?;
    let method = method.map(|it| if it == Method::HEAD { &Method::GET } else { it });
    let in_rest = |it: &Route| open_end(it.template).is_some_and(|start| path.starts_with(start));
    let known = |it: &Route| {
        method.is_none_or(|method| it.method == *method) && capture(it.template, path).is_some()
    };
    let moved = !site.routes.iter().any(in_rest) && site.routes.iter().any(known);
    moved.then(|| {
        let query = uri.query().map(|it| format!("?{it}")).unwrap_or_default();
        let location = [(header::LOCATION, format!("{path}{query}"))];
        (StatusCode::TEMPORARY_REDIRECT, location).into_response()
    })
}

/// `405`, which says what is allowed.
fn other_method(allowed: &str) -> Response {
    let allow = [(header::ALLOW, allowed)];
    let body = Json(json!({ "detail": "Method Not Allowed" }));
    (StatusCode::METHOD_NOT_ALLOWED, allow, body).into_response()
}

async fn show(
    app: &App,
    site: &Site,
    page: Page,
    id: &RequestId,
    headers: &HeaderMap,
) -> Result<Response> {
    let key = authenticate(app, headers)?;
    Ok(match page {
        Page::Live => Json(probe::live()).into_response(),
        Page::Health => checked(probe::health(app).await),
        Page::Ready => checked(probe::ready(app).await),
        Page::OpenApi => Json(&site.openapi).into_response(),
        Page::Docs => Html(site.docs.clone()).into_response(),
        Page::Metrics => metrics(app, key, id, headers).await?,
    })
}

/// The key of a request, if it has one; an unknown one is counted.
fn authenticate<'a>(app: &'a App, headers: &HeaderMap) -> Result<Option<&'a Key>> {
    app.config.keys.authenticate(headers).inspect_err(|_| app.metrics.refused_key())
}

async fn metrics(
    app: &App,
    key: Option<&Key>,
    id: &RequestId,
    headers: &HeaderMap,
) -> Result<Response> {
    const META: Meta = Meta::read("read_metrics");
    if !app.config.public_metrics {
        let (claims, issues) = Claims::from_headers(headers, META.idempotent());
        if key.is_none() {
            return Err(Error::Unauthenticated);
        }
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let (request, patience) = (id.info(), Patience::default());
        let call = Call { app, key, claims, request, patience, fingerprint: None };
        admit_alone(&call, &META).await?;
    }
    let levels = Levels {
        database: app.db.connections(),
        pool_max: app.config.pool_max,
        max_connections: app.config.max_connections,
        waiting: app.waiting.count(),
    };
    let text = app.metrics.text(probe::VERSION, levels);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn checked<T: serde::Serialize>(state: Result<T, T>) -> Response {
    match state {
        Ok(well) => Json(well).into_response(),
        Err(unwell) => (StatusCode::SERVICE_UNAVAILABLE, Json(unwell)).into_response(),
    }
}

/// One request to one operation.
async fn operate(
    app: &App,
    op: &Registered,
    template: &str,
    id: &RequestId,
    request: Request,
) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let open = op.meta.open && app.config.public_reads;
    let (key, body) = read_request(app, open, &parts.headers, body).await?;
    let asked = Asked { op, template, parts: &parts, body: &body };
    let (claims, issues) = Claims::from_headers(&parts.headers, op.meta.idempotent());
    let (input, fingerprint) = asked.input(claims.idempotency_key.is_some(), issues)?;
    let (request, patience) = (id.info(), Patience::new(&id.granted));
    let reply = op.call(&Call { app, key, claims, request, patience, fingerprint }, &input).await?;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], reply.body).into_response();
    if reply.replayed {
        response.headers_mut().insert(REPLAYED, const { HeaderValue::from_static("true") });
    }
    Ok(response)
}

/// The key of a request, which may have none where it is `open`, and its body, which is not read for
/// anybody else.
pub(crate) async fn read_request<'a>(
    app: &'a App,
    open: bool,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Option<&'a Key>, Bytes)> {
    let admitted = if declared_length(headers) > MAX_BODY_BYTES as u64 {
        Err(Error::TooLarge)
    } else {
        authenticate(app, headers)
    };
    match admitted {
        Ok(key) if key.is_some() || open => Ok((key, read(body, app.config.body_time).await?)),
        refused => {
            // Who expects to be asked for the body has not sent any of it.
            if !headers.contains_key(header::EXPECT) {
                discard(body).await;
            }
            Err(refused.err().unwrap_or(Error::Unauthenticated))
        }
    }
}

/// What a request says to an operation, and where.
struct Asked<'a> {
    op: &'a Registered,
    template: &'a str,
    parts: &'a Parts,
    body: &'a [u8],
}

impl Asked<'_> {
    /// The operation's input, checked; and what an idempotency key stands for, if one is `given`. `issues`
    /// are those of the headers.
    fn input(&self, given: bool, mut issues: Vec<Issue>) -> Result<(Value, Option<[u8; 32]>)> {
        let (op, parts) = (self.op, self.parts);
        let has_body = ![Method::GET, Method::HEAD, Method::DELETE].contains(&parts.method);
        let mut body = if has_body { parse(&parts.headers, self.body)? } else { None };
        let fingerprint = |said: &Value| {
            let target = format!("{} {}", parts.method, parts.uri.path());
            idempotency::fingerprint(&target, said)
        };
        // Taken before the body's members become the input.
        let by_body =
            (given && has_body).then(|| fingerprint(body.as_ref().unwrap_or(&Value::Null)));

        let in_path: Vec<_> = capture(self.template, parts.uri.path()).unwrap_or_default();
        let root = |name: &str| match has_body {
            _ if in_path.iter().any(|(it, _)| *it == name) => "path",
            true => "body",
            false => "query",
        };
        let mut members = match &mut body {
            Some(Value::Object(members)) => mem::take(members),
            _ => Map::new(),
        };
        let query = if has_body { "" } else { parts.uri.query().unwrap_or_default() };
        self.add_named(query, &in_path, root, &mut members, &mut issues);
        let mut input = Value::Object(members);
        let needs_body =
            op.fields().any(|(name, _)| root(name) == "body" && input::required(&op.input, name));
        if body.is_none() && needs_body {
            let problem = ("missing", "Field required".to_owned());
            issues.push(issue(problem, &[json!("body")], &Value::Null));
        } else if let Some(body) = body.as_ref().filter(|it| !it.is_object()) {
            issues.push(not_an_object(body));
        } else {
            let found = input::check(&op.input, &mut input, root);
            // A member that could not even be decoded is not missing as well.
            let news =
                found.into_iter().filter(|it| issues.iter().all(|known| known.loc != it.loc));
            let news: Vec<_> = news.collect();
            issues.extend(news);
        }
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        // Where there is no body, the members of the query take its place.
        let fingerprint = by_body.or_else(|| given.then(|| fingerprint(&input)));
        Ok((input, fingerprint))
    }

    /// Adds what stands in the query and in the path. What the operation does not read is ignored, however it
    /// is written.
    fn add_named(
        &self,
        query: &str,
        in_path: &[(&str, &str)],
        root: impl Fn(&str) -> &'static str,
        members: &mut Map<String, Value>,
        issues: &mut Vec<Issue>,
    ) {
        let asked = pairs(query).filter(|(name, _)| root(name) == "query");
        let named = in_path.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        for (name, text) in asked.chain(named) {
            if self.op.fields().all(|(it, _)| *it != name) {
                continue;
            }
            match decode(&text) {
                Some(text) => drop(members.insert(name, text.into())),
                None => {
                    let loc = [json!(root(&name)), json!(name)];
                    let problem = value_error("expected percent-encoded UTF-8");
                    issues.push(issue(problem, &loc, &json!(text)));
                }
            }
        }
    }
}

fn declared_length(headers: &HeaderMap) -> u64 {
    let value = headers.get(header::CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    value.and_then(|it| it.parse().ok()).unwrap_or_default()
}

async fn read(mut body: Body, limit: Duration) -> Result<Bytes> {
    let whole = Limited::new(&mut body, MAX_BODY_BYTES).collect();
    let Ok(read) = tokio::time::timeout(limit, whole).await else {
        return Err(Error::TooSlow);
    };
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(Error::TooLarge)
        }
        Err(error) => {
            tracing::debug!(%error, "the body could not be read");
            Err(Error::Invalid(vec![json_invalid(0)]))
        }
    }
}

/// Reads on for a while and keeps nothing: a connection that is closed while its client still sends
/// is reset, and most clients lose the answer then.
async fn discard(mut body: Body) {
    let reading = async {
        let mut left = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(length) {
                Some(left) => left,
                None => break,
            };
        }
    };
    if tokio::time::timeout(DISCARDING_TIME, reading).await.is_err() {
        tracing::debug!("a refused body was still being sent");
    }
}

/// The body as JSON; nothing when it is empty.
fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Option<Value>> {
    if body.is_empty() {
        return Ok(None);
    }
    if !is_json(headers) {
        return Err(Error::Invalid(vec![not_an_object(&json!(String::from_utf8_lossy(body)))]));
    }
    match serde_json::from_slice(body) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(Error::Invalid(vec![json_invalid(offset(body, &error))])),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json")
}

/// The offset in bytes of the place where JSON stops being valid.
fn offset(body: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return body.len();
    }
    let lines = body.split_inclusive(|it| *it == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    before + error.column().saturating_sub(1)
}

fn json_invalid(offset: usize) -> Issue {
    let loc = [json!("body"), json!(offset)];
    issue(("json_invalid", "JSON decode error".to_owned()), &loc, &json!({}))
}

fn not_an_object(body: &Value) -> Issue {
    let text = "Input should be a valid dictionary or object to extract fields from";
    issue(("model_attributes_type", text.to_owned()), &[json!("body")], body)
}

/// The members of a query with their values, still percent-encoded. A plus is a space there.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter(|it| !it.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = name.replace('+', " ");
        (decode(&name).unwrap_or(name), value.replace('+', " "))
    })
}

pub(crate) fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(|it| it.into_owned())
}
