//! The commands about locks. The invariant: the record of the work tree has the tokens that the service
//! gave, and keeps one whose lock was lost until somebody has looked.
use std::fs;

use clap::ArgMatches;
use serde_json::{Map, Value, json};

use crate::{
    client::Answer,
    commands::{Command, Run, Show},
    git::WorkTree,
    hooks::{Caller, MOST_LOCKS, is_in_session},
    outcome::{DONE, Outcome, Problem, REFUSED, code_of, failure_of},
    record::{Record, tokens_in},
    request::{Draft, as_text},
    routes::Route,
    run::Context,
    show::{clean, line},
};

impl Context {
    pub(crate) fn lock(
        &self,
        command: &Command,
        route: &'static Route,
        matches: &ArgMatches,
    ) -> Outcome {
        let record = Record::here();
        let mut draft = self.draft(command, route, matches)?;
        as_key(&record, &mut draft);
        let answer = self.wait(draft, &["locked_by_other", "locked_by_other_session"])?;
        self.remember(record.as_ref(), &answer);
        Ok(self.finish(command, &answer))
    }

    /// Records a lock that was got, for the git hooks.
    fn remember(&self, record: Option<&Record>, answer: &Answer) {
        let json = answer.json.as_ref().filter(|it| it["success"] == true);
        let (Some(record), Some(json)) = (record, json) else { return };
        let (Some(key), Some(token)) = (json["file_path"].as_str(), json["fencing_token"].as_i64())
        else {
            return;
        };
        if let Err(error) = record.add(key, token, self.client.settings()) {
            self.output.problem(&format!("The lock is held, but could not be recorded: {error}."));
        }
    }

    pub(crate) fn unlock(
        &self,
        command: &Command,
        route: &'static Route,
        matches: &ArgMatches,
    ) -> Outcome {
        let record = Record::here();
        let mut draft = self.draft(command, route, matches)?;
        as_key(&record, &mut draft);
        let key = draft.body["file_path"].as_str().unwrap_or_default().to_owned();
        if matches.get_flag("force") {
            let route = Route::named("DELETE /locks/{path}")
                .ok_or_else(|| Problem::wrong("The service cannot free locks of others."))?;
            let token = draft.body.get("fencing_token").map(as_text);
            draft = self.empty(route);
            draft.set_path("path", &key);
            draft.query.extend(token.map(|it| ("fencing_token", it)));
            self.identify(&mut draft, |_| true)?;
        }
        let answer = self.send(&draft)?;
        // Also when it was not held any more: who unlocks it does not count on it.
        if let (Some(record), 200) = (&record, answer.status) {
            let canonical = answer.json.as_ref().and_then(|it| it["file_path"].as_str());
            if let Err(error) = record.remove(canonical.unwrap_or(&key), self.client.settings()) {
                self.output.problem(&format!("The record of locks could not be changed: {error}."));
            }
        }
        if matches.get_flag("force") && !self.output.is_json && code_of(&answer) == DONE {
            self.output.print(&format!("Freed {}.", clean(&key)));
            return Ok(DONE);
        }
        Ok(self.finish(command, &answer))
    }

    pub(crate) fn verify(&self, command: &Command, matches: &ArgMatches) -> Outcome {
        let work_tree = WorkTree::here();
        let mut locks = Vec::new();
        for pair in matches.get_many::<String>("locks").into_iter().flatten() {
            let (path, token) = pair_of(pair)?;
            locks.push((key_of(work_tree.as_ref(), &path), token));
        }
        let file = matches.get_one::<String>("file");
        if let Some(file) = file {
            let text = match file.as_str() {
                "-" => self.text("-")?,
                file => fs::read_to_string(file)
                    .map_err(|error| Problem::wrong(format!("--file {file}: {error}.")))?,
            };
            locks.extend(locks_in(&text, self.client.settings().url.as_str())?);
        }
        if locks.is_empty() {
            return match (file, self.output.is_json) {
                (None, _) => Err(Problem::wrong("Which locks? Give PATH=TOKEN, or --file.")),
                (Some(_), true) => {
                    self.output.print(&json!({ "valid": true, "results": [] }).to_string());
                    Ok(DONE)
                }
                (Some(_), false) => {
                    self.output.print("There is nothing to verify.");
                    Ok(DONE)
                }
            };
        }
        let locks: Vec<_> = locks
            .into_iter()
            .map(|(key, token)| json!({ "file_path": key, "fencing_token": token }))
            .collect();
        let (mut all_valid, mut all) = (true, Vec::new());
        for chunk in locks.chunks(MOST_LOCKS) {
            let answer = self.ask(command.route, json!({ "locks": chunk }))?;
            let results = answer.json.as_ref().and_then(|it| it["results"].as_array());
            let (Some(results), DONE | REFUSED) = (results, code_of(&answer)) else {
                return Ok(self.finish(command, &answer));
            };
            if locks.len() <= MOST_LOCKS {
                return Ok(self.finish(command, &answer));
            }
            all_valid &= code_of(&answer) == DONE;
            all.extend(results.iter().cloned());
        }
        let answer = json!({ "valid": all_valid, "results": all });
        let answer = Answer { status: 200, text: answer.to_string(), json: Some(answer) };
        Ok(self.finish(command, &answer))
    }

