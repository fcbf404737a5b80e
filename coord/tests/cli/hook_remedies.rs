//! The remedies that the commands about git hooks print: each works when it is run as printed. Real
//! hook managers take part in `make test-clients`.
use std::os::unix::fs::PermissionsExt as _;

use crate::{
    hook_owners::Repository,
    support::{BOSS, Done, Service},
};

/// Returns the commands between backticks in what was printed.
fn commands(done: &Done) -> Vec<String> {
    let text = format!("{}{}", done.out, done.err);
    let commands = text.split('`').skip(1).step_by(2);
    let mut commands: Vec<_> = commands.map(str::to_owned).collect();
    commands.dedup();
    commands
}

/// A repository of a user whose global settings name a folder of hooks.
fn with_global_hooks() -> Repository {
    let repository = Repository::new();
    let shared = repository.folder.path().join("shared hooks");
    repository.shell(&format!("git config --global core.hooksPath '{}'", shared.display()));
    let hook = "#!/bin/sh\necho the hook of the user >&2\n";
    repository.write("../shared hooks/pre-commit", hook);
    repository.write("../shared hooks/commit-msg", hook);
    repository
}

#[test]
fn global_hooks_are_given_up_or_kept_as_the_refusal_says() {
    let repository = with_global_hooks();
    let done = repository.hook(&["install"]);
    done.assert_code(1).assert_says("That turns the hooks in").assert_says("off here");
    let remedies = commands(&done);
    let [set, link] = remedies.as_slice() else { panic!("{remedies:?}") };
    // Nothing misleads here either.
    let status = repository.hook(&["status"]);
    status.assert_code(1).assert_says(set).assert_says("Then: coord hook install");
    repository.shell(set);
    repository.hook(&["install"]).assert_code(0);
    assert!(repository.runs());
    repository.hook(&["uninstall"]).assert_code(0);
    // With the hooks of the user.
    repository.shell(link);
    repository.hook(&["install", "--force"]).assert_code(0);
    assert!(repository.runs());
    let script = "touch y && git add y
        git -c user.name=x -c user.email=x@example.org commit -q -m y";
    let commit = repository.coord.shell(script, "");
    commit.assert_says("the hook of the user").assert_says("cannot be reached");
}

#[test]
fn a_setting_of_one_work_tree_is_overridden_there() {
    let repository = Repository::new();
    repository.shell("git config extensions.worktreeConfig true");
    repository.shell("git config --worktree core.hooksPath ../shared");
    let set = commands(&repository.hook(&["install"]))[0].clone();
    repository.shell(&set);
    repository.hook(&["install"]).assert_code(0);
    assert!(repository.runs());
}

#[test]
fn a_manager_that_cannot_install_beside_global_hooks_is_not_recommended() {
    let repository = with_global_hooks();
    repository.write(".pre-commit-config.yaml", "repos:\n");
    for option in [&["install"][..], &["install", "--manager"]] {
        repository.hook(option).assert_code(1).assert_says("every repository of this machine");
    }
    let set = commands(&repository.hook(&["status"]))[0].clone();
    repository.shell(&set);
    repository.hook(&["install", "--force"]).assert_code(0);
    assert!(repository.runs());
}

