//! Bodies and answers at their size limits.
use http::StatusCode;
use lambda_emulator::Kind;
use serde_json::{Value, json};

use crate::support::{Function, json_of, request, served};

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_and_the_largest_is_not() {
    let function = Function::start().await;
    let of_length = |length: usize| {
        let empty = json!({ "file_path": "k", "agent_id": "a", "agent_type": "t", "x": "" });
        let missing = length - empty.to_string().len();
        empty.to_string().replace("\"x\":\"\"", &format!("\"x\":\"{}\"", "x".repeat(missing)))
    };
    for kind in [Kind::FunctionUrl, Kind::RestApi, Kind::Alb] {
        let too_long = of_length((1 << 20) + 1);
        let refused = function.ask(kind, request("POST", "/locks/acquire", &[], &too_long)).await;
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE, "{kind:?}");
        let expected =
            served(&function.server(), request("POST", "/locks/acquire", &[], &too_long)).await;
        assert_eq!(refused.body(), expected.body());
        let just = of_length(1 << 20);
        let taken = function.ask(kind, request("POST", "/locks/acquire", &[], &just)).await;
        assert_eq!(taken.status(), StatusCode::OK, "{kind:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_says_so() {
    let function = Function::start().await;
    let server = function.server();
    // JSON inside JSON: each quote is escaped twice.
    let text = "\"".repeat(400_000);
    let body = json!({ "summary": "s", "agent_id": "a", "relevant_files": [], "decisions": [{"d": text}] });
    let written = served(&server, request("POST", "/handoffs/write", &[], &body.to_string())).await;
    assert_eq!(written.status(), 200, "{written:?}");
    let read = || request("POST", "/handoffs/read", &[], &json!({ "agent_id": "a" }).to_string());
    let whole = served(&server, read()).await;
    let as_json =
        Value::from(String::from_utf8(whole.body().to_vec()).expect("text")).to_string().len();
    let refused = function.ask(Kind::Alb, read()).await;
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let detail = json_of(&refused)["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains(&format!("{} bytes, of 1032192 at most", as_json - 2)), "{detail}");
    assert!(refused.headers().contains_key("x-request-id"));
    // A page of a list is always smaller than what other services take.
    assert_eq!(function.ask(Kind::FunctionUrl, read()).await.body(), whole.body());
}
