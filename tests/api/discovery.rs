//! Sessions and their end, literally as the contract has them.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{BOSS, CODEX, Client, REVIEWER, Service, TEAM, with};

#[track_caller]
fn assert_keys(answer: &Value, expected: &[&str]) {
    let keys: Vec<_> = answer.as_object().expect("an object").keys().collect();
    assert_eq!(keys, expected);
}

async fn post(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(path, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn register(client: &Client, agent: &str, session: &str) -> Value {
    let body = json!({ "agent_id": agent, "agent_type": "t", "session_id": session });
    let answer = post(client, "/discovery/register", body).await;
    assert_eq!((&answer["success"], &answer["session_id"]), (&json!(true), &json!(session)));
    answer
}

async fn allocate(client: &Client, agent: &str, session: &str) {
    let body = json!({ "agent_id": agent, "session_id": session });
    assert_eq!(post(client, "/ports/allocate", body).await["success"], true);
}

async fn lock(client: &Client, agent: &str, session: &str, key: &str) {
    let more = json!({ "session_id": session, "ttl_minutes": 480 });
    assert_eq!(client.acquire(agent, key, more).await["success"], true);
}

async fn deregister(client: &Client, agent: &str, session: &str) -> Value {
    let body = json!({ "agent_id": agent, "session_id": session });
    let answer = post(client, "/discovery/deregister", body).await;
    let keys =
        ["success", "session_id", "error", "locks_released", "tasks_requeued", "ports_released"];
    assert_keys(&answer, &keys);
    answer
}

async fn cleanup(service: &Service, body: Value) -> Value {
    let answer = post(&service.client_with(BOSS), "/discovery/cleanup", body).await;
    let keys = [
        "success",
        "agents_cleaned",
        "locks_released",
        "sessions_cleaned",
        "tasks_requeued",
        "ports_released",
        "dry_run",
    ];
    assert_keys(&answer, &keys);
    answer
}

/// The sessions listed, as `agent/session status`, in order.
async fn listed(client: &Client, query: &str) -> Vec<String> {
    let answer = client.get(&format!("/discovery/agents?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let agents = answer.json["agents"].as_array().expect("a list");
    assert_eq!(answer.json["count"], agents.len());
    let text = |it: &Value, name: &str| it[name].as_str().expect("a text").to_owned();
    agents
        .iter()
        .map(|it| {
            format!("{}/{} {}", text(it, "agent_id"), text(it, "session_id"), text(it, "status"))
        })
        .collect()
}

/// Sets the last heartbeat of a session to so many minutes ago.
async fn silence(service: &Service, session: &str, minutes: u32) {
    service
        .execute(&format!(
            "update agent_session set last_heartbeat_at = now()
                - interval '{minutes} minutes' - interval '1 second'
             where session_id = '{session}'"
        ))
        .await;
}

async fn held_locks(service: &Service) -> Vec<Value> {
    let sql = "select key from file_lock where agent_id is not null order by key";
    service.rows(sql).await.into_iter().map(|it| it["key"].clone()).collect()
}

#[tokio::test]
async fn a_registered_session_is_listed_with_everything_that_it_declared() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({
        "agent_id": "claude-1", "agent_type": "claude_code", "session_id": "s-1",
        "capabilities": ["rust", "review"], "current_task": "parser", "delegated_from": "boss",
        "metadata": { "host": "h", "n": [1] }, "phase_archetype": "implementer",
    });
    let answer = post(&client, "/discovery/register", body).await;
    assert_keys(&answer, &["success", "session_id", "error"]);
    assert_eq!(answer, json!({ "success": true, "session_id": "s-1", "error": null }));
    let audit = service.last_audit().await;
    assert_eq!((&audit["operation"], &audit["success"]), (&json!("register_agent"), &json!(true)));
    let parameters = json!({ "session_id": "s-1", "capabilities": ["rust", "review"] });
    assert_eq!(audit["parameters"], parameters);
    assert_eq!((&audit["result"], &audit["session_id"]), (&json!({}), &json!("s-1")));
    let list = client.get("/discovery/agents").await.json;
    assert_keys(&list, &["agents", "count", "truncated"]);
    let agent = &list["agents"][0];
    assert_keys(
        agent,
        &[
            "agent_id",
            "agent_type",
            "session_id",
            "capabilities",
            "status",
            "current_task",
            "last_heartbeat",
            "started_at",
            "phase_archetype",
            "delegated_from",
            "metadata",
        ],
    );
    for (name, expected) in [
        ("agent_id", json!("claude-1")),
        ("agent_type", json!("claude_code")),
        ("session_id", json!("s-1")),
        ("capabilities", json!(["rust", "review"])),
        ("status", json!("active")),
        ("current_task", json!("parser")),
        ("phase_archetype", json!("implementer")),
        ("delegated_from", json!("boss")),
        ("metadata", json!({ "host": "h", "n": [1] })),
    ] {
        assert_eq!(agent[name], expected, "{name}");
    }
    for name in ["last_heartbeat", "started_at"] {
        assert!(agent[name].as_str().is_some_and(|it| it.ends_with("+00:00")), "{name}");
    }
    let before = service.audit_rows().await;
    client.get("/discovery/agents").await;
    assert_eq!(service.audit_rows().await, before);
}

#[tokio::test]
async fn a_repeated_registration_overwrites_everything_but_the_start() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({
        "agent_id": "a", "agent_type": "t", "session_id": "s", "capabilities": ["rust"],
        "current_task": "x", "delegated_from": "b", "metadata": { "a": 1 },
        "phase_archetype": "runner",
    });
    post(&client, "/discovery/register", body).await;
    let first = client.get("/discovery/agents").await.json["agents"][0].clone();
    let body = json!({ "agent_id": "a", "agent_type": "u", "session_id": "s" });
    post(&client, "/discovery/register", body).await;
    let list = client.get("/discovery/agents").await.json;
    assert_eq!(list["count"], 1);
    let again = &list["agents"][0];
    assert_eq!(again["started_at"], first["started_at"]);
    assert!(again["last_heartbeat"].as_str() > first["last_heartbeat"].as_str());
    assert_eq!((&again["agent_type"], &again["capabilities"]), (&json!("u"), &json!([])));
    assert_eq!((&again["metadata"], &again["current_task"]), (&json!({}), &json!(null)));
    assert_eq!((&again["delegated_from"], &again["phase_archetype"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn a_registration_without_a_session_id_gets_one_and_the_header_can_give_it() {
    let service = Service::start().await;
    let client = service.client();
    for body in [json!({}), json!({ "session_id": null }), json!({ "session_id": "" })] {
        let answer = post(&client, "/discovery/register", body).await;
        let name = answer["session_id"].as_str().expect("a name").to_owned();
        let unique = name.strip_prefix("cloud-agent-").expect("named after the agent");
        assert!(uuid::Uuid::try_parse(unique).is_ok(), "{name}");
        assert_eq!(service.last_audit().await["parameters"]["session_id"], name);
    }
    assert_eq!(listed(&client, "").await.len(), 3);
    let header = client.header("x-session-id", "from-header");
    let answer = post(&header, "/discovery/register", json!({})).await;
    assert_eq!(answer["session_id"], "from-header");
    let answer = post(&header, "/discovery/register", json!({ "session_id": "own" })).await;
    assert_eq!(answer["session_id"], "own");
}

#[tokio::test]
async fn the_status_of_a_session_follows_from_its_last_heartbeat() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "60")]).await;
    let client = service.client();
    for (session, minutes) in [("now", 0), ("m14", 14), ("m15", 15), ("m59", 59), ("m60", 60)] {
        register(&client, "a", session).await;
        silence(&service, session, minutes).await;
    }
    register(&client, "b", "ended").await;
    deregister(&client, "b", "ended").await;
    let seen = ["a/now active", "a/m14 active", "a/m15 idle", "a/m59 idle"];
    assert_eq!(listed(&client, "").await, seen, "the latest heartbeat first");
    assert_eq!(listed(&client, "status=").await, seen);
    assert_eq!(listed(&client, "status=active").await, seen[..2]);
    assert_eq!(listed(&client, "status=idle").await, seen[2..]);
    let gone = ["b/ended disconnected", "a/m60 disconnected"];
    assert_eq!(listed(&client, "status=disconnected").await, gone);
    assert_eq!(listed(&client, "status=busy").await, [""; 0]);
    assert_eq!(listed(&client, "limit=1").await, seen[..1]);
    let page = client.get("/discovery/agents?limit=1").await.json;
    assert_keys(&page, &["agents", "count", "truncated", "hint", "next_cursor"]);
    assert_eq!(page["truncated"], true);
    assert_eq!(listed(&client, "limit=0").await, [""; 0]);
}

#[tokio::test]
async fn agents_are_found_by_capability() {
    let service = Service::with(&[("COORDINATION_PUBLIC_READS", "true")]).await;
    let client = service.client();
    for (agent, capabilities) in [("a", json!(["rust", "sql"])), ("b", json!(["go"]))] {
        let body = json!({ "agent_id": agent, "session_id": "s", "capabilities": capabilities });
        post(&client, "/discovery/register", body).await;
    }
    register(&service.client_with(TEAM), "t", "s").await;
    assert_eq!(listed(&client, "capability=sql").await, ["a/s active"]);
    assert_eq!(listed(&client, "capability=").await.len(), 2);
    assert_eq!(listed(&client, "capability=sq").await, [""; 0]);
    assert_eq!(listed(&client, "capability=go&status=idle").await, [""; 0]);
    assert_eq!(listed(&service.anonymous(), "").await.len(), 2, "workspace `default` only");
    assert_eq!(listed(&service.client_with(TEAM), "").await, ["t/s active"]);
}

#[tokio::test]
async fn any_call_that_names_a_session_keeps_it_alive() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, "a", "s").await;
    let named = client.clone().header("x-session-id", "s").header("x-agent-id", "a");
    silence(&service, "s", 30).await;
    named.get("/locks").await;
    assert_eq!(listed(&client, "").await, ["a/s active"]);
    silence(&service, "s", 30).await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    assert_eq!(listed(&client, "").await, ["a/s active"]);
    silence(&service, "s", 30).await;
    client.acquire("b", "j", json!({ "session_id": "s" })).await;
    assert_eq!(listed(&client, "").await, ["a/s idle"], "a session is the agent's own");
    let sessions: i64 = service.scalar("select count(*) from agent_session").await;
    assert_eq!(sessions, 1, "only a registration creates a session");
}

