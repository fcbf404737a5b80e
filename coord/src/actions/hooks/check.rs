//! The check of files against the locks of the service. The invariant: a file whose recorded
//! fencing token is no longer valid never passes, except where no other agent can have held its lock
//! since: another session of the caller's agent has the next token, or the lock was given back and
//! nobody has locked the file after that.
use std::{cell::Cell, collections::BTreeMap};

use serde_json::Value;

use super::files::Files;
use crate::{
    actions::{
        caller::Caller,
        verify::{LOCKS_PER_REQUEST, verify_tokens},
    },
    command_line::context::Context,
    output::{
        outcome::{DONE, Problem, exit_code_of},
        time::relative_time,
    },
    work_tree::{
        record::Recorded,
        records::{RecordedLocks, Records},
    },
};

/// A token that no lock has. A request with it asks for the holder without claiming to be it.
const NO_TOKEN: i64 = 0;

/// How many locks of other sessions of the caller's own agent are described.
const NOTE_LIMIT: usize = 10;

/// The recorded locks, and those of them that the caller acquired at this service.
struct Check<'a> {
    caller: Caller<'a>,
    records: &'a Records,
    recorded: &'a RecordedLocks,
    tokens: BTreeMap<&'a str, i64>,
    notes: Cell<usize>,
}

/// Returns a complaint for each file that must not be committed or pushed.
pub(super) fn check_files(
    cx: &Context,
    records: &Records,
    recorded: &RecordedLocks,
    files: &Files,
) -> Result<Vec<String>, Problem> {
    let caller = Caller::new(cx);
    let mut tokens = BTreeMap::new();
    for (key, locks) in recorded {
        for lock in locks {
            if caller.has_recorded(lock)? {
                tokens.insert(key.as_str(), lock.token);
                break;
            }
        }
    }
    let check = Check { caller, records, recorded, tokens, notes: Cell::new(0) };
    let mut complaints = Vec::new();
    let all: Vec<_> = files.changed.iter().chain(&files.relied_on).map(String::as_str).collect();
    for chunk in all.chunks(LOCKS_PER_REQUEST) {
        let locks: Vec<_> = chunk
            .iter()
            .map(|file| (*file, check.tokens.get(file).copied().unwrap_or(NO_TOKEN)))
            .collect();
        for (file, result) in chunk.iter().zip(results_of(cx, &locks)?) {
            complaints.extend(check.judge(file, files.changed.contains(*file), &result)?);
        }
    }
    Ok(complaints)
}

/// Returns what the service says about locks with these tokens, in the same order.
fn results_of(cx: &Context, locks: &[(&str, i64)]) -> Result<Vec<Value>, Problem> {
    let answer = verify_tokens(cx, locks)?;
    let is_complete = |results: &&Vec<Value>| {
        results.len() == locks.len() && results.iter().all(|result| result["valid"].is_boolean())
    };
    match answer.member("results").as_array().filter(is_complete) {
        Some(results) => Ok(results.clone()),
        None => Err(Problem::unusable(&answer, cx.settings())),
    }
}

