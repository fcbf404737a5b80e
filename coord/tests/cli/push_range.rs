//! Which commits of a push are judged as the caller's own work.
use std::{fmt::Write as _, io::Write as _, process::Stdio};

use crate::{
    hooks::World,
    support::{LIMIT, exit_code, lines_of},
};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_default_branch_without_head_is_found_by_its_usual_names() {
    for (remote, branch, head) in [
        ("origin", "master", None),
        ("upstream", "main", None),
        ("upstream", "master", None),
        // A head that leads nowhere, as after the remote has renamed its branch.
        ("origin", "main", Some("gone")),
        ("upstream", "master", Some("gone")),
    ] {
        let world = World::new().await;
        let here = world.service.coord().inside(world.folder.path());
        here.shell(&format!("git -C origin.git branch -m {branch}"), "").assert_code(0);
        let (me, other) = (world.clone("me"), world.clone("other"));
        if remote != "origin" {
            me.must(&["remote", "rename", "origin", remote]);
        }
        me.must(&["config", &format!("remote.{remote}.followRemoteHEAD"), "never"]);
        me.must(&["remote", "set-head", remote, "--delete"]);
        let name = format!("refs/remotes/{remote}/HEAD");
        if let Some(gone) = head {
            me.must(&["symbolic-ref", &name, &format!("refs/remotes/{remote}/{gone}")]);
        }
        me.must(&["checkout", "-q", "-b", "side"]);
        me.commit("src/c.rs", "c");
        me.must(&["push", "-q", remote, "side"]);
        other.coord.json(&["lock", "src/b.rs"]);
        other.commit("src/b.rs", "b");
        other.must(&["push", "-q", "origin", branch]);
        me.must(&["fetch", "-q", remote]);
        me.must(&["merge", "-q", "--no-edit", &format!("{remote}/{branch}")]);
        let push = ["push", "-q", remote, "side"];
        let case = format!("{remote}/{branch}, head: {head:?}");
        assert_eq!(me.git(&push).code, 0, "{case}");
        assert_ne!(me.git(&["rev-parse", "-q", "--verify", &name]).code, 0, "{case}");
        // The same branch by another name is not known.
        me.must(&["reset", "-q", "--hard", "HEAD~"]);
        me.must(&["push", "-q", "--force", "--no-verify", remote, "side"]);
        let known = format!("refs/remotes/{remote}/{branch}");
        me.must(&["update-ref", &format!("refs/remotes/{remote}/trunk"), &known]);
        me.must(&["update-ref", "-d", &known]);
        me.must(&["merge", "-q", "--no-edit", &format!("{remote}/trunk")]);
        let done = me.git(&push);
        done.assert_code(1).assert_says("src/b.rs: it is locked by other");
        done.assert_says(&format!("git remote set-head {remote} -a"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_commits_are_long_looked_for_says_so() {
    let world = World::new().await;
    let me = world.clone("me");
    me.commit("src/b.rs", "b");
    // Git puts this folder before the path of a hook. Its `git` waits for a byte before each `log`.
    let (folder, bytes) = (world.folder.path().join("slow"), world.folder.path().join("bytes"));
    let program = format!(
        "#!/bin/sh\ncase \" $* \" in *' log '*) dd bs=1 count=1 if={} of=/dev/null 2>/dev/null ;; esac\n",
        bytes.display()
    );
    let script = format!(
        "set -e; real=$(git --exec-path); mkdir {folder} && ln -s \"$real\"/* {folder}/
         rm {folder}/git && cat > {folder}/git && echo \"exec $(command -v git) \\\"\\$@\\\"\" >> {folder}/git
         chmod +x {folder}/git && mkfifo {bytes}",
        folder = folder.display(),
        bytes = bytes.display()
    );
    me.coord.shell(&script, &program).assert_code(0);
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&bytes).expect("a FIFO");
    let slow = me.coord.clone().with("GIT_EXEC_PATH", &folder.display().to_string());
    let mut push = slow.command("git");
    push.args(["push", "-q", "origin", "HEAD:main"]).stderr(Stdio::piped());
    let mut push = push.spawn().expect("it starts");
    let lines = lines_of(push.stderr.take().expect("a pipe"));
    let line = lines.recv_timeout(LIMIT).expect("a line while the search goes on");
    assert!(line.starts_with("coord: looking for the files to check"), "{line}");
    (&both).write_all(&[b'.'; 64]).expect("written");
    assert_eq!(exit_code(&mut push), 0);
    assert_eq!(lines.iter().collect::<Vec<_>>(), [""; 0], "it says so once");
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
