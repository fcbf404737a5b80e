//! Whether the service answers, knows the caller, and agrees with this machine about the time.
use serde_json::{Value, json};
use ureq::http::header;

use super::findings::Findings;
use crate::{
    command_line::context::Context,
    output::{
        outcome::{describe_failure, exit_code_of},
        time::seconds_from_now,
    },
    service::{
        answer::Answer,
        client::Call,
        routes::Route,
        settings::{KEY_VARIABLES, URL_VARIABLES},
    },
};

const IDENTITY: &Route = Route::named("GET /profiles/me");
const AGENTS: &Route = Route::named("GET /discovery/agents");

/// The largest difference between two clocks that nothing depends on, in seconds.
const CLOCK_TOLERANCE: i64 = 30;

/// The agent of a request that does not name one with a key that is not bound to one.
const UNNAMED_AGENT: &str = "cloud-agent";

/// The workspace of a key that is not bound to one.
const DEFAULT_WORKSPACE: &str = "default";

/// The caller as the service sees it.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) agent_id: String,
    pub(super) workspace: String,
}

impl Identity {
    fn in_answer(answer: &Answer) -> Option<Identity> {
        let member = |name: &str| answer.member("identity")[name].as_str().map(str::to_owned);
        Some(Identity { agent_id: member("agent_id")?, workspace: member("workspace")? })
    }
}

/// Asks who the caller is, if the service says so.
pub(super) fn identity_of(cx: &Context) -> Option<Identity> {
    Identity::in_answer(&cx.call(IDENTITY, json!({})).ok()?)
}

/// Checks the service, the key and the identity. Returns the identity, if the service knows it.
pub(super) fn check(cx: &Context, findings: &mut Findings) -> Option<Identity> {
    if !check_health(cx, findings) {
        return None;
    }
    let identity = check_key(cx, findings)?;
    check_agent(&identity, findings);
    check_session(cx, &identity, findings);
    check_workspace(&identity, findings);
    Some(identity)
}

/// Checks address, state, version and clock. Returns whether the service answers.
fn check_health(cx: &Context, findings: &mut Findings) -> bool {
    let url = cx.settings().url.as_str();
    let mut call = Call::new("GET", "/health");
    call.with_key = false;
    let mut response = match cx.client.send_unread(&call) {
        Ok(response) => response,
        Err(error) => {
            let remedy = format!(
                "Start the service, or correct its address: {}, or `git config coord.url URL` in \
                 this repository.",
                URL_VARIABLES[0]
            );
            findings.problem("address", error.to_string(), remedy);
            return false;
        }
    };
    let status = response.status().as_u16();
    let date = response.headers().get(header::DATE).and_then(|value| value.to_str().ok());
    let date = date.map(str::to_owned);
    let text = response.body_mut().read_to_string().unwrap_or_default();
    let json = serde_json::from_str::<Value>(&text).ok();
    let answer = Answer { status, text, json };
    let (Some(version), Some(db)) =
        (answer.member("version").as_str(), answer.member("db").as_str())
    else {
        let text = format!("{url} is not the coordinator: it answered {status} at /health");
        findings.problem("address", text, "Correct the address.");
        return false;
    };
    findings.fine("address", format!("the service answers at {url}"));
    match db {
        "connected" => findings.fine("database", "the service has its database"),
        db => findings.problem(
            "database",
            format!("the database of the service is {db}"),
            "The operator of the service has to start its database, or to correct its address.",
        ),
    }
    let own = env!("CARGO_PKG_VERSION");
    match version == own {
        true => findings.fine("version", format!("the service and coord are {own}")),
        false => findings.note(
            "version",
            format!("the service is {version}, coord is {own}"),
            "Install the coord of the service's version, if something is missing.",
        ),
    }
    check_clock(date.as_deref(), findings);
    true
}

