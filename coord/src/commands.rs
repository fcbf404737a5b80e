//! The commands. A row says which words call a route and how its answer is shown; what the route
//! takes and means comes from the service's document. A command whose route is not in there does not
//! exist, and appears by itself when the route does.
use crate::{client::Answer, routes::Route};

/// How a command is called and shown.
#[derive(Debug)]
pub(crate) struct Command {
    /// The words that call it.
    pub(crate) words: &'static str,
    /// The route that it calls, or the first of them.
    pub(crate) route: &'static str,
    /// What differs from "every field is a flag of its name".
    pub(crate) arguments: &'static [Argument],
    /// How a good answer is shown to people.
    pub(crate) show: Show,
    /// What it does.
    pub(crate) run: Run,
}

/// An argument that is not simply a field's flag.
#[derive(Debug)]
pub(crate) enum Argument {
    /// The field is given by its position, under this name.
    At(&'static str, &'static str),
    /// The field's flag has another name.
    Named(&'static str, &'static str),
    /// There is no flag for the field.
    Hidden(&'static str),
    /// A flag for the field of another route.
    From(&'static str, &'static str),
    /// A flag without a value that no field has: its name and what it does.
    Switch(&'static str, &'static str),
    /// A flag with a value that no field has: its name, the name of its value, what it does.
    Value(&'static str, &'static str, &'static str),
    /// What the command is for, where that is not what its route is for.
    About(&'static str),
    /// Any number of values by their position, which no field has.
    Rest(&'static str, &'static str, &'static str),
}

/// How a good answer is shown to people.
#[derive(Debug)]
pub(crate) enum Show {
    /// Each member that has a value on its own line.
    Fields,
    /// The list in this member (the answer itself when empty) with these columns.
    Table(&'static str, &'static [&'static str]),
    /// The list in this member, each entry with these members on lines of their own.
    Entries(&'static str, &'static [&'static str]),
    /// A sentence, with members in braces.
    Sentence(&'static str),
    /// Just this member.
    Only(&'static str),
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    /// Calls its route.
    Plain,
    /// Calls its route again, while it waits, as long as it is refused for one of these reasons.
    Waiting(&'static [&'static str]),
    Lock,
    Unlock,
    Verify,
    Locks,
    Renew,
    Help,
    AllocatePorts,
    StartSession,
    EndSession,
    RequestApproval,
    Events,
}

use Argument::{About, At, From, Hidden, Named, Rest, Switch, Value};
use Show::{Entries, Fields, Only, Sentence, Table};

const fn command(
    words: &'static str,
    route: &'static str,
    arguments: &'static [Argument],
    show: Show,
) -> Command {
    Command { words, route, arguments, show, run: Run::Plain }
}

impl Command {
    const fn runs(self, run: Run) -> Command {
        Command { run, ..self }
    }

    /// Its route, if the service has it.
    pub(crate) fn route(&self) -> Option<&'static Route> {
        Route::named(self.route)
    }

    /// Whether a good answer can be one of the service, and not of whatever else the URL leads to.
    pub(crate) fn is_answered_by(&self, answer: &Answer) -> bool {
        let Some(json) = &answer.json else { return false };
        match (self.run, &self.show) {
            (Run::Unlock, _) if json["released"].is_boolean() => true,
            (Run::Lock | Run::Unlock | Run::Renew | Run::Waiting(_), _)
            | (Run::StartSession | Run::EndSession, _) => json["success"].is_boolean(),
            (Run::Events, _) => json["events"].is_array(),
            (_, Show::Table("", _)) => json.is_array(),
            _ => json.is_object(),
        }
    }

    /// What it is for, where that is not what its route is for.
    pub(crate) fn about(&self) -> Option<&'static str> {
        self.arguments.iter().find_map(|it| if let About(text) = it { Some(*text) } else { None })
    }

    /// The argument that stands for a field.
    pub(crate) fn argument(&self, field: &str) -> Option<&'static Argument> {
        self.arguments
            .iter()
            .find(|it| matches!(it, At(name, _) | Named(name, _) | Hidden(name) if *name == field))
    }
}

/// The commands that exist, each with its words and its route.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static Route)> {
    existing().filter_map(|it| Some((it.words, it.route()?)))
}

/// The commands whose route the service has.
pub(crate) fn existing() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().filter(|it| it.route().is_some())
}

/// The command with these words.
pub(crate) fn called(words: &str) -> Option<&'static Command> {
    existing().find(|it| it.words == words)
}

/// What a group of commands is for.
pub(crate) const GROUPS: &[(&str, &str)] = &[
    ("agents", ""),
    ("approval", "Ask a person, or an agent that is trusted more, for a yes or no"),
    ("feature", "Announce which resources a piece of work will touch"),
    ("guardrails", "Ask before you run something that could destroy data or others' work"),
    ("handoff", "Leave a handoff for whoever continues, or read the newest ones"),
    ("issue", "The to-do list that agents and people share"),
    ("merge", "The order in which features are merged"),
    ("network", "Ask whether you may reach a domain"),
    ("permission", "Ask for an operation that you may not run, for a limited time"),
    ("policy", "Ask what you may do, and look after Cedar policies"),
    ("ports", ""),
    ("profile", "Say how far other agents are trusted"),
    ("session", "Start, keep alive and end the session you work in"),
    ("status", "Report how far you are, and see who needs a person"),
];

const LOCK_COLUMNS: &[&str] =
    &["file_path", "locked_by", "session_id", "fencing_token", "expires_at", "reason"];
const TASK_COLUMNS: &[&str] =
    &["id", "task_type", "status", "priority", "claimed_by", "created_at", "description"];
const ISSUE_COLUMNS: &[&str] =
    &["id", "issue_type", "status", "priority", "assignee", "labels", "title"];
const ENTRY_COLUMNS: &[&str] =
    &["feature_id", "merge_status", "merge_priority", "pr_url", "queued_at"];

/// Every command that calls a route; `detect`, `try`, `mcp`, `hook` and `completions` stand elsewhere.
pub(crate) const COMMANDS: &[Command] = &[
    command(
        "health",
        "GET /health",
        &[],
        Sentence("The service is {status}, version {version}; its database is {db}."),
    ),
    command(
        "help",
        "GET /help",
        &[From("GET /help/{topic}", "topic")],
        Table("topics", &["topic", "summary"]),
    )
    .runs(Run::Help),
    command("whoami", "GET /profiles/me", &[], Fields),
    command(
        "lock",
        "POST /locks/acquire",
        &[At("file_path", "PATH")],
        Sentence(
            "Locked {file_path} ({action}): fencing token {fencing_token}, expires {expires_at}.",
        ),
    )
    .runs(Run::Lock),
    command(
        "unlock",
        "POST /locks/release",
        &[
            At("file_path", "PATH"),
            Switch("force", "Free it whoever holds it; for agents that are trusted with that"),
        ],
        Sentence("Released {file_path}."),
    )
    .runs(Run::Unlock),
    command(
        "verify",
        "POST /locks/verify",
        &[
            Hidden("locks"),
            Rest("locks", "PATH=TOKEN", "A lock key with the fencing token that it must have"),
            Value(
                "file",
                "FILE",
                "Read the locks from a file: .coord/locks.json, an object of tokens, or a \
                 PATH=TOKEN on each line; - reads standard input",
            ),
        ],
        Table(
            "results",
            &["file_path", "fencing_token", "valid", "reason", "locked_by", "expires_at"],
        ),
    )
    .runs(Run::Verify),
    command(
        "locks",
        "GET /locks",
        &[Rest("paths", "PATH", "Look at these lock keys only")],
        Table("locks", LOCK_COLUMNS),
    )
    .runs(Run::Locks),
    command(
        "submit",
        "POST /work/submit",
        &[Named("task_description", "description")],
        Sentence("Task {task_id} is in the queue ({action})."),
    ),
    command("claim", "POST /work/claim", &[], Fields).runs(Run::Waiting(&["no_tasks_available"])),
    command(
        "renew",
        "POST /locks/acquire",
        &[
            About("Extend locks, or the lease of a task, and hear when they were lost."),
            Hidden("file_path"),
            Hidden("reason"),
            Hidden("wait_seconds"),
            Rest("paths", "PATH", "The lock keys to extend"),
            From("POST /locks/release", "fencing_token"),
            From("POST /work/renew", "task_id"),
            From("POST /work/renew", "claim_token"),
            From("POST /work/renew", "lease_minutes"),
        ],
        Sentence("Extended {file_path}: fencing token {fencing_token}, expires {expires_at}."),
    )
    .runs(Run::Renew),
    command("complete", "POST /work/complete", &[], Sentence("Task {task_id} is {status}.")),
    command("cancel", "POST /work/cancel", &[], Sentence("Task {task_id} is {status}.")),
    command("task", "POST /work/get", &[], Only("task")),
    command("tasks", "GET /work", &[], Table("tasks", TASK_COLUMNS)),
    command(
        "remember",
        "POST /memory/store",
        &[],
        Sentence("Remembered as {memory_id} ({action})."),
    ),
    command(
        "recall",
        "POST /memory/query",
        &[],
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
    command(
        "handoff write",
        "POST /handoffs/write",
        &[],
        Sentence("Handoff {handoff_id} is written."),
    ),
    command(
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
    command(
        "guardrails check",
        "POST /guardrails/check",
        &[At("operation_text", "TEXT")],
        Table(
            "violations",
            &["pattern_name", "severity", "blocked", "matched_text", "explanation"],
        ),
    ),
    command(
        "guardrails list",
        "GET /guardrails/patterns",
        &[],
        Table(
            "patterns",
            &["name", "category", "severity", "min_trust_level", "enabled", "explanation"],
        ),
    ),
    command(
        "audit",
        "GET /audit",
        &[],
        Table(
            "entries",
            &["created_at", "agent_id", "operation", "success", "duration_ms", "error_message"],
        ),
    ),
    command(
        "agents",
        "GET /discovery/agents",
        &[],
        Table(
            "agents",
            &["agent_id", "agent_type", "session_id", "status", "last_heartbeat", "current_task"],
        ),
    ),
    command("agents cleanup", "POST /discovery/cleanup", &[], Fields),
    command(
        "agents evict",
        "POST /agents/{agent_id}/evict",
        &[At("agent_id", "AGENT"), Named("session_id", "of-session")],
        Fields,
    ),
    command(
        "session start",
        "POST /discovery/register",
        &[
            About(
                "Register your session when you start work, and read the newest handoff: others then \
                 see you.\n\nWithout --session-id and SESSION_ID the session is a fresh one; with --hook \
                 it is the `session_id` of a JSON object on standard input, if there is one. As a hook \
                 of Claude Code it also sets SESSION_ID for the commands of the session.",
            ),
            Switch("hook", HOOK),
        ],
        Sentence("Session {session_id} is registered with the coordinator."),
    )
    .runs(Run::StartSession),
    command(
        "session heartbeat",
        "POST /discovery/heartbeat",
        &[],
        Sentence("Session {session_id} is alive."),
    ),
    command(
        "session end",
        "POST /discovery/deregister",
        &[
            About(
                "End your session when your work is done, and leave a handoff: its locks, claims and \
                 ports become free.\n\nWith --hook, and without --session-id and SESSION_ID, the session \
                 is the `session_id` of a JSON object on standard input. The two lines of settings for \
                 Claude Code and Codex are\n\n  coord session start --hook\n  \
                 coord session end --hook --summary \"Session ended.\"",
            ),
            Switch("hook", HOOK),
            From("POST /handoffs/write", "completed_work"),
            From("POST /handoffs/write", "next_steps"),
            Value(
                "summary",
                "TEXT",
                "Leave a handoff with this summary first; - reads standard input",
            ),
        ],
        Sentence("Session {session_id} has ended; released locks: {locks_released}."),
    )
    .runs(Run::EndSession),
    command(
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
    command(
        "ports allocate",
        "POST /ports/allocate",
        &[Switch("env", "Print only the lines that set the variables, for `eval`")],
        Only("allocation"),
    )
    .runs(Run::AllocatePorts),
    command("ports release", "POST /ports/release", &[], Sentence("The ports are released.")),
    command("issue create", "POST /issues/create", &[], Only("issue")),
    command("issue list", "POST /issues/list", &[], Table("issues", ISSUE_COLUMNS)),
    command("issue show", "GET /issues/{issue_id}", &[At("issue_id", "ISSUE")], Only("issue")),
    command("issue update", "POST /issues/update", &[At("issue_id", "ISSUE")], Only("issue")),
    command(
        "issue close",
        "POST /issues/close",
        &[Hidden("issue_id"), At("issue_ids", "ISSUE")],
        Table("closed", ISSUE_COLUMNS),
    ),
    command(
        "issue comment",
        "POST /issues/comment",
        &[At("issue_id", "ISSUE"), At("body", "TEXT")],
        Only("comment"),
    ),
    command("issue label", "PATCH /issues/{issue_id}/labels", &[At("issue_id", "ISSUE")], Fields),
    command("issue ready", "POST /issues/ready", &[], Table("issues", ISSUE_COLUMNS)),
    command("issue blocked", "GET /issues/blocked", &[], Table("issues", ISSUE_COLUMNS)),
    command(
        "issue search",
        "POST /issues/search",
        &[At("query", "QUERY")],
        Table("issues", ISSUE_COLUMNS),
    ),
    command(
        "feature register",
        "POST /features/register",
        &[At("feature_id", "FEATURE")],
        Sentence("Feature {feature_id} is {action}."),
    ),
    command(
        "feature deregister",
        "POST /features/deregister",
        &[At("feature_id", "FEATURE")],
        Sentence("Feature {feature_id} is {status}."),
    ),
    command("feature show", "GET /features/{feature_id}", &[At("feature_id", "FEATURE")], Fields),
    command(
        "feature list",
        "GET /features/active",
        &[],
        Table(
            "features",
            &[
                "feature_id",
                "merge_priority",
                "registered_by",
                "branch_name",
                "registered_at",
                "title",
            ],
        ),
    ),
    command(
        "feature conflicts",
        "POST /features/conflicts",
        &[At("candidate_feature_id", "FEATURE")],
        Fields,
    ),
    command(
        "merge enqueue",
        "POST /merge-queue/enqueue",
        &[At("feature_id", "FEATURE")],
        Only("entry"),
    ),
    command("merge list", "GET /merge-queue", &[], Table("entries", ENTRY_COLUMNS)),
    command("merge next", "GET /merge-queue/next", &[], Only("entry")),
    command(
        "merge check",
        "POST /merge-queue/check/{feature_id}",
        &[At("feature_id", "FEATURE")],
        Fields,
    ),
    command(
        "merge merged",
        "POST /merge-queue/merged/{feature_id}",
        &[At("feature_id", "FEATURE")],
        Sentence("Feature {feature_id} is marked as merged."),
    ),
    command(
        "merge remove",
        "DELETE /merge-queue/{feature_id}",
        &[At("feature_id", "FEATURE")],
        Sentence("Feature {feature_id} is no longer in the queue."),
    ),
    command(
        "approval request",
        "POST /approvals/request",
        &[Value(
            "wait",
            "SECONDS",
            "Wait this long for the decision; exit code 0 only when it is a yes",
        )],
        Fields,
    )
    .runs(Run::RequestApproval),
    command(
        "approval list",
        "GET /approvals/pending",
        &[],
        Table(
            "approvals",
            &["id", "agent_id", "operation", "resource", "created_at", "expires_at"],
        ),
    ),
    command("approval show", "GET /approvals/{request_id}", &[At("request_id", "REQUEST")], Fields),
    command(
        "approval decide",
        "POST /approvals/{request_id}/decide",
        &[At("request_id", "REQUEST"), Hidden("decided_by")],
        Sentence("Request {request_id} is {status}."),
    ),
    command(
        "permission request",
        "POST /permissions/request",
        &[Named("session_id", "of-session")],
        Fields,
    ),
    command(
        "permission list",
        "GET /permissions",
        &[],
        Table(
            "permissions",
            &["grant_id", "agent_id", "operation", "status", "expires_at", "justification"],
        ),
    ),
    command(
        "permission revoke",
        "DELETE /permissions/{grant_id}",
        &[At("grant_id", "GRANT")],
        Sentence("Grant {grant_id} is revoked."),
    ),
    command("policy check", "POST /policy/check", &[], Sentence("Allowed: {reason} ({engine}).")),
    command("policy validate", "POST /policy/validate", &[], Sentence("The policies are valid.")),
    command(
        "policy versions",
        "GET /policies/{policy_name}/versions",
        &[At("policy_name", "POLICY")],
        Table("versions", &["version", "change_type", "changed_by", "changed_at"]),
    ),
    command(
        "policy rollback",
        "POST /policies/{policy_name}/rollback",
        &[At("policy_name", "POLICY")],
        Sentence("{policy_name} is back at version {restored_version}."),
    ),
    command(
        "network check",
        "POST /network/check",
        &[At("domain", "DOMAIN")],
        Sentence("{domain} may be reached: {reason}."),
    ),
    command("status report", "POST /status/report", &[], Sentence("Reported, urgency {urgency}.")),
    command(
        "status list",
        "GET /status/reports",
        &[],
        Table(
            "reports",
            &["id", "created_at", "urgency", "agent_id", "change_id", "phase", "message"],
        ),
    ),
    command(
        "status ack",
        "POST /status/ack",
        &[At("report_id", "REPORT")],
        Sentence("Report {report_id} is acknowledged."),
    ),
    command(
        "events",
        "GET /events",
        &[Switch("follow", "Go on with events as they happen, until interrupted")],
        Fields,
    )
    .runs(Run::Events),
    command(
        "profile assign",
        "POST /profiles/assign",
        &[At("target_agent_id", "AGENT")],
        Sentence("Agent {target_agent_id} has profile {profile}; suspended: {suspended}."),
    ),
    command(
        "keys",
        "GET /keys",
        &[],
        Table("keys", &["fingerprint", "agent_id", "agent_type", "workspace", "profile"]),
    ),
    command("maintenance", "POST /maintenance/run", &[], Fields),
];

const HOOK: &str = "Behave as a session hook: exit code 0 whatever happens, problems on standard \
                    error, no longer than two seconds";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The commands that call a route, group by group, whether the service has it already or not.
    const WORDS: &str = "health, help, whoami, lock, unlock, verify, locks, submit, claim, renew, \
        complete, cancel, task, tasks, remember, recall, handoff write, handoff read, \
        guardrails check, guardrails list, audit, agents, agents cleanup, agents evict, \
        session start, session heartbeat, session end, ports, ports allocate, ports release, \
        issue create, issue list, issue show, issue update, issue close, issue comment, \
        issue label, issue ready, issue blocked, issue search, feature register, \
        feature deregister, feature show, feature list, feature conflicts, merge enqueue, \
        merge list, merge next, merge check, merge merged, merge remove, approval request, \
        approval list, approval show, approval decide, permission request, permission list, \
        permission revoke, policy check, policy validate, policy versions, policy rollback, \
        network check, status report, status list, status ack, events, profile assign, keys, \
        maintenance";

    #[test]
    fn every_command_is_in_the_table_once() {
        let words: Vec<_> = WORDS.split(", ").collect();
        let table: Vec<_> = COMMANDS.iter().map(|it| it.words).collect();
        assert_eq!(table, words);
        assert_eq!(words.iter().collect::<BTreeSet<_>>().len(), words.len());
    }

    #[test]
    fn every_argument_is_that_of_a_field() {
        for command in existing() {
            let route = command.route().unwrap();
            for argument in command.arguments {
                let is_there = match argument {
                    At(name, _) | Named(name, _) | Hidden(name) => route.field(name).is_some(),
                    From(route, name) => {
                        Route::named(route).is_none_or(|it| it.field(name).is_some())
                    }
                    About(_) | Rest(..) | Switch(..) | Value(..) => true,
                };
                assert!(is_there, "{}: {argument:?}", command.words);
            }
        }
    }

    #[test]
    fn every_group_says_what_it_is_for() {
        for command in COMMANDS {
            if let Some((group, _)) = command.words.split_once(' ') {
                assert!(GROUPS.iter().any(|it| it.0 == group), "{group}");
            }
        }
    }
}
