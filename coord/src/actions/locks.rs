//! `coord lock`, `unlock` and `locks`. The invariant: the record of the work tree has the fencing
//! tokens that the service gave.
use std::io;

use clap::ArgMatches;
use serde_json::{Value, json};

use super::{caller::Caller, paths::Paths, verify::verify_tokens};
use crate::{
    command_line::{command::Command, context::Context, draft::Draft},
    output::{
        outcome::{DONE, Outcome, Problem, REFUSED, exit_code_of},
        text::escape_text,
        time::relative_time,
    },
    service::{
        answer::{Answer, as_text},
        routes::Route,
    },
    work_tree::records::Records,
};

const FORCE_RELEASE: &Route = Route::named("DELETE /locks/{path}");
/// What a caller learns that acts as the default agent.
const UNNAMED: &str = "You are the agent cloud-agent, because your key is bound to no agent and \
                       you name none. Every client that does the same is this agent too and shares \
                       its locks, so none of them keeps you from a file: set AGENT_ID to a name of \
                       your own, or use a key that is bound to an agent.";

const LIST: &Route = Route::named("GET /locks");

/// The maximum number of locks in one answer.
const MAX_ROWS: usize = 500;

const REGISTER: &Route = Route::named("POST /discovery/register");

/// Acquires a lock and records it.
pub(super) fn lock(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let mut draft = cx.draft(command, matches)?;
    let path = draft.body["file_path"].as_str().unwrap_or_default().to_owned();
    let paths = Paths::with(Some(&path));
    let key = paths.key_to_acquire(cx.output, &path)?;
    let records = paths.records(cx)?;
    draft.body.insert("file_path".to_owned(), key.as_str().into());
    let answer = acquire(cx, draft)?;
    let caller = Caller::new(cx);
    let is_recorded = record_lock(&caller, records.as_ref(), &answer);
    let code = cx.print_answer(command, &answer);
    if is_of_own_agent(&answer) {
        cx.output.print_problem(&describe_own_holder(&key, &path, &answer));
    }
    // Outside of a work tree nothing else needs to know the caller.
    if code == DONE && records.is_some() && caller.is_unnamed() {
        cx.output.print_problem(UNNAMED);
    }
    Ok(if is_recorded { code } else { code.max(REFUSED) })
}

/// Acquires a lock, and waits for it unless the caller's own agent holds it: an agent that waits
/// for itself waits in vain.
fn acquire(cx: &Context, draft: Draft) -> Result<Answer, Problem> {
    if draft.wait_seconds() > 0 {
        let mut first = draft.clone();
        first.body.remove("wait_seconds");
        let answer = cx.send(&first)?;
        if *answer.member("reason") != "locked_by_other" || is_of_own_agent(&answer) {
            return Ok(answer);
        }
    }
    cx.send_waiting(draft, &["locked_by_other"])
}

/// Whether a lock was refused because the caller's own agent holds it in another session.
pub(super) fn is_of_own_agent(answer: &Answer) -> bool {
    let is_refused = *answer.member("success") == false;
    let is_own = *answer.member("same_agent") == true;
    is_refused && (is_own || *answer.member("reason") == "locked_by_other_session")
}

/// Says in which session the caller's own agent holds a lock, and what the caller can do about it.
pub(super) fn describe_own_holder(key: &str, path: &str, lock: &Answer) -> String {
    let agent = lock.member("locked_by").as_str().unwrap_or_default();
    let session = lock.member("session_id").as_str();
    let since = lock.member("locked_at").as_str().and_then(relative_time);
    let since = since.map(|time| format!(", locked {time}")).unwrap_or_default();
    let adopt = match REGISTER.field("adopt") {
        Some(_) => "adopt it with `coord session start --adopt`, or ",
        None => "",
    };
    match session {
        Some(session) => format!(
            "{key} is held by another session of your own agent {agent}: {session}{since}. Work \
             there, {adopt}unlock it there: coord unlock {path} --session-id {session}"
        ),
        None => format!("{key} is held by your own agent {agent}{since}."),
    }
}