fn check_clock(date: Option<&str>, findings: &mut Findings) {
    let Some(seconds) = date.and_then(seconds_from_now) else {
        findings.note("clock", "the answer has no usable Date header", "None needed.");
        return;
    };
    let size = seconds.abs();
    if size <= CLOCK_TOLERANCE {
        findings.fine("clock", "this machine and the service agree about the time");
        return;
    }
    let direction = if seconds > 0 { "behind" } else { "ahead of" };
    findings.problem(
        "clock",
        format!("this machine is {size} s {direction} the service"),
        "Set the clock. Locks are right, but the times that coord shows are not.",
    );
}

fn check_key(cx: &Context, findings: &mut Findings) -> Option<Identity> {
    let answer = match cx.call(IDENTITY, json!({})) {
        Ok(answer) => answer,
        Err(problem) => {
            findings.problem("key", problem.text, "Run `coord doctor` again.");
            return None;
        }
    };
    if let Some(identity) = Identity::in_answer(&answer) {
        findings.fine("key", "the service knows the key");
        return Some(identity);
    }
    let set_key = format!(
        "Set {} where this program is started, or run `coord hook install --key-file FILE` in this \
         repository.",
        KEY_VARIABLES[0]
    );
    match (answer.status, &cx.settings().key_source) {
        (401, None) => findings.problem("key", "no key is set", set_key),
        (401, Some(source)) => findings.problem(
            "key",
            format!("the service does not know the key of {source}"),
            format!("Correct the key there: nothing else counts while {source} has one."),
        ),
        (403, _) => findings.problem(
            "agent",
            describe_failure(&answer, cx.settings()),
            "Leave out what the key is bound to: AGENT_ID, AGENT_TYPE or the workspace.",
        ),
        (400 | 422, _) => findings.problem(
            "agent",
            describe_failure(&answer, cx.settings()),
            "Correct the name that is not accepted: AGENT_ID, AGENT_TYPE, SESSION_ID or \
             COORDINATION_WORKSPACE.",
        ),
        _ => findings.problem(
            "key",
            describe_failure(&answer, cx.settings()),
            "Correct the address, or run `coord doctor` again.",
        ),
    }
    None
}

fn check_agent(identity: &Identity, findings: &mut Findings) {
    let agent_id = &identity.agent_id;
    if agent_id == UNNAMED_AGENT {
        findings.problem(
            "agent",
            format!("you are {agent_id}, like everybody else who names no agent"),
            "Set AGENT_ID, or use a key that is bound to an agent. Agents with one id share locks.",
        );
    } else {
        findings.fine("agent", format!("you are {agent_id}"));
    }
}

fn check_session(cx: &Context, identity: &Identity, findings: &mut Findings) {
    let session = cx.settings().identity.session_id.as_str();
    if session.is_empty() {
        findings.note(
            "session",
            "no session is named here, so locks last until they expire or are released",
            "Set up session hooks, or run `coord session start` and set SESSION_ID.",
        );
        return;
    }
    let answer = cx.call(AGENTS, json!({}));
    let agents = answer.ok().filter(|answer| exit_code_of(answer) == 0);
    let Some(agents) = agents else {
        findings.note("session", format!("session {session} could not be checked"), "Try again.");
        return;
    };
    let of_session = |entry: &&Value| {
        entry["session_id"] == session && entry["agent_id"] == identity.agent_id.as_str()
    };
    let entry = agents.member("agents").as_array().and_then(|list| list.iter().find(of_session));
    match entry.and_then(|entry| entry["status"].as_str()) {
        Some("active" | "idle") => findings.fine("session", format!("session {session} is live")),
        Some(status) => findings.problem(
            "session",
            format!("session {session} is {status}: its locks and tasks were freed"),
            "Run: coord session start",
        ),
        None => findings.problem(
            "session",
            format!("session {session} is not registered for {}", identity.agent_id),
            "Run: coord session start",
        ),
    }
}

fn check_workspace(identity: &Identity, findings: &mut Findings) {
    let workspace = &identity.workspace;
    match workspace == DEFAULT_WORKSPACE {
        false => findings.fine("workspace", format!("the workspace is {workspace}")),
        true => findings.note(
            "workspace",
            "the workspace is default, whose locks all repositories without one of their own share",
            "If your key is allowed to choose a workspace, give this repository one: coord hook install --workspace NAME",
        ),
    }
}
