//! Sends the events of every service in front of a function to the real program, over an emulated Runtime API, and
//! compares its answers with those of the server's router.
mod limits;
mod processes;
mod support;

use axum::body::Bytes;
use http::{HeaderMap, Method, Request, Response};
use lambda_emulator::Kind;
use serde_json::json;

use crate::support::{Function, acquire, get, json_of, request, served};

/// Spellings of lock keys in a path, and whether each reaches the function unchanged through a service that
/// decodes paths.
const SPELLINGS: &[(&str, bool)] = &[
    ("src/main.rs", true),
    ("src/a%20b.rs", true),
    ("src%2Fmain.rs", true),
    ("src//main.rs", true),
    ("./src/./main.rs", true),
    ("a/../src/main.rs", true),
    ("a/%2e%2e/src/main.rs", true),
    ("../main.rs", true),
    ("100%25", true),
    ("100%2525", true),
    ("a%2520b", true),
    ("a+b", true),
    ("a%2Bb", true),
    ("d%C3%A9j%C3%A0/vu", true),
    ("%E6%97%A5%E6%9C%AC/%E8%AA%9E.rs", true),
    ("a%5Cb", true),
    ("a%23b", true),
    ("a%7C%22%3C%3E%7B%7D%5E%60b", true),
    ("api:GET%20/users/%7Bid%7D", true),
    ("a&b=c;d,e'(f)!*~@:$", true),
    ("prod/locks/x", true),
    ("locks/status/x", true),
    ("src/main.rs/", true),
    // An HTTP API cuts the path at a question mark, even if that is percent-encoded.
    ("what%3F", false),
    ("%FF", false),
    ("a%2", false),
];

#[tokio::test]
async fn lock_keys_arrive_as_they_were_sent() {
    let function = Function::start().await;
    let server = function.server();
    for (n, (spelling, survives_decoding)) in SPELLINGS.iter().enumerate() {
        let decoded = percent_decode(spelling);
        let taken = served(&server, acquire(&format!("agent-{n}"), &decoded)).await;
        let path = format!("/locks/status/{spelling}");
        let expected = served(&server, get(&path)).await;
        let is_text = !decoded.contains(char::REPLACEMENT_CHARACTER);
        if is_text && json_of(&taken)["success"] == true {
            assert!(json_of(&expected)["lock"]["locked_by"].is_string(), "{path}: {expected:?}");
        }
        for kind in Kind::ALL.into_iter().filter(|it| *survives_decoding || !it.decodes_paths()) {
            let answer = function.ask(kind, get(&path)).await;
            let got = (answer.status(), json_of(&answer));
            assert_eq!(got, (expected.status(), json_of(&expected)), "{kind:?} {path}");
        }
    }
}

