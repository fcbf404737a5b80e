//! The services in front of a function, and the event that each makes of a request.
use std::collections::BTreeMap;

use axum::body::Bytes;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

/// A service in front of a function. Each has a recorded event in `handler/tests/events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A function URL.
    FunctionUrl,
    /// An HTTP API with stage `$default`.
    HttpApi,
    /// An HTTP API with a named stage, by its route for every path.
    HttpApiStage,
    /// An HTTP API with a named stage, by its catch-all route.
    HttpApiDefaultRoute,
    /// An HTTP API under a domain's base path.
    HttpApiDomain,
    /// An HTTP API that sends events in the older format.
    HttpApi1,
    /// A REST API.
    RestApi,
    /// A REST API under a domain's base path.
    RestApiDomain,
    /// A load balancer.
    Alb,
    /// A load balancer with multi-value headers.
    AlbMultiValue,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::FunctionUrl,
        Self::HttpApi,
        Self::HttpApiStage,
        Self::HttpApiDefaultRoute,
        Self::HttpApiDomain,
        Self::HttpApi1,
        Self::RestApi,
        Self::RestApiDomain,
        Self::Alb,
        Self::AlbMultiValue,
    ];

    /// Returns the recorded event of this kind: `GET /live`.
    ///
    /// # Panics
    /// When the file is not JSON.
    pub fn recorded(self) -> Value {
        let text = match self {
            Self::FunctionUrl => include_str!("../../tests/events/function_url.json"),
            Self::HttpApi => include_str!("../../tests/events/http_api.json"),
            Self::HttpApiStage => include_str!("../../tests/events/http_api_stage.json"),
            Self::HttpApiDefaultRoute => {
                include_str!("../../tests/events/http_api_default_route.json")
            }
            Self::HttpApiDomain => include_str!("../../tests/events/http_api_domain.json"),
            Self::HttpApi1 => include_str!("../../tests/events/http_api_1_0.json"),
            Self::RestApi => include_str!("../../tests/events/rest_api.json"),
            Self::RestApiDomain => include_str!("../../tests/events/rest_api_domain.json"),
            Self::Alb => include_str!("../../tests/events/alb.json"),
            Self::AlbMultiValue => include_str!("../../tests/events/alb_multi_value.json"),
        };
        serde_json::from_str(text).expect("a recorded event is JSON")
    }

    /// Returns whether the service decodes the path before the function sees it.
    pub fn decodes_paths(self) -> bool {
        match self {
            Self::HttpApi
            | Self::HttpApiStage
            | Self::HttpApiDefaultRoute
            | Self::HttpApiDomain
            | Self::HttpApi1 => true,
            Self::FunctionUrl | Self::RestApi | Self::RestApiDomain => false,
            Self::Alb | Self::AlbMultiValue => false,
        }
    }

    /// Returns the prefix of the path in the client's address: a stage, or the base path of a domain.
    pub fn base(self) -> &'static str {
        match self {
            Self::HttpApiStage | Self::HttpApiDefaultRoute | Self::RestApi => "/prod",
            Self::HttpApiDomain | Self::RestApiDomain => "/team/coord",
            Self::FunctionUrl | Self::HttpApi | Self::HttpApi1 => "",
            Self::Alb | Self::AlbMultiValue => "",
        }
    }

    /// Returns whether the event has every value of a repeated header.
    pub fn keeps_repeated_headers(self) -> bool {
        match self {
            Self::RestApi | Self::RestApiDomain | Self::HttpApi1 | Self::AlbMultiValue => true,
            Self::FunctionUrl | Self::Alb => false,
            Self::HttpApi | Self::HttpApiStage | Self::HttpApiDefaultRoute => false,
            Self::HttpApiDomain => false,
        }
    }

    /// Returns the event that the service would send for a request, whose path lacks the base path.
    ///
    /// # Panics
    /// When a header is not text.
    pub fn event(self, request: &Request<Bytes>) -> Value {
        let mut event = self.recorded();
        self.write_target(&mut event, request);
        self.write_headers(&mut event, request.headers());
        write_body(&mut event, request);
        event
    }

    /// Writes method, path and query into an event.
    fn write_target(self, event: &mut Value, request: &Request<Bytes>) {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let sent = if self.decodes_paths() { decode(path) } else { path.to_owned() };
        let based = format!("{}{sent}", self.base());
        let method = request.method().as_str();
        if event["rawPath"].is_string() {
            event["rawPath"] = json!(based);
            event["rawQueryString"] = json!(query);
            if !query.is_empty() {
                let values = grouped(pairs(query, true)).into_iter();
                let values = values.map(|(name, values)| (name, values.join(",")));
                event["queryStringParameters"] = json!(BTreeMap::from_iter(values));
            }
            event["requestContext"]["http"]["method"] = json!(method);
            event["requestContext"]["http"]["path"] = json!(based);
        } else {
            // A REST API removes its stage from the path, but not a domain's base path.
            let own = if self == Self::RestApi { sent.clone() } else { based.clone() };
            event["path"] = json!(own);
            event["httpMethod"] = json!(method);
            let is_alb = matches!(self, Self::Alb | Self::AlbMultiValue);
            let all = pairs(query, !is_alb);
            if event.get("queryStringParameters").is_some() {
                event["queryStringParameters"] = json!(BTreeMap::from_iter(all.clone()));
            }
            if event.get("multiValueQueryStringParameters").is_some() {
                event["multiValueQueryStringParameters"] = json!(grouped(all));
            }
            if !is_alb {
                event["requestContext"]["httpMethod"] = json!(method);
                event["requestContext"]["path"] = json!(based);
            }
        }
        if event["pathParameters"]["proxy"].is_string() {
            // Some services decode this parameter, so the tests cover both.
            let proxy = if self == Self::RestApi { path.to_owned() } else { decode(path) };
            event["pathParameters"]["proxy"] = json!(proxy.strip_prefix('/').unwrap_or(&proxy));
        }
    }

    fn write_headers(self, event: &mut Value, headers: &HeaderMap) {
        for name in headers.keys() {
            let values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|it| String::from_utf8(it.as_bytes().to_vec()).expect("a header is text"))
                .collect();
            let is_version_2 = event["rawPath"].is_string();
            if let Some(members) = event["multiValueHeaders"].as_object_mut() {
                replace(members, name, json!(values));
            }
            if let Some(members) = event["headers"].as_object_mut() {
                let last = values.last().cloned().unwrap_or_default();
                let single = if is_version_2 { values.join(",") } else { last };
                replace(members, name, json!(single));
            }
        }
    }

    /// Returns the response that the service makes of the function's answer.
    ///
    /// # Panics
    /// When the answer is not one that the service accepts.
    pub fn response(self, answer: &Value) -> Response<Bytes> {
        let status = answer["statusCode"].as_u64().and_then(|it| u16::try_from(it).ok());
        let status = status.and_then(|it| StatusCode::from_u16(it).ok()).expect("a status");
        let text = answer["body"].as_str().unwrap_or_default();
        let body = if answer["isBase64Encoded"] == true {
            BASE64.decode(text).expect("base64").into()
        } else {
            Bytes::from(text.to_owned())
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        // Version 2 accepts only single values, a load balancer the kind that it sends, and a REST API both.
        let names = match self {
            Self::AlbMultiValue => &["multiValueHeaders"][..],
            Self::RestApi | Self::RestApiDomain | Self::HttpApi1 => {
                &["headers", "multiValueHeaders"]
            }
            _ => &["headers"],
        };
        for name in names {
            for (name, value) in answer[*name].as_object().into_iter().flatten() {
                let name: HeaderName = name.parse().expect("the name of a header");
                for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                    let value = value.as_str().expect("a header is text");
                    let value = HeaderValue::from_str(value).expect("a header's value");
                    response.headers_mut().append(&name, value);
                }
            }
        }
        response
    }
}

