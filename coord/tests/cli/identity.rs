//! One agent in several sessions: the hooks, the commands, and which session they are in.
use serde_json::{Value, json};

use crate::{
    hooks::{Clone, World},
    support::{Agents, Coord, Reply, Server, Service},
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
