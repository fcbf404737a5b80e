//! `coord detect` and `coord try`: what the HTTP bridge of existing clients prints, member by member.
use std::{io, thread, time::Duration};

use clap::ArgMatches;
use serde_json::{Map, Value, json};

use crate::{
    cli,
    client::{Answer, Call, CallError, Client, in_path},
    outcome::{DONE, Outcome, Problem, REFUSED},
    run::{Context, context},
    settings::{Settings, SettingsError},
    show::{Output, clean_json},
};

/// How long each answer may take.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// A flag of the detection: its name, its name among the capabilities, and the probe for it.
struct Flag {
    name: &'static str,
    capability: &'static str,
    method: &'static str,
    path: &'static str,
}

const fn flag(
    name: &'static str,
    capability: &'static str,
    method: &'static str,
    path: &'static str,
) -> Flag {
    Flag { name, capability, method, path }
}

const FLAGS: [Flag; 9] = [
    flag("CAN_LOCK", "lock", "POST", "/locks/acquire"),
    flag("CAN_QUEUE_WORK", "queue_work", "POST", "/work/claim"),
    flag("CAN_HANDOFF", "handoff", "POST", "/handoffs/write"),
    flag("CAN_MEMORY", "memory", "POST", "/memory/query"),
    flag("CAN_GUARDRAILS", "guardrails", "POST", "/guardrails/check"),
    flag("CAN_FEATURE_REGISTRY", "feature_registry", "GET", "/features/active"),
    flag("CAN_MERGE_QUEUE", "merge_queue", "GET", "/merge-queue"),
    flag("CAN_ISSUES", "", "POST", "/issues/list"),
    flag("CAN_CODE_SEARCH", "code_search", "GET", "/search/code/status"),
];

/// An operation: its name, the flag that it needs, its request, and its fields with what is sent for
/// them when the payload does not say.
struct Operation {
    name: &'static str,
    flag: &'static str,
    method: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, Missing)],
}

/// What is sent for a field that the payload does not have.
#[derive(Clone, Copy)]
enum Missing {
    Null,
    Number(i64),
    Text(&'static str),
    /// Who asks.
    Own,
    /// Who asks, but with a key the key knows.
    OwnWithoutKey,
    /// Nothing.
    Absent,
}

use Missing::{Absent, Null, Number, Own, OwnWithoutKey, Text};

const fn operation(
    name: &'static str,
    flag: &'static str,
    method: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, Missing)],
) -> Operation {
    Operation { name, flag, method, path, fields }
}

