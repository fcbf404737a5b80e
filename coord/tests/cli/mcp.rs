//! `coord mcp`, in front of the service and of small servers of the tests.
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
};

use serde_json::{Value, json};

use crate::support::{
    Callback, Coord, Done, FREE, LIMIT, Reply, Request, Server, Service, eventually, exit_code,
    nowhere,
};

fn method(request: &Request) -> (String, Value) {
    let message: Value = serde_json::from_str(&request.body).unwrap_or_default();
    (message["method"].as_str().unwrap_or_default().to_owned(), message["id"].clone())
}

/// Answers like a server with MCP sessions.
fn usual(request: &Request) -> Reply {
    let (method, id) = method(request);
    let with = |more: &str, body: &str| {
        Reply::Raw(format!(
            "HTTP/1.1 200 X\r\n{more}content-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
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
fn messages_are_forwarded_with_negotiated_headers() {
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
fn the_revision_in_a_message_comes_before_the_negotiated_one() {
    let server = Server::start(|request, _| usual(request));
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
    let call = |method: &str, name: &str, value: &str| {
        let params = json!({ name: value, "_meta": meta });
        json!({ "jsonrpc": "2.0", "id": value, "method": method, "params": params })
    };
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
    // Without a session, there is no DELETE.
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

/// What a client says when it starts.
fn start_of_client() -> [Value; 3] {
    let mut initialize = request(1, "initialize");
    let client = json!({ "name": "test", "version": "1" });
    initialize["params"] =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    [initialize, initialized, request(2, "tools/list")]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_starts_before_the_service_gets_its_tools_and_is_connected_later() {
    // The service comes later to this address.
    let service = Service::start().await;
    let is_up = Arc::new(Mutex::new(false));
    let (up, url) = (is_up.clone(), service.url.clone());
    let gate = Server::start(move |request, _| match *up.lock().expect("not poisoned") {
        true => forwarded(&url, request),
        false => Reply::Raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n".to_owned()),
    });
    let coord = Coord::at(&gate.url).with("COORDINATION_API_KEY", FREE).with("AGENT_ID", "me");
    let mut running = Running::start(&coord);
    for message in start_of_client() {
        running.say(&message);
    }
    let answer = running.next();
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(answer["result"]["capabilities"]["tools"]["listChanged"], true);
    let tools = running.next()["result"]["tools"].clone();
    assert!(tools.as_array().is_some_and(|tools| tools.len() > 10), "{tools}");
    running.say(&waiting(3, "a"));
    let refused = running.next();
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    let text = refused["result"]["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("nothing was done") && text.contains("coord doctor"), "{text}");
    *is_up.lock().expect("not poisoned") = true;
    running.say(&waiting(4, "a"));
    let notice = running.next();
    assert_eq!(notice["method"], "notifications/tools/list_changed", "{notice}");
    let answer = running.next();
    assert_eq!(answer["result"]["structuredContent"]["success"], true, "{answer}");
    // The tools of the document are those of the service, and the connection is a session of MCP.
    running.say(&request(5, "tools/list"));
    assert_eq!(running.next()["result"]["tools"], tools);
    let methods = gate.requests().into_iter().map(|request| (method(&request).0, request.headers));
    let of_session = methods.filter(|(_, headers)| headers.contains_key("mcp-session-id"));
    let of_session: Vec<_> = of_session.map(|(method, _)| method).collect();
    assert_eq!(of_session, ["notifications/initialized", "tools/call", "tools/list"]);
    running.end_input();
    running.assert_ends(0);
}

/// Sends a request on, and returns the answer.
fn forwarded(url: &str, request: &Request) -> Reply {
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = std::net::TcpStream::connect(address).expect("a connection");
    let mut text = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", request.method, request.path);
    for (name, value) in request.headers.iter().filter(|(name, _)| *name != "connection") {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n{}", request.body).as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    Reply::Raw(answer)
}

#[test]
fn without_the_service_a_client_of_the_newest_revision_gets_its_tools() {
    let lost = Coord::at(&nowhere());
    for (method, member) in [
        ("server/discover", "supportedVersions"),
        ("tools/list", "tools"),
        ("resources/list", "resources"),
        ("prompts/list", "prompts"),
    ] {
        let (_, answers) = talk(&lost, &[request(1, method)]);
        assert!(answers[0]["result"][member].is_array(), "{method}: {answers:?}");
    }
    let done = lost.fed(&["mcp", "--tools", "locks"], &format!("{}\n", request(1, "tools/list")));
    assert_eq!(done.json()["result"]["tools"].as_array().map(Vec::len), Some(4));
    // A key that the service does not know is another matter.
    let server = Server::start(|_, _| Reply::Json(401, r#"{"detail":"no"}"#.to_owned()));
    let (_, answers) = talk(&Coord::at(&server.url), &start_of_client());
    let message = answers[0]["error"]["message"].as_str().expect("a text");
    assert!(message.contains("401"), "{message}");
}

#[test]
fn a_call_that_the_service_cannot_get_names_the_remedy() {
    let mut call = waiting(1, "a");
    call["params"]["arguments"]["wait_seconds"] = json!(0);
    let (_, answers) = talk(&Coord::at(&nowhere()), &[call]);
    let text = answers[0]["result"]["content"][0]["text"].as_str().expect("a text");
    assert!(text.contains("nothing was done") && text.contains("cannot be reached"), "{text}");
    assert_eq!(answers[0]["result"]["isError"], true);
}

#[test]
fn tool_sets_are_forwarded() {
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
fn a_slow_request_delays_no_other_and_is_answered_at_the_end() {
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
    let mut running = Running::start(&Coord::at(&server.url));
    running.say(&request(1, "slow"));
    running.say(&request(2, "quick"));
    assert_eq!(running.next()["id"], 2);
    running.end_input();
    *gate.0.lock().expect("not poisoned") = true;
    gate.1.notify_all();
    assert_eq!(running.next()["id"], 1);
    running.assert_ends(0);
}

/// The program while it runs.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Standard output, read by a thread so that a test can give up.
    lines: Receiver<String>,
}

fn start(coord: &Coord) -> Child {
    let mut command = coord.command(env!("CARGO_BIN_EXE_coord"));
    let command = command.arg("mcp").stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("it starts")
}

impl Running {
    fn start(coord: &Coord) -> Running {
        let mut child = start(coord);
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut lines = stdout.lines().map_while(Result::ok);
            lines.all(|line| sender.send(line).is_ok())
        });
        Running { child, stdin, lines }
    }

    fn say(&mut self, message: &Value) {
        let stdin = self.stdin.as_mut().expect("it is open");
        writeln!(stdin, "{message}").expect("it reads");
    }

    /// The next message of the program.
    fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(LIMIT).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for the end of the program, which writes no more messages.
    fn assert_ends(mut self, code: i32) {
        assert_eq!(self.lines.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
        assert_eq!(exit_code(&mut self.child), code);
    }
}

/// A tool call in which the service waits for a lock.
fn waiting(id: i64, file: &str) -> Value {
    let arguments = json!({ "file_path": file, "wait_seconds": 30 });
    let mut call = request(id, "tools/call");
    call["params"] = json!({ "name": "acquire_lock", "arguments": arguments });
    call
}

fn cancelled(id: i64) -> Value {
    let params = json!({ "requestId": id, "reason": "no longer needed" });
    json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params })
}

/// A server that never answers tool calls. The receiver gets a value when a call comes, and when
/// its connection is closed.
fn silent_server() -> (Server, Receiver<()>) {
    let (sender, receiver) = channel();
    let server = Server::start(move |request, _| match method(request).0.as_str() {
        "tools/call" => {
            let _ = sender.send(());
            let sender = sender.clone();
            Reply::SilenceUntilClosed(Callback(Arc::new(move || {
                let _ = sender.send(());
            })))
        }
        _ => usual(request),
    });
    (server, receiver)
}

#[test]
fn a_cancelled_request_is_abandoned_and_not_answered() {
    let (server, events) = silent_server();
    let mut running = Running::start(&Coord::at(&server.url));
    running.say(&request(1, "initialize"));
    assert_eq!(running.next()["id"], 1);
    running.say(&waiting(2, "a"));
    events.recv_timeout(LIMIT).expect("it comes");
    running.say(&cancelled(3));
    running.say(&request(4, "ping"));
    assert_eq!(running.next()["id"], 4);
    assert!(events.try_recv().is_err());
    running.say(&cancelled(2));
    events.recv_timeout(LIMIT).expect("it goes");
    running.say(&request(5, "ping"));
    assert_eq!(running.next()["id"], 5);
    running.end_input();
    running.assert_ends(0);
}

#[test]
fn a_waiting_request_is_abandoned_when_standard_input_ends() {
    let (server, events) = silent_server();
    let mut running = Running::start(&Coord::at(&server.url));
    running.say(&waiting(1, "a"));
    events.recv_timeout(LIMIT).expect("it comes");
    running.end_input();
    events.recv_timeout(LIMIT).expect("it goes");
    running.assert_ends(0);
}

#[test]
fn a_waiting_request_is_abandoned_when_standard_output_is_closed() {
    let (server, events) = silent_server();
    let mut child = start(&Coord::at(&server.url));
    let mut stdin = child.stdin.take().expect("piped");
    writeln!(stdin, "{}", waiting(1, "a")).expect("it reads");
    events.recv_timeout(LIMIT).expect("it comes");
    drop(child.stdout.take());
    writeln!(stdin, "{}", request(2, "ping")).expect("it reads");
    events.recv_timeout(LIMIT).expect("it goes");
    assert_eq!(exit_code(&mut child), 4);
}

#[test]
fn the_wait_is_added_to_the_time_out() {
    let (server, _events) = silent_server();
    let coord = Coord::at(&server.url).with("COORDINATION_HTTP_TIMEOUT", "0.2");
    for (wait, text) in [(json!(1), "within 1.2 s"), (json!(0), "within 0.2 s")] {
        let mut running = Running::start(&coord);
        let mut call = waiting(1, "a");
        call["params"]["arguments"]["wait_seconds"] = wait;
        running.say(&call);
        let answer = running.next();
        let message = answer["error"]["message"].as_str().expect("a text");
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn an_invalid_message_is_answered_with_an_error() {
    let server = Server::start(|request, _| usual(request));
    let ping = request(1, "ping").to_string();
    for (line, id, code) in [
        (format!("[{ping}]"), Value::Null, -32600),
        (ping.replace(":1", ":null"), Value::Null, -32600),
        (ping.replace(":1", ":{}"), Value::Null, -32600),
        (ping.replace("method", "m"), json!(1), -32600),
        ("5".to_owned(), Value::Null, -32600),
        ("{".to_owned(), Value::Null, -32700),
    ] {
        let done = Coord::at(&server.url).fed(&["mcp"], &format!("{line}\n"));
        let answer = done.assert_code(0).json();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(code)), "{line}");
    }
    assert_eq!(server.requests().len(), 0);
    // The program continues after an invalid line, even one that is not UTF-8.
    let script = format!("printf '\\377\\n%s\\n' '{ping}' | coord mcp");
    let done = Coord::at(&server.url).shell(&script, "");
    let answers: Vec<Value> =
        done.out.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    assert_eq!(answers.len(), 2, "{done:?}");
    assert_eq!(answers[0]["error"]["code"], -32700);
    assert_eq!(answers[1]["id"], 1);
}

#[test]
fn an_id_is_returned_as_it_was_written() {
    let server = Server::start(|request, _| match method(request).0.as_str() {
        "odd" => {
            let error = json!({ "code": -32600, "message": "odd" });
            Reply::Json(400, json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string())
        }
        "exact" => Reply::Json(
            200,
            "{\"jsonrpc\":\"2.0\",\n\"id\":1, \"result\":{\"n\":123456789012345678901234567890}}"
                .to_owned(),
        ),
        _ => usual(request),
    });
    let id = "123456789012345678901234567890";
    for method in ["broken", "odd"] {
        let line = request(1, method).to_string().replace(":1,", &format!(":{id},"));
        let done = Coord::at(&server.url).fed(&["mcp"], &format!("{line}\n"));
        assert!(done.out.contains(&format!("\"id\":{id},")), "{done:?}");
        assert_eq!(done.out.lines().count(), 1);
    }
    let done = Coord::at(&server.url).fed(&["mcp"], &format!("{}\n", request(1, "exact")));
    assert!(done.out.contains(&format!("{{\"n\":{id}}}")), "{done:?}");
    assert_eq!(done.out.lines().count(), 1);
}

#[test]
fn the_detail_of_the_service_is_in_the_error() {
    for (status, body, text) in [
        (403, r#"{"detail":"profile is suspended"}"#, "profile is suspended"),
        (422, r#"{"detail":[{"loc":["query","tools"],"msg":"expected one of core"}]}"#, "core"),
        (503, r#"{"detail":"come back later"}"#, "503: come back later"),
    ] {
        let server = Server::start(move |_, _| Reply::Json(status, body.to_owned()));
        let (_, answers) = talk(&Coord::at(&server.url), &[request(1, "ping")]);
        let message = answers[0]["error"]["message"].as_str().expect("a text");
        assert!(message.contains(text) && message.contains(&status.to_string()), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_wait_gets_no_lock() {
    let service = Service::start().await;
    let agent = |id: &str| service.coord().with("AGENT_ID", id);
    let (alice, bob, carol) = (agent("alice"), agent("bob"), agent("carol"));
    let queue = |place: i64| {
        let lock = ["lock", "a", "--wait", "1", "--json"];
        eventually(&format!("carol is at position {place}"), || {
            carol.run(&lock).assert_code(1).json()["position"] == place
        });
    };
    for ends in [false, true] {
        alice.json(&["lock", "a"]);
        let mut running = Running::start(&bob);
        running.say(&waiting(7, "a"));
        queue(2);
        if ends {
            running.end_input();
        } else {
            running.say(&cancelled(7));
        }
        queue(1);
        alice.json(&["unlock", "a"]);
        assert_eq!(carol.json(&["locks", "a"])["locked"], false);
        running.end_input();
        running.assert_ends(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_called_with_both_revisions_of_mcp() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", "s-1");
    let client = json!({ "name": "test", "version": "1" });
    let initialize = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client,
    });
    let request = |id: i64, method: &str, params: Value| {
        let mut request = request(id, method);
        request["params"] = params;
        request
    };
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
    // An unknown tool set, and an id that is too large for the service.
    let line = request(1, "tools/list", json!({})).to_string();
    let done = coord.fed(&["mcp", "--tools", "nonsense"], &format!("{line}\n"));
    let message = done.json()["error"]["message"].as_str().expect("a text").to_owned();
    assert!(message.contains("422") && message.contains("classic"), "{message}");
    let id = "123456789012345678901234567890";
    let done = coord.fed(&["mcp"], &format!("{}\n", line.replace(":1,", &format!(":{id},"))));
    assert_eq!(done.out.lines().count(), 1, "{done:?}");
    assert!(done.out.contains(&format!("\"id\":{id}")), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_client_registers_counts_from_then_on() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", "old");
    let call = |name: &str, arguments: Value| {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": name, "arguments": arguments } })
    };
    let mut running = Running::start(&coord);
    let mut act = |name: &str, arguments: Value| {
        running.say(&call(name, arguments));
        running.next()["result"]["structuredContent"].take()
    };
    let session_of = |key: &str| coord.json(&["locks", key])["lock"]["session_id"].clone();
    act("acquire_lock", json!({ "file_path": "a" }));
    assert_eq!(session_of("a"), "old");
    // One that is refused changes nothing.
    act("register_session", json!({ "session_id": "${NEW}" }));
    act("acquire_lock", json!({ "file_path": "b" }));
    assert_eq!(session_of("b"), "old");
    assert_eq!(act("register_session", json!({ "session_id": "new" }))["success"], true);
    act("acquire_lock", json!({ "file_path": "c" }));
    assert_eq!(session_of("c"), "new");
    // The client of `initialize` as well.
    act("register_session", json!({}));
    act("acquire_lock", json!({ "file_path": "d" }));
    assert_eq!(session_of("d"), "new");
    running.end_input();
    running.assert_ends(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_a_resource_tells_what_the_session_has_lost() {
    let service = Service::start().await;
    for uri in ["work://pending", "profiles://current", "locks://current"] {
        // The service records the heartbeat of a session that reads at most once in ten seconds.
        let coord = service.coord().with("AGENT_ID", "me").with("SESSION_ID", uri);
        coord.json(&["session", "start"]);
        coord.json(&["lock", "src/a.rs"]);
        service.silence(uri).await;
        let params = json!({ "uri": uri });
        let read =
            json!({ "jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params });
        let (_, answers) = talk(&coord, &[read]);
        let text = answers[0]["result"]["contents"][0]["text"].as_str().expect("a text").to_owned();
        let next = coord.run(&["locks"]).err;
        let told = "Lost, of its locks: {\"file_path\":\"src/a.rs\",";
        match uri {
            // A list has no place for it, and the next answer tells.
            "locks://current" => assert!(next.contains("It has lost locks: src/a.rs"), "{next}"),
            _ => assert!(text.contains(told) && next.is_empty(), "{uri}: {text} {next}"),
        }
        coord.json(&["session", "end"]);
    }
}
