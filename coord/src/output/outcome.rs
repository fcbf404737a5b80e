//! Exit codes, and the problems with which a command ends.
use serde_json::Value;

use super::{console::Output, text::escape_line};
use crate::service::{
    answer::{Answer, problem_detail, refusing_member},
    client::CallError,
    settings::{Settings, SettingsError},
};

/// Exit code: the command is done.
pub(crate) const DONE: u8 = 0;
/// Exit code: the service refused, or found nothing.
pub(crate) const REFUSED: u8 = 1;
/// Exit code: usage, configuration or input is invalid.
pub(crate) const INVALID: u8 = 2;
/// Exit code: the caller is not permitted (401, 403).
pub(crate) const DENIED: u8 = 3;
/// Exit code: no answer, timed out, or an error of the service.
pub(crate) const UNANSWERED: u8 = 4;

/// Why a command ends without an answer to show.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) code: u8,
    pub(crate) text: String,
    /// Further lines, in the words of another program.
    pub(crate) more: Vec<String>,
    /// Whether the service could not be asked, or could not answer, for a reason that passes. A
    /// wrong address and a missing key do not pass.
    pub(crate) is_outage: bool,
}

impl Problem {
    pub(crate) fn invalid(text: impl Into<String>) -> Problem {
        Problem { code: INVALID, text: text.into(), more: Vec::new(), is_outage: false }
    }

    /// Returns the problem that git reports in these words, of one line or several.
    pub(crate) fn of_git(words: &str) -> Problem {
        let mut lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        let more = lines.map(str::to_owned).collect();
        Problem { more, ..Problem::invalid(format!("git: {first}")) }
    }

    /// Prints the problem on standard error: its text, and its further lines indented below.
    pub(crate) fn print(&self, output: Output) {
        output.print_problem(&self.text);
        for line in &self.more {
            output.print_escaped_problem(&format!("    {}", escape_line(line)));
        }
    }

    /// Returns the problem with an answer that a command cannot use.
    pub(crate) fn unusable(answer: &Answer, settings: &Settings) -> Problem {
        let code = match exit_code_of(answer) {
            // The status is that of a usable answer, so the body is not what the command expects.
            DONE | REFUSED => UNANSWERED,
            code => code,
        };
        let is_outage = matches!(answer.status, 408 | 429 | 500..);
        Problem { code, text: describe_failure(answer, settings), more: Vec::new(), is_outage }
    }
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Problem {
        Problem::invalid(error.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Problem {
        let code = if matches!(error, CallError::Invalid { .. }) { INVALID } else { UNANSWERED };
        let mut text = error.to_string();
        if let Some(first) = text.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Problem { code, text: text + ".", more: Vec::new(), is_outage: code == UNANSWERED }
    }
}

/// The exit code of a command, or why it ends without an answer.
pub(crate) type Outcome = Result<u8, Problem>;

/// Returns the exit code that an answer means.
pub(crate) fn exit_code_of(answer: &Answer) -> u8 {
    match (answer.status, &answer.json) {
        (200..=299, None) => UNANSWERED,
        (200..=299, Some(json)) => match refusing_member(json) {
            Some(_) => REFUSED,
            None => DONE,
        },
        (401 | 403, _) => DENIED,
        (404, _) => REFUSED,
        (408 | 429 | 500.., _) => UNANSWERED,
        _ => INVALID,
    }
}

/// Describes in one sentence why an answer cannot be used.
pub(crate) fn describe_failure(answer: &Answer, settings: &Settings) -> String {
    let (status, url) = (answer.status, settings.url.as_str());
    let detail = problem_detail(answer.json.as_ref().unwrap_or(&Value::Null));
    match (status, detail.as_str()) {
        (200..=299, _) => {
            format!("{url} answered something that is not an answer of the service; check the URL.")
        }
        (300..=399, _) => {
            format!("{url} answered {status}, a redirect, which is not followed; check the URL.")
        }
        (401, _) => format!("The API key is missing or unknown (401): {}.", key_remedy(settings)),
        (403, detail) => format!("Not permitted (403): {detail}."),
        (404, "") => {
            format!("{url} has no such route (404): check the URL and the version of the service.")
        }
        (_, "") => format!("{url} answered {status}."),
        (400..=499, detail) => format!("Not accepted ({status}): {detail}."),
        (_, detail) => format!("{url} answered {status}: {detail}."),
    }
}

/// Says what is wrong with the key of a request that the service did not know.
fn key_remedy(settings: &Settings) -> String {
    match &settings.key_source {
        Some(source) => format!("{} does not know the key of {source}", settings.url),
        None => "set COORDINATION_API_KEY, give --key-file, or name the file once for this \
                 repository: git config coord.keyFile FILE"
            .to_owned(),
    }
}