const OPERATIONS: &[Operation] = &[
    operation(
        "lock",
        "CAN_LOCK",
        "POST",
        "/locks/acquire",
        &[
            ("file_path", Null),
            ("agent_id", Own),
            ("agent_type", Own),
            ("session_id", Own),
            ("reason", Null),
            ("ttl_minutes", Number(30)),
        ],
    ),
    operation(
        "unlock",
        "CAN_LOCK",
        "POST",
        "/locks/release",
        &[("file_path", Null), ("agent_id", Own)],
    ),
    operation(
        "submit_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/submit",
        &[
            ("task_type", Null),
            ("task_description", Null),
            ("input_data", Null),
            ("priority", Number(5)),
            ("depends_on", Null),
        ],
    ),
    operation(
        "get_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/claim",
        &[("agent_id", Own), ("agent_type", Own), ("task_types", Null)],
    ),
    operation(
        "complete_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/complete",
        &[
            ("task_id", Null),
            ("agent_id", Own),
            ("success", Null),
            ("result", Null),
            ("error_message", Null),
        ],
    ),
    operation(
        "remember",
        "CAN_MEMORY",
        "POST",
        "/memory/store",
        &[
            ("agent_id", Own),
            ("session_id", Own),
            ("event_type", Null),
            ("summary", Null),
            ("details", Null),
            ("outcome", Null),
            ("lessons", Null),
            ("tags", Null),
        ],
    ),
    operation(
        "recall",
        "CAN_MEMORY",
        "POST",
        "/memory/query",
        &[("agent_id", Own), ("tags", Null), ("event_type", Null), ("limit", Number(10))],
    ),
    operation(
        "check_guardrails",
        "CAN_GUARDRAILS",
        "POST",
        "/guardrails/check",
        &[("operation_text", Null), ("file_paths", Null)],
    ),
    operation(
        "handoff_write",
        "CAN_HANDOFF",
        "POST",
        "/handoffs/write",
        &[
            ("session_id", Own),
            ("summary", Null),
            ("completed_work", Null),
            ("in_progress", Null),
            ("decisions", Null),
            ("next_steps", Null),
            ("relevant_files", Null),
            ("agent_id", OwnWithoutKey),
            ("agent_type", OwnWithoutKey),
        ],
    ),
    operation(
        "handoff_read",
        "CAN_HANDOFF",
        "POST",
        "/handoffs/read",
        &[("agent_id", Own), ("session_id", Own), ("limit", Number(1))],
    ),
    operation(
        "register_feature",
        "CAN_FEATURE_REGISTRY",
        "POST",
        "/features/register",
        &[
            ("feature_id", Null),
            ("resource_claims", Null),
            ("title", Null),
            ("branch_name", Null),
            ("agent_id", Own),
            ("agent_type", Own),
            ("merge_priority", Number(5)),
            ("metadata", Null),
        ],
    ),
    operation(
        "deregister_feature",
        "CAN_FEATURE_REGISTRY",
        "POST",
        "/features/deregister",
        &[("feature_id", Null), ("status", Text("completed"))],
    ),
    operation(
        "enqueue_merge",
        "CAN_MERGE_QUEUE",
        "POST",
        "/merge-queue/enqueue",
        &[("feature_id", Null), ("pr_url", Null)],
    ),
    operation(
        "pre_merge_checks",
        "CAN_MERGE_QUEUE",
        "POST",
        "/merge-queue/check/{feature_id}",
        &[],
    ),
    operation("mark_merged", "CAN_MERGE_QUEUE", "POST", "/merge-queue/merged/{feature_id}", &[]),
    operation(
        "issue_create",
        "CAN_ISSUES",
        "POST",
        "/issues/create",
        &[
            ("title", Null),
            ("description", Null),
            ("issue_type", Text("task")),
            ("priority", Number(5)),
            ("labels", Null),
            ("parent_id", Null),
            ("assignee", Null),
            ("depends_on", Null),
        ],
    ),
    operation("issue_list", "CAN_ISSUES", "POST", "/issues/list", &[("limit", Number(50))]),
    operation("issue_show", "CAN_ISSUES", "GET", "/issues/{issue_id}", &[]),
    operation("issue_update", "CAN_ISSUES", "POST", "/issues/update", &[("issue_id", Null)]),
    operation(
        "issue_close",
        "CAN_ISSUES",
        "POST",
        "/issues/close",
        &[("issue_id", Null), ("issue_ids", Null), ("reason", Null)],
    ),
    operation(
        "issue_comment",
        "CAN_ISSUES",
        "POST",
        "/issues/comment",
        &[("issue_id", Null), ("body", Null)],
    ),
    operation(
        "issue_ready",
        "CAN_ISSUES",
        "POST",
        "/issues/ready",
        &[("parent_id", Null), ("limit", Number(50))],
    ),
    operation("issue_blocked", "CAN_ISSUES", "GET", "/issues/blocked", &[]),
    operation(
        "issue_search",
        "CAN_ISSUES",
        "POST",
        "/issues/search",
        &[("query", Null), ("limit", Number(50))],
    ),
    operation("code_search", "CAN_CODE_SEARCH", "POST", "/search/code", &[("query", Null)]),
    operation(
        "resolve_archetype_for_phase",
        "",
        "POST",
        "/archetypes/resolve_for_phase",
        &[("phase", Absent)],
    ),
];

