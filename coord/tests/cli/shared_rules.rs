//! Rules that the command line and the service both have, because the command line does not depend
//! on the service. Each test compares what the two do.
use serde_json::json;

use crate::support::{Agents, Folder, Service};

/// Characters that are not letters, digits or of private use, except NUL, line breaks and tabs; and letters without
/// a form.
fn candidates() -> Vec<char> {
    let planes = ('\u{1}'..='\u{ffff}').chain('\u{e0000}'..='\u{e01ff}');
    let is_private = |letter: &char| ('\u{e000}'..='\u{f8ff}').contains(letter);
    let fillers = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];
    planes
        .filter(|letter| !letter.is_alphanumeric() && !is_private(letter))
        .filter(|letter| !['\n', '\t'].contains(letter))
        .chain(fillers)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_escape_the_same_characters() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let mut escaped = 0;
    // The service cuts a longer text.
    for chunk in candidates().chunks(2000) {
        let reason = format!("<{}>", String::from_iter(chunk));
        agents.other.json(&["lock", "a", "--reason", &reason]);
        let params = json!({ "uri": "locks://current" });
        let read =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params });
        let answer = agents.me.fed(&["mcp"], &format!("{read}\n")).json();
        let by_service = answer["result"]["contents"][0]["text"].as_str().expect("a text");
        let by_coord = agents.me.run(&["lock", "a"]).err;
        for letter in chunk {
            let is_escaped = !by_service.contains(*letter);
            assert_eq!(is_escaped, !by_coord.contains(*letter), "{}", letter.escape_unicode());
            escaped += usize::from(is_escaped);
        }
    }
    // 62 control characters, and more than 128 invisible ones.
    assert!(escaped > 200, "{escaped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_have_the_same_limit_for_a_key() {
    let service = Service::start().await;
    let agents = Agents::of(&service);
    let folder = Folder::new();
    let me = agents.me.clone().inside(folder.path());
    me.shell("git init -q .", "").assert_code(0);
    for (length, is_lockable) in [(1024, true), (1025, false)] {
        let file = format!("{}{}", "0123456/".repeat(100), "x".repeat(length - 800 - 1));
        let (parent, name) = file.split_at(file.len() - 10);
        let file = format!("{parent}/{name}");
        assert_eq!(file.len(), length);
        let path = folder.path().join(&file);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "").expect("a file");
        let locked = agents.other.run(&["lock", &file]);
        locked.assert_code(if is_lockable { 0 } else { 2 });
        me.shell("git add .", "").assert_code(0);
        // The hook asks the service about files that can be locked, and about no others.
        let done = me.run(&["hook", "pre-commit"]);
        done.assert_code(i32::from(is_lockable));
        me.shell("git rm -q -r --cached .", "").assert_code(0);
        std::fs::remove_dir_all(folder.path().join("0123456")).expect("a folder");
    }
    assert_eq!(agents.other.json(&["locks"])["count"], 1);
}
