//! The records of locks and the git hooks in linked work trees, in submodules and in sandboxes.
use crate::{
    hooks::{Clone, World},
    support::{Folder, Service},
};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "x"];

/// The same caller in another folder.
fn at(clone: &Clone, folder: &str) -> Clone {
    let path = clone.path.join(folder);
    Clone { coord: clone.coord.clone().inside(&path), path }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_lost_in_one_work_tree_stops_commits_in_the_others() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    me.must(&["worktree", "add", "-q", ".claude/worktrees/x", "-b", "x"]);
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    let (nested, linked) = (at(&me, ".claude/worktrees/x"), at(&me, "../linked"));
    nested.coord.json(&["lock", "src/a.rs"]);
    linked.write("src/a.rs", "mine");
    linked.must(&COMMIT);
    world.service.expire("src/a.rs").await;
    other.coord.json(&["lock", "src/a.rs"]);
    other.coord.json(&["unlock", "src/a.rs"]);
    let lost = "src/a.rs: your lock (fencing token 1) is no longer valid; nobody holds it now";
    for clone in [&me, &nested, &linked] {
        clone.write("src/a.rs", "again");
        let done = clone.git(&COMMIT);
        assert!(done.code == 1 && done.err.contains(lost), "{}: {done:?}", clone.path.display());
        // Git makes an index of its own for a commit of some files.
        clone.git(&["commit", "-q", "-m", "x", "src/a.rs"]).assert_code(1).assert_says(lost);
    }
    // The advice is right in the folder in which git was called.
    let inside = linked.coord.clone().inside(&linked.path.join("src"));
    let line = "git -c user.name=x -c user.email=x@example.org commit -q -m x";
    let done = inside.shell(line, "");
    done.assert_code(1).assert_says("lock it again with: coord lock :/src/a.rs");
    linked.git(&["push", "-q", "origin", "y"]).assert_code(1).assert_says(lost);
    linked.coord.run(&["renew", "src/a.rs"]).assert_code(1).assert_says("is lost");
    // The lock of a work tree counts there before that of another one.
    linked.coord.json(&["lock", "src/a.rs"]);
    linked.must(&COMMIT);
    me.must(&COMMIT);
    nested.git(&COMMIT).assert_code(0).assert_says("your agent has locked the file anew");
    // A lock is released wherever it was acquired.
    me.coord.json(&["unlock", "src/a.rs"]);
    nested.write("src/a.rs", "more");
    nested.must(&COMMIT);
    // A work tree that is gone has no record.
    linked.coord.json(&["lock", "src/a.rs"]);
    std::fs::remove_dir_all(&linked.path).expect("a folder");
    world.service.expire("src/a.rs").await;
    me.write("src/a.rs", "last");
    me.must(&COMMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_removes_its_locks_from_all_records() {
    let world = World::new().await;
    let me = world.clone("me");
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    let linked = at(&me, "../linked");
    me.coord.json(&["session", "start", "--session-id", "s-1"]);
    linked.coord.json(&["lock", "src/a.rs", "--session-id", "s-1"]);
    me.coord.json(&["session", "end", "--session-id", "s-1"]);
    linked.write("src/a.rs", "mine");
    linked.must(&COMMIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_of_a_submodule_check_the_keys_of_the_outermost_repository() {
    let world = World::new().await;
    let (me, other) = (world.clone("me"), world.clone("other"));
    let add = ["submodule", "add", "-q", "../origin.git", "mods/sub"];
    me.must(&[&["-c", "protocol.file.allow=always"], &add[..]].concat());
    me.must(&COMMIT);
    let inner = at(&me, "mods/sub");
    inner.coord.run(&["hook", "install"]).assert_code(0);
    let mut theirs = other.coord.json(&["lock", "mods/sub/src/a.rs"]);
    assert_eq!(theirs["file_path"].take(), "mods/sub/src/a.rs");
    inner.write("src/a.rs", "mine");
    let locked = "mods/sub/src/a.rs: it is locked by other";
    inner.git(&COMMIT).assert_code(1).assert_says(locked);
    other.coord.json(&["unlock", "mods/sub/src/a.rs"]);
    // The file of the same name in the outer repository is another one.
    other.coord.json(&["lock", "src/a.rs"]);
    me.coord.json(&["lock", "mods/sub/src/a.rs"]);
    inner.must(&COMMIT);
    world.service.expire("mods/sub/src/a.rs").await;
    inner.write("src/a.rs", "late");
    let done = inner.git(&COMMIT);
    done.assert_code(1).assert_says("mods/sub/src/a.rs: your lock");
    done.assert_says("lock it again with: coord lock src/a.rs");
    inner.coord.json(&["lock", "src/a.rs"]);
    inner.must(&COMMIT);
    assert_eq!(me.record()["mods/sub/src/a.rs"]["fencing_token"], 3);
    // The entry of the submodule is a file of the outer repository, whatever `diff` shows.
    other.coord.json(&["lock", "mods/sub"]);
    me.must(&["config", "diff.ignoreSubmodules", "all"]);
    me.must(&["add", "mods/sub"]);
    me.git(&COMMIT).assert_code(1).assert_says("mods/sub: it is locked by other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_git_folder_that_cannot_be_written_does_not_hinder_the_record() {
    let world = World::new().await;
    let me = world.clone("me");
    // Root can write to a folder without permissions, but not into a file.
    std::fs::remove_dir_all(me.path.join(".git/info")).expect("a folder");
    std::fs::write(me.path.join(".git/info"), "").expect("a file");
    me.coord.run(&["lock", "src/a.rs"]).assert_code(0).assert_says("Locked src/a.rs");
    assert_eq!(me.record()["src/a.rs"]["fencing_token"], 1);
    assert_eq!(me.must(&["status", "--porcelain"]).out, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_cannot_be_recorded_is_exit_code_1() {
    let world = World::new().await;
    let me = world.clone("me");
    std::fs::write(me.path.join(".coord"), "").expect("a file");
    let done = me.coord.run(&["lock", "src/a.rs"]);
    done.assert_code(1).assert_says("Locked src/a.rs").assert_says("could not be recorded");
    done.assert_says("To release it: coord unlock src/a.rs");
    let done = me.coord.run(&["renew", "src/a.rs", "--json"]);
    assert_eq!(done.assert_code(1).json()["action"], "refreshed");
    me.coord.run(&["unlock", "src/a.rs"]).assert_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_the_repository_of_another_user_is_recorded() {
    let service = Service::start().await;
    let folder = Folder::new();
    let me = service.coord().inside(folder.path());
    me.shell("git init -q . && mkdir src && touch src/a.rs", "").assert_code(0);
    // Git's own tests use this variable for a repository of another user.
    let stranger = me.with("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    let inside = stranger.clone().inside(&folder.path().join("src"));
    let done = inside.run(&["lock", "a.rs"]);
    done.assert_code(0).assert_says("Locked src/a.rs").assert_says("dubious ownership");
    done.assert_says("safe.directory");
    let record = std::fs::read_to_string(folder.path().join(".coord/locks.json"));
    assert!(record.expect("a record").contains("src/a.rs"));
    stranger.run(&["hook", "pre-commit"]).assert_code(2).assert_says("dubious ownership");
    inside.run(&["unlock", "a.rs"]).assert_code(0);
}
