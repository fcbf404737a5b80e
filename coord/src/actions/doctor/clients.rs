//! Whether the MCP settings of the clients here agree with what `coord` uses. The invariant: no key
//! is printed.
use std::path::Path;

use serde_json::Value;

use super::{
    client_files::{Entry, entries},
    findings::Findings,
};
use crate::{
    command_line::context::Context,
    service::settings::{KEY_VARIABLES, Key, URL_VARIABLES, variable},
    work_tree::{git::WorkTree, record::canonical_url},
};

/// The headers in which the service accepts a key.
const KEY_HEADERS: [&str; 2] = ["authorization", "x-api-key"];

/// What `coord` uses.
struct Used<'a> {
    cx: &'a Context,
    work_tree: Option<&'a WorkTree>,
    /// The agent, if it is known.
    agent_id: &'a str,
}

pub(super) fn check(
    cx: &Context,
    work_tree: Option<&WorkTree>,
    agent_id: Option<&str>,
    findings: &mut Findings,
) {
    let agent_id = agent_id.unwrap_or(&cx.settings().identity.agent_id);
    let used = Used { cx, work_tree, agent_id };
    let (all, unreadable) = entries(work_tree.map(|work_tree| work_tree.top.as_path()));
    for problem in unreadable {
        let remedy = "Correct the file, unless its client allows what is in it.";
        findings.note("mcp", problem, remedy);
    }
    let mut is_found = false;
    for entry in all.iter().filter(|entry| used.is_coordinator(entry)) {
        is_found = true;
        let problems = match entry.settings["command"].is_string() {
            true => used.problems_of_command(entry),
            false => used.problems_of_url(entry),
        };
        let place = format!("{}, server {}", entry.file, entry.name);
        if problems.is_empty() {
            findings.fine("mcp", format!("{place}: agrees with coord"));
        }
        for (problem, remedy) in problems {
            findings.problem("mcp", format!("{place}: {problem}"), remedy);
        }
    }
    if !is_found {
        let text = "no MCP settings of a client that coord knows name the coordinator";
        findings.note("mcp", text, "See docs/agents.md, if a client here uses MCP.");
    }
}

/// A text of the settings, with the variables in it filled as the client does.
enum Filled {
    Text(String),
    /// A variable that is not set here.
    Unset(String),
    /// The client asks for a value.
    Asked,
}

