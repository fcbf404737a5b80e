//! `coord hook install`.
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use clap::ArgMatches;

use super::{
    configuration::{Addition, addition_to, is_writable, lines_to_add},
    leftovers::{is_configured, repair, text_of},
    managers::Manager,
    owner::{Owner, Place, resolved},
    recorded::{check_workspace, record_settings},
    script::{
        NAMES, block, calls, is_ours, is_shell_script, script_of, shell_lines, with_shell_block,
    },
    status::{own_folder, print_state, say, state_of},
};
use crate::{
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED},
        text::escape_text,
    },
    work_tree::{git::WorkTree, permissions::make_executable},
};

/// Where the hooks of this program belong.
enum Target {
    /// Into the folder whose hooks git runs.
    Folder,
    /// Into the configuration of a manager.
    Manager(Manager),
    /// Into the tracked scripts of a folder.
    TrackedScripts,
    /// Nowhere, for this reason.
    Nowhere(String),
}

/// Installs the two hooks where their owner allows it.
pub(super) fn install(work_tree: &WorkTree, matches: &ArgMatches, output: Output) -> Outcome {
    let (force, write) = (matches.get_flag("force"), matches.get_flag("manager"));
    check_workspace(matches, output)?;
    let owner = owner_of(work_tree)?;
    for line in repair(&owner).map_err(failed)? {
        output.print_problem(&line);
    }
    let program = std::env::current_exe().map_err(failed)?;
    let code = match target_of(&owner, force) {
        Target::Folder => install_into_folder(&owner, force, &program, output)?,
        Target::Manager(manager) => {
            let is_there = NAMES.iter().all(|name| is_configured(&owner, manager, name));
            install_into_shared_files(work_tree, &owner, &program, is_there, || match write {
                true => write_configuration(&owner, manager, output),
                false => Ok(explain_configuration(&owner, manager, output)),
            })?
        }
        Target::TrackedScripts => {
            let is_there = NAMES.iter().all(|name| calls(&text_of(&owner.folder.join(name)), name));
            install_into_shared_files(work_tree, &owner, &program, is_there, || match write {
                true => write_tracked_scripts(&owner, output),
                false => Ok(explain_tracked_scripts(&owner, output)),
            })?
        }
        Target::Nowhere(reason) => {
            output.print_problem(&reason);
            REFUSED
        }
    };
    if code == DONE {
        record_settings(work_tree, matches, output)?;
    }
    report(work_tree, code, output)?;
    Ok(code)
}

pub(super) fn owner_of(work_tree: &WorkTree) -> Result<Owner, Problem> {
    Owner::of(work_tree).map_err(|words| Problem::of_git(&words))
}

pub(super) fn failed(error: io::Error) -> Problem {
    Problem::invalid(format!("The hooks could not be changed: {error}."))
}

/// Prints the state of the hooks as JSON, or where they are written and git does not run them yet.
fn report(work_tree: &WorkTree, code: u8, output: Output) -> Result<(), Problem> {
    let state = state_of(&owner_of(work_tree)?);
    if output.is_json || (code == DONE && !state.runs()) {
        print_state(&state, output);
    }
    Ok(())
}

fn target_of(owner: &Owner, force: bool) -> Target {
    let folder = owner.folder.display();
    // Husky sets core.hooksPath of the repository itself; no other manager does.
    let is_managed = |manager| owner.is_active || (!force && manager == Manager::Husky);
    match (owner.manager, &owner.place) {
        (Some(manager), _) if is_managed(manager) => Target::Manager(manager),
        (_, Place::Machine(scope)) => Target::Nowhere(format!(
            "core.hooksPath is {folder} for every repository of this machine ({scope} settings of \
             git), so a hook there would stop commits in all of them. Nothing is installed. {}",
            own_folder(owner)
        )),
        (_, Place::Outside) => Target::Nowhere(format!(
            "core.hooksPath is {folder}, outside of this repository, so other repositories can run \
             the hooks there. Nothing is installed. {}",
            own_folder(owner)
        )),
        (_, Place::Off) => Target::Nowhere(format!(
            "core.hooksPath ({folder}) is not a folder, so git runs no hooks here. Nothing is \
             installed. {}",
            own_folder(owner)
        )),
        (Some(manager), _) if !force => Target::Manager(manager),
        (_, Place::Tracked) => Target::TrackedScripts,
        (_, Place::Repository) => Target::Folder,
    }
}

