//! A service on a database of its own, a JSON client for it, and helpers that several files use.
use std::{collections::HashMap, fmt::Debug, time::Duration};

use agent_coordinator::{App, Config, Home, router, schema};
use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode};
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgExecutor, PgPool, postgres::PgRow};
use tokio::sync::OnceCell;

use crate::{
    relay::PUBLISH,
    transport::{self, Transport},
};

/// A key that is bound to no agent: trust 2.
pub(crate) const FREE: &str = "free-key";
/// Bound to agent `codex-1` of type `codex`, whose default profile gives trust 2.
pub(crate) const CODEX: &str = "codex-key";
/// Bound to agent `boss` with profile `strands_orchestrator`: trust 3, every operation.
pub(crate) const BOSS: &str = "boss-key";
/// Bound to agent `reviewer` with profile `claude_code_web_reviewer`: trust 1, reads only.
pub(crate) const REVIEWER: &str = "reviewer-key";
/// Bound to no agent, in workspace `team`.
pub(crate) const TEAM: &str = "team-key";

/// Logs that are only appended to. Their rows are counted and not compared, because some tests write many.
const COUNTED: [&str; 2] = ["audit_log", "network_log"];

const IDENTITIES: &str = r#"{
    "codex-key": {"agent_id": "codex-1", "agent_type": "codex"},
    "boss-key": {"agent_id": "boss", "agent_type": "strands", "profile": "strands_orchestrator"},
    "reviewer-key": {"agent_id": "reviewer", "profile": "claude_code_web_reviewer"},
    "team-key": {"workspace": "team"}
}"#;

/// The service on a migrated database of its own.
pub(crate) struct Service {
    transport: Transport,
    /// For reading what no operation shows, and for moving time.
    pub(crate) db: PgPool,
    pub(crate) url: String,
    /// The statement of `contents`. The catalogue is read once, because some tests compare often.
    contents: OnceCell<String>,
    _database: throwaway::Database,
}

/// A database with the schema of the service.
pub(crate) async fn database() -> throwaway::Database {
    let schema = schema();
    if transport::is_citus() {
        transport::note("a cluster");
    }
    throwaway::database(schema.migrator, schema.functions).await.expect("a database")
}

