//! Whether the MCP settings of the clients here agree with what `coord` uses. The invariant: no key
//! is printed, and no value of a variable: a file of settings can name any variable anywhere.
use std::{cell::OnceCell, path::Path};

use super::{
    client_files::{Entry, entries},
    client_settings::{
        Filled, KEY_HEADERS, fill, has_known_key, header_of, option_of, passes_on, path_of, url_of,
        without_secrets,
    },
    findings::Findings,
    service::{Identity, identity_of},
};
use crate::{
    actions::hooks::setup::status::{is_on_path, is_program},
    command_line::context::Context,
    service::settings::{
        Identity as Names, KEY_VARIABLES, Key, SESSION_VARIABLES, URL_VARIABLES, variable,
    },
    work_tree::{git::WorkTree, record::canonical_url},
};

/// The headers with which a client names its agent and its workspace.
const AGENT_HEADER: &str = "X-Agent-Id";
const WORKSPACE_HEADER: &str = "X-Workspace";

/// What `coord` uses.
struct Used<'a> {
    cx: &'a Context,
    work_tree: Option<&'a WorkTree>,
    /// The agent, if it is known.
    agent_id: &'a str,
    /// The caller as the service sees it, if it was asked.
    reached: Option<&'a Identity>,
    /// The caller as the service sees it with the same key and no name.
    unnamed: OnceCell<Option<Identity>>,
}

/// A problem and its remedy.
type Problem = (String, String);

