//! `coord doctor`: checks what usually goes wrong, and says what to do.
mod client_files;
mod client_settings;
mod clients;
mod findings;
mod local;
mod service;

use clap::ArgMatches;
use serde_json::json;

use self::findings::Findings;
use crate::{
    command_line::context::Context,
    output::{
        console::Output,
        outcome::{DONE, Outcome, REFUSED},
    },
    service::settings::DEFAULT_TIMEOUT,
    work_tree::git::WorkTree,
};

/// Checks the settings, the service, the work tree, and the MCP settings of the clients here.
pub(super) fn run(matches: &ArgMatches, output: Output) -> Outcome {
    let mut findings = Findings::default();
    let work_tree = WorkTree::of_current_folder();
    let cx = match Context::new(matches, output, DEFAULT_TIMEOUT) {
        Ok(cx) => Some(cx),
        Err(problem) => {
            findings.problem("settings", problem.text, "Correct that setting.");
            None
        }
    };
    let reached = cx.as_ref().and_then(|cx| service::check(cx, &mut findings));
    local::check_hooks(work_tree.as_ref(), &mut findings);
    local::check_record(
        work_tree.as_ref(),
        cx.as_ref().filter(|_| reached.is_some()),
        &mut findings,
    );
    if let Some(cx) = &cx {
        local::check_recorded_settings(work_tree.as_ref(), cx, &mut findings);
        clients::check(cx, work_tree.as_ref(), reached.as_ref(), &mut findings);
    }
    let is_fine = !findings.has_problem();
    if output.is_json {
        let checks: Vec<_> = findings.list.iter().map(findings::Finding::to_json).collect();
        output.print(&json!({ "ok": is_fine, "checks": checks }).to_string());
    } else {
        output.print(&findings.render(output));
    }
    Ok(if is_fine { DONE } else { REFUSED })
}