impl Used<'_> {
    fn is_coordinator(&self, entry: &Entry) -> bool {
        let settings = &entry.settings;
        if let Some(command) = settings["command"].as_str() {
            let program = Path::new(command).file_stem();
            let mut arguments = settings["args"].as_array().into_iter().flatten();
            return program.is_some_and(|program| program == "coord")
                && arguments.any(|argument| argument == "mcp");
        }
        let Some(url) = url_of(settings) else { return false };
        let url = match fill(url) {
            Filled::Text(url) => url,
            _ => url.to_owned(),
        };
        let path = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let is_named = entry.name.to_lowercase().contains("coord");
        path.ends_with("/mcp") && (is_named || self.is_service(&url))
    }

    fn is_service(&self, url: &str) -> bool {
        let base = url.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let base = base.strip_suffix("/mcp").unwrap_or(base).trim_end_matches('/');
        canonical_url(base) == canonical_url(self.cx.settings().url.as_str())
    }

    fn problems_of_url(&self, entry: &Entry) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        match fill(url_of(&entry.settings).unwrap_or_default()) {
            Filled::Text(url) if !self.is_service(&url) => problems.push(self.other_url(&url)),
            Filled::Unset(name) => problems.push(unset(&name)),
            _ => {}
        }
        problems.extend(self.problem_of_key(entry));
        let header = header_of(&entry.settings, &["x-agent-id"]).or_else(|| {
            let name = entry.settings["env_http_headers"]["X-Agent-Id"].as_str()?;
            Some(format!("${{{name}}}"))
        });
        problems.extend(header.and_then(|header| self.problem_of_agent(&header)));
        problems
    }

    fn problems_of_command(&self, entry: &Entry) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let set = |name: &str| entry.settings["env"][name].as_str();
        if let Some(url) = URL_VARIABLES.iter().find_map(|name| set(name)) {
            match fill(url) {
                Filled::Text(url) if !self.is_service(&url) => problems.push(self.other_url(&url)),
                Filled::Unset(name) => problems.push(unset(&name)),
                _ => {}
            }
        }
        if let Some(key) = KEY_VARIABLES.iter().find_map(|name| set(name)) {
            problems.extend(self.problem_of_value(entry, key));
        }
        problems.extend(set("AGENT_ID").and_then(|agent_id| self.problem_of_agent(agent_id)));
        problems.extend(problem_of_passing(entry));
        problems
    }

    fn problem_of_key(&self, entry: &Entry) -> Option<(String, String)> {
        if let Some(name) = entry.settings["bearer_token_env_var"].as_str() {
            return self.problem_of_value(entry, &format!("${{{name}}}"));
        }
        match header_of(&entry.settings, &KEY_HEADERS) {
            Some(header) => self.problem_of_value(entry, &header),
            None => Some((
                "no header has the key".to_owned(),
                "Add the header `Authorization: Bearer …`.".to_owned(),
            )),
        }
    }

    /// Compares the value of a header or variable with the key that `coord` uses.
    fn problem_of_value(&self, entry: &Entry, value: &str) -> Option<(String, String)> {
        let value = value.trim();
        let bare = match value.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("bearer ") => value[7..].trim(),
            _ => value,
        };
        let is_literal = !bare.contains('$');
        if is_literal && self.is_tracked(&entry.path) {
            return Some((
                "a key is in the file, which git tracks".to_owned(),
                "Replace the key, and name a variable in the file instead.".to_owned(),
            ));
        }
        match fill(bare) {
            Filled::Asked => None,
            Filled::Unset(name) => Some(unset(&name)),
            Filled::Text(key) => {
                let used = self.cx.settings().key.as_ref().map(Key::header);
                let is_same = used.is_none_or(|used| used.as_bytes() == key.trim().as_bytes());
                (!is_same).then(|| {
                    (
                        "has another key than coord, so possibly another agent".to_owned(),
                        format!("Set the same key there and in {}.", KEY_VARIABLES[0]),
                    )
                })
            }
        }
    }

    fn problem_of_agent(&self, named: &str) -> Option<(String, String)> {
        match fill(named) {
            Filled::Unset(name) => Some(unset(&name)),
            Filled::Text(agent_id) if !self.agent_id.is_empty() && agent_id != self.agent_id => {
                Some((
                    format!("the agent is {agent_id}, but coord and the hooks are {}", self.agent_id),
                    "Name the same agent there and in AGENT_ID, or the hooks stop commits of files \
                     that were locked over MCP."
                        .to_owned(),
                ))
            }
            _ => None,
        }
    }

    fn other_url(&self, url: &str) -> (String, String) {
        let own = self.cx.settings().url.as_str();
        (
            format!("the service is {url}, but coord uses {own}"),
            "Name the same address there and for coord.".to_owned(),
        )
    }

    fn is_tracked(&self, path: &Path) -> bool {
        self.work_tree.is_some_and(|work_tree| {
            let path = path.to_string_lossy();
            work_tree.git_succeeds(&["ls-files", "--error-unmatch", "--", &path])
        })
    }
}

/// Returns why a client starts `coord mcp` without the key that is set here. Codex passes on the
/// listed variables only, and Gemini none whose name says that it is a key.
fn problem_of_passing(entry: &Entry) -> Option<(String, String)> {
    let settings = &entry.settings;
    let name = KEY_VARIABLES.iter().find(|name| variable(name).is_some())?;
    if KEY_VARIABLES.iter().any(|name| settings["env"][*name].is_string()) {
        return None;
    }
    let without_key =
        |client: &str| format!("{client} does not pass {name} on, so `coord mcp` has no key");
    if entry.file.ends_with(".toml") {
        let mut passed = settings["env_vars"].as_array().into_iter().flatten();
        let is_passed = passed.any(|other| other == *name);
        let remedy = format!("Add \"{name}\" to env_vars.");
        return (!is_passed).then(|| (without_key("Codex"), remedy));
    }
    let is_gemini = entry.file.contains(".gemini");
    is_gemini.then(|| {
        let remedy = format!("Add \"env\": {{ \"{name}\": \"${name}\" }} to the server.");
        (without_key("Gemini"), remedy)
    })
}

fn unset(name: &str) -> (String, String) {
    (format!("{name} is not set here"), format!("Set {name} where the client is started."))
}

/// Returns the URL of a server. Clients give the member different names.
fn url_of(settings: &Value) -> Option<&str> {
    ["url", "httpUrl", "serverUrl"].iter().find_map(|name| settings[*name].as_str())
}

/// Returns the value of the first of these headers that is set.
fn header_of(settings: &Value, names: &[&str]) -> Option<String> {
    let all = ["headers", "http_headers"].iter().filter_map(|member| settings[*member].as_object());
    let all: Vec<_> = all.flatten().collect();
    names.iter().find_map(|wanted| {
        let (_, value) = all.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted))?;
        value.as_str().map(str::to_owned)
    })
}

/// Fills `${NAME}`, `${env:NAME}`, `${NAME:-default}` and `$NAME`.
fn fill(text: &str) -> Filled {
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