/// Writes the body of a request into an event: as text, or in base64 if the content type is not known as text.
fn write_body(event: &mut Value, request: &Request<Bytes>) {
    let body = request.body();
    let is_text = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .is_none_or(|it| it.starts_with("text/") || it.starts_with("application/json"));
    match std::str::from_utf8(body) {
        Ok("") => {}
        Ok(text) if is_text => event["body"] = json!(text),
        _ => {
            event["body"] = json!(BASE64.encode(body));
            event["isBase64Encoded"] = json!(true);
        }
    }
}

/// Replaces the recorded header of a name.
fn replace(members: &mut Map<String, Value>, name: &HeaderName, value: Value) {
    members.retain(|it, _| !it.eq_ignore_ascii_case(name.as_str()));
    members.insert(name.to_string(), value);
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Returns the parameters of a query, decoded or as they are. By hand, because `form_urlencoded` always decodes, and
/// a load balancer does not.
fn pairs(query: &str, decoded: bool) -> Vec<(String, String)> {
    let text = |it: &str| if decoded { decode(&it.replace('+', " ")) } else { it.to_owned() };
    let pairs = query.split('&').filter(|it| !it.is_empty());
    pairs
        .map(|it| it.split_once('=').unwrap_or((it, "")))
        .map(|(n, v)| (text(n), text(v)))
        .collect()
}

/// Groups values by name.
fn grouped(pairs: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut members = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in pairs {
        members.entry(name).or_default().push(value);
    }
    members
}
