//! From an event to a request and back, so that the router sees what the server would see.
//!
//! `lambda_http` knows the kinds of events, but it normalises paths as a browser does (`a/../b`),
//! puts the stage into them, keeps one value of a repeated header and panics at some queries.
//! Lock keys are paths, so path, query and headers are taken from the event as they were sent.
use axum::Router;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use lambda_http::{
    Adapter, Body, Error, IntoResponse as _, LambdaEvent, Service as _, request::LambdaRequest,
    service_fn, tower::ServiceExt as _,
};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

/// What cannot stand in a path. The rest is left as it is, also percent signs.
const OUTSIDE_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The same in a path that was decoded on its way here: a percent sign is meant as one.
const OUTSIDE_DECODED_PATHS: &AsciiSet = &OUTSIDE_PATHS.add(b'%');

/// What cannot stand in a query.
const OUTSIDE_QUERIES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// The most bytes of an answer, as JSON: what Lambda passes on, and what a load balancer takes. Both
/// less what surrounds the body.
const MOST_BYTES: usize = 6 * 1024 * 1024 - ENVELOPE_BYTES;
const MOST_BYTES_OF_LOAD_BALANCER: usize = 1024 * 1024 - ENVELOPE_BYTES;
const ENVELOPE_BYTES: usize = 16 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers one event. An event that is no HTTP request is an error, which costs this invocation
/// only.
pub(crate) async fn answer(
    router: Router,
    event: LambdaEvent<Value>,
) -> Result<impl Serialize, Error> {
    let LambdaEvent { payload: mut event, context } = event;
    let request_id = HeaderValue::from_str(&context.request_id)?;
    let sent = Sent::take(&mut event, request_id)?;
    let request: LambdaRequest = serde_json::from_value(event)?;
    let service = service_fn(|request| sent.pass_on(router.clone(), request));
    Adapter::from(service).call(LambdaEvent::new(request, context)).await
}

/// A request as the client sent it, as far as the event tells.
struct Sent {
    path: String,
    /// What stood before the path in the client's address: a stage, or the base path of a domain.
    base: String,
    /// None where the event has no query as text.
    query: Option<String>,
    headers: HeaderMap,
    most_bytes: usize,
}

impl Sent {
    /// Takes path, query and headers out of an event; what is left holds nothing that
    /// `lambda_http` would read differently.
    fn take(event: &mut Value, request_id: HeaderValue) -> Result<Self, Error> {
        let mut headers = headers(event)?;
        if !headers.contains_key(REQUEST_ID) {
            headers.insert(REQUEST_ID, request_id);
        }
        let (path, base) = path(event);
        let query = event["rawQueryString"]
            .as_str()
            .map(|it| utf8_percent_encode(it, OUTSIDE_QUERIES).to_string());
        let most_bytes = if event["requestContext"]["elb"].is_object() {
            MOST_BYTES_OF_LOAD_BALANCER
        } else {
            MOST_BYTES
        };
        let members = event.as_object_mut().ok_or("the event is not an object")?;
        let taken = [
            ("headers", json!({})),
            ("multiValueHeaders", json!({})),
            ("rawQueryString", json!("")),
            ("path", json!("/")),
            ("rawPath", json!("/")),
        ];
        for (name, nothing) in taken {
            if let Some(member) = members.get_mut(name) {
                *member = nothing;
            }
        }
        Ok(Self { path, base, query, headers, most_bytes })
    }

    /// Has the router answer what `lambda_http` made of the rest of the event.
    async fn pass_on(
        &self,
        router: Router,
        mut request: lambda_http::Request,
    ) -> Result<Response<Body>, Error> {
        let query = self.query.as_deref().or(request.uri().query()).unwrap_or_default();
        let separator = if query.is_empty() { "" } else { "?" };
        *request.uri_mut() = format!("{}{separator}{query}", self.path).parse::<Uri>()?;
        request.headers_mut().extend(self.headers.clone());
        let response = router.oneshot(request.map(axum_body)).await?;
        let mut response = response.into_response().await;
        if let Some(moved) = response.headers().get(header::LOCATION)
            && moved.as_bytes().starts_with(b"/")
        {
            let moved = [self.base.as_bytes(), moved.as_bytes()].concat();
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_bytes(&moved)?);
        }
        let bytes = length_as_json(response.body());
        if bytes <= self.most_bytes {
            return Ok(response);
        }
        tracing::warn!(bytes, most = self.most_bytes, path = self.path, "the answer is too large");
        Ok(too_large(response, bytes, self.most_bytes).await)
    }
}

fn axum_body(body: Body) -> axum::body::Body {
    match body {
        Body::Text(text) => text.into(),
        Body::Binary(bytes) => bytes.into(),
        _ => axum::body::Body::empty(),
    }
}

