//! The lock keys of paths, in real repositories.
use serde_json::{Value, json};

use crate::{
    spellings::{MEANT, NAMES, UNRESOLVED, UNRESOLVED_WITHOUT_KEY, WITHOUT_KEY},
    support::{Agents, Coord, Folder, Reply, Server, Service},
};

/// A repository with a submodule, linked work trees and symbolic links, and one next to it.
const REPOSITORIES: &str = "set -e
    git config --file config user.name x
    git config --file config user.email x@example.org
    git config --file config protocol.file.allow always
    export GIT_CONFIG_GLOBAL=$PWD/config
    git init -q -b main library
    cd library
    mkdir lib
    echo x > lib/x.rs
    git add .
    git commit -q -m x
    cd ..
    git init -q -b main repo
    cd repo
    mkdir -p src docs
    echo a > src/a.rs
    echo d > docs/d.md
    ln -s ../docs src/docs
    ln -s a.rs src/link.rs
    ln -s gone.rs src/dangling.rs
    ln -s /etc/hosts hosts
    ln -s circle circle
    git add .
    git submodule --quiet add ../library mods/sub
    git commit -q -m x
    git worktree add -q .claude/worktrees/x -b x
    git worktree add -q ../linked -b y
    git -C mods/sub worktree add -q ../../../linked-sub -b z
    git init -q other
    echo o > other/o.rs
    git clone -q --bare . ../beside/.bare
    echo 'gitdir: ./.bare' > ../beside/.git
    git -C ../beside/.bare worktree add -q ../first main
    git -C ../beside/.bare worktree add -q ../second -b s
    git -C ../beside/.bare worktree add -q inner -b i
    ln -s repo ../outside";

struct Place {
    service: Service,
    folder: Folder,
    agents: Agents,
}

impl Place {
    async fn new() -> Place {
        let service = Service::start().await;
        let folder = Folder::new();
        let agents = Agents::of(&service);
        agents.me.clone().inside(folder.path()).shell(REPOSITORIES, "").assert_code(0);
        Place { service, folder, agents }
    }

    fn me(&self, folder: &str) -> Coord {
        self.agents.me.clone().inside(&self.folder.path().join(folder))
    }

