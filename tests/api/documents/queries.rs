//! The SQL queries of docs/operating.md: each finds what the API answers about the same database. The
//! database holds locks, tasks and sessions in every state, so that a query that forgets a state fails.
use std::collections::BTreeMap;

use chrono::DateTime;
use futures_util::future::join;
use serde_json::{Value, json};

use super::blocks;
use crate::support::{BOSS, Client, REVIEWER, Service, blocked, execute, scalar, with};

const REQUEST: &str = "the-request-id";

/// Words of each query that no other query contains.
const LOCKS: &str = "from file_lock";
const REFUSED: &str = "operation = 'acquire_lock'";
const QUEUE: &str = "as oldest";
const BLOCKED: &str = "as waits_for";
const LOST: &str = "where is_claim_expired(";
const FAILED: &str = "task_expiry_reason(";
const AGENTS: &str = "from agent_session";
const DENIED: &str = "operation = 'policy_decision'";
const GUARDRAILS: &str = "from guardrail_violation";
const ONE_REQUEST: &str = "request_id = 'the-request-id'";
const SPEED: &str = "percentile_cont";
const ACTIVITY: &str = "pg_blocking_pids";
const CONNECTIONS: &str = "max_connections";
const SIZES: &str = "pg_total_relation_size";
const DEAD_ROWS: &str = "n_dead_tup";
const MIGRATIONS: &str = "from _sqlx_migrations";
const RIGHTS: &str = "from service_tables()";
const RETENTION: &str = "from audit_retention";
const QUOTAS: &str = "from quota_reached";
const OVER_QUOTA: &str = "'quota_exceeded: %'";

const ALL: [&str; 20] = [
    LOCKS,
    REFUSED,
    QUEUE,
    BLOCKED,
    LOST,
    FAILED,
    AGENTS,
    DENIED,
    GUARDRAILS,
    ONE_REQUEST,
    SPEED,
    ACTIVITY,
    CONNECTIONS,
    SIZES,
    DEAD_ROWS,
    MIGRATIONS,
    RIGHTS,
    RETENTION,
    QUOTAS,
    OVER_QUOTA,
];

/// The one query that contains these words.
fn query(words: &str) -> &'static str {
    let found: Vec<_> = blocks("sql").into_iter().filter(|it| it.contains(words)).collect();
    let [query] = found[..] else { panic!("{words} in {found:#?}") };
    query.trim_end().trim_end_matches(';')
}

/// These members of each of the objects. Timestamps are microseconds: the database writes their fraction
/// without trailing zeros, the API with six digits.
fn columns(rows: &[Value], names: &[&str]) -> Vec<Vec<Value>> {
    let comparable = |value: &Value| {
        let time = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        time.map_or_else(|| value.clone(), |time| json!(time.timestamp_micros()))
    };
    let row = |row: &Value| names.iter().map(|name| comparable(&row[*name])).collect();
    rows.iter().map(row).collect()
}

#[test]
fn a_time_is_the_same_with_and_without_trailing_zeros() {
    let rows = ["2026-11-30T09:26:26.59309+00:00", "2026-11-30T09:26:26.593090+00:00"]
        .map(|time| json!({ "locked_at": time }));
    let times = columns(&rows, &["locked_at"]);
    assert_eq!(times[0], times[1]);
}

fn sorted(mut rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    rows.sort_by_key(|row| json!(row).to_string());
    rows
}

/// How often each row occurs, as a last column.
fn counted(rows: Vec<Vec<Value>>) -> Vec<Vec<Value>> {
    let mut counts = BTreeMap::new();
    for row in rows {
        counts.entry(json!(row).to_string()).or_insert_with(|| (row, 0)).1 += 1;
    }
    counts.into_values().map(|(row, count)| [row, vec![json!(count)]].concat()).collect()
}

/// A service in use, and the requests that tell what it holds.
struct Operated {
    service: Service,
    client: Client,
}

