//! Arguments of tools as models send them.
use serde_json::{Value, json};

use super::{Mcp, arguments, permitted, tools};
use crate::support::Service;

/// The places and the texts of the issues that a call gets.
async fn issues(mcp: &Mcp, tool: &str, arguments: Value) -> Vec<(Value, String)> {
    let failed = mcp.tool_failure(tool, arguments).await;
    assert_eq!(failed["status_code"], 422, "{failed}");
    let issues = failed["detail"].as_array().expect("a list").iter();
    issues.map(|it| (it["loc"].clone(), it["msg"].as_str().expect("text").to_owned())).collect()
}

/// Blanks as models send them.
fn blanks() -> [Value; 4] {
    [json!(""), json!(null), json!([]), json!(" ")]
}

/// Which optional members of a value that are absent are filled with a blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    /// All, an object too.
    Whole,
    /// All, but of an object its members.
    Members,
}

/// The schema of an object that declares its members, also where it can be null.
fn object_schema(schema: &Value) -> Option<&Value> {
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    let mut schemas = std::iter::once(schema).chain(alternatives);
    schemas.find(|it| it["properties"].as_object().is_some_and(|it| !it.is_empty()))
}

/// Puts a blank into every optional member that is absent.
fn fill(schema: &Value, value: &mut Value, blank: &Value, filled: Filled) {
    if let Value::Array(items) = value {
        items.iter_mut().for_each(|item| fill(&schema["items"], item, blank, filled));
    }
    let Some(schema) = object_schema(schema).filter(|_| value.is_object()) else { return };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (member, schema) in schema["properties"].as_object().into_iter().flatten() {
        if value[member].is_null() && !required.contains(&json!(member)) {
            value[member] = blank_of(schema, blank, filled);
        } else {
            fill(schema, &mut value[member], blank, filled);
        }
    }
}

/// The value of an optional member of this schema that counts as absent.
fn blank_of(schema: &Value, blank: &Value, filled: Filled) -> Value {
    let nested = object_schema(schema).filter(|_| filled == Filled::Members);
    match nested {
        Some(nested) => {
            let mut members = json!({});
            fill(nested, &mut members, blank, filled);
            members
        }
        None if blank.is_array() && !schema.to_string().contains("\"array\"") => json!(null),
        None => blank.clone(),
    }
}

/// How many values of each column of each table are null, and how many have a blank text.
async fn stored(service: &Service) -> Vec<String> {
    let columns = "select format('%I', table_name) as table, format('%I', column_name) as column
        from information_schema.columns join information_schema.tables using (table_schema, table_name)
        where table_schema = 'public' and table_type = 'BASE TABLE' order by 1, 2";
    let mut counts = Vec::new();
    for column in service.rows(columns).await {
        let (table, column) = (column["table"].as_str(), column["column"].as_str());
        let (table, column) = (table.expect("a table"), column.expect("a column"));
        let sql = format!(
            "select format('{table}.{column}: %s rows, %s null, %s blank', count(*),
                count(*) - count({column}),
                count(*) filter (where {column}::text ~ '^ *$' or {column}::text ~ '\" *\"'))
             from {table}"
        );
        counts.push(service.scalar::<String>(&sql).await);
    }
    counts
}

#[tokio::test]
async fn blank_optional_arguments_count_as_absent_for_every_tool() {
    let plain = Service::start().await;
    let mut expected = Vec::new();
    for (op, name) in tools() {
        expected.push(permitted(&plain, &op).tool(name, arguments(&op)).await);
    }
    let expected_rows = stored(&plain).await;
    for (blank, filled) in
        blanks().into_iter().flat_map(|it| [(it.clone(), Filled::Whole), (it, Filled::Members)])
    {
        let service = Service::start().await;
        for ((op, name), expected) in tools().into_iter().zip(&expected) {
            let (tool, mut given) = (op.meta.tool.expect("a tool"), arguments(&op));
            let required = op.input["required"].as_array().cloned().unwrap_or_default();
            for (member, schema) in op.fields() {
                let argument = tool.argument(member);
                if tool.hides(op.meta.identity, member) || required.contains(&json!(member)) {
                    continue;
                }
                match &mut given[argument] {
                    absent @ Value::Null => *absent = blank_of(schema, &blank, filled),
                    given => fill(schema, given, &blank, filled),
                }
            }
            let told = permitted(&service, &op).tool(name, given.clone()).await;
            let names = |it: &Value| -> Vec<String> {
                it.as_object().map(|it| it.keys().cloned().collect()).unwrap_or_default()
            };
            assert_eq!(names(&told), names(expected), "{name} {given}");
            assert_eq!(told["success"], expected["success"], "{name} {given}: {told}");
        }
        assert_eq!(stored(&service).await, expected_rows, "{blank} {filled:?}");
    }
}

