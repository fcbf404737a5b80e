//! `coord verify`.
use std::fs;

use clap::ArgMatches;
use serde_json::{Value, json};

use super::paths::Paths;
use crate::{
    command_line::{command::Command, context::Context},
    output::outcome::{DONE, Outcome, Problem, REFUSED, exit_code_of},
    service::{answer::Answer, routes::Route},
    work_tree::record::parse_tokens,
};

const VERIFY: &Route = Route::named("POST /locks/verify");

/// The greatest number of locks in one request.
pub(super) const LOCKS_PER_REQUEST: usize = 1000;

/// Verifies any number of locks, in several requests if necessary.
pub(super) fn verify(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let locks = locks_to_verify(cx, matches)?;
    if locks.is_empty() {
        return match (matches.contains_id("file"), cx.output.is_json) {
            (false, _) => Err(Problem::invalid(
                "Expected locks: give PATH=TOKEN, or --file, such as --file .coord/locks.json.",
            )),
            (true, true) => {
                cx.output.print(&json!({ "valid": true, "results": [] }).to_string());
                Ok(DONE)
            }
            (true, false) => {
                cx.output.print("There is nothing to verify.");
                Ok(DONE)
            }
        };
    }
    let (mut is_valid, mut all_results) = (true, Vec::new());
    for chunk in locks.chunks(LOCKS_PER_REQUEST) {
        let answer = verify_tokens(cx, chunk)?;
        let code = exit_code_of(&answer);
        let (Some(results), DONE | REFUSED) = (answer.member("results").as_array(), code) else {
            return Ok(cx.print_answer(command, &answer));
        };
        if locks.len() <= LOCKS_PER_REQUEST {
            return Ok(cx.print_answer(command, &answer));
        }
        is_valid &= code == DONE;
        all_results.extend(results.iter().cloned());
    }
    let answer = Answer::ok(json!({ "valid": is_valid, "results": all_results }));
    Ok(cx.print_answer(command, &answer))
}

/// Asks the service whether these locks are held with these fencing tokens.
pub(super) fn verify_tokens(
    cx: &Context,
    locks: &[(impl AsRef<str>, i64)],
) -> Result<Answer, Problem> {
    let locks: Vec<Value> = locks
        .iter()
        .map(|(key, token)| json!({ "file_path": key.as_ref(), "fencing_token": token }))
        .collect();
    cx.call(VERIFY, json!({ "locks": locks }))
}

/// Returns the lock keys and fencing tokens of the arguments and of the file. A record has lock keys, and
/// the lines of other files have paths, as the arguments do.
fn locks_to_verify(cx: &Context, matches: &ArgMatches) -> Result<Vec<(String, i64)>, Problem> {
    let pairs = matches.get_many::<String>("locks").into_iter().flatten();
    let mut locks = pairs.map(|pair| parse_pair(pair)).collect::<Result<Vec<_>, _>>()?;
    let mut recorded = Vec::new();
    if let Some(file) = matches.get_one::<String>("file") {
        let text = match file.as_str() {
            "-" => cx.stdin.resolve("-")?,
            file => fs::read_to_string(file)
                .map_err(|error| Problem::invalid(format!("--file {file}: {error}.")))?,
        };
        if text.trim_start().starts_with('{') {
            let tokens = parse_tokens(&text, cx.settings().url.as_str());
            recorded = tokens.map_err(|reason| Problem::invalid(format!("--file: {reason}.")))?;
        } else {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            locks.extend(lines.map(parse_pair).collect::<Result<Vec<_>, _>>()?);
        }
    }
    let paths = Paths::with(locks.first().map(|(path, _)| path.as_str()));
    for (path, _) in &mut locks {
        *path = paths.key_of(cx, path)?;
    }
    locks.extend(recorded);
    Ok(locks)
}

fn parse_pair(pair: &str) -> Result<(String, i64), Problem> {
    pair.rsplit_once('=')
        .and_then(|(key, token)| Some((key.to_owned(), token.trim().parse().ok()?)))
        .ok_or_else(|| Problem::invalid(format!("{pair}: expected PATH=TOKEN with a number.")))
}