#[test]
fn a_hook_that_git_runs_in_the_folder_of_husky_is_executable() {
    let repository = Repository::new();
    repository.write("package.json", r#"{"devDependencies":{"husky":"8"}}"#);
    repository.write(".husky/_/husky.sh", "# husky\n");
    repository.write(".husky/pre-commit", "#!/bin/sh\n. \"$(dirname \"$0\")/_/husky.sh\"\n");
    repository.shell("git config core.hooksPath .husky");
    repository.hook(&["install", "--manager"]).assert_code(0);
    for hook in [".husky/pre-commit", ".husky/pre-push"] {
        let mode = repository.path(hook).metadata().expect("a hook").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{hook}");
        assert!(repository.read(hook).starts_with("#!/bin/sh\n"), "{hook}");
    }
    assert!(repository.runs());
    repository.hook(&["uninstall"]).assert_code(0);
    assert!(!repository.exists(".husky/pre-push"));
}

#[test]
fn status_recommends_what_install_accepts() {
    const ACTIVE: &str = "#!/bin/sh\ncall_lefthook run\n";
    for (file, text, remedy) in [
        ("lefthook.yml", "commit-msg: {}\n", "Run: coord hook install --manager"),
        ("lefthook.yml", "pre-commit:\n  jobs: []\n", "prints into lefthook-local.yml."),
        ("lefthook.yml", "{pre-push: {}}\n", "prints into lefthook-local.yml."),
        ("lefthook.toml", "[pre-push]\n", "prints into lefthook-local.yml."),
        (".pre-commit-config.yaml", "repos: []\n", "prints into .pre-commit-config.yaml."),
        ("package.json", r#"{"simple-git-hooks":{}}"#, "prints into package.json."),
        (".simple-git-hooks.json", "{}", "prints into .simple-git-hooks.json."),
        (".overcommit.yml", "", "prints into the configuration of overcommit."),
    ] {
        let repository = Repository::new();
        repository.write(file, text);
        if file.starts_with("lefthook") {
            repository.write(".git/hooks/pre-commit", ACTIVE);
        }
        repository.hook(&["status"]).assert_code(1).assert_says(remedy);
        let done = repository.hook(&["install", "--manager"]);
        assert_eq!(done.code == 0, remedy.contains("--manager"), "{file}: {done:?}");
        assert!(!done.err.contains("With --manager"), "{file}: {done:?}");
    }
    // A hook of the user beside those of a manager.
    let repository = Repository::new();
    repository.write(".git/hooks/pre-commit", ACTIVE);
    repository.write(".git/hooks/pre-push", "#!/bin/sh\n");
    let status = repository.hook(&["status"]);
    status.assert_says("pre-push does NOT run").assert_says("coord hook install --manager");
    assert!(!status.out.contains("--force"), "{status:?}");
}

#[test]
fn a_command_that_simple_git_hooks_runs_already_stays_in_the_printed_entry() {
    let repository = Repository::new();
    repository.write("package.json", r#"{"simple-git-hooks":{"pre-commit":"npm test"}}"#);
    let done = repository.hook(&["install"]);
    done.assert_code(1).assert_says(r#"\nnpm test""#).assert_says(r#"  "pre-push": "#);
}

#[test]
fn the_words_of_git_are_lines() {
    let repository = Repository::new();
    let stranger = repository.coord.clone().with("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    let done = stranger.run(&["hook", "status"]);
    done.assert_code(2).assert_says("git: fatal: detected dubious ownership in repository at");
    let top = repository.path("").display().to_string();
    let top = top.trim_end_matches('/');
    done.assert_says(&format!("\n    git config --global --add safe.directory {top}\n"));
    assert!(!done.err.contains("\\t") && !done.err.contains("; "), "{done:?}");
    let remedy = done.err.lines().last().expect("a line").trim().to_owned();
    // The doctor names it as the remedy.
    let doctor = stranger.run(&["doctor"]);
    doctor.assert_says(&format!("call: {remedy}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_is_left_open_only_where_the_key_may_choose() {
    let open = Service::start_with(&[("COORDINATION_ALLOW_WORKSPACE_HEADER", "true")]).await;
    let closed = Service::start().await;
    let install = |coord: crate::support::Coord| {
        let repository = Repository::new();
        coord.inside(&repository.path("")).run(&["hook", "install"])
    };
    let choose = "to choose another: coord hook install --workspace repository";
    install(open.coord()).assert_code(0).assert_says(choose);
    for coord in [open.coord_with(BOSS), closed.coord(), closed.coord_with(BOSS)] {
        let done = install(coord);
        done.assert_code(0).assert_says("this key may not choose another");
        assert!(!done.err.contains("--workspace"), "{done:?}");
    }
    // A name that no workspace has is not recorded.
    let repository = Repository::new();
    let coord = open.coord().inside(&repository.path(""));
    let done = coord.run(&["hook", "install", "--workspace", "My Team"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(!repository.exists(".git/hooks/pre-commit"));
    assert_eq!(repository.coord.shell("git config coord.workspace", "").out, "");
}