impl Operated {
    /// Without the sweep, which would change what time has left behind.
    async fn start() -> Self {
        let service = Service::with(&[("SLEEP_FRIENDLY", "true")]).await;
        let client = service.client().header("x-request-id", REQUEST);
        let operated = Self { service, client };
        operated.use_sessions_and_locks().await;
        operated.use_tasks().await;
        operated.be_refused().await;
        operated.let_time_pass().await;
        operated
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.client.post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    /// Sessions that stay active, become idle and fall silent, one that ends, and locks of each; a lock
    /// that expires, one that is released, and one for which another agent waits.
    async fn use_sessions_and_locks(&self) {
        for (agent, session) in
            [("active", "s-1"), ("idle", "s-2"), ("silent", "s-3"), ("gone", "s-4")]
        {
            let body = json!({ "agent_id": agent, "agent_type": "t", "session_id": session });
            self.post("/discovery/register", body).await;
            let lock = json!({ "session_id": session, "reason": "work" });
            self.client.acquire(agent, &format!("lock of {agent}"), lock).await;
        }
        let ended = json!({ "agent_id": "gone", "session_id": "s-4" });
        self.post("/discovery/deregister", ended).await;
        self.client.acquire("late", "expired", json!({})).await;
        self.client.acquire("late", "released", json!({})).await;
        self.client.release("late", "released", json!({})).await;
        self.service
            .execute(
                "insert into lock_waiter (workspace, id, key, agent_id, agent_type, alive_until)
                 values ('default', gen_random_uuid(), 'lock of active', 'waiter', 't', now() + interval '1 hour')",
            )
            .await;
    }

    /// A task in each state, named by its type.
    async fn use_tasks(&self) {
        let submit = async |name: &str, more: Value| {
            let task = json!({ "task_type": name, "agent_id": "submitter" });
            self.client.submit(with(task, more)).await
        };
        let claim = async |name: &str, agent: &str, session: Value| {
            let more = json!({ "task_types": [name], "session_id": session });
            assert_eq!(self.client.claim(agent, more).await["success"], true, "{name}");
        };
        let pending = submit("pending", json!({})).await;
        submit("blocked by a pending task", json!({ "depends_on": [pending] })).await;
        submit("delayed", json!({ "not_before": "2999-01-01T00:00:00Z" })).await;
        submit("overdue", json!({ "deadline": "2999-01-01T00:00:00Z" })).await;
        for name in ["claimed", "running", "completed", "failed", "cancelled", "lease ended"] {
            let id = submit(name, json!({})).await;
            claim(name, "active", json!("s-1")).await;
            let report = json!({ "agent_id": "active", "task_id": id });
            match name {
                "running" => drop(self.post("/work/renew", report).await),
                "completed" => drop(self.client.complete("active", &id, json!({})).await),
                "failed" => {
                    let failure = json!({ "success": false, "error_message": "broken" });
                    self.client.complete("active", &id, failure).await;
                    submit("blocked by a failed task", json!({ "depends_on": [id] })).await;
                }
                "cancelled" => {
                    let cancel = json!({ "agent_id": "submitter", "task_id": id });
                    self.post("/work/cancel", cancel).await;
                }
                _ => {}
            }
        }
        submit("session lost", json!({})).await;
        claim("session lost", "silent", json!("s-3")).await;
        submit("out of attempts", json!({ "max_attempts": 1 })).await;
        claim("out of attempts", "active", json!("s-1")).await;
    }

    /// Refused acquires of two keys, destructive texts and denials.
    async fn be_refused(&self) {
        for (agent, key) in
            [("one", "lock of active"), ("two", "lock of active"), ("one", "lock of idle")]
        {
            let refused = self.client.acquire(agent, key, json!({})).await;
            assert_eq!(refused["reason"], "locked_by_other");
        }
        for (path, body) in [
            ("/locks/acquire", json!({ "file_path": "k", "agent_id": "", "agent_type": "" })),
            ("/work/submit", json!({ "task_type": "t", "task_description": "d" })),
        ] {
            let denied = self.service.client_with(REVIEWER).post(path, body).await;
            assert_eq!(denied.status, 403, "{path}: {}", denied.text);
        }
    }

    /// No request of the silent agent can come after this: it would revive the session.
    async fn let_time_pass(&self) {
        self.service.expire("expired").await;
        self.service
            .execute(
                "update agent_session set last_heartbeat_at = now() - interval '1 day'
                 where agent_id = 'silent';
                 update agent_session set last_heartbeat_at = now() - interval '1 hour'
                 where agent_id = 'idle';
                 update work_task set claim_expires_at = now(), lease_expires_at = now()
                 where task_type in ('lease ended', 'session lost', 'out of attempts');
                 update work_task set deadline = now() where task_type = 'overdue'",
            )
            .await;
    }

    async fn found(&self, words: &str) -> Vec<Value> {
        self.service.rows(query(words)).await
    }

    /// A list that the API answers.
    async fn listed(&self, path: &str, member: &str) -> Vec<Value> {
        let answer = self.service.client().get(path).await;
        assert_eq!(answer.json["truncated"], false, "{path}: {}", answer.text);
        answer.json[member].as_array().expect("a list").clone()
    }

    async fn tasks(&self) -> Vec<Value> {
        self.listed("/work?limit=500", "tasks").await
    }

    async fn audit(&self, filter: &str) -> Vec<Value> {
        self.listed(&format!("/audit?limit=500&{filter}"), "entries").await
    }
}

#[test]
fn every_query_for_operators_is_compared_with_the_api() {
    let compared: Vec<_> = ALL.iter().map(|words| query(words)).collect();
    for block in blocks("sql") {
        assert!(compared.iter().any(|it| block.starts_with(it)), "no test runs {block}");
    }
}

#[tokio::test]
async fn the_query_for_locks_finds_those_that_the_api_lists() {
    let operated = Operated::start().await;
    let locks = operated.listed("/locks", "locks").await;
    let expected =
        columns(&locks, &["file_path", "locked_by", "agent_type", "reason", "locked_at"]);
    let keys: Vec<_> = sorted(expected.clone()).into_iter().map(|it| it[0].clone()).collect();
    assert_eq!(keys, ["lock of active", "lock of idle"]);
    let found = operated.found(LOCKS).await;
    let found = columns(&found, &["key", "agent_id", "agent_type", "reason", "locked_at"]);
    assert_eq!(sorted(found), sorted(expected));
}

#[tokio::test]
async fn the_query_for_contended_keys_counts_refused_acquires() {
    let operated = Operated::start().await;
    let refused = operated.audit("operation=acquire_lock&success=false").await;
    let keys = refused.iter().map(|it| vec![it["parameters"]["file_path"].clone()]).collect();
    let expected = counted(keys);
    assert_eq!(
        expected,
        [vec![json!("lock of active"), json!(2)], vec![json!("lock of idle"), json!(1)]]
    );
    let found = operated.found(REFUSED).await;
    assert_eq!(sorted(columns(&found, &["key", "refused"])), expected);
    assert_eq!(columns(&found, &["agents"]), [[2], [1]]);
}

#[tokio::test]
async fn the_query_for_the_queue_counts_the_open_tasks_of_the_api() {
    let operated = Operated::start().await;
    let tasks = columns(&operated.tasks().await, &["task_type", "status"]);
    let is_open =
        |it: &Vec<Value>| ["pending", "claimed", "running"].iter().any(|open| it[1] == *open);
    let expected = counted(tasks.into_iter().filter(is_open).collect());
    let found = operated.found(QUEUE).await;
    assert_eq!(sorted(columns(&found, &["task_type", "status", "tasks"])), sorted(expected));
}

#[tokio::test]
async fn the_query_for_blocked_tasks_finds_those_with_open_dependencies() {
    let operated = Operated::start().await;
    let mut expected = Vec::new();
    for task in operated.tasks().await {
        for blocker in task["blocked_by"].as_array().expect("a list") {
            let row = [&task["id"], &task["task_type"], &blocker["id"], &blocker["status"]];
            expected.push(row.map(Clone::clone).to_vec());
        }
    }
    assert_eq!(expected.len(), 2, "{expected:?}");
    let found = operated.found(BLOCKED).await;
    let found = columns(&found, &["id", "task_type", "waits_for", "status"]);
    assert_eq!(sorted(found), sorted(expected));
}

#[tokio::test]
async fn the_query_for_lost_claims_finds_what_can_be_claimed_again_or_is_out_of_attempts() {
    let operated = Operated::start().await;
    let found = operated.found(LOST).await;
    let found = sorted(columns(&found, &["task_type", "claimed_by", "attempt", "max_attempts"]));
    let mut expected = Vec::new();
    for task in operated.tasks().await {
        let is_out = task["error_message"] == "max_attempts_exceeded";
        let claim = json!({ "task_types": [task["task_type"]] });
        if is_out || operated.client.claim("next", claim).await["attempt"] == 2 {
            let names = ["task_type", "claimed_by", "attempt", "max_attempts"];
            expected.extend(columns(&[task], &names));
        }
    }
    assert_eq!(expected.len(), 3, "{expected:?}");
    assert_eq!(found, sorted(expected));
}

#[tokio::test]
async fn the_query_for_failures_counts_the_failed_tasks_of_the_api() {
    let operated = Operated::start().await;
    let failed = operated.listed("/work?status=failed", "tasks").await;
    let expected = counted(columns(&failed, &["task_type", "error_message"]));
    let types: Vec<_> = expected.iter().map(|it| it[0].clone()).collect();
    assert_eq!(types, ["failed", "out of attempts", "overdue"]);
    let found = operated.found(FAILED).await;
    assert_eq!(sorted(columns(&found, &["task_type", "error_message", "tasks"])), sorted(expected));
}

#[tokio::test]
async fn the_query_for_agents_finds_the_sessions_that_the_api_lists() {
    let operated = Operated::start().await;
    let names = ["agent_id", "session_id", "agent_type", "status"];
    let agents = operated.listed("/discovery/agents", "agents").await;
    let expected = sorted(columns(&agents, &names));
    let statuses: Vec<_> = expected.iter().map(|it| it[3].clone()).collect();
    assert_eq!(statuses, ["active", "idle"]);
    assert_eq!(sorted(columns(&operated.found(AGENTS).await, &names)), expected);
}

#[tokio::test]
async fn the_query_for_denials_counts_those_in_the_audit_log() {
    let operated = Operated::start().await;
    let denied = operated.audit("operation=policy_decision&success=false").await;
    let row = |it: &Value| {
        vec![
            it["agent_id"].clone(),
            it["parameters"]["operation"].clone(),
            it["result"]["reason"].clone(),
        ]
    };
    let expected = counted(denied.iter().map(row).collect());
    assert_eq!(expected.len(), 2, "{expected:?}");
    let found = operated.found(DENIED).await;
    let found = columns(&found, &["agent_id", "operation", "reason", "denials"]);
    assert_eq!(sorted(found), sorted(expected));
}

#[tokio::test]
async fn the_query_for_guardrails_counts_what_checks_have_found() {
    let operated = Operated::start().await;
    let mut violations = Vec::new();
    for text in ["rm -rf /", "git push --force", "rm -rf /"] {
        let checked = operated.post("/guardrails/check", json!({ "operation_text": text })).await;
        violations.extend(checked["violations"].as_array().expect("a list").clone());
    }
    let names = ["pattern_name", "severity", "blocked"];
    let expected = counted(columns(&violations, &names));
    let found = operated.found(GUARDRAILS).await;
    let found = columns(&found, &["pattern_name", "severity", "blocked", "found"]);
    assert_eq!(sorted(found), sorted(expected));
}

#[tokio::test]
async fn the_query_for_one_request_finds_its_entries_of_the_audit_log() {
    let operated = Operated::start().await;
    let names =
        ["agent_id", "session_id", "operation", "success", "error_message", "parameters", "result"];
    let expected = columns(&operated.audit(&format!("request_id={REQUEST}")).await, &names);
    assert!(!expected.is_empty());
    let found = columns(&operated.found(ONE_REQUEST).await, &names);
    assert_eq!(sorted(found), sorted(expected));
}

#[tokio::test]
async fn the_query_for_speed_counts_the_calls_in_the_audit_log() {
    let operated = Operated::start().await;
    let expected = counted(columns(&operated.audit("").await, &["operation"]));
    let found = operated.found(SPEED).await;
    assert_eq!(sorted(columns(&found, &["operation", "calls"])), sorted(expected));
    assert!(found.iter().all(|it| it["median_ms"].as_f64() <= it["p99_ms"].as_f64()), "{found:?}");
}

#[tokio::test]
async fn the_query_for_activity_names_who_blocks_a_statement() {
    let service = Service::start().await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    service.expire("k").await;
    let mut rival = service.db.begin().await.expect("a transaction");
    let pid: i32 = scalar(&mut *rival, "select pg_backend_pid()").await;
    execute(&mut *rival, "select 1 as one from file_lock where workspace = 'default' for update")
        .await;
    let look = async {
        blocked(&service.db, 1).await;
        let found = service.rows(query(ACTIVITY)).await;
        rival.rollback().await.expect("rolled back");
        found
    };
    let (acquired, found) = join(client.acquire("b", "k", json!({})), look).await;
    assert_eq!(acquired["action"], "acquired");
    let found: Vec<_> = found.iter().filter(|it| it["blocked_by"] == json!([pid])).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0]["state"], &found[0]["wait_event_type"]),
        (&json!("active"), &json!("Lock"))
    );
}

