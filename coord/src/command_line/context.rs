//! What every command works with, and how it asks the service and prints answers.
use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use clap::ArgMatches;
use serde_json::Value;

use super::{cli::given_settings, command::Command, draft::Draft, values::StandardInput};
use crate::{
    output::{
        console::Output,
        losses::describe_losses,
        outcome::{DONE, Problem, REFUSED, UNANSWERED, describe_failure, exit_code_of},
        show::{Show, render_refusal},
        text::{escape_text, on_one_line},
    },
    service::{
        answer::Answer,
        client::{Client, pause},
        routes::Route,
        settings::{Identity, Settings},
    },
};

/// The shortest time between two requests while a command waits.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What every command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
    pub(crate) stdin: StandardInput,
}

impl Context {
    /// Creates a context with the settings of the command line and the environment.
    pub(crate) fn new(
        matches: &ArgMatches,
        output: Output,
        timeout: Duration,
    ) -> Result<Context, Problem> {
        let settings = Settings::from_environment(&given_settings(matches), timeout)?;
        Ok(Context { client: Client::new(settings), output, stdin: StandardInput::default() })
    }

    /// Returns the same context with another client.
    pub(crate) fn with_client(&self, client: Client) -> Context {
        Context { client, output: self.output, stdin: self.stdin.clone() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        self.client.settings()
    }

    fn identity(&self) -> &Identity {
        &self.settings().identity
    }

    /// Creates the request of a command from its arguments.
    pub(crate) fn draft(&self, command: &Command, matches: &ArgMatches) -> Result<Draft, Problem> {
        Draft::from_arguments(command, matches, self.identity(), &self.stdin)
    }

    /// Adds the caller to a request that has no arguments of a command.
    pub(crate) fn identify(&self, draft: &mut Draft) -> Result<(), Problem> {
        draft.identify(self.identity(), |_| true)
    }

    /// Sends a request. The service tells once what a session has lost, in the answer to whatever
    /// call comes next, so it is reported here, whichever command this is.
    pub(crate) fn send(&self, draft: &Draft) -> Result<Answer, Problem> {
        let answer = self.client.send(draft.call())?;
        if let Some(text) = answer.json.as_ref().and_then(describe_losses) {
            self.output.print_problem(&text);
        }
        Ok(answer)
    }

    /// Calls a route with this body and the identity of the caller.
    pub(crate) fn call(&self, route: &'static Route, body: Value) -> Result<Answer, Problem> {
        let mut draft = Draft::new(route);
        if let Value::Object(members) = body {
            draft.body.extend(members);
        }
        self.identify(&mut draft)?;
        self.send(&draft)
    }

    /// Reads the state of a lock.
    pub(crate) fn lock_status(&self, key: &str) -> Result<Answer, Problem> {
        const STATUS: &Route = Route::named("GET /locks/status/{path}");
        let mut draft = Draft::new(STATUS);
        draft.set_path_parameter("path", key);
        self.identify(&mut draft)?;
        self.send(&draft)
    }

    /// Sends a request that can wait. Sends it again as long as it is refused for one of these
    /// reasons and time is left, because the service limits how long one request waits.
    pub(crate) fn send_waiting(
        &self,
        mut draft: Draft,
        reasons: &[&str],
    ) -> Result<Answer, Problem> {
        let wait = Duration::from_secs(draft.wait_seconds());
        if wait.is_zero() {
            return self.send(&draft);
        }
        let started = Instant::now();
        self.with_elapsed_time(|| {
            loop {
                let sent = Instant::now();
                let answer = self.send(&draft)?;
                let reason = answer.member("reason").as_str();
                let left = wait.saturating_sub(started.elapsed());
                if !reason.is_some_and(|reason| reasons.contains(&reason)) || left.as_secs() == 0 {
                    return Ok(answer);
                }
                if sent.elapsed() < RETRY_PAUSE {
                    pause(RETRY_PAUSE.min(left));
                }
                let left = wait.saturating_sub(started.elapsed()).as_secs();
                draft.body.insert("wait_seconds".to_owned(), left.into());
            }
        })
    }

    /// Shows the elapsed time on a terminal while `act` runs.
    fn with_elapsed_time<T>(&self, act: impl FnOnce() -> T) -> T {
        if !self.output.is_watched() {
            return act();
        }
        thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(move || {
                let started = Instant::now();
                let mut is_shown = false;
                while is_done.recv_timeout(RETRY_PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    is_shown = true;
                    eprint!("\rWaiting … {} s", started.elapsed().as_secs());
                }
                if is_shown {
                    eprint!("\r\u{1b}[K");
                }
            });
            let result = act();
            drop(done);
            result
        })
    }

    /// Prints an answer and returns the exit code that it means.
    pub(crate) fn print_answer(&self, command: &Command, answer: &Answer) -> u8 {
        if self.output.is_json && answer.json.is_some() {
            self.output.print(&on_one_line(&answer.text));
        }
        self.print_for_people(command, answer)
    }

    /// Prints an answer as [`Context::print_answer`] does, except that the caller prints JSON.
    pub(crate) fn print_for_people(&self, command: &Command, answer: &Answer) -> u8 {
        let code = match exit_code_of(answer) {
            DONE if !command.accepts(answer) => UNANSWERED,
            code => code,
        };
        match (&answer.json, code) {
            (Some(_), DONE | REFUSED) if self.output.is_json => {}
            (Some(json), DONE) => self.output.print(&command.show.render(json, self.output)),
            (Some(json), REFUSED) => {
                // A refused check has results, such as the violations of a guardrail.
                let has_details = match command.show {
                    Show::Table(member, _) => json[member].is_array(),
                    Show::Fields => json.as_object().is_some_and(|members| members.len() > 2),
                    _ => false,
                };
                if has_details {
                    self.output.print(&command.show.render(json, self.output));
                }
                self.output.print_escaped_problem(&render_refusal(json, self.output));
            }
            _ => self.output.print_problem(&describe_failure(answer, self.settings())),
        }
        if let Some(remedy) = answer.json.as_ref().and_then(|json| remedy(command, json))
            && !self.output.is_json
        {
            self.output.print_problem(&remedy);
        }
        code
    }

    /// Prints the answers to several requests as JSON: one answer as it is, several as a list.
    pub(crate) fn print_json_of_all(&self, answers: &[Answer]) {
        if !self.output.is_json {
            return;
        }
        let texts: Vec<_> = answers
            .iter()
            .map(|answer| match &answer.json {
                Some(_) => on_one_line(&answer.text),
                None => "null".to_owned(),
            })
            .collect();
        self.output.print(&match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            all => format!("[{}]", all.join(",")),
        });
    }
}

/// Says what a refused value must be, or which words of a search nothing knows.
fn remedy(command: &Command, answer: &Value) -> Option<String> {
    let words: Vec<_> = answer["unknown_words"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !words.is_empty() {
        return Some(format!("Nothing here knows: {}.", escape_text(&words.join(", "))));
    }
    let name = answer["reason"].as_str()?.strip_suffix("_out_of_range")?;
    let field = command.route.fields.iter().find(|field| field.name.starts_with(name))?;
    Some(format!("--{}: {}", field.name.replace('_', "-"), field.description))
}
