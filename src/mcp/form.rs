//! Tools as MCP clients see them: from arguments to the input of an operation, and from its answer to
//! that of the tool.
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    operation::{
        IDENTITY_MEMBERS, Meta, Registered, Tool,
        input::keywords::{forbid_null, required},
    },
    values::{Issue, json::cut},
};

/// An operation that is offered as a tool.
pub(super) struct OfferedTool {
    pub(super) operation: Arc<Registered>,
    pub(super) form: ToolForm,
}

impl OfferedTool {
    /// Returns `None` for an operation that is not a tool.
    pub(super) fn new(operation: &Arc<Registered>) -> Option<Self> {
        let form = ToolForm::new(operation.meta.tool?, &operation.meta, &operation.input);
        Some(Self { operation: operation.clone(), form })
    }

    pub(super) fn name(&self) -> &'static str {
        self.form.tool.name
    }
}

/// A tool with its arguments, as clients see it.
#[derive(Debug)]
pub(super) struct ToolForm {
    tool: Tool,
    /// JSON Schema of the arguments.
    pub(super) schema: Arc<Map<String, Value>>,
    /// The members of the input: those that are arguments and those that are filled in.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    /// `None` where the member is not an argument.
    argument: Option<String>,
    fallback: Option<Value>,
}

impl ToolForm {
    /// Creates the form of an operation's tool.
    ///
    /// # Panics
    /// When a hidden member is required and does not name the caller: no call of the tool could be valid.
    fn new(tool: Tool, meta: &Meta, input: &Value) -> Self {
        let (mut properties, mut required_arguments, mut members) =
            (Map::new(), Vec::new(), Vec::new());
        for (name, schema) in input["properties"].as_object().into_iter().flatten() {
            let needed = required(input, name);
            if tool.hides(meta.identity, name) {
                assert!(
                    !needed || IDENTITY_MEMBERS.contains(&name.as_str()),
                    "{}: {name}",
                    tool.name
                );
                let fallback = needed.then(|| json!(""));
                members.push(Member { name: name.clone(), argument: None, fallback });
                continue;
            }
            let (argument, fallback) = (tool.argument(name).to_owned(), default_of(&tool, name));
            let mut schema = concise(schema);
            match &fallback {
                Some(value) => schema["default"] = value.clone(),
                None if needed => required_arguments.push(json!(argument)),
                None => {}
            }
            properties.insert(argument.clone(), schema);
            members.push(Member { name: name.clone(), argument: Some(argument), fallback });
        }
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), properties.into());
        if !required_arguments.is_empty() {
            schema.insert("required".to_owned(), required_arguments.into());
        }
        Self { tool, schema: Arc::new(schema), members }
    }

    /// Converts arguments into the input of the operation. Unknown arguments are ignored.
    pub(super) fn input(&self, arguments: &Map<String, Value>, caller: Option<&str>) -> Value {
        let mut input = Map::new();
        for member in &self.members {
            let given = member.argument.as_ref().and_then(|name| arguments.get(name)).cloned();
            let own = self.tool.own.filter(|own| *own == member.name).and(caller);
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

    /// Converts the answer of the operation into that of the tool.
    pub(super) fn tool_answer(&self, mut body: Value) -> Value {
        if let Some(members) = body.as_object_mut() {
            for name in self.tool.added {
                members.entry(*name).or_insert(Value::Null);
            }
        }
        body
    }

    /// Converts the issues of an input into issues of the arguments.
    pub(super) fn issues(
        &self,
        mut issues: Vec<Issue>,
        arguments: &Map<String, Value>,
    ) -> Vec<Issue> {
        for issue in &mut issues {
            if issue.kind == "missing" && issue.loc.len() == 2 {
                issue.input = cut(&Value::Object(arguments.clone()));
            }
            if let Some(Value::String(name)) = issue.loc.get_mut(1) {
                *name = self.tool.argument(name).to_owned();
            }
        }
        issues
    }
}

fn default_of(tool: &Tool, member: &str) -> Option<Value> {
    let (_, json) = tool.defaults.iter().find(|(name, _)| *name == member)?;
    Some(serde_json::from_str(json).expect("the default of an argument is JSON"))
}

/// Reduces a schema to what helps a model to fill in an argument, because every word of it costs the agent
/// tokens. The removed keywords still apply when the input is checked.
fn concise(schema: &Value) -> Value {
    let mut schema = schema.clone();
    forbid_null(&mut schema);
    let Some(members) = schema.as_object_mut() else { return json!({}) };
    if members.contains_key("x-time") {
        members.insert("format".to_owned(), json!("date-time"));
    }
    members.retain(|keyword, value| match keyword.as_str() {
        "format" => ["uuid", "date-time"].iter().any(|format| value == format),
        "default" => !value.is_null(),
        "title" | "minLength" | "minItems" | "maxItems" | "additionalProperties" => false,
        keyword => !keyword.starts_with("x-"),
    });
    if let Some(items) = members.get_mut("items") {
        *items = concise(items);
    }
    if let Some(properties) = members.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| *property = concise(property));
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::IdentityMode;

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
    fn a_tool_has_the_members_that_do_not_name_the_caller() {
        let tool = Tool::named("do_it")
            .hide(&["secret"])
            .rename(&[("what", "which")])
            .default(&[("limit", "20")])
            .own("whose");
        let form = ToolForm::new(tool, &META, &schema());
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
    fn a_session_can_be_an_argument_and_answers_get_the_added_members() {
        let tool = Tool::named("do_it").show(&["session_id"]).add(&["error"]);
        let form = ToolForm::new(tool, &META, &schema());
        assert!(form.schema["properties"]["session_id"].is_object());
        assert_eq!(form.tool_answer(json!({ "a": 1 })), json!({ "a": 1, "error": null }));
        assert_eq!(form.tool_answer(json!({ "error": "x" })), json!({ "error": "x" }));
        assert_eq!(form.tool_answer(json!([])), json!([]));
    }
}
