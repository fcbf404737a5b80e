//! `coord claim` and `coord tasks`: tasks, and the open claims of the caller with the command that
//! goes on with each.
use clap::ArgMatches;
use serde_json::Value;

use crate::{
    command_line::{command::Command, context::Context, draft::Draft},
    output::{
        outcome::{DONE, Outcome, REFUSED, exit_code_of},
        show::Show,
        text::{escape_line, escape_text},
        time::relative_time,
    },
    service::{answer::Answer, routes::Route},
};

const TASKS: &Route = Route::named("GET /work");

/// The reason of a refusal after which waiting helps.
const NO_TASKS: &str = "no_tasks_available";

/// What is shown of each of several tasks.
const TASK: &[&str] = &[
    "task_id",
    "task_type",
    "description",
    "input_data",
    "priority",
    "deadline",
    "attempt",
    "claim_token",
    "lease_expires_at",
];

/// Claims tasks.
pub(super) fn claim(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let answer = cx.send_waiting(cx.draft(command, matches)?, &[NO_TASKS])?;
    let usable = matches!(exit_code_of(&answer), DONE | REFUSED) && command.accepts(&answer);
    if cx.output.is_json || !usable {
        return Ok(cx.print_answer(command, &answer));
    }
    let mut shown = answer.json.clone().unwrap_or_default();
    let tasks = shown["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty());
    let open = shown.as_object_mut().and_then(|members| members.remove("open_claims"));
    let several = command.showing(Show::Entries("tasks", TASK));
    let shown = Answer { json: Some(shown), ..answer };
    let code = cx.print_answer(if tasks { &several } else { command }, &shown);
    let open = open.as_ref().and_then(Value::as_array).filter(|open| !open.is_empty());
    if let Some(open) = open {
        cx.output.print(&escape_text(&describe_open(cx, open)));
    }
    Ok(code)
}

/// Lists tasks. Those that the caller has claimed come with the command that goes on with them.
pub(super) fn list(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let answer = cx.send(&cx.draft(command, matches)?)?;
    let code = cx.print_answer(command, &answer);
    let claims = answer.member("tasks").as_array().into_iter().flatten();
    let claims = claims.filter(|task| task["claim_token"].is_string());
    let commands: String = claims.map(|task| format!("  {}\n", renewal_of(task))).collect();
    if code == DONE && !cx.output.is_json && !commands.is_empty() {
        cx.output.print(&escape_text(&format!("\nTo go on with a task:\n{commands}")));
    }
    Ok(code)
}

/// Returns the command that goes on with a claim: it extends the lease, after which every call of
/// the session does.
pub(super) fn renewal_of(claim: &Value) -> String {
    let text = |name: &str| claim[name].as_str();
    let task = text("task_id").or(text("id")).unwrap_or_default();
    let token = text("claim_token").unwrap_or_default();
    format!("coord renew --task-id {task} --claim-token {token}")
}

/// Describes open claims, each on a line with its command on the next one.
fn describe_open(cx: &Context, open: &[Value]) -> String {
    let tasks = own_tasks(cx);
    let mut text = "\nYour other open claims. To go on with one, run its command; `coord task \
                    --task-id ID` shows the task.\n"
        .to_owned();
    for claim in open {
        let id = claim["task_id"].as_str().unwrap_or_default();
        let task = tasks.iter().find(|task| task["id"] == id);
        let task = task.map(|task| {
            let kind = escape_line(task["task_type"].as_str().unwrap_or_default());
            format!("  {kind}, attempt {}", task["attempt"])
        });
        let until = claim["claim_expires_at"].as_str().unwrap_or_default();
        let until = relative_time(until).unwrap_or_else(|| until.to_owned());
        let task = task.unwrap_or_default();
        text += &format!("  {id}{task}, lease ends {until}\n    {}\n", renewal_of(claim));
    }
    text
}

/// Returns the tasks that the caller has claimed; none if the service does not list them.
fn own_tasks(cx: &Context) -> Vec<Value> {
    let mut draft = Draft::new(TASKS);
    draft.query.push(("mine", "true".to_owned()));
    let listed = cx.identify(&mut draft).and_then(|()| cx.send(&draft));
    let listed = listed.ok().map(|answer| answer.member("tasks").clone());
    listed.as_ref().and_then(Value::as_array).cloned().unwrap_or_default()
}
