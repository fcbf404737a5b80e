//! From the bytes of a request to the input of its operation: `docs/api-design.md#validation`.
use std::mem;

use http::{HeaderMap, Method, header, request::Parts};
use serde_json::{Map, Value, json};

use super::{
    query::{decode, pairs},
    routes::PathParameters,
};
use crate::{
    operation::{
        Registered, fingerprint,
        input::{check, keywords::required, offset, parse},
    },
    values::{
        Error, Issue, Result,
        issue::{missing, value_error},
        json::canonical,
        raw_json::canonical_text,
    },
};

/// A request to an operation, before its input is known.
pub(super) struct RequestInput<'a> {
    pub(super) operation: &'a Registered,
    pub(super) parameters: &'a PathParameters<'a>,
    pub(super) parts: &'a Parts,
    pub(super) body: &'a [u8],
}

impl RequestInput<'_> {
    /// Merges body, query and path into the input and checks it against the schema. Also returns the
    /// fingerprint of the request, where it has an idempotency key. `issues` are those of the headers.
    pub(super) fn parse(
        &self,
        has_idempotency_key: bool,
        mut issues: Vec<Issue>,
    ) -> Result<(Value, Option<[u8; 32]>)> {
        let mut body = if self.has_body() { self.json_body()? } else { None };
        let mut members = match &mut body {
            Some(Value::Object(members)) => mem::take(members),
            _ => Map::new(),
        };
        self.add_named_parameters(&mut members, &mut issues);
        let mut input = Value::Object(members);
        if body.is_none() && self.needs_body() {
            issues.push(Issue::new(missing(), &[json!("body")], &Value::Null));
        } else if let Some(body) = body.as_ref().filter(|body| !body.is_object()) {
            issues.push(not_an_object(body));
        } else {
            let found = check(&self.operation.input, &mut input, |name| self.source(name));
            // A parameter that could not be decoded is not missing as well.
            let is_new = |issue: &Issue| issues.iter().all(|known| known.loc != issue.loc);
            let found: Vec<_> = found.into_iter().filter(is_new).collect();
            issues.extend(found);
        }
        if !issues.is_empty() {
            return Err(Error::Invalid(issues));
        }
        let fingerprint = match has_idempotency_key {
            true => Some(self.fingerprint(&input)?),
            false => None,
        };
        if let Value::Object(members) = &mut input {
            // Nothing reads the others, and a request that waits would keep them.
            members.retain(|name, _| self.operation.has_field(name));
        }
        Ok((input, fingerprint))
    }

    fn has_body(&self) -> bool {
        has_body(self.parts)
    }

    fn needs_body(&self) -> bool {
        self.operation
            .fields()
            .any(|(name, _)| self.source(name) == "body" && required(&self.operation.input, name))
    }

    /// Returns the part of the request that a member comes from.
    fn source(&self, name: &str) -> &'static str {
        source(self.parts, self.parameters, name)
    }

    /// Returns the fingerprint of the request: of the whole body, or of the input where it has none.
    fn fingerprint(&self, input: &Value) -> Result<[u8; 32]> {
        let content = match self.has_body() {
            true if self.body.is_empty() => "null".to_owned(),
            true => canonical_text(self.body)
                .map_err(|error| Error::Invalid(vec![json_invalid(offset(self.body, &error))]))?,
            false => canonical(input),
        };
        let method_and_path = format!("{} {}", self.parts.method, self.parts.uri.path());
        Ok(fingerprint(&method_and_path, &content))
    }

    /// Adds the parameters of query and path. Those that the operation does not read are ignored, even
    /// where they cannot be decoded.
    fn add_named_parameters(&self, members: &mut Map<String, Value>, issues: &mut Vec<Issue>) {
        let query = if self.has_body() { "" } else { self.parts.uri.query().unwrap_or_default() };
        let in_query = pairs(query).filter(|(name, _)| self.source(name) == "query");
        let in_path = self.parameters.iter();
        let in_path = in_path.map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        for (name, text) in in_query.chain(in_path) {
            if self.operation.fields().all(|(field, _)| *field != name) {
                continue;
            }
            match decode(&text) {
                Some(text) => drop(members.insert(name, text.into())),
                None => {
                    let loc = [json!(self.source(&name)), json!(name)];
                    let problem = value_error("expected percent-encoded UTF-8");
                    issues.push(Issue::new(problem, &loc, &json!(text)));
                }
            }
        }
    }

    /// Parses the body as JSON. Returns `None` for an empty body.
    fn json_body(&self) -> Result<Option<Value>> {
        if self.body.is_empty() {
            return Ok(None);
        }
        if !is_json(&self.parts.headers) {
            let text = String::from_utf8_lossy(self.body);
            return Err(Error::Invalid(vec![not_an_object(&json!(text))]));
        }
        match parse(&self.operation.input, self.body) {
            Ok(value) => Ok(Some(value)),
            Err(offset) => Err(Error::Invalid(vec![json_invalid(offset)])),
        }
    }
}

/// Returns the error of an operation with the issues of members where the request had them. An operation does not
/// know by which route it was called.
pub(super) fn located(error: Error, parts: &Parts, parameters: &PathParameters<'_>) -> Error {
    let Error::Invalid(mut issues) = error else { return error };
    for issue in &mut issues {
        if let [place, Value::String(name), ..] = &mut issue.loc[..]
            && *place == "body"
        {
            *place = json!(source(parts, parameters, name));
        }
    }
    Error::Invalid(issues)
}

fn has_body(parts: &Parts) -> bool {
    ![Method::GET, Method::HEAD, Method::DELETE].contains(&parts.method)
}

/// Returns the part of a request that a member comes from.
fn source(parts: &Parts, parameters: &PathParameters<'_>, name: &str) -> &'static str {
    match has_body(parts) {
        _ if parameters.iter().any(|(parameter, _)| *parameter == name) => "path",
        true => "body",
        false => "query",
    }
}

/// Whether a request declares JSON, or does not declare any type.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    let Ok(value) = value.to_str() else { return false };
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json")
}

pub(super) fn json_invalid(offset: usize) -> Issue {
    let loc = [json!("body"), json!(offset)];
    Issue::new(("json_invalid", "JSON decode error".to_owned()), &loc, &json!({}))
}

fn not_an_object(body: &Value) -> Issue {
    let text = "Input should be a valid dictionary or object to extract fields from";
    Issue::new(("model_attributes_type", text.to_owned()), &[json!("body")], body)
}
