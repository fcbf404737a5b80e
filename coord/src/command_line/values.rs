//! The values of arguments as JSON.
use std::{cell::Cell, io};

use clap::ArgMatches;
use serde_json::Value;

use crate::{
    output::outcome::Problem,
    service::routes::{Field, Kind},
};

/// Standard input, which at most one argument can read.
#[derive(Clone, Debug, Default)]
pub(crate) struct StandardInput {
    is_read: Cell<bool>,
}

impl StandardInput {
    /// Whether an argument has read standard input.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read.get()
    }

    /// Returns the value of an argument. For `-`, reads standard input.
    pub(crate) fn resolve(&self, text: &str) -> Result<String, Problem> {
        if text != "-" {
            return Ok(text.to_owned());
        }
        if self.is_read.replace(true) {
            return Err(Problem::invalid("Only one value can be read from standard input."));
        }
        let input = read_standard_input()?;
        Ok(input.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// Reads standard input to its end.
pub(crate) fn read_standard_input() -> Result<String, Problem> {
    io::read_to_string(io::stdin())
        .map_err(|error| Problem::invalid(format!("Standard input: {error}.")))
}

/// Returns the value of the argument for a field, if it is given.
pub(crate) fn value_of(
    field: &Field,
    matches: &ArgMatches,
    stdin: &StandardInput,
) -> Result<Option<Value>, Problem> {
    let name = field.name;
    if !matches!(matches.try_contains_id(name), Ok(true)) {
        return Ok(None);
    }
    let text = || matches.get_one::<String>(name);
    let texts = || matches.get_many::<String>(name);
    Ok(match field.kind {
        Kind::Integer => matches.get_one::<i64>(name).map(|number| Value::from(*number)),
        Kind::Number => matches.get_one::<f64>(name).map(|number| Value::from(*number)),
        Kind::Boolean => matches.get_one::<bool>(name).map(|value| Value::from(*value)),
        Kind::Text => text().map(|text| stdin.resolve(text)).transpose()?.map(Value::from),
        Kind::Texts => texts().map(|texts| texts.map(|text| Value::from(text.as_str())).collect()),
        Kind::Values => texts().map(|texts| texts.map(|text| parse_item(text)).collect()),
        Kind::Object | Kind::Any => {
            text().map(|text| parse_json(field, &stdin.resolve(text)?)).transpose()?
        }
    })
}

fn parse_json(field: &Field, text: &str) -> Result<Value, Problem> {
    let flag = field.name.replace('_', "-");
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::invalid(format!("--{flag}: expected JSON: {error}.")))?;
    match field.kind == Kind::Object && !value.is_object() {
        true => Err(Problem::invalid(format!("--{flag}: expected a JSON object."))),
        false => Ok(value),
    }
}

/// Parses an item of a list whose items can have any type: JSON if it is an object or a list, else
/// a text.
pub(crate) fn parse_item(text: &str) -> Value {
    let json = text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten();
    json.unwrap_or_else(|| text.into())
}