/// The environment of a service in tests.
pub(crate) fn variables(url: &str) -> HashMap<String, String> {
    let keys = [FREE, CODEX, BOSS, REVIEWER, TEAM].join(",");
    [
        ("POSTGRES_DSN", url),
        ("POSTGRES_POOL_MIN", "1"),
        ("COORDINATION_API_KEYS", &keys),
        ("COORDINATION_API_KEY_IDENTITIES", IDENTITIES),
        // Citus does not delegate gathered calls.
        ("API_GATHER", if transport::is_citus() { "false" } else { "true" }),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// A configuration from an environment. Standings and heartbeats are cached for an hour, so that the number
/// of statements of a request does not depend on how long a test takes.
pub(crate) fn config(variables: &HashMap<String, String>) -> Config {
    Config::parse(Home::Server, |name| variables.get(name).cloned())
        .expect("a valid configuration")
        .with_timings(|timings| timings.standing_max_age = Duration::from_secs(3600))
        .with_timings(|timings| timings.heartbeat_interval = Duration::from_secs(3600))
}

/// The usual environment with more variables.
pub(crate) fn with_more(url: &str, more: &[(&str, &str)]) -> HashMap<String, String> {
    let mut variables = variables(url);
    variables.extend(more.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    variables
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts with these environment variables in addition to the usual ones.
    pub(crate) async fn with(more: &[(&str, &str)]) -> Self {
        let database = database().await;
        let transport = Transport::start(&with_more(&database.url, more)).await;
        Self::over(transport, database).await
    }

    /// Starts within this process in every mode of the tests, because `tune` has no environment variable.
    pub(crate) async fn configured(
        more: &[(&str, &str)],
        tune: impl FnOnce(Config) -> Config,
    ) -> Self {
        let database = database().await;
        let app = App::new(tune(config(&with_more(&database.url, more))));
        Self::over(transport::in_process(router(app)), database).await
    }

    pub(crate) async fn over(transport: Transport, database: throwaway::Database) -> Self {
        let db = PgPool::connect(&database.url).await.expect("the database answers");
        let url = database.url.clone();
        Self { transport, db, url, contents: OnceCell::new(), _database: database }
    }

    /// A client, without a key, of another replica on the same database, with these environment variables in
    /// addition to the usual ones.
    pub(crate) async fn replica(&self, more: &[(&str, &str)]) -> Client {
        Client::over(Transport::start(&with_more(&self.url, more)).await)
    }

    /// A client, with the key that is bound to no agent, of another replica within this process.
    pub(crate) fn replica_here(&self) -> Client {
        let app = App::new(config(&variables(&self.url)));
        Client::new(router(app)).header("x-api-key", FREE)
    }

    /// A client with the key that is bound to no agent.
    pub(crate) fn client(&self) -> Client {
        self.client_with(FREE)
    }

    pub(crate) fn client_with(&self, key: &str) -> Client {
        self.anonymous().header("x-api-key", key)
    }

    pub(crate) fn anonymous(&self) -> Client {
        Client::over(self.transport.clone())
    }

    pub(crate) async fn execute(&self, sql: &str) {
        execute(&self.db, sql).await;
    }

    /// Executes a statement and publishes what it counted. PostgreSQL reports the statistics of a connection at
    /// most once a second, so `counted` could otherwise count them as those of the requests that follow.
    pub(crate) async fn execute_uncounted(&self, sql: &str) {
        self.execute(&format!("{sql}; {PUBLISH}")).await;
    }

    /// The one value that a query gives.
    pub(crate) async fn scalar<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        scalar(&self.db, sql).await
    }

    /// Rows as JSON.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<Value> {
        // Citus loses the column names of a subquery, but not those of a CTE.
        let sql = format!(
            "with it as materialized ({sql})
             select coalesce(json_agg(row_to_json(it)), '[]') from it"
        );
        let rows: Value = self.scalar(&sql).await;
        rows.as_array().expect("an array").clone()
    }

    pub(crate) async fn audit_rows(&self) -> i64 {
        self.scalar("select count(*) from audit_log").await
    }

    /// The newest row of the audit log.
    pub(crate) async fn last_audit(&self) -> Value {
        self.rows("select * from audit_log order by created_at desc limit 1").await.remove(0)
    }

    /// Everything that a request can change, as one text: the rows of every table that the catalogue lists
    /// with a column `workspace`, and the number of rows of `COUNTED`.
    pub(crate) async fn contents(&self) -> String {
        let sql = self.contents.get_or_init(|| self.statement_of_contents()).await;
        self.scalar(sql).await
    }

    async fn statement_of_contents(&self) -> String {
        let tables = self.tables_of_workspaces().await;
        let tables = tables.iter().map(|(table, _)| {
            if COUNTED.contains(&&**table) {
                return format!("'{table}', (select count(*) from {table})");
            }
            // A process records another heartbeat after ten seconds, which a slow test can take.
            let is_heartbeat_noise = table == "agent_session" && !self.transport.is_router();
            let row = if is_heartbeat_noise { "to_jsonb(t) - 'last_heartbeat_at'" } else { "t" };
            format!("'{table}', (select json_agg({row} order by ({row})::text) from {table} t)")
        });
        let tables: Vec<_> = tables.collect();
        format!("select json_build_object({})::text", tables.join(", "))
    }

    /// Every row of a workspace, by table, for all tables with a column `workspace`.
    pub(crate) async fn contents_of(&self, workspace: &str) -> Value {
        let tables = self.tables_of_workspaces().await;
        let rows = tables.iter().map(|(table, _)| {
            format!(
                "'{table}', (select json_agg(it order by it::text) from (
                    select to_jsonb(t) as it from {table} t where workspace = '{workspace}') x)"
            )
        });
        let rows: Vec<_> = rows.collect();
        self.scalar(&format!("select json_build_object({})", rows.join(", "))).await
    }

    /// The tables whose rows belong to workspaces, each with the columns that can be written.
    pub(crate) async fn tables_of_workspaces(&self) -> Vec<(String, Vec<String>)> {
        let sql = "select c.relname as table, (
                select json_agg(quote_ident(a.attname)) from pg_attribute a
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
                    and a.attgenerated = ''
            ) as columns
            from pg_class c
            where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
                and not c.relispartition and exists (
                    select from pg_attribute a
                    where a.attrelid = c.oid and a.attname = 'workspace' and not a.attisdropped
                )
            order by c.relname";
        let names = |it: &Value| {
            let all = it.as_array().expect("names").iter();
            all.map(|it| it.as_str().expect("a name").to_owned()).collect()
        };
        let table =
            |it: Value| (it["table"].as_str().expect("a name").to_owned(), names(&it["columns"]));
        self.rows(sql).await.into_iter().map(table).collect()
    }

    /// Sends requests to a new service, and returns by how much a statistic of the database grew.
    pub(crate) async fn counted<T>(
        &self,
        statistic: &str,
        act: impl AsyncFnOnce(Client) -> T,
    ) -> (i64, T) {
        let app = App::new(config(&variables(&self.url)));
        let client = Client::new(router(app.clone())).header("x-api-key", FREE);
        let before: i64 = self.scalar(statistic).await;
        let acted = act(client).await;
        app.close().await;
        let open = "select count(*) from pg_stat_activity
            where datname = current_database() and application_name = 'agent-coordinator'";
        eventually(
            "every connection of the service is closed",
            async || self.scalar::<i64>(open).await,
            |open| *open == 0,
        )
        .await;
        let after: i64 = self.scalar(statistic).await;
        (after - before, acted)
    }

    /// Moves the expiry of a lock into the past.
    pub(crate) async fn expire(&self, key: &str) {
        self.execute(&format!(
            "update file_lock set expires_at = now() - interval '1 second'
             where key = '{key}' and agent_id is not null"
        ))
        .await;
    }
}

