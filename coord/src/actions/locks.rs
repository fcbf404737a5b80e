//! `coord lock`, `unlock` and `locks`. The invariant: the record of the work tree has the fencing
//! tokens that the service gave.
use clap::ArgMatches;
use serde_json::{Value, json};

use crate::{
    command_line::{command::Command, context::Context, draft::Draft},
    output::{
        outcome::{DONE, Outcome, exit_code_of},
        text::escape_text,
    },
    service::{
        answer::{Answer, as_text},
        routes::Route,
    },
    work_tree::{git::WorkTree, record::Record},
};

const FORCE_RELEASE: &Route = Route::named("DELETE /locks/{path}");

/// Acquires a lock and records it.
pub(super) fn lock(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let record = Record::of_current_folder();
    let mut draft = cx.draft(command, matches)?;
    replace_path_by_key(record.as_ref(), &mut draft);
    let answer = cx.send_waiting(draft, &["locked_by_other", "locked_by_other_session"])?;
    record_lock(cx, record.as_ref(), &answer);
    Ok(cx.print_answer(command, &answer))
}

/// Records a lock that was acquired, for the git hooks.
pub(super) fn record_lock(cx: &Context, record: Option<&Record>, answer: &Answer) {
    let Some(record) = record.filter(|_| *answer.member("success") == true) else { return };
    let key = answer.member("file_path").as_str();
    let token = answer.member("fencing_token").as_i64();
    let (Some(key), Some(token)) = (key, token) else { return };
    if let Err(error) = record.add(key, token, cx.settings()) {
        cx.output.print_problem(&format!("The lock is held, but could not be recorded: {error}."));
    }
}

/// Releases a lock and removes it from the record.
pub(super) fn unlock(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let record = Record::of_current_folder();
    let is_forced = matches.get_flag("force");
    let mut draft = cx.draft(command, matches)?;
    replace_path_by_key(record.as_ref(), &mut draft);
    let key = draft.body["file_path"].as_str().unwrap_or_default().to_owned();
    if is_forced {
        let token = draft.body.get("fencing_token").map(as_text);
        draft = Draft::new(FORCE_RELEASE);
        draft.set_path_parameter("path", &key);
        draft.query.extend(token.map(|token| ("fencing_token", token)));
        cx.identify(&mut draft)?;
    }
    let answer = cx.send(&draft)?;
    // Also when the service no longer had the lock: after `unlock` the caller does not rely on it.
    if let (Some(record), 200) = (&record, answer.status) {
        let canonical = answer.member("file_path").as_str();
        if let Err(error) = record.remove(canonical.unwrap_or(&key), cx.settings()) {
            cx.output.print_problem(&format!("The record of locks could not be changed: {error}."));
        }
    }
    if is_forced && !cx.output.is_json && exit_code_of(&answer) == DONE {
        cx.output.print(&format!("Released {}.", escape_text(&key)));
        return Ok(DONE);
    }
    Ok(cx.print_answer(command, &answer))
}

/// Lists locks: those of the arguments, else those that match the filters.
pub(super) fn list(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let Some(paths) = matches.get_many::<String>("paths") else {
        let answer = cx.send(&cx.draft(command, matches)?)?;
        return Ok(cx.print_answer(command, &answer));
    };
    let work_tree = WorkTree::of_current_folder();
    let (mut code, mut answers, mut locks) = (DONE, Vec::new(), Vec::new());
    for path in paths {
        let answer = match cx.lock_status(&key_of(work_tree.as_ref(), path)) {
            Ok(answer) => answer,
            Err(problem) => {
                cx.print_json_of_all(&answers);
                return Err(problem);
            }
        };
        match (&answer.json, exit_code_of(&answer)) {
            (Some(status), DONE) => locks.push(row_of(status)),
            _ => code = code.max(cx.print_for_people(command, &answer)),
        }
        answers.push(answer);
    }
    cx.print_json_of_all(&answers);
    if !locks.is_empty() && !cx.output.is_json {
        cx.output.print(&command.show.render(&json!({ "locks": locks }), cx.output));
    }
    Ok(code)
}

/// Returns the row of a table for the state of a lock.
fn row_of(status: &Value) -> Value {
    let mut lock = status["lock"].as_object().cloned().unwrap_or_default();
    if lock.is_empty() {
        lock.insert("locked_by".to_owned(), "(free)".into());
    }
    lock.insert("file_path".to_owned(), status["file_path"].clone());
    Value::Object(lock)
}

fn replace_path_by_key(record: Option<&Record>, draft: &mut Draft) {
    if let Some(record) = record
        && let Some(Value::String(path)) = draft.body.get_mut("file_path")
    {
        *path = record.work_tree().key_of(path);
    }
}

/// Returns the lock key of a path. Outside a work tree the path is the key.
pub(super) fn key_of(work_tree: Option<&WorkTree>, path: &str) -> String {
    work_tree.map_or_else(|| path.to_owned(), |work_tree| work_tree.key_of(path))
}
