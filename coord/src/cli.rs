//! The command line: what there is to say, and what was said.
use clap::{
    Arg, ArgAction, ArgMatches, Command as Clap, builder::PossibleValuesParser, value_parser,
};

use crate::{
    commands::{Argument, Command, GROUPS, existing},
    routes::{Field, Kind, Place, Route},
    settings::Given,
};

const ABOUT: &str =
    "Locks, work, handoffs and guardrails for AI coding agents that share a codebase.";

const AFTER: &str = "\
The service is looked for at --url, else at the first of COORDINATION_API_URL, COORDINATOR_HTTP_URL,
AGENT_COORDINATOR_API_URL and AGENT_COORDINATOR_HTTP_URL that is set, else on port
AGENT_COORDINATOR_REST_PORT, else 8081, of this machine. Other hosts must be listed in
COORDINATION_ALLOWED_HOSTS, separated by commas; `*.example.org` allows every name below example.org.
The key comes from COORDINATION_API_KEY, else COORDINATOR_API_KEY, else --key-file.

A text or object given as - is read from standard input.

Exit codes: 0 done, 1 refused or not found, 2 wrong usage, configuration or input,
3 not permitted (401, 403), 4 no answer, too late, or a failure of the service.";

const TRY: &str = "\
Prints one JSON object: {\"status\":\"ok\",…} with the answer of the service, {\"status\":\"skipped\",…}
when the service or the capability is not there, {\"status\":\"error\",…} when the request is refused.
Exit code 0 for ok and skipped, 1 for error. Read response.success: ok only says that there is an
answer. A payload that is no object, or lacks an id, is exit code 2, whatever the service would say.

Where no field of the request says who asks, AGENT_ID and AGENT_TYPE are sent as X-Agent-Id and
X-Agent-Type: a key that is bound to another agent is then refused.";

const PRE_HOOK: &str = "\
A file whose lock was recorded by `coord lock` passes only while that lock is still held with the same
fencing token. Any other file passes unless somebody else holds its lock.

A lock is recorded with the service, the workspace and the agent that got it, and counts for these alone.
A record that is not understood lets nothing pass.

A commit is judged by its files. A push to a branch that the remote has is judged by the files that its
new commits change and by those that the commits change which the branch loses; what comes from the
remote's default branch (refs/remotes/<remote>/HEAD, see `git remote set-head`) is others' work, and
concerns only locks that are recorded here. A push to a new branch, or to one whose commit was not
fetched yet, is judged by the commits that no branch of the remote has, and by the recorded locks of all
files in which it differs from where it left the default branch.

When the service cannot be reached, the files do not pass, unless this is configured otherwise:

  git config coord.unreachable allow";

const MCP: &str = "\
For agents that start MCP servers as programs: it forwards every message to /mcp of the service, with
the key and the identity of the environment.

A request that is cancelled, or still waits for a lock, for work or for events when standard input ends,
is given up: the service grants nothing that nobody waits for.";

/// The whole command line.
pub fn command_line() -> Clap {
    let mut top = Clap::new("coord")
        .about(ABOUT)
        .after_help(AFTER)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(globals());
    for command in existing() {
        let clap = described(command);
        let Some((group, _)) = command.words.split_once(' ') else {
            top = top.subcommand(clap);
            continue;
        };
        if top.find_subcommand(group).is_none() {
            top = top.subcommand(self::group(group));
        }
        top = top.mut_subcommand(group, |it| it.subcommand(clap));
    }
    if existing().any(|it| it.words == "help") {
        top = top.disable_help_subcommand(true);
    }
    top.subcommand(
        Clap::new("detect")
            .about("Find out which capabilities the service has, as one JSON object")
            .after_help("Exit code 0 when the service is there, 1 when it is not."),
    )
    .subcommand(
        Clap::new("try")
            .about("Run an operation if the service has it, and say what became of it in JSON")
            .after_help(TRY)
            .arg(
                Arg::new("operation")
                    .value_name("OPERATION")
                    .required(true)
                    .value_parser(PossibleValuesParser::new(crate::bridge::operations())),
            )
            .arg(
                Arg::new("payload")
                    .long("payload")
                    .value_name("JSON")
                    .help("The fields of the operation, as an object; - reads standard input"),
            ),
    )
    .subcommand(
        Clap::new("mcp")
            .about("Be an MCP server on standard input and output")
            .after_help(MCP)
            .arg(
                Arg::new("tools")
                    .long("tools")
                    .value_name("SETS")
                    .help("Sets of tools, or tools, separated by commas [default: core]"),
            ),
    )
    .subcommand(hook())
    .subcommand(
        Clap::new("completions").about("Print the completions for a shell").arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(clap_complete::Shell)),
        ),
    )
}

