//! What the commands do. This file chooses the action for a command line.
mod bridge;
mod caller;
mod claim;
mod doctor;
mod hooks;
mod locks;
mod mcp;
mod paths;
mod plain;
mod ports;
mod renew;
mod session;
mod verify;

use std::{ffi::OsString, io::Write as _, process::ExitCode};

use clap::{ArgMatches, error::ErrorKind};

use crate::{
    command_line::{
        cli::{self, has_global_switch},
        command::{Command, Run},
        context::Context,
        table,
    },
    output::{
        console::{Output, check_written, is_output_lost},
        outcome::{DONE, INVALID, Outcome, Problem, UNANSWERED},
    },
    service::{routes::Route, settings::DEFAULT_TIMEOUT},
};

pub use bridge::detection::detect;

/// Returns the parser of the whole command line.
pub fn command_line() -> clap::Command {
    cli::command_line(bridge::operations::names())
}

/// Returns the words and the route of each command that calls a route.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static Route)> {
    table::COMMANDS.iter().map(|command| (command.words, command.route))
}

/// Runs `coord` with these arguments, the name of the program first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = match command_line().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => {
            let is_asked_for =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let is_quiet = before_double_dash(&arguments).any(|argument| argument == "--quiet");
            if is_asked_for || !is_quiet {
                let _ = error.print();
            }
            // A session hook must not fail its session, even if its arguments are invalid.
            let is_done = is_asked_for || is_session_hook(&arguments);
            return ExitCode::from(if is_done { DONE } else { INVALID });
        }
    };
    let output =
        Output::new(has_global_switch(&matches, "json"), has_global_switch(&matches, "quiet"));
    let code = run_parsed(&matches, output).unwrap_or_else(|problem| {
        problem.print(output);
        problem.code
    });
    let is_lost = is_output_lost() && !is_session_hook(&arguments);
    ExitCode::from(if is_lost { code.max(UNANSWERED) } else { code })
}

/// Returns the arguments that can be options.
fn before_double_dash(arguments: &[OsString]) -> impl Iterator<Item = &OsString> {
    arguments.iter().take_while(|argument| *argument != "--")
}

/// Whether the arguments call a session hook, even if other arguments are invalid.
fn is_session_hook(arguments: &[OsString]) -> bool {
    let lenient = command_line().ignore_errors(true).try_get_matches_from(arguments);
    let words = lenient.as_ref().ok().and_then(ArgMatches::subcommand).and_then(|(name, own)| {
        let (second, _) = own.subcommand()?;
        Some((name, second))
    });
    matches!(words, Some(("session", "start" | "end")))
        && before_double_dash(arguments).any(|argument| argument == "--hook")
}

fn run_parsed(matches: &ArgMatches, output: Output) -> Outcome {
    let Some((name, own)) = matches.subcommand() else { return Ok(INVALID) };
    match name {
        "completions" => return Ok(print_completions(own)),
        "detect" => return bridge::detection::print_state(own, output),
        "try" => return bridge::execution::try_operation(own, output),
        "mcp" => {
            let tools = own.get_one::<String>("tools").map(String::as_str);
            return mcp::proxy::serve(Context::new(own, output, DEFAULT_TIMEOUT)?.client, tools);
        }
        "hook" => return hooks::run_hook(own, output),
        "doctor" => return doctor::run(own, output),
        _ => {}
    }
    let (words, own) = match own.subcommand() {
        Some((second, own)) => (format!("{name} {second}"), own),
        None => (name.to_owned(), own),
    };
    let command = table::find(&words)
        .ok_or_else(|| Problem::invalid(format!("There is no command `{words}`.")))?;
    if matches!(command.run, Run::StartSession | Run::EndSession) && own.get_flag("hook") {
        return Ok(session::run_as_hook(command, own, output));
    }
    run_command(&Context::new(own, output, DEFAULT_TIMEOUT)?, command, own)
}

fn run_command(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    match command.run {
        Run::Call => plain::call(cx, command, matches),
        Run::Claim => claim::claim(cx, command, matches),
        Run::ListTasks => claim::list(cx, command, matches),
        Run::Lock => locks::lock(cx, command, matches),
        Run::Unlock => locks::unlock(cx, command, matches),
        Run::Verify => verify::verify(cx, command, matches),
        Run::ListLocks => locks::list(cx, command, matches),
        Run::Renew => renew::renew(cx, command, matches),
        Run::AllocatePorts => ports::allocate(cx, command, matches),
        Run::StartSession => session::start(cx, command, matches),
        Run::EndSession => session::end(cx, command, matches),
    }
}

fn print_completions(matches: &ArgMatches) -> u8 {
    if let Some(shell) = matches.get_one::<clap_complete::Shell>("shell") {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut command_line(), "coord", &mut script);
        check_written(std::io::stdout().write_all(&script));
    }
    DONE
}