    pub(crate) fn locks(
        &self,
        command: &Command,
        route: &'static Route,
        matches: &ArgMatches,
    ) -> Outcome {
        let Some(paths) = matches.get_many::<String>("paths") else {
            let answer = self.send(&self.draft(command, route, matches)?)?;
            return Ok(self.finish(command, &answer));
        };
        let work_tree = WorkTree::here();
        let (mut code, mut answers, mut found) = (DONE, Vec::new(), Vec::new());
        for path in paths {
            let path = key_of(work_tree.as_ref(), path);
            let answer = match self.look("GET /locks/status/{path}", "path", &path) {
                Ok(answer) => answer,
                Err(problem) => {
                    self.print_all(&answers);
                    return Err(problem);
                }
            };
            match (&answer.json, code_of(&answer)) {
                (Some(json), DONE) => {
                    let mut lock = json["lock"].as_object().cloned().unwrap_or_default();
                    if lock.is_empty() {
                        lock.insert("locked_by".to_owned(), "(free)".into());
                    }
                    lock.insert("file_path".to_owned(), json["file_path"].clone());
                    found.push(Value::Object(lock));
                }
                _ => code = code.max(self.tell(command, &answer)),
            }
            answers.push(answer);
        }
        self.print_all(&answers);
        if !found.is_empty() && !self.output.is_json {
            self.output.print(&self.output.shown(&command.show, &json!({ "locks": found })));
        }
        Ok(code)
    }

    pub(crate) fn renew(&self, command: &Command, matches: &ArgMatches) -> Outcome {
        let paths: Vec<_> = matches.get_many::<String>("paths").into_iter().flatten().collect();
        let token = matches.get_one::<i64>("fencing_token").copied();
        let task = matches.get_one::<String>("task_id");
        let member = |name: &str| Route::named("POST /work/renew").and_then(|it| it.field(name));
        if let Some(task) = task {
            if !paths.is_empty() || token.is_some() || matches.contains_id("ttl_minutes") {
                return Err(Problem::wrong("Renew either locks or a task, not both."));
            }
            let mut body = Map::from_iter([("task_id".to_owned(), Value::from(task.as_str()))]);
            for field in ["claim_token", "lease_minutes"].into_iter().filter_map(member) {
                if let Some(value) = self.value(field, matches)? {
                    body.insert(field.name.to_owned(), value);
                }
            }
            let answer = self.ask("POST /work/renew", Value::Object(body))?;
            let shown = Command {
                show: Show::Sentence("The lease of task {task_id} now ends {lease_expires_at}."),
                words: command.words,
                route: command.route,
                arguments: &[],
                run: Run::Plain,
            };
            return Ok(self.finish(&shown, &answer));
        }
        let is_for_task =
            matches.contains_id("claim_token") || matches.contains_id("lease_minutes");
        if paths.is_empty() || is_for_task {
            return Err(Problem::wrong("Renew what? Give PATHs, or --task-id with its options."));
        }
        if token.is_some() && paths.len() > 1 {
            return Err(Problem::wrong("A fencing token belongs to one PATH."));
        }
        let (record, caller) = (Record::here(), Caller::new(self));
        let (mut code, mut answers) = (DONE, Vec::new());
        for path in paths {
            match self.renew_lock(command, matches, record.as_ref(), &caller, path) {
                Ok((one, answer)) => {
                    code = code.max(one);
                    answers.push(answer);
                }
                Err(problem) => {
                    self.print_all(&answers);
                    return Err(problem);
                }
            }
        }
        self.print_all(&answers);
        Ok(code)
    }

