//! Every command against the service. The table has a row for each, those included whose routes the
//! service gets later; a command without a row fails the tests.
use coord::routes::Route;
use serde_json::json;

use crate::support::{BOSS, Coord, FREE, REVIEWER, Reply, Server, Service, nowhere};

/// Arguments that lead to an outcome, after whatever has to be there first.
type Arguments = fn(&World) -> Vec<String>;

struct Row {
    words: &'static str,
    /// The key that may do it.
    key: &'static str,
    done: Arguments,
    /// `None` where the service never says no.
    refused: Option<Arguments>,
}

/// Who acts before the command does.
struct World {
    me: Coord,
    other: Coord,
    boss: Coord,
}

impl World {
    fn id(&self, arguments: &[&str], member: &str) -> String {
        let answer = self.me.json(arguments);
        let id = member.split('.').fold(&answer, |it, name| &it[name]);
        id.as_str().unwrap_or_else(|| panic!("{arguments:?}: {answer}")).to_owned()
    }

    fn task(&self, kind: &str) -> String {
        self.id(&["submit", "--task-type", kind, "--description", "run it"], "task_id")
    }

    fn claimed(&self, kind: &str) -> String {
        self.task(kind);
        self.id(&["claim", "--task-types", kind], "task_id")
    }

    fn issue(&self) -> String {
        self.id(&["issue", "create", "--title", "Fix it"], "issue.id")
    }

    fn feature(&self, id: &str) -> String {
        self.id(&["feature", "register", id, "--resource-claims", id], "feature_id")
    }

