//! Which commits of a push are judged as the caller's own work.
use std::fmt::Write as _;

use crate::hooks::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_to_a_fork_is_judged_by_what_no_remote_has() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    let here = me.coord.clone().inside(world.folder.path());
    here.shell("git init -q --bare fork.git && git init -q --bare second.git", "").assert_code(0);
    me.must(&["remote", "add", "fork", "../fork.git"]);
    other.coord.json(&["lock", "src/a.rs"]);
    me.commit("src/b.rs", "b");
    // The history, with src/a.rs, is known to `origin`.
    me.must(&["push", "-q", "fork", "main"]);
    me.must(&["push", "-q", "../second.git", "main"]);
    me.commit("src/a.rs", "mine");
    let locked = "src/a.rs: it is locked by other";
    me.git(&["push", "-q", "fork", "HEAD:refs/heads/new"]).assert_code(1).assert_says(locked);
    me.must(&["reset", "-q", "--hard", "HEAD~"]);
    // Merged work of other agents comes to a fork from another remote.
    other.commit("src/a.rs", "theirs");
    other.push().assert_code(0);
    me.must(&["fetch", "-q", "origin"]);
    me.must(&["merge", "-q", "--no-edit", "origin/main"]);
    me.must(&["push", "-q", "fork", "main"]);
    // A branch whose earlier commit was not fetched counts by what is known.
    let unknown = "1".repeat(40);
    let head = me.must(&["rev-parse", "HEAD"]).out;
    let line = format!("refs/heads/main {} refs/heads/main {unknown}\n", head.trim());
    let push = ["hook", "pre-push", "fork", "../fork.git"];
    me.coord.fed(&push, &line).assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_pushed_to_a_fork_is_still_the_callers_own() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    let here = me.coord.clone().inside(world.folder.path());
    here.shell("git clone -q --bare origin.git fork.git", "").assert_code(0);
    me.must(&["remote", "add", "fork", "../fork.git"]);
    me.must(&["fetch", "-q", "fork"]);
    me.commit("src/a.rs", "mine");
    me.must(&["push", "-q", "fork", "main"]);
    other.coord.json(&["lock", "src/a.rs"]);
    me.push().assert_code(1).assert_says("src/a.rs: it is locked by other");
    // What another agent merged in the fork is not.
    other.must(&["remote", "add", "fork", "../fork.git"]);
    other.must(&["pull", "-q", "fork", "main"]);
    other.must(&["push", "-q", "--no-verify", "origin", "HEAD:side"]);
    other.commit("src/b.rs", "theirs");
    other.must(&["push", "-q", "fork", "HEAD:main"]);
    other.coord.json(&["lock", "src/b.rs"]);
    other.coord.json(&["unlock", "src/a.rs"]);
    me.must(&["pull", "-q", "fork", "main"]);
    me.push().assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_branch_needs_no_head_of_the_remote() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    me.must(&["remote", "set-head", "origin", "--delete"]);
    me.must(&["checkout", "-q", "-b", "side"]);
    me.commit("src/c.rs", "c");
    me.must(&["push", "-q", "origin", "side"]);
    other.coord.json(&["lock", "src/b.rs"]);
    other.commit("src/b.rs", "b");
    other.push().assert_code(0);
    me.must(&["pull", "-q", "--no-rebase", "--no-edit", "origin", "main"]);
    me.must(&["push", "-q", "origin", "side"]);
    // A default branch of another name has to be fetched.
    me.must(&["update-ref", "refs/remotes/origin/trunk", "refs/remotes/origin/main"]);
    me.must(&["update-ref", "-d", "refs/remotes/origin/main"]);
    me.must(&["reset", "-q", "--hard", "HEAD~"]);
    me.must(&["push", "-q", "--force", "--no-verify", "origin", "side"]);
    me.must(&["merge", "-q", "--no-edit", "origin/trunk"]);
    let done = me.git(&["push", "-q", "origin", "side"]);
    done.assert_code(1).assert_says("src/b.rs: it is locked by other");
    done.assert_says("git remote set-head origin -a");
}

/// Many commits for `git fast-import`: each changes one file, and the first one another as well,
/// which the second one removes again.
fn history(commits: usize) -> String {
    let mut text = String::new();
    for number in 0..commits {
        let extra = match number {
            0 => "M 644 inline old.rs\ndata 1\nx\nM 644 inline gone.rs\ndata 1\nx\n",
            1 => "D gone.rs\n",
            _ => "",
        };
        write!(
            text,
            "commit refs/heads/long\ncommitter x <x@example.org> {number} +0000\ndata 1\nx\n\
             {extra}M 644 inline new.rs\ndata 5\n{number:05}\n"
        )
        .expect("a text");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_very_many_commits_count_by_what_they_change_together() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    me.coord.shell("git fast-import --quiet", &history(2100)).assert_code(0);
    me.coord.clone().inside(world.folder.path()).shell("git init -q --bare empty.git", "");
    let push = || me.git(&["push", "-q", "../empty.git", "long"]);
    for (file, is_stopped) in [("old.rs", true), ("new.rs", true), ("gone.rs", false)] {
        other.coord.json(&["lock", file]);
        match is_stopped {
            true => drop(push().assert_code(1).assert_says(&format!("{file}: it is locked"))),
            false => drop(push().assert_code(0)),
        }
        other.coord.json(&["unlock", file]);
    }
}
