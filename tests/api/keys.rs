//! `coordinator keys`: the service accepts the lines that it prints.
use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    processes::{COORDINATOR, run},
    support::{Client, Service, config, variables},
};

async fn generate(options: &[&str]) -> HashMap<String, String> {
    let output = run(&[&["keys", "generate"], options].concat(), &HashMap::new()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text.lines().filter(|it| !it.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').expect("NAME=value");
            (name.to_owned(), value.trim_matches('\'').to_owned())
        })
        .collect()
}

async fn check(key: &str) -> (Option<i32>, String) {
    let mut child = Command::new(COORDINATOR)
        .args(["keys", "check"])
        .env_clear()
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(format!("{key}\n").as_bytes()).await.expect("sent");
    drop(input);
    let output = child.wait_with_output().await.expect("it ends");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn the_printed_lines_are_accepted_and_the_key_is_bound_as_asked() {
    let options = ["--agent-id", "o'brien", "--agent-type", "codex", "--workspace", "team"];
    let printed =
        generate(&[&options[..], &["--profile", "claude_code_web_reviewer"]].concat()).await;
    let service = Service::start().await;
    let mut variables = variables(&service.url);
    variables.extend(printed.clone());
    let app = agent_coordinator::App::new(config(&variables));
    let client = Client::new(agent_coordinator::router(app));
    let client = client.header("x-api-key", &printed["COORDINATION_API_KEYS"]);
    let me = client.get("/profiles/me").await;
    assert_eq!(me.status, 200, "{}", me.text);
    assert_eq!(me.json["identity"]["agent_id"], "o'brien", "{}", me.text);
    assert!(me.text.contains("claude_code_web_reviewer"), "{}", me.text);
}

#[tokio::test]
async fn several_generated_keys_are_accepted_together() {
    let (bound, other, free) = (
        generate(&["--agent-id", "a"]).await,
        generate(&["--agent-id", "b", "--agent-type", "codex"]).await,
        generate(&[]).await,
    );
    assert!(!free.contains_key("COORDINATION_API_KEY_IDENTITIES"));
    let keys: Vec<_> =
        [&bound, &other, &free].iter().map(|it| it["COORDINATION_API_KEYS"].clone()).collect();
    let inner = |it: &HashMap<String, String>| {
        let whole = &it["COORDINATION_API_KEY_IDENTITIES"];
        whole[1..whole.len() - 1].to_owned()
    };
    let service = Service::start().await;
    let mut variables = variables(&service.url);
    variables.insert("COORDINATION_API_KEYS".into(), keys.join(","));
    let identities = format!("{{{},{}}}", inner(&bound), inner(&other));
    variables.insert("COORDINATION_API_KEY_IDENTITIES".into(), identities);
    let app = agent_coordinator::App::new(config(&variables));
    let router = agent_coordinator::router(app);
    let mut agents = Vec::new();
    for key in &keys {
        let me = Client::new(router.clone()).header("x-api-key", key).get("/profiles/me").await;
        assert_eq!(me.status, 200, "{}", me.text);
        agents.push(me.json["identity"]["agent_id"].clone());
    }
    assert_eq!(agents[..2], [json!("a"), json!("b")]);
    assert!(![json!("a"), json!("b"), Value::Null].contains(&agents[2]), "{agents:?}");
}

#[tokio::test]
async fn a_truncated_key_is_recognized() {
    let printed = generate(&[]).await;
    let key = &printed["COORDINATION_API_KEYS"];
    assert!(key.starts_with("ac_"), "{key}");
    let (code, whole) = check(key).await;
    assert_eq!(code, Some(0), "{whole}");
    assert!(whole.contains("Fingerprint: sha256:") && !whole.contains(key.as_str()), "{whole}");
    let (code, part) = check(&key[..key.len() - 1]).await;
    assert_eq!(code, Some(1), "{part}");
}

#[tokio::test]
async fn wrong_options_end_with_2() {
    for wrong in [
        &["--agent"][..],
        &["x"],
        &["--agent-id"],
        &["--agent-id", " "],
        &["--agent-id", "a", "--agent-id", "b"],
        &["--profile", "p"],
        &["--workspace", "No Name"],
    ] {
        let output = run(&[&["keys", "generate"], wrong].concat(), &HashMap::new()).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: "));
    }
}
