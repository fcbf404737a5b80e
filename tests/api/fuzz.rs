//! Invalid input for every operation: always the documented 4xx, never a 5xx, and the database unchanged.
use std::fmt::Write as _;

use agent_coordinator::{capabilities, operation::Registered};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::{
    laws::{Asked, request},
    support::{BOSS, Service},
};

/// Values that some fields must refuse and that no field may answer with a 5xx.
fn values() -> Vec<Value> {
    let mut deep = json!("bottom");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!(" "),
        json!("\0"),
        json!("a\0b"),
        json!("x".repeat(300)),
        json!("y".repeat(20_000)),
        json!("\u{e9}".repeat(600)),
        json!("\u{202e}\u{fffd}\u{10ffff}"),
        json!("../../etc/passwd"),
        json!("'; drop table file_lock; --"),
        json!("99999999999999999999999"),
        json!("1e3"),
        json!("%00"),
        json!([]),
        json!([[]]),
        json!([null, 1, "a", {}]),
        json!({}),
        json!({ "a": { "b": "\0" } }),
        deep,
    ]
}

/// The statuses of a request with an invalid value in a field.
fn assert_expected(status: u16, place: &str, text: &str) {
    assert!([200, 400, 403, 404, 405, 422].contains(&status), "{status} {place}: {text}");
}

#[tokio::test]
async fn any_value_in_any_field_is_answered_and_a_refused_one_changes_nothing() {
    // An accepted `wait_seconds` must not delay the test.
    let service = Service::with(&[("WAIT_MAX_SECONDS", "0")]).await;
    let clients = [service.client(), service.client_with(BOSS)];
    for op in capabilities::all().iter() {
        let Some(route) = op.meta.routes.first() else { continue };
        let mut fields: Vec<_> = op.fields().map(|(name, _)| name.clone()).collect();
        fields.push("unknown".to_owned());
        for name in fields {
            for value in values() {
                let mut input = op.example.clone();
                input[&name] = value.clone();
                for client in &clients {
                    let before = service.contents().await;
                    let Asked { method, path, body } = request(route, &input);
                    let answer = client.send(method, &path, body).await;
                    let place = format!("{route} {name}: {value:.60}");
                    assert_expected(answer.status.as_u16(), &place, &answer.text);
                    if answer.status == 422 {
                        assert!(!answer.issues().is_empty(), "{place}");
                        assert_eq!(service.contents().await, before, "{place}");
                        for issue in answer.json["detail"].as_array().expect("a list") {
                            let text = issue.to_string();
                            assert!(!text.contains("sqlx") && !text.contains("serde"), "{text}");
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn any_value_in_any_member_of_a_list_is_answered() {
    let service = Service::start().await;
    let client = service.client();
    for name in ["file_path", "fencing_token"] {
        for value in values() {
            let mut member = json!({ "file_path": "a", "fencing_token": 1 });
            member[name] = value.clone();
            let answer = client.post("/locks/verify", json!({ "locks": [member] })).await;
            let place = format!("locks[0].{name}: {value:.60}");
            assert!([200, 422].contains(&answer.status.as_u16()), "{place}: {}", answer.text);
        }
    }
}

fn is_required(op: &Registered, name: &str) -> bool {
    op.input["required"].as_array().is_some_and(|names| names.iter().any(|it| it == name))
}

#[tokio::test]
async fn any_bytes_as_a_body_are_answered() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    let mut bodies: Vec<Vec<u8>> = vec![
        b"\0".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{\"file_path\":\"\xc3\x28\"}".to_vec(),
        b"{\"file_path\":\"\\u0000\",\"agent_id\":\"\\u0000\",\"agent_type\":\"t\"}".to_vec(),
        b"{\"file_path\":\"\\ud83d\",\"agent_id\":\"a\",\"agent_type\":\"t\"}".to_vec(),
        b"{\"a\":".repeat(10_000),
        b"[".repeat(1_000_000),
        b"{\"file_path\":1,\"file_path\":{},\"file_path\":[]}".to_vec(),
        b"9".repeat(100_000),
        format!("\"{}\"", "x".repeat(1_000_000)).into_bytes(),
    ];
    let mut wide = String::from("{");
    for n in 0..50_000 {
        write!(wide, "\"k{n}\":{n},").expect("a String takes any text");
    }
    bodies.push(format!("{}\"file_path\":\"../x\"}}", wide).into_bytes());
    for op in capabilities::all().iter() {
        let Some(route) = op.meta.routes.first() else { continue };
        let (method, path) = route.split_once(' ').expect("method and path");
        // An operation without required fields accepts values that it does not read.
        let demands = op.fields().any(|(name, _)| op.input["required"].to_string().contains(name));
        if method != "POST" || !demands {
            continue;
        }
        for body in &bodies {
            // Without required fields, an object of unknown members is a complete request.
            let is_object = serde_json::from_slice::<serde_json::Map<_, _>>(body).is_ok();
            if is_object && op.fields().all(|(name, _)| !is_required(op, name)) {
                continue;
            }
            for content_type in
                ["application/json", "text/plain", "multipart/form-data; boundary=x"]
            {
                let client = client.clone().header("content-type", content_type);
                let answer = client.post_text(path, body.clone()).await;
                assert_eq!(answer.status, 422, "{path} {content_type}: {}", answer.text);
                assert!(!answer.issues().is_empty());
            }
        }
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn any_path_and_query_is_answered() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS);
    let long = "a/".repeat(20_000);
    for path in [
        "/locks/status/%00",
        "/locks/status/%ff%fe",
        "/locks/status/%",
        "/locks/status/%zz",
        "/locks/status/..",
        "/locks/status/%2e%2e/%2e%2e/x",
        "/locks/status/?%ff=%ff&=&&==",
        "/locks?limit=%ff",
        "/locks?limit=",
        "/locks?limit=99999999999999999999",
        "/locks?%ff=1&prefix=%00",
        "/locks?locked_by=%00",
        "/locks?prefix=%E2%82",
        &format!("/locks/status/{long}"),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let answer = boss.send(method.clone(), path, Body::empty()).await;
            assert_expected(answer.status.as_u16(), path, &answer.text);
        }
    }
}