/// Writes or explains what belongs into files that every clone has, unless it is there or runs already.
fn install_into_shared_files(
    work_tree: &WorkTree,
    owner: &Owner,
    program: &Path,
    is_there: bool,
    write_or_explain: impl FnOnce() -> Outcome,
) -> Outcome {
    let code = match is_there || state_of(owner).runs() {
        true => DONE,
        false => write_or_explain()?,
    };
    keep_program(work_tree, program, code)?;
    Ok(code)
}

/// Installs into the folder of this repository. With `force`, hooks of other programs are kept and
/// run first.
fn install_into_folder(owner: &Owner, force: bool, program: &Path, output: Output) -> Outcome {
    let folder = &owner.folder;
    fs::create_dir_all(folder).map_err(failed)?;
    let is_foreign = |path: &Path| {
        let text = text_of(path);
        path.symlink_metadata().is_ok() && !is_ours(&text)
    };
    let calls_already = |name: &&str| calls(&text_of(&folder.join(name)), name);
    let foreign: Vec<_> = NAMES
        .into_iter()
        .filter(|name| is_foreign(&folder.join(name)) && !calls_already(name))
        .collect();
    if !foreign.is_empty() && !force {
        for name in foreign {
            let hook = folder.join(name);
            output.print_problem(&format!("{} was not installed by coord.", hook.display()));
        }
        output.print_problem("Nothing is installed. With --force they are kept, and run first.");
        return Ok(REFUSED);
    }
    for name in foreign {
        let kept = folder.join(format!("{name}.before-coord"));
        if kept.symlink_metadata().is_ok() {
            let kept = kept.display();
            return Err(Problem::invalid(format!("{kept} exists already; move it away first.")));
        }
        fs::rename(folder.join(name), kept).map_err(failed)?;
    }
    for name in NAMES {
        if !is_foreign(&folder.join(name)) {
            write_hook(owner, name, program).map_err(failed)?;
        }
    }
    say(
        output,
        &format!(
            "Installed {} in {}.",
            NAMES.join(" and "),
            escape_text(&folder.display().to_string())
        ),
    );
    Ok(DONE)
}

/// Writes a hook and renames it into place, so that git never runs half of it.
fn write_hook(owner: &Owner, name: &str, program: &Path) -> io::Result<()> {
    replace(owner, &owner.folder.join(name), &script_of(name, program), true)
}

