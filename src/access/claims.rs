//! What a request claims about its caller in its headers.
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::kinds::Door;
use crate::{
    config::identities::is_workspace_name,
    values::{Issue, issue::value_error, limits::MAX_ID_BYTES},
};

const EXPECTED_KEY: &str = "expected 1 to 256 printable ASCII characters";

/// What the headers of a request say about its caller, checked for form only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    pub(crate) agent_id: Option<String>,
    pub(crate) agent_type: Option<String>,
    pub(crate) session_id: Option<String>,
    pub(crate) workspace: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    /// The MCP connection that the request came through. Only the MCP endpoint sets it.
    pub(crate) connection_id: Option<String>,
    /// The way by which the request came in.
    pub(crate) door: Door,
}

impl Claims {
    /// Reads the headers. Each header of the wrong form is an issue. An empty header counts as absent.
    pub(crate) fn from_headers(headers: &HeaderMap, is_idempotent: bool) -> (Self, Vec<Issue>) {
        let mut reader = HeaderReader { headers, issues: Vec::new() };
        let any = |_: &str| None;
        let mut claims = Self {
            agent_id: reader.value_of("x-agent-id", any),
            agent_type: reader.value_of("x-agent-type", any),
            session_id: reader.value_of("x-session-id", any),
            ..Self::default()
        };
        claims.workspace = reader.value_of("x-workspace", |name| {
            (!is_workspace_name(name)).then_some("expected a name of a-z 0-9 . _ - (at most 64)")
        });
        if is_idempotent {
            claims.idempotency_key = reader.value_of("idempotency-key", |key| {
                let is_printable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                (!is_printable).then_some(EXPECTED_KEY)
            });
            // An empty key does not count as absent: its client relies on the protection against
            // repetition.
            if headers.get("idempotency-key").is_some_and(|value| value.is_empty()) {
                let loc = header_loc("idempotency-key");
                reader.issues.push(Issue::new(value_error(EXPECTED_KEY), &loc, &json!("")));
            }
        }
        (claims, reader.issues)
    }
}

/// Reads headers and collects their issues.
struct HeaderReader<'a> {
    headers: &'a HeaderMap,
    issues: Vec<Issue>,
}

impl HeaderReader<'_> {
    /// Returns the value of a header. `problem` returns what is wrong with a text, or `None`.
    fn value_of(
        &mut self,
        name: &'static str,
        problem: impl Fn(&str) -> Option<&'static str>,
    ) -> Option<String> {
        let value = self.headers.get(HeaderName::from_static(name))?;
        let text = String::from_utf8_lossy(value.as_bytes());
        let problem = if std::str::from_utf8(value.as_bytes()).is_err() {
            Some(value_error("expected UTF-8 text"))
        } else if text.len() > MAX_ID_BYTES {
            let text = format!("String should have at most {MAX_ID_BYTES} bytes");
            Some(("string_too_long", text))
        } else if text.is_empty() {
            return None;
        } else {
            problem(&text).map(value_error)
        };
        match problem {
            Some(problem) => {
                self.issues.push(Issue::new(problem, &header_loc(name), &json!(text)));
                None
            }
            None => Some(text.into_owned()),
        }
    }
}

fn header_loc(name: &str) -> [Value; 2] {
    [json!("header"), json!(name)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_wrong_form_are_issues() {
        let long = "x".repeat(257);
        for (name, value, kind) in [
            ("x-agent-id", long.as_str(), "string_too_long"),
            ("x-session-id", long.as_str(), "string_too_long"),
            ("x-workspace", "No", "value_error"),
            ("x-workspace", "-a", "value_error"),
            ("idempotency-key", long.as_str(), "string_too_long"),
            ("idempotency-key", "caf\u{e9}", "value_error"),
            ("idempotency-key", "", "value_error"),
        ] {
            let mut map = HeaderMap::new();
            let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            map.insert(HeaderName::from_static(name), value);
            let (_, issues) = Claims::from_headers(&map, true);
            assert_eq!(issues.len(), 1, "{name}");
            assert_eq!((issues[0].kind, &issues[0].loc[1]), (kind, &json!(name)));
        }
    }
}
