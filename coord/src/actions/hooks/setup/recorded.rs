//! What `coord hook install` records in the settings of git, so that a commit from a program
//! without the variables of a shell finds the service. The invariant: never a key.
use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use clap::ArgMatches;
use serde_json::json;

use super::status::say;
use crate::{
    command_line::{cli::given_settings, context::Context},
    output::{
        console::Output,
        outcome::{DENIED, INVALID, Problem, exit_code_of},
    },
    service::{
        answer::Answer,
        routes::Route,
        settings::{Given, URL_VARIABLES, variable},
        url::Url,
    },
    work_tree::git::WorkTree,
};

const IDENTITY: &Route = Route::named("GET /profiles/me");

/// How long the service has to say which workspace applies. The hooks work without that.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The workspace of a key that is not bound to one.
const DEFAULT_WORKSPACE: &str = "default";

/// Refuses a workspace that the key may not choose: once it is recorded, every command of this clone
/// would be refused. A service that does not answer cannot say so, and the hooks work without it.
pub(super) fn check_workspace(matches: &ArgMatches, output: Output) -> Result<(), Problem> {
    let Some(name) = given_settings(matches).workspace else { return Ok(()) };
    match is_permitted(matches, output, &name) {
        // The service has no such workspace and never will, as with a capital letter in the name.
        Err(problem) if problem.code == INVALID => Err(problem),
        Ok(false) => Err(Problem {
            code: DENIED,
            text: format!(
                "The key may not choose the workspace {name}, so nothing is installed. A key that \
                 is bound to a workspace needs no name; if one is recorded here: git config \
                 --unset coord.workspace"
            ),
            more: Vec::new(),
            is_outage: false,
        }),
        _ => Ok(()),
    }
}

/// Records the address, the file of the key and the workspace, as far as they are given.
pub(super) fn record_settings(
    work_tree: &WorkTree,
    matches: &ArgMatches,
    output: Output,
) -> Result<(), Problem> {
    let given = given_settings(matches);
    let known = |name: &str| {
        let value = work_tree.git(&["config", "--get", name]).ok()?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let mut changed = Vec::new();
    let mut set = |name: &'static str, value: Option<String>| -> Result<(), Problem> {
        let Some(value) = value.filter(|value| known(name).as_ref() != Some(value)) else {
            return Ok(());
        };
        let done = work_tree.git(&["config", "--local", name, &value]);
        done.map_err(|words| Problem::of_git(&words))?;
        changed.push(name);
        Ok(())
    };
    let cx = Context::new(matches, output, TIMEOUT)?;
    let is_named = given.url.is_some() || URL_VARIABLES.iter().any(|name| variable(name).is_some());
    set("coord.url", is_named.then(|| cx.settings().url.as_str().to_owned()))?;
    set("coord.keyFile", key_file_of(&given)?)?;
    let workspace = match cx.settings().identity.workspace.as_str() {
        "" if known("coord.workspace").is_some() => None,
        "" => chosen_workspace(&cx, work_tree, matches),
        named => Some(named.to_owned()),
    };
    set("coord.workspace", workspace)?;
    if !changed.is_empty() {
        say(output, &format!("Recorded in the settings of this clone: {}.", changed.join(", ")));
    }
    let allowed = work_tree.git(&["config", "--global", "--get", "coord.allowedHosts"]);
    let url = cx.settings().url.as_str();
    if is_named && Url::new(url, allowed.unwrap_or_default().trim()).is_err() {
        let host = url.split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        output.print_problem(&format!(
            "Programs without your variables do not send the key to {host} until you run: git \
             config --global coord.allowedHosts {host}"
        ));
    }
    if given.key_file.is_none() && known("coord.keyFile").is_none() {
        output.print_problem(
            "The key is not recorded. Programs without your variables cannot commit until you run: \
             coord hook install --key-file FILE",
        );
    }
    Ok(())
}

/// Returns the absolute path of the file with the key, without `..`. The file has to exist.
fn key_file_of(given: &Given) -> Result<Option<String>, Problem> {
    let Some(file) = &given.key_file else { return Ok(None) };
    let path = file
        .canonicalize()
        .map_err(|error| Problem::invalid(format!("--key-file {}: {error}.", file.display())))?;
    Ok(Some(path.display().to_string()))
}

/// Asks for the workspace of this repository where the key may choose one, or says which one it uses.
/// The service decides whether the key may: it is asked with the suggested name.
fn chosen_workspace(cx: &Context, work_tree: &WorkTree, matches: &ArgMatches) -> Option<String> {
    let answer = cx.call(IDENTITY, json!({})).ok()?;
    let workspace = answer.member("identity")["workspace"].as_str();
    if exit_code_of(&answer) == DENIED || workspace != Some(DEFAULT_WORKSPACE) {
        return None;
    }
    let suggestion = match name_of(&work_tree.top) {
        name if name.is_empty() || name == DEFAULT_WORKSPACE => "my-repository".to_owned(),
        name => name,
    };
    let may_choose = is_permitted(matches, cx.output, &suggestion).ok()?;
    if !may_choose {
        cx.output.print_problem(
            "This repository uses the workspace `default`, and this key may not choose another. \
             Repositories that share a workspace share their locks.",
        );
        return None;
    }
    if cx.output.is_quiet || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        cx.output.print_problem(&format!(
            "This repository uses the workspace `default`. Repositories that share a workspace \
             share their locks; to choose another: coord hook install --workspace {suggestion}"
        ));
        return None;
    }
    ask_for_workspace(cx, matches, &suggestion)
}

/// Asks for a workspace until the service accepts it, or the answer is empty.
fn ask_for_workspace(cx: &Context, matches: &ArgMatches, suggestion: &str) -> Option<String> {
    loop {
        eprint!(
            "Repositories that share a workspace share their locks. Workspace of this repository \
             [{DEFAULT_WORKSPACE}; for example {suggestion}]: "
        );
        let _ = io::stderr().flush();
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok()?;
        let name = line.trim();
        if name.is_empty() || name == DEFAULT_WORKSPACE {
            return None;
        }
        match is_permitted(matches, cx.output, name) {
            Ok(true) => return Some(name.to_owned()),
            Ok(false) => cx.output.print_problem(&format!("The key may not choose {name}.")),
            Err(problem) if problem.is_outage => {
                problem.print(cx.output);
                return None;
            }
            Err(problem) => problem.print(cx.output),
        }
    }
}

/// Whether the key may use a workspace.
fn is_permitted(matches: &ArgMatches, output: Output, workspace: &str) -> Result<bool, Problem> {
    let cx = Context::new(matches, output, TIMEOUT)?;
    let mut settings = cx.settings().clone();
    workspace.clone_into(&mut settings.identity.workspace);
    let cx = cx.with_client(cx.client.with_settings(settings));
    let answer: Answer = cx.call(IDENTITY, json!({}))?;
    match exit_code_of(&answer) {
        DENIED => Ok(false),
        _ if answer.member("identity").is_object() => {
            Ok(answer.member("identity")["workspace"] == workspace)
        }
        _ => Err(Problem::unusable(&answer, cx.settings())),
    }
}

/// Returns the name of a folder as a name of a workspace.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name: String = name
        .unwrap_or_default()
        .chars()
        .map(|letter| match letter {
            'a'..='z' | '0'..='9' | '.' | '_' | '-' => letter,
            _ => '-',
        })
        .collect();
    name.trim_matches(['-', '.']).chars().take(64).collect()
}