pub(super) fn check(
    cx: &Context,
    work_tree: Option<&WorkTree>,
    reached: Option<&Identity>,
    findings: &mut Findings,
) {
    let named = cx.settings().identity.agent_id.as_str();
    let agent_id = reached.map_or(named, |identity| identity.agent_id.as_str());
    let used = Used { cx, work_tree, agent_id, reached, unnamed: OnceCell::new() };
    let (all, unreadable) = entries(work_tree);
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
        let is_named = entry.name.to_lowercase().contains("coord");
        (is_named && path_of(&url).ends_with("/mcp")) || self.is_at_service(&url)
    }

    /// Whether a URL is that of the service, with any path behind it.
    fn is_at_service(&self, url: &str) -> bool {
        let url = canonical_url(path_of(url));
        let rest = url.strip_prefix(&canonical_url(self.cx.settings().url.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn problems_of_url(&self, entry: &Entry) -> Vec<Problem> {
        let mut problems = Vec::new();
        let url = url_of(&entry.settings).unwrap_or_default();
        match fill(url) {
            Filled::Text(filled) if !self.is_at_service(&filled) => {
                problems.push(self.other_url(url));
            }
            Filled::Text(filled) if !path_of(&filled).ends_with("/mcp") => problems.push((
                "the URL does not end in /mcp".to_owned(),
                format!("Write {}/mcp.", self.cx.settings().url),
            )),
            Filled::Unset(name) => problems.push(unset(&name)),
            _ => {}
        }
        let of_key = self.problem_of_key(entry);
        let is_same_key = of_key.is_none() && has_known_key(entry);
        problems.extend(of_key);
        let header = |name: &str| {
            header_of(&entry.settings, &[name]).or_else(|| {
                let name = entry.settings["env_http_headers"][name].as_str()?;
                Some(format!("${{{name}}}"))
            })
        };
        match header(AGENT_HEADER) {
            Some(named) => problems.extend(self.problem_of_agent(&named)),
            None if is_same_key => problems.extend(self.problem_of_unnamed_agent(&format!(
                "Add the header `{AGENT_HEADER}: {}`.",
                self.agent_id
            ))),
            None => {}
        }
        match header(WORKSPACE_HEADER) {
            Some(named) => problems.extend(self.problem_of_workspace(&named)),
            None if is_same_key => problems.extend(self.problem_of_unnamed_workspace()),
            None => {}
        }
        problems
    }

    fn problems_of_command(&self, entry: &Entry) -> Vec<Problem> {
        let mut problems = Vec::new();
        problems.extend(self.problem_of_program(entry));
        let set = |name: &str| entry.settings["env"][name].as_str();
        let option = |option: &str, names: &[&str]| {
            let given = option_of(entry, option);
            given.or_else(|| names.iter().find_map(|name| set(name)).map(str::to_owned))
        };
        if let Some(url) = option("--url", &URL_VARIABLES) {
            match fill(&url) {
                Filled::Text(filled) if !self.is_at_service(&filled) => {
                    problems.push(self.other_url(&url));
                }
                Filled::Unset(name) => problems.push(unset(&name)),
                _ => {}
            }
        }
        if let Some(key) = KEY_VARIABLES.iter().find_map(|name| set(name)) {
            problems.extend(self.problem_of_value(entry, key));
        }
        match option("--agent-id", &["AGENT_ID"]) {
            Some(named) => problems.extend(self.problem_of_agent(&named)),
            None if !passes_on(entry, "AGENT_ID") => {
                let remedy = "Add \"AGENT_ID\" to env_vars.";
                problems.extend(self.problem_of_unnamed_agent(remedy));
            }
            None => {}
        }
        if let Some(named) = option("--workspace", &["COORDINATION_WORKSPACE"]) {
            problems.extend(self.problem_of_workspace(&named));
        }
        if let Some(named) = option("--session-id", &SESSION_VARIABLES) {
            problems.extend(self.problem_of_session(&named));
        }
        problems.extend(problem_of_passing(entry));
        problems
    }

    fn problem_of_program(&self, entry: &Entry) -> Option<Problem> {
        let named = entry.settings["command"].as_str().unwrap_or_default();
        let program = match fill(named) {
            Filled::Text(program) => program,
            Filled::Unset(name) => return Some(unset(&name)),
            Filled::Asked => return None,
        };
        let top = self.work_tree.map(|work_tree| work_tree.top.as_path());
        let is_there = match program.contains(['/', '\\']) {
            true => is_program(&top.unwrap_or(Path::new("")).join(&program)),
            false => is_on_path(),
        };
        (!is_there).then(|| {
            (
                format!("the program {named} is not there"),
                "Name the one that `command -v coord` prints, or install it.".to_owned(),
            )
        })
    }

    /// Compares the session that the settings name with that of `coord`: a name in the settings would stand for
    /// every session of the client.
    fn problem_of_session(&self, named: &str) -> Option<Problem> {
        let session = self.cx.settings().identity.session_id.as_str();
        match fill(named) {
            Filled::Text(filled) if filled != session => {
                let here = if session.is_empty() { "none here" } else { session };
                Some((
                    format!("the session is {named}, but that of coord is {here}"),
                    "Name the same session there and in SESSION_ID, or none in the settings."
                        .to_owned(),
                ))
            }
            _ => None,
        }
    }

    /// Returns the caller as the service sees it without names in headers.
    fn unnamed(&self) -> Option<&Identity> {
        let identity = self.unnamed.get_or_init(|| {
            let reached = self.reached?;
            let names = &self.cx.settings().identity;
            if names.agent_id.is_empty() && names.workspace.is_empty() {
                return Some(reached.clone());
            }
            let mut settings = self.cx.settings().clone();
            settings.identity = Names::default();
            identity_of(&self.cx.with_client(self.cx.client.with_settings(settings)))
        });
        identity.as_ref()
    }

    /// Compares the agent of a client that names none with that of `coord`.
    fn problem_of_unnamed_agent(&self, remedy: &str) -> Option<Problem> {
        let other = self.unnamed()?.agent_id.as_str();
        (other != self.agent_id).then(|| {
            let used = self.agent_id;
            let text =
                format!("no agent is named, so it is {other}, but coord and the hooks are {used}");
            (text, remedy.to_owned())
        })
    }

    /// Compares the workspace of a client that names none with that of `coord`.
    fn problem_of_unnamed_workspace(&self) -> Option<Problem> {
        let used = self.reached?.workspace.as_str();
        let other = self.unnamed()?.workspace.as_str();
        (other != used).then(|| {
            (
                format!(
                    "no workspace is named, so it is {other}, but coord and the hooks use {used}"
                ),
                format!("Add the header `{WORKSPACE_HEADER}: {used}`."),
            )
        })
    }

    fn problem_of_workspace(&self, named: &str) -> Option<Problem> {
        let used = self.reached.map(|identity| identity.workspace.as_str());
        match (fill(named), used) {
            (Filled::Unset(name), _) => Some(unset(&name)),
            (Filled::Text(workspace), Some(used)) if workspace != used => Some((
                format!("the workspace is {named}, but coord and the hooks use {used}"),
                "Name the same workspace there and for coord, or the hooks do not see locks that \
                 were acquired over MCP."
                    .to_owned(),
            )),
            _ => None,
        }
    }

    fn problem_of_key(&self, entry: &Entry) -> Option<Problem> {
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
    fn problem_of_value(&self, entry: &Entry, value: &str) -> Option<Problem> {
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

    fn problem_of_agent(&self, named: &str) -> Option<Problem> {
        match fill(named) {
            Filled::Unset(name) => Some(unset(&name)),
            Filled::Text(agent_id) if !self.agent_id.is_empty() && agent_id != self.agent_id => {
                Some((
                    format!("the agent is {named}, but coord and the hooks are {}", self.agent_id),
                    "Name the same agent there and in AGENT_ID, or the hooks stop commits of files \
                     that were locked over MCP."
                        .to_owned(),
                ))
            }
            _ => None,
        }
    }

    fn other_url(&self, url: &str) -> Problem {
        let own = self.cx.settings().url.as_str();
        (
            format!("the service is {}, but coord uses {own}", without_secrets(url)),
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
fn problem_of_passing(entry: &Entry) -> Option<Problem> {
    let settings = &entry.settings;
    let name = KEY_VARIABLES.iter().find(|name| variable(name).is_some())?;
    if KEY_VARIABLES.iter().any(|name| settings["env"][*name].is_string()) {
        return None;
    }
    let without_key =
        |client: &str| format!("{client} does not pass {name} on, so `coord mcp` has no key");
    if entry.file.ends_with(".toml") {
        let remedy = format!("Add \"{name}\" to env_vars.");
        return (!passes_on(entry, name)).then(|| (without_key("Codex"), remedy));
    }
    let is_gemini = entry.file.contains(".gemini");
    is_gemini.then(|| {
        let remedy = format!("Add \"env\": {{ \"{name}\": \"${name}\" }} to the server.");
        (without_key("Gemini"), remedy)
    })
}

fn unset(name: &str) -> Problem {
    (format!("{name} is not set here"), format!("Set {name} where the client is started."))
}
