//! Runs commands, and prints what came of them.
use std::{
    cell::Cell,
    ffi::OsString,
    io::Write as _,
    process::ExitCode,
    sync::mpsc,
    time::{Duration, Instant},
};

use clap::{ArgMatches, error::ErrorKind};
use serde_json::{Value, json};

use crate::{
    bridge, cli,
    client::{Answer, Client},
    commands::{self, Command, Run},
    hooks, mcp,
    outcome::{DONE, Outcome, Problem, REFUSED, UNANSWERED, WRONG, code_of, failure},
    request::Draft,
    routes::Route,
    session,
    settings::{DEFAULT_TIMEOUT, Settings},
    show::{self, Output},
};

/// How soon a service that does not wait itself is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// What every command works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) output: Output,
    pub(crate) is_stdin_read: Cell<bool>,
}

/// Runs `coord` with these arguments, the name of the program first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = match cli::command_line().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let is_asked_for =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let is_quiet = options(&arguments).any(|it| it == "--quiet");
            if is_asked_for || !is_quiet {
                let _ = error.print();
            }
            // A hook never fails its session, not even when it is spelt wrongly.
            let is_fine = is_asked_for || is_session_hook(&arguments);
            return ExitCode::from(if is_fine { DONE } else { WRONG });
        }
    };
    let output = Output::new(cli::is_global(&matches, "json"), cli::is_global(&matches, "quiet"));
    let code = dispatch(&matches, output).unwrap_or_else(|problem| {
        output.problem(&problem.text);
        problem.code
    });
    let is_lost = show::is_output_lost() && !is_session_hook(&arguments);
    ExitCode::from(if is_lost { code.max(UNANSWERED) } else { code })
}

/// What may be an option; after `--` nothing is.
fn options(arguments: &[OsString]) -> impl Iterator<Item = &OsString> {
    arguments.iter().take_while(|it| *it != "--")
}

/// Whether this was meant to be one of the two session hooks, however wrong the rest of it is.
fn is_session_hook(arguments: &[OsString]) -> bool {
    let lenient = cli::command_line().ignore_errors(true).try_get_matches_from(arguments);
    let words = lenient.as_ref().ok().and_then(ArgMatches::subcommand).and_then(|(name, own)| {
        let (second, _) = own.subcommand()?;
        Some((name, second))
    });
    matches!(words, Some(("session", "start" | "end")))
        && options(arguments).any(|it| it == "--hook")
}

fn dispatch(matches: &ArgMatches, output: Output) -> Outcome {
    let Some((name, own)) = matches.subcommand() else { return Ok(WRONG) };
    match name {
        "completions" => return Ok(completions(own)),
        "detect" => return bridge::detect_command(own, output),
        "try" => return bridge::try_command(own, output),
        "mcp" => {
            let tools = own.get_one::<String>("tools").map(String::as_str);
            return mcp::serve(context(own, output, DEFAULT_TIMEOUT)?.client, tools);
        }
        "hook" => return hooks::command(own, output),
        _ => {}
    }
    let (words, own) = match own.subcommand() {
        Some((second, own)) => (format!("{name} {second}"), own),
        None => (name.to_owned(), own),
    };
    let command = commands::called(&words)
        .ok_or_else(|| Problem::wrong(format!("There is no command `{words}`.")))?;
    let route =
        command.route().ok_or_else(|| Problem::wrong(format!("There is no {}.", command.route)))?;
    if matches!(command.run, Run::StartSession | Run::EndSession) && own.get_flag("hook") {
        return Ok(session::as_hook(command, own, output));
    }
    let cx = context(own, output, DEFAULT_TIMEOUT)?;
    cx.run(command, route, own)
}

/// The client and what else a command needs, with the settings of the command line.
pub(crate) fn context(
    matches: &ArgMatches,
    output: Output,
    timeout: Duration,
) -> Result<Context, Problem> {
    let settings = Settings::from_environment(&cli::given(matches), timeout)?;
    Ok(Context { client: Client::new(settings), output, is_stdin_read: Cell::new(false) })
}

fn completions(matches: &ArgMatches) -> u8 {
    if let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut cli::command_line(), "coord", &mut script);
        show::written(std::io::stdout().write_all(&script));
    }
    DONE
}

