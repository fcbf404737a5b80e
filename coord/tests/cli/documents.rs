//! The settings and commands in docs/agents.md and in the skill work, and print what these
//! documents show.
use std::{collections::HashMap, process::Stdio, thread::JoinHandle};

use serde_json::{Value, json};

use crate::support::{Coord, FREE, Folder, Service, finish};

const GUIDE: &str = include_str!("../../../docs/agents.md");
const SKILL: &str = include_str!("../../../skills/setup-coordinator/SKILL.md");

/// The folder of the example in the guide.
const EXAMPLE_FOLDER: &str = "/tmp/coord-demo";

/// A fenced block, with the text of the comment on the line before it.
#[derive(Debug)]
struct Block {
    comment: String,
    language: String,
    lines: Vec<String>,
}

impl Block {
    fn text(&self) -> String {
        self.lines.join("\n")
    }
}

fn blocks(document: &str) -> Vec<Block> {
    let (mut found, mut open, mut before) = (Vec::new(), None, "");
    for line in document.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let comment = before.strip_prefix("<!-- ").and_then(|it| it.strip_suffix(" -->"));
                open = Some(Block {
                    comment: comment.unwrap_or_default().to_owned(),
                    language: language.to_owned(),
                    lines: Vec::new(),
                });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
        before = line;
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// The JSON settings in both documents.
fn settings() -> impl Iterator<Item = Value> {
    let all = [GUIDE, SKILL].into_iter().flat_map(blocks).filter(|it| it.language == "json");
    all.map(|it| serde_json::from_str(&it.text()).unwrap_or_else(|error| panic!("{error}: {it:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_hooks_of_the_guide_start_and_end_sessions() {
    let service = Service::start().await;
    let hooks: Vec<_> =
        blocks(GUIDE).into_iter().filter(|it| it.comment == "session hooks").collect();
    assert_eq!(hooks.len(), 2);
    for (number, block) in hooks.iter().enumerate() {
        let settings: Value = serde_json::from_str(&block.text()).expect("JSON");
        let command = |event: &str| {
            let hook = &settings["hooks"][event][0]["hooks"][0];
            assert_eq!(hook["type"], "command");
            hook["command"].as_str().expect("a command").to_owned()
        };
        let session = format!("s-{number}");
        let input =
            |event: &str| json!({ "session_id": session, "hook_event_name": event }).to_string();
        let coord = service.coord().with("AGENT_ID", "me");
        let done = coord.shell(&command("SessionStart"), &input("SessionStart"));
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        assert_eq!(coord.json(&["agents"])["agents"][0]["session_id"], session.as_str());
        coord.json(&["lock", "src/a.rs", "--session-id", &session]);
        let done = coord.shell(&command("SessionEnd"), &input("SessionEnd"));
        assert_eq!((done.code, done.err.as_str()), (0, ""));
        assert_eq!(coord.json(&["locks"])["count"], 0);
        assert_eq!(coord.json(&["agents"])["count"], 0);
        let handoff = coord.json(&["handoff", "read"])["handoffs"][0].clone();
        assert_eq!(handoff["session_id"], session.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mcp_servers_in_the_settings_of_clients_exist() {
    let service = Service::start().await;
    let (mut over_http, mut started) = (0, 0);
    for settings in settings() {
        let servers = ["mcpServers", "servers"].iter().filter_map(|it| settings[*it].as_object());
        for server in servers.flat_map(|it| it.values()) {
            if let Some(url) = server["url"].as_str() {
                let header = server["headers"]["Authorization"].as_str().expect("a header");
                assert!(url.starts_with("https://") && url.ends_with("/mcp"), "{url}");
                assert!(header.starts_with("Bearer ${"), "{header}");
                over_http += 1;
            } else {
                let command = server["command"].as_str().expect("a command");
                let arguments = server["args"].as_array().expect("a list");
                let arguments = arguments.iter().map(|it| it.as_str().expect("a text"));
                let line = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
                let mut command = service.coord().command(command);
                command.args(arguments).stdin(Stdio::piped());
                let answer = finish(&mut command, &format!("{line}\n")).json();
                assert!(answer["result"]["tools"].is_array(), "{answer}");
                started += 1;
            }
        }
    }
    assert_eq!((over_http, started), (3, 2));
}

/// Runs the recipe as three agents. Each command prints what the guide shows.
#[tokio::test(flavor = "multi_thread")]
async fn the_recipe_shows_what_the_agents_see() {
    let service = Service::start().await;
    let folder = Folder::new();
    let place = folder.path().display().to_string();
    let guide = GUIDE.replace(EXAMPLE_FOLDER, &place);
    let agent = |name: &str| {
        let kind = match name.split('-').next() {
            Some("claude") => "claude_code",
            kind => kind.expect("a name"),
        };
        let coord = service.coord().with("AGENT_ID", name).with("AGENT_TYPE", kind);
        ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"]
            .iter()
            .chain(&["GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"])
            .fold(coord, |coord, variable| coord.with(variable, "demo@example.org"))
            .inside(&folder.path().join(name))
    };
    let keys = folder.path().join("keys");
    std::fs::create_dir_all(&keys).expect("a folder");
    for name in ["claude-1", "codex-1", "cursor-1"] {
        std::fs::write(keys.join(name), FREE).expect("a file");
    }
    let (mut seen, mut waiting, mut steps) = (Ids::default(), None::<Waiting>, 0);
    for block in blocks(&guide) {
        match &*block.comment {
            "recipe: repository" => {
                let script = format!("set -e\n{}", block.text());
                agent("claude-1").inside(folder.path()).shell(&script, "").assert_code(0);
                continue;
            }
            "recipe: a minute later" => service.expire("src/main.rs").await,
            "recipe" | "recipe: meanwhile" => {}
            _ => continue,
        }
        for (name, line, shown) in steps_of(&block) {
            let line = seen.translate(line);
            steps += 1;
            if line.contains("--wait") {
                let (coord, script) = (agent(&name), line.clone());
                let running = std::thread::spawn(move || output_of(&coord, &script));
                waiting = Some(Waiting { line, shown, running });
                continue;
            }
            let said = output_of(&agent(&name), &line);
            seen.compare(&line, &shown, &said);
        }
        if block.comment == "recipe: meanwhile" {
            let Waiting { line, shown, running } = waiting.take().expect("somebody waits");
            seen.compare(&line, &shown, &running.join().expect("it ends"));
        }
    }
    assert!(waiting.is_none() && steps > 20, "{steps}");
}

struct Waiting {
    line: String,
    shown: Vec<String>,
    running: JoinHandle<String>,
}

/// What a line of a shell prints on both streams.
fn output_of(coord: &Coord, line: &str) -> String {
    coord.shell(&format!("exec 2>&1\n{line}"), "").out
}

#[tokio::test(flavor = "multi_thread")]
async fn the_skill_shows_the_answers_of_the_service() {
    let service = Service::start().await;
    let skill = SKILL.replace("http://localhost:8081", &service.url);
    let coord = service.coord().with("AGENT_ID", "claude-1").with("AGENT_TYPE", "claude_code");
    let (mut seen, mut steps) = (Ids::default(), 0);
    for block in blocks(&skill).iter().filter(|it| it.comment == "checked") {
        for (_, line, shown) in steps_of(block) {
            seen.compare(&line, &shown, &output_of(&coord, &line));
            steps += 1;
        }
    }
    assert_eq!(steps, 6);
}

/// Terminal, command and shown output of each step of a block.
fn steps_of(block: &Block) -> Vec<(String, String, Vec<String>)> {
    let mut steps: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in &block.lines {
        let is_name = |it: &str| it.is_empty() || it.ends_with("-1");
        let prompt = line.split_once("$ ").filter(|it| is_name(it.0));
        match (prompt, steps.last_mut()) {
            (Some((name, line)), _) => steps.push((name.to_owned(), line.to_owned(), Vec::new())),
            (None, Some(step)) => step.2.push(line.clone()),
            (None, None) => panic!("no prompt before {line}"),
        }
    }
    steps
}

/// The real id for each id in the document.
#[derive(Default)]
struct Ids(HashMap<String, String>);

impl Ids {
    fn translate(&self, line: String) -> String {
        self.0.iter().fold(line, |line, (shown, real)| line.replace(shown, real))
    }

    /// Compares line by line and word by word, except for ids and times.
    #[track_caller]
    fn compare(&mut self, line: &str, shown: &[String], said: &str) {
        let said: Vec<_> = said.lines().collect();
        let differ = || panic!("{line}\nshown: {shown:#?}\nsaid: {said:#?}");
        if shown.len() != said.len() {
            differ();
        }
        for (shown, said) in shown.iter().zip(&said) {
            let (shown, said) = (words(shown), words(said));
            if shown.len() != said.len() {
                differ();
            }
            for (shown, said) in shown.into_iter().zip(said) {
                if is_id(&shown) && is_id(&said) {
                    let known = self.0.entry(shown).or_insert(said.clone());
                    assert_eq!(*known, said, "{line}");
                } else if shown != said {
                    differ();
                }
            }
        }
    }
}

/// Whether a word is the id of a task or of a handoff, or a claim token.
fn is_id(word: &str) -> bool {
    let is_hex = |it: &str| it.bytes().all(|it| it.is_ascii_hexdigit());
    let uuid = word.len() == 36 && word.split('-').count() == 5 && word.split('-').all(is_hex);
    uuid || word.strip_prefix("c_").is_some_and(|it| it.len() == 32 && is_hex(it))
}

/// The words of a line. All relative times become the same word.
fn words(line: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches(['.', ',', ')', ';']);
        let rest = &word[bare.len()..];
        let before = |back: usize| found.len().checked_sub(back).map(|at| found[at].as_str());
        let is_number = |it: Option<&str>| it.is_some_and(|it| it.parse::<u32>().is_ok());
        let is_unit = ["s", "min", "h"].contains(&bare);
        if is_unit && is_number(before(1)) && before(2) == Some("in") {
            found.truncate(found.len() - 2);
            found.push(format!("<later>{rest}"));
        } else if bare == "ago" && is_number(before(2)) {
            found.truncate(found.len() - 2);
            found.push(format!("<earlier>{rest}"));
        } else if bare == "now" {
            found.push(format!("<earlier>{rest}"));
        } else if word.starts_with("(20") && word.contains('T') {
            found.push("<time>".to_owned());
        } else {
            found.push(word.to_owned());
        }
    }
    found
}

#[test]
fn compare_finds_differences() {
    let same = |shown: &str, said: &str| {
        let mut seen = Ids::default();
        let compared = std::panic::catch_unwind(move || {
            seen.compare("", &[shown.to_owned()], said);
        });
        compared.is_ok()
    };
    let id = |digit: &str| format!("{0}-{1}-{1}-{1}-{0}{1}", digit.repeat(8), digit.repeat(4));
    assert!(same("token 1, expires in 30 min.", "token 1, expires in 59 s."));
    assert!(same("seen now  x", "seen 12 s ago x"));
    assert!(same(&id("1"), &id("2")));
    assert!(same(&format!("{0} {0}", id("1")), &format!("{0} {0}", id("2"))));
    assert!(!same(&format!("{0} {0}", id("1")), &format!("{} {}", id("2"), id("3"))));
    assert!(!same("token 1, expires in 30 min.", "token 2, expires in 30 min."));
    assert!(!same("a b", "a"));
    assert!(!same("a", "a\nb"));
}