#[tokio::test]
async fn a_blank_argument_is_never_stored() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    let task = |key: Value| {
        json!({ "task_type": "t", "description": "d", "unique_key": key, "priority": null,
            "depends_on": "", "agent_requirements": { "archetype": "", "min_trust_level": null },
            "deadline": "", "max_attempts": "", "retry_on_failure": null })
    };
    for key in [json!(""), json!(" "), json!(null)] {
        assert_eq!(mcp.tool("submit_work", task(key)).await["action"], "created");
    }
    let tasks = "select count(*) from work_task where unique_key is null and archetype is null
        and priority = 5 and max_attempts = 3";
    assert_eq!(service.scalar::<i64>(tasks).await, 3);
    let claimed = mcp.tool("get_work", json!({ "task_types": [], "lease_minutes": "" })).await;
    assert_eq!(claimed["success"], true, "{claimed}");
    let done = json!({ "task_id": claimed["task_id"], "success": "True", "claim_token": "",
        "result": "{\"n\": 1}", "error_message": "" });
    assert_eq!(mcp.tool("complete_work", done).await["status"], "completed");
    let task = mcp.tool("get_task", json!({ "task_id": claimed["task_id"] })).await;
    assert_eq!(task["task"]["result"], json!({ "n": 1 }));
    assert_eq!(task["task"]["error_message"], Value::Null);
    let claimed = mcp.tool("get_work", json!({ "task_types": ["", null] })).await;
    assert_eq!(claimed["success"], true, "a list of blanks selects nothing in particular");
    mcp.tool("acquire_lock", json!({ "file_path": "a.rs", "ttl_minutes": null })).await;
    for every in [json!({ "file_paths": [] }), json!({ "file_paths": "" }), json!({})] {
        let locks = mcp.tool("check_locks", every).await;
        assert_eq!(locks.as_array().map(Vec::len), Some(1), "{locks}");
    }
}