/// Records a lock that was acquired, for the git hooks. Returns false if that is not possible: the
/// hooks would not notice when the lock is lost.
pub(super) fn record_lock(caller: &Caller<'_>, records: Option<&Records>, answer: &Answer) -> bool {
    let Some(records) = records.filter(|_| *answer.member("success") == true) else { return true };
    let key = answer.member("file_path").as_str();
    let token = answer.member("fencing_token").as_i64();
    let (Some(key), Some(token)) = (key, token) else { return true };
    let cx = caller.cx;
    let added = records.add(key, token, caller.agent_id(), cx.settings());
    let Err(error) = added else { return true };
    let path = records.work_tree().argument_for(key);
    cx.output.print_problem(&format!(
        "The lock on {key} is held, but could not be recorded: {error}. The git hooks will not \
         notice when it is lost. To release it: coord unlock {path}"
    ));
    false
}

/// Releases a lock and removes it from the record.
pub(super) fn unlock(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let is_forced = matches.get_flag("force");
    let mut draft = cx.draft(command, matches)?;
    let path = draft.body["file_path"].as_str().unwrap_or_default().to_owned();
    let paths = Paths::with(Some(&path));
    let key = paths.key_of(cx, &path)?;
    let records = paths.records(cx)?;
    draft.body.insert("file_path".to_owned(), key.as_str().into());
    if is_forced {
        let token = draft.body.get("fencing_token").map(as_text);
        draft = Draft::new(FORCE_RELEASE);
        draft.set_path_parameter("path", &key);
        draft.query.extend(token.map(|token| ("fencing_token", token)));
        cx.identify(&mut draft)?;
    }
    let caller = Caller::new(cx);
    let mut answer = cx.send(&draft)?;
    if let Some(records) = &records
        && !is_forced
    {
        answer = with_recorded_token(&caller, records, draft, &key, answer)?;
    }
    let code = exit_code_of(&answer);
    if let (Some(records), 200) = (&records, answer.status) {
        let key = answer.member("file_path").as_str().unwrap_or(&key);
        if code == REFUSED && is_held_elsewhere(&caller, records, key, &path)? {
            return Ok(cx.print_answer(command, &answer));
        }
        // Also when the service no longer had the lock: after `unlock` the caller does not rely on
        // it.
        let session = &cx.settings().identity.session_id;
        let is_gone = |lock: &_| is_forced || caller.owns(lock);
        let removed = records.remove(key, session, is_gone);
        if let Err(error) = removed.and_then(|()| forget_given_back(&caller, records, key)) {
            cx.output.print_problem(&format!("The record of locks could not be changed: {error}."));
        }
    }
    if is_forced && !cx.output.is_json && code == DONE {
        cx.output.print(&format!("Released {}.", escape_text(&key)));
        return Ok(DONE);
    }
    let shown = cx.print_answer(command, &answer);
    if shown == REFUSED {
        describe_holder(cx, answer.member("file_path").as_str().unwrap_or(&key));
    }
    Ok(shown)
}

/// Releases a lock once more, with its recorded token, if it was refused because another session of
/// the caller acquired it. The token proves that the lock is the caller's, also after a restart.
fn with_recorded_token(
    caller: &Caller<'_>,
    records: &Records,
    mut draft: Draft,
    key: &str,
    answer: Answer,
) -> Result<Answer, Problem> {
    let is_refused = *answer.member("reason") == "lock_not_found_or_not_owner";
    if !is_refused || draft.body.contains_key("fencing_token") {
        return Ok(answer);
    }
    let session = &caller.cx.settings().identity.session_id;
    let token = records.proving_token_of(key, session, |lock| caller.owns(lock));
    let Some(token) = token else { return Ok(answer) };
    draft.body.insert("fencing_token".to_owned(), token.into());
    caller.cx.send(&draft)
}

/// Removes the lock that was released from the records of other work trees as well, whichever
/// session acquired it there: another one possibly has adopted it since. One that was lost stays.
fn forget_given_back(caller: &Caller<'_>, records: &Records, key: &str) -> io::Result<()> {
    let Some((token, _)) = records.token_of(key, |lock| caller.owns(lock)) else { return Ok(()) };
    let verified = verify_tokens(caller.cx, &[(key, token)]);
    match verified.is_ok_and(|answer| answer.member("results")[0]["given_back"] == true) {
        true => records.forget(key, |lock| lock.token == token && caller.owns(lock)),
        false => Ok(()),
    }
}