/// Replaces a file by a rename, so that no reader sees half of it. Its permissions stay. A symbolic
/// link stays one, and the file behind it is replaced, unless a link of the repository leads out of
/// it: a commit can have such links.
pub(super) fn replace(
    owner: &Owner,
    path: &Path,
    text: &str,
    is_executable: bool,
) -> io::Result<()> {
    let target = resolved(path);
    let is_of_repository = path.starts_with(&owner.top) && !path.starts_with(&owner.usual_folder);
    let is_dangling = target.symlink_metadata().is_ok_and(|file| file.is_symlink());
    if is_dangling || (is_of_repository && !target.starts_with(&owner.top)) {
        return Err(io::Error::other(format!(
            "{} is a symbolic link that leads out of the repository, or nowhere",
            owner.shown(path)
        )));
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut fresh = target.as_os_str().to_owned();
    fresh.push(".new-coord");
    let fresh = PathBuf::from(fresh);
    let earlier = fs::metadata(&target).map(|file| file.permissions());
    // What is there is a leftover or a link, and is not followed.
    let _ = fs::remove_file(&fresh);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    match (is_executable, earlier) {
        (true, _) => make_executable(&fresh)?,
        (false, Ok(permissions)) => fs::set_permissions(&fresh, permissions)?,
        (false, Err(_)) => {}
    }
    fs::rename(&fresh, target)
}

/// Stores where this program is, for the commands in shared files, which do not name it.
fn keep_program(work_tree: &WorkTree, program: &Path, code: u8) -> Result<(), Problem> {
    if code != DONE {
        return Ok(());
    }
    let program = program.display().to_string();
    let set = work_tree.git(&["config", "--local", "coord.program", &program]);
    set.map(drop).map_err(|words| Problem::of_git(&words))
}

/// Writes the calls of this program into the configuration of a manager.
fn write_configuration(owner: &Owner, manager: Manager, output: Output) -> Outcome {
    if !is_writable(owner, manager) {
        return Ok(explain_configuration(owner, manager, output));
    }
    let mut changed = Vec::new();
    for name in NAMES.into_iter().filter(|name| !is_configured(owner, manager, name)) {
        let Some(addition) = addition_to(owner, manager, name) else { continue };
        let Addition { file, text, is_executable } = addition;
        replace(owner, &file, &text, is_executable).map_err(failed)?;
        changed.push(owner.shown(&file));
    }
    for line in repair(owner).map_err(failed)? {
        output.print_problem(&line);
    }
    say(
        output,
        &format!(
            "Wrote the hooks into {}, which {} reads.",
            escape_text(&changed.join(" and ")),
            manager.name()
        ),
    );
    Ok(DONE)
}

/// Prints what belongs into the configuration of a manager.
fn explain_configuration(owner: &Owner, manager: Manager, output: Output) -> u8 {
    let name = manager.name();
    output.print_problem(&format!(
        "{name} manages the hooks of this repository, so they belong into its configuration. \
         Nothing is installed."
    ));
    output.print_escaped_problem(&format!("\n{}", escape_text(&lines_to_add(owner, manager))));
    if is_writable(owner, manager) {
        output.print_problem("With --manager, `coord hook install` writes that.");
    }
    if !owner.is_active {
        output.print_problem(&format!(
            "{name} is not installed in this clone; its command: {}. If nobody uses it here, \
             --force installs the hooks without it.",
            manager.activation()
        ));
    }
    REFUSED
}

fn write_tracked_scripts(owner: &Owner, output: Output) -> Outcome {
    let foreign = NAMES.iter().find(|name| !is_shell_script(&text_of(&owner.folder.join(name))));
    if let Some(name) = foreign {
        output.print_problem(&format!(
            "{} is no shell script, so no lines of the shell can be written into it. Nothing is \
             installed. Call this from it, and stop if it fails: coord hook {name}",
            escape_text(&owner.shown(&owner.folder.join(name)))
        ));
        return Ok(REFUSED);
    }
    for name in NAMES {
        let file = owner.folder.join(name);
        let text = text_of(&file);
        if calls(&text, name) {
            continue;
        }
        let text = if text.is_empty() { "#!/bin/sh\n" } else { &text };
        replace(owner, &file, &with_shell_block(text, name), true).map_err(failed)?;
    }
    say(
        output,
        &format!(
            "Wrote the hooks into {}, whose files are tracked.",
            escape_text(&owner.shown(&owner.folder))
        ),
    );
    Ok(DONE)
}

fn explain_tracked_scripts(owner: &Owner, output: Output) -> u8 {
    output.print_problem(&format!(
        "The hooks in {} are tracked, so every clone has them. Nothing is installed.",
        owner.shown(&owner.folder)
    ));
    for name in NAMES {
        let file = owner.shown(&owner.folder.join(name));
        let lines = block(&shell_lines(name));
        let text = escape_text(&format!("At the beginning of {file}:\n\n{lines}"));
        output.print_escaped_problem(&format!("\n{text}"));
    }
    output.print_problem("With --manager, `coord hook install` writes that.");
    REFUSED
}
