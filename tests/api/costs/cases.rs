//! The operations whose costs are measured: the call, and what is done before and after it.
use serde_json::{Value, json};

use crate::support::with;

/// Something done before or after a measured call, which is not measured itself.
#[derive(Clone)]
pub(super) enum Step {
    /// Sends a request, which must be answered with 200.
    Ask(Ask),
    /// Executes a statement.
    Sql(String),
}

/// Method, path and body of a request.
pub(super) type Ask = (&'static str, &'static str, Value);

/// One measured call of an operation, which is repeated with increasing numbers.
pub(super) struct Case {
    /// The operation and the state of the database.
    pub(super) name: &'static str,
    /// What is done once.
    pub(super) prepare: fn() -> Vec<Step>,
    /// What is done before each call.
    pub(super) before: fn(usize) -> Vec<Step>,
    /// The call. Its argument is the latest answer of the steps before.
    pub(super) call: fn(usize, &Value) -> Ask,
    /// What is done after each call, with its answer.
    pub(super) after: fn(&Value) -> Vec<Step>,
    /// A member of the answer, or a JSON pointer (`/0/slot`), and its value, which prove that the call took
    /// the intended path.
    pub(super) answer: (&'static str, Value),
}

impl Case {
    fn new(
        name: &'static str,
        call: fn(usize, &Value) -> Ask,
        answer: (&'static str, Value),
    ) -> Self {
        Self { name, prepare: Vec::new, before: |_| vec![], call, after: |_| vec![], answer }
    }

    fn prepare(self, prepare: fn() -> Vec<Step>) -> Self {
        Self { prepare, ..self }
    }

    fn before(self, before: fn(usize) -> Vec<Step>) -> Self {
        Self { before, ..self }
    }

    fn after(self, after: fn(&Value) -> Vec<Step>) -> Self {
        Self { after, ..self }
    }
}

/// Agent `a`, who makes the measured calls, and agent `b`. Sessions `s` are registered; their heartbeats
/// are due only where a case says so.
pub(super) const SESSIONS: &str = "
    insert into agent_session (workspace, agent_id, session_id, agent_type, last_heartbeat_at)
    select 'default', agent, 's', 't', '2999-01-01' from unnest(array['a', 'b']) agent";

/// A thousand tasks that agent `a` may claim, with the guardrail verdict of an existing task.
const BACKLOG: &str = "
    insert into work_task (workspace, task_type, description, priority, submitted_by, guard_version,
        guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure)
    select 'default', 'kind-' || n % 7, 'd', 5, 'b', t.guard_version, 0, '[]', 0, 3, false
    from work_task t, generate_series(1, 1000) n";

/// A thousand memories of a dozen words, twenty of which the query finds.
const MEMORIES: &str = "
    insert into memory (workspace, agent_id, event_type, summary, summary_digest, details, lessons, tags)
    select 'default', 'b', 'discovery',
        format('Service %s retries connection %s after timeout %s in src/module_%s/client.rs%s',
            n % 31, n, n % 17, n % 97, case when n % 50 = 0 then ' because the pool is full' end),
        sha256(n::text::bytea), '{}', '{}', array['source:ci']
    from generate_series(1, 1000) n";

pub(super) fn all() -> Vec<Case> {
    [locks(), work(), memories(), others(), rarer()].into_iter().flatten().collect()
}

fn locks() -> Vec<Case> {
    let acquired = ("action", json!("acquired"));
    vec![
        Case::new("acquire a free key", |n, _| acquire("a", n), acquired.clone()),
        Case::new("acquire a key without a session", |n, _| acquire_in_none(n), acquired.clone()),
        Case::new("acquire a released key", |n, _| acquire("a", n), acquired)
            .before(|n| vec![Step::Ask(acquire("b", n)), Step::Ask(release("b", n))]),
        Case::new("refresh a lock", |_, _| acquire("a", 0), ("action", json!("refreshed")))
            .prepare(|| vec![Step::Ask(acquire("a", 0))]),
        Case::new(
            "acquire a held key",
            |_, _| acquire("a", 0),
            ("reason", json!("locked_by_other")),
        )
        .prepare(|| vec![Step::Ask(acquire("b", 0))]),
        Case::new("release a lock", |n, _| release("a", n), ("success", json!(true)))
            .before(|n| vec![Step::Ask(acquire("a", n))]),
        Case::new("verify a lock", |_, _| verify(), ("valid", json!(true)))
            .prepare(|| vec![Step::Ask(acquire("a", 0))]),
        Case::new("list 10 locks", |_, _| get("/locks"), ("count", json!(10)))
            .prepare(|| (0..10).map(|n| Step::Ask(acquire("b", n))).collect()),
        Case::new(
            "status of a lock",
            |_, _| get("/locks/status/src/module_0.rs"),
            ("locked", json!(true)),
        )
        .prepare(|| vec![Step::Ask(acquire("b", 0))]),
        Case::new(
            "free a lock of another",
            |_, _| ("DELETE", "/locks/src/module_0.rs", Value::Null),
            ("released", json!(true)),
        )
        .before(|_| vec![Step::Ask(acquire("b", 0))]),
    ]
}

fn acquire(agent: &str, n: usize) -> Ask {
    let body = json!({
        "file_path": format!("src/module_{n}.rs"), "agent_id": agent, "agent_type": "t",
        "session_id": "s", "reason": "refactor", "ttl_minutes": 30,
    });
    ("POST", "/locks/acquire", body)
}

/// A call that names no session looks for live sessions of its agent.
fn acquire_in_none(n: usize) -> Ask {
    let (method, path, mut body) = acquire("a", n);
    body["session_id"] = Value::Null;
    (method, path, body)
}

fn release(agent: &str, n: usize) -> Ask {
    ("POST", "/locks/release", body(agent, json!({ "file_path": format!("src/module_{n}.rs") })))
}

fn verify() -> Ask {
    let lock = json!({ "file_path": "src/module_0.rs", "fencing_token": 1 });
    ("POST", "/locks/verify", json!({ "locks": [lock] }))
}

fn work() -> Vec<Case> {
    let claimed = ("success", json!(true));
    let completed = ("status", json!("completed"));
    vec![
        Case::new("submit a task", |n, _| submit(n), ("action", json!("created"))),
        Case::new("claim 1 of 1,000 tasks", |_, _| claim(), claimed.clone())
            .prepare(|| [vec![Step::Ask(submit(0))], with_statistics(BACKLOG)].concat())
            .after(|claimed| vec![Step::Ask(complete(claimed))]),
        Case::new(
            "claim of an empty queue",
            |_, _| claim(),
            ("reason", json!("no_tasks_available")),
        ),
        Case::new("renew a claim", |_, claimed| renew(claimed), claimed)
            .prepare(|| vec![Step::Ask(submit(0)), Step::Ask(claim())]),
        Case::new("complete a task", |_, claimed| complete(claimed), completed)
            .before(|n| vec![Step::Ask(submit(n)), Step::Ask(claim())]),
        Case::new("fail a task", |_, claimed| fail(claimed), ("status", json!("failed")))
            .before(|n| vec![Step::Ask(submit(n)), Step::Ask(claim())]),
        Case::new("cancel a task", |_, submitted| cancel(submitted), ("success", json!(true)))
            .before(|n| vec![Step::Ask(submit(n))]),
        Case::new("submit 10 tasks", |n, _| submit_batch(n), ("success", json!(true))),
        Case::new("claim 10 of 1,000 tasks", |_, _| claim_batch(), ("success", json!(true)))
            .prepare(|| [vec![Step::Ask(submit(0))], with_statistics(BACKLOG)].concat())
            .after(|claimed| vec![Step::Ask(complete_batch(claimed))]),
        Case::new(
            "complete 10 tasks",
            |_, claimed| complete_batch(claimed),
            ("success", json!(true)),
        )
        .before(|n| vec![Step::Ask(submit_batch(n)), Step::Ask(claim_batch())]),
        Case::new("look at a task", |_, submitted| look_at(submitted), ("success", json!(true)))
            .prepare(|| vec![Step::Ask(submit(0))]),
        Case::new(
            "list 10 of 1,000 tasks",
            |_, _| get("/work?status=pending&limit=10"),
            ("count", json!(10)),
        )
        .prepare(|| [vec![Step::Ask(submit(0))], with_statistics(BACKLOG)].concat()),
    ]
}

fn fail(claimed: &Value) -> Ask {
    let report = json!({
        "task_id": claimed["task_id"], "claim_token": claimed["claim_token"], "success": false,
        "error_message": "the disk is full", "retry": false,
    });
    ("POST", "/work/complete", body("a", report))
}

fn cancel(submitted: &Value) -> Ask {
    ("POST", "/work/cancel", body("b", json!({ "task_id": submitted["task_id"] })))
}

fn submit_batch(n: usize) -> Ask {
    let task =
        |k: usize| json!({ "task_type": "test", "task_description": format!("run {n}.{k}") });
    let tasks: Vec<_> = (0..10).map(task).collect();
    ("POST", "/work/submit-batch", body("b", json!({ "tasks": tasks })))
}

fn claim_batch() -> Ask {
    ("POST", "/work/claim", body("a", json!({ "agent_type": "t", "count": 10 })))
}

fn complete_batch(claimed: &Value) -> Ask {
    let report = |task: &Value| json!({ "task_id": task["task_id"], "claim_token": task["claim_token"], "success": true });
    let tasks = claimed["tasks"].as_array().expect("tasks");
    let reports: Vec<_> = tasks.iter().map(report).collect();
    ("POST", "/work/complete-batch", body("a", json!({ "completions": reports })))
}

fn look_at(submitted: &Value) -> Ask {
    ("POST", "/work/get", json!({ "task_id": submitted["task_id"] }))
}

fn submit(n: usize) -> Ask {
    let task = json!({
        "task_type": "test", "task_description": format!("run suite {n}"),
        "input_data": { "suite": n }, "priority": 5,
    });
    ("POST", "/work/submit", body("b", task))
}

fn claim() -> Ask {
    ("POST", "/work/claim", body("a", json!({ "agent_type": "t" })))
}

fn renew(claimed: &Value) -> Ask {
    ("POST", "/work/renew", body("a", json!({ "task_id": claimed["task_id"] })))
}

fn complete(claimed: &Value) -> Ask {
    let report = json!({
        "task_id": claimed["task_id"], "claim_token": claimed["claim_token"], "success": true,
        "result": { "passed": 212 },
    });
    ("POST", "/work/complete", body("a", report))
}

fn memories() -> Vec<Case> {
    let merged = ("action", json!("deduplicated"));
    vec![
        Case::new("remember", |n, _| remember(n), ("action", json!("created"))),
        Case::new("remember again", |_, _| remember(0), merged)
            .prepare(|| vec![Step::Ask(remember(0))]),
        Case::new("recall among 1,000 memories", |_, _| recall(), ("count", json!(10)))
            .prepare(|| with_statistics(MEMORIES)),
    ]
}

fn remember(n: usize) -> Ask {
    let memory = json!({
        "event_type": "discovery", "tags": ["source:ci"], "lessons": ["close what you open"],
        "summary": format!("Service {n} exhausts its connection pool in src/module_{n}/client.rs"),
    });
    ("POST", "/memory/store", body("a", memory))
}

fn recall() -> Ask {
    (
        "POST",
        "/memory/query",
        body("a", json!({ "query": "connection pool full", "scope": "workspace", "limit": 10 })),
    )
}

fn others() -> Vec<Case> {
    let done = ("success", json!(true));
    vec![
        Case::new("check a harmless text", |_, _| check("git status"), ("safe", json!(true))),
        Case::new("check a dangerous text", |_, _| check("rm -rf /"), ("safe", json!(false))),
        Case::new("write a handoff", |n, _| write_handoff(n), done.clone()),
        Case::new("read 1 of 20 handoffs", |_, _| read_handoff(), ("count", json!(1)))
            .prepare(|| (0..20).map(|n| Step::Ask(write_handoff(n))).collect()),
        Case::new("register a session", |n, _| register(n), done.clone()),
        Case::new("register it again", |_, _| register(0), done.clone())
            .prepare(|| vec![Step::Ask(register(0))]),
        Case::new("heartbeat that is not due", |_, _| heartbeat(), done.clone()),
        Case::new("heartbeat that is due", |_, _| heartbeat(), done.clone()).before(|_| {
            let silent = "update agent_session
                set last_heartbeat_at = clock_timestamp() - interval '1 minute' where agent_id = 'a'";
            vec![Step::Sql(silent.to_owned())]
        }),
        Case::new("allocate ports", |_, _| ports("/ports/allocate"), done.clone())
            .after(|_| vec![Step::Ask(ports("/ports/release"))]),
        Case::new("release ports", |_, _| ports("/ports/release"), done.clone())
            .before(|_| vec![Step::Ask(ports("/ports/allocate"))]),
        Case::new(
            "list a block of ports",
            |_, _| get("/ports/status"),
            ("/0/session_id", json!("s")),
        )
        .prepare(|| vec![Step::Ask(ports("/ports/allocate"))]),
        Case::new("check a policy", |_, _| policy(), ("allowed", json!(true))),
        Case::new("check a domain", |_, _| domain(), ("allowed", json!(true))),
        Case::new("end a session that holds a lock", |_, _| deregister(), ("success", json!(true)))
            .before(|_| vec![Step::Ask(register(0)), Step::Ask(acquire_in("s-0"))]),
    ]
}

/// Lists and lookups of few rows, and operations of administrators.
fn rarer() -> Vec<Case> {
    let done = ("success", json!(true));
    vec![
        Case::new("list 2 agents", |_, _| get("/discovery/agents"), ("count", json!(2))),
        Case::new(
            "latest of 20 handoffs",
            |_, _| get("/handoffs/latest?limit=1"),
            ("count", json!(1)),
        )
        .prepare(|| (0..20).map(|n| Step::Ask(write_handoff(n))).collect()),
        Case::new("own profile", |_, _| get("/profiles/me"), ("reason", json!("no_profile_found"))),
        Case::new("list guardrail patterns", |_, _| get("/guardrails/patterns?limit=1"), one()),
        Case::new("list keys", |_, _| get("/keys?limit=1"), one()),
        Case::new("1 of 100 audit entries", |_, _| get("/audit?limit=1"), one())
            .prepare(|| (0..100).map(|n| Step::Ask(remember(n))).collect()),
        Case::new("assign a profile", |_, _| assign(), done.clone()),
        Case::new(
            "clean up nothing",
            |_, _| ("POST", "/discovery/cleanup", json!({})),
            done.clone(),
        ),
        Case::new("run maintenance of nothing", |_, _| maintain(), done),
    ]
}

fn one() -> (&'static str, Value) {
    ("count", json!(1))
}

fn get(path: &'static str) -> Ask {
    ("GET", path, Value::Null)
}

fn domain() -> Ask {
    ("POST", "/network/check", body("a", json!({ "domain": "github.com" })))
}

fn deregister() -> Ask {
    ("POST", "/discovery/deregister", json!({ "agent_id": "a", "session_id": "s-0" }))
}

fn acquire_in(session: &str) -> Ask {
    let (method, path, mut body) = acquire("a", 0);
    body["session_id"] = json!(session);
    (method, path, body)
}

fn assign() -> Ask {
    let profile = "claude_code_web_implementer";
    ("POST", "/profiles/assign", json!({ "target_agent_id": "b", "profile": profile }))
}

fn maintain() -> Ask {
    ("POST", "/maintenance/run", json!({ "tasks": ["sessions", "locks", "work", "ports"] }))
}

fn check(text: &str) -> Ask {
    ("POST", "/guardrails/check", body("a", json!({ "operation_text": text })))
}

fn write_handoff(n: usize) -> Ask {
    let handoff = json!({
        "summary": format!("parser {n} done"), "completed_work": ["lexer", "parser"],
        "next_steps": ["wire it up"], "relevant_files": ["src/parser.rs"],
    });
    ("POST", "/handoffs/write", body("a", handoff))
}

fn read_handoff() -> Ask {
    ("POST", "/handoffs/read", body("b", json!({ "agent_name": "a", "limit": 1 })))
}

fn register(n: usize) -> Ask {
    let session = json!({
        "agent_id": "a", "agent_type": "t", "session_id": format!("s-{n}"),
        "capabilities": ["rust", "review"], "current_task": "refactoring",
    });
    ("POST", "/discovery/register", session)
}

fn heartbeat() -> Ask {
    ("POST", "/discovery/heartbeat", body("a", json!({})))
}

fn ports(path: &'static str) -> Ask {
    ("POST", path, body("a", json!({})))
}

fn policy() -> Ask {
    let question = json!({
        "agent_type": "t", "operation": "acquire_lock", "resource": "src/main.rs",
    });
    ("POST", "/policy/check", body("a", question))
}

/// The body of a request of an agent in its session.
fn body(agent: &str, more: Value) -> Value {
    with(json!({ "agent_id": agent, "session_id": "s" }), more)
}

/// Rows as they are after autovacuum.
fn with_statistics(rows: &str) -> Vec<Step> {
    vec![Step::Sql(rows.to_owned()), Step::Sql("vacuum analyze".to_owned())]
}
