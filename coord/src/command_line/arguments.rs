//! The arguments of a command, from the fields of its route.
use clap::{
    Arg, ArgAction, Command as Clap,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _},
};

use super::{
    command::{Argument, Command},
    table::COMMANDS,
    values::{parse_boolean, parse_unless_blank},
};
use crate::service::routes::{Field, Kind, Route};

/// The operation of `coord renew` for tasks, which calls it as its second route.
const RENEW_WORK: &Route = Route::named("POST /work/renew");

/// Returns the parser of a command, with its arguments and their help texts.
pub(crate) fn parser_of(command: &Command) -> Clap {
    let route = command.route;
    let name = command.words.rsplit(' ').next().unwrap_or_default();
    let summary = match command.about {
        Some(about) => about.lines().next().unwrap_or_default(),
        None => route.summary,
    };
    Clap::new(name)
        .about(with_commands(without_full_stop(summary)))
        .long_about(with_commands(command.about.unwrap_or(route.description)))
        .args_conflicts_with_subcommands(true)
        .args(route.fields.iter().filter_map(|field| argument_of_field(command, field)))
        .args(command.arguments.iter().filter_map(additional_argument))
}

/// Returns the argument that is not a field of the command's route, if it is one.
fn additional_argument(argument: &Argument) -> Option<Arg> {
    match argument {
        Argument::Switch(name, help) => {
            Some(Arg::new(*name).long(*name).action(ArgAction::SetTrue).help(*help))
        }
        Argument::Value(name, value, help) => {
            Some(Arg::new(*name).long(*name).value_name(*value).help(*help))
        }
        Argument::Rest(name, value, help) => Some(
            Arg::new(*name).value_name(*value).help(*help).num_args(0..).action(ArgAction::Append),
        ),
        Argument::FieldOf(field) => Some(flag(field, &dashed(field.name)).required(false)),
        Argument::Positional(..)
        | Argument::Renamed(..)
        | Argument::Default(..)
        | Argument::Hidden(_) => None,
    }
}

/// Returns the argument for a field of the command's route. `None` if the command fills the field.
fn argument_of_field(command: &Command, field: &'static Field) -> Option<Arg> {
    match command.argument(field.name) {
        Some(Argument::Hidden(_)) => None,
        Some(Argument::Positional(_, name)) => Some(positional(field, name)),
        Some(Argument::Renamed(_, name)) => Some(flag(field, name)),
        Some(Argument::Default(_, value)) => {
            let flag = flag(field, &flag_name(field)).default_value(*value);
            Some(flag.help(with_commands(without_full_stop(field.description))))
        }
        _ if field.is_identity() => None,
        _ => Some(flag(field, &flag_name(field))),
    }
}

/// Returns the name of the flag for a field. The names of the global options stay free.
fn flag_name(field: &Field) -> String {
    match field.name {
        "agent_id" => "of-agent".to_owned(),
        "agent_type" => "of-type".to_owned(),
        "session_id" => "of-session".to_owned(),
        "wait_seconds" => "wait".to_owned(),
        name => dashed(name),
    }
}

fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

fn positional(field: &'static Field, name: &'static str) -> Arg {
    let arg = with_type(Arg::new(field.name).value_name(name), field);
    arg.help(help_text(field)).required(field.is_required)
}

fn flag(field: &'static Field, name: &str) -> Arg {
    let value = match field.kind {
        Kind::Integer | Kind::Number => "N",
        Kind::Boolean => "BOOL",
        Kind::Object | Kind::Any => "JSON",
        Kind::Text | Kind::Texts | Kind::Values => "TEXT",
    };
    with_type(Arg::new(field.name).long(name.to_owned()).value_name(value), field)
        .help(help_text(field))
        .required(field.is_required)
}

fn help_text(field: &Field) -> String {
    let text = with_commands(without_full_stop(field.description));
    match field.default {
        Some(default) if field.kind != Kind::Boolean => format!("{text} [default: {default}]"),
        _ => text,
    }
}

/// Names the commands instead of the operations, which the texts of the document name for the tools
/// of MCP. A name between backticks is a value.
fn with_commands(text: &str) -> String {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut named = String::with_capacity(text.len());
    for part in text.split_inclusive(|letter| !is_name(letter)) {
        let word = part.trim_end_matches(|letter| !is_name(letter));
        match words_of_operation(word) {
            Some(words) if !named.ends_with('`') => {
                named += &format!("`coord {words}`{}", &part[word.len()..])
            }
            _ => named += part,
        }
    }
    named
}

/// Returns the words of the command for an operation.
fn words_of_operation(id: &str) -> Option<&'static str> {
    if id == RENEW_WORK.id {
        return Some("renew");
    }
    let mut commands = COMMANDS.iter().filter(|_| id.contains('_'));
    commands.find(|command| command.route.id == id).map(|command| command.words)
}

/// Help texts of arguments end without a full stop.
fn without_full_stop(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

fn with_type(arg: Arg, field: &'static Field) -> Arg {
    if !field.choices.is_empty() {
        let choices = field.choices.iter().map(|choice| PossibleValue::new(*choice));
        // A blank value of an optional field counts as absent.
        let blank = (!field.is_required).then(|| PossibleValue::new("").hide(true));
        let parser = PossibleValuesParser::new(choices.chain(blank));
        return arg.value_parser(parser.map(|text| text.to_lowercase())).ignore_case(true);
    }
    match field.kind {
        Kind::Integer => arg.value_parser(parse_unless_blank::<i64>).allow_negative_numbers(true),
        Kind::Number => arg.value_parser(parse_unless_blank::<f64>).allow_negative_numbers(true),
        // With a default, the flag alone means true, as in `--dry-run`.
        Kind::Boolean => {
            let arg = arg.value_parser(parse_boolean);
            match field.default {
                Some(_) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                None => arg,
            }
        }
        Kind::Texts | Kind::Values => arg.num_args(1..).action(ArgAction::Append),
        Kind::Text | Kind::Object | Kind::Any => arg,
    }
}
