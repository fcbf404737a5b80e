//! Existing clients: each sends the requests, and reads the answers, that contract/clients.md describes.
mod bridge;
mod bridge_earlier;
mod bridge_later;
mod checker;
mod dashboards;
mod hooks;
mod proxy;
mod scripts;

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Client, Service};

/// The requests of one client: JSON, and the same headers each time.
pub(super) struct Sender {
    client: Client,
}

impl Sender {
    fn new(client: Client, user_agent: &str) -> Self {
        Self {
            client: client.header("accept", "application/json").header("user-agent", user_agent),
        }
    }

    /// Sends a request. Without a payload it has neither a body nor a content type.
    async fn send(&self, method: Method, path: &str, payload: Option<&Value>) -> Answer {
        match payload {
            None => self.client.send(method, path, Body::empty()).await,
            Some(payload) => {
                let client = self.client.clone().header("content-type", "application/json");
                client.send(method, path, payload.to_string().into()).await
            }
        }
    }

    async fn post(&self, path: &str, payload: Value) -> Answer {
        self.send(Method::POST, path, Some(&payload)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// Sends a payload and returns the answer, which must have status 200.
    #[track_caller]
    fn sent(&self, path: &str, payload: Value) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.post(path, payload).await;
            assert_eq!(answer.status, 200, "{caller}: {path}: {}", answer.text);
            answer.json
        }
    }

    /// Requests an absent route, which clients recognize by this 404.
    async fn assert_missing(&self, method: Method, path: &str, payload: Option<&Value>) {
        let answer = self.send(method, path, payload).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        assert_eq!(answer.json, json!({ "detail": "Not Found" }), "{path}");
    }
}

/// The names of an answer's members, in order.
#[track_caller]
fn names(answer: &Value) -> Vec<&str> {
    answer.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// A service whose database is unreachable.
async fn without_database() -> Service {
    Service::with(&[("POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/nothing")]).await
}
