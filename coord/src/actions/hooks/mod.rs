//! `coord hook`: git hooks that stop a commit or push unless the locks that it relies on are held.
mod check;
mod commit;
mod files;
mod progress;
mod push;
mod pushed;
pub(super) mod setup;

use clap::ArgMatches;

use crate::{
    command_line::context::Context,
    output::{
        console::Output,
        outcome::{DONE, INVALID, Outcome, Problem, REFUSED, UNANSWERED},
    },
    service::settings::DEFAULT_TIMEOUT,
    work_tree::{git::WorkTree, records::Records},
};

/// Runs a git hook, or a command about the hooks.
pub(super) fn run_hook(matches: &ArgMatches, output: Output) -> Outcome {
    let Some((name, own)) = matches.subcommand() else { return Ok(DONE) };
    let work_tree = WorkTree::of_current_folder()
        .ok_or_else(|| Problem::invalid("Expected a git work tree; change the folder."))?;
    if let Some(words) = &work_tree.refusal {
        return Err(Problem::of_git(words));
    }
    if let Some(outcome) = setup::run(name, own, &work_tree, output) {
        return outcome;
    }
    let git_failed = |words: String| Problem::of_git(&words);
    let given = |name: &str| own.get_one::<String>(name).map(String::as_str);
    let mut hint = None;
    let files = progress::reported("coord: looking for the files to check …", output, || {
        if name == "pre-commit" {
            return commit::files_of_commit(&work_tree);
        }
        let pushed = push::files_of_push(&work_tree, given("remote"), given("location"))?;
        hint = pushed.hint;
        Ok(pushed.files)
    });
    let mut files = files.map_err(git_failed)?;
    let records = Records::of(work_tree).map_err(git_failed)?;
    let work_tree = records.work_tree();
    let (_, inner) = work_tree.outermost();
    if !inner.as_os_str().is_empty() {
        files.move_into(&inner);
    }
    let recorded = records.locks().map_err(|error| Problem::invalid(format!("{error}.")))?;
    files.keep_relevant(&recorded);
    if files.is_empty() {
        return Ok(DONE);
    }
    let cx = Context::new(own, output, DEFAULT_TIMEOUT)?;
    let checked = check::check_files(&cx, &records, &recorded, &files);
    let action = if name == "pre-push" { "push" } else { "commit" };
    decide(&cx, checked, work_tree, action, hint)
}

/// Prints the complaints and returns the exit code, by which git stops the commit or push.
fn decide(
    cx: &Context,
    checked: Result<Vec<String>, Problem>,
    work_tree: &WorkTree,
    action: &str,
    hint: Option<String>,
) -> Outcome {
    let output = cx.output;
    match checked {
        Ok(complaints) if complaints.is_empty() => Ok(DONE),
        Ok(complaints) => {
            for complaint in complaints.into_iter().chain(hint) {
                output.print_problem(&complaint);
            }
            output.print_problem(&format!("coord: the {action} is stopped."));
            Ok(REFUSED)
        }
        Err(problem) if problem.is_outage => {
            problem.print(output);
            decide_unchecked(cx, work_tree, action)
        }
        Err(problem) => {
            problem.print(output);
            output.print_problem(&format!("coord: the {action} is stopped."));
            Ok(problem.code)
        }
    }
}

/// Decides about a commit or push whose locks could not be checked.
fn decide_unchecked(cx: &Context, work_tree: &WorkTree, action: &str) -> Outcome {
    let output = cx.output;
    if cx.settings().url_source.is_none() {
        output.print_problem(&format!(
            "coord: the address of the service is not configured here, so {} was tried, and the \
             {action} is stopped. Set COORDINATION_API_URL, or for this repository: git config \
             coord.url URL",
            cx.settings().url
        ));
        return Ok(INVALID);
    }
    let setting = work_tree.git(&["config", "--get", "coord.unreachable"]);
    if setting.is_ok_and(|setting| setting.trim() == "allow") {
        output.print_problem(&format!(
            "coord: the locks are not checked; the {action} continues, because coord.unreachable \
             is allow."
        ));
        return Ok(DONE);
    }
    output.print_problem(&format!(
        "coord: the locks cannot be checked, so the {action} is stopped. To allow it in such \
         cases: git config coord.unreachable allow"
    ));
    Ok(UNANSWERED)
}