impl Context {
    fn run(&self, command: &Command, route: &'static Route, matches: &ArgMatches) -> Outcome {
        match command.run {
            Run::Plain => {
                let answer = self.send(&self.draft(command, route, matches)?)?;
                Ok(self.finish(command, &answer))
            }
            Run::Waiting(reasons) => {
                let answer = self.wait(self.draft(command, route, matches)?, reasons)?;
                Ok(self.finish(command, &answer))
            }
            Run::Lock => self.lock(command, route, matches),
            Run::Unlock => self.unlock(command, route, matches),
            Run::Verify => self.verify(command, matches),
            Run::Locks => self.locks(command, route, matches),
            Run::Renew => self.renew(command, matches),
            Run::Help => self.help(command, matches),
            Run::AllocatePorts => {
                let answer = self.send(&self.draft(command, route, matches)?)?;
                match (matches.get_flag("env"), snippet(&answer)) {
                    (true, Some(lines)) if !self.output.is_json => {
                        self.output.print(lines);
                        Ok(DONE)
                    }
                    _ => Ok(self.finish(command, &answer)),
                }
            }
            Run::StartSession => session::start(self, command, matches),
            Run::EndSession => session::end(self, command, matches),
            Run::RequestApproval => self.request_approval(command, route, matches),
            Run::Events => self.events(command, route, matches),
        }
    }

    /// The same with other settings.
    pub(crate) fn with(&self, settings: Settings) -> Context {
        let is_stdin_read = self.is_stdin_read.clone();
        Context { client: self.client.with(settings), output: self.output, is_stdin_read }
    }

    /// Prints an answer and says which exit code it means.
    pub(crate) fn finish(&self, command: &Command, answer: &Answer) -> u8 {
        if self.output.is_json && answer.json.is_some() {
            self.output.print(&on_one_line(&answer.text));
        }
        self.tell(command, answer)
    }

    /// The same, but JSON is printed by the caller.
    pub(crate) fn tell(&self, command: &Command, answer: &Answer) -> u8 {
        let code = match code_of(answer) {
            DONE if !command.is_answered_by(answer) => UNANSWERED,
            code => code,
        };
        match (&answer.json, code) {
            (Some(json), DONE) if !self.output.is_json => {
                self.output.print(&self.output.shown(&command.show, json));
            }
            (Some(json), REFUSED) if !self.output.is_json => {
                // What a no consists of is worth seeing as well.
                if let commands::Show::Table(member, _) = command.show
                    && json[member].is_array()
                {
                    self.output.print(&self.output.shown(&command.show, json));
                } else if matches!(command.show, commands::Show::Fields)
                    && json.as_object().is_some_and(|it| it.len() > 2)
                {
                    self.output.print(&self.output.shown(&command.show, json));
                }
                self.output.problem_as_is(&self.output.refusal(json));
            }
            (Some(_), DONE | REFUSED) => {}
            _ => self.output.problem(&failure(answer, self.client.settings().url.as_str())),
        }
        code
    }

