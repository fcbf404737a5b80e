//! `coord try`: runs an operation if the service has it.
use clap::ArgMatches;
use serde_json::{Map, Value, json};

use super::{
    detection::{Flag, call_in_workspace, context_if_allowed, reason_of_unavailability},
    operations::{FieldDefault, Operation},
};
use crate::{
    actions::paths::Paths,
    command_line::values::read_standard_input,
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED},
        text::escape_json,
    },
    service::{
        answer::Answer,
        client::{Call, CallError, Client, encode},
        routes::Route,
        settings::Settings,
    },
};

/// Runs an operation and prints its result.
pub(crate) fn try_operation(matches: &ArgMatches, output: Output) -> Outcome {
    let name = matches.get_one::<String>("operation").map(String::as_str).unwrap_or_default();
    let operation = Operation::find(name)
        .ok_or_else(|| Problem::invalid(format!("There is no operation {name}.")))?;
    let text = match matches.get_one::<String>("payload").map_or("{}", String::as_str) {
        "-" => read_standard_input()?,
        text => text.to_owned(),
    };
    let mut payload: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        Problem::invalid(format!("--payload: expected a JSON object: {error}."))
    })?;
    // Checked first, so that an invalid payload is exit code 2 whether the service is available or
    // not.
    let path = operation.path_with_id(&payload)?;
    Paths::replace_in_request(operation.path, &mut payload, output)?;
    let result = match context_if_allowed(matches, output)? {
        None => skipped("coordinator_unavailable"),
        Some(context) => run_operation(&context.client, operation, &path, payload),
    };
    // The answer contains untrusted text, and the result can be printed to a terminal.
    output.print(&escape_json(&result.to_string()));
    Ok(if result["status"] == "error" { REFUSED } else { DONE })
}

fn skipped(reason: &str) -> Value {
    json!({ "status": "skipped", "reason": reason })
}

fn run_operation(
    client: &Client,
    operation: &Operation,
    path: &str,
    payload: Map<String, Value>,
) -> Value {
    if let Some(flag) = Flag::find(operation.flag) {
        if reason_of_unavailability(client).is_some() {
            return skipped("coordinator_unavailable");
        }
        if !flag.probe(client) {
            return skipped("capability_unavailable");
        }
    }
    result_of(operation, client.send(operation.call(client, path, payload)))
}

/// Returns the result for an answer, as the HTTP bridge does.
fn result_of(operation: &Operation, answer: Result<Answer, CallError>) -> Value {
    let unreachable = |error: String| {
        let mut result = skipped("coordinator_unreachable");
        result["error"] = error.into();
        result
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return unreachable(error.to_string()),
    };
    let status = answer.status;
    let response = match answer.json {
        Some(json) => json,
        None if answer.text.is_empty() => json!({}),
        None => json!({ "raw": answer.text }),
    };
    match status {
        500.. => unreachable(format!("HTTP {status}")),
        404 => skipped("capability_unavailable"),
        401 | 403 => skipped("unauthorized"),
        200..=299 => json!({
            "status": "ok", "operation": operation.name, "status_code": status,
            "response": response,
        }),
        _ => json!({
            "status": "error", "operation": operation.name, "status_code": status,
            "response": response, "error": format!("HTTP {status}"),
        }),
    }
}

impl Operation {
    /// Returns the name of the id in the path, if there is one.
    fn id_name(&self) -> Option<&'static str> {
        let (_, rest) = self.path.split_once('{')?;
        Some(rest.split_once('}')?.0)
    }

    /// Returns the path with the id of the payload.
    fn path_with_id(&self, payload: &Map<String, Value>) -> Result<String, Problem> {
        let Some(name) = self.id_name() else { return Ok(self.path.to_owned()) };
        let id = payload.get(name).and_then(Value::as_str).filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Problem::invalid(format!("--payload: expected {name}.")))?;
        Ok(self.path.replace(&format!("{{{name}}}"), &encode(id)))
    }

    /// Returns the request: all fields of the operation, then the other members of the payload.
    /// Where no member names the agent, headers do.
    fn call(&self, client: &Client, path: &str, mut payload: Map<String, Value>) -> Call {
        let settings = client.settings();
        if let Some(name) = self.id_name() {
            payload.remove(name);
        }
        let mut call = call_in_workspace(client, self.method, path);
        if self.method == "GET" {
            return with_agent_headers(call, settings);
        }
        let mut body = Map::new();
        for (name, default) in self.fields {
            let value = payload.remove(*name).or_else(|| default.value(name, settings));
            body.extend(value.map(|value| ((*name).to_owned(), value)));
        }
        body.extend(payload);
        call.is_repeatable =
            Route::serving(self.method, path).is_some_and(|route| route.is_repeatable);
        if !body.contains_key("agent_id") {
            call = with_agent_headers(call, settings);
        }
        call.json(&Value::Object(body))
    }
}

impl FieldDefault {
    /// Returns the value of a field with this name; `None` if the field is omitted.
    fn value(self, name: &str, settings: &Settings) -> Option<Value> {
        let of_caller = || match settings.identity.member(name).unwrap_or_default() {
            "" if name == "session_id" => Value::Null,
            value => value.into(),
        };
        match self {
            FieldDefault::Null => Some(Value::Null),
            FieldDefault::Number(number) => Some(number.into()),
            FieldDefault::Text(text) => Some(text.into()),
            FieldDefault::Caller => Some(of_caller()),
            FieldDefault::CallerWithoutKey => settings.key.is_none().then(of_caller),
            FieldDefault::Omitted => None,
        }
    }
}

/// Adds the agent of the settings as headers.
fn with_agent_headers(mut call: Call, settings: &Settings) -> Call {
    for (header, value, member) in settings.identity.headers() {
        if matches!(member, "agent_id" | "agent_type") && !value.is_empty() {
            call.headers.push((header, value.to_owned()));
        }
    }
    call
}
