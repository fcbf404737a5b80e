//! Answers of the service, and what their common members mean.
use serde_json::Value;

/// An answer of the service, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body as it was received.
    pub text: String,
    /// The body as JSON; `None` if it is not JSON.
    pub json: Option<Value>,
}

impl Answer {
    /// Returns an answer with status 200 and this body.
    pub(crate) fn ok(json: Value) -> Answer {
        Answer { status: 200, text: json.to_string(), json: Some(json) }
    }

    /// Returns a member of the body; `Value::Null` if it is absent.
    pub(crate) fn member(&self, name: &str) -> &Value {
        self.json.as_ref().map_or(&Value::Null, |json| &json[name])
    }
}

/// Returns a text without quotes, any other value as JSON.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the member by which an answer refuses, if it does.
pub(crate) fn refusing_member(answer: &Value) -> Option<&'static str> {
    ["success", "safe", "allowed", "valid", "passed", "released"]
        .into_iter()
        .find(|name| answer[*name] == false)
}

/// Returns the text of `detail`, a list of issues on one line. Empty if there is none.
pub(crate) fn problem_detail(answer: &Value) -> String {
    match &answer["detail"] {
        Value::String(text) => text.clone(),
        Value::Array(issues) => {
            let issues: Vec<_> = issues
                .iter()
                .map(|issue| {
                    let location = issue["loc"].as_array().into_iter().flatten().skip(1);
                    let location: Vec<_> = location.map(as_text).collect();
                    format!("{}: {}", location.join("."), issue["msg"].as_str().unwrap_or_default())
                })
                .collect();
            issues.join("; ")
        }
        _ => String::new(),
    }
}
