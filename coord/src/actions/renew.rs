//! `coord renew`. The invariant: it never acquires a lock that the caller had lost without saying
//! so, and the record keeps the old fencing token until the caller locks the file again.
use clap::ArgMatches;
use serde_json::{Map, Value};

use super::{
    caller::Caller,
    locks::{describe_own_holder, is_of_own_agent, record_lock},
    paths::Paths,
    verify::verify_tokens,
};
use crate::{
    command_line::{
        command::Command,
        context::Context,
        values::{integer_of, value_of},
    },
    output::{
        outcome::{DONE, Outcome, Problem, REFUSED, exit_code_of},
        show::{Show, render_refusal},
        text::escape_line,
    },
    service::{answer::Answer, routes::Route},
    work_tree::records::Records,
};

const RENEW_WORK: &Route = Route::named("POST /work/renew");

/// Extends locks or the lease of a task.
pub(super) fn renew(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let paths: Vec<_> = matches.get_many::<String>("paths").into_iter().flatten().collect();
    let has_token = matches.contains_id("fencing_token");
    if matches.contains_id("task_id") {
        if !paths.is_empty() || has_token || matches.contains_id("ttl_minutes") {
            return Err(Problem::invalid("Expected either locks or a task, not both."));
        }
        return renew_lease(cx, command, matches);
    }
    if paths.is_empty()
        || matches.contains_id("claim_token")
        || matches.contains_id("lease_minutes")
    {
        return Err(Problem::invalid("Expected PATHs, or --task-id with its options."));
    }
    if has_token && paths.len() > 1 {
        return Err(Problem::invalid("Expected one PATH with --fencing-token."));
    }
    let places = Paths::with(paths.first().map(|path| path.as_str()));
    let keys = paths.iter().map(|path| places.key_of(cx, path));
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    let renewal =
        Renewal { command, matches, records: places.records(cx)?, caller: Caller::new(cx) };
    let (mut code, mut answers) = (DONE, Vec::new());
    for key in keys {
        match renewal.renew_lock(&key) {
            Ok((lock_code, answer)) => {
                code = code.max(lock_code);
                answers.push(answer);
            }
            Err(problem) => {
                cx.print_json_of_all(&answers);
                return Err(problem);
            }
        }
    }
    cx.print_json_of_all(&answers);
    Ok(code)
}

/// Extends the lease of a task.
fn renew_lease(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let mut body = Map::new();
    for name in ["task_id", "claim_token", "lease_minutes"] {
        if let Some(field) = RENEW_WORK.field(name)
            && let Some(value) = value_of(field, matches, &cx.stdin)?
        {
            body.insert(name.to_owned(), value);
        }
    }
    let answer = cx.call(RENEW_WORK, Value::Object(body))?;
    let shown = Show::Sentence("The lease of task {task_id} now ends {lease_expires_at}.");
    Ok(cx.print_answer(&command.showing(shown), &answer))
}

/// One run of `coord renew` for locks.
struct Renewal<'a> {
    command: &'a Command,
    matches: &'a ArgMatches,
    records: Option<Records>,
    caller: Caller<'a>,
}

/// The exit code for a lock, and the last answer of the service about it.
type Renewed = (u8, Answer);

