//! Tools as MCP clients see them: from arguments to the input of an operation, and from its answer to
//! that of the tool.
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    arguments::{
        Findings, UNKNOWN, count_rest, is_absent, is_blank, is_closed, known_words, must_have_text,
        normalize, unknown,
    },
    bounds::Listing,
    paths::OddKeys,
};
use crate::{
    access::Caller,
    operation::{
        IDENTITY_MEMBERS, Meta, Registered, Tool,
        input::keywords::{forbid_null, inner_schema, is_free_form, required},
    },
    values::{
        Issue,
        issue::{missing, value_error},
        json::cut,
    },
};

/// The place of arguments in the path of an issue.
pub(super) const ARGUMENTS: &str = "arguments";

/// The argument that continues a list.
pub(super) const CURSOR: &str = "cursor";

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

    /// Whether an argument is any object, or a list of any values.
    pub(super) fn is_free_form(&self, argument: &str) -> bool {
        let mut members = self.form.members.iter();
        let member = members.find(|member| member.argument.as_deref() == Some(argument));
        member.is_some_and(|member| {
            is_free_form(inner_schema(&self.operation.input["properties"][&member.name]))
        })
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
    /// Whether a call without the argument is refused.
    is_required: bool,
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
                members.push(Member {
                    name: name.clone(),
                    argument: None,
                    fallback,
                    is_required: false,
                });
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
            let is_required = needed && fallback.is_none();
            members.push(Member {
                name: name.clone(),
                argument: Some(argument),
                fallback,
                is_required,
            });
        }
        let mut schema = Map::new();
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), properties.into());
        if !required_arguments.is_empty() {
            schema.insert("required".to_owned(), required_arguments.into());
        }
        schema.insert("additionalProperties".to_owned(), json!(false));
        Self { tool, schema: Arc::new(schema), members }
    }

    /// Converts arguments into the input of the operation, whose schema is given. Also returns the issues
    /// that the check of the input cannot find, and what the client should know about arguments that were
    /// taken. The paths begin with the names of members.
    pub(super) fn input(
        &self,
        schema: &Value,
        arguments: &Map<String, Value>,
        caller: Option<&Caller>,
    ) -> (Value, Vec<Issue>, Option<String>) {
        let odd_keys = if self.tool.takes_any_key { OddKeys::Taken } else { OddKeys::Refused };
        let (input, mut findings) = self.read(schema, arguments, odd_keys);
        self.find_unknown(arguments, caller, &mut findings);
        let hint = findings.hint();
        (input.into(), findings.into_issues(), hint)
    }

    /// Returns the issues of keys that were taken although no path is spelled like them.
    pub(super) fn issues_of_odd_keys(
        &self,
        schema: &Value,
        arguments: &Map<String, Value>,
    ) -> Vec<Issue> {
        self.read(schema, arguments, OddKeys::Refused).1.into_issues()
    }

    /// Reads the arguments that the tool has.
    fn read(
        &self,
        schema: &Value,
        arguments: &Map<String, Value>,
        odd_keys: OddKeys,
    ) -> (Map<String, Value>, Findings) {
        let (mut input, mut findings) = (Map::new(), Findings::with(odd_keys));
        for member in &self.members {
            let given = member.argument.as_ref().and_then(|name| arguments.get(name)).cloned();
            let given = given.and_then(|mut value| {
                let property = &schema["properties"][&member.name];
                let mut path = vec![json!(ARGUMENTS), json!(member.name)];
                normalize(property, &mut value, &mut path, &mut findings);
                if member.is_required && must_have_text(property) && is_blank(&value) {
                    findings.add(|| Issue::new(value_error(NOT_BLANK), &path, &value));
                }
                (member.is_required || !is_absent(property, &mut value)).then_some(value)
            });
            let value = given.or_else(|| member.fallback.clone());
            if let Some(value) = value {
                input.insert(member.name.clone(), value);
            }
        }
        (input, findings)
    }

    /// Adds the issues of the arguments that the tool does not have. One that names the caller is not
    /// needed and does no harm, as long as it names the caller.
    fn find_unknown(
        &self,
        arguments: &Map<String, Value>,
        caller: Option<&Caller>,
        findings: &mut Findings,
    ) {
        let known: Vec<_> = self.arguments().collect();
        for (name, value) in arguments.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let path = || [json!(ARGUMENTS), json!(name)];
            if !IDENTITY_MEMBERS.contains(&name.as_str()) {
                findings.add(|| unknown(name, value, &path(), &known));
                continue;
            }
            let Some(caller) = caller else { continue };
            let (own, header) = match name.as_str() {
                "agent_id" => (Some(caller.agent_id.as_str()), "X-Agent-Id"),
                "agent_type" => (Some(caller.agent_type.as_str()), "X-Agent-Type"),
                _ => (caller.session_id.as_deref(), "X-Session-Id"),
            };
            if is_blank(value) || value.as_str() == own {
                continue;
            }
            findings.add(|| {
                let own = own.map_or("none".to_owned(), |own| format!("`{own}`"));
                let text = format!(
                    "Unknown member `{name}`: the key and the header {header} name the caller \
                     (now {own}); leave it out"
                );
                Issue::new((UNKNOWN, text), &path(), value)
            });
        }
    }

    /// Whether the tool answers a list that the argument `cursor` continues.
    pub(super) fn can_continue(&self) -> bool {
        self.tool.order.is_some()
    }

    /// Returns how the list in the answer of a call is continued.
    pub(super) fn listing<'a>(&self, arguments: &'a Map<String, Value>) -> Listing<'a> {
        let start = arguments.get(CURSOR).and_then(Value::as_str).map(str::trim);
        Listing {
            order: self.tool.order,
            start: start.filter(|start| !start.is_empty()),
            has_limit: self.arguments().any(|argument| argument == "limit"),
            whole: self.tool.whole,
        }
    }

    /// Iterates over the names of the arguments that narrow an answer.
    pub(super) fn filters(&self) -> impl Iterator<Item = &str> {
        let optional = self.members.iter().filter(|member| !member.is_required);
        optional.filter_map(|member| member.argument.as_deref())
    }

    /// Iterates over the names of the arguments.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        self.members.iter().filter_map(|member| member.argument.as_deref())
    }

    /// Converts the answer of the operation into that of the tool.
    pub(super) fn tool_answer(&self, mut body: Value) -> Value {
        if let Some(members) = body.as_object_mut() {
            for name in self.tool.added {
                members.entry(*name).or_insert(Value::Null);
            }
            let reason = members.get("reason").and_then(Value::as_str).map(str::to_owned);
            let remedies = self.tool.remedies.iter();
            for (_, text) in remedies.filter(|(refused, _)| reason.as_deref() == Some(refused)) {
                members.insert("expected".to_owned(), json!(text));
            }
        }
        body
    }

    /// Converts the issues of an input into issues of the arguments, in the order of declaration. Unknown
    /// arguments come last. Of a great many, the rest is only counted.
    pub(super) fn issues(
        &self,
        mut issues: Vec<Issue>,
        arguments: &Map<String, Value>,
    ) -> Vec<Issue> {
        let place = |issue: &Issue| match issue.loc.get(1) {
            Some(Value::String(name)) if issue.kind != UNKNOWN => {
                self.members.iter().position(|member| member.name == *name).unwrap_or_default()
            }
            _ => usize::from(issue.kind == UNKNOWN) * self.members.len(),
        };
        issues.sort_by_key(place);
        for issue in issues.iter_mut().filter(|issue| issue.kind != UNKNOWN) {
            if issue.kind == missing().0 && issue.loc.len() == 2 {
                issue.input = cut(&Value::Object(arguments.clone()));
            }
            if let [place, Value::String(name), ..] = &mut issue.loc[..] {
                // An operation does not know by which door it was called.
                if *place == "body" {
                    *place = json!(ARGUMENTS);
                }
                *name = self.tool.argument(name).to_owned();
            }
        }
        count_rest(&mut issues);
        issues
    }
}