fn hook() -> Clap {
    Clap::new("hook")
        .about("Keep commits and pushes from touching what others have locked")
        .after_help(PRE_HOOK)
        .subcommand_required(true)
        .subcommand(
            Clap::new("pre-commit")
                .about("Check the locks of the files that are about to be committed")
                .after_help(PRE_HOOK),
        )
        .subcommand(
            Clap::new("pre-push")
                .about("Check the locks of the files that the commits to be pushed change")
                .after_help(PRE_HOOK)
                .arg(Arg::new("remote").value_name("REMOTE").help("The name of the remote"))
                .arg(Arg::new("location").value_name("URL").help("The URL of the remote")),
        )
        .subcommand(
            Clap::new("install")
                .about("Have git call the two hooks in this repository")
                .after_help(
                    "A hook that is there already is left alone unless --force is given: then it is \
                     kept beside, and called first.",
                )
                .arg(
                    Arg::new("force")
                        .long("force")
                        .action(ArgAction::SetTrue)
                        .help("Also where a hook of another origin is installed"),
                ),
        )
}

fn globals() -> Vec<Arg> {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(format!("global:{name}")).long(name).value_name(value).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        let id = format!("global:{name}");
        Arg::new(id.clone()).long(name).action(ArgAction::SetTrue).overrides_with(id).help(help)
    };
    let all = [
        switch(
            "json",
            "Print the answer of the service as it is, on one line; the answers to several paths as a list",
        ),
        switch("quiet", "Print nothing"),
        value("url", "URL", "Where the service is"),
        value("key-file", "FILE", "A file with the API key"),
        value("agent-id", "ID", "Who asks [env: AGENT_ID] [default: the key's own]"),
        value("agent-type", "TYPE", "What asks [env: AGENT_TYPE] [default: the key's own]"),
        value("session-id", "ID", "The session that asks [env: SESSION_ID]"),
        value("workspace", "NAME", "The workspace [env: COORDINATION_WORKSPACE]"),
        value(
            "timeout",
            "SECONDS",
            "How long an answer may take [env: COORDINATION_HTTP_TIMEOUT] [default: 10]",
        ),
    ];
    all.into_iter().map(|it| it.global(true).help_heading("Global options")).collect()
}

/// What was given explicitly.
pub(crate) fn given(matches: &ArgMatches) -> Given {
    let value = |name: &str| matches.get_one::<String>(&format!("global:{name}")).cloned();
    Given {
        url: value("url"),
        key_file: value("key-file").map(Into::into),
        agent_id: value("agent-id"),
        agent_type: value("agent-type"),
        session_id: value("session-id"),
        workspace: value("workspace"),
        timeout: value("timeout"),
    }
}

pub(crate) fn is_global(matches: &ArgMatches, name: &str) -> bool {
    matches.get_flag(&format!("global:{name}"))
}

fn group(name: &'static str) -> Clap {
    let about = GROUPS.iter().find(|it| it.0 == name).map(|it| it.1).unwrap_or_default();
    Clap::new(name).about(about).subcommand_required(true).arg_required_else_help(true)
}

fn described(command: &'static Command) -> Clap {
    let name = command.words.rsplit(' ').next().unwrap_or_default();
    let Some(route) = command.route() else { return Clap::new(name) };
    let about = command.about().unwrap_or(route.description);
    let summary = command.about().map_or(route.summary, |it| it.lines().next().unwrap_or_default());
    let mut clap = Clap::new(name)
        .about(sentence(summary))
        .long_about(about)
        .args_conflicts_with_subcommands(true);
    for field in route.fields {
        if let Some(arg) = field_argument(command, field) {
            clap = clap.arg(arg);
        }
    }
    for argument in command.arguments {
        if let Some(arg) = own_argument(argument) {
            clap = clap.arg(arg);
        }
    }
    clap
}

