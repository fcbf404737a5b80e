//! One agent in several sessions: the hooks, the commands, and which session they are in.
use std::{io::Write as _, process::Stdio};

use serde_json::{Value, json};

use crate::{
    hooks::{Clone, World},
    support::{Agents, Coord, LIMIT, Reply, Server, Service, exit_code, lines_of},
};

fn commit(clone: &Clone, coord: &Coord) -> crate::support::Done {
    clone.write("src/a.rs", &clone.must(&["rev-parse", "HEAD"]).out);
    let clone = Clone { coord: coord.clone(), path: clone.path.clone() };
    clone.git(&["commit", "-q", "-m", "x"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_notes_a_lock_of_another_session_of_its_own_agent() {
    let world = World::new().await;
    let me = world.clone("me");
    let elsewhere = world.service.coord().with("AGENT_ID", "me").with("SESSION_ID", "s-1");
    let here = me.coord.clone().with("SESSION_ID", "s-2");
    elsewhere.json(&["lock", "src/a.rs"]);
    let note = "src/a.rs: note: another session of your own agent holds its lock: s-1, locked ";
    commit(&me, &here).assert_code(0).assert_says(note);
    let pushing = Clone { coord: here.clone(), path: me.path.clone() };
    pushing.push().assert_code(0).assert_says(note);
    // The lock of the work tree went straight to the agent's other session.
    elsewhere.json(&["unlock", "src/a.rs"]);
    here.json(&["lock", "src/a.rs"]);
    world.service.expire("src/a.rs").await;
    elsewhere.json(&["lock", "src/a.rs"]);
    commit(&me, &here).assert_code(0).assert_says(note);
    // Another agent had it in between.
    let other = world.service.coord().with("AGENT_ID", "other");
    for coord in [&other, &elsewhere] {
        world.service.expire("src/a.rs").await;
        coord.json(&["lock", "src/a.rs"]);
    }
    let done = commit(&me, &here);
    done.assert_code(0).assert_says(note);
    let ended = "your lock (fencing token 2) has ended, and your agent has locked the file anew. Another agent";
    done.assert_says(ended);
    // The old lock is out of the record.
    let done = commit(&me, &here);
    done.assert_code(0).assert_says(note);
    assert!(!done.err.contains("has ended"), "{done:?}");
}

/// A tool can release and acquire a file more than once between two commits.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_stops_no_agent_whose_own_tool_has_locked_the_file_anew() {
    let world = World::new().await;
    let me = world.clone("me");
    let here = me.coord.clone().with("SESSION_ID", "s-2");
    let tool = world.service.coord().with("AGENT_ID", "me").with("SESSION_ID", "s-1");
    here.json(&["lock", "src/a.rs"]);
    for _ in 0..2 {
        world.service.expire("src/a.rs").await;
        tool.json(&["lock", "src/a.rs"]);
    }
    commit(&me, &here)
        .assert_code(0)
        .assert_says("has ended, and your agent has locked the file anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_the_own_agent_is_refused_with_its_session() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let (first, second) =
        (agents.me.clone().with("SESSION_ID", "s-1"), agents.me.clone().with("SESSION_ID", "s-2"));
    first.json(&["lock", "a"]);
    for arguments in [&["lock", "a"][..], &["lock", "a", "--wait", "30"]] {
        let done = second.run(arguments);
        done.assert_code(1)
            .assert_says("held by another session of your own agent me: s-1, locked");
        done.assert_says("coord unlock a --session-id s-1");
    }
    second.run(&["renew", "a"]).assert_code(1).assert_says("session of your own agent me, s-1");
    second.run(&["unlock", "a", "--session-id", "s-1"]).assert_code(0);
    second.run(&["lock", "a", "--wait", "30"]).assert_code(0);
    let done = agents.other.run(&["lock", "a"]).assert_code(1).err.clone();
    assert!(!done.contains("own agent"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_another_session_stays_in_the_record_while_it_is_held() {
    let world = World::new().await;
    let me = world.clone("me");
    let (first, second) =
        (me.coord.clone().with("SESSION_ID", "s-1"), me.coord.clone().with("SESSION_ID", "s-2"));
    first.json(&["lock", "src/a.rs"]);
    let done = second.run(&["unlock", "src/a.rs", "--fencing-token", "7"]);
    done.assert_code(1).assert_says("coord unlock src/a.rs --session-id s-1");
    assert_eq!(me.record()["src/a.rs"]["session_id"], "s-1");
    second.json(&["unlock", "src/a.rs", "--session-id", "s-1"]);
    assert_eq!(me.record(), json!({}));
    // A lock that was lost is no longer relied on, whatever the session.
    first.json(&["lock", "src/a.rs"]);
    world.service.expire("src/a.rs").await;
    second.run(&["unlock", "src/a.rs"]).assert_code(1);
    assert_eq!(me.record(), json!({}));
}

#[test]
fn a_wait_ends_when_the_own_agent_holds_the_lock() {
    for (member, value) in [("same_agent", json!(true)), ("same_agent", json!(false))] {
        let is_own = value == true;
        let server = Server::start(move |_, number| {
            let reason = if number == 0 { "locked_by_other" } else { "locked_by_other_session" };
            let refusal = json!({ "success": false, "reason": reason, member: value });
            Reply::Json(200, refusal.to_string())
        });
        let coord = Coord::at(&server.url).with("COORDINATION_API_KEY", "key");
        coord.run(&["lock", "a", "--wait", "30"]).assert_code(1);
        let bodies = server.requests().into_iter().map(|request| request.body);
        let waits: Vec<_> = bodies
            .map(|body| serde_json::from_str::<Value>(&body).expect("JSON")["wait_seconds"].take())
            .collect();
        let expected = if is_own { vec![json!(null)] } else { vec![json!(null), json!(30)] };
        assert_eq!(waits, expected);
    }
}

/// Calls tools over one MCP connection, each after the answer to the one before, and returns their answers.
fn call_tools(coord: &Coord, calls: &[(&str, Value)]) -> Vec<Value> {
    let mut command = coord.command(env!("CARGO_BIN_EXE_coord"));
    let mut program =
        command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = program.stdin.take().expect("a pipe");
    let lines = lines_of(program.stdout.take().expect("a pipe"));
    let mut ask = |method: &str, params: Value| {
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        writeln!(input, "{message}").expect("written");
        let line = lines.recv_timeout(LIMIT).expect("an answer");
        serde_json::from_str::<Value>(&line).expect("JSON")["result"].take()
    };
    ask(
        "initialize",
        json!({ "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "test", "version": "1" } }),
    );
    let answers = calls.iter().map(|(name, arguments)| {
        let params = json!({ "name": name, "arguments": arguments });
        ask("tools/call", params)["structuredContent"].take()
    });
    let answers = answers.collect();
    drop(input);
    assert_eq!(exit_code(&mut program), 0);
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_in_the_session_of_claude_code_says_nothing_of_its_own_lock() {
    let world = World::new().await;
    let me = world.clone("me");
    let tool = world.service.coord().with("AGENT_ID", "me").with("CLAUDE_CODE_SESSION_ID", "c-1");
    let locked = call_tools(&tool, &[("acquire_lock", json!({ "file_path": "src/a.rs" }))]);
    assert_eq!(locked[0]["session_id"], "c-1", "{locked:?}");
    let commit_in = |session: &str| {
        let done = commit(&me, &me.coord.clone().with("CLAUDE_CODE_SESSION_ID", session));
        done.assert_code(0);
        done.err
    };
    assert_eq!(commit_in("c-1"), "");
    assert!(commit_in("c-2").contains("another session of your own agent holds its lock: c-1"));
    // The same with the lock in the record of the work tree.
    let here = me.coord.clone().with("CLAUDE_CODE_SESSION_ID", "c-1");
    here.json(&["lock", "src/a.rs"]);
    assert_eq!(commit_in("c-1"), "");
    let pushing = Clone { coord: here, path: me.path.clone() };
    assert!(!pushing.push().assert_code(0).err.contains("session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_tool_has_acquired_does_not_stop_the_hook_of_its_agent() {
    let world = World::new().await;
    let me = world.clone("me");
    let tool = world.service.coord().with("AGENT_ID", "me");
    let calls = [
        ("register_session", json!({ "session_id": "x" })),
        ("acquire_lock", json!({ "file_path": "src/a.rs" })),
    ];
    let answers = call_tools(&tool, &calls);
    assert_eq!(answers[1]["session_id"], "x", "{answers:?}");
    let hook = json!({ "session_id": "abc" }).to_string();
    me.coord.shell("coord session start --hook", &hook).assert_code(0);
    let here = me.coord.clone().with("SESSION_ID", "abc");
    let note = "src/a.rs: note: another session of your own agent holds its lock: x, locked ";
    commit(&me, &here).assert_code(0).assert_says(note);
    for wait in [&["lock", "src/a.rs"][..], &["lock", "src/a.rs", "--wait", "30"]] {
        let done = here.run(wait);
        done.assert_code(1).assert_says("held by another session of your own agent me: x, locked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_claude_code_counts_where_no_other_is_named() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("CLAUDE_CODE_SESSION_ID", "c-1");
    let whoami =
        |coord: &Coord| coord.run(&["whoami", "--json"]).json()["identity"]["session_id"].clone();
    assert_eq!(whoami(&coord), "c-1");
    assert_eq!(whoami(&coord.clone().with("SESSION_ID", "")), "c-1");
    assert_eq!(whoami(&coord.clone().with("SESSION_ID", "s-1")), "s-1");
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params":
        { "name": "acquire_lock", "arguments": { "file_path": "a" } } });
    coord.fed(&["mcp"], &format!("{call}\n")).assert_code(0);
    assert_eq!(coord.json(&["locks", "a"])["lock"]["session_id"], "c-1");
}
