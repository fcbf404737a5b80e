//! Dashboards: pages in a browser, from another origin, with the key as a bearer token.
use http::Method;
use serde_json::{Value, json};

use super::Sender;
use crate::support::{Answer, BOSS, Service};

const ORIGIN: &str = "http://localhost:5173";

fn board(service: &Service) -> Sender {
    let client = service.anonymous().header("authorization", &format!("Bearer {BOSS}"));
    Sender::new(client.header("origin", ORIGIN), "Mozilla/5.0")
}

#[tokio::test]
async fn a_browser_permits_the_requests_and_shows_the_answers() {
    let service = Service::start().await;
    for (method, path) in [("GET", "/audit"), ("DELETE", "/locks/a/b.rs"), ("PATCH", "/issues/1")] {
        let client = service
            .anonymous()
            .header("origin", ORIGIN)
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "authorization,content-type");
        let asked = Sender::new(client, "Mozilla/5.0").send(Method::OPTIONS, path, None).await;
        assert_eq!(asked.status, 200, "{path}");
        assert_eq!(asked.headers["access-control-allow-origin"], ORIGIN);
        let methods = asked.headers["access-control-allow-methods"].to_str().expect("text");
        assert!(methods.split(',').any(|it| it == method), "{methods}");
        let headers = asked.headers["access-control-allow-headers"].to_str().expect("text");
        for name in ["authorization", "content-type"] {
            assert!(headers.split(',').any(|it| it == name), "{headers}");
        }
    }
    // Errors need the CORS headers too, or the page cannot read them.
    for path in ["/audit", "/nope"] {
        assert_eq!(board(&service).get(path).await.headers["access-control-allow-origin"], ORIGIN);
    }
    let stranger = Sender::new(service.anonymous().header("origin", ORIGIN), "Mozilla/5.0");
    let refused = stranger.get("/audit").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["access-control-allow-origin"], ORIGIN);
}

#[tokio::test]
async fn the_audit_log_is_shown_by_change() {
    let service = Service::start().await;
    let board = board(&service);
    for change in ["c-7", "c-8"] {
        let task = json!({
            "task_type": "test", "task_description": "d", "input_data": { "change_id": change },
            "priority": 5, "depends_on": null,
        });
        board.sent("/work/submit", task).await;
    }
    let since = "2026-01-01T00:00:00.000Z";
    let found = board.get(&format!("/audit?since={since}&change_id=c-7&limit=50")).await;
    assert_eq!((found.status.as_u16(), &found.json["count"]), (200, &json!(1)));
    let entry = &found.json["entries"][0];
    assert_eq!(
        (&entry["operation"], &entry["parameters"]["change_id"]),
        (&json!("submit_task"), &json!("c-7"))
    );
    // An empty parameter does not filter.
    let all = board.get("/audit?since=&change_id=&limit=50").await;
    assert_eq!(all.json["count"], 2);
    let wrong = board.get("/audit?since=yesterday&change_id=&limit=50").await;
    wrong.assert_is(400, json!({ "detail": "Invalid since format; use ISO-8601" }));
}

#[tokio::test]
async fn a_lock_is_released_by_force() {
    let service = Service::start().await;
    service.client().acquire("claude-1", "src/a b.rs", json!({})).await;
    let board = board(&service);
    let freed = board.send(Method::DELETE, "/locks/src/a%20b.rs", None).await;
    assert_eq!((freed.status.as_u16(), &freed.json["released"]), (200, &json!(true)));
    assert_eq!(freed.json["prior_holder_agent_id"], "claude-1");
    assert!(freed.json["prior_acquired_at"].is_string());
    let again = board.send(Method::DELETE, "/locks/src/a%20b.rs", None).await;
    assert_eq!((again.status.as_u16(), &again.json["released"]), (200, &json!(false)));
}

/// A request of the board for one of its lanes: the lane is empty unless the answer is a success.
async fn lane(board: &Sender, method: Method, path: &str, payload: Option<Value>) -> Answer {
    let answer = board.send(method, path, payload.as_ref()).await;
    // The browser shows the page nothing of an answer without this header, not even its status.
    assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN, "{path}");
    assert!(!answer.json.is_null(), "{path}: the page cannot parse {}", answer.text);
    answer
}

#[tokio::test]
async fn a_lane_without_an_answer_is_empty_and_leaves_the_others_alone() {
    let service = Service::start().await;
    let board = board(&service);
    let id = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    let labels = format!("/issues/{id}/labels");
    let kick = json!({ "change_id": "c-7" });
    let mut failed = Vec::new();
    for (method, path, payload) in [
        (Method::POST, "/issues/list", Some(json!({ "labels": ["change:c-7"] }))),
        (Method::PATCH, &labels, Some(json!({ "add": ["x"], "remove": [] }))),
        (Method::POST, "/agents/claude-1/kick", Some(kick.clone())),
        (Method::POST, "/agents/_none/kick", Some(kick)),
        (Method::POST, "/events/auth", Some(json!({}))),
        (Method::GET, "/events/work", None),
        (Method::GET, "/sync-points/status", None),
        (Method::GET, "/github/prs", None),
        (Method::GET, "/openspec/proposals", None),
        (Method::GET, "/kanban-viz/views", None),
        (Method::POST, "/kanban-viz/audit", Some(json!({}))),
    ] {
        let answer = lane(&board, method, path, payload).await;
        if !answer.status.is_success() {
            assert!([404, 503].contains(&answer.status.as_u16()), "{path}: {}", answer.text);
            failed.push(path.to_owned());
        }
    }
    // The contract promises these two failures for good.
    for absent in ["/kanban-viz/views", "/kanban-viz/audit"] {
        assert!(failed.iter().any(|it| it == absent), "{absent} in {failed:?}");
    }
    // None of them took the lane of the audit log with it.
    service.client().acquire("claude-1", "src/a.rs", json!({})).await;
    let audit = lane(&board, Method::GET, "/audit?since=&change_id=&limit=50", None).await;
    assert_eq!((audit.status.as_u16(), &audit.json["count"]), (200, &json!(1)));
}
