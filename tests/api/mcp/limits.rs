//! The size of answers over MCP.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Mcp;
use crate::support::Service;

/// The maximum size of an answer, in bytes.
const MAX_BYTES: usize = 60_000;

/// The ids of all entries of a list, in the order in which the calls that the hints name show them. Each
/// entry whose texts are shortened is read whole by the call that its mark names.
async fn followed(mcp: &Mcp, tool: &str, arguments: Value, (list, id): (&str, &str)) -> Vec<Value> {
    let (mut ids, mut arguments, mut calls) = (Vec::new(), arguments, 0);
    loop {
        let call = json!({ "name": tool, "arguments": arguments });
        let answer = mcp.send("tools/call", call).await;
        assert!(answer.text.len() <= MAX_BYTES, "{tool}: {} bytes", answer.text.len());
        let structured = &answer.json["result"]["structuredContent"];
        let entries = structured[list].as_array().expect("a list");
        assert!(!entries.is_empty(), "{tool}: {arguments}");
        for entry in entries {
            assert_whole(mcp, tool, &arguments, (list, id), entry).await;
            ids.push(entry[id].clone());
        }
        let Some(next) = structured["next_cursor"].as_str() else { break };
        let hint = structured["hint"].as_str().expect("how to go on");
        let says_how = hint.contains(&json!({ "cursor": next }).to_string());
        assert!(says_how || hint.contains("higher limit"), "{tool}: {hint}");
        arguments["cursor"] = json!(next);
        calls += 1;
        assert!(calls < 100, "{tool} does not end");
    }
    assert!(calls > 0, "{tool} answers all at once");
    ids
}

/// Makes the call that the mark of a shortened entry names, and asserts that it returns the entry whole.
async fn assert_whole(
    mcp: &Mcp,
    tool: &str,
    arguments: &Value,
    (list, id): (&str, &str),
    entry: &Value,
) {
    let text = entry.to_string();
    let mark = entry.as_object().into_iter().flatten().find_map(|(_, value)| {
        let text = value.as_str().or_else(|| value[0].as_str())?;
        text.rsplit_once("; whole: ")
    });
    assert_eq!(mark.is_some(), text.contains("…[cut:"), "{tool}: {text:.200}");
    let Some((_, call)) = mark else { return };
    let call = call.strip_suffix(']').expect("the end of the mark");
    let (named, more) = call.split_at(call.find('{').expect("arguments"));
    let more: Value = serde_json::from_str(more).expect("JSON");
    let answer = if named == "the same call with " {
        let mut arguments = arguments.clone();
        let members = arguments.as_object_mut().expect("arguments");
        members.remove("cursor");
        members.extend(more.as_object().expect("arguments").clone());
        mcp.tool(tool, arguments).await[list][0].clone()
    } else {
        mcp.tool(named.trim(), more).await.get("task").expect("the task").clone()
    };
    assert_eq!(answer[id], entry[id], "{tool}: {call}");
    assert!(!answer.to_string().contains("…[cut:"), "{tool}: {call}");
}

/// Asserts that following the hints shows every entry once, in the order of the route.
async fn assert_followed(mcp: &Mcp, tool: &str, arguments: Value, names: (&str, &str), path: &str) {
    let whole = mcp.client.get(path).await.json;
    let entries = whole[names.0].as_array().expect("a list");
    let expected: Vec<_> = entries.iter().map(|entry| entry[names.1].clone()).collect();
    assert_eq!(followed(mcp, tool, arguments, names).await, expected, "{tool}");
}

#[tokio::test]
async fn following_the_hints_reaches_every_entry_once() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all").header("x-agent-id", "claude-1");
    let long = |n: u32| format!("{n} {}", "long \"ü\" ".repeat(600));
    for n in 0..45 {
        mcp.tool(
            "submit_work",
            json!({ "task_type": "t", "description": long(n), "priority": 1 + n % 3 }),
        )
        .await;
        let handoff = json!({ "summary": long(n), "next_steps": [long(n)] });
        mcp.tool("write_handoff", handoff).await;
        mcp.tool("remember", json!({ "summary": long(n), "tags": ["x"] })).await;
        let session = json!({ "session_id": format!("s-{n}"), "current_task": long(n) });
        mcp.tool("register_session", session).await;
    }
    let automatic = json!({ "summary": "Session ended.", "automatic": true });
    mcp.client.post("/handoffs/write", automatic).await;
    assert_followed(&mcp, "list_work", json!({}), ("tasks", "id"), "/work").await;
    let filtered = json!({ "status": "PENDING", "limit": 9 });
    assert_followed(&mcp, "list_work", filtered, ("tasks", "id"), "/work").await;
    for limit in [7, 500] {
        let (path, names) = ("/handoffs/latest?limit=500", ("handoffs", "id"));
        assert_followed(&mcp, "read_handoff", json!({ "limit": limit }), names, path).await;
    }
    // A heartbeat moves a session to the front: none of the reader's are in the list.
    let mcp = Mcp::new(service.client()).offered("all").header("x-agent-id", "reader");
    let (path, names) = ("/discovery/agents", ("agents", "session_id"));
    assert_followed(&mcp, "discover_agents", json!({}), names, path).await;
    for more in [json!({}), json!({ "query": "long", "limit": 20 })] {
        let mut arguments = json!({ "limit": 100 });
        let members = arguments.as_object_mut().expect("arguments");
        members.extend(more.as_object().expect("arguments").clone());
        let ids = followed(&mcp, "recall", arguments, ("memories", "id")).await;
        let distinct: BTreeSet<_> = ids.iter().map(Value::to_string).collect();
        assert_eq!((ids.len(), distinct.len()), (45, 45), "{more}");
    }
    let (path, names) = ("/audit?limit=500", ("entries", "id"));
    assert_followed(
        &mcp,
        "query_audit",
        json!({ "limit": 500, "until": "9999-01-01T00:00:00Z" }),
        names,
        path,
    )
    .await;
}

