//! The MCP server on standard input and output, before a small server of the test's own.
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    sync::{Arc, Condvar, Mutex},
};

use serde_json::{Value, json};

use coord::routes::Route;

use crate::support::{Coord, Done, Reply, Request, Server, Service, nowhere};

fn method(request: &Request) -> (String, Value) {
    let message: Value = serde_json::from_str(&request.body).unwrap_or_default();
    (message["method"].as_str().unwrap_or_default().to_owned(), message["id"].clone())
}

/// Answers as a server that keeps sessions does.
fn usual(request: &Request) -> Reply {
    let (method, id) = method(request);
    let with = |more: &str, body: &str| {
        Reply::Raw(format!(
            "HTTP/1.1 200 X\r\n{more}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
    };
    match method.as_str() {
        "initialize" => {
            let result = json!({ "protocolVersion": "2025-06-18", "capabilities": {} });
            let body = json!({ "jsonrpc": "2.0", "id": id, "result": result });
            with("Mcp-Session-Id: m-1\r\n", &format!("{body:#}"))
        }
        "" if request.method == "DELETE" => Reply::Json(200, String::new()),
        it if it.starts_with("notifications/") => Reply::Json(202, String::new()),
        "stream" => {
            let answer = json!({ "jsonrpc": "2.0", "id": id, "result": {} }).to_string();
            let (head, tail) = answer.split_at(1);
            let body = format!(
                ": hello\nevent: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"progress\"}}\n\n\
                 id: 1\ndata:{head}\ndata: {tail}\n\n"
            );
            Reply::Raw(format!("HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n{body}"))
        }
        "html" => Reply::Raw("HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nhi".to_owned()),
        "denied" => Reply::Json(401, r#"{"detail":"Invalid API key"}"#.to_owned()),
        "broken" => Reply::Json(500, r#"{"detail":"Internal Server Error"}"#.to_owned()),
        "wrong" => {
            let error = json!({ "code": -32602, "message": "no" });
            Reply::Json(400, json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string())
        }
        _ => Reply::Json(200, json!({ "jsonrpc": "2.0", "id": id, "result": {} }).to_string()),
    }
}

fn talk(coord: &Coord, messages: &[Value]) -> (Done, Vec<Value>) {
    let lines: String = messages.iter().map(|it| format!("{it}\n")).collect();
    let done = coord.fed(&["mcp"], &lines);
    let answers = done.out.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    (done, answers)
}

fn request(id: i64, method: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": {} })
}

#[test]
fn messages_are_passed_on_with_what_was_agreed() {
    let server = Server::start(|request, _| usual(request));
    let coord = Coord::at(&server.url)
        .with("COORDINATION_API_KEY", "key")
        .with("AGENT_ID", "me")
        .with("AGENT_TYPE", "codex")
        .with("SESSION_ID", "s-1")
        .with("COORDINATION_WORKSPACE", "team");
    let (done, answers) = talk(
        &coord,
        &[
            request(1, "initialize"),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            request(2, "tools/list"),
        ],
    );
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answers[1], json!({ "jsonrpc": "2.0", "id": 2, "result": {} }));
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    for (request, verb) in requests.iter().zip(["POST", "POST", "POST", "DELETE"]) {
        assert_eq!((&*request.method, &*request.path), (verb, "/mcp"));
        for (name, value) in [
            ("accept", "application/json, text/event-stream"),
            ("x-api-key", "key"),
            ("x-agent-id", "me"),
            ("x-agent-type", "codex"),
            ("x-session-id", "s-1"),
            ("x-workspace", "team"),
        ] {
            assert_eq!(request.headers[name], value, "{name}");
        }
        let is_first = method(request).0 == "initialize";
        for (name, value) in [("mcp-session-id", "m-1"), ("mcp-protocol-version", "2025-06-18")] {
            let expected = (!is_first).then(|| value.to_owned());
            assert_eq!(request.headers.get(name).cloned(), expected, "{name}");
        }
    }
}

#[test]
fn a_message_that_names_its_revision_is_described_in_headers() {
    let server = Server::start(|request, _| usual(request));
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
    let call = |method: &str, name: &str, value: &str| json!({ "jsonrpc": "2.0", "id": value, "method": method, "params": { name: value, "_meta": meta } });
    let messages = [
        call("tools/call", "name", "acquire_lock"),
        call("resources/read", "uri", "locks://current"),
        call("tools/list", "cursor", "1"),
    ];
    let (_, answers) = talk(&Coord::at(&server.url), &messages);
    assert_eq!(answers.len(), 3);
    let late = Server::start(|request, _| usual(request));
    talk(&Coord::at(&late.url), &[request(1, "initialize"), messages[0].clone()]);
    assert_eq!(late.requests()[1].headers["mcp-protocol-version"], "2026-07-28");
    // No session began, so none is ended.
    assert_eq!(server.requests().len(), 3);
    for request in server.requests() {
        let (method, id) = method(&request);
        assert_eq!(request.headers["mcp-protocol-version"], "2026-07-28");
        assert_eq!(request.headers["mcp-method"], method);
        let name = (method != "tools/list").then(|| id.as_str().expect("a text").to_owned());
        assert_eq!(request.headers.get("mcp-name").cloned(), name);
    }
}

#[test]
fn every_request_gets_an_answer_of_the_protocol() {
    let server = Server::start(|request, _| usual(request));
    let coord = Coord::at(&server.url);
    let (_, answers) = talk(&coord, &[request(1, "stream")]);
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!(answers[0]["method"], "progress");
    assert_eq!(answers[1], json!({ "jsonrpc": "2.0", "id": 1, "result": {} }));
    for (method, text) in [("html", "200"), ("denied", "401"), ("broken", "500")] {
        let (_, answers) = talk(&coord, &[request(7, method)]);
        assert_eq!(answers.len(), 1, "{method}");
        assert_eq!((&answers[0]["id"], &answers[0]["jsonrpc"]), (&json!(7), &json!("2.0")));
        let message = answers[0]["error"]["message"].as_str().expect("a text");
        assert!(message.contains(text) && answers[0]["error"]["code"].is_i64(), "{message}");
    }
    let (_, answers) = talk(&coord, &[request(7, "wrong")]);
    assert_eq!(answers[0]["error"]["code"], -32602);
    let lost = Coord::at(&nowhere());
    let (_, answers) = talk(&lost, &[json!({ "jsonrpc": "2.0", "id": "x", "method": "ping" })]);
    assert_eq!(answers[0]["id"], "x");
    let message = answers[0]["error"]["message"].as_str().expect("a text");
    assert!(message.contains("cannot be reached"), "{message}");
    let done =
        lost.fed(&["mcp"], "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\"}\n\nnonsense\n");
    assert_eq!(done.json()["error"]["code"], -32700);
    assert!(done.err.contains("cannot be reached"), "{done:?}");
}

#[test]
fn the_sets_of_tools_are_passed_on() {
    let server = Server::start(|request, _| usual(request));
    let coord = Coord::at(&server.url);
    coord
        .fed(&["mcp", "--tools", "locks,work"], &format!("{}\n", request(1, "ping")))
        .assert_code(0);
    assert_eq!(server.requests()[0].path, "/mcp?tools=locks,work");
    let done = coord.fed(&["mcp", "--url", "http://not.allowed.example"], "");
    assert_eq!((done.code, done.out.as_str()), (2, ""));
}

#[test]
fn a_slow_request_holds_up_no_other_and_is_answered_at_the_end() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let there = gate.clone();
    let server = Server::start(move |request, _| {
        if method(request).0 == "slow" {
            let (open, changed) = &*there;
            let open = open.lock().expect("not poisoned");
            drop(changed.wait_while(open, |it| !*it).expect("not poisoned"));
        }
        usual(request)
    });
    let mut command = Coord::at(&server.url).command(env!("CARGO_BIN_EXE_coord"));
    let command = command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        serde_json::from_str(&lines.next().expect("a line").expect("a line")).expect("JSON")
    };
    write!(stdin, "{}\n{}\n", request(1, "slow"), request(2, "quick")).expect("it reads");
    assert_eq!(next()["id"], 2);
    drop(stdin);
    *gate.0.lock().expect("not poisoned") = true;
    gate.1.notify_all();
    assert_eq!(next()["id"], 1);
    assert!(child.wait().expect("it ends").success());
}

/// As soon as the service has the endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_service_are_called_in_both_ways() {
    if Route::named("POST /mcp").is_none() {
        return;
    }
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", "s-1");
    let client = json!({ "name": "test", "version": "1" });
    let initialize = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client,
    });
    let request = |id: i64, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
    let call = json!({ "name": "acquire_lock", "arguments": { "file_path": "a" } });
    let first = [
        request(1, "initialize", initialize),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
        request(2, "tools/list", json!({})),
        request(3, "tools/call", call.clone()),
    ];
    let (done, mut answers) = talk(&coord, &first);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{answers:?}");
    answers.sort_by_key(|it| it["id"].as_i64());
    assert_eq!(answers.len(), 3);
    let tools = answers[1]["result"]["tools"].as_array().expect("a list");
    assert!(tools.iter().any(|it| it["name"] == "acquire_lock"), "{tools:?}");
    assert_eq!(answers[2]["result"]["structuredContent"]["success"], true, "{answers:?}");
    let lock = &coord.json(&["locks", "a"])["lock"];
    assert_eq!((&lock["locked_by"], &lock["session_id"]), (&json!("me"), &json!("s-1")));
    let mut params = call;
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": client,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let (_, answers) = talk(&coord, &[request(1, "tools/call", params)]);
    assert_eq!(answers[0]["result"]["structuredContent"]["action"], "refreshed", "{answers:?}");
}
