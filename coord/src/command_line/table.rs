//! The table of commands. What the fields of a route mean comes from the service's OpenAPI
//! document.
use super::{
    command::{
        Argument::{Default, Hidden, Positional, Renamed, Rest, Switch, Value},
        Command, Run, field_of,
    },
    help::{END_SESSION, SESSION_HOOK, START_SESSION},
};
use crate::output::show::Show::{Entries, Fields, Only, Sentence, Table};

/// Returns the command with these words.
pub(crate) fn find(words: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.words == words)
}

/// The groups of commands and what they are for. An empty text means that the group is a command as
/// well, which has a description.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("agents", ""),
    ("guardrails", "Check text for destructive operations before you run it"),
    ("handoff", "Write a handoff for the next agent, or read the newest ones"),
    ("network", "Check whether you may reach a domain"),
    ("policy", "Check what you may do, and validate Cedar policies"),
    ("ports", ""),
    ("profile", "Assign profiles, which set how far agents are trusted"),
    ("session", "Start your session, keep it alive, and end it"),
];

const LOCK_COLUMNS: &[&str] =
    &["file_path", "locked_by", "session_id", "fencing_token", "expires_at", "reason"];
const TASK_COLUMNS: &[&str] =
    &["id", "task_type", "status", "priority", "claimed_by", "created_at", "description"];

