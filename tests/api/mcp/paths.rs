//! Lock keys as models spell them.
use serde_json::{Value, json};

use super::Mcp;
use crate::{
    spellings::{MEANT, NAMES, UNRESOLVED, UNRESOLVED_WITHOUT_KEY, WITHOUT_KEY},
    support::{BOSS, Service},
};

#[tokio::test]
async fn the_table_of_spellings_holds_for_locks_and_for_the_prompt() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for (text, key) in NAMES {
        let locked = mcp.tool("acquire_lock", json!({ "file_path": text })).await;
        assert_eq!(locked["file_path"], *key, "{text}");
        mcp.tool("release_lock", json!({ "file_path": key })).await;
    }
    let meant = |rows: &'static [(&str, &str)]| {
        rows.iter().map(|(text, key)| (*text, format!("probably `{key}`")))
    };
    let without_key = WITHOUT_KEY.iter().chain(UNRESOLVED_WITHOUT_KEY);
    let without_key = without_key.map(|(text, words)| (*text, (*words).to_owned()));
    for (text, words) in meant(MEANT).chain(meant(UNRESOLVED)).chain(without_key) {
        let failed = mcp.tool_failure("acquire_lock", json!({ "file_path": text })).await;
        let problems = failed["detail"].as_array().expect("a list");
        assert_eq!(problems.len(), 1, "{failed}");
        assert_eq!(problems[0]["loc"], json!(["arguments", "file_path"]));
        assert_eq!(problems[0]["input"], json!(text));
        let told = problems[0]["msg"].as_str().expect("text");
        assert!(told.contains(&words), "{text}: {told}");
        let arguments = json!({ "file_path": text, "task": "rename it" });
        let prompt = json!({ "name": "coordinate_file_edit", "arguments": arguments });
        let (code, message) = mcp.failure("prompts/get", prompt).await;
        assert_eq!(code, -32602, "{text}");
        assert!(message.contains(&words), "{text}: {message}");
        assert!(message.starts_with("argument `file_path`: "), "{message}");
    }
    let held = "select count(*) from file_lock where agent_id is not null";
    assert_eq!(service.scalar::<i64>(held).await, 0);
}

#[tokio::test]
async fn the_separator_of_windows_is_that_of_a_key() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for text in ["src\\a.rs", "src/a.rs", ".\\src\\a.rs", "src\\\\a.rs"] {
        let locked = mcp.tool("acquire_lock", json!({ "file_path": text })).await;
        assert_eq!(locked["file_path"], "src/a.rs", "{text}");
        assert_eq!(locked["fencing_token"], 1, "{text}: one lock");
    }
    let held = "select count(*) from file_lock where agent_id is not null";
    assert_eq!(service.scalar::<i64>(held).await, 1);
    let listed = mcp.tool("check_locks", json!({ "file_paths": ["src\\a.rs"] })).await;
    assert_eq!(listed[0]["file_path"], "src/a.rs");
}

#[tokio::test]
async fn tools_that_acquire_nothing_take_the_key_of_a_lock_as_it_is() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client_with(BOSS)).offered("all");
    let odd = ["/abs/proj/src/z.rs", "src/**", "src/a.rs#L3", "@src/a.rs", "https://x/y"];
    for key in odd {
        let lock = async || {
            let body = json!({ "file_path": key, "agent_id": "", "agent_type": "" });
            let locked = service.client_with(BOSS).post("/locks/acquire", body).await;
            assert_eq!(locked.json["file_path"], key, "{}", locked.text);
            locked.json["fencing_token"].clone()
        };
        let token = lock().await;
        let is_hinted = |answer: &Value| {
            let hint = answer["hint"].as_str().unwrap_or_default();
            assert!(
                hint.starts_with(&format!("`{key}` was taken as the key that it is")),
                "{answer}"
            );
        };
        for keys in [json!([key]), json!(key)] {
            let listed = mcp.result("check_locks", json!({ "file_paths": keys })).await;
            assert_eq!(listed["structuredContent"]["result"][0]["fencing_token"], token);
            is_hinted(&listed["structuredContent"]);
            // Clients that show the model only the text show the hint too.
            assert!(listed["content"][1]["text"].as_str().expect("text").starts_with("Hint: "));
        }
        let held = json!({ "locks": [{ "file_path": key, "fencing_token": token }] });
        let verified = mcp.tool("verify_locks", held).await;
        assert_eq!(verified["valid"], true);
        is_hinted(&verified);
        let released = mcp.tool("release_lock", json!({ "file_path": key })).await;
        assert_eq!((&released["success"], &released["file_path"]), (&json!(true), &json!(key)));
        is_hinted(&released);
        lock().await;
        let released = mcp.tool("force_release_lock", json!({ "file_path": key })).await;
        assert_eq!(released["released"], true);
        is_hinted(&released);
    }
    // A key that is spelled like a path needs no hint, and a lock of nobody is told as such.
    let listed = mcp.result("check_locks", json!({ "file_paths": ["src\\a.rs"] })).await;
    assert_eq!(listed["structuredContent"], json!({ "result": [] }));
    let released = mcp.tool("release_lock", json!({ "file_path": "src/a.rs:12" })).await;
    assert_eq!(released["reason"], "lock_not_found_or_not_owner");
    assert!(released["hint"].as_str().expect("a hint").contains("probably `src/a.rs`"));
    let keys = json!({ "file_paths": ["a.rs:1", "b.rs", "b.rs:2", "c.rs:3"] });
    // An empty list would say that the files are free.
    let refused = mcp.tool_failure("check_locks", keys.clone()).await;
    assert_eq!(refused["status_code"], 422, "{refused}");
    let locs: Vec<_> =
        refused["detail"].as_array().expect("issues").iter().map(|it| &it["loc"]).collect();
    assert_eq!(
        locs,
        [0, 2, 3].map(|n| json!(["arguments", "file_paths", n])).iter().collect::<Vec<_>>()
    );
    assert!(refused.to_string().contains("probably `a.rs`"), "{refused}");
    service.client().acquire("x", "b.rs", json!({})).await;
    let listed = mcp.result("check_locks", keys).await;
    let hint = listed["structuredContent"]["hint"].as_str().expect("a hint").to_owned();
    assert!(hint.starts_with("`a.rs:1`") && hint.ends_with("(and 2 more such keys)"), "{hint}");
}

