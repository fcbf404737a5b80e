//! The routes of all operations.
use agent_coordinator::operation::{Meta, Registered};
use serde_json::json;

use super::{Expected, Matrix, callers::Caller, those_who};
use crate::{
    laws::{Asked, request, routes},
    support::{Answer, Client},
};

/// Sends the example of an operation as a caller does.
async fn send(client: &Client, op: &Registered, route: &str, caller: &Caller) -> Answer {
    let mut input = op.example.clone();
    for (member, value) in &caller.body {
        input[*member] = json!(value);
    }
    let Asked { method, path, body } = request(route, &input);
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}{}", caller.query);
    client.send(method, &path, body).await
}

/// What is wrong with an answer, if anything.
fn deviation(answer: &Answer, expected: &Expected) -> Option<String> {
    let (status, detail) = match expected {
        Expected::Permitted => (200, None),
        Expected::Unauthenticated => (401, Some("Invalid API key")),
        Expected::Denied(reason) => (403, Some(reason.as_str())),
    };
    let body = detail.map(|detail| json!({ "detail": detail }));
    let is_expected = answer.status == status && body.is_none_or(|body| answer.json == body);
    let found = || format!("{} {:.200}, expected {expected:?}", answer.status, answer.text);
    (!is_expected).then(found)
}

#[tokio::test]
async fn every_route_permits_whom_the_contract_permits_and_a_refused_request_changes_nothing() {
    let mut matrix = Matrix::start().await;
    for are_permitted in [false, true] {
        for (op, route) in routes() {
            for (caller, expected) in those_who(are_permitted, &op.meta, false) {
                let (client, id) = matrix.client(&caller);
                let answer = send(&client, &op, route, &caller).await;
                if let Some(found) = deviation(&answer, &expected) {
                    matrix.deviations.push(format!("{route}, {} ({id}): {found}", caller.name));
                }
                if let Expected::Denied(reason) = &expected {
                    matrix.expect_record(id, &caller, &[op.meta.name], reason);
                }
            }
            if !are_permitted {
                matrix.compare(route).await;
            }
        }
    }
    matrix.finish(2000);
}

#[tokio::test]
async fn the_matrix_notices_effects_wrong_answers_and_missing_records() {
    let mut matrix = Matrix::start().await;
    let (op, route) = routes().into_iter().find(|it| it.0.meta.id == "list_locks").expect("one");
    let admin = Meta::admin("manage_keys");
    let judged = those_who(false, &admin, false);
    let (caller, expected) =
        judged.into_iter().find(|(caller, _)| caller.name == "key-1").expect("a caller");
    let (client, id) = matrix.client(&caller);
    let answer = send(&client, &op, route, &caller).await;
    assert!(deviation(&answer, &expected).is_some());
    matrix.expect_record(id, &caller, &["manage_keys"], "never recorded");
    matrix.service.client_with("key-free").acquire("claude-2", "src/other.rs", json!({})).await;
    matrix.compare(route).await;
    let found = matrix.deviations.join("\n");
    for expected in ["changed file_lock", "that are no denials", "recorded None"] {
        assert!(found.contains(expected), "{expected}: {found}");
    }
}