#[tokio::test]
async fn a_heartbeat_is_recorded_for_the_named_session_or_every_live_one() {
    let service = Service::start().await;
    let client = service.client();
    let beat = async |body: Value| post(&client, "/discovery/heartbeat", body).await;
    let lost = json!({ "success": false, "session_id": null, "error": "session_not_found" });
    let own = json!({ "agent_id": "a" });
    assert_eq!(beat(own.clone()).await, lost);
    for session in ["s-1", "s-2", "s-3"] {
        register(&client, "a", session).await;
    }
    silence(&service, "s-1", 30).await;
    silence(&service, "s-2", 20).await;
    silence(&service, "s-3", 121).await;
    let recorded = |session: &str| json!({ "success": true, "session_id": session, "error": null });
    let rows = service.audit_rows().await;
    assert_eq!(beat(own.clone()).await, recorded("s-2"), "the latest live session");
    assert_eq!(listed(&client, "").await, ["a/s-2 active", "a/s-1 active"]);
    silence(&service, "s-1", 30).await;
    silence(&service, "s-2", 20).await;
    assert_eq!(beat(json!({ "agent_id": "a", "session_id": "s-1" })).await, recorded("s-1"));
    assert_eq!(listed(&client, "").await, ["a/s-1 active", "a/s-2 idle"], "that one alone");
    let nothing = json!({ "locks": [], "claims": [], "ports": [] });
    let revived = with(recorded("s-3"), json!({ "revived": true, "lost": nothing }));
    assert_eq!(beat(json!({ "agent_id": "a", "session_id": "s-3" })).await, revived);
    assert_eq!(beat(json!({ "agent_id": "a", "session_id": "s-3" })).await, recorded("s-3"));
    assert_eq!(listed(&client, "").await[0], "a/s-3 active", "a named one comes back");
    assert_eq!(beat(json!({ "agent_id": "a", "session_id": "s-4" })).await, lost);
    assert_eq!(beat(json!({ "agent_id": "b", "session_id": "s-1" })).await, lost);
    assert_eq!(service.audit_rows().await, rows, "not audited");
    let told = json!({ "agent_id": "a", "session_id": "s-1", "phase_archetype": "analyst" });
    assert_eq!(beat(told).await, recorded("s-1"));
    let archetype = "select phase_archetype from agent_session where session_id = 's-1'";
    let told: Option<String> = service.scalar(archetype).await;
    assert_eq!(told.as_deref(), Some("analyst"));
    beat(json!({ "agent_id": "a", "session_id": "s-1" })).await;
    let kept: Option<String> = service.scalar(archetype).await;
    assert_eq!(kept.as_deref(), Some("analyst"));
    let at = "select last_heartbeat_at::text from agent_session where session_id = 's-1'";
    let before: String = service.scalar(at).await;
    beat(json!({ "agent_id": "a", "session_id": "s-1" })).await;
    let after: String = service.scalar(at).await;
    assert_eq!(before, after, "at most one write in ten seconds");
    let limited = service.client_with(REVIEWER);
    register_as_reviewer(&service).await;
    let answer = post(&limited, "/discovery/heartbeat", json!({})).await;
    assert_eq!(answer, recorded("r"), "an agent with limited trust may send heartbeats");
}

