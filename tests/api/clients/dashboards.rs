//! Dashboards: pages in a browser, from another origin, with the key as a bearer's token.
use http::Method;
use serde_json::json;

use super::Sender;
use crate::support::{BOSS, Service};

const ORIGIN: &str = "http://localhost:5173";

fn board(service: &Service) -> Sender {
    let client = service.anonymous().header("authorization", &format!("Bearer {BOSS}"));
    Sender::new(client.header("origin", ORIGIN), "Mozilla/5.0")
}

#[tokio::test]
async fn a_browser_lets_it_call_and_read() {
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
    // What is refused must be readable as well, or the page cannot say why.
    for path in ["/audit", "/nope"] {
        assert_eq!(board(&service).get(path).await.headers["access-control-allow-origin"], ORIGIN);
    }
    let stranger = Sender::new(service.anonymous().header("origin", ORIGIN), "Mozilla/5.0");
    let refused = stranger.get("/audit").await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["access-control-allow-origin"], ORIGIN);
}

#[tokio::test]
async fn it_shows_what_was_done_for_a_change() {
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
    // What is left empty filters nothing.
    let all = board.get("/audit?since=&change_id=&limit=50").await;
    assert_eq!(all.json["count"], 2);
    let wrong = board.get("/audit?since=yesterday&change_id=&limit=50").await;
    wrong.assert_is(400, json!({ "detail": "Invalid since format; use ISO-8601" }));
}

#[tokio::test]
async fn it_frees_a_lock() {
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

#[tokio::test]
async fn its_other_lanes_stay_empty() {
    let service = Service::start().await;
    let board = board(&service);
    let id = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    for (method, path, payload) in [
        (Method::POST, "/issues/list", Some(json!({ "labels": ["change:c-7"] }))),
        (
            Method::PATCH,
            &*format!("/issues/{id}/labels"),
            Some(json!({ "add": ["x"], "remove": [] })),
        ),
        (Method::POST, "/agents/claude-1/kick", Some(json!({ "change_id": "c-7" }))),
        (Method::POST, "/agents/_none/kick", Some(json!({ "change_id": "c-7" }))),
        (Method::POST, "/events/auth", Some(json!({}))),
        (Method::GET, "/events/work", None),
        (Method::GET, "/sync-points/status", None),
        (Method::GET, "/github/prs", None),
        (Method::GET, "/openspec/proposals", None),
        (Method::GET, "/kanban-viz/views", None),
        (Method::POST, "/kanban-viz/audit", Some(json!({}))),
    ] {
        board.assert_missing(method, path, payload.as_ref()).await;
    }
}