fn percent_decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Requests of every kind: pages, operations, mistakes, redirects, keys, HEAD and CORS.
fn sample_requests() -> Vec<Request<Bytes>> {
    let taken = r#"{"file_path":"src/a b.rs","agent_id":"b","agent_type":"t"}"#;
    let recalled = r#"{"agent_id":"a","query":"xyzzy \"é\""}"#;
    let preflight = [
        ("origin", "http://localhost:5173"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-api-key"),
    ];
    vec![
        get("/live"),
        get("/health"),
        get("/ready"),
        get("/openapi.json"),
        get("/docs"),
        get("/locks?file_path=src/a%20b.rs"),
        get("/locks?file_path=src%2Fa+b.rs&file_path=other&x=%26%3D%25%2B"),
        get("/locks?limit=0"),
        get("/audit?limit=1&operation=acquire_lock&success=tr%75e"),
        request("POST", "/locks/acquire", &[], taken),
        request("POST", "/memory/query", &[], recalled),
        request("POST", "/locks/acquire", &[], ""),
        request("POST", "/locks/acquire", &[], "{}"),
        request("POST", "/locks/acquire", &[], "{\"a\":"),
        request("POST", "/locks/acquire", &[], "[1]"),
        request("POST", "/locks/acquire", &[("content-type", "text/plain")], taken),
        request("POST", "/locks/acquire", &[("content-type", "application/x+json")], taken),
        request(
            "POST",
            "/locks/acquire",
            &[("content-type", "application/octet-stream")],
            "\u{e9}",
        ),
        request("GET", "/locks/acquire", &[], ""),
        request("PUT", "/work/claim", &[], "{}"),
        request("DELETE", "/locks/src/a%20b.rs", &[], ""),
        get("/no/such/path"),
        get("//live"),
        get("/$default/live"),
        get("/"),
        get("/health/"),
        request("GET", "/locks", &[("x-api-key", "wrong")], ""),
        request("GET", "/locks", &[("x-api-key", "")], ""),
        request("GET", "/live", &[("x-api-key", "wrong")], ""),
        request("GET", "/locks", &[("authorization", "Bearer key"), ("x-api-key", "")], ""),
        request("GET", "/locks", &[("x-agent-id", "Größe")], ""),
        request("HEAD", "/live", &[], ""),
        request("HEAD", "/locks", &[], ""),
        request("OPTIONS", "/locks/acquire", &preflight, ""),
    ]
}

#[tokio::test]
async fn every_service_gets_the_answers_of_the_server() {
    let function = Function::start().await;
    let server = function.server();
    served(&server, acquire("a", "src/a b.rs")).await;
    let remember = json!({ "event_type": "decision", "summary": "one pool", "agent_id": "a" });
    served(&server, request("POST", "/memory/store", &[], &remember.to_string())).await;
    for (n, sent) in sample_requests().into_iter().enumerate() {
        let shown = format!("{} {}", sent.method(), sent.uri());
        let is_head = sent.method() == Method::HEAD;
        let expected = served(&server, sent).await;
        for kind in Kind::ALL {
            let sent = sample_requests().swap_remove(n);
            let got = function.ask(kind, sent).await;
            assert_same_answer(kind, &got, &expected, is_head, &shown);
        }
    }
    assert_eq!(function.lambda.processes(), 1);
}

/// Checks that the function has answered as the server has, apart from the base path of a redirect.
fn assert_same_answer(
    kind: Kind,
    got: &Response<Bytes>,
    expected: &Response<Bytes>,
    is_head: bool,
    shown: &str,
) {
    assert_eq!(got.status(), expected.status(), "{kind:?} {shown}: {got:?}");
    if is_head {
        assert!(got.body().is_empty(), "{kind:?} {shown}");
    } else {
        assert_eq!(got.body(), expected.body(), "{kind:?} {shown}");
    }
    let pick = |it: &HeaderMap, name| it.get(name).map(|it| it.to_str().expect("text").to_owned());
    for name in ["content-type", "allow", "access-control-allow-origin", "retry-after"] {
        let expected = pick(expected.headers(), name);
        assert_eq!(pick(got.headers(), name), expected, "{kind:?} {shown}: {name}");
    }
    let location = pick(expected.headers(), "location").map(|it| format!("{}{it}", kind.base()));
    assert_eq!(pick(got.headers(), "location"), location, "{kind:?} {shown}");
    let has_id = |it: &HeaderMap| it.contains_key("x-request-id");
    assert_eq!(has_id(got.headers()), has_id(expected.headers()), "{kind:?} {shown}");
}

#[tokio::test]
async fn locks_are_taken_and_freed_through_every_service() {
    let function = Function::start().await;
    for kind in Kind::ALL {
        let key = format!("src/{kind:?} 1.rs");
        let taken = json_of(&function.ask(kind, acquire("a", &key)).await);
        assert_eq!(taken["action"], "acquired", "{kind:?}");
        let refused = json_of(&function.ask(kind, acquire("b", &key)).await);
        assert_eq!(refused["locked_by"], "a", "{kind:?}");
        let path = format!("/locks/{}", key.replace(' ', "%20"));
        let boss = [("x-api-key", "boss-key")];
        let freed = function.ask(kind, request("DELETE", &path, &boss, "")).await;
        assert_eq!(json_of(&freed)["released"], true, "{kind:?}: {freed:?}");
        assert_eq!(json_of(&function.ask(kind, acquire("b", &key)).await)["action"], "acquired");
    }
}

#[tokio::test]
async fn bodies_can_come_in_base64() {
    let function = Function::start().await;
    for kind in Kind::ALL {
        let body =
            json!({ "file_path": format!("é {kind:?}"), "agent_id": "a", "agent_type": "t" });
        // Services encode a body whose content type they do not know as text.
        let unknown_type = [("content-type", "application/vnd.example+json")];
        let sent = request("POST", "/locks/acquire", &unknown_type, &body.to_string());
        let event = kind.event(&sent);
        assert_eq!(event["isBase64Encoded"], true, "{kind:?}");
        let answer = kind.response(&function.lambda.invoke(&event).await.expect("an answer"));
        assert_eq!(json_of(&answer)["file_path"], format!("é {kind:?}"));
    }
}

#[tokio::test]
async fn the_first_of_a_repeated_header_counts() {
    let function = Function::start().await;
    let server = function.server();
    let twice = [("x-api-key", "key"), ("x-api-key", "wrong")];
    let sent = || request("GET", "/locks", &twice, "");
    assert_eq!(served(&server, sent()).await.status(), 200);
    for kind in Kind::ALL.into_iter().filter(|it| it.keeps_repeated_headers()) {
        assert_eq!(function.ask(kind, sent()).await.status(), 200, "{kind:?}");
    }
    // The other services drop the first value, or join the two into a key that does not exist.
    for kind in Kind::ALL.into_iter().filter(|it| !it.keeps_repeated_headers()) {
        assert_eq!(function.ask(kind, sent()).await.status(), 401, "{kind:?}");
    }
}

#[tokio::test]
async fn a_request_has_the_id_of_its_caller_or_else_of_the_invocation() {
    let function = Function::start().await;
    let id = async |headers: &[(&str, &str)]| {
        let answer = function.ask(Kind::FunctionUrl, request("GET", "/live", headers, "")).await;
        answer.headers()["x-request-id"].to_str().expect("text").to_owned()
    };
    assert_eq!(id(&[("x-request-id", "mine.1")]).await, "mine.1");
    assert_eq!(id(&[]).await, "00000000-0000-4000-8000-000000000001");
}

#[tokio::test]
async fn a_load_balancer_can_check_the_health_of_the_function() {
    let function = Function::start().await;
    let event = serde_json::from_str(include_str!("alb_health_check.json")).expect("JSON");
    let answer = function.lambda.invoke(&event).await.expect("an answer");
    assert_eq!(
        (&answer["statusCode"], &answer["statusDescription"]),
        (&json!(200), &json!("200 OK"))
    );
}

#[tokio::test]
async fn a_schedule_can_run_the_maintenance() {
    let function = Function::start().await;
    let event = serde_json::from_str(include_str!("schedule.json")).expect("JSON");
    let answer = function.lambda.invoke(&event).await.expect("an answer");
    assert_eq!(answer["statusCode"], 200, "{answer}");
    let rows = "select count(*) from audit_log where operation = 'run_maintenance'";
    assert_eq!(function.scalar::<i64>(rows).await, 1);
}