#[tokio::test]
async fn lists_objects_and_truth_values_are_read_from_text() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    for (n, sent) in [json!("ci"), json!("[\"ci\"]"), json!(["ci"])].into_iter().enumerate() {
        let memory = json!({ "summary": format!("s{n}"), "tags": sent, "lessons": "measure, then cut",
            "details": "{\"a\": [1]}", "event_type": null });
        mcp.tool("remember", memory).await;
    }
    let found =
        mcp.tool("recall", json!({ "tags": "ci", "scope": "Workspace", "limit": "5" })).await;
    assert_eq!(found["count"], 3);
    for memory in found["memories"].as_array().expect("a list") {
        assert_eq!(memory["tags"], json!(["ci"]));
        assert_eq!(memory["lessons"], json!(["measure, then cut"]));
        assert_eq!(memory["details"], json!({ "a": [1] }));
        assert_eq!(memory["event_type"], "discovery");
    }
    let handoff =
        json!({ "summary": "s", "next_steps": "wire it up", "decisions": "[{\"d\": 1}]" });
    mcp.tool("write_handoff", handoff).await;
    let read = mcp.tool("read_handoff", json!({})).await["handoffs"][0].clone();
    assert_eq!(read["next_steps"], json!(["wire it up"]));
    assert_eq!(read["decisions"], json!([{ "d": 1 }]));
    let lock = mcp.tool("acquire_lock", json!({ "file_path": "a.rs" })).await;
    let held = json!({ "file_path": "a.rs", "fencing_token": lock["fencing_token"] });
    for locks in
        [json!([held]), held.clone(), json!(held.to_string()), json!(json!([held]).to_string())]
    {
        assert_eq!(mcp.tool("verify_locks", json!({ "locks": locks })).await["valid"], true);
    }
    // What does not hold what is asked for gets the ordinary issue.
    for (tags, text) in [
        ("rust, python", r#"send ["rust","python"], or ["rust, python"] for one text"#),
        ("['rust', \"go\"]", r#"send ["rust","go"], or ["['rust', \"go\"]"] for one text"#),
        ("[WIP]", r#"send ["WIP"], or ["[WIP]"] for one text"#),
    ] {
        let told = issues(&mcp, "remember", json!({ "summary": "s", "tags": tags })).await;
        let text = format!("Input should be a valid list: {text}");
        assert_eq!(told, [(json!(["arguments", "tags"]), text)]);
    }
    for text in ["[WIP] parser", "{unfinished", "a {b}, then [c]"] {
        mcp.tool("write_handoff", json!({ "summary": "s", "next_steps": text })).await;
        let read = mcp.tool("read_handoff", json!({})).await;
        assert_eq!(read["handoffs"][0]["next_steps"], json!([text]));
    }
    for (tool, sent, kind) in [
        ("remember", json!({ "summary": "s", "tags": 5 }), "list_type"),
        ("remember", json!({ "summary": "s", "details": "{'a': 1}" }), "dict_type"),
        (
            "complete_work",
            json!({ "task_id": uuid::Uuid::nil(), "success": "yes" }),
            "bool_parsing",
        ),
    ] {
        let failed = mcp.tool_failure(tool, sent.clone()).await;
        assert_eq!(failed["detail"][0]["type"], kind, "{sent}: {failed}");
    }
}

#[tokio::test]
async fn arguments_can_be_an_object_in_text() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    let call = json!({ "name": "acquire_lock", "arguments": "{\"file_path\": \"a.rs\"}" });
    let locked = mcp.ask("tools/call", call.clone()).await;
    assert_eq!(locked["structuredContent"]["action"], "acquired");
    let batch = json!([{ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call }]);
    let answer = mcp.client.post("/mcp", batch).await;
    assert_eq!(answer.json[0]["result"]["structuredContent"]["action"], "refreshed");
    for nothing in [json!(""), json!(null)] {
        let call = json!({ "name": "heartbeat", "arguments": nothing });
        assert_eq!(mcp.ask("tools/call", call).await["isError"], false);
    }
    for wrong in [json!("[1]"), json!("{'a': 1}"), json!([]), json!(5)] {
        let call = json!({ "name": "heartbeat", "arguments": wrong });
        assert_eq!(mcp.failure("tools/call", call).await.0, -32602, "{wrong}");
    }
    assert_eq!(
        mcp.failure("tools/call", json!({ "name": "heartbeat", "arguments": 1 })).await.0,
        -32602
    );
}

#[tokio::test]
async fn unknown_arguments_are_refused_with_the_nearest_name() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    let id = uuid::Uuid::nil();
    for (tool, sent, name, meant) in [
        (
            "complete_work",
            json!({ "task_id": id, "success": true, "output": {} }),
            "output",
            "result",
        ),
        ("write_handoff", json!({ "summary": "s", "todo": ["x"] }), "todo", "next_steps"),
        (
            "submit_work",
            json!({ "task_type": "t", "description": "d", "dependsOn": [id] }),
            "dependsOn",
            "depends_on",
        ),
        ("get_work", json!({ "task_type": "t" }), "task_type", "task_types"),
        ("acquire_lock", json!({ "file_path": "a.rs", "ttl": 5 }), "ttl", "ttl_minutes"),
        ("acquire_lock", json!({ "file_path": "a.rs", "timeout": 5 }), "timeout", "wait_seconds"),
        ("recall", json!({ "search": "x" }), "search", "query"),
    ] {
        let told = issues(&mcp, tool, sent).await;
        let text = format!("Unknown member `{name}`: did you mean `{meant}`?");
        assert_eq!(told, [(json!(["arguments", name]), text)], "{tool}");
    }
    // A member that is missing and the unknown one that was meant for it.
    let told = issues(&mcp, "acquire_lock", json!({ "path": "a.rs", "colour": "red" })).await;
    let told: Vec<_> = told.iter().map(|(loc, text)| (loc[1].as_str(), text.as_str())).collect();
    assert_eq!(
        told,
        [
            (Some("file_path"), "Field required"),
            (Some("path"), "Unknown member `path`: did you mean `file_path`?"),
            (
                Some("colour"),
                "Unknown member `colour`: expected one of file_path, reason, ttl_minutes, wait_seconds"
            ),
        ]
    );
    let nested = json!({ "task_type": "t", "description": "d",
        "agent_requirements": { "minTrustLevel": 3 } });
    let told = issues(&mcp, "submit_work", nested).await;
    assert_eq!(told[0].0, json!(["arguments", "agent_requirements", "minTrustLevel"]));
    assert!(told[0].1.contains("`min_trust_level`"), "{told:?}");
    let nothing = issues(&mcp, "heartbeat", json!({ "verbose": true })).await;
    assert_eq!(nothing[0].1, "Unknown member `verbose`: expected no members");
    assert_eq!(service.audit_rows().await, 0, "none of the calls had an effect");
}

