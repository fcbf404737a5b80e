//! Reads messages so that they take little more memory than their text, whatever is in them: the library
//! parses each message several times, and keeps parts of it while a call waits.
use std::cell::Cell;

use serde_json::{Map, Value};

use crate::{
    operation::input::{bounded_value, is_json},
    values::{limits::MAX_BODY_BYTES, raw_json::members_of},
};

/// A free-form argument of at least this many bytes is passed on as text.
const LARGE: usize = 4 << 10;

/// A longer `_meta` is dropped: the library keeps it as long as the call takes.
const MAX_META: usize = 4 << 10;

/// Says whether the argument of a tool is free-form.
pub(super) type IsFreeForm<'a> = dyn Fn(&str, &str) -> bool + 'a;

/// Reads the messages of one body.
pub(super) struct Reader<'a> {
    is_free_form: &'a IsFreeForm<'a>,
    /// How many bytes of values are still kept. A body has fewer of its own, unless it is made of very short
    /// values; those beyond are left out.
    left: Cell<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(is_free_form: &'a IsFreeForm<'a>) -> Self {
        Self { is_free_form, left: Cell::new(MAX_BODY_BYTES) }
    }

    /// Reads a message: of an object, only what the protocol has.
    pub(super) fn message(&self, text: &str) -> serde_json::Result<Value> {
        if !text.starts_with('{') {
            return self.value(text);
        }
        let mut message = Map::new();
        for (name, raw) in members_of(text)? {
            let value = match name.as_str() {
                "params" => self.params(raw.get(), &method_of(text)?)?,
                "jsonrpc" | "id" | "method" | "result" | "error" => self.value(raw.get())?,
                _ if is_json(raw.get()) => continue,
                _ => self.value(raw.get())?,
            };
            message.insert(name, value);
        }
        Ok(message.into())
    }

    fn params(&self, text: &str, method: &Value) -> serde_json::Result<Value> {
        if !text.starts_with('{') {
            return self.value(text);
        }
        let members = members_of(text)?;
        let name = members.iter().rev().find(|(name, _)| name == "name");
        let name = name.map(|(_, raw)| self.value(raw.get())).transpose()?.unwrap_or_default();
        let mut params = Map::new();
        for (member, raw) in members {
            let is_call = *method == "tools/call";
            let value = match member.as_str() {
                "arguments" if is_call => self.arguments(raw.get(), name.as_str())?,
                "_meta" if raw.get().len() > MAX_META => continue,
                "name" | "_meta" => self.value(raw.get())?,
                _ if is_call && is_json(raw.get()) => continue,
                _ => self.value(raw.get())?,
            };
            params.insert(member, value);
        }
        Ok(params.into())
    }

    /// Reads the arguments of a tool. Some clients send them as text.
    fn arguments(&self, text: &str, tool: Option<&str>) -> serde_json::Result<Value> {
        if text.starts_with('"') {
            let inner: String = serde_json::from_str(text)?;
            let inner = inner.trim();
            if inner.starts_with('{') && is_json(inner) {
                return self.arguments(inner, tool);
            }
        }
        if !text.starts_with('{') {
            return self.value(text);
        }
        let mut arguments = Map::new();
        for (name, raw) in members_of(text)? {
            let is_free_form = tool.is_some_and(|tool| (self.is_free_form)(tool, &name));
            let value = match is_free_form {
                true => self.free_form(raw.get())?,
                false => self.value(raw.get())?,
            };
            if self.left.get() > 0 {
                arguments.insert(name, value);
            }
        }
        Ok(arguments.into())
    }

    /// Reads a free-form argument: as text, where it is large or where a value would change it, as it does
    /// with long numbers.
    fn free_form(&self, text: &str) -> serde_json::Result<Value> {
        if !is_json(text) || !is_kept_as_text(text) { self.value(text) } else { Ok(text.into()) }
    }

    fn value(&self, text: &str) -> serde_json::Result<Value> {
        bounded_value(text, &self.left)
    }
}

/// Whether an object or list is kept as its text: it is large, or a value would change its numbers.
pub(super) fn is_kept_as_text(text: &str) -> bool {
    let is_changed = |value: Value| has_changed_number(text, &value);
    text.starts_with(['{', '['])
        && (text.len() >= LARGE || serde_json::from_str(text).is_ok_and(is_changed))
}

/// Whether a value has a number that is written in another way than in its text.
fn has_changed_number(text: &str, value: &Value) -> bool {
    let numbers = |text: &str| -> Vec<String> {
        let (mut numbers, mut number) = (Vec::new(), String::new());
        let (mut is_text, mut is_escaped) = (false, false);
        for character in text.chars().chain([' ']) {
            let is_part = !is_text
                && (character.is_ascii_digit() || matches!(character, '+' | '-' | '.' | 'e' | 'E'));
            match (is_text, character) {
                _ if is_part => number.push(character),
                (true, '\\') if !is_escaped => {
                    is_escaped = true;
                    continue;
                }
                (_, '"') if !is_escaped => is_text = !is_text,
                _ => {}
            }
            if !is_part && !number.is_empty() {
                numbers.push(std::mem::take(&mut number));
            }
            is_escaped = false;
        }
        numbers
    };
    numbers(text) != numbers(&value.to_string())
}

/// Returns the method of a message, which can follow its parameters.
fn method_of(text: &str) -> serde_json::Result<Value> {
    let members = members_of(text)?;
    let method = members.into_iter().rev().find(|(name, _)| name == "method");
    method.map_or(Ok(Value::Null), |(_, raw)| serde_json::from_str(raw.get()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        let is_free_form = |tool: &str, argument: &str| (tool, argument) == ("t", "free");
        Reader::new(&is_free_form).message(text).expect("JSON")
    }

    #[test]
    fn of_a_message_only_what_the_protocol_has_is_kept() {
        let text = r#"{"jsonrpc":"2.0","id":1,"junk":[0],"params":{"name":"t","junk":1,
            "arguments":{"a":[1],"free":{"n":1}}},"method":"tools/call"}"#;
        let expected = json!({
            "jsonrpc": "2.0",
            "id": 1,
            "params": { "name": "t", "arguments": { "a": [1], "free": { "n": 1 } } },
            "method": "tools/call",
        });
        assert_eq!(read(text), expected);
        assert_eq!(read("[1]"), json!([1]));
    }

    #[test]
    fn free_form_arguments_are_kept_as_text_where_a_value_would_change_them() {
        let argument = |free: &str| {
            let text = format!(
                r#"{{"params":{{"arguments":{{"free":{free}}},"name":"t"}},"method":"tools/call"}}"#
            );
            read(&text)["params"]["arguments"]["free"].clone()
        };
        assert_eq!(argument(r#"{ "n": 1, "t": "1.50" }"#), json!({ "n": 1, "t": "1.50" }));
        let long = r#"{"n":12345678901234567890123}"#;
        assert_eq!(argument(long), json!(long));
        let large = format!("[{}0]", "0,".repeat(LARGE));
        assert_eq!(argument(&large), json!(large));
    }

    #[test]
    fn many_short_values_are_left_out() {
        let zeros = format!("[{}0]", "0,".repeat(MAX_BODY_BYTES / 2));
        let text = format!(
            r#"{{"method":"tools/call","params":{{"name":"t","arguments":{{"a":{zeros}}}}}}}"#
        );
        let kept = read(&text)["params"]["arguments"]["a"].as_array().map_or(0, Vec::len);
        assert!(kept <= MAX_BODY_BYTES / 8, "{kept}");
    }
}
