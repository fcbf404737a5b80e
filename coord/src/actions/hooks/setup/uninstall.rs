//! `coord hook uninstall`.
use std::{fs, path::PathBuf};

use super::{
    install::{failed, owner_of, replace},
    leftovers::{take_out_all, text_of},
    managers::Manager,
    script::{NAMES, calls, without_block},
    status::{print_state, say, state_of},
};
use crate::{
    output::{
        console::Output,
        outcome::{DONE, Outcome, REFUSED},
        text::escape_text,
    },
    work_tree::git::WorkTree,
};

/// The managers whose configuration this program writes.
const WRITTEN: [Manager; 3] = [Manager::Husky, Manager::PreCommit, Manager::Lefthook];

/// Takes the hooks of this program out, wherever they are, and restores what it has kept.
pub(super) fn uninstall(work_tree: &WorkTree, output: Output) -> Outcome {
    let owner = owner_of(work_tree)?;
    let mut done = take_out_all(&owner).map_err(failed)?;
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    for name in NAMES {
        files.push((name, owner.folder.join(name)));
        for manager in WRITTEN.into_iter().chain(owner.manager) {
            let all = manager.configurations(&owner.top, &owner.folder, name);
            files.extend(all.into_iter().map(|file| (name, file)));
        }
    }
    let mut left = Vec::new();
    for (name, file) in files {
        let text = text_of(&file);
        let Some(rest) = without_block(&text) else {
            let line = format!("{} calls coord by a line of your own.", owner.shown(&file));
            if calls(&text, name) && !left.contains(&line) {
                left.push(line);
            }
            continue;
        };
        match is_empty(&rest) {
            true => fs::remove_file(&file).map_err(failed)?,
            false => replace(&owner, &file, &rest, false).map_err(failed)?,
        }
        done.push(format!("Took the hooks out of {}.", owner.shown(&file)));
    }
    let _ = work_tree.git(&["config", "--local", "--unset-all", "coord.program"]);
    for line in &done {
        say(output, &escape_text(line));
    }
    if done.is_empty() && left.is_empty() {
        say(output, "No hooks of coord are installed here.");
    }
    for line in &left {
        output.print_problem(line);
    }
    if output.is_json {
        print_state(&state_of(&owner_of(work_tree)?), output);
    }
    Ok(if left.is_empty() { DONE } else { REFUSED })
}

/// Whether nothing but what this program wrote was in a file.
fn is_empty(rest: &str) -> bool {
    matches!(rest.trim(), "" | "#!/bin/sh" | "repos:")
}