/// Says for people who holds a lock that the caller could not release, if the service tells.
fn describe_holder(cx: &Context, key: &str) {
    let status = match cx.output.is_json || cx.output.is_quiet {
        true => return,
        false => cx.lock_status(key).ok().filter(|answer| exit_code_of(answer) == DONE),
    };
    let Some(status) = status.filter(|answer| answer.member("locked").is_boolean()) else { return };
    let lock = status.member("lock");
    let holder = match (lock["locked_by"].as_str(), lock["session_id"].as_str()) {
        (Some(holder), Some(session)) => format!("{holder} holds its lock, in session {session}"),
        (Some(holder), None) => format!("{holder} holds its lock"),
        (None, _) => "nobody holds its lock".to_owned(),
    };
    cx.output.print_problem(&format!("{key}: {holder}."));
}

/// Whether a recorded lock that the caller could not release is still held in another session, so
/// that the record keeps it. Says which session that is now.
fn is_held_elsewhere(
    caller: &Caller<'_>,
    records: &Records,
    key: &str,
    path: &str,
) -> Result<bool, Problem> {
    let recorded = records.token_of(key, |lock| caller.owns(lock));
    let Some((token, acquired_in)) = recorded else { return Ok(false) };
    let verified = verify_tokens(caller.cx, &[(key, token)])?;
    if exit_code_of(&verified) != DONE {
        return Ok(false);
    }
    let holder = verified.member("results")[0]["locked_by"].as_str().unwrap_or_default();
    if !acquired_in.is_empty() && caller.is(holder)? {
        let status = caller.cx.lock_status(key)?;
        let session = status.member("lock")["session_id"].as_str().unwrap_or(&acquired_in);
        let adopted = match session == acquired_in {
            true => String::new(),
            false => format!(", and session {session} has adopted it"),
        };
        caller.cx.output.print_problem(&format!(
            "The lock on {key} was acquired in session {acquired_in}{adopted}. It is still held \
             there. If that session has ended or is yours: coord unlock {path} --session-id \
             {session}"
        ));
    }
    Ok(true)
}

/// Lists locks: those of the arguments, else those that match the filters.
pub(super) fn list(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let Some(texts) = matches.get_many::<String>("paths") else {
        let answer = cx.send(&cx.draft(command, matches)?)?;
        return Ok(cx.print_answer(command, &answer));
    };
    let paths = Paths::with(matches.get_one::<String>("paths").map(String::as_str));
    let keys = texts.map(|path| Ok((paths.key_of(cx, path)?, paths.is_folder(path))));
    let keys = keys.collect::<Result<Vec<_>, Problem>>()?;
    let (mut code, mut answers, mut locks) = (DONE, Vec::new(), Vec::new());
    for (key, is_folder) in keys {
        let answer = match cx.lock_status(&key) {
            Ok(answer) => answer,
            Err(problem) => {
                cx.print_json_of_all(&answers);
                return Err(problem);
            }
        };
        match (&answer.json, exit_code_of(&answer)) {
            (Some(status), DONE) if is_folder && !cx.output.is_json => {
                locks.extend(rows_of_folder(cx, &key, status)?);
            }
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

/// Returns the rows of a table for a folder: the locks on files in it, and its own, which another client can have
/// made and a submodule can have. If there are none, one row says that it is free.
fn rows_of_folder(cx: &Context, key: &str, status: &Value) -> Result<Vec<Value>, Problem> {
    let mut draft = Draft::new(LIST);
    draft.query.push(("prefix", format!("{key}/")));
    draft.query.push(("limit", MAX_ROWS.to_string()));
    let answer = cx.send(&draft)?;
    if *answer.member("truncated") == true {
        cx.output.print_problem(&format!(
            "{key} has more than {MAX_ROWS} locked files; the first {MAX_ROWS} are shown."
        ));
    }
    let mut rows = answer.member("locks").as_array().cloned().unwrap_or_default();
    if rows.is_empty() || status["locked"] == true {
        rows.insert(0, row_of(status));
    }
    Ok(rows)
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