#[tokio::test]
async fn a_great_many_problems_are_counted() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).offered("all");
    let odd: Value = (0..50_000).map(|n| (format!("m{n}"), json!(n))).collect();
    let mut lock = odd.clone();
    lock["file_path"] = json!("a.rs");
    let told = issues(&mcp, "acquire_lock", lock).await;
    assert_eq!(told.len(), 20);
    assert!(told[19].1.ends_with(" (and 49980 more such problems)"), "{:?}", told[19]);
    let task = json!({ "task_type": "t", "description": "d", "agent_requirements": odd });
    assert_eq!(issues(&mcp, "submit_work", task).await.len(), 20);
    let keys = json!({ "file_paths": vec!["@src/a.rs"; 1_000] });
    let told = issues(&mcp, "check_locks", keys.clone()).await;
    assert_eq!(told.len(), 20);
    assert!(told[19].1.ends_with(" (and 980 more such problems)"), "{:?}", told[19]);
    service.client().acquire("x", "@src/a.rs", json!({})).await;
    let listed = mcp.result("check_locks", keys).await;
    let hint = listed["structuredContent"]["hint"].as_str().expect("a hint");
    assert!(hint.ends_with(" (and 999 more such keys)"), "{hint}");
    // Texts that cannot be keys are counted too, whether they are read as paths or not.
    let too_long = "a".repeat(1_025);
    for key in [json!("../../a.rs"), json!("a\u{0}b"), json!(too_long), json!(1), json!({})] {
        let keys = json!({ "file_paths": vec![key.clone(); 500] });
        let told = issues(&mcp, "check_locks", keys).await;
        assert_eq!(told.len(), 20, "{key}");
        assert!(told[19].1.ends_with(" (and 480 more such problems)"), "{key}: {:?}", told[19]);
    }
    let keys = json!({ "file_paths": vec!["../a.rs"; 50_000] });
    assert_eq!(issues(&mcp, "check_locks", keys).await[0].1, "List should have at most 1000 items");
    // Names are compared where both are short.
    for name in ["ttl_".repeat(200_000), "x".repeat(900_000)] {
        let mut lock = json!({ "file_path": "a.rs" });
        lock[&name] = json!(5);
        let call = json!({ "name": "acquire_lock", "arguments": lock });
        let answer = mcp.send("tools/call", call).await;
        assert_eq!(answer.json["result"]["structuredContent"]["status_code"], 422);
        let (code, told) = mcp.failure("tools/call", json!({ "name": name })).await;
        assert_eq!(code, -32602);
        assert!(told.ends_with("call tools/list for the offered tools"));
    }
    // The same over plain HTTP.
    let task = json!({ "task_type": "t", "task_description": "d", "agent_requirements": odd });
    let refused = service.client().post("/work/submit", task).await;
    let told = refused.json["detail"].as_array().expect("a list");
    assert_eq!((refused.status.as_u16(), told.len()), (422, 20));
    let last = told[19]["msg"].as_str().expect("text");
    assert!(last.ends_with(" (and 49980 more unknown requirements)"), "{last}");
}

#[tokio::test]
async fn the_session_of_the_connection_can_be_repeated_as_an_argument() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client()).header("mcp-session-id", "c-1");
    mcp.tool("register_session", json!({ "session_id": "s-1" })).await;
    let lock = json!({ "file_path": "a.rs", "session_id": "s-1" });
    assert_eq!(mcp.tool("acquire_lock", lock).await["session_id"], "s-1");
    let told =
        issues(&mcp, "acquire_lock", json!({ "file_path": "a.rs", "session_id": "s-2" })).await;
    assert!(told[0].1.contains("(now `s-1`); leave it out"), "{told:?}");
}

