//! `coord hook`: git hooks that stop a commit or push unless the locks that it relies on are held.
mod check;
mod commit;
mod files;
mod push;
mod pushed;
pub(super) mod setup;

use clap::ArgMatches;

use crate::{
    command_line::context::Context,
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED, UNANSWERED},
    },
    service::settings::DEFAULT_TIMEOUT,
    work_tree::{git::WorkTree, record::Record},
};

/// Runs a git hook, or a command about the hooks.
pub(super) fn run_hook(matches: &ArgMatches, output: Output) -> Outcome {
    let Some((name, own)) = matches.subcommand() else { return Ok(DONE) };
    let work_tree = WorkTree::of_current_folder()
        .ok_or_else(|| Problem::invalid("Expected a git work tree; change the folder."))?;
    if let Some(outcome) = setup::run(name, own, &work_tree, output) {
        return outcome;
    }
    let given = |name: &str| own.get_one::<String>(name).map(String::as_str);
    let files = match name {
        "pre-commit" => commit::files_of_commit(&work_tree),
        _ => push::files_of_push(&work_tree, given("remote"), given("location")),
    };
    let mut files = files.map_err(|error| Problem::invalid(format!("git: {error}.")))?;
    let record = Record::of(work_tree.clone());
    let recorded = record.locks().map_err(|error| Problem::invalid(format!("{error}.")))?;
    files.keep_relevant(&recorded);
    if files.is_empty() {
        return Ok(DONE);
    }
    let cx = Context::new(own, output, DEFAULT_TIMEOUT)?;
    let checked = check::check_files(&cx, &recorded, &files);
    let action = if name == "pre-push" { "push" } else { "commit" };
    decide(checked, &work_tree, action, output)
}

/// Prints the complaints and returns the exit code, by which git stops the commit or push.
fn decide(
    checked: Result<Vec<String>, Problem>,
    work_tree: &WorkTree,
    action: &str,
    output: Output,
) -> Outcome {
    match checked {
        Ok(complaints) if complaints.is_empty() => Ok(DONE),
        Ok(complaints) => {
            for complaint in complaints {
                output.print_problem(&complaint);
            }
            output.print_problem(&format!("coord: the {action} is stopped."));
            Ok(REFUSED)
        }
        Err(problem) if problem.code == UNANSWERED => {
            output.print_problem(&problem.text);
            let setting = work_tree.git(&["config", "--get", "coord.unreachable"]);
            if setting.is_ok_and(|setting| setting.trim() == "allow") {
                output.print_problem(&format!(
                    "coord: the locks are not checked; the {action} continues, because \
                     coord.unreachable is allow."
                ));
                return Ok(DONE);
            }
            output.print_problem(&format!(
                "coord: the locks cannot be checked, so the {action} is stopped. To allow it in \
                 such cases: git config coord.unreachable allow"
            ));
            Ok(UNANSWERED)
        }
        Err(problem) => Err(problem),
    }
}
