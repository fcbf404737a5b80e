//! Lock keys as models spell them.
use serde_json::{Value, json};

use super::Mcp;
use crate::support::Service;

#[tokio::test]
async fn what_is_not_a_path_from_the_root_is_refused_with_the_key_that_was_meant() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for text in [
        "/home/me/project/src/a.rs",
        "/home/me/project/.claude/worktrees/x/src/a.rs",
        ".claude/worktrees/x/src/a.rs",
        "C:\\project\\src\\a.rs",
        "file:///home/me/project/src/a.rs",
        "~/project/src/a.rs",
        "${workspaceFolder}/src/a.rs",
        "@src/a.rs",
        "src/a.rs:12",
        "src/a.rs#L3-L9",
        "\"src/a.rs\"",
        "`src/a.rs`",
        "src/a.rs, src/b.rs",
        "../src/a.rs",
    ] {
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
            let problems = failed["detail"].as_array().expect("a list");
            assert_eq!(problems.len(), 1, "{failed}");
            assert_eq!((&problems[0]["loc"], &problems[0]["input"]), (&place, &json!(text)));
            let told = problems[0]["msg"].as_str().expect("text");
            assert!(told.contains("probably `src/a.rs`"), "{tool} {text}: {told}");
        }
    }
    for (text, told) in [
        ("src/", "a folder locks nothing that is in it"),
        ("src/**", "a pattern locks nothing that it matches"),
        (".git/config", "belong to git"),
    ] {
        let failed = mcp.tool_failure("acquire_lock", json!({ "file_path": text })).await;
        let problem = failed["detail"][0]["msg"].as_str().expect("text");
        assert!(problem.contains(told), "{text}: {problem}");
    }
    assert_eq!(service.scalar::<i64>("select count(*) from file_lock").await, 0);
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
async fn names_of_files_and_namespaced_keys_are_locked_as_they_are() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    for (text, key) in [
        ("src\\sub\\a.rs", "src/sub/a.rs"),
        ("./src//b.rs", "src/b.rs"),
        ("app/[id]/page.tsx", "app/[id]/page.tsx"),
        ("src/a b.ts", "src/a b.ts"),
        ("src/a,b.rs", "src/a,b.rs"),
        ("src/a:b.rs", "src/a:b.rs"),
        ("./@types/a.d.ts", "@types/a.d.ts"),
        ("./src/a.x, y/b.rs", "src/a.x, y/b.rs"),
        ("db:schema:users", "db:schema:users"),
        ("api:get /users", "api:GET /users"),
    ] {
        let locked = mcp.tool("acquire_lock", json!({ "file_path": text })).await;
        assert_eq!(locked["file_path"], key, "{text}");
    }
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