#[tokio::test]
async fn the_queries_for_the_database_find_the_service() {
    let service = Service::start().await;
    assert_eq!(service.client_with(BOSS).get("/locks").await.status, 200);
    let found = service.rows(query(CONNECTIONS)).await;
    let own: Vec<_> =
        found.iter().filter(|it| it["application_name"] == "agent-coordinator").collect();
    let most: String = service.scalar("show max_connections").await;
    assert!(!own.is_empty() && own.iter().all(|it| it["most"] == most), "{found:?}");

    let tables: Vec<String> =
        service.tables_of_workspaces().await.into_iter().map(|it| it.0).collect();
    for words in [SIZES, DEAD_ROWS] {
        let found = service.rows(query(words)).await;
        let is_own = |it: &&Value| tables.iter().any(|table| it["relname"] == **table);
        assert!(found.iter().any(|it| is_own(&it)), "{words}: {found:?}");
    }

    let found = service.rows(query(MIGRATIONS)).await;
    let applied: Vec<_> =
        found.iter().map(|it| it["version"].as_i64().expect("a number")).collect();
    let migrator = agent_coordinator::schema().migrator;
    let mut expected: Vec<_> = migrator.iter().map(|it| it.version).collect();
    expected.reverse();
    expected.truncate(10);
    assert_eq!(applied, expected);
    assert!(found.iter().all(|it| it["success"] == true), "{found:?}");
}