    fn approval(&self) -> String {
        self.id(&["approval", "request", "--operation", "deploy"], "request_id")
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn with(text: &str, more: &[&str]) -> Vec<String> {
    words(text).into_iter().chain(more.iter().map(|it| (*it).to_owned())).collect()
}

const fn row(words: &'static str, done: Arguments) -> Row {
    Row { words, key: FREE, done, refused: None }
}

impl Row {
    const fn no(self, refused: Arguments) -> Row {
        Row { refused: Some(refused), ..self }
    }

    const fn by(self, key: &'static str) -> Row {
        Row { key, ..self }
    }
}

const UNKNOWN: &str = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";

/// A row's arguments that need nothing to be there.
macro_rules! say {
    ($text:literal $(, $more:expr)*) => { |_| with($text, &[$($more),*]) };
}

static ROWS: &[Row] = &[
    row("health", say!("health")),
    row("help", say!("help")).no(say!("help no-such-topic")),
    row("whoami", say!("whoami")).by(BOSS).no(say!("whoami")),
    row("lock", say!("lock src/lock.rs --reason", "to see")).no(|it| {
        it.other.json(&["lock", "src/taken.rs", "--reason", "mine"]);
        words("lock src/taken.rs")
    }),
    row("unlock", |it| {
        it.me.json(&["lock", "src/unlock.rs"]);
        words("unlock src/unlock.rs")
    })
    .no(say!("unlock src/free.rs")),
    row("verify", |it| {
        let lock = it.me.json(&["lock", "src/verify.rs"]);
        vec!["verify".to_owned(), format!("src/verify.rs={}", lock["fencing_token"])]
    })
    .no(say!("verify src/verify.rs=999999")),
    row("locks", say!("locks --prefix src/")),
    row("submit", say!("submit --task-type test --priority 3 --description", "run the suite"))
        .no(say!("submit --task-type test --description", "then rm -rf / for good")),
    row("claim", |it| {
        it.task("claim");
        words("claim --task-types claim")
    })
    .no(say!("claim --task-types nothing-of-the-kind")),
    row("renew", |it| {
        let lock = it.me.json(&["lock", "src/renew.rs"]);
        let token = lock["fencing_token"].to_string();
        with("renew src/renew.rs --ttl-minutes 60 --fencing-token", &[&token])
    })
    .no(say!("renew src/never.rs --fencing-token 3")),
    row("complete", |it| {
        let task = it.claimed("complete");
        with("complete --success true --result {} --task-id", &[&task])
    })
    .no(say!("complete --success true --task-id", UNKNOWN)),
    row("cancel", |it| with("cancel --task-id", &[&it.task("cancel")]))
        .no(say!("cancel --task-id", UNKNOWN)),
    row("task", |it| with("task --task-id", &[&it.task("task")]))
        .no(say!("task --task-id", UNKNOWN)),
    row("tasks", say!("tasks --status pending --limit 5")),
    row("remember", say!("remember --event-type error --tags rust --summary", "E0308")),
    row("recall", say!("recall --tags rust --scope workspace")),
    row("handoff write", say!("handoff write --next-steps a b --summary", "half way"))
        .no(say!("handoff write --summary", " ")),
    row("handoff read", say!("handoff read --limit 2")),
    row("guardrails check", say!("guardrails check", "cargo test"))
        .no(say!("guardrails check", "rm -rf /")),
    row("guardrails list", say!("guardrails list")),
    row("audit", say!("audit --limit 3 --of-agent boss")),
    row("agents", say!("agents --status active")),
    row("agents cleanup", say!("agents cleanup --dry-run")).by(BOSS),
    row("agents evict", |it| {
        it.other.json(&["lock", "src/evict.rs"]);
        words("agents evict other --reason gone")
    })
    .by(BOSS)
    .no(say!("agents evict nobody-at-all")),
    row(
        "session start",
        say!("session start --session-id s-1 --capabilities rust --current-task x"),
    ),
    row("session heartbeat", |it| {
        it.me.json(&["session", "start", "--session-id", "s-2"]);
        words("session heartbeat --session-id s-2")
    })
    .no(say!("session heartbeat --session-id none")),
    row("session end", |it| {
        it.me.json(&["session", "start", "--session-id", "s-3"]);
        words("session end --session-id s-3 --summary done")
    })
    .no(say!("session end --session-id none")),
    row("ports", say!("ports")),
    row("ports allocate", say!("ports allocate --session-id s-4")).no(|it| {
        it.other.json(&["ports", "allocate", "--session-id", "s-5"]);
        words("ports allocate --session-id s-5")
    }),
    row("ports release", say!("ports release --session-id s-4")).no(|it| {
        it.other.json(&["ports", "allocate", "--session-id", "s-6"]);
        words("ports release --session-id s-6")
    }),
    row("issue create", say!("issue create --title", "Fix it"))
        .no(say!("issue create --title", " ")),
    row("issue list", say!("issue list --status open")),
    row("issue show", |it| with("issue show", &[&it.issue()])).no(say!("issue show", UNKNOWN)),
    row("issue update", |it| with("issue update --priority 2", &[&it.issue()]))
        .no(say!("issue update --priority 2", UNKNOWN)),
    row("issue close", |it| with("issue close", &[&it.issue(), &it.issue()])),
    row("issue comment", |it| with("issue comment", &[&it.issue(), "seen"])).no(say!(
        "issue comment",
        UNKNOWN,
        "seen"
    )),
    row("issue label", |it| with("issue label", &[&it.issue(), "--add", "a"]))
        .no(say!("issue label --add a --", UNKNOWN)),
    row("issue ready", say!("issue ready")),
    row("issue blocked", say!("issue blocked")),
    row("issue search", say!("issue search fix")),
    row("feature register", say!("feature register f-1 --resource-claims src/a.rs src/b.rs")),
    row("feature deregister", |it| with("feature deregister", &[&it.feature("f-2")]))
        .no(say!("feature deregister nothing")),
    row("feature show", |it| with("feature show", &[&it.feature("f-3")]))
        .no(say!("feature show nothing")),
    row("feature list", say!("feature list")),
    row("feature conflicts", say!("feature conflicts f-4 --candidate-claims src/none.rs"))
        .no(|it| with("feature conflicts f-6 --candidate-claims", &[&it.feature("f-5")])),
    row("merge enqueue", |it| with("merge enqueue", &[&it.feature("f-7")]))
        .no(say!("merge enqueue nothing")),
    row("merge list", say!("merge list")),
    row("merge next", |it| {
        it.me.json(&["merge", "enqueue", &it.feature("f-8")]);
        it.me.json(&["merge", "check", "f-8"]);
        words("merge next")
    }),
    row("merge check", |it| {
        it.me.json(&["merge", "enqueue", &it.feature("f-9")]);
        words("merge check f-9")
    })
    .no(say!("merge check nothing")),
    row("merge merged", |it| with("merge merged", &[&it.feature("f-10")]))
        .no(say!("merge merged nothing")),
    row("merge remove", |it| {
        it.me.json(&["merge", "enqueue", &it.feature("f-11")]);
        words("merge remove f-11")
    })
    .no(say!("merge remove nothing")),
    row("approval request", say!("approval request --operation deploy")),
    row("approval list", say!("approval list")),
    row("approval show", |it| with("approval show", &[&it.approval()]))
        .no(say!("approval show", UNKNOWN)),
    row("approval decide", |it| with("approval decide --decision approved", &[&it.approval()]))
        .by(BOSS)
        .no(say!("approval decide --decision approved", UNKNOWN)),
    row("permission request", say!("permission request --operation force_release_lock"))
        .no(say!("permission request --operation manage_keys")),
    row("permission list", say!("permission list")),
    row("permission revoke", |it| {
        let request = ["permission", "request", "--operation", "cleanup_agents"];
        with("permission revoke", &[&it.id(&request, "grant_id")])
    })
    .no(say!("permission revoke", UNKNOWN)),
    row("policy check", say!("policy check --operation acquire_lock --resource src/a.rs"))
        .no(say!("policy check --operation force_push")),
    row(
        "policy validate",
        say!("policy validate --policy-text", "permit(principal, action, resource);"),
    )
    .no(say!("policy validate --policy-text", "permit(")),
    row("policy versions", say!("policy versions read-operations")),
    row("policy rollback", say!("policy rollback read-operations --version 1"))
        .by(BOSS)
        .no(say!("policy rollback read-operations --version 99")),
    row("network check", say!("network check github.com"))
        .no(say!("network check evil.example.org")),
    row("status report", say!("status report --phase PLAN --message here")),
    row("status list", say!("status list")),
    row("status ack", |it| {
        let report = ["status", "report", "--needs-human", "--message", "help"];
        with("status ack", &[&it.id(&report, "report_id")])
    })
    .no(say!("status ack", UNKNOWN)),
    row("events", say!("events --after 0 --limit 5")),
    row("profile assign", say!("profile assign somebody --profile codex_cloud_worker"))
        .by(BOSS)
        .no(say!("profile assign somebody --profile no-such-profile")),
    row("keys", say!("keys")).by(BOSS),
    row("maintenance", say!("maintenance")).by(BOSS),
];

/// The rows of the commands that exist, each with its route.
fn rows() -> Vec<(&'static Row, &'static Route)> {
    let found = coord::commands().map(|(words, route)| {
        let row = ROWS.iter().find(|it| it.words == words);
        (row.unwrap_or_else(|| panic!("`{words}` has no row")), route)
    });
    found.collect()
}

impl World {
    fn of(service: &Service) -> World {
        let agent = |id: &str| service.coord().with("AGENT_ID", id);
        World { me: agent("me"), other: agent("other"), boss: service.coord_with(BOSS) }
    }

    fn caller(&self, row: &Row) -> &Coord {
        if row.key == BOSS { &self.boss } else { &self.me }
    }
}

#[test]
fn what_needs_no_route_exists_already() {
    for words in ["detect", "try", "mcp", "hook", "completions"] {
        assert!(coord::command_line().find_subcommand(words).is_some(), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_does_what_it_is_asked() {
    let service = Service::start().await;
    let world = World::of(&service);
    for (row, _) in rows() {
        let done = world.caller(row).run(&(row.done)(&world));
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{}: {done:?}", row.words);
        assert!(!done.out.trim().is_empty(), "{}", row.words);
        assert!(!done.out.contains("{\""), "{}: people read no JSON: {done:?}", row.words);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_prints_the_answer_as_it_is_when_it_is_asked_to() {
    let service = Service::start().await;
    let world = World::of(&service);
    for (row, _) in rows() {
        let mut arguments = (row.done)(&world);
        arguments.insert(0, "--json".to_owned());
        let done = world.caller(row).run(&arguments);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{}: {done:?}", row.words);
        assert!(!done.json().is_null(), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_is_quiet_when_it_is_asked_to_be() {
    let service = Service::start().await;
    let world = World::of(&service);
    for (row, _) in rows() {
        for arguments in [Some(row.done), row.refused].into_iter().flatten() {
            let mut arguments = arguments(&world);
            arguments.push("--quiet".to_owned());
            if let Some(place) = arguments.iter().position(|it| it == "--") {
                arguments.insert(place, "--quiet".to_owned());
                arguments.pop();
            }
            let caller = if row.words == "whoami" { &world.me } else { world.caller(row) };
            let done = caller.run(&arguments);
            assert!(done.code < 2, "{}: {done:?}", row.words);
            assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""), "{}", row.words);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_exit_code_1_and_says_why() {
    let service = Service::start().await;
    let world = World::of(&service);
    for (row, _) in rows() {
        let Some(refused) = row.refused else { continue };
        let arguments = refused(&world);
        let caller = if row.words == "whoami" { &world.me } else { world.caller(row) };
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
    let world = World::of(&service);
    for (row, route) in rows().into_iter().filter(|it| !it.1.is_open) {
        let arguments = (row.done)(&world);
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
    let world = World::of(&service);
    let nowhere = nowhere();
    for (row, _) in rows() {
        let arguments = (row.done)(&world);
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
        let is_ours = |name: &str| matches!(name, "agent_id" | "agent_type" | "session_id");
        if route.fields.iter().any(|it| it.is_required && !is_ours(it.name)) {
            coord.run(&words(row.words)).assert_code(2);
        }
    }
    for wrong in [
        &["no-such-command"][..],
        &[],
        &["issue"],
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

#[tokio::test(flavor = "multi_thread")]
async fn input_that_the_service_does_not_accept_is_exit_code_2() {
    let service = Service::start().await;
    let coord = service.coord();
    let done = coord.run(&["task", "--task-id", "no-uuid"]);
    done.assert_code(2).assert_says("task_id: Input should be a valid UUID");
    coord.run(&["audit", "--since", "yesterday"]).assert_code(2).assert_says("400");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_shows_its_token_and_its_holder() {
    let service = Service::start().await;
    let world = World::of(&service);
    let done = world.me.run(&["lock", "src/a.rs", "--reason", "refactor"]);
    done.assert_code(0)
        .assert_says("Locked src/a.rs (acquired): fencing token 1, expires in 30 min.");
    let done = world.other.run(&["lock", "./src//a.rs"]);
    assert_eq!(
        done.err,
        "Refused: locked_by_other (me, cloud_agent, \"refactor\", expires in 30 min).\n"
    );
    let done = world.other.run(&["locks"]);
    assert!(done.out.starts_with("FILE PATH  LOCKED BY  SESSION ID  FENCING TOKEN  "), "{done:?}");
    let done = world.other.run(&["locks", "src/a.rs", "src/b.rs"]);
    done.assert_code(0).assert_says("(free)").assert_says("me");
    world.me.run(&["unlock", "src/a.rs", "--fencing-token", "2"]).assert_code(1);
    world.other.run(&["unlock", "src/a.rs", "--force"]).assert_code(3);
    world
        .boss
        .run(&["unlock", "src/a.rs", "--force"])
        .assert_code(0)
        .assert_says("Freed src/a.rs.");
    world.boss.run(&["unlock", "src/a.rs", "--force"]).assert_code(1).assert_says("not_locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_waited_for_until_it_is_free() {
    let service = Service::start().await;
    let world = World::of(&service);
    world.other.json(&["lock", "src/a.rs"]);
    let done = world.me.run(&["lock", "src/a.rs", "--wait", "1", "--json"]);
    assert_eq!(done.assert_code(1).json()["position"], 1);
    let waiting = world.me.clone();
    let waiting = std::thread::spawn(move || waiting.json(&["lock", "src/a.rs", "--wait", "60"]));
    world.other.json(&["unlock", "src/a.rs"]);
    assert_eq!(waiting.join().expect("it ends")["fencing_token"], 2);
    let waiting = world.me.clone();
    let waiting = std::thread::spawn(move || waiting.json(&["claim", "--wait", "60"]));
    let task = world.task("test");
    assert_eq!(waiting.join().expect("it ends")["task_id"], task);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_said_in_body_or_headers() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "from-environment");
    let who = |more: &[&str]| {
        let done = coord.run(&[&["whoami", "--json"], more].concat());
        done.json()["identity"].clone()
    };
    assert_eq!(who(&[])["agent_id"], "from-environment");
    let identity = who(&["--agent-id", "a", "--agent-type", "codex", "--session-id", "s"]);
    for (member, value) in [("agent_id", "a"), ("agent_type", "codex"), ("session_id", "s")] {
        assert_eq!(identity[member], value, "{member}");
    }
    coord.json(&["lock", "x", "--session-id", "s"]);
    let lock = &coord.json(&["locks", "x"])["lock"];
    assert_eq!(
        (&lock["locked_by"], &lock["session_id"]),
        (&json!("from-environment"), &json!("s"))
    );
    // An empty id is the key's own.
    let boss = service.coord_with(BOSS).json(&["lock", "y"]);
    assert_eq!(boss["success"], true);
    assert_eq!(coord.json(&["locks", "y"])["lock"]["locked_by"], "boss");
    coord.run(&["--workspace", "other", "locks"]).assert_code(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_objects_can_come_from_standard_input() {
    let service = Service::start().await;
    let coord = service.coord();
    let submit = ["submit", "--task-type", "t", "--json", "--description"];
    let input = r#"{"suite": "unit"}"#;
    let done = coord.fed(&[&submit[..], &["d", "--input-data", "-"]].concat(), input);
    let id = done.json()["task_id"].as_str().expect("an id").to_owned();
    let task = &coord.json(&["task", "--task-id", &id])["task"];
    assert_eq!(task["input_data"], json!({ "suite": "unit" }));
    coord.fed(&[&submit[..], &["-", "--input-data", "-"]].concat(), input).assert_code(2);
    let done = coord.fed(&["guardrails", "check", "-"], "git push --force\n");
    done.assert_code(1).assert_says("git push --force");
    let decision = r#"{"what": "no macros"}"#;
    coord.json(&["handoff", "write", "--summary", "s", "--decisions", decision, "plain"]);
    let handoff = &coord.json(&["handoff", "read"])["handoffs"][0];
    assert_eq!(handoff["decisions"], json!([{ "what": "no macros" }, "plain"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_cannot_steer_a_terminal() {
    let service = Service::start().await;
    let world = World::of(&service);
    world.other.json(&["lock", "a", "--reason", "x\u{1b}]0;owned\u{7}\u{202e}y"]);
    world.other.json(&["handoff", "write", "--summary", "x\u{1b}[2Jy"]);
    for command in [&["locks"][..], &["lock", "a"], &["handoff", "read"], &["session", "start"]] {
        let done = world.me.run(command);
        let text = format!("{}{}", done.out, done.err);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
        assert!(text.contains("\\u{1b}"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_leases_are_renewed_unless_they_were_lost() {
    let service = Service::start().await;
    let world = World::of(&service);
    world.me.json(&["lock", "a"]);
    world.me.json(&["renew", "a", "--fencing-token", "1", "--ttl-minutes", "90"]);
    service.expire("a").await;
    let done = world.me.run(&["renew", "a", "--fencing-token", "1"]);
    done.assert_code(1).assert_says("The lock on a is lost").assert_says("not_locked");
    // To extend what one does not hold would be to take it.
    world.me.run(&["renew", "a"]).assert_code(1).assert_says("You do not hold the lock on a");
    assert_eq!(world.me.json(&["locks", "a"])["locked"], false);
    world.other.json(&["lock", "b"]);
    world.me.run(&["renew", "b"]).assert_code(1).assert_says("it is locked by other");
    world.me.json(&["lock", "c", "--session-id", "s-1"]);
    world.me.run(&["renew", "c", "--session-id", "s-2"]).assert_code(1).assert_says("by me");
    world.me.run(&["renew", "c", "--session-id", "s-1"]).assert_code(0);
    let id = world.claimed("t");
    world
        .me
        .run(&["renew", "--task-id", &id, "--lease-minutes", "5"])
        .assert_code(0)
        .assert_says("5 min");
    world.me.run(&["renew", "--task-id", &id, "--claim-token", "x"]).assert_code(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_verified_from_files() {
    let service = Service::start().await;
    let coord = service.coord();
    coord.json(&["lock", "a=b"]);
    coord.run(&["verify", "a=b=1"]).assert_code(0);
    for form in ["a=b=1\n", r#"{"a=b":1}"#, r#"{"locks":{"a=b":{"fencing_token":1}}}"#] {
        coord.fed(&["verify", "--file", "-"], form).assert_code(0);
        coord.fed(&["verify", "--file", "-"], &form.replace('1', "2")).assert_code(1);
    }
    // One entry that is not understood is enough.
    for wrong in [
        "{",
        "[]",
        "a=b=1\na",
        r#"{"a=b":1,"b":"1"}"#,
        r#"{"a=b":{"fencing_token":"1"}}"#,
        r#"{"locks":{"a=b":{"fencing_token":1},"b":{}}}"#,
        r#"{"locks":[]}"#,
        r#"{"version":2,"locks":{"a=b":{"fencing_token":1}}}"#,
    ] {
        let done = coord.fed(&["verify", "--file", "-"], wrong);
        assert_eq!(done.code, 2, "{wrong}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_locks_is_verified() {
    let service = Service::start().await;
    let coord = service.coord();
    for empty in ["", "\n", "{}", r#"{"version":1,"locks":{}}"#] {
        coord.fed(&["verify", "--file", "-"], empty).assert_code(0).assert_says("nothing");
        let done = coord.fed(&["verify", "--file", "-", "--json"], empty);
        assert_eq!(done.assert_code(0).json(), json!({ "valid": true, "results": [] }));
    }
    coord.json(&["lock", "f1500"]);
    let many: String = (0..2001).map(|it| format!("f{it}=1\n")).collect();
    let done = coord.fed(&["verify", "--file", "-", "--json"], &many);
    let answer = done.assert_code(1).json();
    let results = answer["results"].as_array().expect("a list");
    assert_eq!((results.len(), &answer["valid"]), (2001, &json!(false)));
    assert_eq!((&results[1500]["valid"], &results[2000]["valid"]), (&json!(true), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_line_whatever_is_asked_for() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    for path in ["a", "b"] {
        coord.json(&["lock", path]);
    }
    let locks = coord.json(&["locks", "a", "b", "c"]);
    let locked: Vec<_> = (0..3).map(|it| locks[it]["locked"].clone()).collect();
    assert_eq!(locked, [json!(true), json!(true), json!(false)]);
    let renewed = coord.json(&["renew", "a", "b"]);
    assert_eq!((&renewed[0]["file_path"], &renewed[1]["file_path"]), (&json!("a"), &json!("b")));
    let done = coord.run(&["renew", "a", "none", "--json"]);
    let renewed = done.assert_code(1).json();
    assert_eq!((&renewed[0]["success"], &renewed[1]["locked"]), (&json!(true), &json!(false)));
    coord.json(&["session", "start", "--session-id", "s"]);
    let session = ["session", "end", "--session-id", "s", "--json", "--json", "--summary"];
    let done = coord.run(&[&session[..], &["rm -rf / for good"]].concat());
    assert_eq!(done.json()["success"], true);
    let pretty = "{\n  \"success\": false,\r\n  \"reason\": \"x\"\n}";
    let server = Server::start(move |_, _| Reply::Json(200, pretty.to_owned()));
    let done = Coord::at(&server.url).run(&["lock", "a", "--json"]);
    assert_eq!(done.assert_code(1).json()["reason"], "x");
}

#[test]
fn wrong_usage_is_told_quietly_when_that_is_asked_for() {
    let coord = Coord::at(&nowhere());
    for wrong in [
        &["lock", "--quiet"][..],
        &["--quiet", "issue"],
        &["--quiet"],
        &["no-such-command", "--quiet"],
        &["--quiet", "locks", "--no-such-flag"],
    ] {
        let done = coord.run(wrong);
        assert_eq!((done.code, &*done.out, &*done.err), (2, "", ""), "{wrong:?}");
    }
    coord.run(&["--quiet", "lock", "--help"]).assert_code(0).assert_says("--ttl-minutes");
    coord.run(&["lock", "a", "b", "--", "--quiet"]).assert_code(2).assert_says("Usage");
}

#[test]
fn results_that_cannot_be_written_are_no_success() {
    let server = Server::start(|_, _| Reply::Json(200, r#"{"status":"ok"}"#.to_owned()));
    let coord = Coord::at(&server.url);
    for command in ["coord health", "coord health --json", "coord completions bash"] {
        let done = coord.shell(&format!("{command} >/dev/full"), "");
        done.assert_code(4).assert_says("cannot be written");
    }
    coord.shell("coord session start --hook >/dev/full", "").assert_code(0);
    // Whoever has read enough has what it wanted.
    coord.shell("{ coord health; echo $? >&2; } | true", "").assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_snippet_of_ports_is_printed_for_a_shell() {
    let service = Service::start().await;
    let done = service.coord().run(&["ports", "allocate", "--env", "--session-id", "s"]);
    let lines: Vec<_> = done.out.lines().collect();
    assert_eq!(lines.len(), 6, "{done:?}");
    assert!(lines.iter().all(|it| it.starts_with("export ")), "{done:?}");
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