async fn register_as_reviewer(service: &Service) {
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type)
             values ('default', 'reviewer', 'r', 't')",
        )
        .await;
}

#[tokio::test]
async fn ending_a_session_frees_what_it_holds_and_nothing_else() {
    let service = Service::start().await;
    let client = service.client();
    for (agent, session) in [("a", "s-1"), ("a", "s-2"), ("b", "s-1")] {
        register(&client, agent, session).await;
        lock(&client, agent, session, &format!("{agent}-{session}")).await;
    }
    lock(&client, "a", "s-1", "more").await;
    lock(&client, "a", "s-1", "expired").await;
    service.expire("expired").await;
    client.acquire("a", "unnamed", json!({})).await;
    allocate(&client, "a", "s-1").await;
    allocate(&client, "a", "s-2").await;
    let team = service.client_with(TEAM);
    register(&team, "a", "s-1").await;
    lock(&team, "a", "s-1", "elsewhere").await;

    let answer = deregister(&client, "a", "s-1").await;
    assert_eq!(
        answer,
        json!({
            "success": true, "session_id": "s-1", "error": null, "locks_released": 2,
            "tasks_requeued": 0, "ports_released": 1,
        })
    );
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["operation"], &audit["success"]),
        (&json!("deregister_agent"), &json!(true))
    );
    assert_eq!(audit["parameters"]["session_id"], "s-1");
    assert_eq!((&audit["result"], &audit["session_id"]), (&json!({}), &json!("s-1")));
    assert_eq!(held_locks(&service).await, ["a-s-2", "b-s-1", "elsewhere", "unnamed"]);
    let keys: i64 = service.scalar("select count(*) from file_lock where token > 0").await;
    assert_eq!(keys, 7, "the fencing tokens are kept");
    let blocks = service.rows("select session_id from port_block").await;
    assert_eq!(blocks, [json!({ "session_id": "s-2" })]);
    assert_eq!(listed(&client, "status=disconnected").await, ["a/s-1 disconnected"]);

    let again = deregister(&client, "a", "s-1").await;
    assert_eq!(
        again,
        json!({
            "success": true, "session_id": "s-1", "error": null, "locks_released": 0,
            "tasks_requeued": 0, "ports_released": 0,
        })
    );
    let ended: i64 =
        service.scalar("select count(*) from agent_session where ended_at is not null").await;
    assert_eq!(ended, 1, "the call that ends a session does not revive it");
    let next = client.acquire("c", "more", json!({})).await;
    assert_eq!((&next["action"], &next["fencing_token"]), (&json!("acquired"), &json!(2)));
}

