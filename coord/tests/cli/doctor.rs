//! `coord doctor`, against the service and against small servers of the tests.
use serde_json::{Value, json};

use crate::support::{Coord, FREE, Folder, Reply, Server, Service, nowhere};

/// What the doctor says about a check: state and text of each finding.
fn said(coord: &Coord, check: &str) -> Vec<(String, String)> {
    let done = coord.run(&["doctor", "--json"]);
    let report = done.json();
    assert_eq!(done.code, i32::from(report["ok"] == false), "{done:?}");
    assert!(!done.out.contains("free-key"), "{done:?}");
    let text = |finding: &Value, member: &str| finding[member].as_str().expect("a text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    for problem in checks.clone().filter(|finding| finding["state"] == "problem") {
        assert!(problem["remedy"].is_string(), "{problem}");
    }
    let of_check = checks.filter(|finding| finding["check"] == check);
    of_check.map(|finding| (text(finding, "state"), text(finding, "text"))).collect()
}

#[track_caller]
fn assert_says(coord: &Coord, check: &str, state: &str, part: &str) {
    let said = said(coord, check);
    assert!(said.iter().any(|(its, text)| its == state && text.contains(part)), "{part}: {said:?}");
}

struct Place {
    service: Service,
    folder: Folder,
}

impl Place {
    async fn new() -> Place {
        let place = Place { service: Service::start().await, folder: Folder::new() };
        let top = place.folder.path().join("repository");
        std::fs::create_dir_all(&top).expect("a folder");
        place.coord().shell("git init -q -b main", "").assert_code(0);
        place
    }

