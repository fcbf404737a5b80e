//! Settings in the configuration of git, for programs that start git without variables.
use std::path::Path;

use crate::{
    hooks::{Clone, World},
    support::{BOSS, Coord, FREE, Folder, Reply, Server, Service, nowhere},
};

const COMMIT: [&str; 4] = ["commit", "-q", "-m", "x"];

fn write_key(folder: &Path) -> String {
    let file = folder.join("key");
    std::fs::write(&file, FREE).expect("a file");
    file.display().to_string()
}

/// The clone of an agent, without variables for the service, as in a graphical client.
fn without_variables(clone: &Clone) -> Clone {
    Clone { coord: Coord::new().inside(&clone.path), path: clone.path.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_variables_is_checked() {
    let world = World::new().await;
    let me = without_variables(&world.clone("me"));
    let other = world.service.coord().with("AGENT_ID", "other");
    me.write("src/a.rs", "mine");
    me.must(&["config", "coord.unreachable", "allow"]);
    // Without an address nothing was unreachable. A service that happens to be at the default one
    // answers 401.
    me.git(&COMMIT).assert_code(1).assert_says("git config coord.");
    me.must(&["config", "coord.url", &world.service.url]);
    me.git(&COMMIT).assert_code(1).assert_says("401").assert_says("git config coord.keyFile FILE");
    me.must(&["config", "coord.keyFile", &write_key(world.folder.path())]);
    other.json(&["lock", "src/a.rs"]);
    me.git(&COMMIT).assert_code(1).assert_says("src/a.rs: it is locked by other");
    other.json(&["unlock", "src/a.rs"]);
    me.must(&COMMIT);
    // Only an outage is allowed.
    me.write("src/a.rs", "again");
    me.must(&["config", "coord.url", &nowhere()]);
    me.git(&COMMIT).assert_code(0).assert_says("not checked");
    me.write("src/a.rs", "once more");
    let page = Server::start(|_, _| Reply::Json(200, "[]".to_owned()));
    me.must(&["config", "coord.url", &page.url]);
    me.git(&COMMIT).assert_code(1).assert_says("check the URL");
}

#[test]
fn a_repository_names_its_workspace() {
    let server = Server::start(|_, _| Reply::Json(200, "{}".to_owned()));
    let folder = Folder::new();
    let coord = Coord::at(&server.url).inside(folder.path());
    coord.shell("git init -q first && git init -q second && mkdir second/sub", "").assert_code(0);
    coord.shell("git -C second config coord.workspace team-2", "").assert_code(0);
    let second = coord.clone().inside(&folder.path().join("second/sub"));
    coord.clone().inside(&folder.path().join("first")).run(&["lock", "README.md"]);
    second.run(&["lock", "README.md"]);
    second.run(&["lock", "README.md", "--workspace", "team-3"]);
    second.with("COORDINATION_WORKSPACE", "team-4").run(&["lock", "README.md"]);
    // The files of a submodule have keys of the repository around it, and so its workspace.
    let script = "cd first && git -c user.name=x -c user.email=x@example.org commit -q \
                  --allow-empty -m x && cd ../second && git -c protocol.file.allow=always \
                  submodule --quiet add ../first mods/first";
    coord.shell(script, "").assert_code(0);
    let submodule = coord.inside(&folder.path().join("second/mods/first"));
    submodule.run(&["lock", "README.md"]);
    submodule.shell("git config coord.workspace team-5", "").assert_code(0);
    submodule.run(&["lock", "README.md"]);
    let headers = server.requests().into_iter().map(|it| it.headers.get("x-workspace").cloned());
    let expected =
        [None, Some("team-2"), Some("team-3"), Some("team-4"), Some("team-2"), Some("team-5")];
    assert_eq!(headers.collect::<Vec<_>>(), expected.map(|it| it.map(str::to_owned)));
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_with_a_workspace_each_do_not_stop_each_other() {
    let service = Service::start_with(&[("COORDINATION_ALLOW_WORKSPACE_HEADER", "true")]).await;
    let folder = Folder::new();
    let script = "git init -q first && git init -q second";
    service.coord().inside(folder.path()).shell(script, "").assert_code(0);
    let inside = |name: &str| {
        service.coord().with("AGENT_ID", &format!("of-{name}")).inside(&folder.path().join(name))
    };
    let (first, second) = (inside("first"), inside("second"));
    first.run(&["lock", "README.md"]).assert_code(0);
    second.run(&["lock", "README.md"]).assert_code(1).assert_says("of-first");
    first.run(&["unlock", "README.md"]).assert_code(0);
    for (coord, workspace) in [(&first, "one"), (&second, "two")] {
        coord.shell(&format!("git config coord.workspace {workspace}"), "").assert_code(0);
    }
    for coord in [&first, &second] {
        coord.run(&["lock", "README.md"]).assert_code(0);
        assert_eq!(coord.json(&["locks"])["count"], 1);
    }
    let third = inside("second").with("AGENT_ID", "third");
    third.run(&["lock", "README.md"]).assert_code(1).assert_says("of-second");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_and_variables_count_before_the_configuration() {
    let service = Service::start().await;
    let folder = Folder::new();
    let coord = Coord::new().inside(folder.path());
    coord.shell("git init -q . && mkdir sub", "").assert_code(0);
    let set = |name: &str, value: &str| {
        let done = coord.shell(&format!("git config {name} '{value}'"), "");
        done.assert_code(0);
    };
    set("coord.url", &nowhere());
    set("coord.keyFile", &write_key(folder.path()));
    coord.run(&["locks"]).assert_code(4);
    coord.run(&["locks", "--url", &service.url]).assert_code(0);
    let there = coord.clone().with("COORDINATION_API_URL", &service.url);
    there.run(&["locks"]).assert_code(0);
    there.clone().with("COORDINATION_API_KEY", "wrong").run(&["locks"]).assert_code(3);
    set("coord.keyFile", "/no/such/file");
    there.run(&["locks"]).assert_code(2).assert_says("coord.keyFile /no/such/file");
    there.clone().with("COORDINATION_API_KEY", FREE).run(&["locks"]).assert_code(0);
    set("coord.keyFile", "key");
    there.run(&["locks"]).assert_code(2).assert_says("expected an absolute path");
    set("coord.keyFile", "~/key");
    let home = folder.path().display().to_string();
    there.clone().with("HOME", &home).run(&["locks"]).assert_code(0);
    set("coord.url", "nonsense");
    coord.run(&["locks"]).assert_code(2).assert_says("git config coord.url");
    // `coord detect` and the MCP server read them too.
    set("coord.url", &service.url);
    let sub = coord.clone().inside(&folder.path().join("sub")).with("HOME", &home);
    assert_eq!(sub.run(&["detect"]).assert_code(0).json()["http_url"], service.url);
}

#[test]
fn a_repository_cannot_send_the_key_to_a_host_that_the_user_has_not_allowed() {
    let folder = Folder::new();
    let coord = Coord::new().with("COORDINATION_API_KEY", "secret").inside(folder.path());
    // This name is reserved for examples, so no request leaves the machine.
    let script = "git init -q . && git config coord.url http://a.invalid \
                  && git config coord.allowedHosts a.invalid";
    coord.shell(script, "").assert_code(0);
    let done = coord.run(&["locks"]);
    done.assert_code(2).assert_says("git config coord.url: the host a.invalid is not allowed");
    done.assert_says("git config --global coord.allowedHosts a.invalid");
    std::fs::write(folder.path().join("global"), "[coord]\n allowedHosts = b, a.invalid\n")
        .expect("a file");
    let global = folder.path().join("global").display().to_string();
    coord.clone().with("GIT_CONFIG_GLOBAL", &global).run(&["locks"]).assert_code(4);
    coord.with("COORDINATION_ALLOWED_HOSTS", "a.invalid").run(&["locks"]).assert_code(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_work_tree_can_have_a_key_of_its_own() {
    let world = World::new().await;
    let me = world.clone("me");
    me.must(&["worktree", "add", "-q", "../linked", "-b", "y"]);
    me.must(&["config", "coord.url", &world.service.url]);
    me.must(&["config", "extensions.worktreeConfig", "true"]);
    let linked = me.path.join("../linked");
    for (folder, key) in [(&me.path, FREE), (&linked, BOSS)] {
        let file = world.folder.path().join(key);
        std::fs::write(&file, key).expect("a file");
        let line = format!("git config --worktree coord.keyFile {}", file.display());
        Coord::new().inside(folder).shell(&line, "").assert_code(0);
    }
    let agent = |folder: &Path| {
        let done = Coord::new().inside(folder).run(&["whoami", "--json"]);
        done.json()["identity"]["agent_id"].clone()
    };
    assert_eq!((agent(&me.path), agent(&linked)), ("cloud-agent".into(), "boss".into()));
}