/// Every command that calls a route. The module `cli` adds `detect`, `doctor`, `try`, `mcp`, `hook`
/// and `completions`, which have no route of their own.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        "health",
        "GET /health",
        &[],
        Sentence("The service is {status}, version {version}; its database is {db}."),
    ),
    Command::new("whoami", "GET /profiles/me", &[], Fields),
    Command::new(
        "lock",
        "POST /locks/acquire",
        &[Positional("file_path", "PATH")],
        Sentence(
            "Locked {file_path} ({action}): fencing token {fencing_token}, expires {expires_at}.",
        ),
    )
    .run(Run::Lock),
    Command::new(
        "unlock",
        "POST /locks/release",
        &[
            Positional("file_path", "PATH"),
            Switch(
                "force",
                "Release the lock of another agent; needs the operation force_release_lock",
            ),
        ],
        Sentence("Released {file_path}."),
    )
    .run(Run::Unlock),
    Command::new(
        "verify",
        "POST /locks/verify",
        &[
            Hidden("locks"),
            Rest("locks", "PATH=TOKEN", "Lock key and its expected fencing token"),
            Value(
                "file",
                "FILE",
                "Read the locks from FILE: .coord/locks.json, a JSON object of tokens by lock key, \
                 or one PATH=TOKEN per line; - reads standard input",
            ),
        ],
        Table(
            "results",
            &["file_path", "fencing_token", "valid", "reason", "locked_by", "expires_at"],
        ),
    )
    .run(Run::Verify),
    Command::new(
        "locks",
        "GET /locks",
        &[Rest("paths", "PATH", "Show these lock keys only")],
        Table("locks", LOCK_COLUMNS),
    )
    .run(Run::ListLocks),
    Command::new(
        "submit",
        "POST /work/submit",
        &[Renamed("task_description", "description")],
        Sentence("Task {task_id} is in the queue ({action})."),
    ),
    Command::new("claim", "POST /work/claim", &[], Fields).run(Run::Claim),
    Command::new(
        "renew",
        "POST /locks/acquire",
        &[
            Hidden("file_path"),
            Hidden("reason"),
            Hidden("wait_seconds"),
            Rest("paths", "PATH", "Lock keys to extend"),
            field_of("POST /locks/release", "fencing_token"),
            field_of("POST /work/renew", "task_id"),
            field_of("POST /work/renew", "claim_token"),
            field_of("POST /work/renew", "lease_minutes"),
        ],
        Sentence("Extended {file_path}: fencing token {fencing_token}, expires {expires_at}."),
    )
    .about("Extend locks, or the lease of a task. Exit code 1 if the lock or the claim was lost.")
    .run(Run::Renew),
    Command::new("complete", "POST /work/complete", &[], Sentence("Task {task_id} is {status}.")),
    Command::new("cancel", "POST /work/cancel", &[], Sentence("Task {task_id} is {status}.")),
    Command::new("task", "POST /work/get", &[], Only("task")),
    Command::new("tasks", "GET /work", &[], Table("tasks", TASK_COLUMNS)).run(Run::ListTasks),
    Command::new(
        "remember",
        "POST /memory/store",
        &[],
        Sentence("Remembered as {memory_id} ({action})."),
    ),
    Command::new(
        "recall",
        "POST /memory/query",
        &[Default("scope", "workspace")],
        Entries(
            "memories",
            &[
                "event_type",
                "summary",
                "outcome",
                "lessons",
                "tags",
                "agent_id",
                "created_at",
                "id",
            ],
        ),
    ),
    Command::new(
        "handoff write",
        "POST /handoffs/write",
        &[],
        Sentence("Handoff {handoff_id} is written."),
    ),
    Command::new(
        "handoff read",
        "POST /handoffs/read",
        &[],
        Entries(
            "handoffs",
            &[
                "agent_name",
                "created_at",
                "session_id",
                "summary",
                "completed_work",
                "in_progress",
                "decisions",
                "next_steps",
                "relevant_files",
            ],
        ),
    ),
    Command::new(
        "guardrails check",
        "POST /guardrails/check",
        &[Positional("operation_text", "TEXT")],
        Table(
            "violations",
            &["pattern_name", "severity", "blocked", "matched_text", "explanation"],
        ),
    ),
    Command::new(
        "guardrails list",
        "GET /guardrails/patterns",
        &[],
        Table(
            "patterns",
            &["name", "category", "severity", "min_trust_level", "enabled", "explanation"],
        ),
    ),
    Command::new(
        "audit",
        "GET /audit",
        &[],
        Table(
            "entries",
            &["created_at", "agent_id", "operation", "success", "duration_ms", "error_message"],
        ),
    ),
    Command::new(
        "agents",
        "GET /discovery/agents",
        &[],
        Table(
            "agents",
            &["agent_id", "agent_type", "session_id", "status", "last_heartbeat", "current_task"],
        ),
    ),
    Command::new("agents cleanup", "POST /discovery/cleanup", &[], Fields),
    Command::new(
        "session start",
        "POST /discovery/register",
        &[Switch("hook", SESSION_HOOK)],
        Sentence("Session {session_id} is registered with the coordinator."),
    )
    .about(START_SESSION)
    .run(Run::StartSession),
    Command::new(
        "session heartbeat",
        "POST /discovery/heartbeat",
        &[],
        Sentence("Session {session_id} is alive."),
    ),
    Command::new(
        "session end",
        "POST /discovery/deregister",
        &[
            Switch("hook", SESSION_HOOK),
            field_of("POST /handoffs/write", "completed_work"),
            field_of("POST /handoffs/write", "next_steps"),
            Value(
                "summary",
                "TEXT",
                "First write a handoff with this summary; - reads standard input",
            ),
        ],
        Sentence("Session {session_id} has ended; released locks: {locks_released}."),
    )
    .about(END_SESSION)
    .run(Run::EndSession),
    Command::new(
        "ports",
        "GET /ports/status",
        &[],
        Table(
            "",
            &[
                "session_id",
                "agent_id",
                "db_port",
                "rest_port",
                "realtime_port",
                "api_port",
                "compose_project_name",
                "expires_at",
            ],
        ),
    ),
    Command::new(
        "ports allocate",
        "POST /ports/allocate",
        &[Switch("env", "Print only the lines that set the variables, for `eval` in a shell")],
        Only("allocation"),
    )
    .run(Run::AllocatePorts),
    Command::new("ports release", "POST /ports/release", &[], Sentence("The ports are released.")),
    Command::new(
        "policy check",
        "POST /policy/check",
        &[],
        Sentence("Allowed: {reason} ({engine})."),
    ),
    Command::new(
        "policy validate",
        "POST /policy/validate",
        &[],
        Sentence("The policies are valid."),
    ),
    Command::new(
        "network check",
        "POST /network/check",
        &[Positional("domain", "DOMAIN")],
        Sentence("{domain} may be reached: {reason}."),
    ),
    Command::new(
        "profile assign",
        "POST /profiles/assign",
        &[Positional("target_agent_id", "AGENT")],
        Sentence("Agent {target_agent_id} has profile {profile}; suspended: {suspended}."),
    ),
    Command::new(
        "keys",
        "GET /keys",
        &[],
        Table("keys", &["fingerprint", "agent_id", "agent_type", "workspace", "profile"]),
    ),
    Command::new("maintenance", "POST /maintenance/run", &[], Fields),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::command_line::command::Argument;

    const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

    /// The routes that commands call in addition to their own.
    const SECOND_ROUTES: [&str; 3] =
        ["GET /locks/status/{path}", "DELETE /locks/{path}", "POST /work/renew"];

    /// The routes that are not for a person at a command line: pages, batches for programs, other
    /// paths of the same operation, and the endpoint of `coord mcp`.
    const WITHOUT_COMMAND: [&str; 13] = [
        "GET /live",
        "GET /ready",
        "GET /openapi.json",
        "GET /docs",
        "GET /metrics",
        "POST /work/submit-batch",
        "POST /work/complete-batch",
        "POST /handoff/write",
        "POST /handoffs",
        "POST /handoff/read",
        "GET /handoffs/latest",
        "POST /mcp",
        "DELETE /mcp",
    ];

    /// The routes in the OpenAPI document, read without the build script.
    fn documented() -> BTreeSet<String> {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().unwrap().keys();
                methods.map(move |method| format!("{} {path}", method.to_uppercase()))
            })
            .collect()
    }

    #[test]
    fn every_command_has_its_route_in_the_document() {
        let documented = documented();
        for command in COMMANDS {
            assert!(documented.contains(command.route.name), "{}", command.words);
        }
    }

    #[test]
    fn every_route_of_the_document_has_a_command() {
        let called = COMMANDS.iter().map(|command| command.route.name);
        let accounted: BTreeSet<_> =
            called.chain(SECOND_ROUTES).chain(WITHOUT_COMMAND).map(str::to_owned).collect();
        assert_eq!(accounted, documented());
    }

    #[test]
    fn no_words_call_two_commands() {
        let words: BTreeSet<_> = COMMANDS.iter().map(|command| command.words).collect();
        assert_eq!(words.len(), COMMANDS.len());
    }

    #[test]
    fn every_argument_of_a_field_names_a_field_of_the_route() {
        for command in COMMANDS {
            for argument in command.arguments {
                let is_there = match argument {
                    Positional(name, _) | Renamed(name, _) | Default(name, _) | Hidden(name) => {
                        command.route.field(name).is_some()
                    }
                    Argument::FieldOf(_) | Rest(..) | Switch(..) | Value(..) => true,
                };
                assert!(is_there, "{}: {argument:?}", command.words);
            }
        }
    }

    #[test]
    fn the_groups_are_those_of_the_commands() {
        let used = COMMANDS.iter().filter_map(|command| Some(command.words.split_once(' ')?.0));
        let described = GROUPS.iter().map(|(group, _)| *group);
        assert_eq!(used.collect::<BTreeSet<_>>(), described.collect());
    }
}