    fn path(&self, path: &str) -> String {
        self.folder.path().join(path).display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_name_a_file_leads_to_one_key() {
    let place = Place::new().await;
    let absolute = place.path("repo/src/a.rs");
    let absolute_outside = place.path("outside/src/new.rs");
    for (folder, path, key) in [
        ("repo", "src/a.rs", "src/a.rs"),
        ("repo", "./src//a.rs", "src/a.rs"),
        ("repo", &absolute, "src/a.rs"),
        ("linked", &absolute, "src/a.rs"),
        ("", "repo/src/a.rs", "src/a.rs"),
        ("", &absolute_outside, "src/new.rs"),
        // Linked work trees, nested or not.
        ("repo", ".claude/worktrees/x/src/a.rs", "src/a.rs"),
        ("repo", ".claude/worktrees/x/src/new.rs", "src/new.rs"),
        ("repo/.claude/worktrees/x/src", "a.rs", "src/a.rs"),
        ("repo/.claude/worktrees/x", "../../../src/a.rs", "src/a.rs"),
        ("linked", "src/a.rs", "src/a.rs"),
        ("linked", "../repo/docs/new.md", "docs/new.md"),
        // Work trees beside a bare repository.
        ("beside", "first/src/a.rs", "src/a.rs"),
        ("beside/first", "../second/src/a.rs", "src/a.rs"),
        ("beside/.bare", "inner/src/a.rs", "src/a.rs"),
        ("beside/.bare/inner/src", "new.rs", "src/new.rs"),
        // Symbolic links.
        ("repo", "../outside/src/a.rs", "src/a.rs"),
        ("outside/src", "a.rs", "src/a.rs"),
        ("repo", "src/docs/d.md", "docs/d.md"),
        ("repo/src/docs", "d.md", "docs/d.md"),
        ("repo", "src/link.rs", "src/a.rs"),
        ("repo", "src/dangling.rs", "src/gone.rs"),
        // Submodules.
        ("repo", "mods/sub/lib/x.rs", "mods/sub/lib/x.rs"),
        ("repo/mods/sub/lib", "x.rs", "mods/sub/lib/x.rs"),
        ("repo/mods/sub", "new.rs", "mods/sub/new.rs"),
        ("repo/mods/sub", "../../src/a.rs", "src/a.rs"),
        ("linked-sub", "lib/x.rs", "mods/sub/lib/x.rs"),
        ("repo", "mods/sub", "mods/sub"),
        // What looks odd, and is a file or a key.
        ("repo", "pages/[id].tsx", "pages/[id].tsx"),
        ("repo", "db:schema:users", "db:schema:users"),
        ("repo", "api:GET /users", "api:GET /users"),
    ] {
        let me = place.me(folder);
        assert_eq!(me.json(&["lock", path])["file_path"], key, "{folder}: {path}");
        assert_eq!(me.json(&["locks", path])["file_path"], key, "{folder}: {path}");
        assert_eq!(me.json(&["renew", path])["file_path"], key, "{folder}: {path}");
        assert_eq!(me.json(&["unlock", path])["file_path"], key, "{folder}: {path}");
    }
    assert_eq!(place.agents.me.json(&["locks"])["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_file_of_the_repository_is_refused() {
    let place = Place::new().await;
    let me = place.me("repo");
    let url = format!("file://{}", place.path("repo/src/a.rs"));
    let meant = "probably `src/a.rs`";
    let outside = "a home folder is not part of a key, and /home/of/me/src/a.rs is outside";
    for (path, words) in [
        ("src", "a folder locks nothing"),
        ("src/", "a folder locks nothing"),
        ("no-such/", "a folder locks nothing"),
        (".", "a folder locks nothing"),
        ("src/**", "a pattern locks nothing"),
        ("src/{a,b}.rs", "a pattern locks nothing"),
        ("../library/lib/x.rs", "in another repository"),
        ("other/o.rs", "in another repository"),
        ("other/new.rs", "in another repository"),
        ("/etc/hosts", "outside of the repository"),
        ("../new", "outside of the repository"),
        ("hosts", "/etc/hosts is outside of the repository"),
        ("circle", "in a circle"),
        (
            ".claude/worktrees/gone/src/a.rs",
            "that is not there; expected a file of this one, probably `src/a.rs`",
        ),
        (
            ".worktrees/gone/src/a.rs",
            "that is not there; expected a file of this one, probably `src/a.rs`",
        ),
        (
            "worktrees/gone/src/a.rs",
            "that is not there; expected a file of this one, probably `src/a.rs`",
        ),
        (".git/config", "belongs to git"),
        (".git/new", "belongs to git"),
        (".GIT/config", "belongs to git"),
        ("mods/sub/.git", "belongs to git"),
        (&url, meant),
        ("@src/a.rs", meant),
        ("src/a.rs:12", meant),
        ("src/a.rs:12:5", meant),
        ("`src/a.rs`", meant),
        ("\"src/a.rs\"", meant),
        (r"src\a.rs", meant),
        ("src/a.rs, src/b.rs", meant),
        ("src/a.rs#L3", meant),
        ("src/a.rs:", meant),
        ("${workspaceFolder}/src/a.rs", meant),
        (":(top)src/a.rs", meant),
        ("~/src/a.rs", outside),
        ("$HOME/src/a.rs", outside),
        ("${HOME}/src/a.rs", outside),
        (
            "file:///home/of/me/src/a.rs",
            "a URL is not part of a key, and /home/of/me/src/a.rs is outside",
        ),
        ("`../../x`", "is outside of the repository"),
        (r"%USERPROFILE%\x", "such as `src/main.rs`"),
    ] {
        let me = me.clone().with("HOME", "/home/of/me");
        let done = me.run(&["lock", path]);
        done.assert_code(2).assert_says(path).assert_says(words);
        assert!(!words.contains("outside") || !done.err.contains("probably"), "{done:?}");
    }
    // A home folder that the repository is in leads to the key.
    let me_at_home = me.clone().with("HOME", &place.path(""));
    for path in ["~/repo/src/a.rs", "$HOME/repo/src/a.rs"] {
        me_at_home.run(&["lock", path]).assert_code(2).assert_says(meant);
    }
    assert_eq!(me.json(&["locks"])["count"], 0);
    // A file that is really named so is a file. So is one that git knows and the disk does not.
    for name in ["@src.rs", "a.rs:12", "`a`", "a, b", "a*b"] {
        std::fs::write(place.folder.path().join("repo").join(name), "").expect("a file");
        assert_eq!(me.json(&["lock", name])["file_path"], name);
    }
    me.shell("git add -- '@src.rs' && rm -f '@src.rs'", "").assert_code(0);
    me.json(&["unlock", "@src.rs"]);
    // A lock that another client has put on a folder can be released.
    place.agents.me.json(&["lock", "./src"]);
    me.json(&["unlock", "src"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_there_is_relative_to_the_current_folder() {
    let place = Place::new().await;
    let (top, inside) = (place.me("repo"), place.me("repo/src"));
    top.json(&["lock", "a.rs"]);
    inside.json(&["lock", "a.rs"]);
    std::fs::remove_file(place.folder.path().join("repo/src/a.rs")).expect("a file");
    inside.json(&["verify", "a.rs=1"]);
    assert_eq!(inside.json(&["locks", "a.rs"])["file_path"], "src/a.rs");
    assert_eq!(inside.json(&["unlock", "a.rs"])["file_path"], "src/a.rs");
    assert_eq!(top.json(&["locks"])["locks"][0]["file_path"], "a.rs");
    // Neither a file nor a folder has to be checked out.
    top.shell("git checkout -q . && git sparse-checkout set src", "").assert_code(0);
    assert!(!place.folder.path().join("repo/docs").exists());
    assert_eq!(inside.json(&["lock", "../docs/d.md"])["file_path"], "docs/d.md");
    top.run(&["lock", "docs"]).assert_code(2).assert_says("a folder locks nothing");
    // A path from the root in a subfolder is probably a mistake.
    let done = inside.run(&["lock", "src/link.rs"]);
    done.assert_code(0).assert_says("Locked src/src/link.rs").assert_says("give :/src/link.rs");
}

#[tokio::test(flavor = "multi_thread")]
async fn capitals_and_composed_letters_are_those_of_git() {
    let place = Place::new().await;
    let me = place.me("repo");
    // As on macOS, where both names open one file.
    me.shell("git config core.ignoreCase true", "").assert_code(0);
    for (path, key) in [
        ("SRC/A.RS", "src/a.rs"),
        ("Src/New.rs", "src/New.rs"),
        ("src/a.rs", "src/a.rs"),
        ("mods/sub/LIB/X.rs", "mods/sub/LIB/X.rs"),
        ("New/File", "New/File"),
    ] {
        assert_eq!(me.json(&["lock", path])["file_path"], key, "{path}");
    }
    // The record has the composed form. A renewal finds it, and the token that was lost.
    let decomposed = "src/e\u{301}.rs";
    me.json(&["lock", decomposed]);
    place.service.expire("src/\u{e9}.rs").await;
    place.agents.other.json(&["lock", decomposed]);
    place.agents.other.json(&["unlock", decomposed]);
    me.run(&["renew", decomposed]).assert_code(1).assert_says("is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_tree_that_git_cannot_read_has_the_same_keys() {
    let place = Place::new().await;
    // In a container that has only a linked work tree, its repository is missing.
    let linked = place.folder.path().join("linked");
    std::fs::write(linked.join(".git"), "gitdir: /no/such/folder\n").expect("a file");
    let done = place.me("linked/src").run(&["lock", "a.rs"]);
    done.assert_code(0).assert_says("Locked src/a.rs").assert_says("git: fatal:");
    assert!(linked.join(".coord/locks.json").is_file());
}

#[test]
fn paths_of_requests_that_are_not_about_locks_are_keys_too() {
    let server = Server::start(|_, _| Reply::Json(200, r#"{"success":true}"#.to_owned()));
    let folder = Folder::new();
    let me = Coord::at(&server.url).inside(folder.path());
    me.shell("git init -q . && mkdir src && touch src/a.rs", "").assert_code(0);
    let inside = me.inside(&folder.path().join("src"));
    let sent = |arguments: &[&str], name: &str| -> Value {
        inside.run(arguments);
        let request = server.requests().pop().expect("a request");
        serde_json::from_str::<Value>(&request.body).expect("JSON")[name].clone()
    };
    let check = ["guardrails", "check", "ls", "--file-paths", "a.rs", "new.rs", "/etc/passwd"];
    let expected = json!(["src/a.rs", "src/new.rs", "/etc/passwd"]);
    assert_eq!(sent(&check, "file_paths"), expected);
    let write = ["handoff", "write", "--summary", "s", "--relevant-files", "a.rs", "the parser"];
    assert_eq!(sent(&write, "relevant_files"), json!(["src/a.rs", "the parser"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_spellings_holds_in_a_work_tree_and_outside_of_one() {
    let service = Service::start().await;
    let (agents, folder) = (Agents::of(&service), Folder::new());
    let inside = agents.me.clone().inside(folder.path());
    inside.shell("git init -q .", "").assert_code(0);
    let outside = Folder::new();
    let outside = agents.me.clone().inside(outside.path());
    for me in [&inside, &outside] {
        for (text, key) in NAMES {
            assert_eq!(me.json(&["lock", text])["file_path"], *key, "{text}");
            assert_eq!(me.json(&["unlock", text])["file_path"], *key, "{text}");
        }
        for (text, key) in MEANT {
            me.run(&["lock", "--", text]).assert_code(2).assert_says(&format!("probably `{key}`"));
        }
        for (text, words) in WITHOUT_KEY {
            me.run(&["lock", text]).assert_code(2).assert_says(words);
        }
    }
    for (text, key) in UNRESOLVED {
        outside.run(&["lock", text]).assert_code(2).assert_says(&format!("probably `{key}`"));
    }
    outside.shell("mkdir src", "").assert_code(0);
    for (text, words) in UNRESOLVED_WITHOUT_KEY {
        outside.run(&["lock", text]).assert_code(2).assert_says(words);
    }
    assert_eq!(agents.me.json(&["locks"])["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_exists_is_the_file_whatever_its_name_looks_like() {
    let place = Place::new().await;
    let (me, inside) = (place.me("repo"), place.me("repo/src"));
    me.shell("mkdir -p 'src/a:x' 'src/db:x' src/@types && touch 'src/a:x/y' 'src/db:x/y'", "")
        .assert_code(0);
    assert_eq!(inside.json(&["lock", "a:x/y"])["file_path"], "src/a:x/y");
    assert_eq!(inside.json(&["lock", "a:x/new"])["file_path"], "src/a:x/new");
    assert_eq!(inside.json(&["lock", "@types/new.ts"])["file_path"], "src/@types/new.ts");
    // A namespace counts before a file.
    assert_eq!(inside.json(&["lock", "db:x/y"])["file_path"], "db:x/y");
    // What is suggested names the file from the folder in which the command runs.
    inside.run(&["lock", "a.rs:12"]).assert_code(2).assert_says("probably `:/src/a.rs`");
    inside.run(&["lock", ":/src/a.rs:12"]).assert_code(2).assert_says("probably `:/src/a.rs`");
    inside.shell("touch makefile", "").assert_code(0);
    inside.run(&["lock", "makefile:12"]).assert_code(2).assert_says("probably `:/src/makefile`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_with_an_odd_key_can_be_named_as_it_is() {
    let place = Place::new().await;
    let me = place.me("repo");
    for key in ["src/a.rs#L3", "src/**", "$HOME/x"] {
        // As long as a file has this name, it can be locked.
        me.shell(&format!("mkdir -p '$HOME' && touch '{key}'"), "").assert_code(0);
        let token = me.json(&["lock", key])["fencing_token"].clone();
        me.shell(&format!("rm -r '{key}' '$HOME'"), "").assert_code(0);
        let says = |arguments: &[&str]| {
            let done = me.run(arguments);
            done.assert_code(0).assert_says(&format!("`{key}` is taken as the key that it is"));
        };
        says(&["locks", key]);
        says(&["verify", &format!("{key}={token}")]);
        says(&["unlock", key]);
        // Where no lock has the key, the command says what was probably meant.
        let done = me.run(&["unlock", "src/a.rs#L3"]);
        done.assert_code(1).assert_says("lock_not_found_or_not_owner").assert_says("`src/a.rs`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_another_client_has_made_is_released_by_its_key() {
    let place = Place::new().await;
    let me = place.me("repo");
    for key in ["/abs/z.rs", &place.path("repo/src/a.rs"), ".git/config", "src/a.rs#L3"] {
        // `coord` makes no such lock.
        place.service.lock_over_http("me", key);
        let taken = format!("`{key}` is taken as the key that it is");
        me.run(&["locks", key]).assert_code(0).assert_says(&taken);
        me.run(&["renew", key]).assert_code(0).assert_says(&taken);
        let other = place.agents.other.clone().inside(&place.folder.path().join("repo"));
        other.run(&["unlock", key]).assert_code(1).assert_says("me holds its lock");
        me.run(&["unlock", key]).assert_code(0).assert_says(&taken).assert_says("Released");
    }
    // Where no lock has the key, the refusal stays, and a path is that of the file.
    me.run(&["unlock", "/abs/z.rs"]).assert_code(2).assert_says("outside of the repository");
    me.run(&["unlock", ".git/config"]).assert_code(2).assert_says("belongs to git");
    me.json(&["lock", "src/a.rs"]);
    assert_eq!(me.json(&["unlock", &place.path("repo/src/a.rs")])["file_path"], "src/a.rs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_shows_the_locks_on_its_files() {
    let place = Place::new().await;
    let (me, inside) = (place.me("repo"), place.me("repo/src"));
    me.run(&["locks", "src/"]).assert_code(0).assert_says("(free)");
    for path in ["src/a.rs", "src/deep/b.rs", "docs/d.md"] {
        me.json(&["lock", path]);
    }
    for (at, path) in [(&me, "src/"), (&me, "src"), (&inside, "."), (&inside, ":/src")] {
        let done = at.run(&["locks", path]);
        done.assert_code(0).assert_says("src/a.rs").assert_says("src/deep/b.rs");
        assert!(!done.out.contains("free") && !done.out.contains("docs/d.md"), "{done:?}");
    }
    let done = me.run(&["locks", "docs", "src/c.rs"]);
    done.assert_code(0).assert_says("docs/d.md").assert_says("(free)");
    assert_eq!(me.json(&["locks", "src"])["locked"], false, "the answer of the service");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_locks_and_the_bridge_name_files_like_the_other_commands() {
    let place = Place::new().await;
    let (top, inside) = (place.me("repo"), place.me("repo/src"));
    top.json(&["lock", "src/a.rs"]);
    top.json(&["lock", "db:Schema:Users"]);
    inside.fed(&["verify", "--file", "-"], "a.rs=1\n./a.rs=1\ndb:schema:users=1\n").assert_code(0);
    inside.run(&["verify", "--file", "../.coord/locks.json"]).assert_code(0);
    let bridge = |operation: &str, path: &str| {
        let payload = json!({ "file_path": path }).to_string();
        inside.run(&["try", operation, "--payload", &payload])
    };
    let done = bridge("unlock", "a.rs").assert_code(0).json();
    assert_eq!(done["response"]["file_path"], "src/a.rs");
    let done = bridge("lock", "./link.rs").assert_code(0).json();
    assert_eq!(done["response"]["file_path"], "src/a.rs");
    let done = bridge("lock", "api:get /x").assert_code(0).json();
    assert_eq!(done["response"]["file_path"], "api:GET /x");
    bridge("lock", "a.rs#L3").assert_code(2).assert_says("probably `:/src/a.rs`");
    bridge("lock", "../src").assert_code(2).assert_says("a folder locks nothing");
    bridge("unlock", "a.rs#L3").assert_says("is taken as the key that it is");
}
