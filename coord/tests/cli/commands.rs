//! Commands about locks, work and their output, against the service.
use serde_json::json;

use crate::support::{Agents, BOSS, Coord, HEALTHY, Reply, Server, Service, nowhere};

#[tokio::test(flavor = "multi_thread")]
async fn input_that_the_service_rejects_is_exit_code_2() {
    let service = Service::start().await;
    let coord = service.coord();
    let done = coord.run(&["task", "--task-id", "no-uuid"]);
    done.assert_code(2).assert_says("task_id: Input should be a valid UUID");
    coord.run(&["audit", "--since", "yesterday"]).assert_code(2).assert_says("400");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_shows_its_token_and_its_holder() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let done = agents.me.run(&["lock", "src/a.rs", "--reason", "refactor"]);
    done.assert_code(0)
        .assert_says("Locked src/a.rs (acquired): fencing token 1, expires in 30 min.");
    let done = agents.other.run(&["lock", "./src//a.rs"]);
    assert_eq!(
        done.err,
        "Refused: locked_by_other (me, cloud_agent, \"refactor\", expires in 30 min).\n"
    );
    let done = agents.other.run(&["locks"]);
    assert!(done.out.starts_with("FILE PATH  LOCKED BY  SESSION ID  FENCING TOKEN  "), "{done:?}");
    let done = agents.other.run(&["locks", "src/a.rs", "src/b.rs"]);
    done.assert_code(0).assert_says("(free)").assert_says("me");
    agents.me.run(&["unlock", "src/a.rs", "--fencing-token", "2"]).assert_code(1);
    agents.other.run(&["unlock", "src/a.rs", "--force"]).assert_code(3);
    agents
        .boss
        .run(&["unlock", "src/a.rs", "--force"])
        .assert_code(0)
        .assert_says("Released src/a.rs.");
    agents.boss.run(&["unlock", "src/a.rs", "--force"]).assert_code(1).assert_says("not_locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_waits_until_it_is_free() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    agents.other.json(&["lock", "src/a.rs"]);
    let done = agents.me.run(&["lock", "src/a.rs", "--wait", "1", "--json"]);
    assert_eq!(done.assert_code(1).json()["position"], 1);
    let waiting = agents.me.clone();
    let waiting = std::thread::spawn(move || waiting.json(&["lock", "src/a.rs", "--wait", "60"]));
    agents.other.json(&["unlock", "src/a.rs"]);
    assert_eq!(waiting.join().expect("it ends")["fencing_token"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_waits_for_a_task() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let waiting = agents.me.clone();
    let waiting = std::thread::spawn(move || waiting.json(&["claim", "--wait", "60"]));
    let task = agents.task("test");
    assert_eq!(waiting.join().expect("it ends")["task_id"], task);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_is_named_in_body_or_headers() {
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
    // Without an id, the key decides.
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
async fn untrusted_text_contains_no_control_sequences() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    agents.other.json(&["lock", "a", "--reason", "x\u{1b}]0;owned\u{7}\u{202e}y"]);
    agents.other.json(&["handoff", "write", "--summary", "x\u{1b}[2Jy"]);
    for command in [&["locks"][..], &["lock", "a"], &["handoff", "read"], &["session", "start"]] {
        let done = agents.me.run(command);
        let text = format!("{}{}", done.out, done.err);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
        assert!(text.contains("\\u{1b}"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_renewed_unless_they_were_lost() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    agents.me.json(&["lock", "a"]);
    agents.me.json(&["renew", "a", "--fencing-token", "1", "--ttl-minutes", "90"]);
    service.expire("a").await;
    let done = agents.me.run(&["renew", "a", "--fencing-token", "1"]);
    done.assert_code(1).assert_says("The lock on a is lost").assert_says("not_locked");
    // To extend a free lock would be to acquire it.
    agents.me.run(&["renew", "a"]).assert_code(1).assert_says("You do not hold the lock on a");
    assert_eq!(agents.me.json(&["locks", "a"])["locked"], false);
    agents.other.json(&["lock", "b"]);
    agents.me.run(&["renew", "b"]).assert_code(1).assert_says("it is locked by other");
    agents.me.json(&["lock", "c", "--session-id", "s-1"]);
    let done = agents.me.run(&["renew", "c", "--session-id", "s-2"]);
    done.assert_code(1).assert_says("another session of your own agent me, s-1");
    agents.me.run(&["renew", "c", "--session-id", "s-1"]).assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_are_renewed_with_the_claim_token() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let id = agents.claimed("t");
    agents
        .me
        .run(&["renew", "--task-id", &id, "--lease-minutes", "5"])
        .assert_code(0)
        .assert_says("5 min");
    agents.me.run(&["renew", "--task-id", &id, "--claim-token", "x"]).assert_code(1);
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
    // One invalid entry invalidates the file.
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
async fn json_is_always_one_line() {
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

#[tokio::test(flavor = "multi_thread")]
async fn other_open_claims_are_lines_with_the_command_that_goes_on() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let first = agents.claimed("one");
    agents.task("two");
    let done = agents.me.run(&["claim"]);
    done.assert_code(0).assert_says("task type         two");
    done.assert_says(&format!("\n  {first}  one, attempt 1, lease ends in "));
    assert!(!done.out.contains('{'), "{done:?}");
    let renew = done.out.lines().find(|line| line.starts_with("    coord renew --task-id"));
    let renewed = agents.me.shell(renew.expect("a command"), "");
    renewed.assert_code(0).assert_says(&format!("The lease of task {first} now ends"));
    let mine = agents.me.run(&["tasks", "--mine"]);
    mine.assert_says(&format!("\n  {}\n", renew.expect("a command").trim()));
    // Also where there is no further task, and for several at once.
    let done = agents.me.run(&["claim"]);
    done.assert_code(1).assert_says("Refused: no_tasks_available").assert_says(&first);
    agents.task("three");
    agents.task("four");
    let done = agents.me.run(&["claim", "--count", "2"]);
    done.assert_code(0).assert_says("three").assert_says("four");
    assert_eq!(done.out.matches("claim token  ").count(), 2, "{done:?}");
    assert!(!done.out.contains('{'), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_state_is_an_error_that_names_the_known_ones() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let task = agents.task("one");
    assert_eq!(agents.me.json(&["tasks", "--status", "Pending"])["tasks"][0]["id"], task);
    for (wrong, known) in [
        (["tasks", "--status", "open"], "pending, claimed, running, completed, failed, cancelled"),
        (["agents", "--status", "gone"], "active, idle, disconnected"),
    ] {
        agents.me.run(&wrong).assert_code(2).assert_says(known);
    }
    agents.me.json(&["agents", "--status", "IDLE"]);
    agents.me.json(&["tasks", "--status", ""]);
}

#[test]
fn help_names_commands_and_not_tools() {
    let help = |words: &[&str]| Coord::new().run(&[words, &["--help"]].concat()).out;
    assert!(
        help(&["claim"]).contains("Finish the task with `coord complete` and the `claim_token`")
    );
    assert!(help(&["claim"]).contains("sent the `claim_token` with `coord renew`"));
    assert!(help(&["lock"]).contains("`coord verify` proves later"));
    assert!(help(&["unlock"]).contains("as given to `coord lock`"));
    assert!(help(&["guardrails", "list"]).contains("the patterns of `coord guardrails check`"));
    // The name of an operation as a value.
    assert!(help(&["audit"]).contains("such as `acquire_lock`"));
}

#[test]
fn quiet_also_silences_usage_errors() {
    let coord = Coord::at(&nowhere());
    for wrong in [
        &["lock", "--quiet"][..],
        &["--quiet", "session"],
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
fn a_result_that_cannot_be_written_is_exit_code_4() {
    let server = Server::start(|_, _| Reply::Json(200, HEALTHY.to_owned()));
    let coord = Coord::at(&server.url);
    for command in ["coord health", "coord health --json", "coord completions bash"] {
        let done = coord.shell(&format!("{command} >/dev/full"), "");
        done.assert_code(4).assert_says("cannot be written");
    }
    coord.shell("coord session start --hook >/dev/full", "").assert_code(0);
    // A reader that closes the pipe has read enough.
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

#[tokio::test(flavor = "multi_thread")]
async fn memories_of_every_agent_are_recalled_unless_only_the_own_ones_are_asked_for() {
    let service = Service::start().await;
    let [one, two] = ["one", "two"].map(|agent| service.coord().with("AGENT_ID", agent));
    one.json(&["remember", "--event-type", "error", "--summary", "HTTP503 of the proxy"]);
    let found = two.json(&["recall", "--query", "why 503?"]);
    assert_eq!((&found["count"], &found["memories"][0]["own"]), (&json!(1), &json!(false)));
    assert_eq!(two.json(&["recall", "--scope", "own"])["count"], 0);
    two.run(&["recall", "--help"]).assert_says("[default: workspace]");
}
