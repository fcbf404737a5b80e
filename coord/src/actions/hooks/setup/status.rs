//! `coord hook status`: whether git really runs the hooks of this program.
use std::{env::consts::EXE_SUFFIX, fs, path::Path};

use serde_json::{Value, json};

use super::{
    configuration::remedy,
    leftovers::{is_configured, text_of},
    managers::Manager,
    owner::{Owner, Place},
    script::{NAMES, calls, is_ours, is_shell_script, quoted},
};
use crate::{
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED},
        text::escape_text,
    },
    service::settings::variable,
    work_tree::{git::WorkTree, permissions::is_executable},
};

/// Whether git runs a hook of this program.
#[derive(Debug)]
pub(crate) struct HookState {
    pub(crate) name: &'static str,
    pub(crate) runs: bool,
    /// How it runs, or why it does not.
    pub(crate) reason: String,
    /// What makes it run.
    pub(crate) remedy: Option<String>,
}

/// Who owns the hooks of a work tree, and whether git runs those of this program.
#[derive(Debug)]
pub(crate) struct HooksState {
    pub(crate) owner: String,
    pub(crate) folder: String,
    pub(crate) hooks: Vec<HookState>,
}

impl HooksState {
    /// Whether git runs both hooks.
    pub(crate) fn runs(&self) -> bool {
        self.hooks.iter().all(|hook| hook.runs)
    }

    fn to_json(&self) -> Value {
        let hooks: Vec<_> = self
            .hooks
            .iter()
            .map(|hook| {
                json!({
                    "hook": hook.name,
                    "runs": hook.runs,
                    "reason": hook.reason,
                    "remedy": hook.remedy,
                })
            })
            .collect();
        json!({ "runs": self.runs(), "owner": self.owner, "folder": self.folder, "hooks": hooks })
    }
}

/// Returns the state of the hooks of a work tree.
pub(crate) fn hooks_state(work_tree: &WorkTree) -> Result<HooksState, Problem> {
    let owner = Owner::of(work_tree);
    let owner = owner.map_err(|words| Problem::of_git(&words))?;
    Ok(state_of(&owner))
}

pub(super) fn state_of(owner: &Owner) -> HooksState {
    HooksState {
        owner: owner.describe(),
        folder: owner.folder.display().to_string(),
        hooks: NAMES.iter().map(|name| with_program(owner, state_of_hook(owner, name))).collect(),
    }
}

pub(super) fn print(work_tree: &WorkTree, output: Output) -> Outcome {
    let state = hooks_state(work_tree)?;
    print_state(&state, output);
    Ok(if state.runs() { DONE } else { REFUSED })
}

/// Prints a line for people. With `--json` the one line on standard output is the state.
pub(super) fn say(output: Output, text: &str) {
    if !output.is_json {
        output.print(text);
    }
}

pub(super) fn print_state(state: &HooksState, output: Output) {
    if output.is_json {
        output.print(&state.to_json().to_string());
        return;
    }
    output.print(&escape_text(&format!("The hooks belong to {}.", state.owner)));
    for hook in &state.hooks {
        let runs = if hook.runs { "runs" } else { "does NOT run" };
        let remedy = hook.remedy.as_ref().map(|remedy| format!(" {remedy}")).unwrap_or_default();
        let line = format!("{} {runs}: {}.{remedy}", hook.name, hook.reason);
        output.print(&escape_text(&line));
    }
}

/// Returns the state of a hook that other files call, unless the recorded program is gone.
fn with_program(owner: &Owner, state: HookState) -> HookState {
    let scripts = [state.name.to_owned(), format!("{}.legacy", state.name)];
    let is_own_script = scripts.iter().any(|file| is_ours(&text_of(&owner.folder.join(file))));
    match &owner.program {
        Some(program) if state.runs && !is_own_script && !is_program(program) && !is_on_path() => {
            HookState {
                runs: false,
                reason: format!(
                    "coord.program is {}, which is not there any more",
                    program.display()
                ),
                remedy: Some("Run: coord hook install".to_owned()),
                ..state
            }
        }
        _ => state,
    }
}

pub(crate) fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && is_executable(&file))
}