pub(crate) async fn execute<'c>(db: impl PgExecutor<'c>, sql: &str) {
    try_execute(db, sql).await.expect("the statement runs");
}

#[expect(clippy::disallowed_methods, reason = "a test looks and moves time where no operation can")]
pub(crate) async fn try_execute<'c>(db: impl PgExecutor<'c>, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.map(|_| ())
}

#[expect(clippy::disallowed_methods, reason = "a test looks and moves time where no operation can")]
pub(crate) async fn scalar<'c, T>(db: impl PgExecutor<'c>, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    (T,): for<'r> sqlx::FromRow<'r, PgRow>,
{
    let mut sql = sql.to_owned();
    if transport::is_citus() && sql.contains("count(*)") && sql.contains("wait_event_type = 'Lock'")
    {
        // A statement waits for a lock on the worker to which it was sent.
        sql = sql.replace("pg_stat_activity", "citus_stat_activity");
    }
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await.expect("one value")
}

/// Sends requests to a service, with the same headers each time.
#[derive(Clone)]
pub(crate) struct Client {
    transport: Transport,
    headers: HeaderMap,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    pub(crate) text: String,
}

impl Client {
    /// A client of a router within this process, in every mode of the tests.
    pub(crate) fn new(router: Router) -> Self {
        Self::over(transport::in_process(router))
    }

