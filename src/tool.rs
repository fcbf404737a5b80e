//! How an operation is offered as a tool of the MCP endpoint.
//!
//! A tool has no signature of its own: its arguments are the members of the operation's input, less
//! those that name the caller, and a [`Tool`] only says which are left out, called otherwise or have
//! another default.
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    Issue, input,
    operation::{IdentityMode, Meta},
};

/// The members of an input that name the caller. Over MCP it is the key and the headers that do.
const IDENTITY: [&str; 3] = ["agent_id", "agent_type", "session_id"];

/// What a tool has that its operation has not.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// The name of the tool.
    pub name: &'static str,
    hidden: &'static [&'static str],
    shown: &'static [&'static str],
    renamed: &'static [(&'static str, &'static str)],
    defaults: &'static [(&'static str, &'static str)],
    own: Option<&'static str>,
    added: &'static [&'static str],
}

impl Tool {
    /// A tool of this name with the members of the input as arguments.
    pub const fn named(name: &'static str) -> Self {
        Self { name, hidden: &[], shown: &[], renamed: &[], defaults: &[], own: None, added: &[] }
    }

    /// Members that are no arguments; each has its default, or is absent.
    pub const fn hide(mut self, members: &'static [&'static str]) -> Self {
        self.hidden = members;
        self
    }

    /// Members that name a session and are arguments all the same.
    pub const fn show(mut self, members: &'static [&'static str]) -> Self {
        self.shown = members;
        self
    }

    /// Members whose argument has another name: member, argument.
    pub const fn rename(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.renamed = members;
        self
    }

    /// Members whose argument has a default of its own: member, JSON.
    pub const fn default(mut self, members: &'static [(&'static str, &'static str)]) -> Self {
        self.defaults = members;
        self
    }

    /// A member that stands for the caller's own id when its argument is absent.
    pub const fn own(mut self, member: &'static str) -> Self {
        self.own = Some(member);
        self
    }

    /// Members of the answer that are null and that the route leaves out.
    pub const fn add(mut self, members: &'static [&'static str]) -> Self {
        self.added = members;
        self
    }

    fn is_hidden(&self, meta: &Meta, member: &str) -> bool {
        let names_caller = meta.identity != IdentityMode::HeadersOnly && IDENTITY.contains(&member);
        self.hidden.contains(&member) || (names_caller && !self.shown.contains(&member))
    }

    fn argument<'a>(&self, member: &'a str) -> &'a str {
        self.renamed.iter().find(|it| it.0 == member).map_or(member, |it| it.1)
    }

    fn default_of(&self, member: &str) -> Option<Value> {
        let (_, json) = self.defaults.iter().find(|it| it.0 == member)?;
        Some(serde_json::from_str(json).expect("the default of an argument is JSON"))
    }
}

/// A tool with its arguments, as clients see it.
#[derive(Debug)]
pub struct Form {
    tool: Tool,
    /// JSON Schema of the arguments.
    pub schema: Arc<Map<String, Value>>,
    /// The members that arguments are read from and those that are filled in.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    /// None where the member is no argument.
    argument: Option<String>,
    fallback: Option<Value>,
}