/// The names of the operations that can be tried.
pub(crate) fn operations() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|it| it.name)
}

/// A client; `None` when there is no URL that may be asked.
fn client(matches: &ArgMatches, output: Output) -> Result<Option<Context>, Problem> {
    match Settings::from_environment(&cli::given(matches), TIMEOUT) {
        Err(SettingsError::Url { .. }) => Ok(None),
        _ => context(matches, output, TIMEOUT).map(Some),
    }
}

pub(crate) fn detect_command(matches: &ArgMatches, output: Output) -> Outcome {
    let context = client(matches, output)?;
    let state = detect(context.as_ref().map(|it| &it.client));
    output.print(&state.to_string());
    Ok(if state["COORDINATOR_AVAILABLE"] == true { DONE } else { REFUSED })
}

/// What the service can do, as the bridge prints it.
pub fn detect(client: Option<&Client>) -> Value {
    let unavailable = match client {
        Some(client) => unavailable(client),
        None => Some("missing_http_url".to_owned()),
    };
    let is_available = unavailable.is_none();
    let has: Vec<_> = match client.filter(|_| is_available) {
        None => FLAGS.iter().map(|_| false).collect(),
        Some(client) => thread::scope(|scope| {
            let probes: Vec<_> =
                FLAGS.iter().map(|flag| scope.spawn(move || flag.is_there(client))).collect();
            probes.into_iter().map(|it| it.join().unwrap_or(false)).collect()
        }),
    };
    let mut state = json!({
        "status": if is_available { "ok" } else { "skipped" },
        "COORDINATOR_AVAILABLE": is_available,
        "COORDINATION_TRANSPORT": if is_available { "http" } else { "none" },
        "http_url": client.map(|it| it.settings().url.as_str()),
        "reason": unavailable.unwrap_or("http_reachable".to_owned()),
    });
    let mut capabilities = Map::new();
    for (flag, has) in FLAGS.iter().zip(has) {
        state[flag.name] = has.into();
        if !flag.capability.is_empty() {
            capabilities.insert(flag.capability.to_owned(), has.into());
        }
    }
    state["capabilities"] = capabilities.into();
    state
}

/// Why the service cannot be used, if it cannot.
fn unavailable(client: &Client) -> Option<String> {
    let mut call = call_of(client, "GET", "/health");
    call.with_key = false;
    match client.send(call) {
        Err(_) => Some("health_unreachable".to_owned()),
        Ok(Answer { status: status @ (404 | 500..), .. }) => {
            Some(format!("health_status_{status}"))
        }
        Ok(_) => None,
    }
}

/// A request in the workspace of the settings.
fn call_of(client: &Client, method: &str, path: &str) -> Call {
    let mut call = Call::new(method, path);
    let workspace = &client.settings().identity.workspace;
    if !workspace.is_empty() {
        call.headers.push(("x-workspace", workspace.clone()));
    }
    call
}

impl Flag {
    fn is_there(&self, client: &Client) -> bool {
        let mut call = call_of(client, self.method, self.path);
        if self.method == "POST" {
            call = call.json(&json!({}));
        }
        let Ok(answer) = client.send(call) else { return false };
        if self.name == "CAN_CODE_SEARCH" {
            return answer.status == 200 && answer.json.is_some_and(|it| is_ready(&it));
        }
        !matches!(answer.status, 401 | 403 | 404 | 500..)
    }
}

fn is_ready(search: &Value) -> bool {
    search["available"] == true
        && search["state"] == "ready"
        && search["reason"] == "ready"
        && search["usable_index_count"].as_i64().is_some_and(|it| it >= 1)
}

