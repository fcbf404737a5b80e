//! What the settings of a server say: its URL, its headers and its options, with the variables in them
//! filled as the client does.
use serde_json::Value;

use super::client_files::Entry;
use crate::service::settings::variable;

/// The headers in which the service accepts a key.
pub(super) const KEY_HEADERS: [&str; 2] = ["authorization", "x-api-key"];

/// A text of the settings, with the variables in it filled as the client does.
pub(super) enum Filled {
    Text(String),
    /// A variable that is not set here.
    Unset(String),
    /// The client asks for a value.
    Asked,
}

/// Returns a URL as it is written, without the parts that can have a secret.
pub(super) fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// Returns a URL without its query and its last slash.
pub(super) fn path_of(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/')
}

/// Returns the value of an option in the arguments of a program.
pub(super) fn option_of(entry: &Entry, option: &str) -> Option<String> {
    let arguments = entry.settings["args"].as_array()?.iter().filter_map(Value::as_str);
    let arguments: Vec<_> = arguments.collect();
    arguments.iter().enumerate().find_map(|(index, argument)| {
        match argument.strip_prefix(option)?.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            None if *argument == option => arguments.get(index + 1).map(|it| (*it).to_owned()),
            None => None,
        }
    })
}

/// Whether a client starts a program with this variable of its own environment. Codex passes on the
/// listed variables only.
pub(super) fn passes_on(entry: &Entry, name: &str) -> bool {
    let mut listed = entry.settings["env_vars"].as_array().into_iter().flatten();
    !entry.file.ends_with(".toml") || variable(name).is_none() || listed.any(|other| other == name)
}

/// Whether a client has its key from the file or from a variable, and does not ask for it.
pub(super) fn has_known_key(entry: &Entry) -> bool {
    let header = header_of(&entry.settings, &KEY_HEADERS);
    header.is_none_or(|header| !matches!(fill(&header), Filled::Asked))
}

/// Returns the URL of a server. Clients give the member different names.
pub(super) fn url_of(settings: &Value) -> Option<&str> {
    ["url", "httpUrl", "serverUrl"].iter().find_map(|name| settings[*name].as_str())
}

/// Returns the value of the first of these headers that is set.
pub(super) fn header_of(settings: &Value, names: &[&str]) -> Option<String> {
    let all = ["headers", "http_headers"].iter().filter_map(|member| settings[*member].as_object());
    let all: Vec<_> = all.flatten().collect();
    names.iter().find_map(|wanted| {
        let (_, value) = all.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        value.as_str().map(str::to_owned)
    })
}

/// Fills `${NAME}`, `${env:NAME}`, `${NAME:-default}` and `$NAME`.
pub(super) fn fill(text: &str) -> Filled {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        filled += before;
        let (name, after) = match after.strip_prefix('{').and_then(|it| it.split_once('}')) {
            Some((name, after)) => (name, after),
            None => {
                let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
                let end = after.find(|letter| !is_part(letter)).unwrap_or(after.len());
                after.split_at(end)
            }
        };
        if name.starts_with("input:") {
            return Filled::Asked;
        }
        let name = name.strip_prefix("env:").unwrap_or(name);
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        match variable(name).or_else(|| default.map(str::to_owned)) {
            Some(value) => filled += &value,
            None => return Filled::Unset(name.to_owned()),
        }
        rest = after;
    }
    Filled::Text(filled + rest)
}
