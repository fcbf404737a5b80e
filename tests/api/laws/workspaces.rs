//! The law that a workspace sees and changes nothing of another one, for every operation of the registry,
//! over every way in which it is reached.
//!
//! Each request is sent twice: with no other workspace in the database, and next to a workspace that holds
//! rows with the same ids. Both times the answer and the rows left behind must be the same, and the other
//! workspace must not change. The requests are the examples of all operations, and those of the table of
//! outcomes: every outcome of every write.
//!
//! One request may look over all workspaces: task `retention` of `run_maintenance`.
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use agent_coordinator::{App, Category, Config, capabilities, operation::Registered, router};
use regex::Regex;
use serde_json::{Value, json};

use super::{
    Asked, changed,
    outcomes::{self, Outcome},
    request,
};
use crate::{
    mcp::arguments,
    support::{Client, Service, config, with, with_more},
};

/// The workspace in which requests are judged.
const OWN: &str = "own";
/// The other one.
const OTHER: &str = "other";

/// The task that the examples name.
const TASK: &str = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";

/// Reads whose example is answered alike in an empty workspace and in the prepared one, each with its reason.
const SAME_ANSWER: [(&str, &str); 2] = [
    (
        "check_policy",
        "the native engine denies the operation of the example by the trust of the caller alone",
    ),
    ("validate_policy", "validates the text of the request and reads no row"),
];