#[tokio::test]
async fn only_a_session_of_the_caller_can_be_ended() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, "a", "s").await;
    lock(&client, "a", "s", "k").await;
    let lost = json!({
        "success": false, "session_id": null, "error": "session_not_found", "locks_released": 0,
        "tasks_requeued": 0, "ports_released": 0,
    });
    for (agent, session) in [("b", "s"), ("a", "other"), ("a", "")] {
        assert_eq!(deregister(&client, agent, session).await, lost);
        let audit = service.last_audit().await;
        assert_eq!(audit["success"], false);
        assert_eq!(audit["result"], json!({ "reason": "session_not_found" }));
    }
    assert_eq!(deregister(&service.client_with(TEAM), "a", "s").await, lost);
    let denied = service
        .client_with(CODEX)
        .post("/discovery/deregister", json!({ "agent_id": "a", "session_id": "s" }))
        .await;
    assert_eq!(denied.status, 403);
    assert_eq!(held_locks(&service).await, ["k"]);
    let issues = client.post("/discovery/deregister", json!({})).await.issues();
    assert_eq!(issues, [("missing".to_owned(), json!(["body", "session_id"]))]);
}

#[tokio::test]
async fn an_ended_session_that_registers_again_gets_nothing_back() {
    let service = Service::start().await;
    let client = service.client();
    let ends = ["last_heartbeat_at = now() - interval '121 minutes'", "ended_at = now()"];
    for (round, end) in ends.iter().enumerate() {
        register(&client, "a", "s").await;
        lock(&client, "a", "s", "k").await;
        allocate(&client, "a", "s").await;
        service.execute(&format!("update agent_session set {end}")).await;
        let again = register(&client, "a", "s").await;
        let lost = json!({
            "locks": [{ "file_path": "k", "session_id": "s", "fencing_token": 1 + round }],
            "claims": [], "ports": [{ "session_id": "s", "db_port": 10000 }],
        });
        assert_eq!((&again["revived"], &again["lost"]), (&json!(true), &lost), "{end}");
        assert_eq!(listed(&client, "").await, ["a/s active"]);
        assert_eq!(client.get("/locks").await.json["count"], 0, "{end}");
        assert_eq!(client.get("/ports/status").await.text, "[]", "{end}");
        let freed = deregister(&client, "a", "s").await;
        assert_eq!(freed["locks_released"], 0, "lost locks are not released again");
        assert_eq!(freed["ports_released"], 0);
        assert_eq!(held_locks(&service).await, [""; 0], "the lost lock is cleared");
    }
    register(&client, "a", "s").await;
    lock(&client, "a", "s", "k").await;
    register(&client, "a", "s").await;
    assert_eq!(client.get("/locks").await.json["count"], 1, "a live session keeps its locks");
}

