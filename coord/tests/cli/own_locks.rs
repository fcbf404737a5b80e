//! Which recorded locks are the caller's own: not those of other agents, whoever has them.
use serde_json::{Value, json};

use crate::{
    hooks::{Clone, World},
    support::{BOSS, Coord},
};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "x"];

/// A linked work tree, in which the agent of a bound key works.
fn boss_beside(me: &Clone) -> Clone {
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    let path = me.path.join("../linked").canonicalize().expect("a folder");
    let coord = me.coord.clone().with("COORDINATION_API_KEY", BOSS).with("AGENT_ID", "");
    Clone { coord: coord.inside(&path), path }
}

fn change_record(clone: &Clone, key: &str, member: &str, value: &str) {
    let file = clone.path.join(".coord/locks.json");
    let mut record: Value =
        serde_json::from_str(&std::fs::read_to_string(&file).expect("a record")).expect("JSON");
    record["locks"][key][member] = json!(value);
    std::fs::write(file, record.to_string()).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_another_agent_in_another_work_tree_stops_nobody_after_its_end() {
    let world = World::new().await;
    let me = world.clone("me");
    let boss = boss_beside(&me);
    boss.coord.json(&["lock", "src/a.rs"]);
    assert_eq!(boss.record()["src/a.rs"]["agent_id"], "boss", "the agent of the key");
    me.write("src/a.rs", "mine");
    let done = me.git(&COMMIT);
    done.assert_code(1).assert_says("it is locked by boss");
    // The record of a work tree of another agent is as it should be.
    assert!(!done.err.contains("does not count here"), "{done:?}");
    let done = me.coord.run(&["unlock", "src/a.rs"]);
    done.assert_code(1).assert_says("src/a.rs: boss holds its lock.");
    me.coord.run(&["unlock", "src/b.rs"]).assert_says("src/b.rs: nobody holds its lock.");
    me.coord.run(&["renew", "src/a.rs"]).assert_code(1).assert_says("it is locked by boss");
    // Given back at another door, which knows nothing of the record.
    world.service.coord_with(BOSS).json(&["unlock", "src/a.rs"]);
    me.must(&COMMIT);
    me.coord.run(&["renew", "src/a.rs"]).assert_code(1).assert_says("it is free");
    // A record of an earlier version does not name the agent.
    change_record(&boss, "src/a.rs", "agent_id", "");
    me.write("src/a.rs", "mine again");
    me.must(&COMMIT);
    // Its own agent relies on it, in its own work tree and in others.
    boss.write("src/a.rs", "theirs");
    boss.must(&COMMIT).assert_says("src/a.rs: note: its lock was given back");
    boss.coord.json(&["lock", "src/a.rs"]);
    world.service.expire("src/a.rs").await;
    me.coord.json(&["lock", "src/a.rs"]);
    me.coord.json(&["unlock", "src/a.rs"]);
    let beside = boss.coord.clone().inside(&me.path);
    me.write("src/a.rs", "once more");
    let beside = Clone { coord: beside, path: me.path.clone() };
    beside.git(&COMMIT).assert_code(1).assert_says("your lock (fencing token 2)");
    me.must(&COMMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_released_after_a_restart_by_its_recorded_token() {
    let world = World::new().await;
    let me = world.clone("me");
    let session = |id: &str| -> Coord { me.coord.clone().with("SESSION_ID", id) };
    session("s-1").json(&["lock", "src/a.rs"]);
    session("s-2").run(&["unlock", "src/a.rs"]).assert_code(0).assert_says("Released src/a.rs");
    assert_eq!(me.record(), json!({}));
    // What another session acquired in another work tree is possibly at work there.
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    let linked = me.path.join("../linked");
    session("s-1").json(&["lock", "src/a.rs"]);
    let done = session("s-2").inside(&linked).run(&["unlock", "src/a.rs"]);
    done.assert_code(1).assert_says("coord unlock src/a.rs --session-id s-1");
    // The advice is not given for a lock of another agent.
    session("s-1").json(&["unlock", "src/a.rs"]);
    let other = me.coord.clone().with("AGENT_ID", "other").with("SESSION_ID", "s-9");
    other.json(&["lock", "src/a.rs"]);
    change_record(&me, "src/a.rs", "agent_id", "");
    let done = session("s-2").run(&["unlock", "src/a.rs"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(!done.err.contains("--session-id"), "{done:?}");
    assert_eq!(me.record()["src/a.rs"]["session_id"], "s-9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_session_has_adopted_is_released_and_renewed_by_its_token() {
    let world = World::new().await;
    let me = world.clone("me");
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    let linked = me.path.join("../linked");
    let session = |id: &str| -> Coord { me.coord.clone().with("SESSION_ID", id) };
    let adopted = |from: &str, by: &str| {
        session(from).json(&["session", "start"]);
        session(from).json(&["lock", "src/a.rs"]);
        // Adopted by a tool, which knows nothing of the record.
        let elsewhere = world.service.coord().with("AGENT_ID", "me").with("SESSION_ID", by);
        elsewhere.json(&["session", "start", "--adopt"]);
    };
    // In any session where the lock was acquired, and in its own and the adopting one elsewhere.
    for (id, folder) in [
        ("s-1", &me.path),
        ("s-2", &me.path),
        ("s-9", &me.path),
        ("", &me.path),
        ("s-1", &linked),
        ("s-2", &linked),
    ] {
        adopted("s-1", "s-2");
        let coord = session(id).inside(folder);
        coord.run(&["renew", "src/a.rs"]).assert_code(0).assert_says("Extended src/a.rs");
        coord.run(&["unlock", "src/a.rs"]).assert_code(0).assert_says("Released src/a.rs");
        assert_eq!(me.record(), json!({}), "{id} in {}", folder.display());
    }
    // Another session elsewhere has no proof, and learns which one has the lock now.
    adopted("s-1", "s-2");
    let done = session("s-9").inside(&linked).run(&["unlock", "src/a.rs"]);
    done.assert_code(1).assert_says("acquired in session s-1, and session s-2 has adopted it");
    let advice = done.err.split("is yours: ").nth(1).expect("a command").lines().next();
    let advised = session("s-9").inside(&linked).shell(advice.expect("a line"), "");
    advised.assert_code(0).assert_says("Released src/a.rs");
    assert_eq!(me.record(), json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_follows_an_adoption() {
    let world = World::new().await;
    let me = world.clone("me");
    let session = |id: &str| -> Coord { me.coord.clone().with("SESSION_ID", id) };
    session("s-1").json(&["session", "start"]);
    session("s-1").json(&["lock", "src/a.rs"]);
    let task = ["submit", "--task-type", "x", "--description", "y"];
    session("s-1").json(&task);
    let claim = session("s-1").json(&["claim"]);
    let done = session("s-2").run(&["session", "start", "--adopt"]);
    done.assert_code(0).assert_says("Taken over from your other sessions: locks: src/a.rs");
    assert_eq!(me.record()["src/a.rs"]["session_id"], "s-2");
    let renew = format!(
        "coord renew --task-id {} --claim-token {}",
        claim["task_id"].as_str().expect("an id"),
        claim["claim_token"].as_str().expect("a token")
    );
    done.assert_says(&renew);
    for id in ["s-1", "s-2", ""] {
        session(id).shell(&renew, "").assert_code(0);
    }
    // The end of the earlier session does not make the hooks forget the lock.
    session("s-1").json(&["session", "end"]);
    assert_eq!(me.record()["src/a.rs"]["fencing_token"], 1);
    let complete = renew.replace("coord renew", "coord complete --success true");
    session("s-1").shell(&complete, "").assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_of_an_agent_without_a_name_comes_with_a_warning() {
    let world = World::new().await;
    let me = world.clone("me");
    let warning = "set AGENT_ID to a name of your own";
    let unnamed = me.coord.clone().with("AGENT_ID", "");
    let done = unnamed.run(&["lock", "src/a.rs"]);
    done.assert_code(0).assert_says("You are the agent cloud-agent");
    assert_eq!(done.err.matches(warning).count(), 1, "{done:?}");
    unnamed.json(&["unlock", "src/a.rs"]);
    let bound = unnamed.with("COORDINATION_API_KEY", BOSS);
    for named in [&me.coord, &bound] {
        let done = named.run(&["lock", "src/a.rs"]);
        assert!(done.code == 0 && !done.err.contains(warning), "{done:?}");
        named.json(&["unlock", "src/a.rs"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_tool_of_coord_mcp_releases_is_not_a_lost_one() {
    let world = World::new().await;
    let me = world.clone("me");
    let release = |coord: &Coord| {
        let arguments = json!({ "file_path": "src/a.rs" });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "release_lock", "arguments": arguments } });
        let done = coord.fed(&["mcp"], &format!("{call}\n"));
        done.json()["result"]["structuredContent"]["success"].clone()
    };
    me.coord.json(&["lock", "src/a.rs"]);
    // The tool of another agent releases nothing.
    assert_eq!(release(&me.coord.clone().with("AGENT_ID", "other")), false);
    assert_eq!(me.record()["src/a.rs"]["fencing_token"], 1);
    assert_eq!(release(&me.coord), true);
    assert_eq!(me.record(), json!({}));
    me.write("src/a.rs", "mine");
    me.must(&COMMIT);
    // A lock that was lost meanwhile is still a lost one.
    me.coord.json(&["lock", "src/a.rs"]);
    world.service.expire("src/a.rs").await;
    let other = world.service.coord().with("AGENT_ID", "other");
    other.json(&["lock", "src/a.rs"]);
    other.json(&["unlock", "src/a.rs"]);
    assert_eq!(release(&me.coord), false);
    me.write("src/a.rs", "again");
    me.git(&COMMIT).assert_code(1).assert_says("no longer valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_given_back_at_another_door_is_not_a_lost_one() {
    let world = World::new().await;
    let me = world.clone("me");
    let elsewhere = world.service.coord().with("AGENT_ID", "me");
    me.coord.json(&["lock", "src/a.rs"]);
    elsewhere.json(&["unlock", "src/a.rs"]);
    me.coord.run(&["doctor"]).assert_says("recorded locks of yours: 1, all held or given back");
    me.write("src/a.rs", "mine");
    me.must(&COMMIT).assert_says("src/a.rs: note: its lock was given back");
    assert_eq!(me.record(), json!({}));
    // One that another agent had since is lost, and so is one that expired.
    let other = world.service.coord().with("AGENT_ID", "other");
    me.coord.json(&["lock", "src/a.rs"]);
    elsewhere.json(&["unlock", "src/a.rs"]);
    other.json(&["lock", "src/a.rs"]);
    other.json(&["unlock", "src/a.rs"]);
    me.write("src/a.rs", "again");
    me.git(&COMMIT).assert_code(1).assert_says("your lock (fencing token 2) is no longer valid");
    me.coord.json(&["lock", "src/a.rs"]);
    world.service.expire("src/a.rs").await;
    me.git(&COMMIT).assert_code(1).assert_says("your lock (fencing token 4) is no longer valid");
}
