//! The git hooks and the record of locks of the work tree.
use super::findings::Findings;
use crate::{
    actions::{
        caller::Caller,
        hooks::setup::status::hooks_state,
        verify::{LOCKS_PER_REQUEST, verify_tokens},
    },
    command_line::context::Context,
    output::{outcome::Problem, text::join_lines},
    work_tree::{git::WorkTree, records::Records},
};

/// Checks that programs without the variables of this shell find the service from this clone.
pub(super) fn check_recorded_settings(
    work_tree: Option<&WorkTree>,
    cx: &Context,
    findings: &mut Findings,
) {
    let Some(work_tree) = work_tree else { return };
    let settings = cx.settings();
    let is_missing = |source: &Option<String>, name: &str| {
        source.is_some() && work_tree.git(&["config", "--get", name]).is_err()
    };
    let named = [(&settings.url_source, "coord.url"), (&settings.key_source, "coord.keyFile")];
    let missing = named.into_iter().filter(|(source, name)| is_missing(source, name));
    let missing: Vec<_> = missing.map(|(_, name)| name).collect();
    if missing.is_empty() {
        return;
    }
    findings.note(
        "settings",
        format!(
            "git has no setting {}, so programs without your variables cannot commit here",
            missing.join(" and ")
        ),
        "If you commit from such programs: coord hook install --key-file FILE",
    );
}

pub(super) fn check_hooks(work_tree: Option<&WorkTree>, findings: &mut Findings) {
    let Some(work_tree) = work_tree else {
        findings.note("hooks", "this folder is not in a git work tree", "Change the folder.");
        return;
    };
    match hooks_state(work_tree) {
        Err(problem) => {
            let remedy = match problem.more.join(" ") {
                none if none.is_empty() => "Correct that first.".to_owned(),
                remedy => remedy,
            };
            findings.problem("hooks", problem.text, remedy);
        }
        Ok(state) => {
            for hook in state.hooks {
                let text = format!("{}: {}", hook.name, hook.reason);
                match hook.remedy.filter(|_| !hook.runs) {
                    None => findings.fine("hooks", text),
                    Some(remedy) => findings.problem("hooks", text, remedy),
                }
            }
        }
    }
}

/// Checks that the record can be read and, with a service, that the recorded locks are held.
pub(super) fn check_record(
    work_tree: Option<&WorkTree>,
    cx: Option<&Context>,
    findings: &mut Findings,
) {
    let Some(work_tree) = work_tree else { return };
    let records = Records::of(work_tree.clone()).map_err(|words| join_lines(&words));
    let recorded = records.and_then(|records| records.locks().map_err(|error| error.to_string()));
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(error) => {
            findings.problem("record", error, "Remove the file, and lock your files again.");
            return;
        }
    };
    let Some(cx) = cx else {
        findings.fine(
            "record",
            format!("recorded locks: {}; not compared with the service", recorded.len()),
        );
        return;
    };
    let caller = Caller::new(cx);
    let of_caller = recorded.iter().filter_map(|(key, locks)| {
        let lock = locks.iter().find(|lock| caller.has_recorded(lock).unwrap_or(false))?;
        Some((key.as_str(), lock.token))
    });
    let locks: Vec<_> = of_caller.collect();
    match lost(cx, &locks) {
        Err(problem) => findings.problem("record", problem.text, "Run `coord doctor` again."),
        Ok(lost) if lost.is_empty() => findings.fine(
            "record",
            format!("recorded locks of yours: {}, all held or given back", locks.len()),
        ),
        Ok(lost) => findings.problem(
            "record",
            format!("these locks are recorded here and were lost: {}", lost.join(", ")),
            "Look at what was changed meanwhile, then run `coord lock` or `coord unlock` for each.",
        ),
    }
}

/// Returns the keys of those locks that are no longer held.
fn lost(cx: &Context, locks: &[(&str, i64)]) -> Result<Vec<String>, Problem> {
    let mut lost = Vec::new();
    for chunk in locks.chunks(LOCKS_PER_REQUEST) {
        let answer = verify_tokens(cx, chunk)?;
        let Some(results) = answer.member("results").as_array() else {
            return Err(Problem::unusable(&answer, cx.settings()));
        };
        for ((key, _), result) in chunk.iter().zip(results) {
            if result["valid"] == false && result["given_back"] != true {
                lost.push((*key).to_owned());
            }
        }
    }
    Ok(lost)
}