#[tokio::test]
async fn what_cannot_be_a_key_is_refused_by_every_tool() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for text in ["../src/a.rs", "src/../../src/a.rs"] {
        for (tool, arguments, place) in [
            ("acquire_lock", json!({ "file_path": text }), json!(["arguments", "file_path"])),
            ("release_lock", json!({ "file_path": text }), json!(["arguments", "file_path"])),
            ("check_locks", json!({ "file_paths": [text] }), json!(["arguments", "file_paths", 0])),
            ("check_locks", json!({ "file_paths": text }), json!(["arguments", "file_paths", 0])),
            (
                "verify_locks",
                json!({ "locks": [{ "file_path": text, "fencing_token": 1 }] }),
                json!(["arguments", "locks", 0, "file_path"]),
            ),
        ] {
            let failed = mcp.tool_failure(tool, arguments).await;
            let problem = &failed["detail"][0];
            assert_eq!((&problem["loc"], &problem["input"]), (&place, &json!(text)));
            let told = problem["msg"].as_str().expect("text");
            assert!(told.contains("probably `src/a.rs`"), "{tool} {text}: {told}");
        }
    }
}

#[tokio::test]
async fn no_key_stops_the_service() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    for (text, meant) in [
        ("src/../../x".to_owned(), "probably `x`"),
        ("c:main.rs".to_owned(), "probably `main.rs`"),
        ("a:::::".to_owned(), "probably `a`"),
        (format!("a{}", ":".repeat(8_000)), "such as"),
        (format!("{}a{}", "<".repeat(8_000), ">".repeat(8_000)), "such as"),
        (format!("{}a", "- ".repeat(8_000)), "such as"),
        (format!("{}a", "file:".repeat(3_000)), "such as"),
        (format!("{}a{}", "<".repeat(400_000), ">".repeat(400_000)), "at most 1024 bytes"),
        (format!("{}a", "file:".repeat(150_000)), "at most 1024 bytes"),
        (format!("a{}", ":".repeat(800_000)), "at most 1024 bytes"),
    ] {
        let failed = mcp.tool_failure("acquire_lock", json!({ "file_path": text })).await;
        assert_eq!(failed["detail"][0]["loc"], json!(["arguments", "file_path"]));
        let told = failed["detail"][0]["msg"].as_str().expect("text");
        assert!(told.contains(meant), "{text:.40}: {told:.300}");
    }
    // A key that is taken as it is cannot be suggested without its `./`.
    let quoted = json!({ "file_path": "'./@types/a.d.ts'" });
    let failed = mcp.tool_failure("acquire_lock", quoted).await;
    let told = failed["detail"][0]["msg"].as_str().expect("text");
    assert!(told.contains("probably `./@types/a.d.ts`"), "{told}");
    assert_eq!(
        mcp.tool("acquire_lock", json!({ "file_path": "a.rs" })).await["action"],
        "acquired"
    );
}

#[tokio::test]
async fn plain_http_takes_every_key_of_the_contract() {
    let service = Service::start().await;
    for key in ["/abs/a.rs", "src/a.rs:12", "@src/a.rs", "src/**"] {
        let locked = service.client().acquire("claude-1", key, json!({})).await;
        assert_eq!((&locked["success"], &locked["file_path"]), (&json!(true), &json!(key)));
    }
    // An empty key is refused by the operation, as before.
    let mcp = Mcp::new(service.client());
    let refused = mcp.tool("acquire_lock", json!({ "file_path": "" })).await;
    assert_eq!(refused["reason"], "invalid_file_path");
    assert_eq!(refused["locked_by"], Value::Null);
}