    fn coord(&self) -> Coord {
        self.service
            .coord()
            .with("AGENT_ID", "me")
            .with("HOME", &self.folder.path().display().to_string())
            .inside(&self.folder.path().join("repository"))
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_set_up_has_no_problems() {
    let place = Place::new().await;
    let coord = place.coord().with("SESSION_ID", "s-1");
    coord.run(&["hook", "install"]).assert_code(0);
    coord.json(&["session", "start"]);
    coord.json(&["lock", "src/a.rs"]);
    let url = format!("{}/mcp", place.service.url);
    let headers = json!({ "Authorization": "Bearer ${COORDINATION_API_KEY}", "X-Agent-Id": "me" });
    let server = json!({ "type": "http", "url": url, "headers": headers });
    place.write("repository/.mcp.json", &json!({ "mcpServers": { "coord": server } }).to_string());
    let done = coord.run(&["doctor"]);
    done.assert_code(0).assert_says("No problems.").assert_says("you are me");
    done.assert_says("session s-1 is live").assert_says("git runs .git/hooks/pre-push");
    done.assert_says("recorded locks of yours: 1, all held or given back");
    assert_says(&coord, "mcp", "ok", ".mcp.json, server coord: agrees with coord");
    assert_says(&coord, "clock", "ok", "agree about the time");
    assert_eq!(done.err, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_named_with_its_remedy() {
    let place = Place::new().await;
    let coord = place.coord();
    assert_says(&coord, "hooks", "problem", "git finds no hook");
    assert_says(&coord, "settings", "note", "no setting coord.url and coord.keyFile");
    assert_says(&coord, "session", "note", "no session is named");
    assert_says(&coord, "workspace", "note", "default");
    assert_says(&coord.clone().with("AGENT_ID", ""), "agent", "problem", "cloud-agent");
    let gone = coord.clone().with("SESSION_ID", "gone");
    assert_says(&gone, "session", "problem", "gone is not registered");
    let stranger = coord.clone().with("COORDINATION_API_KEY", "wrong");
    assert_says(&stranger, "key", "problem", "does not know the key");
    assert_says(&coord.clone().with("COORDINATION_API_KEY", ""), "key", "problem", "no key is set");
    let lost = coord.clone().with("COORDINATION_API_URL", &nowhere());
    assert_says(&lost, "address", "problem", "cannot be reached");
    assert_says(&lost, "hooks", "problem", "git finds no hook");
    let wrong = coord.clone().with("COORDINATION_API_URL", "localhost");
    assert_says(&wrong, "settings", "problem", "expected an http or https URL");
    coord.json(&["lock", "src/a.rs"]);
    place.service.expire("src/a.rs").await;
    assert_says(&coord, "record", "problem", "src/a.rs");
    std::fs::write(place.folder.path().join("repository/.coord/locks.json"), "{").expect("a file");
    assert_says(&coord, "record", "problem", "damaged");
}

#[test]
fn a_wrong_clock_and_another_program_are_seen() {
    let body = r#"{"status":"ok","version":"0.0.1","db":"unreachable"}"#;
    let server = Server::start(move |request, _| match request.path.as_str() {
        "/health" => Reply::Raw(format!(
            "HTTP/1.1 200 X\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )),
        _ => Reply::Json(404, "{}".to_owned()),
    });
    let coord = Coord::at(&server.url);
    assert_says(&coord, "clock", "problem", "ahead of the service");
    assert_says(&coord, "database", "problem", "unreachable");
    assert_says(&coord, "version", "note", "the service is 0.0.1");
    assert!(!server.requests()[0].headers.contains_key("x-api-key"));
    let page = Server::start(|_, _| Reply::Json(200, "[]".to_owned()));
    assert_says(&Coord::at(&page.url), "address", "problem", "is not the coordinator");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_clients_are_compared_with_those_of_coord() {
    let place = Place::new().await;
    let coord = place.coord();
    let url = format!("{}/mcp?tools=locks", place.service.url);
    let json = |server: Value| json!({ "mcpServers": { "coordinator": server } }).to_string();
    let bearer = "Bearer ${COORDINATION_API_KEY}";
    for (file, text, part) in [
        (
            "repository/.mcp.json",
            json(
                json!({ "url": "http://localhost:1/mcp", "headers": { "Authorization": bearer } }),
            ),
            "the service is http://localhost:1/mcp, but coord uses",
        ),
        (".claude.json", json(json!({ "url": url })), "no header has the key"),
        (
            ".cursor/mcp.json",
            json(json!({ "url": url, "headers": { "authorization": "Bearer ${env:NO_SUCH}" } })),
            "NO_SUCH is not set here",
        ),
        (
            ".gemini/settings.json",
            json(json!({ "httpUrl": url, "headers": { "X-API-Key": "another" } })),
            "another key than coord",
        ),
        (
            "repository/.gemini/settings.json",
            json(json!({ "command": "coord", "args": ["mcp"], "env": { "AGENT_ID": "you" } })),
            "the agent is you, but coord and the hooks are me",
        ),
        (
            ".codex/config.toml",
            "[mcp_servers.coord]\ncommand = \"coord\"\nargs = [\"mcp\"]\n".to_owned(),
            "Codex does not pass COORDINATION_API_KEY on",
        ),
        (
            "repository/.codex/config.toml",
            format!(
                "[mcp_servers.coord]\nurl = \"{url}\"\nbearer_token_env_var = \
                 \"COORDINATION_API_KEY\"\nhttp_headers = {{ \"X-Agent-Id\" = \"codex-1\" }}\n"
            ),
            "the agent is codex-1",
        ),
    ] {
        place.write(file, &text);
        assert_says(&coord, "mcp", "problem", part);
        std::fs::remove_file(place.folder.path().join(file)).expect("a file");
    }
    // VS Code names the member differently, and Claude Code has servers of each project.
    let top = place.folder.path().join("repository");
    let top = top.to_str().expect("a text");
    let of_code = |server: Value| json!({ "servers": { "coord": server } }).to_string();
    let of_project = |server: Value| {
        let servers = json!({ "mcpServers": { "coord": server } });
        json!({ "projects": { top: servers, "/elsewhere": { "mcpServers": { "coord": 5 } } } })
            .to_string()
    };
    let input = json!({ "Authorization": "Bearer ${input:coord-key}", "X-Agent-Id": "me" });
    let named = json!({ "Authorization": bearer, "X-Agent-Id": "me" });
    let other = json!({ "Authorization": bearer, "X-Agent-Id": "you" });
    for (file, text, state, part) in [
        (
            "repository/.vscode/mcp.json",
            of_code(json!({ "type": "http", "url": url, "headers": input })),
            "ok",
            ".vscode/mcp.json, server coord: agrees",
        ),
        (
            "repository/.vscode/mcp.json",
            of_code(json!({ "type": "http", "url": "http://localhost:1/mcp", "headers": input })),
            "problem",
            ".vscode/mcp.json, server coord: the service is http://localhost:1/mcp",
        ),
        (
            "repository/.vscode/mcp.json",
            of_code(json!({ "type": "stdio", "command": "coord", "args": ["mcp"] })),
            "ok",
            ".vscode/mcp.json, server coord: agrees",
        ),
        (
            ".claude.json",
            of_project(json!({ "type": "http", "url": url, "headers": named })),
            "ok",
            "~/.claude.json, server coord: agrees",
        ),
        (
            ".claude.json",
            of_project(json!({ "type": "http", "url": url, "headers": other })),
            "problem",
            "~/.claude.json, server coord: the agent is you",
        ),
    ] {
        place.write(file, &text);
        assert_says(&coord.clone().with("COORDINATION_API_KEY", FREE), "mcp", state, part);
        std::fs::remove_file(place.folder.path().join(file)).expect("a file");
    }
    place.write("repository/.vscode/mcp.json", "{ // a comment\n}");
    assert_says(&coord, "mcp", "note", ".vscode/mcp.json");
    // A key in a tracked file is everybody's.
    let headers = json!({ "Authorization": "Bearer free-key", "X-Agent-Id": "me" });
    place.write("repository/.mcp.json", &json(json!({ "url": url, "headers": headers })));
    assert_says(&coord, "mcp", "ok", "agrees");
    coord.shell("git add .mcp.json", "").assert_code(0);
    assert_says(&coord, "mcp", "problem", "a key is in the file, which git tracks");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_that_claude_code_keeps_for_a_project_count_in_its_linked_work_trees() {
    let place = Place::new().await;
    let coord = place.coord();
    let commit = "git -c user.name=x -c user.email=x@example.org commit -q --allow-empty -m x";
    coord.shell(&format!("{commit} && git worktree add -q ../linked"), "").assert_code(0);
    let top = place.folder.path().join("repository");
    let server = json!({ "url": format!("{}/mcp", place.service.url), "headers": {
        "Authorization": "Bearer ${COORDINATION_API_KEY}", "X-Agent-Id": "me",
    } });
    let projects = json!({ top.display().to_string(): { "mcpServers": { "own": server } } });
    place.write(".claude.json", &json!({ "projects": projects }).to_string());
    let linked = coord.clone().inside(&place.folder.path().join("linked"));
    for coord in [&coord, &linked] {
        assert_says(coord, "mcp", "ok", "~/.claude.json, server own: agrees with coord");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_of_a_variable_is_printed() {
    let place = Place::new().await;
    let coord = place.coord().with("TOKEN", "s3cret");
    let program = |env: Value, args: Value| json!({ "command": "coord", "args": args, "env": env });
    let url = |url: &str, headers: Value| json!({ "url": url, "headers": headers });
    let own = format!("{}/mcp", place.service.url);
    let named =
        |name: &str, value: &str| json!({ "Authorization": "Bearer ${TOKEN}", name: value });
    for (server, part) in [
        (url("http://localhost:1/${TOKEN}/mcp?x=${TOKEN}", json!({})), "localhost:1/${TOKEN}/mcp,"),
        (
            url("http://u:s3cret@localhost:1/mcp", json!({})),
            "the service is http://localhost:1/mcp",
        ),
        (url(&own, named("X-Agent-Id", "${TOKEN}")), "the agent is ${TOKEN}"),
        (url(&own, named("X-Workspace", "${TOKEN}")), "the workspace is ${TOKEN}"),
        (program(json!({ "AGENT_ID": "${TOKEN}" }), json!(["mcp"])), "the agent is ${TOKEN}"),
        (program(json!({ "SESSION_ID": "${TOKEN}" }), json!(["mcp"])), "the session is ${TOKEN}"),
        (program(json!({ "COORDINATION_API_URL": "${TOKEN}" }), json!(["mcp"])), "is ${TOKEN},"),
        (program(json!({}), json!(["mcp", "--url", "${TOKEN}"])), "is ${TOKEN},"),
    ] {
        let text = json!({ "mcpServers": { "coordinator": server } }).to_string();
        place.write("repository/.mcp.json", &text);
        assert_says(&coord, "mcp", "problem", part);
        for arguments in [&["doctor"][..], &["doctor", "--json"]] {
            let done = coord.run(arguments);
            assert!(!format!("{done:?}").contains("s3cret"), "{done:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_settings_leave_out_are_compared() {
    let mut place = Place::new().await;
    place.service = Service::start_with(&[("COORDINATION_ALLOW_WORKSPACE_HEADER", "true")]).await;
    let coord = place.coord();
    let url = format!("{}/mcp", place.service.url);
    let bearer = "Bearer ${COORDINATION_API_KEY}";
    let write = |server: Value| {
        let text = json!({ "mcpServers": { "coordinator": server } }).to_string();
        place.write("repository/.mcp.json", &text);
    };
    write(json!({ "url": url, "headers": { "Authorization": bearer } }));
    assert_says(&coord, "mcp", "problem", "so it is cloud-agent, but coord and the hooks are me");
    write(json!({ "url": url, "headers": { "Authorization": bearer, "X-Agent-Id": "me" } }));
    assert_says(&coord, "mcp", "ok", "agrees");
    coord.shell("git config coord.workspace team", "").assert_code(0);
    assert_says(&coord, "mcp", "problem", "so it is default, but coord and the hooks use team");
    let team = json!({ "Authorization": bearer, "X-Agent-Id": "me", "X-Workspace": "team" });
    write(json!({ "url": url, "headers": team }));
    assert_says(&coord, "mcp", "ok", "agrees");
    let program = |member: &str, value: Value| {
        let mut server = json!({ "command": "coord", "args": ["mcp"] });
        server[member] = value;
        server
    };
    write(program("command", json!("coord")));
    assert_says(&coord, "mcp", "ok", "agrees");
    write(program("env", json!({ "COORDINATION_WORKSPACE": "other" })));
    assert_says(&coord, "mcp", "problem", "the workspace is other, but coord");
    write(program("command", json!("/nowhere/coord")));
    assert_says(&coord, "mcp", "problem", "the program /nowhere/coord is not there");
    write(program("args", json!(["mcp", "--url", "http://127.0.0.1:1"])));
    assert_says(&coord, "mcp", "problem", "the service is http://127.0.0.1:1");
    write(program("args", json!(["--agent-id=you", "mcp"])));
    assert_says(&coord, "mcp", "problem", "the agent is you");
    write(program("env", json!({ "SESSION_ID": "fixed" })));
    assert_says(&coord, "mcp", "problem", "the session is fixed");
    assert_says(&coord.clone().with("SESSION_ID", "fixed"), "mcp", "ok", "agrees");
    write(json!({ "url": place.service.url, "headers": team }));
    assert_says(&coord, "mcp", "problem", "does not end in /mcp");
    let file = ".codex/config.toml";
    place.write(
        file,
        "[mcp_servers.coord]\ncommand = \"coord\"\nargs = [\"mcp\"]\n\
        env_vars = [\"COORDINATION_API_KEY\"]\n",
    );
    assert_says(&coord, "mcp", "problem", "so it is cloud-agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_or_a_key_that_is_not_accepted_has_the_right_remedy() {
    let place = Place::new().await;
    let coord = place.coord();
    let unfilled = coord.clone().with("AGENT_ID", "${AGENT}");
    assert_says(&unfilled, "agent", "problem", "422");
    unfilled.run(&["doctor"]).assert_code(1).assert_says("Correct the name that is not accepted");
    let stranger = coord.with("COORDINATION_API_KEY", "wrong").run(&["doctor"]);
    stranger.assert_says("does not know the key of COORDINATION_API_KEY");
    assert!(!stranger.out.contains("hook install --key-file FILE` in this"), "{stranger:?}");
}