#[tokio::test]
async fn a_cleanup_ends_silent_sessions_and_leaves_their_siblings() {
    let service = Service::start().await;
    let client = service.client();
    for (agent, session) in [("a", "s-1"), ("a", "s-2"), ("a", "live"), ("b", "s-3"), ("c", "old")]
    {
        register(&client, agent, session).await;
        lock(&client, agent, session, session).await;
        allocate(&client, agent, session).await;
    }
    register(&service.client_with(TEAM), "t", "s-1").await;
    for (session, minutes) in [("s-1", 15), ("s-2", 16), ("s-3", 59), ("live", 14), ("old", 500)] {
        silence(&service, session, minutes).await;
    }
    let counted = |agents: i64, n: i64, dry_run: bool| {
        json!({
            "success": true, "agents_cleaned": agents, "locks_released": n, "sessions_cleaned": n,
            "tasks_requeued": 0, "ports_released": n, "dry_run": dry_run,
        })
    };
    let before = service.rows("select * from file_lock order by key").await;
    assert_eq!(cleanup(&service, json!({ "dry_run": true })).await, counted(3, 4, true));
    let audit = service.last_audit().await;
    assert_eq!(audit["operation"], "cleanup_dead_agents");
    assert_eq!(audit["parameters"], json!({ "stale_threshold_minutes": 15, "dry_run": true }));
    assert_eq!(service.rows("select * from file_lock order by key").await, before);
    assert_eq!(service.scalar::<i64>("select count(*) from port_block").await, 5);
    let ended: i64 = service.scalar("select count(ended_at) from agent_session").await;
    assert_eq!(ended, 0);

    let wide = json!({ "stale_threshold_minutes": 1, "idle_minutes": "60" });
    assert_eq!(cleanup(&service, wide).await, counted(1, 1, false), "idle_minutes wins");
    assert_eq!(held_locks(&service).await, ["live", "s-1", "s-2", "s-3"]);
    assert_eq!(cleanup(&service, json!({})).await, counted(2, 3, false));
    let audit = service.last_audit().await;
    assert_eq!((&audit["success"], &audit["agent_id"]), (&json!(true), &json!("boss")));
    assert_eq!(audit["parameters"], json!({ "stale_threshold_minutes": 15, "dry_run": false }));
    assert_eq!(
        audit["result"],
        json!({
            "agents_cleaned": 2, "locks_released": 3, "sessions_cleaned": 3, "tasks_requeued": 0,
            "ports_released": 3,
        })
    );
    assert_eq!(held_locks(&service).await, ["live"]);
    let blocks = service.rows("select session_id from port_block").await;
    assert_eq!(blocks, [json!({ "session_id": "live" })]);
    assert_eq!(cleanup(&service, json!({})).await, counted(0, 0, false), "a repeat finds nothing");
    let team: i64 =
        service.scalar("select count(ended_at) from agent_session where workspace = 'team'").await;
    assert_eq!(team, 0);
}

