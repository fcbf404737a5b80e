//! Events of every service that can stand in front of the function, through the real program and a
//! Runtime API of the test's own. What it answers is what the server's router answers.
use std::{collections::HashMap, path::Path};

use agent_coordinator::{App, Config, Home, router, schema};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use lambda_emulator::{Kind, Lambda};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tower::ServiceExt as _;

const IDENTITIES: &str = r#"{
    "key": {},
    "boss-key": {"agent_id": "boss", "agent_type": "strands", "profile": "strands_orchestrator"}
}"#;

fn variables(url: &str) -> HashMap<String, String> {
    [("POSTGRES_DSN", url), ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES), ("RUST_LOG", "off")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

async fn lambda(url: &str) -> Lambda {
    let program = Path::new(env!("CARGO_BIN_EXE_handler"));
    Lambda::new(program, &variables(url), 1).await.expect("a Runtime API")
}

/// The function, with a database of its own.
struct Function {
    lambda: Lambda,
    db: PgPool,
    url: String,
    _database: throwaway::Database,
}

impl Function {
    async fn start() -> Self {
        let schema = schema();
        let database = throwaway::database(schema.migrator, schema.functions);
        let database = database.await.expect("a database");
        let url = database.url.clone();
        let db = PgPool::connect(&url).await.expect("the database answers");
        Self { lambda: lambda(&url).await, db, url, _database: database }
    }

    async fn ask(&self, kind: Kind, request: Request<Bytes>) -> Response<Bytes> {
        let answer = self.lambda.invoke(&kind.event(&request)).await;
        kind.response(&answer.unwrap_or_else(|error| panic!("{kind:?}: {error}")))
    }

    /// The server's router on the same database.
    fn server(&self) -> Router {
        let variables = variables(&self.url);
        let config = Config::parse(Home::Server, |name| variables.get(name).cloned());
        router(App::new(config.expect("a valid configuration")))
    }

    #[expect(clippy::disallowed_methods, reason = "a test looks where no operation can")]
    async fn scalar<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        query.fetch_one(&self.db).await.expect("one value")
    }
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Request<Bytes> {
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

fn get(path: &str) -> Request<Bytes> {
    request("GET", path, &[], "")
}

fn acquire(agent: &str, key: &str) -> Request<Bytes> {
    let body = json!({ "file_path": key, "agent_id": agent, "agent_type": "codex" });
    request("POST", "/locks/acquire", &[], &body.to_string())
}

fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap_or_default()
}

async fn served(server: &Router, request: Request<Bytes>) -> Response<Bytes> {
    let response = server.clone().oneshot(request.map(Body::from)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = if parts.status.is_redirection() { Body::empty() } else { body };
    Response::from_parts(parts, to_bytes(body, usize::MAX).await.expect("a whole body"))
}

/// Spellings of lock keys as they stand in a path, and whether each reaches the function unharmed
/// by a service that decodes it.
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
    // An HTTP API cuts the path at a question mark, however it is written.
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

#[tokio::test]
async fn every_service_gets_the_answers_of_the_server() {
    let function = Function::start().await;
    let server = function.server();
    served(&server, acquire("a", "src/a b.rs")).await;
    let remember = json!({ "event_type": "decision", "summary": "one pool", "agent_id": "a" });
    served(&server, request("POST", "/memory/store", &[], &remember.to_string())).await;
    let taken = r#"{"file_path":"src/a b.rs","agent_id":"b","agent_type":"t"}"#;
    let recalled = r#"{"agent_id":"a","query":"pool \"é\""}"#;
    let preflight = [
        ("origin", "http://localhost:5173"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-api-key"),
    ];
    let requests = || {
        [
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
    };
    for (n, sent) in requests().into_iter().enumerate() {
        let shown = format!("{} {}", sent.method(), sent.uri());
        let is_head = sent.method() == Method::HEAD;
        let expected = served(&server, sent).await;
        for kind in Kind::ALL {
            let sent = requests().into_iter().nth(n).expect("the same request");
            let got = function.ask(kind, sent).await;
            assert_eq!(got.status(), expected.status(), "{kind:?} {shown}: {got:?}");
            if is_head {
                assert!(got.body().is_empty(), "{kind:?} {shown}");
            } else {
                assert_eq!(got.body(), expected.body(), "{kind:?} {shown}");
            }
            let pick =
                |it: &HeaderMap, name| it.get(name).map(|it| it.to_str().expect("text").to_owned());
            for name in ["content-type", "allow", "access-control-allow-origin", "retry-after"] {
                let expected = pick(expected.headers(), name);
                assert_eq!(pick(got.headers(), name), expected, "{kind:?} {shown}: {name}");
            }
            let moved =
                pick(expected.headers(), "location").map(|it| format!("{}{it}", kind.base()));
            assert_eq!(pick(got.headers(), "location"), moved, "{kind:?} {shown}");
            let has_id = |it: &HeaderMap| it.contains_key("x-request-id");
            assert_eq!(has_id(got.headers()), has_id(expected.headers()), "{kind:?} {shown}");
        }
    }
    assert_eq!(function.lambda.processes(), 1);
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
async fn bodies_may_come_in_base64() {
    let function = Function::start().await;
    for kind in Kind::ALL {
        let body =
            json!({ "file_path": format!("é {kind:?}"), "agent_id": "a", "agent_type": "t" });
        // Services encode what they do not know to be text.
        let of_its_own = [("content-type", "application/vnd.example+json")];
        let sent = request("POST", "/locks/acquire", &of_its_own, &body.to_string());
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
    // The others have lost the first value, or joined the two to a key that nobody has.
    for kind in Kind::ALL.into_iter().filter(|it| !it.keeps_repeated_headers()) {
        assert_eq!(function.ask(kind, sent()).await.status(), 401, "{kind:?}");
    }
}

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
    // Quotes take twice their length inside of JSON inside of JSON.
    let text = "\"".repeat(400_000);
    for _ in 0..5 {
        let body = json!({ "summary": "s", "agent_id": "a", "relevant_files": [], "decisions": [{"d": text}] });
        let written =
            served(&server, request("POST", "/handoffs/write", &[], &body.to_string())).await;
        assert_eq!(written.status(), 200, "{written:?}");
    }
    let read = |limit: usize| {
        let body = json!({ "agent_id": "a", "limit": limit }).to_string();
        request("POST", "/handoffs/read", &[], &body)
    };
    let all = served(&server, read(5)).await;
    let as_json =
        Value::from(String::from_utf8(all.body().to_vec()).expect("text")).to_string().len();
    assert!(as_json > 6 * 1024 * 1024, "{as_json} bytes");
    for (kind, most) in [(Kind::FunctionUrl, 6_275_072), (Kind::Alb, 1_032_192)] {
        let refused = function.ask(kind, read(5)).await;
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let detail = json_of(&refused)["detail"].as_str().unwrap_or_default().to_owned();
        assert!(detail.contains(&format!("{} bytes, of {most} at most", as_json - 2)), "{detail}");
        assert!(refused.headers().contains_key("x-request-id"));
    }
    assert_eq!(function.ask(Kind::FunctionUrl, read(1)).await.status(), 200);
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
async fn what_is_no_request_or_makes_the_library_panic_costs_one_invocation() {
    let function = Function::start().await;
    let mut unreadable = Kind::FunctionUrl.recorded();
    unreadable["body"] = json!("no base64!");
    unreadable["isBase64Encoded"] = json!(true);
    let panicked = function.lambda.invoke(&unreadable).await.expect_err("a failure");
    assert!(
        panicked["errorMessage"].as_str().is_some_and(|it| it.contains("panicked")),
        "{panicked}"
    );
    for event in
        [json!({}), json!([]), json!("x"), json!({ "Records": [{ "eventSource": "aws:s3" }] })]
    {
        let failed = function.lambda.invoke(&event).await.expect_err("a failure");
        assert!(failed["errorMessage"].is_string(), "{failed}");
    }
    assert_eq!(function.ask(Kind::FunctionUrl, get("/live")).await.status(), 200);
    assert_eq!(function.lambda.processes(), 1, "the process lived on");
}

#[tokio::test]
async fn a_load_balancer_may_check_the_health_of_the_function() {
    let function = Function::start().await;
    let event = serde_json::from_str(include_str!("events/alb_health_check.json")).expect("JSON");
    let answer = function.lambda.invoke(&event).await.expect("an answer");
    assert_eq!(
        (&answer["statusCode"], &answer["statusDescription"]),
        (&json!(200), &json!("200 OK"))
    );
}

#[tokio::test]
async fn a_schedule_may_run_the_maintenance() {
    let function = Function::start().await;
    let event = serde_json::from_str(include_str!("events/schedule.json")).expect("JSON");
    let answer = function.lambda.invoke(&event).await.expect("an answer");
    assert_eq!(answer["statusCode"], 200, "{answer}");
    let rows = "select count(*) from audit_log where operation = 'run_maintenance'";
    assert_eq!(function.scalar::<i64>(rows).await, 1);
}

#[tokio::test]
async fn the_function_has_one_connection_and_replaces_it_when_it_died_while_frozen() {
    let function = Function::start().await;
    const OWN: &str = "from pg_stat_activity
        where datname = current_database() and application_name = 'agent-coordinator'";
    assert_eq!(function.ask(Kind::FunctionUrl, get("/live")).await.status(), 200);
    assert_eq!(
        function.scalar::<i64>(&format!("select count(*) {OWN}")).await,
        0,
        "made on demand"
    );
    for n in 0..5 {
        let taken = function.ask(Kind::FunctionUrl, acquire("a", &format!("k{n}"))).await;
        assert_eq!(taken.status(), 200);
    }
    assert_eq!(function.scalar::<i64>(&format!("select count(*) {OWN}")).await, 1);
    for _ in 0..2 {
        // What lies idle for a moment may have been frozen.
        let idle = format!(
            "select count(*) {OWN} and state_change < clock_timestamp() - interval '1.2 s'"
        );
        while function.scalar::<i64>(&idle).await == 0 {}
        let killed: bool = function
            .scalar(&format!("select bool_and(pg_terminate_backend(pid, 5000)) {OWN}"))
            .await;
        assert!(killed);
        assert_eq!(function.ask(Kind::FunctionUrl, acquire("a", "k0")).await.status(), 200);
        assert_eq!(function.scalar::<i64>(&format!("select count(*) {OWN}")).await, 1);
    }
}

#[tokio::test]
async fn the_function_never_migrates() {
    let server = throwaway::server().await.expect("a server");
    let name = format!("unmigrated_{}", std::process::id());
    let mut admin = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    #[expect(clippy::disallowed_methods, reason = "no parameter may stand for a database's name")]
    sqlx::raw_sql(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut admin)
        .await
        .expect("it is created");
    let url = server.url(&name);
    let mut variables = variables(&url);
    variables.insert("COORDINATION_AUTO_MIGRATE".to_owned(), "true".to_owned());
    let program = Path::new(env!("CARGO_BIN_EXE_handler"));
    let lambda = Lambda::new(program, &variables, 1).await.expect("a Runtime API");
    let ask = async |request| {
        let answer = lambda.invoke(&Kind::FunctionUrl.event(&request)).await.expect("an answer");
        Kind::FunctionUrl.response(&answer)
    };
    assert_eq!(ask(get("/health")).await.status(), 200);
    let ready = ask(get("/ready")).await;
    assert_eq!((ready.status().as_u16(), &json_of(&ready)["schema"]), (503, &json!("mismatch")));
    assert_eq!(ask(acquire("a", "k")).await.status(), 500);
    let db = PgPool::connect(&url).await.expect("the database answers");
    #[expect(clippy::disallowed_methods, reason = "a test looks where no operation can")]
    let relations: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relnamespace = 'public'::regnamespace",
    )
    .fetch_one(&db)
    .await
    .expect("one value");
    assert_eq!(relations, 0, "nothing was created");
}