#[tokio::test]
async fn a_filter_of_known_words_names_them() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    mcp.tool("submit_work", json!({ "task_type": "t", "description": "d" })).await;
    mcp.tool("register_session", json!({})).await;
    for (tool, list, word, none) in [
        ("list_work", "tasks", "Pending", "completed"),
        ("discover_agents", "agents", "ACTIVE", "disconnected"),
    ] {
        let answer = async |status: &str| mcp.tool(tool, json!({ "status": status })).await;
        for status in [word, &word.to_lowercase(), ""] {
            assert_eq!(answer(status).await[list].as_array().map(Vec::len), Some(1), "{status}");
        }
        assert_eq!(answer(none).await[list], json!([]));
        let told = issues(&mcp, tool, json!({ "status": "open" })).await;
        let [(loc, text)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(*loc, json!(["arguments", "status"]));
        let known = text.strip_prefix("Input should be one of ").expect("the known words");
        assert!(known.split(", ").any(|known| known.eq_ignore_ascii_case(word)), "{text}");
        let listed = mcp.tools().await;
        let listed = listed.iter().find(|it| it["name"] == tool).expect("offered");
        let words: Vec<_> = known.split(", ").collect();
        assert_eq!(listed["inputSchema"]["properties"]["status"]["enum"], json!(words));
    }
    // Over HTTP the contract answers an unknown state of sessions with an empty list.
    let client = service.client();
    assert_eq!(client.get("/discovery/agents?status=Active").await.json["count"], 0);
    let refused = client.get("/work?status=Pending").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json["detail"][0]["type"]),
        (422, &json!("enum"))
    );
    for empty in ["/work?status=", "/work"] {
        assert_eq!(client.get(empty).await.json["count"], 1, "{empty}");
    }
}

#[tokio::test]
async fn required_texts_must_not_be_blank() {
    let service = Service::start().await;
    let mcp = Mcp::new(service.client());
    let told = issues(&mcp, "remember", json!({ "tags": ["x"] })).await;
    assert_eq!(told, [(json!(["arguments", "summary"]), "Field required".to_owned())]);
    let text = "Value error, expected text that is not blank";
    let told = issues(&mcp, "remember", json!({ "summary": " " })).await;
    assert_eq!(told, [(json!(["arguments", "summary"]), text.to_owned())]);
    let told = issues(&mcp, "submit_work", json!({ "task_type": "t", "description": "" })).await;
    assert_eq!(told, [(json!(["arguments", "description"]), text.to_owned())]);
    let told = issues(&mcp, "submit_work", json!({ "task_type": "", "description": "d" })).await;
    assert_eq!(told, [(json!(["arguments", "task_type"]), text.to_owned())]);
    let told = issues(&mcp, "check_guardrails", json!({ "operation_text": "\n" })).await;
    assert_eq!(told, [(json!(["arguments", "operation_text"]), text.to_owned())]);
    for table in ["memory", "work_task"] {
        assert_eq!(service.scalar::<i64>(&format!("select count(*) from {table}")).await, 0);
    }
}

#[tokio::test]
async fn schemas_of_tools_are_those_that_clients_understand() {
    let service = Service::start().await;
    for tool in Mcp::new(service.client()).offered("all").tools().await {
        let (name, schema) = (&tool["name"], &tool["inputSchema"]);
        assert_eq!(schema["additionalProperties"], false, "{name}");
        visit(schema, &mut |schema| {
            let format = schema.get("format").is_none_or(|format| format == "date-time");
            assert!(format, "{name}: {schema}");
            assert_ne!(schema["items"], json!({}), "{name}: {schema}");
            assert_ne!(schema["items"], json!(true), "{name}: {schema}");
            if schema["properties"].is_object() {
                assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
            }
        });
    }
}

fn visit(schema: &Value, look: &mut impl FnMut(&Value)) {
    look(schema);
    for property in schema["properties"].as_object().into_iter().flat_map(|it| it.values()) {
        visit(property, look);
    }
    if let Some(items) = schema.get("items") {
        visit(items, look);
    }
}