/// Rows that no operation makes, or not without waiting.
const MORE_ROWS: &str = "
    insert into profile
        select (jsonb_populate_record(null::profile, to_jsonb(p) || jsonb '{\"workspace\": \"own\",
            \"max_file_modifications\": 7}')).*
        from profile p where p.workspace = 'default';
    insert into agent_assignment (workspace, agent_id, profile, suspended)
    values ('own', 'claude-1', 'claude_code_cli', false);
    insert into guardrail_pattern
        (workspace, name, list_order, category, severity, min_trust_level, pattern, explanation)
    values ('own', 'no_git_status', 1, 'git', 'block', 5, 'git status', 'not here');
    insert into domain_rule (workspace, pattern, action, priority)
    values ('own', 'api.github.com', 'deny', 1);
    insert into cedar_policy (workspace, name, priority, policy_text)
    values ('own', 'p', 1, 'permit (principal, action, resource);');
    insert into mcp_connection (workspace, agent_id, connection_id, session_id)
    values ('own', 'claude-1', 'the-connection', 's-1');
    insert into session_loss (workspace, agent_id, session_id, kind, name, token, since)
    values ('own', 'claude-1', 's-1', 'lock', 'src/lost.rs', '7', now());
    insert into mcp_call (workspace, id, agent_id, connection_id, request_id, started_at, due_at)
    values ('own', gen_random_uuid(), 'claude-1', 'c-1', '7', now(), now() + interval '1 minute');
    insert into lock_waiter (workspace, id, key, agent_id, agent_type, session_id, alive_until)
    values ('own', gen_random_uuid(), 'src/main.rs', 'claude-2', 't', 's-2', now() + interval '1 hour');
    insert into lock_token_floor (workspace, token) values ('own', 3);
    insert into quota_reached (workspace, kind, agent_id, counted_at)
    values ('own', 'tasks', 'claude-9', now());
    insert into memory_words (workspace, id, words)
        select workspace, id, 'one pool' from memory where workspace = 'own';
    insert into memory_without_words (workspace, id)
        select workspace, id from memory where workspace = 'own';
";

fn environment() -> [(&'static str, String); 4] {
    outcomes::environment(&[OWN, OTHER].map(str::to_owned))
}

/// Changes the state of the other workspace: its locks have had more holders, its sessions are live and due
/// for a heartbeat, and its pending tasks are completed. Adds what the own workspace does not have: a later
/// session and more locked files of each agent, a waiter for each lock, and a task with the id that the table
/// of outcomes uses for an unknown task.
const OTHER_STATE: &str = "
    update file_lock set token = token + 6 where workspace = 'other';
    update agent_session set last_heartbeat_at = clock_timestamp() - interval '1 hour',
        ended_at = null, revived_at = null
    where workspace = 'other';
    update port_block set expires_at = clock_timestamp() + interval '3 hours' where workspace = 'other';
    update work_task set status = 'completed', completed_at = clock_timestamp()
    where workspace = 'other' and status = 'pending';
    insert into work_task (
        workspace, id, task_type, description, priority, status, submitted_by, guard_version,
        guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure
    ) values ('other', '00000000-0000-0000-0000-000000000000', 't', 'd', 1, 'failed', 'sub', 'v', 0,
        '[]', 0, 3, false);
    insert into lock_waiter (workspace, id, key, agent_id, agent_type, alive_until)
        select workspace, gen_random_uuid(), key, 'waits-in-other', 't', now() + interval '1 hour'
        from file_lock where workspace = 'other';
    insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities)
        select 'other', agent, 'of-other', 't', '{other}'
        from unnest('{a,b,sub,boss,codex-1,claude-1}'::text[]) as agent;
    insert into file_lock
        (workspace, key, token, is_file, agent_id, agent_type, locked_at, expires_at)
        select 'other', agent || n, 1, true, agent, 't', now(), now() + interval '1 hour'
        from unnest('{a,b,sub,boss,codex-1,claude-1}'::text[]) as agent, generate_series(1, 3) as n;
";

/// How an operation is reached.
#[derive(Clone)]
enum Way {
    Route(&'static str),
    Tool(&'static str),
    Resource(&'static str),
}

/// A request of the example of an operation.
#[derive(Clone)]
struct Call {
    operation: Arc<Registered>,
    way: Way,
    /// Whether it is the first way to the operation.
    is_first: bool,
}

impl Call {
    fn name(&self) -> String {
        match &self.way {
            Way::Route(route) => (*route).to_owned(),
            Way::Tool(tool) => format!("tool {tool}"),
            Way::Resource(uri) => format!("resource {uri}"),
        }
    }

    async fn send(&self, client: &Client, workspace: &str) -> Value {
        let (key, agent) = match self.operation.meta.category {
            Category::Admin => (format!("boss-{workspace}"), "boss"),
            Category::Read | Category::Write => (format!("free-{workspace}"), "claude-1"),
        };
        let client = client.clone().header("x-api-key", &key).header("x-agent-id", agent);
        let mcp = async |method: &str, params: Value| {
            let client = client
                .clone()
                .header("accept", "application/json, text/event-stream")
                .header("content-type", "application/json")
                .header("mcp-session-id", "the-connection");
            let message = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
            client.post("/mcp?tools=all", message).await
        };
        let answer = match &self.way {
            Way::Route(route) => {
                let Asked { method, path, body } = request(route, &self.operation.example);
                client.send(method, &path, body).await
            }
            Way::Tool(name) => {
                let arguments = arguments(&self.operation);
                mcp("tools/call", json!({ "name": name, "arguments": arguments })).await
            }
            Way::Resource(uri) => mcp("resources/read", json!({ "uri": uri })).await,
        };
        json!({
            "status": answer.status.as_u16(),
            "replayed": answer.headers.contains_key("idempotent-replayed"),
            "body": answer.json,
        })
    }
}

/// Every operation, over every way.
fn calls() -> Vec<Call> {
    let operations = capabilities::all();
    let mut calls = Vec::new();
    for operation in operations.iter() {
        let routes = operation.meta.routes.iter().map(|it| Way::Route(it));
        let tools = operation.meta.tool.iter().map(|it| Way::Tool(it.name));
        let ways = routes.chain(tools).enumerate();
        calls.extend(ways.map(|(n, way)| {
            let is_first = n == 0;
            Call { operation: operation.clone(), way, is_first }
        }));
    }
    for resource in operations.resources() {
        let operation = operations.iter().find(|it| it.meta.id == resource.operation);
        let operation = operation.expect("the operation of a resource").clone();
        calls.push(Call { operation, way: Way::Resource(resource.uri), is_first: false });
    }
    calls
}

/// What the other workspace holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    Nothing,
    /// The same rows as the own workspace, or those of the prepared one.
    Same,
    /// Rows with the same ids but another state.
    Apart,
    /// The same rows, and the same request with the same idempotency key has been answered there.
    Asked,
}

/// A database in which the two workspaces are prepared again before each request.
struct Workspaces {
    service: Service,
    /// The rows of a prepared workspace, by table.
    prepared: Value,
    tables: Vec<(String, Vec<String>)>,
    blur: Blur,
}

impl Workspaces {
    async fn start() -> Self {
        // This process remembers nothing from one request to the next.
        let forget = |config: Config| {
            config
                .with_timings(|timings| timings.standing_max_age = Duration::ZERO)
                .with_timings(|timings| timings.heartbeat_interval = Duration::ZERO)
        };
        let variables = environment();
        let variables: Vec<_> = variables.iter().map(|(name, it)| (*name, it.as_str())).collect();
        let variables = [&variables[..], &[("GUARDRAILS_CACHE_TTL", "0")]].concat();
        let service = Service::configured(&variables, forget).await;
        service.execute(outcomes::FILE_LIMIT).await;
        prepare(&service).await;
        let prepared = service.contents_of(OWN).await;
        let tables = service.tables_of_workspaces().await;
        // The audit log refuses to be emptied: on this database it may be.
        service
            .execute(
                "do $$ declare part regclass; begin
                    for part in select relid from pg_partition_tree('audit_log') loop
                        execute format('alter table %s disable trigger user', part);
                    end loop;
                 end $$",
            )
            .await;
        let blur = Blur::new(prepared.to_string());
        Self { service, prepared, tables, blur }
    }

    /// Empties both workspaces and fills the named ones with the prepared rows.
    async fn reset(&self, filled: &[&str]) {
        let mut sql = String::new();
        for (table, _) in &self.tables {
            sql += &format!("delete from {table} where workspace in ('{OWN}', '{OTHER}');");
        }
        for workspace in filled {
            for (table, columns) in &self.tables {
                let read = columns.join(", ").replacen("workspace", &format!("'{workspace}'"), 1);
                sql += &format!(
                    "insert into {table} ({}) select {read}
                     from jsonb_populate_recordset(null::{table}, $rows${}$rows$);",
                    columns.join(", "),
                    self.prepared[table]
                );
            }
        }
        self.service.execute(&sql).await;
    }

    /// Gives the other workspace the same ids but another state, and writes the own rows again, so that a
    /// statement that takes the first row it finds is likely to find one of the other workspace.
    async fn set_apart(&self) {
        let mut sql = OTHER_STATE.to_owned();
        for (table, _) in &self.tables {
            sql += &format!("update {table} set workspace = workspace where workspace = '{OWN}';");
        }
        self.service.execute(&sql).await;
    }

    /// What a request in the own workspace is answered, which rows it leaves there, and which tables of
    /// the other workspace it changed.
    async fn observe(
        &self,
        call: &Call,
        is_filled: bool,
        other: Other,
        with_key: bool,
    ) -> (Value, Vec<String>) {
        let filled: &[&str] = match (is_filled, other) {
            (false, Other::Nothing) => &[],
            (true, Other::Nothing) => &[OWN],
            (false, _) => &[OTHER],
            (true, _) => &[OWN, OTHER],
        };
        self.reset(filled).await;
        if other == Other::Apart {
            self.set_apart().await;
        }
        let mut client = self.service.anonymous();
        if other == Other::Asked {
            // A process of its own: what it remembers of one workspace must not reach the other.
            let variables = environment();
            let variables: Vec<_> =
                variables.iter().map(|(name, it)| (*name, it.as_str())).collect();
            let app = App::new(config(&with_more(&self.service.url, &variables)));
            client = Client::new(router(app));
        }
        if with_key {
            client = client.header("idempotency-key", "the-key");
        }
        if other == Other::Asked {
            call.send(&client, OTHER).await;
        }
        let before = self.service.contents_of(OTHER).await;
        let answer = call.send(&client, OWN).await;
        let changed = changed(&before, &self.service.contents_of(OTHER).await);
        let rows = self.service.contents_of(OWN).await;
        (self.comparable(answer, rows), changed)
    }

    /// An answer and the rows of a workspace, without what differs between any two runs.
    fn comparable(&self, answer: Value, rows: Value) -> Value {
        let mut rows = self.blur.apply(rows);
        // Rows were sorted by ids that have been replaced.
        for table in rows.as_object_mut().expect("tables").values_mut() {
            if let Some(rows) = table.as_array_mut() {
                rows.sort_by_cached_key(Value::to_string);
            }
        }
        json!({ "answer": self.blur.apply(answer), "rows": rows })
    }

    /// Has an outcome come about in the own workspace. Finds the answer, the rows of the own workspace and
    /// which tables of the other one changed.
    async fn observe_outcome(&self, outcome: &Outcome, other: Other) -> (Value, Vec<String>) {
        self.reset(&[]).await;
        let mut stage = outcomes::Stage::new(&self.service, OWN);
        for step in &outcome.before {
            stage.take(step, &[]).await;
        }
        if other != Other::Nothing {
            stage.copy(OTHER).await;
        }
        if other == Other::Apart {
            self.set_apart().await;
        }
        let before = self.service.contents_of(OTHER).await;
        let answer = stage.take(&outcome.asked, &[]).await.expect("a request");
        let changed = changed(&before, &self.service.contents_of(OTHER).await);
        let answer = json!({ "status": answer.status.as_u16(), "body": answer.json });
        (self.comparable(answer, self.service.contents_of(OWN).await), changed)
    }

    /// Whether a request is answered alike in an empty workspace and in the prepared one.
    async fn ignores_rows(&self, call: &Call) -> bool {
        let (without, _) = self.observe(call, false, Other::Nothing, false).await;
        let (with, _) = self.observe(call, true, Other::Nothing, false).await;
        without["answer"] == with["answer"]
    }

    /// Every difference that the other workspace makes to a request.
    async fn interference(&self, call: &Call) -> Vec<String> {
        let mut found = Vec::new();
        for is_filled in [false, true] {
            for (other, with_key) in
                [(Other::Same, false), (Other::Apart, false), (Other::Asked, true)]
            {
                if with_key && !(call.is_first && call.operation.meta.idempotent()) {
                    continue;
                }
                let (alone, _) = self.observe(call, is_filled, Other::Nothing, with_key).await;
                let (beside, changed) = self.observe(call, is_filled, other, with_key).await;
                let what =
                    format!("{}, own workspace filled: {is_filled}, other: {other:?}", call.name());
                let answer = &alone["answer"];
                let is_success = answer["status"] == 200
                    && answer["body"]["result"]["isError"] != json!(true)
                    && !answer["body"]["error"].is_object();
                assert!(is_success, "{what}: {answer}");
                let mut differences = Vec::new();
                compare(&alone, &beside, "", &mut differences);
                if !differences.is_empty() {
                    found.push(format!("{what}: sees another workspace: {differences:#?}"));
                }
                if !changed.is_empty() {
                    found.push(format!("{what}: changes another workspace: {changed:?}"));
                }
            }
        }
        found
    }
}

/// Lists where two values differ.
fn compare(one: &Value, other: &Value, path: &str, differences: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(left), Value::Object(right)) => {
            let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for name in names {
                compare(&one[name], &other[name], &format!("{path}/{name}"), differences);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (n, (left, right)) in left.iter().zip(right).enumerate() {
                compare(left, right, &format!("{path}/{n}"), differences);
            }
        }
        _ if one != other => differences.push(format!("{path}: alone {one}, beside {other}")),
        _ => {}
    }
}

/// Replaces what differs between any two runs: times, durations, and ids and tokens drawn in the run.
struct Blur {
    /// The text in which the ids and tokens of the prepared rows are: these stay.
    known: String,
    time: Regex,
    duration: Regex,
    id: Regex,
}

impl Blur {
    fn new(known: String) -> Self {
        let pattern = |text| Regex::new(text).expect("a pattern");
        Self {
            known,
            time: pattern(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:\d\d)?)?"),
            duration: pattern(r#""duration_ms":\d+|\b\d+ ms|\b\d+\.\d{3,}"#),
            id: pattern(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|\b(c_)?[0-9a-f]{32}\b"),
        }
    }

    fn apply(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(all) => Value::Array(all.into_iter().map(|it| self.apply(it)).collect()),
            Value::Object(members) => {
                let kept = members.into_iter().filter(|(name, _)| name != "duration_ms");
                Value::Object(kept.map(|(name, it)| (name, self.apply(it))).collect())
            }
            // A fraction: how long something lasts from now on, or how new it is.
            Value::Number(it) if it.is_f64() => json!("(duration)"),
            other => other,
        }
    }

    fn text(&self, text: &str) -> String {
        let text = self.time.replace_all(text, "(time)");
        let text = self.duration.replace_all(&text, "(duration)");
        let replace = |found: &regex::Captures<'_>| {
            let is_known = self.known.contains(&found[0]);
            if is_known { found[0].to_owned() } else { "(id)".to_owned() }
        };
        self.id.replace_all(&text, replace).into_owned()
    }
}

/// Fills the own workspace with something of every kind, where the examples look for it.
async fn prepare(service: &Service) {
    let (client, admin) = (service.client_with("free-own"), service.client_with("boss-own"));
    let post = async |client: &Client, path: &str, more: Value| {
        let body =
            json!({ "agent_id": "claude-1", "agent_type": "claude_code", "session_id": "s-1" });
        let answer = client.post(path, with(body, more)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    };
    let keyed = client.clone().header("idempotency-key", "kept");
    post(&client, "/discovery/register", json!({ "capabilities": ["rust"] })).await;
    post(&keyed, "/locks/acquire", json!({ "file_path": "src/main.rs" })).await;
    let first = json!({ "task_type": "test", "task_description": "d" });
    let first = post(&client, "/work/submit", first).await["task_id"].clone();
    let second = json!({ "task_type": "test", "task_description": "d", "depends_on": [first],
        "unique_key": "unit-main" });
    post(&client, "/work/submit", second).await;
    post(&client, "/work/claim", json!({})).await;
    let third = json!({ "task_type": "test", "task_description": "d" });
    post(&client, "/work/submit", third).await;
    let memory = json!({ "event_type": "decision", "summary": "one pool", "tags": ["db"] });
    post(&client, "/memory/store", memory).await;
    post(&client, "/guardrails/check", json!({ "operation_text": "rm -rf /" })).await;
    post(&client, "/network/check", json!({ "domain": "api.github.com" })).await;
    post(&client, "/handoffs/write", json!({ "summary": "half done" })).await;
    post(&client, "/ports/allocate", json!({})).await;
    let target = json!({ "target_agent_id": "web-1", "suspended": true });
    post(&admin, "/profiles/assign", with(json!({ "agent_id": "", "agent_type": "" }), target))
        .await;
    service.execute(MORE_ROWS).await;
    let id = first.as_str().expect("an id");
    service
        .execute(&format!(
            "set session_replication_role = replica;
             update work_task set id = '{TASK}' where id = '{id}';
             update work_dependency set depends_on = '{TASK}' where depends_on = '{id}'"
        ))
        .await;
}

#[tokio::test]
async fn a_workspace_sees_and_changes_nothing_of_another_one() {
    let workspaces = Workspaces::start().await;
    let empty: Vec<_> =
        workspaces.tables.iter().filter(|(name, _)| workspaces.prepared[name].is_null()).collect();
    assert!(empty.is_empty(), "the prepared workspace has no row in {empty:?}");
    let mut found = Vec::new();
    let mut operations = BTreeSet::new();
    for call in calls() {
        operations.insert(call.operation.meta.id);
        found.extend(workspaces.interference(&call).await);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    let all: BTreeSet<_> = capabilities::all().iter().map(|it| it.meta.id).collect();
    assert_eq!(operations, all);
}

#[tokio::test]
async fn no_outcome_of_a_write_depends_on_another_workspace() {
    let workspaces = Workspaces::start().await;
    let mut found = Vec::new();
    for outcome in outcomes::outcomes() {
        if outcome.covers_all_workspaces() {
            continue;
        }
        let (alone, _) = workspaces.observe_outcome(&outcome, Other::Nothing).await;
        for other in [Other::Same, Other::Apart] {
            let (beside, mut differences) = workspaces.observe_outcome(&outcome, other).await;
            compare(&alone, &beside, "", &mut differences);
            if !differences.is_empty() {
                found.push(format!("{} {}: {differences:#?}", outcome.operation, outcome.name));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test]
async fn a_read_finds_rows_of_the_prepared_workspace() {
    // The answer of a read that finds nothing would not show rows of another workspace.
    let workspaces = Workspaces::start().await;
    let mut faults = Vec::new();
    for call in calls().iter().filter(|it| it.operation.meta.category == Category::Read) {
        let id = call.operation.meta.id;
        let is_exempt = SAME_ANSWER.iter().any(|(name, _)| *name == id);
        match (workspaces.ignores_rows(call).await, is_exempt) {
            (true, false) => faults.push(format!(
                "`{id}` ({}) answers the same with and without MORE_ROWS and the rows of `prepare`: add a row \
                 that it finds, or name it with the reason in SAME_ANSWER of tests/api/laws/workspaces.rs",
                call.name()
            )),
            (false, true) => faults.push(format!("`{id}` finds a row: remove it from SAME_ANSWER")),
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for (id, reason) in SAME_ANSWER {
        let is_known = capabilities::all().iter().any(|it| it.meta.id == id);
        assert!(is_known, "there is no operation {id}: {reason}");
    }
}

/// Functions, the filter that is taken out of each, the request that must notice, and how.
const BROKEN: [(&str, &str, &str, &str); 3] = [
    ("release_lock", "l.workspace = in_workspace", "POST /locks/release", "sees another workspace"),
    (
        "free_unchanged_lock",
        "l.workspace = in_workspace",
        "POST /locks/release",
        "changes another workspace",
    ),
    (
        "deregister_session",
        "s.workspace = in_workspace",
        "POST /discovery/deregister",
        "sees another workspace",
    ),
];

#[tokio::test]
async fn a_function_without_its_filter_by_workspace_is_noticed() {
    let workspaces = Workspaces::start().await;
    for (function, filter, request, how) in BROKEN {
        let definition = format!("select pg_get_functiondef('{function}'::regproc)");
        let definition: String = workspaces.service.scalar(&definition).await;
        let both = filter.replace("= in_workspace", "in ('own', 'other')");
        let broken = definition.replace(filter, &both);
        assert_ne!(broken, definition, "{function} has no {filter}");
        workspaces.service.execute(&broken).await;
        let call = calls().into_iter().find(|it| it.name() == request).expect("a request");
        let found = workspaces.interference(&call).await;
        assert!(found.iter().any(|it| it.contains(how)), "{function}: {found:#?}");
        workspaces.service.execute(&definition).await;
    }
}