/// The headers of an event, every value of each. What a client may not send over a socket either is
/// an error.
fn headers(event: &Value) -> Result<HeaderMap, Error> {
    let members = |name: &str| event[name].as_object().filter(|it| !it.is_empty());
    let members = members("multiValueHeaders").or_else(|| members("headers"));
    let mut headers = HeaderMap::new();
    for (name, values) in members.into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        for value in values.as_array().map_or(std::slice::from_ref(values), Vec::as_slice) {
            let value = value.as_str().ok_or("a header is not a text")?;
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes())?);
        }
    }
    Ok(headers)
}

/// The path that the router knows, percent-encoded, and what stood before it in the client's
/// address.
fn path(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let context = &event["requestContext"];
    let sent = text(event.get("rawPath").unwrap_or(&event["path"]));
    let (stage, route) = (text(&context["stage"]), route(event));
    let base = route.and_then(|route| base(&sent, &route)).unwrap_or_else(|| {
        let stage = format!("/{stage}");
        let after = sent.strip_prefix(&stage).filter(|_| !["/", "/$default"].contains(&&*stage));
        let is_inside = after.is_some_and(|it| it.is_empty() || it.starts_with('/'));
        if is_inside { stage.len() } else { 0 }
    });
    let path = Some(&sent[base..]).filter(|it| !it.is_empty()).unwrap_or("/");
    // The path of a REST API has lost its stage, which the client's address has.
    let seen = context["path"].as_str().unwrap_or(&sent);
    let base = seen.strip_suffix(path).or(seen.strip_suffix(path.trim_end_matches('/')));
    let outside = if is_decoded(event) { OUTSIDE_DECODED_PATHS } else { OUTSIDE_PATHS };
    (utf8_percent_encode(path, outside).to_string(), base.unwrap_or_default().to_owned())
}

/// Whether a path was decoded on its way here, as HTTP APIs do in both versions of their events.
/// REST APIs, function URLs and load balancers pass it on as it was sent. In version 2 the identifier
/// of an HTTP API is not that of a function URL, which stands in the name of its host.
fn is_decoded(event: &Value) -> bool {
    let domain = event["requestContext"]["domainName"].as_str().unwrap_or_default();
    match event["version"].as_str() {
        Some("1.0") => true,
        Some(_) => !domain.contains(".lambda-url.") && domain.contains('.'),
        None => false,
    }
}

/// The path that the route of an API stands for in this event: its template, filled in. Nothing
/// where the route is a catch-all without a name.
fn route(event: &Value) -> Option<String> {
    let template = match event["resource"].as_str() {
        Some(resource) => resource,
        None => event["routeKey"].as_str()?.split_once(' ')?.1,
    };
    if !template.starts_with('/') {
        return None;
    }
    let mut filled = String::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        filled += literal;
        filled += event["pathParameters"][name.trim_end_matches('+')].as_str()?;
        rest = after;
    }
    Some(filled + rest)
}

/// The length of what stands before `route` in `path`, however each is encoded.
fn base(path: &str, route: &str) -> Option<usize> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let whole = decoded(path.trim_end_matches('/'));
    let route = route.trim_end_matches('/');
    let before = whole.strip_suffix(&decoded(route));
    // Services differ in whether they decode the members of a route.
    let before = before.or_else(|| whole.strip_suffix(route));
    let mut before = before?.len();
    let mut rest = path.as_bytes();
    while before > 0 {
        let is_encoded = rest.len() > 2
            && rest[0] == b'%'
            && rest[1].is_ascii_hexdigit()
            && rest[2].is_ascii_hexdigit();
        rest = &rest[if is_encoded { 3 } else { 1 }..];
        before -= 1;
    }
    let base = path.len() - rest.len();
    (rest.is_empty() || rest[0] == b'/').then_some(base)
}

/// The length of a body within the JSON that carries it.
fn length_as_json(body: &Body) -> usize {
    match body {
        Body::Text(text) => text
            .bytes()
            .map(|it| match it {
                b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
                0..0x20 => 6,
                _ => 1,
            })
            .sum(),
        Body::Binary(bytes) => bytes.len().div_ceil(3) * 4,
        _ => 0,
    }
}

/// What a client is told in place of an answer that cannot be passed on.
async fn too_large(unsent: Response<Body>, bytes: usize, most: usize) -> Response<Body> {
    let detail = format!(
        "The answer is too large for AWS Lambda: {bytes} bytes, of {most} at most. Ask for less, \
         for example with a smaller limit."
    );
    let mut response = json!({ "detail": detail }).into_response().await;
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    if let Some(id) = unsent.headers().get(REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}
