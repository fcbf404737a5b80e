//! The size of answers over MCP.
use serde_json::{Value, json};

use super::Mcp;
use crate::support::Service;

/// The maximum size of an answer, in bytes.
const MAX_BYTES: usize = 60_000;

/// The result of a call, whose answer was cut.
async fn cut(mcp: &Mcp, tool: &str, arguments: Value) -> Value {
    let call = json!({ "name": tool, "arguments": arguments });
    let answer = mcp.send("tools/call", call).await;
    assert!(answer.text.len() <= MAX_BYTES, "{tool}: {} bytes", answer.text.len());
    let structured = &answer.json["result"]["structuredContent"];
    assert_eq!(structured["truncated"], true, "{tool}: {:.300}", answer.text);
    let hint = structured["hint"].as_str().expect("how to go on");
    assert!(hint.contains("at most 60000 bytes"), "{tool}: {hint}");
    answer.json["result"].clone()
}

#[tokio::test]
async fn a_list_is_cut_to_the_entries_that_fit() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for n in 0..60 {
        let key = format!("src/{n:02}/{}.rs", "x".repeat(900));
        let reason = "because ".repeat(100);
        service.client().acquire("claude-1", &key, json!({ "reason": reason })).await;
    }
    let result = cut(&mcp, "check_locks", json!({})).await;
    let locks = result["structuredContent"]["result"].as_array().expect("a list");
    assert!((5..60).contains(&locks.len()), "{}", locks.len());
    let text: Value =
        serde_json::from_str(result["content"][0]["text"].as_str().expect("text")).expect("JSON");
    assert_eq!(&text, &result["structuredContent"]["result"], "both show the same entries");
    let hint = result["structuredContent"]["hint"].as_str().expect("text");
    assert!(hint.starts_with(&format!("{} of 60 entries are shown", locks.len())), "{hint}");
    assert!(hint.contains("`file_paths`"), "{hint}");
    // The text of a list has no members, so a text of its own says the same.
    assert_eq!(result["content"][1]["text"], format!("Truncated: {hint}"));
    let one = json!({ "file_paths": [locks[0]["file_path"]] });
    assert_eq!(mcp.tool("check_locks", one).await[0], locks[0]);

    for n in 0..30 {
        let task =
            json!({ "task_type": "t", "description": format!("{n} {}", "long ".repeat(1_000)) });
        mcp.tool("submit_work", task).await;
    }
    let result = cut(&mcp, "list_work", json!({})).await;
    let (list, text) = (&result["structuredContent"], &result["content"][0]["text"]);
    assert_eq!(list["count"], list["tasks"].as_array().expect("a list").len());
    let hint = list["hint"].as_str().expect("text");
    assert!(hint.contains("`status`") && hint.contains("GET /work"), "{hint}");
    assert_eq!(text.as_str(), Some(list.to_string().as_str()));
    let few = mcp.tool("list_work", json!({ "limit": 2 })).await;
    assert!(few["hint"].as_str().is_some_and(|hint| hint.contains("higher limit")), "{few}");
    let resource = mcp.send("resources/read", json!({ "uri": "locks://current" })).await.text;
    assert!(resource.len() <= MAX_BYTES, "{} bytes", resource.len());
    assert!(resource.contains(" of 61 lines are left out"), "{resource:.300}");
}

#[tokio::test]
async fn a_single_entry_that_is_too_large_is_shortened_with_a_mark() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    let steps = vec!["step ".repeat(200); 400];
    let handoff = json!({ "summary": "s", "next_steps": steps, "decisions": ["d"] });
    mcp.tool("write_handoff", handoff).await;
    let result = cut(&mcp, "read_handoff", json!({})).await;
    let handoff = &result["structuredContent"]["handoffs"][0];
    assert_eq!((&handoff["summary"], &handoff["decisions"]), (&json!("s"), &json!(["d"])));
    let last = handoff["next_steps"].as_array().and_then(|it| it.last()).expect("an item");
    assert!(last.as_str().is_some_and(|it| it.ends_with(" of 400 items]")), "{last}");
    assert_eq!(result["structuredContent"]["untrusted"], json!(["handoffs[]"]));

    let task = json!({ "task_type": "t", "description": "d",
        "input_data": { "log": "line\n".repeat(40_000) } });
    let id = mcp.tool("submit_work", task).await["task_id"].clone();
    for (tool, arguments, data) in [
        ("get_task", json!({ "task_id": id }), "/task/input_data/log"),
        ("get_work", json!({}), "/input_data/log"),
    ] {
        let result = cut(&mcp, tool, arguments).await;
        let log = result["structuredContent"].pointer(data).and_then(Value::as_str);
        assert!(log.is_some_and(|log| log.ends_with(" of 200000 bytes]")), "{tool}");
    }
    // A resource and a refusal that repeats what was sent.
    let resource = mcp.send("resources/read", json!({ "uri": "handoffs://recent" })).await.text;
    assert!(resource.len() <= MAX_BYTES, "{} bytes", resource.len());
    let data: Vec<_> = (0..3_000).map(|n| json!({ "n": n, "text": "x".repeat(50) })).collect();
    let call = json!({ "name": "submit_work", "arguments": { "input_data": { "list": data } } });
    let refused = mcp.send("tools/call", call).await;
    assert!(refused.text.len() <= MAX_BYTES, "{} bytes", refused.text.len());
    assert_eq!(refused.json["result"]["structuredContent"]["status_code"], 422);
}

#[tokio::test]
async fn plain_http_answers_in_full() {
    let service = Service::start().await;
    for _ in 0..30 {
        service.client().submit(json!({ "task_description": "long ".repeat(1_000) })).await;
    }
    let answer = service.client().get("/work").await;
    assert_eq!(answer.json["count"], 30);
    assert!(answer.json.get("untrusted").is_none());
}
