//! The checker script: it sends GET to every route, and counts every status but 404 as present.
use http::Method;

use super::Sender;
use crate::support::{FREE, Service};

#[tokio::test]
async fn the_routes_are_found_with_any_key_and_without_one() {
    let service = Service::start().await;
    let before = service.contents().await;
    for client in [service.client_with(FREE), service.client_with("wrong"), service.anonymous()] {
        let sender = Sender::new(client, "coordination-checker/1");
        for path in [
            "/health",
            "/locks/status/__probe__",
            "/work/get",
            "/guardrails/check",
            "/memory/query",
            "/profiles/me",
            "/handoffs/read",
            "/policy/check",
            "/audit",
        ] {
            let answer = sender.get(path).await;
            assert!([200, 401, 405].contains(&answer.status.as_u16()), "{path}: {}", answer.text);
            assert!(answer.json.is_object(), "{path}");
        }
        for path in ["/features/active", "/merge-queue", "/search/code/status"] {
            sender.assert_missing(Method::GET, path, None).await;
        }
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn a_route_is_found_by_a_method_that_it_does_not_have() {
    let service = Service::start().await;
    let sender = Sender::new(service.client_with(FREE), "coordination-checker/1");
    for (path, status) in [
        ("/health", 200),
        ("/locks/status/__probe__", 200),
        ("/work/get", 405),
        ("/guardrails/check", 405),
        ("/memory/query", 405),
        ("/profiles/me", 200),
        ("/handoffs/read", 405),
        ("/policy/check", 405),
        ("/audit", 200),
    ] {
        assert_eq!(sender.get(path).await.status, status, "{path}");
    }
}
