//! The answers of this program while the service is not there. A client asks for the tools once,
//! when it starts; without an answer the agent would have none for its whole session.
use serde_json::{Value, json};

use super::message::Message;

/// What the service answers, as of the build of this program.
const DOCUMENT: &str = include_str!("../../../../docs/mcp-tools.json");

/// The set of tools that the service offers by default.
const DEFAULT_SET: &str = "core";

/// The notification after which a client asks for the tools again.
pub(super) const TOOLS_CHANGED: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

/// Whether a request is part of the start of a client, so that it is answered without the service.
pub(super) fn is_start(message: &Message) -> bool {
    matches!(
        message.json["method"].as_str(),
        Some(
            "initialize"
                | "server/discover"
                | "tools/list"
                | "resources/list"
                | "resources/templates/list"
                | "prompts/list"
        )
    )
}

/// Returns the answer to a request. `tools` are the sets of the command line, and `problem` is why
/// the service does not answer. `None` if only the service has the answer.
pub(super) fn answer(message: &Message, tools: Option<&str>, problem: &str) -> Option<String> {
    let id = message.id.as_deref()?;
    let document: Value = serde_json::from_str(DOCUMENT).ok()?;
    let mut result = match message.json["method"].as_str()? {
        "initialize" => initialize(&document, &message.json),
        "server/discover" => document["discover"].clone(),
        "tools/list" => json!({ "tools": selected(&document, tools)? }),
        "resources/list" => json!({ "resources": document["resources"] }),
        "resources/templates/list" => json!({ "resourceTemplates": [] }),
        "prompts/list" => json!({ "prompts": document["prompts"] }),
        "ping" => json!({}),
        "tools/call" => refusal(problem),
        _ => return None,
    };
    if message.revision().is_some() {
        complete(&mut result, is_start(message));
    }
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

/// Adds the members that results have in revisions without `initialize`. A client must not keep a
/// list, because the service possibly has another one.
fn complete(result: &mut Value, is_list: bool) {
    result["resultType"] = "complete".into();
    if is_list {
        result["ttlMs"] = 0.into();
        result["cacheScope"] = "private".into();
    }
}

/// Answers with the requested revision if the service has it, else with its newest one.
fn initialize(document: &Value, request: &Value) -> Value {
    let mut result = document["initialize"].clone();
    let requested = &request["params"]["protocolVersion"];
    let versions = document["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let version = versions.iter().find(|version| *version == requested).or(versions.last());
    result["protocolVersion"] = version.cloned().unwrap_or_default();
    result["capabilities"]["tools"]["listChanged"] = true.into();
    result
}

/// Returns the tools of these sets and names, in their order. `None` if a name is unknown.
fn selected(document: &Value, requested: Option<&str>) -> Option<Vec<Value>> {
    let requested = requested.unwrap_or_default().split(',').map(str::trim);
    let mut requested: Vec<_> = requested.filter(|name| !name.is_empty()).collect();
    if requested.is_empty() {
        requested.push(DEFAULT_SET);
    }
    let all = document["tools"].as_array()?;
    let mut names: Vec<&str> = Vec::new();
    for name in requested {
        match document["sets"][name].as_array() {
            Some(set) => names.extend(set.iter().filter_map(Value::as_str)),
            None => names.push(name),
        }
    }
    let mut selected: Vec<Value> = Vec::new();
    for name in names {
        let tool = all.iter().find(|tool| tool["name"] == name)?;
        if !selected.contains(tool) {
            selected.push(tool.clone());
        }
    }
    Some(selected)
}

/// Returns the result of a tool call that did not reach the service.
fn refusal(problem: &str) -> Value {
    let text = format!(
        "The coordinator did not get this call, so nothing was done: {problem}. Start the service \
         or correct its address, then call the tool again; `coord doctor` says what is wrong. \
         Until then nobody sees your locks: do not go on as if you had them."
    );
    json!({
        "content": [{ "type": "text", "text": text }],
        "structuredContent": { "success": false, "error": "service_unreachable", "detail": text },
        "isError": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(message: &Value, tools: Option<&str>) -> Option<Value> {
        let message = Message::parse(message.to_string().as_bytes()).unwrap();
        let answer = answer(&message, tools, "nobody is there")?;
        Some(serde_json::from_str::<Value>(&answer).unwrap()["result"].clone())
    }

    fn request(method: &str, params: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
    }

    #[test]
    fn a_known_revision_is_kept_and_an_unknown_one_replaced() {
        for (requested, answered) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-06-18", "2025-06-18"),
            ("1999-01-01", "2025-11-25"),
        ] {
            let params = json!({ "protocolVersion": requested });
            let result = ask(&request("initialize", params), None).unwrap();
            assert_eq!(result["protocolVersion"], answered);
            assert!(result["instructions"].is_string());
        }
    }

    #[test]
    fn results_have_the_members_of_the_revision() {
        let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
        for (method, is_list) in
            [("tools/list", true), ("prompts/list", true), ("tools/call", false)]
        {
            let result = ask(&request(method, json!({ "_meta": meta })), None).unwrap();
            assert_eq!(result["resultType"], "complete");
            assert_eq!(result["ttlMs"].is_number() && result["cacheScope"].is_string(), is_list);
            assert!(ask(&request(method, json!({})), None).unwrap()["resultType"].is_null());
        }
    }

    #[test]
    fn the_tools_are_those_of_the_sets() {
        let names = |tools: Option<&str>| {
            let result = ask(&request("tools/list", json!({})), tools)?;
            let tools = result["tools"].as_array().unwrap();
            Some(tools.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(names(None).unwrap()[0], "acquire_lock");
        assert_eq!(names(Some("")), names(Some("core")));
        let locks = ["acquire_lock", "release_lock", "check_locks", "verify_locks"];
        assert_eq!(names(Some("locks, acquire_lock")).unwrap(), locks);
        assert_eq!(names(Some("query_audit")).unwrap(), ["query_audit"]);
        assert_eq!(names(Some("nonsense")), None);
    }
}
