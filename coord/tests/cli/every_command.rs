//! Laws that hold for every command, against the service. The table has a row for each command; a
//! command without a row, or a row without a command, fails the tests.
use coord::routes::Route;

use crate::support::{Agents, BOSS, Coord, FREE, REVIEWER, Service, nowhere};

/// Prepares the service for a command, and returns its arguments.
type Arguments = fn(&Agents) -> Vec<String>;

struct Row {
    words: &'static str,
    /// A key that permits the command.
    key: &'static str,
    done: Arguments,
    /// `None` if the service never refuses the command.
    refused: Option<Arguments>,
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn with(text: &str, more: &[&str]) -> Vec<String> {
    words(text).into_iter().chain(more.iter().map(|word| (*word).to_owned())).collect()
}

const fn row(words: &'static str, done: Arguments) -> Row {
    Row { words, key: FREE, done, refused: None }
}

impl Row {
    const fn refused(self, refused: Arguments) -> Row {
        Row { refused: Some(refused), ..self }
    }

    const fn by(self, key: &'static str) -> Row {
        Row { key, ..self }
    }
}

const UNKNOWN: &str = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";

/// Arguments that need no preparation.
macro_rules! say {
    ($text:literal $(, $more:expr)*) => { |_| with($text, &[$($more),*]) };
}

static ROWS: &[Row] = &[
    row("health", say!("health")),
    row("whoami", say!("whoami")).by(BOSS).refused(say!("whoami")),
    row("lock", say!("lock src/lock.rs --reason", "to see")).refused(|agents| {
        agents.other.json(&["lock", "src/taken.rs", "--reason", "mine"]);
        words("lock src/taken.rs")
    }),
    row("unlock", |agents| {
        agents.me.json(&["lock", "src/unlock.rs"]);
        words("unlock src/unlock.rs")
    })
    .refused(say!("unlock src/free.rs")),
    row("verify", |agents| {
        let lock = agents.me.json(&["lock", "src/verify.rs"]);
        vec!["verify".to_owned(), format!("src/verify.rs={}", lock["fencing_token"])]
    })
    .refused(say!("verify src/verify.rs=999999")),
    row("locks", say!("locks --prefix src/")),
    row("submit", say!("submit --task-type test --priority 3 --description", "run the suite"))
        .refused(say!("submit --task-type test --description", "then rm -rf / for good")),
    row("claim", |agents| {
        agents.task("claim");
        words("claim --task-types claim")
    })
    .refused(say!("claim --task-types nothing-of-the-kind")),
    row("renew", |agents| {
        let lock = agents.me.json(&["lock", "src/renew.rs"]);
        let token = lock["fencing_token"].to_string();
        with("renew src/renew.rs --ttl-minutes 60 --fencing-token", &[&token])
    })
    .refused(say!("renew src/never.rs --fencing-token 3")),
    row("complete", |agents| {
        let task = agents.claimed("complete");
        with("complete --success true --result {} --task-id", &[&task])
    })
    .refused(say!("complete --success true --task-id", UNKNOWN)),
    row("cancel", |agents| with("cancel --task-id", &[&agents.task("cancel")]))
        .refused(say!("cancel --task-id", UNKNOWN)),
    row("task", |agents| with("task --task-id", &[&agents.task("task")]))
        .refused(say!("task --task-id", UNKNOWN)),
    row("tasks", say!("tasks --status pending --limit 5")),
    row("remember", say!("remember --event-type error --tags rust --summary", "E0308")),
    row("recall", say!("recall --tags rust --scope workspace")),
    row("handoff write", say!("handoff write --next-steps a b --summary", "half way")),
    row("handoff read", say!("handoff read --limit 2")),
    row("guardrails check", say!("guardrails check", "cargo test"))
        .refused(say!("guardrails check", "rm -rf /")),
    row("guardrails list", say!("guardrails list")),
    row("audit", say!("audit --limit 3 --of-agent boss")),
    row("agents", say!("agents --status active")),
    row("agents cleanup", say!("agents cleanup --dry-run")).by(BOSS),
    row(
        "session start",
        say!("session start --session-id s-1 --capabilities rust --current-task x"),
    ),
    row("session heartbeat", |agents| {
        agents.me.json(&["session", "start", "--session-id", "s-2"]);
        words("session heartbeat --session-id s-2")
    })
    .refused(say!("session heartbeat --session-id none")),
    row("session end", |agents| {
        agents.me.json(&["session", "start", "--session-id", "s-3"]);
        words("session end --session-id s-3 --summary done")
    })
    .refused(say!("session end --session-id none")),
    row("ports", say!("ports")),
    row("ports allocate", say!("ports allocate --session-id s-4")).refused(|agents| {
        agents.other.json(&["ports", "allocate", "--session-id", "s-5"]);
        words("ports allocate --session-id s-5")
    }),
    row("ports release", say!("ports release --session-id s-4")).refused(|agents| {
        agents.other.json(&["ports", "allocate", "--session-id", "s-6"]);
        words("ports release --session-id s-6")
    }),
    row("policy check", say!("policy check --operation acquire_lock --resource src/a.rs"))
        .refused(say!("policy check --operation force_push")),
    row(
        "policy validate",
        say!("policy validate --policy-text", "permit(principal, action, resource);"),
    )
    .refused(say!("policy validate --policy-text", "permit(")),
    row("network check", say!("network check github.com"))
        .refused(say!("network check evil.example.org")),
    row("profile assign", say!("profile assign somebody --profile codex_cloud_worker"))
        .by(BOSS)
        .refused(say!("profile assign somebody --profile no-such-profile")),
    row("keys", say!("keys")).by(BOSS),
    row("maintenance", say!("maintenance")).by(BOSS),
];

/// The rows of all commands, each with its route.
fn rows() -> Vec<(&'static Row, &'static Route)> {
    let found: Vec<_> = coord::commands()
        .map(|(words, route)| {
            let row = ROWS.iter().find(|row| row.words == words);
            (row.unwrap_or_else(|| panic!("`{words}` has no row")), route)
        })
        .collect();
    assert_eq!(found.len(), ROWS.len(), "a row has no command");
    found
}

impl Row {
    fn caller<'a>(&self, agents: &'a Agents) -> &'a Coord {
        if self.key == BOSS { &agents.boss } else { &agents.me }
    }
}