    /// Prints the answers of a command that asked for several things, as a list unless it is one.
    pub(crate) fn print_all(&self, answers: &[Answer]) {
        if !self.output.is_json {
            return;
        }
        let texts: Vec<_> = answers
            .iter()
            .map(|it| if it.json.is_some() { on_one_line(&it.text) } else { "null".to_owned() })
            .collect();
        self.output.print(&match texts.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            all => format!("[{}]", all.join(",")),
        });
    }

    /// Sends a request that may wait, again and again as long as it is refused for one of these reasons
    /// and time is left: the service waits no longer than it likes.
    pub(crate) fn wait(&self, mut draft: Draft, reasons: &[&str]) -> Result<Answer, Problem> {
        let asked = draft.body.get("wait_seconds").and_then(Value::as_u64).unwrap_or_default();
        if asked == 0 {
            return self.send(&draft);
        }
        let asked = Duration::from_secs(asked);
        let started = Instant::now();
        self.watched(|| {
            loop {
                let sent = Instant::now();
                let answer = self.send(&draft)?;
                let reason = answer.json.as_ref().and_then(|it| it["reason"].as_str());
                let left = asked.saturating_sub(started.elapsed());
                if !reason.is_some_and(|it| reasons.contains(&it)) || left.as_secs() == 0 {
                    return Ok(answer);
                }
                if sent.elapsed() < PAUSE {
                    pause(PAUSE.min(left));
                }
                let left = asked.saturating_sub(started.elapsed()).as_secs();
                draft.body.insert("wait_seconds".to_owned(), left.into());
            }
        })
    }

    /// Shows on a terminal how long something takes.
    fn watched<T>(&self, act: impl FnOnce() -> T) -> T {
        if !self.output.is_watched() {
            return act();
        }
        std::thread::scope(|scope| {
            let (done, is_done) = mpsc::channel::<()>();
            scope.spawn(move || {
                let started = Instant::now();
                let mut shown = false;
                while is_done.recv_timeout(PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    shown = true;
                    eprint!("\rWaiting … {} s", started.elapsed().as_secs());
                }
                if shown {
                    eprint!("\r\u{1b}[K");
                }
            });
            let result = act();
            drop(done);
            result
        })
    }

    fn help(&self, command: &Command, matches: &ArgMatches) -> Outcome {
        let topic = matches.try_get_one::<String>("topic").ok().flatten();
        let Some(topic) = topic else {
            let answer = self.ask(command.route, json!({}))?;
            return Ok(self.finish(command, &answer));
        };
        let answer = self.look("GET /help/{topic}", "topic", topic)?;
        let shown = Command {
            show: commands::Show::Fields,
            words: command.words,
            route: command.route,
            arguments: &[],
            run: Run::Plain,
        };
        Ok(self.finish(&shown, &answer))
    }

    fn request_approval(
        &self,
        command: &Command,
        route: &'static Route,
        matches: &ArgMatches,
    ) -> Outcome {
        let wait = match matches.get_one::<String>("wait").map(|it| it.parse::<u64>()) {
            None => None,
            Some(Ok(seconds)) => Some(Duration::from_secs(seconds)),
            Some(Err(_)) => return Err(Problem::wrong("--wait: expected a number of seconds.")),
        };
        let mut answer = self.send(&self.draft(command, route, matches)?)?;
        let (Some(wait), DONE) = (wait, code_of(&answer)) else {
            return Ok(self.finish(command, &answer));
        };
        let json = answer.json.as_ref();
        let id = json.and_then(|it| it["request_id"].as_str()).unwrap_or_default().to_owned();
        let started = Instant::now();
        let answer = self.watched(|| {
            loop {
                let status = answer.json.as_ref().and_then(|it| it["status"].as_str());
                let left = wait.saturating_sub(started.elapsed());
                if status != Some("pending") || left.is_zero() {
                    return Ok::<_, Problem>(answer);
                }
                pause((2 * PAUSE).min(left));
                answer = self.look("GET /approvals/{request_id}", "request_id", &id)?;
            }
        })?;
        let code = self.finish(command, &answer);
        let is_approved = answer.json.as_ref().is_some_and(|it| it["status"] == "approved");
        Ok(if code == DONE && !is_approved { REFUSED } else { code })
    }

    fn events(&self, command: &Command, route: &'static Route, matches: &ArgMatches) -> Outcome {
        let mut draft = self.draft(command, route, matches)?;
        let follows = matches.get_flag("follow");
        if follows && !draft.query.iter().any(|it| it.0 == "wait_seconds") {
            draft.query.push(("wait_seconds", "20".to_owned()));
        }
        loop {
            let sent = Instant::now();
            let answer = self.send(&draft)?;
            let (Some(json), DONE, true) =
                (&answer.json, code_of(&answer), command.is_answered_by(&answer))
            else {
                return Ok(self.finish(command, &answer));
            };
            if self.output.is_json && !follows {
                return Ok(self.finish(command, &answer));
            }
            let events = json["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            for event in events {
                self.output.print(&event.to_string());
            }
            if !follows {
                return Ok(DONE);
            }
            if events.is_empty() && sent.elapsed() < PAUSE {
                pause(PAUSE);
            }
            let cursor = json["next_cursor"].as_str().unwrap_or_default().to_owned();
            draft.query.retain(|it| it.0 != "after");
            draft.query.push(("after", cursor));
        }
    }
}

/// JSON without line breaks, which stand between its tokens only.
fn on_one_line(json: &str) -> String {
    json.trim().replace(['\n', '\r'], " ")
}

fn snippet(answer: &Answer) -> Option<&str> {
    answer.json.as_ref()?.get("env_snippet")?.as_str()
}

#[expect(clippy::disallowed_methods, reason = "the client has nothing else to do meanwhile")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
