//! `coord detect`: which capabilities the service has.
use std::{thread, time::Duration};

use clap::ArgMatches;
use serde_json::{Map, Value, json};

use crate::{
    command_line::{cli::given_settings, context::Context},
    output::{
        console::Output,
        outcome::{DONE, Outcome, Problem, REFUSED},
    },
    service::{
        answer::Answer,
        client::{Call, Client},
        settings::{Settings, SettingsError},
    },
};

/// The time-out of an answer.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// A flag of the state object, and the probe that decides it. Existing clients read every flag, so
/// the flags of capabilities that the service does not offer stay, as false.
pub(super) struct Flag {
    pub(super) name: &'static str,
    /// The name among the capabilities; empty if the flag is not among them.
    capability: &'static str,
    method: &'static str,
    path: &'static str,
}

const FLAGS: [Flag; 9] = [
    Flag::new("CAN_LOCK", "lock", "POST", "/locks/acquire"),
    Flag::new("CAN_QUEUE_WORK", "queue_work", "POST", "/work/claim"),
    Flag::new("CAN_HANDOFF", "handoff", "POST", "/handoffs/write"),
    Flag::new("CAN_MEMORY", "memory", "POST", "/memory/query"),
    Flag::new("CAN_GUARDRAILS", "guardrails", "POST", "/guardrails/check"),
    Flag::new("CAN_FEATURE_REGISTRY", "feature_registry", "GET", "/features/active"),
    Flag::new("CAN_MERGE_QUEUE", "merge_queue", "GET", "/merge-queue"),
    Flag::new("CAN_ISSUES", "", "POST", "/issues/list"),
    Flag::new("CAN_CODE_SEARCH", "code_search", "GET", "/search/code/status"),
];

impl Flag {
    const fn new(
        name: &'static str,
        capability: &'static str,
        method: &'static str,
        path: &'static str,
    ) -> Flag {
        Flag { name, capability, method, path }
    }

    /// Returns the flag with this name.
    pub(super) fn find(name: &str) -> Option<&'static Flag> {
        FLAGS.iter().find(|flag| flag.name == name)
    }

    /// Sends the probe. An empty body is invalid, so that the probe changes nothing.
    pub(super) fn probe(&self, client: &Client) -> bool {
        let mut call = call_in_workspace(client, self.method, self.path);
        if self.method == "POST" {
            call = call.json(&json!({}));
        }
        let Ok(answer) = client.send(call) else { return false };
        if self.name == "CAN_CODE_SEARCH" {
            return answer.status == 200 && is_code_search_ready(&answer);
        }
        !matches!(answer.status, 401 | 403 | 404 | 500..)
    }
}

fn is_code_search_ready(answer: &Answer) -> bool {
    *answer.member("available") == true
        && *answer.member("state") == "ready"
        && *answer.member("reason") == "ready"
        && answer.member("usable_index_count").as_i64().is_some_and(|count| count >= 1)
}

/// Prints the state object. Exit code 0 if the service is available.
pub(crate) fn print_state(matches: &ArgMatches, output: Output) -> Outcome {
    let context = context_if_allowed(matches, output)?;
    let state = detect(context.as_ref().map(|context| &context.client));
    output.print(&state.to_string());
    Ok(if state["COORDINATOR_AVAILABLE"] == true { DONE } else { REFUSED })
}

/// Returns the context; `None` if the URL is invalid or its host is not allowed.
pub(super) fn context_if_allowed(
    matches: &ArgMatches,
    output: Output,
) -> Result<Option<Context>, Problem> {
    match Settings::from_environment(&given_settings(matches), TIMEOUT) {
        Err(SettingsError::Url { .. }) => Ok(None),
        _ => Context::new(matches, output, TIMEOUT).map(Some),
    }
}

/// Returns the state object of the HTTP bridge. Without a client the service is not available.
pub fn detect(client: Option<&Client>) -> Value {
    let unavailable = match client {
        Some(client) => reason_of_unavailability(client),
        None => Some("missing_http_url".to_owned()),
    };
    let is_available = unavailable.is_none();
    let has: Vec<_> = match client.filter(|_| is_available) {
        None => FLAGS.iter().map(|_| false).collect(),
        Some(client) => thread::scope(|scope| {
            let probes: Vec<_> =
                FLAGS.iter().map(|flag| scope.spawn(move || flag.probe(client))).collect();
            probes.into_iter().map(|probe| probe.join().unwrap_or(false)).collect()
        }),
    };
    let mut state = json!({
        "status": if is_available { "ok" } else { "skipped" },
        "COORDINATOR_AVAILABLE": is_available,
        "COORDINATION_TRANSPORT": if is_available { "http" } else { "none" },
        "http_url": client.map(|client| client.settings().url.as_str()),
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

/// Returns why the service is not available; `None` if it is.
pub(super) fn reason_of_unavailability(client: &Client) -> Option<String> {
    let mut call = call_in_workspace(client, "GET", "/health");
    call.with_key = false;
    match client.send(call) {
        Err(_) => Some("health_unreachable".to_owned()),
        Ok(Answer { status: status @ (404 | 500..), .. }) => {
            Some(format!("health_status_{status}"))
        }
        Ok(_) => None,
    }
}

/// Creates a request in the workspace of the settings.
pub(super) fn call_in_workspace(client: &Client, method: &str, path: &str) -> Call {
    let mut call = Call::new(method, path);
    let workspace = &client.settings().identity.workspace;
    if !workspace.is_empty() {
        call.headers.push(("x-workspace", workspace.clone()));
    }
    call
}
