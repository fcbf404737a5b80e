//! `coord detect` and `coord try` print the same members as the HTTP bridge of existing clients.
use serde_json::{Value, json};

use crate::support::{BOSS, Coord, FREE, Reply, Request, Server, Service, nowhere};

const FLAGS: [(&str, &str, &str); 9] = [
    ("CAN_LOCK", "lock", "/locks/acquire"),
    ("CAN_QUEUE_WORK", "queue_work", "/work/claim"),
    ("CAN_HANDOFF", "handoff", "/handoffs/write"),
    ("CAN_MEMORY", "memory", "/memory/query"),
    ("CAN_GUARDRAILS", "guardrails", "/guardrails/check"),
    ("CAN_FEATURE_REGISTRY", "feature_registry", "/features/active"),
    ("CAN_MERGE_QUEUE", "merge_queue", "/merge-queue"),
    ("CAN_ISSUES", "", "/issues/list"),
    ("CAN_CODE_SEARCH", "code_search", "/search/code/status"),
];

/// The state object, with the flags of the paths for which `has` is true.
fn state(url: Option<&str>, reason: &str, has: impl Fn(&str) -> bool) -> Value {
    let available = reason == "http_reachable";
    let mut state = json!({
        "status": if available { "ok" } else { "skipped" },
        "COORDINATOR_AVAILABLE": available,
        "COORDINATION_TRANSPORT": if available { "http" } else { "none" },
        "http_url": url,
        "reason": reason,
        "capabilities": {},
    });
    for (flag, capability, path) in FLAGS {
        state[flag] = has(path).into();
        if !capability.is_empty() {
            state["capabilities"][capability] = has(path).into();
        }
    }
    state
}

/// Whether the service has a route with this path. Its route for code search is never ready.
fn is_served(path: &str) -> bool {
    path != "/search/code/status" && coord::routes::ROUTES.iter().any(|it| it.path == path)
}

#[tokio::test(flavor = "multi_thread")]
async fn detection_finds_the_capabilities_of_the_service() {
    let service = Service::start().await;
    for arguments in [&["detect"][..], &["detect", "--json"], &["--json", "detect"]] {
        let done = service.coord().run(arguments);
        let expected = state(Some(&service.url), "http_reachable", is_served);
        assert_eq!(done.assert_code(0).json(), expected);
    }
    let done = service.coord_with("wrong").run(&["detect"]);
    let expected = state(Some(&service.url), "http_reachable", |_| false);
    assert_eq!(done.assert_code(0).json(), expected);
    let done = service.coord().run(&["detect", "--quiet"]);
    assert_eq!((done.code, done.out.as_str()), (0, ""));
}

#[test]
fn detection_finds_that_the_service_is_not_available() {
    let url = nowhere();
    let done = Coord::at(&url).run(&["detect"]);
    let expected = state(Some(&url), "health_unreachable", |_| false);
    assert_eq!(done.assert_code(1).json(), expected);
    for status in [404, 500, 503] {
        let server = Server::start(move |_, _| Reply::Json(status, "{}".to_owned()));
        let done = Coord::at(&server.url).run(&["detect"]);
        let reason = format!("health_status_{status}");
        assert_eq!(done.assert_code(1).json(), state(Some(&server.url), &reason, |_| false));
        assert_eq!(server.requests().len(), 1);
    }
    let done = Coord::at("http://not.allowed.example").run(&["detect"]);
    assert_eq!(done.assert_code(1).json(), state(None, "missing_http_url", |_| false));
}

/// A server that answers 401 for `/health`, and this status for every other path.
fn with_status(status: u16) -> Server {
    Server::start(move |request, _| {
        let status = if request.path == "/health" { 401 } else { status };
        Reply::Json(status, "{}".to_owned())
    })
}

#[test]
fn the_status_of_a_probe_decides_about_the_capability() {
    for (status, is_there) in [
        (200, true),
        (400, true),
        (405, true),
        (409, true),
        (422, true),
        (401, false),
        (403, false),
        (404, false),
        (500, false),
        (503, false),
    ] {
        let server = with_status(status);
        let coord = Coord::at(&server.url).with("COORDINATION_API_KEY", "key");
        let done = coord.run(&["detect"]);
        let has = |path: &str| is_there && path != "/search/code/status";
        assert_eq!(
            done.assert_code(0).json(),
            state(Some(&server.url), "http_reachable", has),
            "{status}"
        );
        let requests = server.requests();
        assert_eq!(requests.len(), 1 + FLAGS.len());
        for request in requests {
            let is_health = request.path == "/health";
            assert_eq!(request.headers.contains_key("x-api-key"), !is_health, "{request:?}");
            let body = if request.method == "POST" { "{}" } else { "" };
            assert_eq!(request.body, body, "{request:?}");
        }
    }
}