/// Help texts of flags end without a full stop.
fn sentence(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

fn own_argument(argument: &Argument) -> Option<Arg> {
    match argument {
        Argument::Switch(name, help) => {
            Some(Arg::new(*name).long(*name).action(ArgAction::SetTrue).help(*help))
        }
        Argument::Value(name, value, help) => {
            Some(Arg::new(*name).long(*name).value_name(*value).help(*help))
        }
        Argument::Rest(name, value, help) => Some(
            Arg::new(*name).value_name(*value).help(*help).num_args(0..).action(ArgAction::Append),
        ),
        Argument::From(route, name) => {
            let field = Route::named(route)?.field(name)?;
            match field.place {
                Place::Path => Some(positional(field, "TOPIC").required(false)),
                _ => Some(flag(field, &dashed(name)).required(false)),
            }
        }
        Argument::About(_) | Argument::At(..) | Argument::Named(..) | Argument::Hidden(_) => None,
    }
}

/// The argument for a field of the command's route; none when it comes from elsewhere.
fn field_argument(command: &Command, field: &'static Field) -> Option<Arg> {
    match command.argument(field.name) {
        Some(Argument::Hidden(_)) => None,
        Some(Argument::At(_, name)) => Some(positional(field, name)),
        Some(Argument::Named(_, name)) => Some(flag(field, name)),
        _ if is_identity(field) => None,
        _ => Some(flag(field, &flag_name(field))),
    }
}

/// Whether a field says who asks.
pub(crate) fn is_identity(field: &Field) -> bool {
    field.place == Place::Body && matches!(field.name, "agent_id" | "agent_type" | "session_id")
}

fn flag_name(field: &Field) -> String {
    match field.name {
        "agent_id" => "of-agent".to_owned(),
        "agent_type" => "of-type".to_owned(),
        "session_id" => "of-session".to_owned(),
        "wait_seconds" => "wait".to_owned(),
        name => dashed(name),
    }
}

fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

fn positional(field: &'static Field, name: &'static str) -> Arg {
    let arg = typed(Arg::new(field.name).value_name(name), field).help(help(field));
    match field.kind {
        Kind::Texts | Kind::Values => arg.required(true),
        _ => arg.required(field.is_required),
    }
}

fn flag(field: &'static Field, name: &str) -> Arg {
    let value = match field.kind {
        Kind::Integer | Kind::Number => "N",
        Kind::Boolean => "BOOL",
        Kind::Object | Kind::Any => "JSON",
        Kind::Text | Kind::Texts | Kind::Values => "TEXT",
    };
    typed(Arg::new(field.name).long(name.to_owned()).value_name(value), field)
        .help(help(field))
        .required(field.is_required)
}

fn help(field: &Field) -> String {
    let text = sentence(field.description);
    match field.default {
        Some(default) if field.kind != Kind::Boolean => format!("{text} [default: {default}]"),
        _ => text.to_owned(),
    }
}

fn typed(arg: Arg, field: &'static Field) -> Arg {
    if !field.choices.is_empty() {
        return arg.value_parser(PossibleValuesParser::new(field.choices.iter().copied()));
    }
    match field.kind {
        Kind::Integer => arg.value_parser(value_parser!(i64)).allow_negative_numbers(true),
        Kind::Number => arg.value_parser(value_parser!(f64)).allow_negative_numbers(true),
        // Without a value it says yes, when it is a no otherwise.
        Kind::Boolean => {
            let arg = arg.value_parser(value_parser!(bool));
            match field.default {
                Some(_) => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                None => arg,
            }
        }
        Kind::Texts | Kind::Values => arg.num_args(1..).action(ArgAction::Append),
        Kind::Text | Kind::Object | Kind::Any => arg,
    }
}