const NOT_BLANK: &str = "expected text that is not blank";

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
    let is_closed = is_closed(&json!(members));
    let known = known_words(&json!(members)).map(|words| json!(words));
    members.retain(|keyword, value| match keyword.as_str() {
        // Clients know this format. Some refuse a schema with any other one.
        "format" => value == "date-time",
        "default" => !value.is_null(),
        "title" | "minLength" | "minItems" | "maxItems" | "additionalProperties" => false,
        keyword => !keyword.starts_with("x-"),
    });
    if let Some(words) = known {
        members.insert("enum".to_owned(), words);
    }
    if let Some(items) = members.get_mut("items") {
        *items = concise(items);
        // Some clients refuse a schema of a list without a type of its items. Any value is taken.
        if *items == json!({}) {
            *items = json!({ "type": "string" });
        }
    }
    if let Some(properties) = members.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| *property = concise(property));
    }
    if is_closed {
        members.insert("additionalProperties".to_owned(), json!(false));
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
            .default(&[("limit", "20")]);
        let form = ToolForm::new(tool, &META, &schema());
        assert_eq!(
            Value::Object((*form.schema).clone()),
            json!({
                "type": "object",
                "properties": {
                    "which": { "type": "string", "description": "What." },
                    "whose": { "type": "string" },
                    "limit": { "type": "integer", "default": 20, "minimum": 0 },
                    "lists": { "type": "array", "items": { "type": "string" } },
                },
                "required": ["which"],
                "additionalProperties": false,
            })
        );
        let input = |arguments: Value, caller: Option<&Caller>| {
            let arguments = arguments.as_object().expect("an object");
            let (input, issues, _) = form.input(&schema(), arguments, caller);
            (input, issues)
        };
        let me = Caller { agent_id: "me".to_owned(), ..Caller::anonymous() };
        let own = json!({ "which": "x", "agent_id": "me", "whose": null });
        let expected = json!({ "what": "x", "agent_id": "", "limit": 20 });
        assert_eq!(input(own, Some(&me)), (expected, Vec::new()));
        let evil = json!({ "which": "x", "agent_id": "evil", "secret": "s" });
        let (_, issues) = input(evil, Some(&me));
        let told: Vec<_> = issues.iter().map(|it| (it.kind, &it.loc[1])).collect();
        assert_eq!(told, [(UNKNOWN, &json!("agent_id")), (UNKNOWN, &json!("secret"))]);
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
