//! Quotas: an agent and a workspace can have only so much of each kind, and are told why there is no more.
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use serde_json::{Value, json};

use crate::{
    mcp::Mcp,
    processes::{Running, request},
    support::{Client, FREE, Service, TEAM, with_more},
};

/// What a quota counts.
struct Kind {
    /// The variables begin with this name, and the limit is named after it.
    name: &'static str,
    /// What a refusal calls it.
    counted: &'static str,
    /// Asks for one more of the kind, and returns the reason of a refusal.
    ask: fn(&Client, &'static str, usize) -> BoxFuture<'static, Option<String>>,
    /// The name of the audit row, if there is one.
    recorded: Option<&'static str>,
    /// Statements of which each takes one from agent `a` in workspace `default`, as an operation or time can.
    frees: &'static [&'static str],
}

const KINDS: [Kind; 7] = [
    Kind {
        name: "LOCKS",
        counted: "live locks",
        ask: |client, agent, n| {
            let body =
                json!({ "file_path": format!("{agent}{n}"), "agent_id": agent, "agent_type": "t" });
            ask(client.clone(), "/locks/acquire", body)
        },
        recorded: Some("acquire_lock"),
        frees: &["update file_lock set expires_at = now() where key = 'a0'"],
    },
    Kind {
        name: "SESSIONS",
        counted: "live sessions",
        ask: |client, agent, n| {
            let body =
                json!({ "session_id": format!("s{n}"), "agent_id": agent, "agent_type": "t" });
            ask(client.clone(), "/discovery/register", body)
        },
        recorded: Some("register_agent"),
        frees: &["update agent_session set last_heartbeat_at = now() - interval '121 minutes'
             where agent_id = 'a' and session_id = 's0'"],
    },
    Kind {
        name: "TASKS",
        counted: "open tasks",
        ask: |client, agent, n| {
            let body = json!({ "task_type": "t", "task_description": format!("{agent}{n}"),
                "deadline": "2999-01-01T00:00:00Z" });
            ask(client.clone().header("x-agent-id", agent), "/work/submit", body)
        },
        recorded: Some("submit_task"),
        frees: &[
            "update work_task set deadline = now() - interval '1 second'
             where workspace = 'default' and description = 'a0'",
            "update work_task set status = 'completed', completed_at = now()
             where workspace = 'default' and description = 'a1'",
        ],
    },
    Kind {
        name: "MEMORIES",
        counted: "memories",
        ask: |client, agent, n| {
            let body =
                json!({ "agent_id": agent, "event_type": "t", "summary": format!("{agent}{n}") });
            ask(client.clone(), "/memory/store", body)
        },
        recorded: Some("remember"),
        frees: &["delete from memory where workspace = 'default' and summary = 'a0'"],
    },
    Kind {
        name: "HANDOFFS",
        counted: "handoffs",
        ask: |client, agent, n| {
            let body = json!({ "agent_id": agent, "summary": format!("{agent}{n}") });
            ask(client.clone(), "/handoffs/write", body)
        },
        recorded: Some("write_handoff"),
        frees: &["delete from handoff where workspace = 'default' and summary = 'a0'"],
    },
    Kind {
        name: "IDEMPOTENCY_KEYS",
        counted: "idempotency keys",
        ask: |client, agent, n| {
            let client = client.clone().header("idempotency-key", &format!("{agent}{n}"));
            ask(client, "/handoffs/write", json!({ "agent_id": agent, "summary": "x" }))
        },
        recorded: Some("write_handoff"),
        frees: &["update idempotency_key set created_at = now() - interval '25 hours'
             where workspace = 'default' and key = 'a0'"],
    },
    Kind {
        name: "MCP_CONNECTIONS",
        counted: "MCP connections",
        ask: |client, agent, n| {
            let client = Mcp::new(client.clone())
                .header("x-agent-id", agent)
                .header("mcp-session-id", &format!("00000000-0000-4000-8000-{n:012}"));
            async move {
                let answer = client.client.delete("/mcp").await;
                assert!([204, 429].contains(&answer.status.as_u16()), "{}", answer.text);
                answer.json["detail"].as_str().map(str::to_owned)
            }
            .boxed()
        },
        recorded: None,
        frees: &["delete from mcp_connection where workspace = 'default' and agent_id = 'a'
            and connection_id like '%0'"],
    },
];

/// Sends a request, and returns the reason of a refusal.
fn ask(client: Client, path: &'static str, body: Value) -> BoxFuture<'static, Option<String>> {
    async move {
        let answer = client.post(path, body).await;
        let reason = match answer.status.as_u16() {
            200 if answer.json["success"] == true => return None,
            200 if answer.json["reason"].is_string() => &answer.json["reason"],
            200 => &answer.json["error"],
            429 => &answer.json["detail"],
            status => panic!("{status} {}", answer.text),
        };
        Some(reason.as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned())
    }
    .boxed()
}

impl Kind {
    fn variable(&self, per: &str) -> String {
        format!("QUOTA_{}_PER_{}", self.name, per.to_uppercase())
    }

    /// The reason of a refusal by the quota `limit` per `per`.
    fn reason(&self, per: &str, limit: usize) -> String {
        format!("quota_exceeded: {} per {per}, {limit}; {}", self.counted, self.variable(per))
    }

    /// Checks that agent `a` is refused its thing number `n`, and that this is recorded and counted.
    async fn assert_refused(&self, service: &Service, n: usize, reason: &str) {
        let client = service.client();
        let reached = format!(
            "coordinator_limits_reached_total{{limit=\"quota_{}\"}} ",
            self.name.to_lowercase()
        );
        let count = async || {
            let metrics = client.get("/metrics").await.text;
            let count = metrics.lines().find_map(|line| line.strip_prefix(&reached));
            count.expect("the counter").parse::<u64>().expect("a number")
        };
        let (rows, counted) = (service.audit_rows().await, count().await);
        assert_eq!((self.ask)(&client, "a", n).await.as_deref(), Some(reason));
        assert_eq!(count().await, counted + 1, "{}", self.name);
        let Some(operation) = self.recorded else { return };
        assert_eq!(service.audit_rows().await, rows + 1, "{}", self.name);
        let row = service.last_audit().await;
        assert_eq!([&row["operation"], &row["agent_id"]], [operation, "a"]);
        assert_eq!((&row["success"], &row["result"]["reason"]), (&json!(false), &json!(reason)));
    }
}

#[tokio::test]
async fn an_agent_has_as_much_as_its_quota_and_is_told_why_there_is_no_more() {
    const QUOTA: usize = 3;
    for kind in KINDS {
        let service = Service::with(&[(&*kind.variable("agent"), "3")]).await;
        let client = service.client();
        for n in 0..QUOTA {
            assert_eq!((kind.ask)(&client, "a", n).await, None, "{} {n}", kind.name);
        }
        let reason = kind.reason("agent", QUOTA);
        kind.assert_refused(&service, QUOTA, &reason).await;
        // Neither another agent nor another workspace is affected.
        assert_eq!((kind.ask)(&client, "b", 0).await, None, "{}", kind.name);
        assert_eq!((kind.ask)(&service.client_with(TEAM), "a", 0).await, None, "{}", kind.name);
        for (n, free) in kind.frees.iter().enumerate() {
            service.execute(free).await;
            assert_eq!((kind.ask)(&client, "a", QUOTA + n).await, None, "{} {free}", kind.name);
            kind.assert_refused(&service, 2 * QUOTA, &reason).await;
        }
    }
}

#[tokio::test]
async fn a_workspace_has_as_much_as_its_quota_whoever_asks() {
    for kind in KINDS {
        let service = Service::with(&[(&*kind.variable("workspace"), "3")]).await;
        let client = service.client();
        for (agent, n) in [("a", 0), ("a", 1), ("b", 10)] {
            assert_eq!((kind.ask)(&client, agent, n).await, None, "{} {agent} {n}", kind.name);
        }
        let reason = kind.reason("workspace", 3);
        kind.assert_refused(&service, 2, &reason).await;
        assert_eq!((kind.ask)(&client, "c", 20).await.as_deref(), Some(&*reason));
        assert_eq!((kind.ask)(&service.client_with(TEAM), "a", 0).await, None, "{}", kind.name);
        service.execute(kind.frees[0]).await;
        assert_eq!((kind.ask)(&client, "c", 20).await, None, "{}", kind.name);
        kind.assert_refused(&service, 2, &reason).await;
    }
}

#[tokio::test]
async fn a_quota_of_0_is_none() {
    for kind in KINDS {
        let more = [kind.variable("agent"), kind.variable("workspace")];
        let service = Service::with(&[(&*more[0], "0"), (&*more[1], "0")]).await;
        for n in 0..3 {
            assert_eq!((kind.ask)(&service.client(), "a", n).await, None, "{}", kind.name);
        }
    }
}

#[tokio::test]
async fn what_an_agent_has_already_is_not_refused() {
    let all = KINDS.map(|kind| kind.variable("agent"));
    let one: Vec<_> = all.iter().map(|name| (&**name, "1")).collect();
    let service = Service::with(&one).await;
    let client = service.client();
    for kind in KINDS.iter().filter(|kind| !["TASKS", "HANDOFFS"].contains(&kind.name)) {
        assert_eq!((kind.ask)(&client, "a", 0).await, None, "{}", kind.name);
        assert_eq!((kind.ask)(&client, "a", 0).await, None, "{} again", kind.name);
        assert!((kind.ask)(&client, "a", 1).await.is_some(), "{}", kind.name);
    }
    let task = json!({ "unique_key": "u" });
    let id = client.submit(task.clone()).await;
    let body = json!({ "task_type": "t", "task_description": "d", "unique_key": "u" });
    let again = client.post("/work/submit", body).await.json;
    assert_eq!([&again["action"], &again["task_id"]], [&json!("deduplicated"), &json!(id)]);
    let free = client.post("/work/cancel", json!({ "task_id": id })).await;
    assert_eq!(free.json["success"], true, "{}", free.text);
    client.submit(json!({})).await;
}

#[tokio::test]
async fn what_is_released_or_ended_counts_no_more() {
    let more = [("QUOTA_LOCKS_PER_AGENT", "1"), ("QUOTA_SESSIONS_PER_AGENT", "1")];
    let service = Service::with(&more).await;
    let client = service.client();
    let register = async |session: &str| {
        let body = json!({ "agent_id": "a", "agent_type": "t", "session_id": session });
        client.post("/discovery/register", body).await.json
    };
    let in_session = json!({ "session_id": "s" });
    assert_eq!(register("s").await["success"], true);
    assert_eq!(client.acquire("a", "k", in_session.clone()).await["success"], true);
    assert_eq!(client.acquire("a", "l", in_session.clone()).await["success"], false);
    client.release("a", "k", in_session.clone()).await;
    assert_eq!(client.acquire("a", "l", in_session.clone()).await["success"], true);
    let refused = register("other").await;
    assert_eq!((&refused["success"], &refused["session_id"]), (&json!(false), &Value::Null));
    let body = json!({ "agent_id": "a", "session_id": "s" });
    assert_eq!(client.post("/discovery/deregister", body).await.json["success"], true);
    assert_eq!(register("other").await["success"], true);
    let in_other = json!({ "session_id": "other" });
    assert_eq!(client.acquire("a", "k", in_other).await["success"], true);
}

#[tokio::test]
async fn a_batch_is_stored_as_a_whole_or_refused_as_a_whole() {
    let service = Service::with(&[("QUOTA_TASKS_PER_AGENT", "5")]).await;
    let client = service.client().header("x-agent-id", "a");
    let batch = async |tasks: usize| {
        let task = json!({ "task_type": "t", "task_description": "d" });
        client.post("/work/submit-batch", json!({ "tasks": vec![task; tasks] })).await.json
    };
    let refused = batch(6).await;
    assert_eq!([&refused["success"], &refused["reason"]], [&json!(false), &json!("batch_refused")]);
    let reasons: Vec<_> = (0..6).map(|n| refused["results"][n]["reason"].clone()).collect();
    let reason = "quota_exceeded: open tasks per agent, 5; QUOTA_TASKS_PER_AGENT";
    let earlier = "batch_refused";
    assert_eq!(reasons, [earlier, earlier, earlier, earlier, earlier, reason]);
    assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 0);
    assert_eq!(batch(5).await["success"], true);
    let refused = batch(1).await;
    assert_eq!(refused["results"][0]["reason"], reason);
}

#[tokio::test]
async fn a_refused_batch_is_remembered_although_it_is_rolled_back() {
    let service = Service::with(&[("QUOTA_TASKS_PER_AGENT", "70")]).await;
    let client = service.client().header("x-agent-id", "a");
    let batch = async |tasks: usize| {
        let task = json!({ "task_type": "t", "task_description": "d" });
        client.post("/work/submit-batch", json!({ "tasks": vec![task; tasks] })).await.json
    };
    assert_eq!(batch(70).await["success"], true);
    let mut batches = 0;
    while batch(5).await["success"] == true {
        batches += 1;
        assert!(batches < 20, "a call in 1.1 counts");
    }
    let reached = "select count(*) from quota_reached where kind = 'tasks' and agent_id = 'a'";
    assert_eq!(service.scalar::<i64>(reached).await, 1);
}

#[tokio::test]
async fn a_quota_above_64_is_counted_now_and_then_until_it_is_reached() {
    let service = Service::with(&[("QUOTA_LOCKS_PER_AGENT", "100")]).await;
    let client = service.client();
    let acquire =
        async |n: usize| client.acquire("a", &format!("k{n}"), json!({})).await["success"] == true;
    let mut granted = 0;
    while acquire(granted).await {
        granted += 1;
        assert!(granted < 200, "two calls in three count");
    }
    assert!(granted >= 100, "{granted}");
    // A count is believed for a while, so that refusals are cheap.
    service.execute("update file_lock set expires_at = now() where agent_id = 'a'").await;
    service.execute("update quota_reached set counted_at = now() + interval '1 hour'").await;
    assert!(!acquire(1000).await);
    service.execute("update quota_reached set counted_at = now() - interval '11 seconds'").await;
    assert!(acquire(1000).await);
    assert_eq!(service.scalar::<i64>("select count(*) from quota_reached").await, 0);
}

#[tokio::test]
async fn parallel_calls_exceed_a_quota_by_no_more_than_run_at_once() {
    const QUOTA: usize = 8;
    const CONNECTIONS: usize = 8;
    let more = [
        ("QUOTA_MEMORIES_PER_AGENT", "8"),
        ("POSTGRES_POOL_MAX", "8"),
        // Requests that share a call are more than there are connections.
        ("API_GATHER", "false"),
    ];
    let service = Service::with(&more).await;
    let client = service.client();
    let asked = (0..40).map(|n| {
        let body = json!({ "agent_id": "a", "event_type": "t", "summary": n.to_string() });
        ask(client.clone(), "/memory/store", body)
    });
    let refused = join_all(asked).await.iter().filter(|reason| reason.is_some()).count();
    let stored = 40 - refused;
    assert!((QUOTA..QUOTA + CONNECTIONS).contains(&stored), "{stored}");
    assert_eq!(service.scalar::<i64>("select count(*) from memory").await, stored as i64);
}

#[tokio::test]
async fn a_request_that_would_wait_is_refused_at_once() {
    let service = Service::with(&[("QUOTA_LOCKS_PER_AGENT", "1")]).await;
    let client = service.client();
    client.acquire("a", "k", json!({})).await;
    let refused = client.acquire("a", "l", json!({ "wait_seconds": 50 })).await;
    assert_eq!(refused["reason"], KINDS[0].reason("agent", 1));
    assert_eq!((&refused["locked_by"], &refused["position"]), (&Value::Null, &Value::Null));
    assert_eq!(service.scalar::<i64>("select count(*) from lock_waiter").await, 0);
    assert_eq!(service.audit_rows().await, 2);
}

#[tokio::test]
async fn mcp_says_the_same() {
    let all = KINDS.map(|kind| kind.variable("agent"));
    let one: Vec<_> = all.iter().map(|name| (&**name, "1")).collect();
    let service = Service::with(&one).await;
    let mcp = Mcp::new(service.client().header("x-agent-id", "a").header("x-agent-type", "t"));
    let connection = |n: usize| {
        mcp.clone().header("mcp-session-id", &format!("00000000-0000-4000-8000-{n:012}"))
    };
    for (kind, tool, first, second) in [
        (0, "acquire_lock", json!({ "file_path": "k" }), json!({ "file_path": "l" })),
        (1, "register_session", json!({ "session_id": "s" }), json!({ "session_id": "t" })),
        (
            2,
            "submit_work",
            json!({ "task_type": "t", "description": "d" }),
            json!({ "task_type": "t", "description": "e" }),
        ),
        (3, "remember", json!({ "summary": "m" }), json!({ "summary": "n" })),
        (4, "write_handoff", json!({ "summary": "m" }), json!({ "summary": "n" })),
    ] {
        assert_eq!(mcp.tool(tool, first).await["success"], true, "{tool}");
        let refused = mcp.tool(tool, second).await;
        assert_eq!(refused["success"], false, "{tool}");
        let reasons = [&refused["reason"], &refused["error"]];
        let reason = json!(KINDS[kind].reason("agent", 1));
        assert!(reasons.contains(&&reason), "{tool}: {refused}");
    }
    // The session is known, so only its connection counts.
    let registration = json!({ "session_id": "s" });
    let bound = connection(1).tool("register_session", registration.clone()).await;
    assert_eq!(bound["success"], true, "{bound}");
    let refused = connection(2).tool("register_session", registration).await;
    assert_eq!(refused["error"], KINDS[6].reason("agent", 1), "{refused}");
}

#[tokio::test]
async fn the_log_says_who_reached_a_quota() {
    let service = Service::start().await;
    let more = [("QUOTA_LOCKS_PER_AGENT", "1")];
    let mut running = Running::start(with_more(&service.url, &more)).await;
    for key in ["k", "l"] {
        let body = json!({ "file_path": key, "agent_id": "a", "agent_type": "t" }).to_string();
        let (status, ..) =
            request(running.port, "POST", "/locks/acquire", &body).await.expect("an answer");
        assert_eq!(status, 200);
    }
    let line = running.wait_for_line("quota_locks").await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!([&line["workspace"], &line["agent"]], ["default", "a"], "{line}");
    let fingerprint = line["key"].as_str().unwrap_or_default();
    assert!(fingerprint.starts_with("sha256:") && !fingerprint.contains(FREE), "{line}");
}
