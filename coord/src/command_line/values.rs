//! The values of arguments as JSON.
use std::{cell::Cell, io, str::FromStr};

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

/// Returns the value of the argument for a field, if it is given. A blank one of an optional field counts as
/// absent, as scripts with an unset variable send it.
///
/// # Errors
/// A required text that is blank.
pub(crate) fn value_of(
    field: &Field,
    matches: &ArgMatches,
    stdin: &StandardInput,
) -> Result<Option<Value>, Problem> {
    let Some(mut value) = given_value(field, matches, stdin)? else { return Ok(None) };
    if let Value::Array(items) = &mut value {
        items.retain(|item| !is_blank(item));
    }
    let is_absent = is_blank(&value) || value.as_array().is_some_and(Vec::is_empty);
    match is_absent && field.is_required {
        true => Err(Problem::invalid(format!("{}: expected text that is not blank.", field.name))),
        false => Ok((!is_absent).then_some(value)),
    }
}

fn is_blank(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

fn given_value(
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
        Kind::Integer => integer_of(matches, name).map(Value::from),
        Kind::Number => matches.get_one::<Option<f64>>(name).copied().flatten().map(Value::from),
        Kind::Boolean => matches.get_one::<Option<bool>>(name).copied().flatten().map(Value::from),
        Kind::Text => text().map(|text| stdin.resolve(text)).transpose()?.map(Value::from),
        Kind::Texts => texts().map(|texts| texts_of(name, texts)).transpose()?,
        Kind::Values => texts().map(|texts| values_of(name, texts)).transpose()?,
        Kind::Object | Kind::Any => {
            text().map(|text| parse_json(field, &stdin.resolve(text)?)).transpose()?
        }
    })
}

/// Returns the value of an integer argument. `None` if it is blank or not given.
pub(crate) fn integer_of(matches: &ArgMatches, name: &str) -> Option<i64> {
    matches.get_one::<Option<i64>>(name).copied().flatten()
}

/// Parses the text of an argument. Blank text is no value.
pub(crate) fn parse_unless_blank<T: FromStr>(text: &str) -> Result<Option<T>, T::Err> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.parse()).transpose()
}

/// Parses a truth value in lower case, upper case or with an initial capital. Blank text is no value.
pub(crate) fn parse_boolean(text: &str) -> Result<Option<bool>, &'static str> {
    match text.trim() {
        "" => Ok(None),
        "true" | "True" | "TRUE" => Ok(Some(true)),
        "false" | "False" | "FALSE" => Ok(Some(false)),
        _ => Err("expected true or false"),
    }
}

fn parse_json(field: &Field, text: &str) -> Result<Value, Problem> {
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    let flag = field.name.replace('_', "-");
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Problem::invalid(format!("--{flag}: expected JSON: {error}.")))?;
    match field.kind == Kind::Object && !value.is_object() && !value.is_null() {
        true => Err(Problem::invalid(format!("--{flag}: expected a JSON object."))),
        false => Ok(value),
    }
}

/// Returns the list of texts that the words of an argument are: each word is a text, or a list of texts as JSON.
fn texts_of<'a>(name: &str, words: impl Iterator<Item = &'a String>) -> Result<Value, Problem> {
    let items = items_of(name, words, |word| Value::from(word))?;
    let is_text = |item: &Value| item.is_string() || item.is_null();
    match items.iter().all(is_text) {
        true => Ok(Value::Array(items)),
        false => Err(no_list(name)),
    }
}

/// Returns the list that the words of an argument are, whose items can have any type: each word is a text, an
/// object as JSON, or a list as JSON.
fn values_of<'a>(name: &str, words: impl Iterator<Item = &'a String>) -> Result<Value, Problem> {
    let item = |word: &str| {
        let object = word.starts_with('{').then(|| serde_json::from_str(word).ok()).flatten();
        object.unwrap_or_else(|| Value::from(word))
    };
    items_of(name, words, item).map(Value::Array)
}

/// Returns the items of a list: those of each word that is a list as JSON, and `item` of each other word.
fn items_of<'a>(
    name: &str,
    words: impl Iterator<Item = &'a String>,
    item: impl Fn(&str) -> Value,
) -> Result<Vec<Value>, Problem> {
    let mut items = Vec::new();
    for word in words {
        let trimmed = word.trim();
        match serde_json::from_str(trimmed) {
            Ok(Value::Array(list)) => items.extend(list),
            // What other languages print for a list of texts.
            _ if ["['", "[\""].iter().any(|it| trimmed.starts_with(it))
                && trimmed.ends_with(']') =>
            {
                return Err(no_list(name));
            }
            _ => items.push(item(word)),
        }
    }
    Ok(items)
}

fn no_list(name: &str) -> Problem {
    let flag = name.replace('_', "-");
    Problem::invalid(format!(
        r#"--{flag}: expected texts as words of their own (--{flag} a b), or a JSON list of texts ('["a","b"]')."#
    ))
}
