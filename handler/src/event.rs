//! Converts an event to a request and the response back, so that the router sees what the server would.
//!
//! `lambda_http` parses the kinds of events, but normalises paths as a browser does (`a/../b`), adds the stage
//! to them, keeps only one value of a repeated header, and panics at some queries. Lock keys are paths, so
//! this module takes path, query and headers from the event exactly as the client sent them.
use axum::Router;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use lambda_http::{
    Adapter, Body, Error, IntoResponse as _, LambdaEvent, Service as _, request::LambdaRequest,
    service_fn, tower::ServiceExt as _,
};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

/// The characters that a path must not contain. All others stay as they are, percent signs included.
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

/// The characters to encode in a path that the service in front has decoded: a percent sign there is literal.
const OUTSIDE_DECODED_PATHS: &AsciiSet = &OUTSIDE_PATHS.add(b'%');

/// The characters that a query must not contain.
const OUTSIDE_QUERIES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');

/// The limits of an answer as JSON, in bytes: those of Lambda and of a load balancer, less the envelope of the
/// body.
const MOST_BYTES: usize = 6 * 1024 * 1024 - ENVELOPE_BYTES;
const MOST_BYTES_OF_LOAD_BALANCER: usize = 1024 * 1024 - ENVELOPE_BYTES;
const ENVELOPE_BYTES: usize = 16 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers one event. An event that is not an HTTP request is an error, which fails only this invocation.
pub(crate) async fn answer(
    router: Router,
    event: LambdaEvent<Value>,
) -> Result<impl Serialize, Error> {
    let LambdaEvent { payload: mut event, context } = event;
    let request_id = HeaderValue::from_str(&context.request_id)?;
    let original = Original::take(&mut event, request_id)?;
    let request: LambdaRequest = serde_json::from_value(event)?;
    let service = service_fn(|request| original.forward(router.clone(), request));
    Adapter::from(service).call(LambdaEvent::new(request, context)).await
}

/// The parts of a request as the client sent them.
struct Original {
    path: String,
    /// The prefix of the path in the client's address: a stage, or the base path of a domain.
    base: String,
    /// `None` if the event has the query only as an object.
    query: Option<String>,
    headers: HeaderMap,
    most_bytes: usize,
}

impl Original {
    /// Takes path, query and headers out of an event, so that `lambda_http` cannot change them.
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

    /// Restores path, query and headers in the request that `lambda_http` made of the rest of the event, and
    /// answers that request by the router.
    async fn forward(
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
        if let Some(location) = response.headers().get(header::LOCATION)
            && location.as_bytes().starts_with(b"/")
        {
            let location = [self.base.as_bytes(), location.as_bytes()].concat();
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_bytes(&location)?);
        }
        let bytes = length_as_json(response.body());
        if bytes <= self.most_bytes {
            return Ok(response);
        }
        let most = self.most_bytes;
        tracing::warn!(
            bytes,
            most,
            path = self.path,
            "the answer exceeds the limit of the platform"
        );
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

/// Returns the headers of an event, with every value of each. Names and values that are invalid in HTTP are an
/// error.
fn headers(event: &Value) -> Result<HeaderMap, Error> {
    let members = |name: &str| event[name].as_object().filter(|it| !it.is_empty());
    let members = members("multiValueHeaders").or_else(|| members("headers"));
    let mut headers = HeaderMap::new();
    for (name, values) in members.into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        for value in values.as_array().map_or(std::slice::from_ref(values), Vec::as_slice) {
            let value = value.as_str().ok_or("the value of a header is not a string")?;
            headers.append(&name, HeaderValue::from_bytes(value.as_bytes())?);
        }
    }
    Ok(headers)
}

/// Returns the path for the router, percent-encoded, and its prefix in the client's address.
fn path(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let context = &event["requestContext"];
    let sent = text(event.get("rawPath").unwrap_or(&event["path"]));
    let (stage, route) = (text(&context["stage"]), route(event));
    let base = route.and_then(|route| base(&sent, &route)).unwrap_or_else(|| {
        let stage = format!("/{stage}");
        let after = sent.strip_prefix(&stage).filter(|_| !["/", "/$default"].contains(&&*stage));
        let is_below_stage = after.is_some_and(|it| it.is_empty() || it.starts_with('/'));
        if is_below_stage { stage.len() } else { 0 }
    });
    let path = Some(&sent[base..]).filter(|it| !it.is_empty()).unwrap_or("/");
    // A REST API removes the stage from `path`, but not from `requestContext.path`.
    let seen = context["path"].as_str().unwrap_or(&sent);
    let base = seen.strip_suffix(path).or(seen.strip_suffix(path.trim_end_matches('/')));
    let outside = if is_decoded(event) { OUTSIDE_DECODED_PATHS } else { OUTSIDE_PATHS };
    (utf8_percent_encode(path, outside).to_string(), base.unwrap_or_default().to_owned())
}

/// Returns whether the service in front has decoded the path. HTTP APIs do, in both versions of their events;
/// REST APIs, function URLs and load balancers do not. Events of version 2 come from HTTP APIs and function
/// URLs, which differ in their host name.
fn is_decoded(event: &Value) -> bool {
    let domain = event["requestContext"]["domainName"].as_str().unwrap_or_default();
    match event["version"].as_str() {
        Some("1.0") => true,
        Some(_) => !domain.contains(".lambda-url.") && domain.contains('.'),
        None => false,
    }
}

/// Returns the path that matched the route of an API: its template with the parameters filled in. `None` for a
/// catch-all route without a parameter, such as `$default`.
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

/// Returns the length of the prefix of `path` before `route`, whether or not each is percent-encoded.
fn base(path: &str, route: &str) -> Option<usize> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let whole = decoded(path.trim_end_matches('/'));
    let route = route.trim_end_matches('/');
    let before = whole.strip_suffix(&decoded(route));
    // Some services decode the parameters of a route, and others do not.
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

/// Returns the length of a body inside the JSON of the answer. Counts instead of serializing, which would copy up
/// to 6 MB a second time.
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

/// Returns the 413 that replaces an answer above the limit.
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
