//! The record of locks and the git hooks, in repositories of the tests.
use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{BOSS, Coord, Done, FREE, Folder, Reply, Server, Service, nowhere};

/// The clone of an agent.
pub(crate) struct Clone {
    pub(crate) coord: Coord,
    pub(crate) path: PathBuf,
}

impl Clone {
    pub(crate) fn git(&self, arguments: &[&str]) -> Done {
        let all = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
        let mut command = self.coord.command("git");
        crate::support::finish(command.args(all).args(arguments), "")
    }

    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str]) -> Done {
        let done = self.git(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        done
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
        self.must(&["add", "-A"]);
    }

    /// Commits without running the hook.
    pub(crate) fn commit(&self, file: &str, text: &str) {
        self.write(file, text);
        self.must(&["commit", "-q", "--no-verify", "-m", text]);
    }

    pub(crate) fn push(&self) -> Done {
        self.git(&["push", "-q", "origin", "HEAD:main"])
    }

    pub(crate) fn record(&self) -> Value {
        let text = std::fs::read_to_string(self.path.join(".coord/locks.json")).expect("a record");
        serde_json::from_str::<Value>(&text).expect("JSON")["locks"].clone()
    }
}

/// A repository with a commit, and clones of it with the hooks installed.
pub(crate) struct World {
    pub(crate) service: Service,
    pub(crate) folder: Folder,
}

impl World {
    pub(crate) async fn new() -> World {
        let world = World { service: Service::start().await, folder: Folder::new() };
        let coord = world.service.coord().inside(world.folder.path());
        let script = "set -e
            git init -q --bare -b main origin.git
            git clone -q origin.git first
            cd first
            git checkout -q -b main
            mkdir src
            echo a > src/a.rs
            git add -A
            git -c user.name=x -c user.email=x@example.org commit -q -m first
            git push -q origin main";
        coord.shell(script, "").assert_code(0);
        world
    }

