//! Lock keys over HTTP, in bodies and in paths: each key has one canonical form, and no spelling reaches the lock
//! of another key.
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::{
    mcp::Mcp,
    spellings,
    support::{BOSS, Client, Dice, REVIEWER, Service, new_seed},
};

/// Pieces of which keys are made that are hard to canonicalise.
const PIECES: [&str; 34] = [
    "a",
    "B",
    "src",
    "/",
    "//",
    "/./",
    "/../",
    "..",
    ".",
    "./",
    " ",
    "\t",
    "\u{a0}",
    "\\",
    ":",
    "api:",
    "db:",
    "event:",
    "contract:",
    "get /",
    "e\u{301}",
    "\u{e9}",
    "\u{212b}",
    "\u{1112}\u{1161}",
    "\u{200b}",
    "\u{202e}",
    "\u{feff}",
    "%2F",
    "%00",
    "#",
    "?",
    ";",
    "\u{1f600}",
    "\u{130}",
];

async fn acquire(client: &Client, key: &str) -> Value {
    client.acquire("a", key, json!({})).await
}

#[tokio::test]
async fn the_canonical_form_of_a_key_is_its_own_canonical_form() {
    let (service, seed) = (Service::start().await, new_seed());
    let (client, mut dice) = (service.client(), Dice::new(seed));
    let mut texts: Vec<_> = spellings::NAMES.iter().map(|it| it.0.to_owned()).collect();
    for _ in 0..300 {
        let pieces = 1 + dice.roll(8);
        let pieces = (0..pieces).map(|_| PIECES[dice.roll(PIECES.len() as u64) as usize]);
        texts.push(pieces.collect());
    }
    let mut acquired = 0;
    for text in texts {
        let body = json!({ "file_path": text, "agent_id": "a", "agent_type": "t" });
        let answer = client.post("/locks/acquire", body).await;
        if answer.status == 422 {
            assert_eq!(answer.issues()[0].1, json!(["body", "file_path"]), "seed {seed}: {text:?}");
            continue;
        }
        let first = answer.json;
        if first["success"] == false {
            assert_eq!(first["reason"], "invalid_file_path", "seed {seed}: {text:?}");
            continue;
        }
        let key = first["file_path"].as_str().expect("a key");
        acquired += 1;
        let again = acquire(&client, key).await;
        let of_again = [&again["action"], &again["file_path"], &again["fencing_token"]];
        let expected = [&json!("refreshed"), &first["file_path"], &first["fencing_token"]];
        assert_eq!(of_again, expected, "seed {seed}: {text:?}");
    }
    assert!(acquired > 100, "seed {seed}: {acquired}");
}

#[tokio::test]
async fn composed_and_decomposed_letters_are_one_key_and_characters_without_width_are_others() {
    let service = Service::start().await;
    let client = service.client();
    for (one, other) in [
        ("caf\u{e9}.md", "cafe\u{301}.md"),
        ("\u{c5}.md", "\u{212b}.md"),
        ("\u{d558}.md", "\u{1112}\u{1161}.md"),
    ] {
        let first = acquire(&client, one).await;
        let second = acquire(&client, other).await;
        assert_eq!((&second["action"], &second["file_path"]), (&json!("refreshed"), &json!(one)));
        assert_eq!(first["file_path"], one);
    }
    let hidden =
        ["\u{200b}", "\u{200d}", "\u{202e}", "\u{2066}", "\u{feff}", "\u{ad}", "\u{e0101}"];
    acquire(&client, "x.md").await;
    for hidden in hidden {
        let key = format!("x{hidden}.md");
        let answer = acquire(&client, &key).await;
        assert_eq!((&answer["action"], &answer["file_path"]), (&json!("acquired"), &json!(key)));
    }
    // A model that reads the resource sees that they differ.
    let resource = Mcp::new(client).read("locks://current").await;
    for hidden in hidden {
        assert!(!resource.contains(hidden), "{hidden:?} in {resource}");
        let code = format!("{:x}", u32::from(hidden.chars().next().expect("one")));
        assert!(resource.contains(&code), "{code} is not in {resource}");
    }
}

/// The locks that are held, and a path below `/locks/` or `/locks/status/` with the key that it names, or nothing
/// where it names no key.
const HELD: [&str; 7] =
    ["src/a.rs", "/src/a.rs", "SRC/a.rs", "src/a.rs;v=1", "src%2Fa.rs", "a.rs", "status/a.rs"];