#[tokio::test]
async fn the_queries_for_rights_find_roles_and_retention() {
    let service = Service::start().await;
    let owner: String = service.scalar("select current_user::text").await;
    let found = columns(&service.rows(query(RIGHTS)).await, &["role"]);
    // Where nothing was granted, only the owner has rights, and the catalogue lists none.
    assert!(found.iter().all(|it| it[0] == owner), "{found:?}");
    service.execute("grant insert on file_lock to public").await;
    let found = columns(&service.rows(query(RIGHTS)).await, &["role", "tables", "rights"]);
    assert!(found.contains(&vec![json!("PUBLIC"), json!(1), json!("INSERT")]), "{found:?}");
    assert_eq!(service.rows(query(RETENTION)).await, [json!({ "days": 90 })]);
}

#[tokio::test]
async fn the_queries_for_quotas_find_who_has_reached_one_and_how_often_each_was_refused() {
    let service = Service::with(&[("QUOTA_LOCKS_PER_AGENT", "1")]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let refused = client.acquire("a", "l", json!({})).await;
    client.acquire("a", "m", json!({})).await;
    client.acquire("b", "k", json!({})).await;
    let reached = service.rows(query(QUOTAS)).await;
    let reached = columns(&reached, &["workspace", "kind", "agent_id"]);
    assert_eq!(reached, [[json!("default"), json!("locks"), json!("a")]]);
    let found = service.rows(query(OVER_QUOTA)).await;
    let found = columns(&found, &["workspace", "agent_id", "operation", "reason", "count"]);
    let reason = refused["reason"].clone();
    assert_eq!(found, [[json!("default"), json!("a"), json!("acquire_lock"), reason, json!(2)]]);
}