    pub(crate) fn clone(&self, agent: &str) -> Clone {
        let path = self.folder.path().join(agent);
        let coord = self.service.coord().with("AGENT_ID", agent);
        let done = coord.clone().inside(self.folder.path());
        done.shell(&format!("git clone -q origin.git {agent}"), "").assert_code(0);
        let coord = coord.inside(&path);
        coord.run(&["hook", "install"]).assert_code(0);
        Clone { coord, path }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_a_stale_token_is_stopped() {
    let world = World::new().await;
    let (late, quick) = (world.clone("late"), world.clone("quick"));
    late.coord.json(&["lock", "src/a.rs"]);
    late.commit("src/a.rs", "late");
    // The lock expires, and another agent acquires it.
    world.service.expire("src/a.rs").await;
    quick.coord.json(&["lock", "src/a.rs"]);
    quick.commit("src/a.rs", "quick");
    let done = late.push();
    done.assert_code(1).assert_says(
        "src/a.rs: your lock (fencing token 1) is no longer valid; quick holds it now",
    );
    quick.push().assert_code(0);
    assert_eq!(quick.must(&["log", "-1", "--format=%s", "origin/main"]).out, "quick\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_checked_by_the_files_of_its_commits() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/b.rs"]);
    other.coord.json(&["lock", "src/c.rs"]);
    // No agent holds this lock.
    me.commit("src/d.rs", "d");
    me.push().assert_code(0);
    // A new branch, in which an earlier commit has the file.
    me.must(&["checkout", "-q", "-b", "side"]);
    me.commit("src/b.rs", "b");
    me.must(&["rm", "-q", "src/b.rs"]);
    me.must(&["commit", "-q", "--no-verify", "-m", "gone"]);
    let done = me.git(&["push", "-q", "origin", "side"]);
    done.assert_code(1).assert_says("src/b.rs: it is locked by other");
    other.commit("src/b.rs", "b");
    other.must(&["pull", "-q", "--rebase", "origin", "main"]);
    other.push().assert_code(0);
    // Changes from the default branch are the work of other agents.
    me.must(&["checkout", "-q", "main"]);
    me.commit("src/e.rs", "e");
    me.must(&["pull", "-q", "--no-rebase", "--no-edit", "origin", "main"]);
    me.push().assert_code(0);
    me.must(&["push", "-q", "origin", "HEAD:refs/heads/new"]);
    // A moved file changes two paths.
    other.must(&["fetch", "-q"]);
    me.must(&["mv", "src/b.rs", "src/f.rs"]);
    me.must(&["commit", "-q", "--no-verify", "-m", "move"]);
    me.push().assert_code(1).assert_says("src/b.rs");
    me.must(&["reset", "-q", "--hard", "HEAD~"]);
    // Deleting a branch, or pushing nothing, changes no file.
    me.must(&["push", "-q", "--no-verify", "origin", "HEAD:refs/heads/gone"]);
    let lost = me.coord.clone().with("COORDINATION_API_URL", &nowhere());
    let lost = Clone { coord: lost, path: me.path.clone() };
    lost.must(&["push", "-q", "origin", ":gone"]);
    lost.push().assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_on_another_branch_of_the_remote_are_checked_again() {
    let world = World::new().await;
    let (late, quick) = (world.clone("late"), world.clone("quick"));
    late.must(&["checkout", "-q", "-b", "side"]);
    late.coord.json(&["lock", "src/a.rs"]);
    late.commit("src/a.rs", "late");
    late.commit("src/b.rs", "late");
    late.must(&["push", "-q", "origin", "side"]);
    world.service.expire("src/a.rs").await;
    quick.coord.json(&["lock", "src/a.rs"]);
    quick.coord.json(&["lock", "src/b.rs"]);
    let stale = "src/a.rs: your lock (fencing token 1) is no longer valid; quick holds it now";
    let done = late.git(&["push", "-q", "origin", "side:main"]);
    done.assert_code(1).assert_says(stale).assert_says("src/b.rs: it is locked by quick");
    // Here only the recorded lock can be checked.
    late.git(&["push", "-q", "origin", "side:new"]).assert_code(1).assert_says(stale);
    quick.commit("src/c.rs", "quick");
    quick.push().assert_code(0);
    late.git(&["push", "-q", "--force", "origin", "side:main"]).assert_code(1).assert_says(stale);
    late.coord.run(&["unlock", "src/a.rs"]).assert_code(1);
    late.must(&["push", "-q", "origin", "side:new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_that_a_branch_loses_are_checked() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/b.rs"]);
    other.commit("src/b.rs", "b");
    other.push().assert_code(0);
    me.must(&["fetch", "-q"]);
    let locked = "src/b.rs: it is locked by other";
    me.push().assert_code(1);
    me.git(&["push", "-q", "--force", "origin", "HEAD:main"]).assert_code(1).assert_says(locked);
    // A merge can leave out the changes of the other side.
    me.commit("src/c.rs", "c");
    me.must(&["merge", "-q", "-s", "ours", "-m", "ours", "origin/main"]);
    me.push().assert_code(1).assert_says(locked);
    me.must(&["reset", "-q", "--hard", "origin/main"]);
    me.push().assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_from_the_default_branch_are_not_checked() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    me.must(&["checkout", "-q", "-b", "side"]);
    me.commit("src/c.rs", "c");
    me.must(&["push", "-q", "origin", "side"]);
    other.coord.json(&["lock", "src/b.rs"]);
    other.commit("src/b.rs", "b");
    other.push().assert_code(0);
    me.must(&["pull", "-q", "--no-rebase", "--no-edit", "origin", "main"]);
    me.must(&["push", "-q", "origin", "side"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_by_url_is_a_push_to_the_remote_with_that_url() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/b.rs"]);
    other.commit("src/b.rs", "b");
    other.push().assert_code(0);
    me.must(&["pull", "-q", "origin", "main"]);
    me.coord.clone().inside(world.folder.path()).shell("git init -q --bare copy.git", "");
    let origin = me.must(&["remote", "get-url", "origin"]).out.trim().to_owned();
    let copy = world.folder.path().join("copy.git").display().to_string();
    for url in [&origin, &copy] {
        me.must(&["push", "-q", url, "HEAD:refs/heads/new"]);
    }
    me.commit("src/b.rs", "mine");
    for url in [&origin, &copy] {
        let done = me.git(&["push", "-q", url, "HEAD:refs/heads/other"]);
        done.assert_code(1).assert_says("src/b.rs: it is locked by other");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_for_git_log_change_nothing() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/b.rs"]);
    me.must(&["config", "log.showRoot", "false"]);
    me.must(&["checkout", "-q", "--orphan", "fresh"]);
    me.commit("src/b.rs", "b");
    let done = me.git(&["push", "-q", "origin", "fresh"]);
    done.assert_code(1).assert_says("src/b.rs: it is locked by other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_stopped_by_locks_of_other_agents_and_by_lost_locks() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "mine");
    let commit = |it: &Clone| it.git(&["commit", "-q", "-m", "x"]);
    commit(&me).assert_code(1).assert_says("src/a.rs: it is locked by other, it expires in 30 min");
    other.coord.json(&["unlock", "src/a.rs"]);
    commit(&me).assert_code(0);
    me.coord.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "again");
    commit(&me).assert_code(0);
    world.service.expire("src/a.rs").await;
    me.write("src/a.rs", "once more");
    commit(&me).assert_code(1).assert_says("nobody holds it now");
    me.coord.json(&["lock", "src/a.rs"]);
    commit(&me).assert_code(0);
    // A deletion is a change. `unlock` removes the lock from the record even after it was lost.
    world.service.expire("src/a.rs").await;
    me.must(&["rm", "-q", "src/a.rs"]);
    commit(&me).assert_code(1);
    me.coord.run(&["unlock", "src/a.rs"]).assert_code(1);
    commit(&me).assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_name_cannot_forge_a_line() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    let file = "src/\nx: fine";
    other.write(file, "theirs");
    other.coord.json(&["lock", file]);
    me.write(file, "mine");
    let done = me.git(&["commit", "-q", "-m", "x"]);
    done.assert_code(1).assert_says("src/\\nx: fine: it is locked by other");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_is_requested_once() {
    let world = World::new().await;
    let me = world.clone("me");
    let server = Server::start(|request, _| match request.path.as_str() {
        "/profiles/me" => {
            let identity = json!({ "agent_id": "me", "workspace": "default" });
            Reply::Json(200, json!({ "identity": identity }).to_string())
        }
        "/locks/verify" => {
            let asked: Value = serde_json::from_str(&request.body).expect("JSON");
            let result = |lock: &Value| {
                let file = &lock["file_path"];
                json!({ "file_path": file, "valid": false, "locked_by": "other" })
            };
            let asked = asked["locks"].as_array().expect("a list");
            let results: Vec<_> = asked.iter().map(result).collect();
            Reply::Json(200, json!({ "valid": false, "results": results }).to_string())
        }
        _ => Reply::Json(404, "{}".to_owned()),
    });
    let there = me.coord.clone().with("COORDINATION_API_URL", &server.url);
    for file in ["b", "c", "d"] {
        me.write(file, "mine");
    }
    there.run(&["hook", "pre-commit"]).assert_code(1).assert_says("d: it is locked by other");
    let paths: Vec<_> = server.requests().into_iter().map(|it| it.path).collect();
    assert_eq!(paths, ["/locks/verify", "/profiles/me"]);
    let vague = Server::start(|_, _| {
        Reply::Json(200, r#"{"valid":false,"results":[{},{},{}]}"#.to_owned())
    });
    let there = me.coord.clone().with("COORDINATION_API_URL", &vague.url);
    there.run(&["hook", "pre-commit"]).assert_code(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_acquired_elsewhere_needs_no_record() {
    let world = World::new().await;
    let me = world.clone("me");
    let elsewhere = world.service.coord().with("AGENT_ID", "me");
    elsewhere.json(&["lock", "src/a.rs", "--session-id", "s-1"]);
    me.write("src/a.rs", "mine");
    let commit = |session: &str| {
        let coord = me.coord.clone().with("SESSION_ID", session);
        Clone { coord, path: me.path.clone() }.git(&["commit", "-q", "-m", "x"])
    };
    let done = commit("s-2");
    done.assert_code(0).assert_says("note: another session of your own agent holds its lock: s-1");
    me.write("src/a.rs", "more");
    assert_eq!(commit("s-1").assert_code(0).err, "");
    me.write("src/a.rs", "again");
    me.must(&["commit", "-q", "-m", "x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_the_service_normalises_is_the_same_file() {
    let world = World::new().await;
    let me = world.clone("me");
    // Two characters for git, one for the service (Unicode NFC).
    let file = "src/e\u{301}.rs";
    me.coord.json(&["lock", file]);
    me.write(file, "x");
    let commit = || me.git(&["commit", "-q", "-m", "x"]);
    world.service.expire("src/\u{e9}.rs").await;
    commit().assert_code(1).assert_says("fencing token 1");
    me.coord.json(&["lock", file]);
    commit().assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_side_of_a_merge_is_not_checked_again() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    other.coord.json(&["lock", "src/b.rs"]);
    other.commit("src/b.rs", "b");
    other.commit("src/a.rs", "theirs");
    other.push().assert_code(0);
    me.commit("src/a.rs", "ours");
    me.git(&["pull", "-q", "--no-rebase", "origin", "main"]).assert_code(1);
    me.write("src/a.rs", "both");
    me.must(&["commit", "-q", "-m", "merge"]);
    // Changes of the merge commit itself are checked.
    other.coord.json(&["lock", "src/z.rs"]);
    me.write("src/z.rs", "z");
    me.must(&["commit", "-q", "--no-verify", "--amend", "-m", "merge"]);
    me.push().assert_code(1).assert_says("src/z.rs: it is locked by other");
    other.coord.json(&["unlock", "src/z.rs"]);
    me.push().assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_service_stops_commits_unless_configured() {
    let world = World::new().await;
    let me = world.clone("me");
    let with = |name: &str, value: &str| Clone {
        coord: me.coord.clone().with(name, value),
        path: me.path.clone(),
    };
    me.write("src/a.rs", "mine");
    let commit = ["commit", "-q", "-m", "x"];
    let lost = with("COORDINATION_API_URL", &nowhere());
    let done = lost.git(&commit);
    done.assert_code(1).assert_says("cannot be reached").assert_says("coord.unreachable allow");
    lost.coord.run(&["hook", "pre-commit"]).assert_code(4);
    me.must(&["config", "coord.unreachable", "maybe"]);
    lost.git(&commit).assert_code(1);
    me.must(&["config", "coord.unreachable", "allow"]);
    // Only an unreachable service is allowed, not an unknown key.
    let stranger = with("COORDINATION_API_KEY", "wrong");
    stranger.git(&commit).assert_code(1).assert_says("401");
    stranger.coord.run(&["hook", "pre-commit"]).assert_code(3);
    lost.git(&commit).assert_code(0).assert_says("not checked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_record_stops_every_commit() {
    let world = World::new().await;
    let me = world.clone("me");
    me.coord.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "mine");
    let file = me.path.join(".coord/locks.json");
    let good = std::fs::read_to_string(&file).expect("a record");
    for record in [
        "{",
        "",
        "[]",
        "null",
        "{}",
        r#"{"locks":{}}"#,
        r#"{"version":1}"#,
        r#"{"version":1,"locks":[]}"#,
        r#"{"version":1,"locks":null}"#,
        &good.replace("\"version\": 1", "\"version\": 2"),
        &good.replace("\"version\": 1", "\"version\": \"1\""),
        &good.replace("\"fencing_token\": 1", "\"fencing_token\": \"1\""),
        &good.replace("\"fencing_token\": 1", "\"fencing_token\": 1.5"),
        &good.replace("\"url\"", "\"location\""),
        r#"{"version":1,"locks":{"other":1}}"#,
    ] {
        std::fs::write(&file, record).expect("a file");
        let done = me.coord.run(&["hook", "pre-commit"]);
        assert_eq!(done.code, 2, "{record}: {done:?}");
        done.assert_says("locks.json").assert_says("damaged");
        me.git(&["commit", "-q", "-m", "x"]).assert_code(1);
        // An invalid record is not overwritten.
        me.coord.run(&["lock", "src/b.rs"]).assert_says("could not be recorded");
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), record);
    }
    std::fs::write(&file, &good).expect("a file");
    me.must(&["commit", "-q", "-m", "x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_lock_counts_only_for_its_agent() {
    let world = World::new().await;
    let me = world.clone("me");
    let commit =
        |coord: Coord| Clone { coord, path: me.path.clone() }.git(&["commit", "-q", "-m", "x"]);
    let other = me.coord.clone().with("AGENT_ID", "other");
    other.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "mine");
    let done = commit(me.coord.clone());
    done.assert_code(1).assert_says("src/a.rs: it is locked by other").assert_says("agent other");
    // To unlock the lock of another agent does not change the record.
    me.coord.run(&["unlock", "src/a.rs"]).assert_code(1);
    commit(other.clone()).assert_code(0);
    // Only the service knows the agent of this key.
    other.json(&["unlock", "src/a.rs"]);
    let boss = me.coord.clone().with("COORDINATION_API_KEY", BOSS).with("AGENT_ID", "");
    boss.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "mine again");
    commit(me.coord.clone()).assert_code(1).assert_says("src/a.rs: it is locked by boss");
    commit(boss).assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_lock_counts_only_at_its_service() {
    let world = World::new().await;
    let me = world.clone("me");
    let second = Service::start().await;
    let moved = me.coord.clone().with("COORDINATION_API_URL", &second.url);
    let moved = Clone { coord: moved, path: me.path.clone() };
    // Both services give token 1.
    me.coord.json(&["lock", "src/a.rs"]);
    let other = second.coord().with("AGENT_ID", "other");
    other.json(&["lock", "src/a.rs"]);
    me.write("src/a.rs", "mine");
    let done = moved.git(&["commit", "-q", "-m", "x"]);
    done.assert_code(1).assert_says("src/a.rs: it is locked by other");
    done.assert_says("does not count here").assert_says(&world.service.url);
    let verify = ["verify", "--file", ".coord/locks.json"];
    moved.coord.run(&verify).assert_code(2).assert_says(&world.service.url);
    me.coord.run(&verify).assert_code(0);
    other.json(&["unlock", "src/a.rs"]);
    moved.must(&["commit", "-q", "-m", "x"]).assert_says("does not count here");
    // The same service by another name of this machine.
    world.service.expire("src/a.rs").await;
    me.write("src/a.rs", "late");
    let renamed = world.service.url.replace("127.0.0.1", "LocalHost");
    let renamed = me.coord.clone().with("COORDINATION_API_URL", &renamed);
    renamed.run(&["hook", "pre-commit"]).assert_code(1).assert_says("no longer valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_is_private_and_ignored_by_git() {
    let world = World::new().await;
    let me = world.clone("me");
    let inside = me.coord.clone().inside(&me.path.join("src")).with("SESSION_ID", "s-1");
    inside.json(&["lock", ".//a.rs"]);
    inside.json(&["lock", &me.path.join("src/b.rs").display().to_string()]);
    let lock = json!({
        "fencing_token": 1, "url": world.service.url, "workspace": "", "agent_id": "me",
        "session_id": "s-1",
    });
    assert_eq!(me.record(), json!({ "src/a.rs": lock, "src/b.rs": lock }));
    assert_eq!(me.must(&["status", "--porcelain"]).out, "");
    let file = me.path.join(".coord/locks.json");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    me.coord.json(&["verify", "--file", ".coord/locks.json"]);
    inside.json(&["unlock", "..//src//a.rs"]);
    assert_eq!(me.record(), json!({ "src/b.rs": lock }));
    // A refused lock is not recorded, and a forced unlock removes the lock from the record.
    world.service.coord_with(BOSS).json(&["lock", "src/c.rs"]);
    me.coord.run(&["lock", "src/c.rs"]).assert_code(1);
    let boss = me.coord.clone().with("COORDINATION_API_KEY", BOSS).with("AGENT_ID", "");
    boss.json(&["unlock", "src/b.rs", "--force"]);
    assert_eq!(me.record(), json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_relative_to_the_current_folder() {
    let world = World::new().await;
    let me = world.clone("me");
    me.write("src/deep/b.rs", "b");
    let inside = me.coord.clone().inside(&me.path.join("src"));
    let locked = |path: &str| inside.json(&["lock", path])["file_path"].clone();
    for (path, key) in [
        ("a.rs", "src/a.rs"),
        ("./deep/b.rs", "src/deep/b.rs"),
        ("deep/../a.rs", "src/a.rs"),
        ("../src/a.rs", "src/a.rs"),
        // These do not exist: files that are new, deleted or not checked out.
        ("src/a.rs", "src/src/a.rs"),
        ("new.rs", "src/new.rs"),
        ("no/such/../folder.rs", "src/no/folder.rs"),
        (":/new.rs", "new.rs"),
        ("db:schema:a.rs", "db:schema:a.rs"),
    ] {
        assert_eq!(locked(path), key, "{path}");
    }
    inside.run(&["lock", "a.rs"]).assert_code(0).assert_says("src/a.rs");
    assert_eq!(inside.json(&["locks", "a.rs", "new.rs"])[0]["file_path"], "src/a.rs");
    inside.run(&["verify", "a.rs=1"]).assert_code(0);
    assert_eq!(inside.json(&["renew", "a.rs"])["file_path"], "src/a.rs");
    assert_eq!(inside.json(&["unlock", "a.rs"])["file_path"], "src/a.rs");
    assert!(me.record().get("src/a.rs").is_none());
    // In the top folder every path is a key.
    assert_eq!(me.coord.json(&["lock", "a.rs"])["file_path"], "a.rs");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_locks_are_all_recorded() {
    let world = World::new().await;
    let me = world.clone("me");
    let started: Vec<_> = (0..20)
        .map(|it| {
            let coord = me.coord.clone();
            std::thread::spawn(move || coord.json(&["lock", &format!("f{it}")]))
        })
        .collect();
    for thread in started {
        thread.join().expect("it ends");
    }
    assert_eq!(me.record().as_object().expect("an object").len(), 20);
}

#[test]
fn hooks_are_installed_next_to_hooks_of_other_programs() {
    let folder = Folder::new();
    let coord = Coord::at(&nowhere()).inside(folder.path());
    coord.run(&["hook", "install"]).assert_code(2).assert_says("Expected a git work tree");
    coord.shell("git init -q . && rm -rf .git/hooks", "").assert_code(0);
    let hooks = folder.path().join(".git/hooks");
    let installed = || std::fs::read_to_string(hooks.join("pre-push")).expect("a hook");
    coord.run(&["hook", "install"]).assert_code(0);
    let first = installed();
    coord.run(&["hook", "install"]).assert_code(0);
    assert_eq!(installed(), first);
    let foreign = "#!/bin/sh\ncat > seen-\"$1\"\n[ -z \"$FAIL\" ] || exit 7\n";
    std::fs::write(hooks.join("pre-push"), foreign).expect("a file");
    coord.shell("chmod +x .git/hooks/pre-push", "").assert_code(0);
    coord.run(&["hook", "install"]).assert_code(1).assert_says("was not installed by coord");
    assert_eq!(installed(), foreign);
    coord.run(&["hook", "install", "--force"]).assert_code(0);
    assert_eq!(installed(), first);
    // Both hooks get the input of git. When the first one fails, the second does not run.
    let zero = "0".repeat(40);
    let line = format!("x {zero} y {zero}\n");
    coord.shell(".git/hooks/pre-push origin url", &line).assert_code(0);
    assert_eq!(std::fs::read_to_string(folder.path().join("seen-origin")).expect("a file"), line);
    coord.clone().with("FAIL", "1").shell(".git/hooks/pre-push origin url", &line).assert_code(7);
    // The program that installed the first hook puts it back: nothing is kept any more.
    std::fs::write(hooks.join("pre-push"), foreign).expect("a file");
    coord.run(&["hook", "install", "--force"]).assert_code(0).assert_says("Removed");
    // A second foreign hook does not overwrite the kept one.
    std::fs::write(hooks.join("pre-push"), "#!/bin/sh\n").expect("a file");
    coord.run(&["hook", "install", "--force"]).assert_code(2).assert_says("before-coord");
}

#[test]
fn hooks_are_installed_in_the_folder_that_git_uses() {
    let folder = Folder::new();
    let coord = Coord::at(&nowhere()).with("COORDINATION_API_KEY", FREE).inside(folder.path());
    coord.shell("git init -q . && git config core.hooksPath my/hooks", "").assert_code(0);
    coord.run(&["hook", "install"]).assert_code(0);
    assert!(folder.path().join("my/hooks/pre-commit").is_file());
    assert!(!folder.path().join(".git/hooks/pre-commit").exists());
    coord.shell("echo x > x && git add x", "").assert_code(0);
    let script = "git -c user.name=x -c user.email=x@example.org commit -q -m x";
    coord.shell(script, "").assert_code(1).assert_says("cannot be reached");
}