    pub(crate) fn over(transport: Transport) -> Self {
        Self { transport, headers: HeaderMap::new() }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().expect("a header value"));
        self
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Body::empty()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send(Method::POST, path, body.into()).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Body) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).body(body).expect("a request");
        *request.headers_mut() = self.headers.clone();
        let (parts, bytes) = self.transport.send(request).await.into_parts();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, json, text }
    }

    /// Acquires a lock as an agent; `more` are further members of the body.
    pub(crate) async fn acquire(&self, agent: &str, key: &str, more: Value) -> Value {
        let body = json!({ "file_path": key, "agent_id": agent, "agent_type": "codex" });
        let answer = self.post("/locks/acquire", with(body, more)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json
    }

    pub(crate) async fn release(&self, agent: &str, key: &str, more: Value) -> Value {
        let body = json!({ "file_path": key, "agent_id": agent });
        let answer = self.post("/locks/release", with(body, more)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json
    }
}

impl Client {
    /// Submits a task with these members in addition to the required ones, and returns its id.
    pub(crate) async fn submit(&self, more: Value) -> String {
        let body = json!({ "task_type": "test", "task_description": "d" });
        let answer = self.post("/work/submit", with(body, more)).await;
        assert_eq!((answer.status.as_u16(), &answer.json["action"]), (200, &json!("created")));
        answer.json["task_id"].as_str().expect("an id").to_owned()
    }

    /// Claims a task as an agent; `more` are further members of the body.
    pub(crate) async fn claim(&self, agent: &str, more: Value) -> Value {
        let body = json!({ "agent_id": agent, "agent_type": "t" });
        let answer = self.post("/work/claim", with(body, more)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json
    }

    /// Reports a task as done, or as failed where `more` says so.
    pub(crate) async fn complete(&self, agent: &str, id: &str, more: Value) -> Value {
        let body = json!({ "agent_id": agent, "task_id": id, "success": true });
        let answer = self.post("/work/complete", with(body, more)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json
    }

    /// Waits until at least so many requests wait in this client's process.
    pub(crate) async fn until_waiting(&self, requests: u64) {
        let what = format!("{requests} requests wait");
        eventually(&what, async || self.waiting().await, |waiting| *waiting >= requests).await;
    }

    /// How many requests wait in this client's process.
    pub(crate) async fn waiting(&self) -> u64 {
        let metrics = self.get("/metrics").await.text;
        let line = metrics.lines().find_map(|it| it.strip_prefix("coordinator_waiting_requests "));
        line.expect("the gauge").parse().expect("a number")
    }
}

impl Answer {
    /// The types and locations of the issues of a 422, in order.
    #[track_caller]
    pub(crate) fn issues(&self) -> Vec<(String, Value)> {
        assert_eq!(self.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", self.text);
        let issues = self.json["detail"].as_array().expect("a list of issues");
        for issue in issues {
            let members: Vec<_> = issue.as_object().expect("an object").keys().collect();
            assert_eq!(members, ["type", "loc", "msg", "input"]);
        }
        issues
            .iter()
            .map(|it| (it["type"].as_str().expect("a kind").to_owned(), it["loc"].clone()))
            .collect()
    }

    #[track_caller]
    pub(crate) fn assert_is(&self, status: u16, json: Value) {
        assert_eq!((self.status.as_u16(), &self.json), (status, &json), "{}", self.text);
    }
}

/// Waits until at least so many statements on a database wait for a row or a table that is locked.
pub(crate) async fn blocked(db: &PgPool, statements: i64) {
    let sql = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let what = format!("{statements} statements wait for a lock of the database");
    eventually(&what, async || scalar::<i64>(db, sql).await, |it| *it >= statements).await;
}

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a test pauses between two observations, so that the observed processes get the processor.
const PAUSE: Duration = Duration::from_millis(2);

/// Observes a state until it is the expected one, and returns it. Fails after ten seconds with the last
/// state that was observed. The only function in which a test may sleep.
#[track_caller]
pub(crate) fn eventually<S: Debug>(
    what: &str,
    mut observe: impl AsyncFnMut() -> S,
    is_expected: impl Fn(&S) -> bool,
) -> impl Future<Output = S> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        // An observation that does not return must not outlast the limit either.
        while let Ok(state) = tokio::time::timeout_at(deadline, observe()).await {
            if is_expected(&state) {
                return state;
            }
            last = Some(state);
            if tokio::time::Instant::now() >= deadline {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{caller}: not within {PATIENCE:?}: {what}; last state: {last:?}");
    }
}

/// A JSON object with more members. A member that is there already is replaced.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    object.as_object_mut().expect("an object").extend(more);
    object
}

/// A random number generator (xorshift). A failing test shows its seed, which repeats the run.
pub(crate) struct Dice(u64);

impl Dice {
    /// Mixes the seed (splitmix64), so that consecutive seeds give unrelated numbers.
    pub(crate) fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The state of a xorshift generator must not be 0.
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// A number from 0 up to but not including `sides`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

/// A seed that no other run had.
pub(crate) fn new_seed() -> u64 {
    u64::from_le_bytes(*uuid::Uuid::new_v4().as_bytes().first_chunk().expect("8 bytes")) | 1
}

/// Sends a signal with the `kill` of the shell, because a minimal system has no program of that name.
pub(crate) fn signal(name: &str, pid: String) {
    let script = "kill -s \"$1\" \"$2\"";
    let sent = std::process::Command::new("sh").args(["-c", script, "sh", name, &pid]).status();
    assert!(sent.expect("the shell runs").success());
}
