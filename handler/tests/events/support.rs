//! The function with a database, the server's router beside it, and requests to both.
use std::{collections::HashMap, path::Path};

use agent_coordinator::{App, Config, Home, router, schema};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{Request, Response};
use lambda_emulator::{Kind, Lambda};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tower::ServiceExt as _;

const IDENTITIES: &str = r#"{
    "key": {},
    "boss-key": {"agent_id": "boss", "agent_type": "strands", "profile": "strands_orchestrator"}
}"#;

pub(crate) fn variables(url: &str) -> HashMap<String, String> {
    [("POSTGRES_DSN", url), ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES), ("RUST_LOG", "off")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

pub(crate) async fn lambda(url: &str) -> Lambda {
    let program = Path::new(env!("CARGO_BIN_EXE_handler"));
    Lambda::new(program, &variables(url), 1).await.expect("a Runtime API")
}

/// The function, with its own database.
pub(crate) struct Function {
    pub(crate) lambda: Lambda,
    db: PgPool,
    url: String,
    _database: throwaway::Database,
}

impl Function {
    pub(crate) async fn start() -> Self {
        let schema = schema();
        let database = throwaway::database(schema.migrator, schema.functions);
        let database = database.await.expect("a database");
        let url = database.url.clone();
        let db = PgPool::connect(&url).await.expect("the database answers");
        Self { lambda: lambda(&url).await, db, url, _database: database }
    }

    pub(crate) async fn ask(&self, kind: Kind, request: Request<Bytes>) -> Response<Bytes> {
        let answer = self.lambda.invoke(&kind.event(&request)).await;
        kind.response(&answer.unwrap_or_else(|error| panic!("{kind:?}: {error}")))
    }

    /// Returns the server's router on the same database.
    pub(crate) fn server(&self) -> Router {
        let variables = variables(&self.url);
        let config = Config::parse(Home::Server, |name| variables.get(name).cloned());
        router(App::new(config.expect("a valid configuration")))
    }

    #[expect(clippy::disallowed_methods, reason = "a test reads what no operation returns")]
    pub(crate) async fn scalar<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        query.fetch_one(&self.db).await.expect("one value")
    }
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in [("x-api-key", "key"), ("content-type", "application/json")] {
        if headers.iter().all(|(it, _)| *it != name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Bytes::from(body.to_owned())).expect("a request")
}

pub(crate) fn get(path: &str) -> Request<Bytes> {
    request("GET", path, &[], "")
}

pub(crate) fn acquire(agent: &str, key: &str) -> Request<Bytes> {
    let body = json!({ "file_path": key, "agent_id": agent, "agent_type": "codex" });
    request("POST", "/locks/acquire", &[], &body.to_string())
}

pub(crate) fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap_or_default()
}

pub(crate) async fn served(server: &Router, request: Request<Bytes>) -> Response<Bytes> {
    let response = server.clone().oneshot(request.map(Body::from)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = if parts.status.is_redirection() { Body::empty() } else { body };
    Response::from_parts(parts, to_bytes(body, usize::MAX).await.expect("a whole body"))
}
