//! The parser of the command line.
use clap::{
    Arg, ArgAction, ArgMatches, Command as Clap, builder::PossibleValuesParser, value_parser,
};

use super::{
    arguments::parser_of,
    help::{ABOUT, CONFIGURATION, DOCTOR, GIT_HOOK, HOOK_INSTALL, MCP, TRY},
    table::{COMMANDS, GROUPS},
};
use crate::service::settings::Given;

/// Returns the parser of the whole command line. `try` accepts these operations.
pub(crate) fn command_line(operations: impl Iterator<Item = &'static str>) -> Clap {
    let mut top = Clap::new("coord")
        .about(ABOUT)
        .after_help(CONFIGURATION)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .args(global_options());
    for command in COMMANDS {
        let parser = parser_of(command);
        let Some((group, _)) = command.words.split_once(' ') else {
            top = top.subcommand(parser);
            continue;
        };
        if top.find_subcommand(group).is_none() {
            top = top.subcommand(parser_of_group(group));
        }
        top = top.mut_subcommand(group, |group| group.subcommand(parser));
    }
    top.subcommand(
        Clap::new("detect")
            .about("Detect which capabilities the service has, as one JSON object")
            .after_help("Exit code 0 when the service is available, 1 when it is not."),
    )
    .subcommand(
        Clap::new("doctor")
            .about("Check what usually goes wrong, and say what to do")
            .after_help(DOCTOR),
    )
    .subcommand(try_parser(operations))
    .subcommand(mcp_parser())
    .subcommand(hook_parser())
    .subcommand(
        Clap::new("completions").about("Print the completions for a shell").arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(clap_complete::Shell)),
        ),
    )
}

fn try_parser(operations: impl Iterator<Item = &'static str>) -> Clap {
    Clap::new("try")
        .about("Run an operation if the service has it, and print the result as JSON")
        .after_help(TRY)
        .arg(
            Arg::new("operation")
                .value_name("OPERATION")
                .required(true)
                .value_parser(PossibleValuesParser::new(operations)),
        )
        .arg(
            Arg::new("payload")
                .long("payload")
                .value_name("JSON")
                .help("The fields of the operation as an object; - reads standard input"),
        )
}

fn mcp_parser() -> Clap {
    Clap::new("mcp").about("Serve MCP on standard input and output").after_help(MCP).arg(
        Arg::new("tools")
            .long("tools")
            .value_name("SETS")
            .help("Tool sets or tools, separated by commas [default: core]"),
    )
}

fn hook_parser() -> Clap {
    Clap::new("hook")
        .about("Stop commits and pushes that change files which other agents have locked")
        .after_help(GIT_HOOK)
        .subcommand_required(true)
        .subcommand(
            Clap::new("pre-commit")
                .about("Check the locks of the files to be committed")
                .after_help(GIT_HOOK),
        )
        .subcommand(
            Clap::new("pre-push")
                .about("Check the locks of the files that the pushed commits change")
                .after_help(GIT_HOOK)
                .arg(Arg::new("remote").value_name("REMOTE").help("Name of the remote"))
                .arg(Arg::new("location").value_name("URL").help("URL of the remote")),
        )
        .subcommand(
            Clap::new("install")
                .about("Install the two hooks in this repository, or repair them")
                .after_help(HOOK_INSTALL)
                .arg(
                    Arg::new("force")
                        .long("force")
                        .action(ArgAction::SetTrue)
                        .help("Keep hooks that `coord` did not install, and run them first"),
                )
                .arg(
                    Arg::new("manager")
                        .long("manager")
                        .action(ArgAction::SetTrue)
                        .help("Write the hooks into the configuration of the hook manager"),
                ),
        )
        .subcommand(
            Clap::new("uninstall")
                .about("Take the hooks out, and restore the hooks that were there before"),
        )
        .subcommand(
            Clap::new("status")
                .about("Show whether git really runs the hooks")
                .after_help("Exit code 0 if git runs both hooks, 1 if not."),
        )
}

fn parser_of_group(name: &'static str) -> Clap {
    let group = GROUPS.iter().find(|(group, _)| *group == name);
    Clap::new(name)
        .about(group.map_or("", |(_, about)| about))
        .subcommand_required(true)
        .arg_required_else_help(true)
}

fn global_options() -> Vec<Arg> {
    let value = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(format!("global:{name}")).long(name).value_name(value).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        let id = format!("global:{name}");
        Arg::new(id.clone()).long(name).action(ArgAction::SetTrue).overrides_with(id).help(help)
    };
    let options = [
        switch(
            "json",
            "Print the answer of the service unchanged on one line, several answers as a list",
        ),
        switch("quiet", "Print nothing"),
        value("url", "URL", "URL of the service"),
        value("key-file", "FILE", "File with the API key"),
        value("agent-id", "ID", "Id of the caller [env: AGENT_ID] [default: that of the key]"),
        value(
            "agent-type",
            "TYPE",
            "Type of the caller [env: AGENT_TYPE] [default: that of the key]",
        ),
        value(
            "session-id",
            "ID",
            "Session of the caller [env: SESSION_ID, CLAUDE_CODE_SESSION_ID]",
        ),
        value("workspace", "NAME", "Workspace of the request [env: COORDINATION_WORKSPACE]"),
        value(
            "timeout",
            "SECONDS",
            "Time-out of an answer [env: COORDINATION_HTTP_TIMEOUT] [default: 10]",
        ),
    ];
    options.into_iter().map(|option| option.global(true).help_heading("Global options")).collect()
}

/// Returns the settings that the command line gives.
pub(crate) fn given_settings(matches: &ArgMatches) -> Given {
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

/// Whether a global switch, `json` or `quiet`, is given.
pub(crate) fn has_global_switch(matches: &ArgMatches, name: &str) -> bool {
    matches.get_flag(&format!("global:{name}"))
}