    /// Extends a lock, or says why that cannot be; the answer is the last one of the service.
    fn renew_lock(
        &self,
        command: &Command,
        matches: &ArgMatches,
        record: Option<&Record>,
        caller: &Caller,
        path: &str,
    ) -> Result<(u8, Answer), Problem> {
        let path = key_of(record.map(Record::work_tree), path);
        let recorded = || {
            let locks = record?.locks().ok()?;
            let lock = locks.get(&path).filter(|it| it.counts_with(self.client.settings()));
            lock.map(|it| it.token)
        };
        let token = matches.get_one::<i64>("fencing_token").copied().or_else(recorded);
        let lost = match token {
            Some(token) => self.verify_one(command, &path, token)?,
            None => self.look_at(command, caller, &path)?,
        };
        if let Some(lost) = lost {
            return Ok(lost);
        }
        let mut body = Map::from_iter([("file_path".to_owned(), path.as_str().into())]);
        if let Some(minutes) = matches.get_one::<i64>("ttl_minutes") {
            body.insert("ttl_minutes".to_owned(), (*minutes).into());
        }
        let answer = self.ask("POST /locks/acquire", Value::Object(body))?;
        let code = code_of(&answer);
        let came_back = answer.json.as_ref().and_then(|it| it["fencing_token"].as_i64());
        let is_new = answer.json.as_ref().is_some_and(|it| it["action"] == "acquired");
        if code == DONE && (is_new || token.is_some_and(|it| Some(it) != came_back)) {
            // The record keeps the old token: what was changed under it has to be looked at first.
            let came_back = came_back.unwrap_or_default();
            self.output.problem(&format!(
                "The lock on {path} had been lost. It is yours again, with fencing token {came_back}: \
                 look at what was changed meanwhile, then run `coord lock {path}`."
            ));
            return Ok((REFUSED, answer));
        }
        self.remember(record, &answer);
        Ok((self.tell(command, &answer), answer))
    }

    /// What comes of it when a lock does not have the token any more.
    fn verify_one(
        &self,
        command: &Command,
        path: &str,
        token: i64,
    ) -> Result<Option<(u8, Answer)>, Problem> {
        let lock = json!([{ "file_path": path, "fencing_token": token }]);
        let answer = self.ask("POST /locks/verify", json!({ "locks": lock }))?;
        match (&answer.json, code_of(&answer)) {
            (_, DONE) => Ok(None),
            (Some(json), REFUSED) => {
                let refusal = self.output.refusal(&json["results"][0]);
                let path = line(path);
                self.output.problem_as_is(&format!("The lock on {path} is lost. {refusal}"));
                Ok(Some((REFUSED, answer)))
            }
            _ => Ok(Some((self.tell(command, &answer), answer))),
        }
    }

    /// What comes of it when a lock of which no token is known is not the caller's: to extend it would
    /// be to take it.
    fn look_at(
        &self,
        command: &Command,
        caller: &Caller,
        path: &str,
    ) -> Result<Option<(u8, Answer)>, Problem> {
        let answer = self.look("GET /locks/status/{path}", "path", path)?;
        if code_of(&answer) != DONE {
            return Ok(Some((self.tell(command, &answer), answer)));
        }
        let json = answer.json.as_ref().filter(|it| it["locked"].is_boolean());
        let lock = &json.ok_or_else(|| failure_of(self, &answer))?["lock"];
        let session = lock["session_id"].as_str();
        let holder = match lock["locked_by"].as_str() {
            Some(holder) if caller.is(holder)? && is_in_session(self, session) => return Ok(None),
            Some(holder) => format!("it is locked by {holder}"),
            None => format!("nobody does; to get it: coord lock {path}"),
        };
        self.output.problem(&format!("You do not hold the lock on {path}: {holder}."));
        Ok(Some((REFUSED, answer)))
    }
}

/// Makes the path of a request a lock key.
fn as_key(record: &Option<Record>, draft: &mut Draft) {
    if let Some(record) = record
        && let Some(Value::String(path)) = draft.body.get_mut("file_path")
    {
        *path = record.work_tree().key_of(path);
    }
}

fn key_of(work_tree: Option<&WorkTree>, path: &str) -> String {
    work_tree.map_or_else(|| path.to_owned(), |it| it.key_of(path))
}

fn pair_of(pair: &str) -> Result<(String, i64), Problem> {
    pair.rsplit_once('=')
        .and_then(|(key, token)| Some((key.to_owned(), token.trim().parse().ok()?)))
        .ok_or_else(|| Problem::wrong(format!("{pair}: expected PATH=TOKEN with a number.")))
}

fn locks_in(text: &str, url: &str) -> Result<Vec<(String, i64)>, Problem> {
    if !text.trim_start().starts_with('{') {
        return text.lines().filter(|it| !it.trim().is_empty()).map(pair_of).collect();
    }
    tokens_in(text, url).map_err(|reason| Problem::wrong(format!("--file: {reason}.")))
}
