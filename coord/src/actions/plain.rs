//! Commands that call one route and print its answer.
use clap::ArgMatches;

use super::paths::Paths;
use crate::{
    command_line::{command::Command, context::Context},
    output::outcome::Outcome,
};

pub(super) fn call(cx: &Context, command: &Command, matches: &ArgMatches) -> Outcome {
    let mut draft = cx.draft(command, matches)?;
    Paths::replace_in(&mut draft.body);
    let answer = cx.send(&draft)?;
    Ok(cx.print_answer(command, &answer))
}