fn state_of_hook(owner: &Owner, name: &'static str) -> HookState {
    let hook = owner.folder.join(name);
    let shown = owner.shown(&hook);
    let no = |reason: String, remedy: String| HookState {
        name,
        runs: false,
        reason,
        remedy: Some(remedy),
    };
    let Ok(file) = fs::metadata(&hook) else {
        let reason = match owner.place {
            Place::Off => "core.hooksPath switches hooks off".to_owned(),
            _ => format!("git finds no hook {shown}"),
        };
        return no(reason, remedy_of_missing_hook(owner, name));
    };
    if !is_executable(&file) {
        let remedy = format!("Run: chmod +x {shown}");
        return no(format!("{shown} is not executable, so git does not run it"), remedy);
    }
    let text = text_of(&hook);
    if is_ours(&text) {
        return match has_program(&text) {
            true => {
                HookState { name, runs: true, reason: format!("git runs {shown}"), remedy: None }
            }
            false => no(
                format!("{shown} calls a program that is not there any more"),
                "Run: coord hook install".to_owned(),
            ),
        };
    }
    if let Some(manager) = owner.manager.filter(|_| owner.is_active)
        && (manager == Manager::Husky || Manager::of_script(&text) == Some(manager))
    {
        return state_in_manager(owner, manager, name, &text);
    }
    match calls(&text, name) {
        true => {
            HookState { name, runs: true, reason: format!("{shown} calls coord"), remedy: None }
        }
        false => {
            let remedy = match owner.place {
                Place::Tracked if !is_shell_script(&text) => {
                    format!("Call this from it, and stop if it fails: coord hook {name}")
                }
                Place::Tracked => "Run: coord hook install --manager".to_owned(),
                Place::Repository if !owner.is_active => {
                    "Run: coord hook install --force".to_owned()
                }
                _ => remedy_of_missing_hook(owner, name),
            };
            no(format!("{shown} is not coord's"), remedy)
        }
    }
}

/// Says how a hook comes to run that git does not find, or that calls another program only.
fn remedy_of_missing_hook(owner: &Owner, name: &str) -> String {
    match (owner.manager, &owner.place) {
        (Some(manager), _) if owner.is_active => remedy(owner, manager, name),
        (_, Place::Machine(_) | Place::Outside | Place::Off) => {
            format!("{} Then: coord hook install", own_folder(owner))
        }
        (Some(manager), _) => remedy(owner, manager, name),
        (None, _) => "Run: coord hook install".to_owned(),
    }
}

/// Says how the repository gets a folder of hooks of its own, and what becomes of the others.
pub(super) fn own_folder(owner: &Owner) -> String {
    let (theirs, own) = (quoted(&owner.folder), quoted(&owner.usual_folder));
    let set = format!("git config {} core.hooksPath {own}", owner.scope);
    match owner.folder.is_dir() {
        false => format!("To give this repository hooks of its own, run `{set}`."),
        true => format!(
            "To give this repository hooks of its own, run `{set}`. That turns the hooks in \
             {theirs} off here; to keep them, run `mkdir -p {own} && ln -s {theirs}/* {own}/` and \
             install with --force, which runs them first."
        ),
    }
}

/// Whether the program of a hook exists, or one is on the path.
fn has_program(script: &str) -> bool {
    let program = script.lines().find_map(|line| line.strip_prefix("coord='"));
    let program = program.and_then(|rest| rest.strip_suffix('\'')).unwrap_or_default();
    is_program(Path::new(&program.replace("'\\''", "'"))) || is_on_path()
}

/// Whether the shell finds this program by its name.
pub(crate) fn is_on_path() -> bool {
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .any(|folder| is_program(&folder.join(format!("coord{EXE_SUFFIX}"))))
}

/// Returns the state of a hook that a manager runs.
fn state_in_manager(
    owner: &Owner,
    manager: Manager,
    name: &'static str,
    script: &str,
) -> HookState {
    let program = manager.name();
    let runs = |reason: String| HookState { name, runs: true, reason, remedy: None };
    let no = |reason: String, remedy: &str| HookState {
        name,
        runs: false,
        reason,
        remedy: Some(remedy.to_owned()),
    };
    if let Some(setting) = manager.skipped_by(name) {
        let reason = format!("{setting} is set, so {program} skips it");
        return no(reason, "Unset that variable.");
    }
    let legacy = owner.folder.join(format!("{name}.legacy"));
    let is_legacy = manager == Manager::PreCommit && is_ours(&text_of(&legacy));
    let kept = text_of(&owner.folder.join(format!("{name}.before-coord")));
    if is_legacy && Manager::of_script(&kept).is_some() {
        return no(
            format!("{program} and coord call each other, so every commit fails"),
            "Run: coord hook install",
        );
    }
    let is_called = match manager {
        Manager::SimpleGitHooks | Manager::Other(_) => calls(script, name),
        _ => is_configured(owner, manager, name),
    };
    let file = manager.configuration(&owner.top, &owner.folder, name);
    let file = file.map(|file| owner.shown(&file)).unwrap_or_default();
    match (is_called, is_legacy) {
        (true, _) => runs(format!("{program} calls it by {file}")),
        (false, true) => runs(format!(
            "{program} calls {}, until `{program} install --overwrite` removes it",
            owner.shown(&legacy)
        )),
        (false, false) if matches!(manager, Manager::Other(_)) => {
            no(format!("{program} runs its own hooks only"), &remedy(owner, manager, name))
        }
        (false, false) => no(format!("{file} does not call coord"), &remedy(owner, manager, name)),
    }
}