#[test]
fn code_search_is_available_only_when_it_is_ready() {
    let ready =
        json!({ "available": true, "state": "ready", "reason": "ready", "usable_index_count": 1 });
    let but = |name: &str, value: Value| {
        let mut it = ready.clone();
        it[name] = value;
        it
    };
    for (answer, is_there) in [
        (ready.clone(), true),
        (but("available", json!(false)), false),
        (but("state", json!("disabled")), false),
        (but("reason", json!("x")), false),
        (but("usable_index_count", json!(0)), false),
    ] {
        let server = Server::start(move |_, _| Reply::Json(200, answer.to_string()));
        let state = Coord::at(&server.url).run(&["detect"]).json();
        assert_eq!(state["CAN_CODE_SEARCH"], is_there);
        assert_eq!(state["capabilities"]["code_search"], is_there);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operations_of_the_service_succeed() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me");
    let attempt = |operation: &str, payload: Value| {
        let done = coord.run(&["try", operation, "--payload", &payload.to_string()]);
        let result = done.assert_code(0).json();
        assert_eq!(result["status"], "ok", "{operation}: {result}");
        assert_eq!(
            (&result["operation"], &result["status_code"]),
            (&json!(operation), &json!(200))
        );
        let members: Vec<_> = result.as_object().expect("an object").keys().collect();
        assert_eq!(members, ["status", "operation", "status_code", "response"]);
        result["response"].clone()
    };
    assert_eq!(attempt("lock", json!({ "file_path": "a" }))["action"], "acquired");
    assert_eq!(attempt("unlock", json!({ "file_path": "a" }))["action"], "released");
    let task = json!({ "task_type": "t", "task_description": "d" });
    let id = attempt("submit_work", task)["task_id"].clone();
    assert_eq!(attempt("get_work", json!({}))["task_id"], id);
    let done = attempt("complete_work", json!({ "task_id": id, "success": true }));
    assert_eq!(done["status"], "completed");
    attempt("remember", json!({ "event_type": "error", "summary": "s" }));
    assert_eq!(attempt("recall", json!({}))["count"], 1);
    assert_eq!(attempt("check_guardrails", json!({ "operation_text": "rm -rf /" }))["safe"], false);
    attempt("handoff_write", json!({ "summary": "half way" }));
    assert_eq!(attempt("handoff_read", json!({}))["handoffs"][0]["summary"], "half way");
    // A refusal is an answer with status 200.
    attempt("lock", json!({ "file_path": "b", "agent_id": "other" }));
    assert_eq!(attempt("lock", json!({ "file_path": "b" }))["success"], false);
    // The service rejects this one.
    let done = coord.run(&["try", "lock", "--payload", "{}"]);
    let error = done.assert_code(1).json();
    assert_eq!((&error["status"], &error["status_code"]), (&json!("error"), &json!(422)));
    assert!(error["error"].is_string() && error["response"]["detail"].is_array(), "{error}");
    let done = coord.fed(&["try", "lock", "--payload", "-"], r#"{"file_path": "c"}"#);
    assert_eq!(done.json()["response"]["file_path"], "c");
}

/// The result of `coord try recall` for these answers to `/health`, the probe and the operation.
fn tried(health: u16, probe: u16, operation: Reply) -> (Value, Vec<Request>) {
    let server = Server::start(move |request, number| match (request.path.as_str(), number) {
        ("/health", _) => Reply::Json(health, "{}".to_owned()),
        (_, 1) => Reply::Json(probe, "{}".to_owned()),
        _ => operation.clone(),
    });
    let done = Coord::at(&server.url).run(&["try", "recall", "--payload", r#"{"tags":["a"]}"#]);
    let result = done.json();
    done.assert_code(i32::from(result["status"] == "error"));
    (result, server.requests())
}

#[test]
fn the_answer_decides_the_kind_of_result() {
    let json = |status| Reply::Json(status, r#"{"detail":"x"}"#.to_owned());
    let skipped = |reason: &str| json!({ "status": "skipped", "reason": reason });
    for health in [404, 500] {
        assert_eq!(tried(health, 422, json(200)).0, skipped("coordinator_unavailable"));
    }
    for probe in [401, 403, 404, 500] {
        assert_eq!(tried(200, probe, json(200)).0, skipped("capability_unavailable"));
    }
    assert_eq!(tried(200, 422, json(404)).0, skipped("capability_unavailable"));
    for status in [401, 403] {
        assert_eq!(tried(200, 422, json(status)).0, skipped("unauthorized"));
    }
    for reply in [json(500), json(503), Reply::Hang] {
        let result = tried(200, 422, reply).0;
        assert_eq!(
            (&result["status"], &result["reason"]),
            (&json!("skipped"), &json!("coordinator_unreachable"))
        );
        assert!(result["error"].is_string(), "{result}");
    }
    for status in [400, 405, 409, 413, 422, 429] {
        let result = tried(200, 422, json(status)).0;
        assert_eq!((&result["status"], &result["status_code"]), (&json!("error"), &json!(status)));
        assert_eq!(result["response"], json!({ "detail": "x" }));
        assert!(result["error"].is_string() && result["operation"] == "recall", "{result}");
    }
    let raw = |text: &str| {
        Reply::Raw(format!("HTTP/1.1 200 X\r\ncontent-length: {}\r\n\r\n{text}", text.len()))
    };
    assert_eq!(tried(200, 422, raw("hello")).0["response"], json!({ "raw": "hello" }));
    assert_eq!(tried(200, 422, raw("")).0["response"], json!({}));
    let (_, requests) = tried(200, 422, json(200));
    let paths: Vec<_> = requests.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["/health", "/memory/query", "/memory/query"]);
    let body: Value = serde_json::from_str(&requests[2].body).expect("JSON");
    assert_eq!(body, json!({ "agent_id": "", "tags": ["a"], "event_type": null, "limit": 10 }));
}

#[test]
fn archetypes_are_requested_without_detection() {
    let server = Server::start(|_, _| Reply::Json(404, r#"{"detail":{}}"#.to_owned()));
    let coord = Coord::at(&server.url);
    let done =
        coord.run(&["try", "resolve_archetype_for_phase", "--payload", r#"{"phase":"PLAN"}"#]);
    let skipped = json!({ "status": "skipped", "reason": "capability_unavailable" });
    assert_eq!(done.assert_code(0).json(), skipped);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_name_the_caller_where_no_field_does() {
    let service = Service::start().await;
    let coord = service.coord().with("AGENT_ID", "me").with("AGENT_TYPE", "codex");
    let attempt = |coord: &Coord, operation: &str, payload: Value| {
        let done = coord.run(&["try", operation, "--payload", &payload.to_string()]);
        done.assert_code(0).json()
    };
    let task = json!({ "task_type": "t", "task_description": "d" });
    let id = attempt(&coord, "submit_work", task.clone())["response"]["task_id"].clone();
    let task_of_mine = coord.json(&["task", "--task-id", id.as_str().expect("an id")]);
    assert_eq!(task_of_mine["task"]["submitted_by"], "me");
    attempt(&coord, "handoff_write", json!({ "summary": "half way" }));
    assert_eq!(coord.json(&["handoff", "read"])["handoffs"][0]["agent_name"], "me");
    // The key is bound to another agent.
    let boss = coord.with("COORDINATION_API_KEY", BOSS);
    assert_eq!(attempt(&boss, "submit_work", task)["reason"], "unauthorized");

    let server = Server::start(|_, _| Reply::Json(200, "{}".to_owned()));
    let coord = Coord::at(&server.url).with("AGENT_ID", "me").with("COORDINATION_API_KEY", "key");
    for (operation, payload, in_headers) in [
        ("submit_work", json!({}), true),
        ("submit_work", json!({ "agent_id": "other" }), false),
        ("handoff_write", json!({}), true),
        ("issue_blocked", json!({}), true),
        ("lock", json!({}), false),
        ("unlock", json!({}), false),
    ] {
        attempt(&coord, operation, payload);
        let last = server.requests().pop().expect("a request");
        assert_eq!(last.headers.contains_key("x-agent-id"), in_headers, "{operation}");
        assert!(!last.headers.contains_key("x-agent-type"), "{operation}");
    }
}

#[test]
fn an_invalid_payload_is_reported_before_anything_else() {
    let failing = Server::start(|_, _| Reply::Json(500, "{}".to_owned()));
    for coord in [
        Coord::at(&nowhere()),
        Coord::at(&failing.url),
        Coord::at("http://not.allowed.example"),
        Coord::new().with("AGENT_COORDINATOR_REST_PORT", "x"),
    ] {
        for (operation, payload) in [
            ("lock", "["),
            ("lock", "[]"),
            ("lock", ""),
            ("issue_show", "{}"),
            ("mark_merged", "{}"),
        ] {
            coord.run(&["try", operation, "--payload", payload]).assert_code(2);
            coord.fed(&["try", operation, "--payload", "-"], payload).assert_code(2);
        }
    }
}

#[test]
fn results_contain_no_control_sequences() {
    let text = "a\u{9b}2J\u{202e}b\u{e0041}é";
    let body = json!({ "reason": text }).to_string();
    let server = Server::start(move |_, _| Reply::Json(200, body.clone()));
    let done = Coord::at(&server.url).run(&["try", "recall"]);
    assert!(!done.out.contains(['\u{9b}', '\u{202e}', '\u{e0041}']), "{done:?}");
    assert_eq!(done.json()["response"]["reason"], text);
}

#[test]
fn ids_go_into_the_path() {
    let server = Server::start(|_, _| Reply::Json(200, "{}".to_owned()));
    let coord = Coord::at(&server.url).with("COORDINATION_API_KEY", FREE);
    for (operation, payload, request) in [
        ("issue_show", r#"{"issue_id":"a/b"}"#, "GET /issues/a%2Fb"),
        ("issue_blocked", "{}", "GET /issues/blocked"),
        ("pre_merge_checks", r#"{"feature_id":"f"}"#, "POST /merge-queue/check/f"),
        ("mark_merged", r#"{"feature_id":"f"}"#, "POST /merge-queue/merged/f"),
    ] {
        coord.run(&["try", operation, "--payload", payload]).assert_code(0);
        let last = server.requests().pop().expect("a request");
        assert_eq!(format!("{} {}", last.method, last.path), request);
        coord
            .run(&["try", operation, "--payload", "{}"])
            .assert_code(i32::from(payload != "{}") * 2);
    }
}