pub(crate) fn try_command(matches: &ArgMatches, output: Output) -> Outcome {
    let name = matches.get_one::<String>("operation").map(String::as_str).unwrap_or_default();
    let operation = OPERATIONS
        .iter()
        .find(|it| it.name == name)
        .ok_or_else(|| Problem::wrong(format!("There is no operation {name}.")))?;
    let text = match matches.get_one::<String>("payload").map_or("{}", String::as_str) {
        "-" => io::read_to_string(io::stdin())
            .map_err(|error| Problem::wrong(format!("Standard input: {error}.")))?,
        text => text.to_owned(),
    };
    let payload: Map<String, Value> = serde_json::from_str(&text)
        .map_err(|error| Problem::wrong(format!("--payload: expected a JSON object: {error}.")))?;
    // Before anything that depends on the service: what is wrong here is so wherever it goes.
    let path = operation.path_with(&payload)?;
    let result = match client(matches, output)? {
        None => skipped("coordinator_unavailable"),
        Some(context) => attempt(&context.client, operation, &path, payload),
    };
    // Texts of others are within it, and people look at it all the same.
    output.print(&clean_json(&result.to_string()));
    Ok(if result["status"] == "error" { REFUSED } else { DONE })
}

fn skipped(reason: &str) -> Value {
    json!({ "status": "skipped", "reason": reason })
}

fn attempt(
    client: &Client,
    operation: &Operation,
    path: &str,
    payload: Map<String, Value>,
) -> Value {
    if let Some(flag) = FLAGS.iter().find(|it| it.name == operation.flag) {
        if unavailable(client).is_some() {
            return skipped("coordinator_unavailable");
        }
        if !flag.is_there(client) {
            return skipped("capability_unavailable");
        }
    }
    read(operation, client.send(operation.call(client, path, payload)))
}

/// How the bridge reads an answer.
fn read(operation: &Operation, answer: Result<Answer, CallError>) -> Value {
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
    /// The name of the id in its path, if there is one.
    fn id(&self) -> Option<&'static str> {
        let (_, rest) = self.path.split_once('{')?;
        Some(rest.split_once('}')?.0)
    }

    /// Its path with the id of the payload.
    fn path_with(&self, payload: &Map<String, Value>) -> Result<String, Problem> {
        let Some(name) = self.id() else { return Ok(self.path.to_owned()) };
        let id = payload.get(name).and_then(Value::as_str).filter(|it| !it.is_empty());
        let id = id.ok_or_else(|| Problem::wrong(format!("--payload: expected {name}.")))?;
        Ok(self.path.replace(&format!("{{{name}}}"), &in_path(id, false)))
    }

    /// The request: all fields, those of the payload before the others. Where nothing in it says who
    /// asks, headers do.
    fn call(&self, client: &Client, path: &str, mut payload: Map<String, Value>) -> Call {
        let settings = client.settings();
        if let Some(name) = self.id() {
            payload.remove(name);
        }
        let mut call = call_of(client, self.method, path);
        if self.method == "GET" {
            return identified(call, settings);
        }
        let mut body = Map::new();
        for (name, default) in self.fields {
            let own = || {
                let value = settings.identity.member(name).unwrap_or_default();
                match *name == "session_id" && value.is_empty() {
                    true => Value::Null,
                    false => value.into(),
                }
            };
            let value = payload.remove(*name).or_else(|| match *default {
                Null => Some(Value::Null),
                Number(number) => Some(number.into()),
                Text(text) => Some(text.into()),
                Own => Some(own()),
                OwnWithoutKey => settings.key.is_none().then(own),
                Absent => None,
            });
            body.extend(value.map(|it| ((*name).to_owned(), it)));
        }
        body.extend(payload);
        call.is_repeatable =
            crate::routes::Route::serving(self.method, path).is_some_and(|it| it.is_repeatable);
        if !body.contains_key("agent_id") {
            call = identified(call, settings);
        }
        call.json(&Value::Object(body))
    }
}

/// The same with the agent in its headers, as far as that is set.
fn identified(mut call: Call, settings: &Settings) -> Call {
    let said = settings
        .identity
        .headers()
        .into_iter()
        .filter(|it| matches!(it.2, "agent_id" | "agent_type") && !it.1.is_empty());
    call.headers.extend(said.map(|(name, value, _)| (name, value.to_owned())));
    call
}