impl Form {
    /// The form of an operation's tool.
    ///
    /// # Panics
    /// When a member that is left out is needed and names no caller: nobody could call the tool.
    pub(crate) fn new(tool: Tool, meta: &Meta, input: &Value) -> Self {
        let (mut properties, mut required, mut members) = (Map::new(), Vec::new(), Vec::new());
        for (name, schema) in input["properties"].as_object().into_iter().flatten() {
            let needed = input::required(input, name);
            if tool.is_hidden(meta, name) {
                assert!(!needed || IDENTITY.contains(&name.as_str()), "{}: {name}", tool.name);
                let fallback = needed.then(|| json!(""));
                members.push(Member { name: name.clone(), argument: None, fallback });
                continue;
            }
            let (argument, fallback) = (tool.argument(name).to_owned(), tool.default_of(name));
            let mut schema = concise(schema);
            match &fallback {
                Some(value) => schema["default"] = value.clone(),
                None if needed => required.push(json!(argument)),
                None => {}
            }
            properties.insert(argument.clone(), schema);
            members.push(Member { name: name.clone(), argument: Some(argument), fallback });
        }
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), properties.into());
        if !required.is_empty() {
            schema.insert("required".to_owned(), required.into());
        }
        Self { tool, schema: Arc::new(schema), members }
    }

    /// The name of the tool.
    pub fn name(&self) -> &'static str {
        self.tool.name
    }

    /// The operation's input that arguments stand for. What is no argument is ignored.
    pub(crate) fn input(&self, arguments: &Map<String, Value>, caller: Option<&str>) -> Value {
        let mut input = Map::new();
        for member in &self.members {
            let given = member.argument.as_ref().and_then(|it| arguments.get(it)).cloned();
            let own = self.tool.own.filter(|it| *it == member.name).and(caller);
            let missing = given.as_ref().is_none_or(Value::is_null);
            let value = match own.filter(|_| missing) {
                Some(caller) => Some(json!(caller)),
                None => given.or_else(|| member.fallback.clone()),
            };
            if let Some(value) = value {
                input.insert(member.name.clone(), value);
            }
        }
        input.into()
    }

    /// The answer of the tool, from that of its operation.
    pub(crate) fn answer(&self, mut body: Value) -> Value {
        if let Some(members) = body.as_object_mut() {
            for name in self.tool.added {
                members.entry(*name).or_insert(Value::Null);
            }
        }
        body
    }

    /// Problems of an input, told of the arguments that it stands for.
    pub(crate) fn issues(
        &self,
        mut issues: Vec<Issue>,
        arguments: &Map<String, Value>,
    ) -> Vec<Issue> {
        for issue in &mut issues {
            if issue.kind == "missing" && issue.loc.len() == 2 {
                issue.input = input::cut(&Value::Object(arguments.clone()));
            }
            if let Some(Value::String(name)) = issue.loc.get_mut(1) {
                *name = self.tool.argument(name).to_owned();
            }
        }
        issues
    }
}

/// A schema with no more than what helps to fill in an argument: agents pay for every word. What is
/// left out is checked all the same.
fn concise(schema: &Value) -> Value {
    let mut schema = schema.clone();
    input::forbid_null(&mut schema);
    let Some(members) = schema.as_object_mut() else { return json!({}) };
    if members.contains_key("x-time") {
        members.insert("format".to_owned(), json!("date-time"));
    }
    members.retain(|keyword, value| match keyword.as_str() {
        "format" => ["uuid", "date-time"].iter().any(|it| value == it),
        "default" => !value.is_null(),
        "title" | "minLength" | "minItems" | "maxItems" | "additionalProperties" => false,
        keyword => !keyword.starts_with("x-"),
    });
    if let Some(items) = members.get_mut("items") {
        *items = concise(items);
    }
    if let Some(properties) = members.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|it| *it = concise(it));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta::write("do_it").identity(IdentityMode::Strict);

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "what": { "type": "string", "x-max-bytes": 5, "description": "What." },
                "agent_id": { "type": "string" },
                "session_id": { "type": ["string", "null"] },
                "whose": { "type": ["string", "null"], "default": null },
                "limit": { "type": "integer", "format": "int64", "default": 50, "minimum": 0 },
                "secret": { "type": ["string", "null"] },
                "lists": { "type": ["array", "null"], "items": true },
            },
            "required": ["what", "agent_id"],
        })
    }

    #[test]
    fn a_tool_has_the_members_that_name_no_caller_in_few_words() {
        let tool = Tool::named("do_it")
            .hide(&["secret"])
            .rename(&[("what", "which")])
            .default(&[("limit", "20")])
            .own("whose");
        let form = Form::new(tool, &META, &schema());
        assert_eq!(
            Value::Object((*form.schema).clone()),
            json!({
                "type": "object",
                "properties": {
                    "which": { "type": "string", "description": "What." },
                    "whose": { "type": "string" },
                    "limit": { "type": "integer", "default": 20, "minimum": 0 },
                    "lists": { "type": "array", "items": {} },
                },
                "required": ["which"],
            })
        );
        let arguments = json!({ "which": "x", "agent_id": "evil", "secret": "s", "whose": null });
        let arguments = arguments.as_object().expect("an object").clone();
        assert_eq!(
            form.input(&arguments, Some("me")),
            json!({ "what": "x", "agent_id": "", "whose": "me", "limit": 20 })
        );
        assert_eq!(form.input(&arguments, None)["whose"], Value::Null);
    }

    #[test]
    fn a_session_may_be_an_argument_and_answers_get_what_the_tool_promises() {
        let tool = Tool::named("do_it").show(&["session_id"]).add(&["error"]);
        let form = Form::new(tool, &META, &schema());
        assert!(form.schema["properties"]["session_id"].is_object());
        assert_eq!(form.answer(json!({ "a": 1 })), json!({ "a": 1, "error": null }));
        assert_eq!(form.answer(json!({ "error": "x" })), json!({ "error": "x" }));
        assert_eq!(form.answer(json!([])), json!([]));
    }
}