#[test]
fn commands_without_a_route_exist() {
    for words in ["detect", "doctor", "try", "mcp", "hook", "completions"] {
        assert!(coord::command_line().find_subcommand(words).is_some(), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_succeeds() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    for (row, _) in rows() {
        let done = row.caller(&agents).run(&(row.done)(&agents));
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{}: {done:?}", row.words);
        assert!(!done.out.trim().is_empty(), "{}", row.words);
        assert!(!done.out.contains("{\""), "{}: the text contains JSON: {done:?}", row.words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_every_command_prints_the_answer_unchanged() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    for (row, _) in rows() {
        let mut arguments = (row.done)(&agents);
        arguments.insert(0, "--json".to_owned());
        let done = row.caller(&agents).run(&arguments);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{}: {done:?}", row.words);
        assert!(!done.json().is_null(), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_quiet_every_command_prints_nothing() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    for (row, _) in rows() {
        for arguments in [Some(row.done), row.refused].into_iter().flatten() {
            let mut arguments = arguments(&agents);
            arguments.push("--quiet".to_owned());
            let caller = if row.words == "whoami" { &agents.me } else { row.caller(&agents) };
            let done = caller.run(&arguments);
            assert!(done.code < 2, "{}: {done:?}", row.words);
            assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""), "{}", row.words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_exit_code_1_with_a_reason() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    for (row, _) in rows() {
        let Some(refused) = row.refused else { continue };
        let arguments = refused(&agents);
        let caller = if row.words == "whoami" { &agents.me } else { row.caller(&agents) };
        let done = caller.run(&arguments);
        assert_eq!(done.code, 1, "{}: {done:?}", row.words);
        assert!(!done.err.trim().is_empty(), "{}: {done:?}", row.words);
        let mut arguments = arguments;
        arguments.insert(0, "--json".to_owned());
        let done = caller.run(&arguments);
        assert_eq!(done.code, 1, "{}: {done:?}", row.words);
        assert!(done.json().is_object(), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_denial_is_exit_code_3() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    for (row, route) in rows().into_iter().filter(|(_, route)| !route.is_open) {
        let arguments = (row.done)(&agents);
        for stranger in [service.coord_with("wrong"), Coord::at(&service.url)] {
            let done = stranger.run(&arguments);
            assert_eq!(done.code, 3, "{}: {done:?}", row.words);
            assert!(done.err.contains("401"), "{}: {done:?}", row.words);
        }
        if route.is_repeatable {
            let done = service.coord_with(REVIEWER).run(&arguments);
            assert_eq!(done.code, 3, "{}: {done:?}", row.words);
            assert!(done.err.contains("403"), "{}: {done:?}", row.words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_exit_code_4() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let nowhere = nowhere();
    for (row, _) in rows() {
        let arguments = (row.done)(&agents);
        let done = Coord::at(&nowhere).with("COORDINATION_API_KEY", "secret").run(&arguments);
        assert_eq!((done.code, done.out.as_str()), (4, ""), "{}: {done:?}", row.words);
        assert!(done.err.contains("cannot be reached"), "{}: {done:?}", row.words);
        assert!(!done.err.contains("secret"), "{}: {done:?}", row.words);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let coord = Coord::at(&nowhere());
    for (row, route) in rows() {
        let mut wrong = words(row.words);
        wrong.push("--no-such-flag".to_owned());
        assert_eq!(coord.run(&wrong).code, 2, "{}", row.words);
        let is_identity = |name: &str| matches!(name, "agent_id" | "agent_type" | "session_id");
        if route.fields.iter().any(|field| field.is_required && !is_identity(field.name)) {
            coord.run(&words(row.words)).assert_code(2);
        }
    }
    for wrong in [
        &["no-such-command"][..],
        &[],
        &["session"],
        &["lock", "a", "--ttl-minutes", "soon"],
        &["complete", "--task-id", "x", "--success", "perhaps"],
        &["submit", "--task-type", "t", "--description", "d", "--input-data", "[1]"],
        &["submit", "--task-type", "t", "--description", "d", "--input-data", "{"],
        &["recall", "--scope", "everywhere"],
        &["session", "end"],
        &["ports", "allocate"],
        &["ports", "release"],
        &["verify"],
        &["verify", "src/a.rs"],
        &["verify", "--file", "/no/such/file"],
        &["renew"],
        &["renew", "a", "b", "--fencing-token", "1"],
        &["renew", "a", "--task-id", "t"],
        &["renew", "a", "--lease-minutes", "1"],
        &["try", "no_such_operation"],
        &["try", "lock", "--payload", "["],
        &["hook"],
        &["completions", "no-such-shell"],
    ] {
        let done = coord.run(wrong);
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{wrong:?}: {done:?}");
        assert!(!done.err.is_empty(), "{wrong:?}");
    }
}

#[test]
fn every_flag_and_command_has_a_help_text() {
    fn check(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            let is_known = ["operation", "shell"].contains(&argument.get_id().as_str());
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(is_known || !help.is_empty(), "{}: {argument}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    let mut all = coord::command_line();
    all.build();
    all.get_subcommands().filter(|it| it.get_name() != "help").for_each(check);
    all.debug_assert();
}
