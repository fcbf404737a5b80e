//! `coord ports allocate`.
use clap::ArgMatches;

use crate::{
    command_line::{command::Command, context::Context},
    output::outcome::{DONE, Outcome},
};

/// Allocates ports. With `--env`, prints only the lines that a shell evaluates.
pub(super) fn allocate(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let answer = cx.send(&cx.draft(command, matches)?)?;
    match (matches.get_flag("env"), answer.member("env_snippet").as_str()) {
        (true, Some(lines)) if !cx.output.is_json => {
            cx.output.print(lines);
            Ok(DONE)
        }
        _ => Ok(cx.print_answer(command, &answer)),
    }
}