impl Renewal<'_> {
    fn cx(&self) -> &Context {
        self.caller.cx
    }

    /// Extends a lock, or reports why that is not possible.
    fn renew_lock(&self, key: &str) -> Result<Renewed, Problem> {
        let token = self.expected_token(key);
        let lost = match token {
            Some(token) => self.check_token(key, token)?,
            None => self.check_holder(key)?,
        };
        if let Some(lost) = lost {
            return Ok(lost);
        }
        let mut body = Map::from_iter([("file_path".to_owned(), key.into())]);
        if let Some(minutes) = integer_of(self.matches, "ttl_minutes") {
            body.insert("ttl_minutes".to_owned(), minutes.into());
        }
        let (cx, answer) = self.extend(key, body)?;
        let new_token = answer.member("fencing_token").as_i64();
        // The lock can be lost between the check and this request.
        let is_new = *answer.member("action") == "acquired"
            || token.is_some_and(|token| Some(token) != new_token);
        if exit_code_of(&answer) == DONE && is_new {
            // The record keeps the old token, so that the git hooks stop the changes made under it.
            let new_token = new_token.unwrap_or_default();
            self.cx().output.print_problem(&format!(
                "The lock on {key} had been lost. It is yours again, with fencing token \
                 {new_token}: look at what was changed meanwhile, then run `coord lock {key}`."
            ));
            return Ok((REFUSED, answer));
        }
        let is_recorded = record_lock(&Caller::new(&cx), self.records.as_ref(), &answer);
        let code = self.cx().print_for_people(self.command, &answer);
        if is_of_own_agent(&answer) {
            self.cx().output.print_problem(&describe_own_holder(key, key, &answer));
        }
        Ok((if is_recorded { code } else { code.max(REFUSED) }, answer))
    }

    /// Extends a lock. If another session of the caller's own agent has adopted it, extends it in
    /// that session, provided that a token proves that the lock is the caller's. Returns the
    /// context of the session as well.
    fn extend(&self, key: &str, body: Map<String, Value>) -> Result<(Context, Answer), Problem> {
        let cx = self.cx().with_client(self.cx().client.clone());
        let extended = cx.call(self.command.route, Value::Object(body.clone()))?;
        let holder = extended.member("session_id").as_str();
        let Some(holder) = holder.filter(|_| is_of_own_agent(&extended) && self.is_proven(key))
        else {
            return Ok((cx, extended));
        };
        let mut settings = cx.settings().clone();
        holder.clone_into(&mut settings.identity.session_id);
        let cx = cx.with_client(cx.client.with_settings(settings));
        let extended = cx.call(self.command.route, Value::Object(body))?;
        Ok((cx, extended))
    }

    /// Whether a fencing token proves that a lock is the caller's, whichever session holds it.
    fn is_proven(&self, key: &str) -> bool {
        let session = &self.cx().settings().identity.session_id;
        let recorded = || {
            let records = self.records.as_ref()?;
            records.proving_token_of(key, session, |lock| self.caller.owns(lock))
        };
        integer_of(self.matches, "fencing_token").or_else(recorded).is_some()
    }

    /// Returns the fencing token of the arguments, else the recorded one.
    fn expected_token(&self, key: &str) -> Option<i64> {
        if let Some(token) = integer_of(self.matches, "fencing_token") {
            return Some(token);
        }
        let recorded = self.records.as_ref()?.token_of(key, |lock| self.caller.owns(lock));
        recorded.map(|(token, _)| token)
    }

    /// Reports a lock that no longer has this fencing token. Returns `None` if it has.
    fn check_token(&self, key: &str, token: i64) -> Result<Option<Renewed>, Problem> {
        let answer = verify_tokens(self.cx(), &[(key, token)])?;
        match (&answer.json, exit_code_of(&answer)) {
            (_, DONE) => Ok(None),
            (Some(json), REFUSED) => {
                let refusal = render_refusal(&json["results"][0], self.cx().output);
                let key = escape_line(key);
                self.cx()
                    .output
                    .print_escaped_problem(&format!("The lock on {key} is lost. {refusal}"));
                Ok(Some((REFUSED, answer)))
            }
            _ => Ok(Some((self.cx().print_for_people(self.command, &answer), answer))),
        }
    }

    /// Reports a lock that is not the caller's. Returns `None` if it is. Without a known fencing
    /// token this check is needed, because to extend a free lock would be to acquire it.
    fn check_holder(&self, key: &str) -> Result<Option<Renewed>, Problem> {
        let answer = self.cx().lock_status(key)?;
        if exit_code_of(&answer) != DONE {
            return Ok(Some((self.cx().print_for_people(self.command, &answer), answer)));
        }
        if !answer.member("locked").is_boolean() {
            return Err(Problem::unusable(&answer, self.cx().settings()));
        }
        let lock = answer.member("lock");
        let session = lock["session_id"].as_str();
        let holder = match lock["locked_by"].as_str() {
            Some(holder) if self.caller.is(holder)? && self.caller.is_in_session(session) => {
                return Ok(None);
            }
            Some(holder) if self.caller.is(holder)? => format!(
                "it is held by another session of your own agent {holder}, {}",
                session.unwrap_or_default()
            ),
            Some(holder) => format!("it is locked by {holder}"),
            None => format!("it is free. To acquire it: coord lock {key}"),
        };
        self.cx().output.print_problem(&format!("You do not hold the lock on {key}: {holder}."));
        Ok(Some((REFUSED, answer)))
    }
}
