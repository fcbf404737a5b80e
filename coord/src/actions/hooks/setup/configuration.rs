//! What belongs into the configuration of a hook manager: what `--manager` writes, and what a person
//! adds where the configuration has a form that it cannot write. The invariant: what is printed
//! works as it is printed.
use std::path::PathBuf;

use serde_json::Value;

use super::{
    leftovers::{is_configured, text_of},
    managers::{Manager, PACKAGE_FILE},
    owner::Owner,
    script::{NAMES, block, command_of, shell_lines, with_shell_block},
    yaml::{
        has_lefthook_hook, lefthook_command, lefthook_hooks, pre_commit_item_in_flow,
        pre_commit_lines, with_lefthook_hooks, with_pre_commit_item,
    },
};

/// A file with the call of a hook added to it.
pub(super) struct Addition {
    pub(super) file: PathBuf,
    pub(super) text: String,
    /// Whether git runs the file itself, so that it must be executable.
    pub(super) is_executable: bool,
}

/// Returns what `--manager` writes for a hook. `None` if the configuration has a form that it cannot
/// add to.
pub(super) fn addition_to(owner: &Owner, manager: Manager, name: &str) -> Option<Addition> {
    let file = manager.configuration(&owner.top, &owner.folder, name)?;
    let text = text_of(&file);
    // Up to version 8, the scripts of husky are the hooks that git runs.
    let is_executable = manager == Manager::Husky && file.parent() == Some(&owner.folder);
    let text = match manager {
        Manager::Husky => {
            let is_new_hook = is_executable && text.is_empty();
            with_shell_block(if is_new_hook { "#!/bin/sh\n" } else { &text }, name)
        }
        Manager::PreCommit => with_pre_commit_item(&text)?,
        Manager::Lefthook if Manager::is_without_yaml(&owner.top) => return None,
        Manager::Lefthook => with_lefthook_hooks(&text)?,
        Manager::SimpleGitHooks | Manager::Other(_) => return None,
    };
    Some(Addition { file, text, is_executable })
}

/// Whether `--manager` can write what is missing in the configuration.
pub(super) fn is_writable(owner: &Owner, manager: Manager) -> bool {
    let is_there = |name: &str| is_configured(owner, manager, name);
    NAMES.iter().all(|name| is_there(name) || addition_to(owner, manager, name).is_some())
}

/// Says how the configuration comes to call a hook, in one sentence.
pub(super) fn remedy(owner: &Owner, manager: Manager, name: &str) -> String {
    if is_configured(owner, manager, name) {
        return format!("Run in this work tree: {}", manager.activation());
    }
    if is_writable(owner, manager) {
        return "Run: coord hook install --manager".to_owned();
    }
    let file = match manager {
        Manager::Lefthook => Some(Manager::local_configuration(&owner.top)),
        _ => manager.configuration(&owner.top, &owner.folder, name),
    };
    let place = match file {
        Some(file) => owner.shown(&file),
        None => format!("the configuration of {}", manager.name()),
    };
    format!("Put the lines that `coord hook install` prints into {place}.")
}

/// Returns what a person adds to the configuration, and where.
pub(super) fn lines_to_add(owner: &Owner, manager: Manager) -> String {
    let file = manager.configuration(&owner.top, &owner.folder, NAMES[0]);
    let file = file.map(|file| owner.shown(&file)).unwrap_or_default();
    let can_write = is_writable(owner, manager);
    match manager {
        Manager::Husky => {
            let scripts = NAMES.map(|name| {
                let file = manager.configuration(&owner.top, &owner.folder, name);
                let file = file.map(|file| owner.shown(&file)).unwrap_or_default();
                format!("At the beginning of {file}:\n\n{}", block(&shell_lines(name)))
            });
            scripts.join("\n")
        }
        Manager::PreCommit if can_write => {
            let text = text_of(&owner.top.join(&file));
            format!("In {file}, below `repos:`:\n\n{}", pre_commit_lines(&text))
        }
        Manager::PreCommit => format!(
            "In {file}, as the first item between the brackets of `repos: []` (write that first, if \
             there is no `repos:`):\n\n{},\n",
            pre_commit_item_in_flow()
        ),
        Manager::Lefthook if can_write => format!("In {file}:\n\n{}", block(&lefthook_hooks())),
        Manager::Lefthook => lines_for_local_lefthook(owner),
        Manager::SimpleGitHooks => lines_for_simple_git_hooks(owner, &file),
        Manager::Other(_) => {
            let commands = NAMES.map(|name| command_of(name, "\"$@\""));
            format!(
                "Let it run these commands at pre-commit and at pre-push, the second one with the \
                 standard input of the hook:\n\n  {}\n  {}\n",
                commands[0], commands[1]
            )
        }
    }
}

/// Returns the lines for the file that lefthook merges into its configuration. Merging adds a
/// command to a hook that the configuration has already.
fn lines_for_local_lefthook(owner: &Owner) -> String {
    let file = Manager::local_configuration(&owner.top);
    let (shown, text) = (owner.shown(&file), text_of(&file));
    if NAMES.iter().all(|name| !has_lefthook_hook(&text, name)) {
        return format!(
            "In {shown}, which lefthook merges into its configuration (commit it, or create it in \
             each clone and work tree):\n\n{}",
            block(&lefthook_hooks())
        );
    }
    let commands = NAMES.map(|name| {
        format!("In {shown}, below `commands:` of `{name}:`:\n\n{}", lefthook_command(name))
    });
    commands.join("\n")
}

/// Returns the entries for simple-git-hooks, each with the command that the hook has already.
fn lines_for_simple_git_hooks(owner: &Owner, file: &str) -> String {
    let document: Value = serde_json::from_str(&text_of(&owner.top.join(file))).unwrap_or_default();
    let (section, present) = match file {
        PACKAGE_FILE => ("\"simple-git-hooks\" of package.json", &document["simple-git-hooks"]),
        file => (file, &document),
    };
    let entries = NAMES.map(|name| {
        let theirs = present[name].as_str().filter(|command| !command.trim().is_empty());
        let command = match theirs {
            None => command_of(name, "\"$@\""),
            Some(theirs) => shell_lines(name) + theirs,
        };
        format!("  \"{name}\": {}", Value::from(command))
    });
    // The commands in a program are not known here.
    let keep = match present.is_object() {
        true => "in the place of the entries with these names",
        false => "with the commands of the entries with these names at the end of these",
    };
    format!(
        "Put into {section}, {keep}, then run `{}`:\n\n{}\n",
        Manager::SimpleGitHooks.activation(),
        entries.join(",\n")
    )
}