impl Check<'_> {
    /// Returns the complaint about a file, if there is one.
    fn judge(
        &self,
        file: &str,
        is_changed: bool,
        result: &Value,
    ) -> Result<Option<String>, Problem> {
        // The service normalises paths, and the record has its form.
        let key = result["file_path"].as_str().unwrap_or(file);
        match (self.tokens.get(file), self.tokens.get(key)) {
            (Some(token), _) => self.judge_recorded(file, file, *token, result),
            (None, Some(token)) => {
                let results = results_of(self.caller.cx, &[(file, *token)])?;
                let result = results.first().unwrap_or(&Value::Null);
                self.judge_recorded(file, key, *token, result)
            }
            (None, None) if !is_changed => Ok(None),
            (None, None) => {
                // In another work tree it is the lock of the agent that works there.
                let mut names = [file, key].into_iter();
                let name = names.find(|name| self.recorded.contains_key(*name));
                if let Some(lock) = name.and_then(|name| self.records.own_lock(name)) {
                    self.caller.cx.output.print_problem(&format!(
                        "{file}: the recorded lock does not count here, it is from {}.",
                        lock.origin()
                    ));
                }
                self.judge_unrecorded(file, result)
            }
        }
    }

    /// Returns the complaint about a file whose recorded lock the caller no longer holds.
    fn judge_recorded(
        &self,
        file: &str,
        key: &str,
        token: i64,
        result: &Value,
    ) -> Result<Option<String>, Problem> {
        let holder = result["locked_by"].as_str();
        if result["valid"] == true {
            return match holder.map(|holder| self.caller.is(holder)).transpose()? {
                Some(true) => Ok(None),
                // Fencing tokens are not secret: a valid one can be that of another agent.
                _ => Ok(Some(locked_by(file, holder.unwrap_or("another agent"), result))),
            };
        }
        if result["given_back"] == true {
            self.forget_given_back(file, key, token);
            return Ok(None);
        }
        let now = match holder {
            Some(holder) if self.caller.is(holder)? => {
                if !self.note_own_holder(file, token)? {
                    self.forget_superseded(file, key, token);
                }
                return Ok(None);
            }
            Some(holder) => format!("{holder} holds it now{}", expiry_of(result)),
            None => "nobody holds it now".to_owned(),
        };
        Ok(Some(format!(
            "{file}: your lock (fencing token {token}) is no longer valid; {now}. Look at what was \
             changed meanwhile, then lock it again with: coord lock {}",
            self.records.work_tree().argument_for(file)
        )))
    }

    /// Takes a lock out of the record that was given back at another door, such as a tool of MCP.
    fn forget_given_back(&self, file: &str, key: &str, token: i64) {
        let output = self.caller.cx.output;
        output.print_problem(&format!(
            "{file}: note: its lock was given back, and nobody has locked it since. To lock it \
             again: coord lock {}",
            self.records.work_tree().argument_for(file)
        ));
        self.forget(key, token);
    }

    /// Takes a lock out of the record that has ended, although its agent holds the file again: a lock
    /// of the caller's own agent stops nobody.
    fn forget_superseded(&self, file: &str, key: &str, token: i64) {
        self.caller.cx.output.print_problem(&format!(
            "{file}: note: your lock (fencing token {token}) has ended, and your agent has locked the \
             file anew. Another agent can have changed it in between."
        ));
        self.forget(key, token);
    }

    /// Takes a lock out of the record.
    fn forget(&self, key: &str, token: i64) {
        let is_it = |lock: &Recorded| lock.token == token && self.caller.owns(lock);
        if let Err(error) = self.records.forget(key, is_it) {
            let output = self.caller.cx.output;
            output.print_problem(&format!("The record of locks could not be changed: {error}."));
        }
    }

    /// Returns the complaint about a file without a recorded lock that another agent has locked. A
    /// lock of the caller's own agent stops nobody: sessions of one agent are not told apart by
    /// the user who runs git.
    fn judge_unrecorded(&self, file: &str, result: &Value) -> Result<Option<String>, Problem> {
        let Some(holder) = result["locked_by"].as_str() else { return Ok(None) };
        if !self.caller.is(holder)? {
            return Ok(Some(locked_by(file, holder, result)));
        }
        self.note_own_holder(file, NO_TOKEN)?;
        Ok(None)
    }

    /// Notes in which other session the caller's own agent holds a lock, if it does. Returns whether no
    /// other agent can have held it since the caller's fencing token: each acquisition adds 1 to the
    /// token.
    fn note_own_holder(&self, file: &str, token: i64) -> Result<bool, Problem> {
        let cx = self.caller.cx;
        if token == NO_TOKEN && self.notes.get() == NOTE_LIMIT {
            return Ok(false);
        }
        let answer = cx.lock_status(file)?;
        let lock = answer.member("lock");
        let session = lock["session_id"].as_str();
        if exit_code_of(&answer) == DONE && !self.caller.is_in_session(session) {
            self.notes.set(NOTE_LIMIT.min(self.notes.get() + 1));
            let since = lock["locked_at"].as_str().and_then(relative_time);
            let is_last = self.notes.get() == NOTE_LIMIT;
            cx.output.print_problem(&format!(
                "{file}: note: another session of your own agent holds its lock: {}{}.{}",
                session.unwrap_or_default(),
                since.map(|time| format!(", locked {time}")).unwrap_or_default(),
                if is_last { " Further ones are not named." } else { "" }
            ));
        }
        Ok(token != NO_TOKEN && lock["fencing_token"] == token.saturating_add(1))
    }
}

fn locked_by(file: &str, holder: &str, result: &Value) -> String {
    format!("{file}: it is locked by {holder}{}.", expiry_of(result))
}

fn expiry_of(result: &Value) -> String {
    let time = result["expires_at"].as_str().and_then(relative_time);
    time.map(|time| format!(", it expires {time}")).unwrap_or_default()
}
