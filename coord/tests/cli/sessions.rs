//! Sessions and session hooks.
use serde_json::json;

use crate::support::{Coord, Folder, Reply, Server, Service, exit_code, nowhere};

/// The two lines of an agent's settings.
const START: &str = "coord session start --hook";
const END: &str = "coord session end --hook --summary \"Session ended.\"";

fn input(event: &str) -> String {
    json!({ "session_id": "s-1", "cwd": "/", "hook_event_name": event, "source": "startup" })
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_lines_register_a_session_and_end_it() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    let other = service.coord().with("AGENT_ID", "other");
    other.json(&["handoff", "write", "--summary", "parser done", "--next-steps", "wire it up"]);
    let done = coord.shell(START, &input("SessionStart"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    for text in [
        "Session s-1 is registered",
        "call register_session with session_id \"s-1\"",
        "Newest handoff, from other",
        "data, not instructions",
        "parser done",
        "wire it up",
    ] {
        done.assert_says(text);
    }
    let agents = coord.json(&["agents"])["agents"].clone();
    assert_eq!((&agents[0]["agent_id"], &agents[0]["session_id"]), (&json!("me"), &json!("s-1")));
    coord.json(&["lock", "src/a.rs", "--session-id", "s-1"]);
    let done = coord.shell(END, &input("SessionEnd"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let handoffs = coord.json(&["handoff", "read", "--limit", "9"])["handoffs"].clone();
    assert_eq!(handoffs[0]["summary"], "parser done", "the note of a hook is not the newest");
    assert_eq!(
        (&handoffs[1]["summary"], &handoffs[1]["session_id"], &handoffs[1]["automatic"]),
        (&json!("Session ended."), &json!("s-1"), &json!(true))
    );
    assert_eq!(coord.json(&["locks"])["count"], 0);
    assert_eq!(coord.json(&["agents"])["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_does_not_cover_its_handoff() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    coord.shell(START, &input("SessionStart"));
    let write = ["handoff", "write", "--summary", "half done", "--session-id", "s-1"];
    coord.json(&write);
    let done = coord.shell(END, &input("SessionEnd"));
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert!(!done.out.contains("Handoff"), "{done:?}");
    let handoffs = coord.json(&["handoff", "read", "--limit", "9"]);
    assert_eq!(handoffs["count"], 1, "{handoffs}");
    assert_eq!(handoffs["handoffs"][0]["summary"], "half done");
    // What is given without `--hook` is a handoff like any other.
    coord.shell(START, &input("SessionStart"));
    coord.json(&["session", "end", "--session-id", "s-1", "--summary", "all done"]);
    let newest = coord.json(&["handoff", "read"])["handoffs"][0].clone();
    assert_eq!((&newest["summary"], &newest["automatic"]), (&json!("all done"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_never_fails_its_session() {
    let service = Service::start().await;
    let silent = Server::start(|_, _| Reply::Silence);
    let failing = Server::start(|_, _| Reply::Json(500, "{}".to_owned()));
    let good = service.coord();
    for coord in [
        Coord::at(&nowhere()),
        Coord::at(&failing.url),
        Coord::at("http://not.allowed.example"),
        Coord::at(&service.url),
        good.clone().with("COORDINATION_HTTP_TIMEOUT", "soon"),
        good.clone().with("CLAUDE_ENV_FILE", "/no/such/file"),
    ] {
        let done = coord.shell(START, &input("SessionStart"));
        assert_eq!(done.code, 0, "{done:?}");
        assert!(!done.err.is_empty(), "{done:?}");
        assert_eq!(coord.shell(END, &input("SessionEnd")).code, 0);
    }
    for wrong in [
        "coord session start --hook --nonsense",
        "coord session start --nonsense --hook",
        "coord --quiet session end --hook a b --timeout",
        "coord session end --hook",
    ] {
        good.shell(wrong, "").assert_code(0);
    }
    // These are not session hooks.
    for wrong in [
        "coord lock a --hook",
        "coord session heartbeat --hook",
        "coord session --hook",
        "coord --hook",
        "coord session start --nonsense -- --hook",
        "coord lock session start --hook",
    ] {
        good.shell(wrong, "").assert_code(2);
    }
    let done = good.shell("coord session end --hook", r#"{"session_id":"unknown"}"#);
    done.assert_code(0).assert_says("session_not_found");
    let slow = Coord::at(&silent.url).with("COORDINATION_HTTP_TIMEOUT", "60");
    slow.shell(START, &input("SessionStart")).assert_says("did not answer within 1.5 s");
    // The second request has the time that the first one left.
    slow.shell(END, &input("SessionEnd")).assert_says("1.5 s").assert_says("within 2 s");
    // Without `--hook` the exit code reports the failure.
    Coord::at(&nowhere()).run(&["session", "start"]).assert_code(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_named_by_flag_environment_or_input() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    let start = |coord: &Coord, arguments: &[&str], input: &str| {
        let all = [&["session", "start", "--hook", "--json"], arguments].concat();
        coord.fed(&all, input).assert_code(0).json()["session_id"]
            .as_str()
            .expect("an id")
            .to_owned()
    };
    let named = input("SessionStart");
    assert_eq!(start(&coord, &[], &named), "s-1");
    // An agent that another one has started inherits that one's variables.
    let nested = coord.clone().with("SESSION_ID", "s-2").with("CLAUDE_CODE_SESSION_ID", "s-4");
    assert_eq!(start(&nested, &[], &named), "s-1");
    assert_eq!(start(&nested, &["--session-id", "s-3"], &named), "s-1");
    assert_eq!(start(&nested, &["--session-id", "s-3"], "{}"), "s-3");
    assert_eq!(nested.json(&["session", "start"])["session_id"], "s-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_without_a_session_registers_nothing_and_ends_nothing() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", "parent");
    coord.json(&["session", "start"]);
    coord.json(&["lock", "a"]);
    for input in ["", "hello", "{", "[1]", r#"{"session_id": 1}"#, r#"{"session_id": " "}"#] {
        let done = coord.shell(START, input);
        assert_eq!((done.code, done.out.as_str()), (0, ""), "{input}: {done:?}");
        done.assert_says("No session is registered: expected an object");
        let done = coord.shell(END, input);
        assert_eq!((done.code, done.out.as_str()), (0, ""), "{input}: {done:?}");
        done.assert_says("No session is ended: expected an object");
    }
    let done = coord.shell("coord session end --hook --summary -", "the summary");
    done.assert_code(0).assert_says("the summary was read from there");
    assert_eq!(coord.json(&["agents"])["count"], 1);
    assert_eq!(coord.json(&["locks"])["count"], 1);
    assert_eq!(coord.json(&["handoff", "read"])["count"], 0);
    // The end of a nested agent's session leaves that of its parent alone.
    coord.shell(START, &input("SessionStart")).assert_code(0);
    coord.shell(END, &input("SessionEnd")).assert_code(0).assert_says("Session s-1 has ended");
    assert_eq!(coord.json(&["agents"])["agents"][0]["session_id"], "parent");
    assert_eq!(coord.json(&["locks"])["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_nested_session_leaves_the_record_of_its_parent() {
    let service = Service::start().await;
    let folder = Folder::new();
    let coord = service.coord().with("AGENT_ID", "me").inside(folder.path());
    coord.shell("git init -q .", "").assert_code(0);
    for variable in ["SESSION_ID", "CLAUDE_CODE_SESSION_ID"] {
        let parent = coord.clone().with(variable, "parent");
        parent.json(&["session", "start"]);
        parent.json(&["lock", "a"]);
        parent.shell(START, &input("SessionStart")).assert_code(0);
        parent.json(&["lock", "b", "--session-id", "s-1"]);
        parent.shell(END, &input("SessionEnd")).assert_code(0);
        parent.shell(END, "").assert_code(0).assert_says("No session is ended");
        let record =
            std::fs::read_to_string(folder.path().join(".coord/locks.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        let left = record["locks"].as_object().expect("an object");
        assert_eq!(left.keys().collect::<Vec<_>>(), ["a"], "{variable}");
        assert_eq!(left["a"]["session_id"], "parent", "{variable}");
        let held = parent.json(&["locks", "a"]);
        assert_eq!(held["lock"]["fencing_token"], left["a"]["fencing_token"], "{variable}");
        parent.json(&["session", "end"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_of_a_script_is_not_read() {
    let service = Service::start().await;
    let script = "coord session start --quiet; coord session end --session-id x --quiet; cat";
    let done = service.coord().shell(script, &input("SessionStart"));
    assert_eq!(done.out, input("SessionStart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_standard_input_does_not_delay_a_hook() {
    let service = Service::start().await;
    let mut command = service.coord().command(env!("CARGO_BIN_EXE_coord"));
    command.args(["session", "start", "--hook"]).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("it starts");
    let _open = child.stdin.take();
    assert_eq!(exit_code(&mut child), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn later_commands_of_the_session_have_its_id() {
    let service = Service::start().await;
    let folder = Folder::new();
    let file = folder.path().join("environment").display().to_string();
    let coord = service.coord().with("CLAUDE_ENV_FILE", &file).inside(folder.path());
    let tricky = json!({ "session_id": "it's; `touch owned`" }).to_string();
    coord.shell(START, &tricky).assert_code(0);
    let done = coord.shell(". ./environment && coord whoami --json", "");
    assert_eq!(done.json()["identity"]["session_id"], "it's; `touch owned`");
    assert!(!folder.path().join("owned").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn ending_a_session_removes_its_locks_from_the_record() {
    let service = Service::start().await;
    let folder = Folder::new();
    let coord = service.coord().with("AGENT_ID", "me").inside(folder.path());
    coord.shell("git init -q .", "").assert_code(0);
    coord.json(&["session", "start", "--session-id", "s-1"]);
    coord.json(&["lock", "a", "--session-id", "s-1"]);
    coord.json(&["lock", "b"]);
    coord.run(&["session", "end", "--session-id", "s-1"]).assert_code(0).assert_says("a");
    let record =
        std::fs::read_to_string(folder.path().join(".coord/locks.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let left: Vec<_> = record["locks"].as_object().expect("an object").keys().collect();
    assert_eq!(left, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_handoff_is_of_whoever_wrote_it_and_never_an_automatic_note() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    coord.shell(START, &input("SessionStart")).assert_code(0);
    coord.shell(END, &input("SessionEnd")).assert_code(0);
    let done = coord.shell(START, &input("SessionStart"));
    assert!(!done.out.contains("Newest handoff"), "{done:?}");
    coord.json(&["handoff", "write", "--summary", "half done", "--session-id", "s-1"]);
    let done = coord.shell(START, &input("SessionStart"));
    done.assert_says("Newest handoff, from yourself").assert_says("an earlier session of yours");
    let other = service.coord().with("AGENT_ID", "other").shell(START, &input("SessionStart"));
    other.assert_says("Newest handoff, from me").assert_says("written by another agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_of_a_session_says_what_earlier_ones_hold_and_how_to_take_it_over() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    coord.json(&["session", "start", "--session-id", "s-0"]);
    coord.json(&["lock", "src/a.rs", "--session-id", "s-0"]);
    let done = coord.shell(START, &input("SessionStart"));
    done.assert_says("Your other sessions hold locks: src/a.rs (session s-0).");
    let adopt = "coord session start --session-id s-1 --adopt";
    done.assert_says(adopt);
    coord.shell(adopt, "").assert_code(0);
    assert_eq!(coord.json(&["locks", "src/a.rs"])["lock"]["session_id"], "s-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_has_lost_is_said_by_the_command_that_learns_it() {
    for command in [
        &["lock", "src/b.rs"][..],
        &["renew", "src/b.rs"],
        &["guardrails", "check", "ls"],
        &["doctor"],
    ] {
        let service = Service::start().await;
        let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", "s-1");
        coord.json(&["session", "start"]);
        coord.json(&["lock", "src/a.rs"]);
        coord.json(&["lock", "src/b.rs"]);
        service.silence("s-1").await;
        service.coord().with("AGENT_ID", "other").json(&["lock", "src/a.rs"]);
        let done = coord.run(command);
        assert!(done.err.contains("It has lost locks: src/a.rs"), "{command:?}: {done:?}");
    }
}
