//! What a command ends with: its exit code, and why.
use serde_json::Value;

use crate::{
    client::{Answer, CallError},
    request::as_text,
    run::Context,
    settings::SettingsError,
    show::first_no,
};

/// Done.
pub(crate) const DONE: u8 = 0;
/// A no of the service, or nothing found.
pub(crate) const REFUSED: u8 = 1;
/// Wrong usage, configuration or input.
pub(crate) const WRONG: u8 = 2;
/// Not permitted.
pub(crate) const DENIED: u8 = 3;
/// No answer.
pub(crate) const UNANSWERED: u8 = 4;

/// Why a command ends without an answer to show.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: u8,
    pub(crate) text: String,
}

impl Problem {
    pub(crate) fn wrong(text: impl Into<String>) -> Problem {
        Problem { code: WRONG, text: text.into() }
    }
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Problem {
        Problem::wrong(error.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Problem {
        let code = if matches!(error, CallError::Invalid { .. }) { WRONG } else { UNANSWERED };
        let mut text = error.to_string();
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Problem { code, text: text + "." }
    }
}

pub(crate) type Outcome = Result<u8, Problem>;

/// Which exit code an answer means.
pub(crate) fn code_of(answer: &Answer) -> u8 {
    match (answer.status, &answer.json) {
        (200..=299, None) => UNANSWERED,
        (200..=299, Some(json)) => match is_refusal(json) {
            true => REFUSED,
            false => DONE,
        },
        (401 | 403, _) => DENIED,
        (404, _) => REFUSED,
        (408 | 429 | 500.., _) => UNANSWERED,
        _ => WRONG,
    }
}

fn is_refusal(json: &Value) -> bool {
    // An entry that is null is that of an empty queue.
    let is_empty = json.get("entry").is_some_and(Value::is_null);
    first_no(json).is_some() || is_empty || json["feasibility"] == "SEQUENTIAL"
}

/// What an answer says of why it is no good one; empty when it does not.
pub(crate) fn detail(json: &Value) -> String {
    match &json["detail"] {
        Value::String(text) => text.clone(),
        Value::Array(issues) => {
            let issues: Vec<_> = issues
                .iter()
                .map(|it| {
                    let place = it["loc"].as_array().into_iter().flatten().skip(1);
                    let place: Vec<_> = place.map(as_text).collect();
                    format!("{}: {}", place.join("."), it["msg"].as_str().unwrap_or_default())
                })
                .collect();
            issues.join("; ")
        }
        _ => String::new(),
    }
}

/// What went wrong, in one sentence.
pub(crate) fn failure(answer: &Answer, url: &str) -> String {
    let status = answer.status;
    let detail = answer.json.as_ref().map(detail).unwrap_or_default();
    match (status, detail.as_str()) {
        (200..=299, _) => {
            format!("{url} answered something that is not an answer of the service; check the URL.")
        }
        (300..=399, _) => {
            format!("{url} answered {status}, a redirect, which is not followed; check the URL.")
        }
        (401, _) => "The API key is missing or unknown (401): set COORDINATION_API_KEY, or give \
                     --key-file."
            .to_owned(),
        (403, detail) => format!("Not permitted (403): {detail}."),
        (404, "") => format!("{url} has no such route (404): is it the service, and new enough?"),
        (_, "") => format!("{url} answered {status}."),
        (400..=499, detail) => format!("Not accepted ({status}): {detail}."),
        (_, detail) => format!("{url} answered {status}: {detail}."),
    }
}

/// An answer that says nothing of use, as the problem that it is.
pub(crate) fn failure_of(cx: &Context, answer: &Answer) -> Problem {
    let code = match code_of(answer) {
        // There is no more to a good answer than its form.
        DONE | REFUSED => UNANSWERED,
        code => code,
    };
    Problem { code, text: failure(answer, cx.client.settings().url.as_str()) }
}