#[tokio::test]
async fn a_cursor_continues_a_list_over_http() {
    let service = Service::start().await;
    let client = service.client();
    for n in 0..5 {
        client.acquire("a", &format!("src/{n}.rs"), json!({})).await;
    }
    let first = client.get("/locks?limit=3").await.json;
    assert_eq!((&first["truncated"], &first["next_cursor"]), (&json!(true), &json!("src/2.rs")));
    let rest = client.get("/locks?limit=3&cursor=src/2.rs").await.json;
    let keys: Vec<_> = rest["locks"].as_array().expect("a list").iter().collect();
    assert_eq!((&keys[0]["file_path"], keys.len()), (&json!("src/3.rs"), 2));
    assert_eq!((&rest["truncated"], rest.get("next_cursor")), (&json!(false), None));
    for path in [
        "/work?cursor=x",
        "/audit?cursor=1~2",
        "/discovery/agents?cursor=soon~a~b",
        "/handoffs/latest?cursor=x",
    ] {
        let refused = client.get(path).await;
        assert_eq!(refused.status, 422, "{path}: {}", refused.text);
        let told = &refused.json["detail"][0];
        assert_eq!(told["loc"], json!(["query", "cursor"]));
        assert_eq!(told["msg"], "Value error, expected the next_cursor of an earlier answer");
    }
    let refused = client.post("/handoffs/read", json!({ "cursor": "x" })).await;
    assert_eq!(refused.json["detail"][0]["loc"], json!(["body", "cursor"]));
    let call = json!({ "name": "list_work", "arguments": { "cursor": "x" } });
    let refused = Mcp::new(service.client()).send("tools/call", call).await.json;
    let told = &refused["result"]["structuredContent"]["detail"][0]["loc"];
    assert_eq!(*told, json!(["arguments", "cursor"]), "{refused}");
}

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
    let next = locks.last().expect("a lock")["file_path"].as_str().expect("a key");
    assert_eq!(result["structuredContent"]["next_cursor"], next);
    assert!(hint.contains("repeat the call with `next_cursor` as `cursor`"), "{hint}");
    // The text of a list has no members, so a text of its own says the same.
    assert_eq!(result["content"][1]["text"], format!("Truncated: {hint}"));
    let one = json!({ "file_paths": [locks[0]["file_path"]] });
    let whole = mcp.tool("check_locks", one).await[0].clone();
    assert_eq!(whole["fencing_token"], locks[0]["fencing_token"]);
    assert!(!whole.to_string().contains("…[cut:"));
    let mut keys: Vec<_> = locks.iter().map(|lock| lock["file_path"].clone()).collect();
    let mut cursor = result["structuredContent"]["next_cursor"].clone();
    while !cursor.is_null() {
        let call = json!({ "name": "check_locks", "arguments": { "cursor": cursor } });
        let result = mcp.send("tools/call", call).await.json["result"].clone();
        let locks = result["structuredContent"]["result"].as_array().expect("a list");
        keys.extend(locks.iter().map(|lock| lock["file_path"].clone()));
        cursor = result["structuredContent"]["next_cursor"].clone();
    }
    assert_eq!(keys.len(), 60);
    assert!(keys.is_sorted_by_key(|key| key.as_str()));

    for n in 0..30 {
        let task =
            json!({ "task_type": "t", "description": format!("{n} {}", "long ".repeat(1_000)) });
        mcp.tool("submit_work", task).await;
    }
    let result = cut(&mcp, "list_work", json!({})).await;
    let (list, text) = (&result["structuredContent"], &result["content"][0]["text"]);
    assert_eq!(list["count"], list["tasks"].as_array().expect("a list").len());
    let hint = list["hint"].as_str().expect("text");
    assert!(hint.contains("{\"cursor\":\"5~") && hint.contains("GET /work"), "{hint}");
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