#[tokio::test]
async fn the_caller_of_a_cleanup_keeps_its_own_session() {
    let service = Service::start().await;
    let boss = service.client_with(BOSS).header("x-session-id", "s");
    for _ in 0..2 {
        post(&boss, "/discovery/register", json!({})).await;
        lock(&service.client(), "a", "s", "k").await;
        silence(&service, "s", 500).await;
        let cleaned = post(&boss, "/discovery/cleanup", json!({})).await;
        assert_eq!(cleaned["sessions_cleaned"], 0);
        assert_eq!(listed(&boss, "").await, ["boss/s active"]);
    }
}

#[tokio::test]
async fn a_cleanup_is_for_elevated_agents_and_within_bounds() {
    let service = Service::start().await;
    let denied = service.client().post("/discovery/cleanup", json!({})).await;
    denied.assert_is(403, json!({ "detail": "admin_denied: trust_level=2 < 3" }));
    let boss = service.client_with(BOSS);
    let body = json!({ "stale_threshold_minutes": 0, "idle_minutes": 10081, "dry_run": 1 });
    let issues = boss.post("/discovery/cleanup", body).await.issues();
    let expected = [
        ("greater_than_equal", json!(["body", "stale_threshold_minutes"])),
        ("less_than_equal", json!(["body", "idle_minutes"])),
        ("bool_parsing", json!(["body", "dry_run"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
    assert_eq!(boss.post_text("/discovery/cleanup", "").await.status, 200);
}

#[tokio::test]
async fn a_session_with_a_heartbeat_in_time_survives_a_concurrent_cleanup() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, "a", "s").await;
    lock(&client, "a", "s", "k").await;
    silence(&service, "s", 30).await;
    // The heartbeat has locked the row and not committed when the clean-up reads it.
    let mut heartbeat = service.db.begin().await.expect("a transaction");
    heartbeat_by_hand(&mut heartbeat).await;
    let cleaned = cleanup(&service, json!({})).await;
    heartbeat.commit().await.expect("it commits");
    assert_eq!((&cleaned["sessions_cleaned"], &cleaned["locks_released"]), (&json!(0), &json!(0)));
    assert_eq!(cleaned.get("more"), None, "a session that is calling is not left over");
    assert_eq!(held_locks(&service).await, ["k"]);
    assert_eq!(listed(&client, "").await, ["a/s active"]);
}

#[expect(clippy::disallowed_methods, reason = "a call that is held up in its transaction")]
async fn heartbeat_by_hand(db: &mut sqlx::PgConnection) {
    let sql = "select mark_session_alive('default', 'a', 's', interval '2 hours')";
    sqlx::raw_sql(sql).execute(db).await.expect("the statement runs");
}

#[tokio::test]
async fn of_many_that_end_a_session_one_releases_what_it_held() {
    let service = Service::start().await;
    let client = service.client();
    for round in 0..4 {
        register(&client, "a", "s").await;
        for key in 0..3 {
            lock(&client, "a", "s", &format!("k{key}")).await;
        }
        allocate(&client, "a", "s").await;
        silence(&service, "s", 30).await;
        let ends = join_all((0..8).map(|n| {
            let client = client.clone();
            let service = &service;
            async move {
                match n % 2 {
                    0 => deregister(&client, "a", "s").await,
                    _ => cleanup(service, json!({})).await,
                }
            }
        }))
        .await;
        let sum = |name: &str| ends.iter().filter_map(|it| it[name].as_i64()).sum::<i64>();
        assert_eq!((sum("locks_released"), sum("ports_released")), (3, 1), "{round}");
        assert_eq!(held_locks(&service).await, [""; 0]);
    }
}

#[tokio::test]
async fn concurrent_registrations_of_one_session_create_it_once() {
    let service = Service::start().await;
    let client = service.client();
    join_all((0..12).map(|_| register(&client, "a", "s"))).await;
    assert_eq!(listed(&client, "").await, ["a/s active"]);
    assert_eq!(service.audit_rows().await, 12);
}

#[tokio::test]
async fn every_invalid_member_is_an_issue() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    let body = json!({
        "session_id": "s".repeat(257), "capabilities": ["a", 1, "c".repeat(257)],
        "current_task": "t".repeat(16_385), "delegated_from": 1, "metadata": "m",
        "phase_archetype": "captain",
    });
    let issues = client.post("/discovery/register", body).await.issues();
    let expected = [
        ("string_too_long", json!(["body", "session_id"])),
        ("string_type", json!(["body", "capabilities", 1])),
        ("string_too_long", json!(["body", "capabilities", 2])),
        ("string_too_long", json!(["body", "current_task"])),
        ("string_type", json!(["body", "delegated_from"])),
        ("dict_type", json!(["body", "metadata"])),
        ("enum", json!(["body", "phase_archetype"])),
    ];
    assert_eq!(issues, expected.map(|(kind, loc)| (kind.to_owned(), loc)));
    let body = json!({ "phase_archetype": "captain" });
    let refused = client.post("/discovery/heartbeat", body).await;
    let msg =
        "Input should be one of architect, reviewer, implementer, analyst, runner, gatekeeper";
    assert_eq!(refused.json["detail"][0]["msg"], msg);
    assert_eq!(service.contents().await, before);
    for word in ["architect", "reviewer", "implementer", "analyst", "runner", "gatekeeper"] {
        let body = json!({ "session_id": "s", "phase_archetype": word });
        assert_eq!(client.post("/discovery/register", body).await.status, 200, "{word}");
    }
    let null = json!({ "session_id": "s", "phase_archetype": null, "capabilities": null, "metadata": null });
    assert_eq!(client.post("/discovery/register", null).await.status, 200);
}

/// Submits a task and has an agent's session claim it; returns the claim.
async fn claimed(client: &Client, agent: &str, session: Option<&str>) -> Value {
    let body = json!({ "task_type": "t", "task_description": "d" });
    assert_eq!(post(client, "/work/submit", body).await["success"], true);
    let body = json!({ "agent_id": agent, "agent_type": "t", "session_id": session });
    let claim = post(client, "/work/claim", body).await;
    assert_eq!(claim["success"], true);
    claim
}

async fn status_of(client: &Client, claim: &Value) -> Value {
    let task = post(client, "/work/get", json!({ "task_id": claim["task_id"] })).await;
    json!([task["task"]["status"], task["task"]["claimed_by"], task["task"]["attempt"]])
}

#[tokio::test]
async fn claims_of_an_ended_session_return_and_those_of_others_stay() {
    let service = Service::start().await;
    let client = service.client();
    for (agent, session) in [("a", "s-1"), ("a", "s-2"), ("b", "s-1")] {
        register(&client, agent, session).await;
    }
    let own = claimed(&client, "a", Some("s-1")).await;
    let mut others = Vec::new();
    for (agent, session) in [("a", Some("s-2")), ("a", None), ("b", Some("s-1"))] {
        others.push((agent, claimed(&client, agent, session).await));
    }
    assert_eq!(deregister(&client, "a", "s-1").await["tasks_requeued"], 1);
    assert_eq!(status_of(&client, &own).await, json!(["pending", null, 1]));
    for (agent, claim) in &others {
        assert_eq!(status_of(&client, claim).await, json!(["claimed", agent, 1]), "{claim}");
    }
    // A requeue voids the token.
    let body = json!({ "agent_id": "a", "task_id": own["task_id"], "success": true,
        "claim_token": own["claim_token"] });
    assert_eq!(post(&client, "/work/complete", body).await["reason"], "claim_superseded");
    let next = post(&client, "/work/claim", json!({ "agent_id": "c", "agent_type": "t" })).await;
    assert_eq!((&next["task_id"], &next["attempt"]), (&own["task_id"], &json!(2)));
}

#[tokio::test]
async fn a_dry_run_leaves_claims_alone() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, "a", "s").await;
    let claim = claimed(&client, "a", Some("s")).await;
    silence(&service, "s", 60).await;
    let counted = cleanup(&service, json!({ "dry_run": true })).await;
    assert_eq!((&counted["tasks_requeued"], &counted["sessions_cleaned"]), (&json!(1), &json!(1)));
    assert_eq!(status_of(&client, &claim).await, json!(["claimed", "a", 1]));
    assert_eq!(cleanup(&service, json!({})).await["tasks_requeued"], 1);
    assert_eq!(status_of(&client, &claim).await, json!(["pending", null, 1]));
}