const PATHS: [(&str, Option<&str>); 40] = [
    ("src/a.rs", Some("src/a.rs")),
    ("src%2Fa.rs", Some("src/a.rs")),
    ("src%2fa.rs", Some("src/a.rs")),
    ("%73rc/a%2Ers", Some("src/a.rs")),
    ("./src/a.rs", Some("src/a.rs")),
    ("%2e/src/a.rs", Some("src/a.rs")),
    ("src//a.rs", Some("src/a.rs")),
    ("src/a.rs/", Some("src/a.rs")),
    ("src/a.rs?path=a.rs&file_path=a.rs", Some("src/a.rs")),
    ("src/x/../a.rs", Some("src/a.rs")),
    ("src/x/%2e%2e/a.rs", Some("src/a.rs")),
    ("src/x%2F..%2Fa.rs", Some("src/a.rs")),
    ("%20src/a.rs%0a", Some("src/a.rs")),
    ("/src/a.rs", Some("/src/a.rs")),
    ("%2Fsrc/a.rs", Some("/src/a.rs")),
    ("//src/a.rs", Some("/src/a.rs")),
    ("SRC/a.rs", Some("SRC/a.rs")),
    ("src/A.rs", Some("src/A.rs")),
    ("src%252Fa.rs", Some("src%2Fa.rs")),
    ("src/a.rs;v=1", Some("src/a.rs;v=1")),
    ("src/a.rs%3Bv=1", Some("src/a.rs;v=1")),
    ("src/a.rs;v=2", Some("src/a.rs;v=2")),
    ("src/a.rs%23part", Some("src/a.rs#part")),
    ("src/a.rs%3Fx", Some("src/a.rs?x")),
    ("src/a+b.rs", Some("src/a+b.rs")),
    ("src/a.rs%C2%A0", Some("src/a.rs")),
    ("src/a.rs%E2%80%8B", Some("src/a.rs\u{200b}")),
    ("src%5Ca.rs", Some("src\\a.rs")),
    ("../src/a.rs", None),
    ("%2e%2e/src/a.rs", None),
    ("..%2Fsrc/a.rs", None),
    ("src/../../a.rs", None),
    ("src/a.rs%00", None),
    ("%00src/a.rs", None),
    ("src/a.rs%ff", None),
    ("src/a.rs%c0%af", None),
    ("src/a.rs%ed%a0%80", None),
    ("status/a.rs", Some("status/a.rs")),
    ("acquire", Some("acquire")),
    ("", Some("")),
];

async fn hold_all(client: &Client) {
    for key in HELD {
        assert_eq!(acquire(client, key).await["success"], true, "{key}");
    }
}

/// The keys that are locked, sorted.
async fn locked(client: &Client) -> Vec<String> {
    let answer = client.get("/locks").await.json;
    let locks = answer["locks"].as_array().expect("a list").iter();
    locks.map(|it| it["file_path"].as_str().expect("a key").to_owned()).collect()
}

#[tokio::test]
async fn a_path_shows_and_frees_the_lock_of_the_key_that_it_names_and_no_other() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    hold_all(&client).await;
    let all = locked(&client).await;
    assert_eq!(all.len(), HELD.len());
    for (path, key) in PATHS {
        let status = client.get(&format!("/locks/status/{path}")).await;
        match key {
            Some(key) => {
                assert_eq!(
                    (status.status.as_u16(), &status.json["file_path"]),
                    (200, &json!(key)),
                    "{path}"
                );
                assert_eq!(status.json["locked"], HELD.contains(&key), "{path}");
            }
            None => assert_eq!(status.issues()[0].1, json!(["path", "path"]), "{path}"),
        }
        let of_locks = format!("/locks/{path}");
        for limited in [service.client_with(REVIEWER), client.clone()] {
            let denied = limited.send(Method::DELETE, &of_locks, Body::empty()).await;
            // What names no key is refused before anybody is judged, and `/locks/` is a redirect.
            let expected = if key.is_none() { 422 } else { 403 };
            assert_eq!(denied.status, expected, "{path}: {}", denied.text);
        }
        assert_eq!(locked(&client).await, all, "{path}");
        let freed = boss.send(Method::DELETE, &of_locks, Body::empty()).await;
        let is_held = key.is_some_and(|key| HELD.contains(&key));
        assert_eq!(freed.json["released"] == true, is_held, "{path}: {}", freed.text);
        let left: Vec<_> =
            all.iter().filter(|it| !is_held || Some(it.as_str()) != key).cloned().collect();
        assert_eq!(locked(&client).await, left, "{path}");
        if is_held {
            hold_all(&client).await;
        }
    }
}
