//! `coord hook install`, `uninstall` and `status`. The invariants: a hook of another program is
//! never displaced, and no hook is written where other repositories would run it.
mod configuration;
mod install;
mod leftovers;
mod managers;
mod owner;
mod recorded;
mod script;
pub(crate) mod status;
mod uninstall;
mod yaml;

use clap::ArgMatches;

use crate::{
    output::{console::Output, outcome::Outcome},
    work_tree::git::WorkTree,
};

/// Runs the command with this name, unless it is one of the hooks themselves.
pub(super) fn run(
    name: &str,
    matches: &ArgMatches,
    work_tree: &WorkTree,
    output: Output,
) -> Option<Outcome> {
    match name {
        "install" => Some(install::install(work_tree, matches, output)),
        "uninstall" => Some(uninstall::uninstall(work_tree, output)),
        "status" => Some(status::print(work_tree, output)),
        _ => None,
    }
}
