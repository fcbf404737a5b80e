//! One agent through several doors and sessions: whose heartbeat a call is, what a token proves, what a
//! registration tells and takes over, and what a revived session is told. The table is in `docs/states.md`.
use futures_util::future::join;
use serde_json::{Value, json};

use crate::{
    mcp::{Mcp, meta},
    support::{BOSS, CODEX, Client, FREE, PATIENCE, Service, eventually, with},
};

async fn post(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(path, body).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    answer.json
}

/// Registers a session of agent `a`; `more` are further members of the body.
async fn register(client: &Client, session: Option<&str>, more: Value) -> Value {
    let body = json!({ "agent_id": "a", "agent_type": "t", "session_id": session });
    let answer = post(client, "/discovery/register", with(body, more)).await;
    assert_eq!(answer["success"], true);
    answer
}

/// The revision of MCP without connections, as a header names it.
const WITHOUT_CONNECTIONS: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

/// The answer of a tool; `headers` name the connection or the session, or the revision without connections.
async fn tool(
    service: &Service,
    headers: &[(&'static str, &str)],
    name: &str,
    args: Value,
) -> Value {
    tool_of(service.client(), headers, name, args).await
}

/// As [`tool`], from another replica, which has recorded no heartbeat a moment ago.
async fn tool_later(
    service: &Service,
    headers: &[(&'static str, &str)],
    name: &str,
    args: Value,
) -> Value {
    tool_of(service.replica_here(), headers, name, args).await
}

async fn tool_of(
    client: Client,
    headers: &[(&'static str, &str)],
    name: &str,
    args: Value,
) -> Value {
    let client = client.header("accept", "application/json, text/event-stream");
    let client = client.header("content-type", "application/json").header("x-agent-id", "a");
    let client = headers.iter().fold(client, |client, (name, value)| client.header(name, value));
    let mut params = json!({ "name": name, "arguments": args });
    let client = match headers.contains(&WITHOUT_CONNECTIONS) {
        true => {
            params = with(params, meta());
            client.header("mcp-method", "tools/call").header("mcp-name", name)
        }
        false => client,
    };
    let message = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    let answer = post(&client, "/mcp?tools=all", message).await;
    assert_eq!(answer["result"]["isError"], false, "{name}: {answer}");
    answer["result"]["structuredContent"].clone()
}

/// Moves the last call of every session into the past.
async fn pass_minutes(service: &Service, minutes: u32) {
    let sql = format!(
        "update agent_session set last_heartbeat_at =
            (last_heartbeat_at at time zone 'utc' - interval '{minutes} minutes') at time zone 'utc';
         update work_task set claim_expires_at =
            (claim_expires_at at time zone 'utc' - interval '{minutes} minutes') at time zone 'utc'
         where claimed_by is not null"
    );
    service.execute(&sql).await;
}

/// Sessions whose last call was within the last minute.
async fn heard(service: &Service) -> Vec<Value> {
    let sql = "select session_id from agent_session
        where last_heartbeat_at > clock_timestamp() - interval '1 minute' order by session_id";
    service.rows(sql).await.into_iter().map(|it| it["session_id"].clone()).collect()
}

async fn holds(client: &Client, key: &str) -> Value {
    client.get(&format!("/locks/status/{key}")).await.json["lock"]["locked_by"].clone()
}

#[tokio::test]
async fn a_call_is_a_heartbeat_for_the_session_that_it_names_or_for_every_live_one() {
    let service = Service::start().await;
    let client = service.client();
    for session in ["s-1", "s-2"] {
        register(&client, Some(session), json!({})).await;
    }
    tool(
        &service,
        &[("mcp-session-id", "c-1")],
        "register_session",
        json!({ "session_id": "s-3" }),
    )
    .await;
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, ended_at)
             values ('default', 'a', 'ended', 't', clock_timestamp() - interval '1 hour');
             insert into agent_session (workspace, agent_id, session_id, agent_type)
             values ('default', 'b', 's-1', 't')",
        )
        .await;
    let age = async || {
        let sql = "update agent_session set last_heartbeat_at = now() - interval '1 hour'";
        service.execute(sql).await;
    };
    let every = vec![json!("s-1"), json!("s-2"), json!("s-3")];
    let lock = json!({ "file_path": "k" });
    for (headers, expected) in [
        (&[][..], every.clone()),
        (&[("mcp-session-id", "c-1")], every.clone()),
        (&[("mcp-session-id", "c-new")], every.clone()),
        (&[("x-session-id", "s-2")], vec![json!("s-2")]),
        (&[("mcp-session-id", "c-1"), ("x-session-id", "s-2")], vec![json!("s-2")]),
        (&[("x-session-id", "unknown")], vec![]),
    ] {
        age().await;
        tool_later(&service, headers, "acquire_lock", lock.clone()).await;
        assert_eq!(heard(&service).await, expected, "a write over MCP: {headers:?}");
    }
    for (headers, expected) in [
        (&[][..], every.clone()),
        (&[("mcp-session-id", "c-1")], every.clone()),
        (&[("x-session-id", "s-2")], vec![json!("s-2")]),
    ] {
        age().await;
        tool_later(&service, headers, "recall", json!({})).await;
        assert_eq!(heard(&service).await, expected, "a read over MCP: {headers:?}");
    }
    for (body, expected) in
        [(json!({}), every), (json!({ "session_id": "s-1" }), vec![json!("s-1")])]
    {
        age().await;
        client.acquire("a", "j", body.clone()).await;
        assert_eq!(heard(&service).await, expected, "over HTTP: {body}");
    }
}

#[tokio::test]
async fn a_lock_of_a_hooks_session_outlives_the_work_of_its_agent_over_mcp() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("of-hook"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "of-hook", "ttl_minutes": 480 })).await;
    let claimed = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "of-hook", "lease_minutes": 600 })).await;
    for connection in ["c-1", "c-2", "c-2"] {
        pass_minutes(&service, 100).await;
        tool_later(&service, &[("mcp-session-id", connection)], "recall", json!({})).await;
    }
    let rival = client.acquire("b", "k", json!({})).await;
    assert_eq!((&rival["reason"], &rival["locked_by"]), (&json!("locked_by_other"), &json!("a")));
    assert_eq!(client.claim("b", json!({})).await["reason"], "no_tasks_available");
    let report = client.complete("a", &claimed, json!({ "session_id": "of-hook" })).await;
    assert_eq!(report["status"], "completed");
}

#[tokio::test]
async fn a_token_is_proof_enough_for_another_session_of_the_same_agent() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("before"), json!({})).await;
    register(&client, Some("after"), json!({})).await;
    let held = client.acquire("a", "k", json!({ "session_id": "before" })).await;
    let id = client.submit(json!({})).await;
    let claim = client.claim("a", json!({ "session_id": "before" })).await;
    let (token, fence) = (&claim["claim_token"], &held["fencing_token"]);
    let refused = "task_not_found_or_not_claimed_by_agent";
    let renew = async |agent: &str, more: Value| {
        let body = with(json!({ "agent_id": agent, "task_id": id }), more);
        post(&client, "/work/renew", body).await
    };

    let without = renew("a", json!({ "session_id": "after" })).await;
    assert_eq!(without["reason"], refused, "without a token the session counts");
    let stranger = renew("b", json!({ "session_id": "before", "claim_token": token })).await;
    assert_eq!(stranger["reason"], refused, "a token of another agent proves nothing");
    let wrong = renew("a", json!({ "session_id": "after", "claim_token": "c_0" })).await;
    assert_eq!(wrong["reason"], "claim_superseded");
    let renewed = renew("a", json!({ "session_id": "after", "claim_token": token })).await;
    assert_eq!(renewed["status"], "running");
    // The claim is in the session that renewed it: the end of the other one does not take it away.
    let end = json!({ "agent_id": "a", "session_id": "before" });
    let proof = json!({ "locks": [{ "file_path": "k", "fencing_token": fence }] });
    let elsewhere = client.clone().header("x-agent-id", "a").header("x-session-id", "after");
    assert_eq!(post(&elsewhere, "/locks/verify", proof).await["valid"], true);
    for (agent, more) in [
        ("a", json!({ "session_id": "after" })),
        ("a", json!({ "session_id": "after", "fencing_token": 7 })),
        ("b", json!({ "fencing_token": fence })),
    ] {
        let kept = client.release(agent, "k", more).await;
        assert_eq!(kept["reason"], "lock_not_found_or_not_owner");
    }
    let freed =
        client.release("a", "k", json!({ "session_id": "after", "fencing_token": fence })).await;
    assert_eq!(freed["action"], "released");
    assert_eq!(post(&client, "/discovery/deregister", end).await["tasks_requeued"], 0);
    let report = json!({ "session_id": "after", "claim_token": token, "result": { "n": 1 } });
    let done = client.complete("a", &id, report.clone()).await;
    assert_eq!(done["status"], "completed");
    let repeated = with(report, json!({ "session_id": "third" }));
    assert_eq!(
        client.complete("a", &id, repeated).await,
        done,
        "the token proves a repetition too"
    );
}

#[tokio::test]
async fn a_registration_lists_what_other_sessions_hold_and_adopts_it() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("before"), json!({})).await;
    let held = client.acquire("a", "k", json!({ "session_id": "before" })).await;
    let id = client.submit(json!({})).await;
    let claim = client.claim("a", json!({ "session_id": "before" })).await;
    post(&client, "/ports/allocate", json!({ "agent_id": "a", "session_id": "before" })).await;
    client.acquire("b", "of-b", json!({ "session_id": "before" })).await;

    let listed = register(&client, Some("after"), json!({})).await;
    let lists = &listed["held_elsewhere"];
    assert_eq!(listed.get("adopted"), None);
    assert_eq!(
        lists["locks"],
        json!([{ "file_path": "k", "fencing_token": held["fencing_token"], "session_id": "before",
            "expires_at": held["expires_at"] }])
    );
    assert_eq!(lists["claims"][0]["claim_token"], claim["claim_token"]);
    assert_eq!(lists["claims"][0]["session_id"], "before");
    assert_eq!(lists["ports"][0]["db_port"], 10000);
    assert_eq!(lists["truncated"], false);

    let taken = register(&client, Some("after"), json!({ "adopt": true })).await;
    assert_eq!(taken.get("held_elsewhere"), None);
    let adopted = &taken["adopted"];
    assert_eq!(adopted["locks"], lists["locks"], "the token stays valid");
    assert_eq!(adopted["claims"][0]["claim_token"], claim["claim_token"]);
    assert_eq!(adopted["ports"], lists["ports"]);
    // The end of the earlier session frees nothing any more.
    let end = json!({ "agent_id": "a", "session_id": "before" });
    let ended = post(&client, "/discovery/deregister", end).await;
    let freed = ["locks_released", "tasks_requeued", "ports_released"].map(|it| ended[it].clone());
    assert_eq!(freed, [json!(0), json!(0), json!(0)]);
    assert_eq!(client.acquire("b", "k", json!({})).await["locked_by"], "a");
    let mine = json!({ "session_id": "after" });
    assert_eq!(client.acquire("a", "k", mine.clone()).await["action"], "refreshed");
    let ports =
        post(&client, "/ports/allocate", with(mine.clone(), json!({ "agent_id": "a" }))).await;
    assert_eq!(ports["allocation"]["db_port"], 10000, "the ports stay the same");
    assert_eq!(client.complete("a", &id, mine).await["status"], "completed");
    let nothing = register(&client, Some("third"), json!({ "adopt": true })).await;
    assert_eq!(nothing["adopted"]["claims"], json!([]));
    assert_eq!(nothing["adopted"]["locks"][0]["file_path"], "k");
}

#[tokio::test]
async fn a_revived_session_adopts_locks_that_were_acquired_before_its_revival() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("silent"), json!({})).await;
    register(&client, Some("other"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "other" })).await;
    service
        .execute(
            "update agent_session set last_heartbeat_at = now() - interval '1 day'
             where session_id = 'silent'",
        )
        .await;
    let adopted = register(&client, Some("silent"), json!({ "adopt": true })).await;
    assert_eq!(
        (&adopted["revived"], &adopted["adopted"]["locks"][0]["file_path"]),
        (&json!(true), &json!("k"))
    );
    assert_eq!(holds(&client, "k").await, "a", "the revival does not take it away");
    let end = json!({ "agent_id": "a", "session_id": "silent" });
    assert_eq!(post(&client, "/discovery/deregister", end).await["locks_released"], 1);
}

#[tokio::test]
async fn without_a_connection_a_call_acts_in_the_one_live_session() {
    for revision in [&[][..], &[WITHOUT_CONNECTIONS]] {
        let service = Service::start().await;
        let lock = |key: &str| json!({ "file_path": key });
        let none = tool(&service, revision, "acquire_lock", lock("a")).await;
        assert_eq!(none["session_id"], Value::Null);
        let first = tool(&service, revision, "register_session", json!({})).await;
        let more = json!({ "current_task": "x" });
        let again = tool(&service, revision, "register_session", more).await;
        assert_eq!(first["session_id"], again["session_id"], "not a phantom: {revision:?}");
        let sessions: i64 = service.scalar("select count(*) from agent_session").await;
        assert_eq!(sessions, 1, "{revision:?}");
        let held = tool(&service, revision, "acquire_lock", lock("b")).await;
        assert_eq!(held["session_id"], first["session_id"], "{revision:?}");
        // A second live session: it is not known which of them speaks.
        let second = json!({ "session_id": "s-2" });
        tool(&service, revision, "register_session", second.clone()).await;
        let unknown = tool(&service, revision, "acquire_lock", lock("c")).await;
        assert_eq!(unknown["session_id"], Value::Null);
        let named = [revision, &[("x-session-id", "s-2")]].concat();
        let named = tool(&service, &named, "acquire_lock", lock("d")).await;
        assert_eq!(named["session_id"], "s-2");
        tool(&service, revision, "deregister_session", second).await;
        let one = tool(&service, revision, "acquire_lock", lock("e")).await;
        assert_eq!(one["session_id"], first["session_id"], "one is left: {revision:?}");
    }
}

#[tokio::test]
async fn without_a_connection_a_registration_without_a_name_is_of_the_newest_session() {
    let service = Service::start().await;
    for session in ["s-1", "s-2"] {
        tool(&service, &[], "register_session", json!({ "session_id": session })).await;
    }
    let lock = [("x-session-id", "s-1")];
    tool(&service, &lock, "acquire_lock", json!({ "file_path": "k" })).await;
    for _ in 0..2 {
        let again = tool(&service, &[], "register_session", json!({})).await;
        assert_eq!(again["session_id"], "s-2");
        assert_eq!(again["held_elsewhere"]["locks"][0]["session_id"], "s-1");
    }
    let other = [("x-agent-type", "other")];
    let other = tool(&service, &other, "register_session", json!({})).await;
    assert!(other["session_id"].as_str().is_some_and(|id| id.starts_with("a-")), "{other}");
    let connection = [("mcp-session-id", "c-1")];
    let own = tool(&service, &connection, "register_session", json!({})).await;
    assert_ne!(own["session_id"], other["session_id"]);
    let sessions: i64 = service.scalar("select count(*) from agent_session").await;
    assert_eq!(sessions, 4);
}

#[tokio::test]
async fn a_call_over_mcp_does_not_wait_for_its_own_agent() {
    let service = Service::start().await;
    for session in ["s-1", "s-2"] {
        tool(&service, &[], "register_session", json!({ "session_id": session })).await;
    }
    let (first, second) = ([("x-session-id", "s-1")], [("x-session-id", "s-2")]);
    let held = tool(&service, &first, "acquire_lock", json!({ "file_path": "k" })).await;
    let waits = json!({ "file_path": "k", "wait_seconds": 50 });
    let call = tool(&service, &second, "acquire_lock", waits.clone());
    let refused = tokio::time::timeout(PATIENCE, call).await.expect("answered at once");
    assert_eq!(refused["reason"], "locked_by_other_session", "{refused}");
    assert_eq!((&refused["same_agent"], &refused["session_id"]), (&json!(true), &json!("s-1")));
    assert_eq!(refused["position"], json!(null), "it left the queue");
    let note = refused["note"].as_str().expect("how to go on");
    for word in ["`s-1`", "fencing token", "`adopt`"] {
        assert!(note.contains(word), "{note}");
    }
    assert_eq!(service.scalar::<i64>("select count(*) from lock_waiter").await, 0);
    let refusals =
        "select count(*) from audit_log where operation = 'acquire_lock' and not success";
    assert_eq!(service.scalar::<i64>(refusals).await, 1);
    let release = json!({ "file_path": "k", "fencing_token": held["fencing_token"] });
    assert_eq!(tool(&service, &second, "release_lock", release).await["success"], true);
    // A call that waits for another agent ends when a session of its own agent takes the lock.
    let other = service.client();
    let token = other.acquire("b", "k", json!({})).await["fencing_token"].clone();
    let waiting = async || service.scalar::<i64>("select count(*) from lock_waiter").await;
    let ahead = [("x-session-id", "s-1"), ("mcp-session-id", "c-1")];
    let ahead =
        tool(&service, &ahead, "acquire_lock", json!({ "file_path": "k", "wait_seconds": 50 }));
    let handed_over = async {
        eventually("it waits", waiting, |count| *count == 1).await;
        let behind = tool(&service, &second, "acquire_lock", waits.clone());
        let released = async {
            eventually("both wait", waiting, |count| *count == 2).await;
            other.release("b", "k", json!({ "fencing_token": token })).await
        };
        tokio::join!(behind, released).0
    };
    let (got, refused) = tokio::join!(ahead, handed_over);
    assert_eq!(got["action"], "acquired", "{got}");
    assert_eq!((&refused["same_agent"], &refused["session_id"]), (&json!(true), &json!("s-1")));
    assert_eq!(refused["position"], json!(null), "it left the queue");
}

#[tokio::test]
async fn a_revived_session_is_told_once_what_it_lost_over_every_door() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    let connection = [("mcp-session-id", "c-1")];
    tool(&service, &connection, "register_session", json!({ "session_id": "s" })).await;
    let named = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" });
    let lock = with(named.clone(), json!({ "file_path": "free" }));
    let header = client.clone().header("x-agent-id", "a").header("x-session-id", "s");
    for what in ["heartbeat", "register", "write", "read", "profile", "tool", "idempotent"] {
        client.acquire("a", "k", json!({ "session_id": "s" })).await;
        client.submit(json!({})).await;
        let claim = client.claim("a", json!({ "session_id": "s" })).await;
        post(&client, "/ports/allocate", json!({ "agent_id": "a", "session_id": "s" })).await;
        pass_minutes(&service, 130).await;
        // Others take all of it.
        assert_eq!(client.acquire("b", "k", json!({})).await["action"], "acquired");
        assert_eq!(client.claim("b", json!({})).await["task_id"], claim["task_id"]);
        post(&client, "/ports/allocate", json!({ "agent_id": "b", "session_id": "b" })).await;
        let call = async || match what {
            "heartbeat" => post(&client, "/discovery/heartbeat", named.clone()).await,
            "register" => post(&client, "/discovery/register", named.clone()).await,
            "write" => post(&client, "/locks/acquire", lock.clone()).await,
            // A process records the heartbeat of a reader at most once in ten seconds.
            "read" | "profile" => {
                let fresh = service.replica(&[]).await.header("x-api-key", FREE);
                let fresh = fresh.header("x-agent-id", "a").header("x-session-id", "s");
                let path = if what == "read" { "/locks" } else { "/profiles/me" };
                fresh.get(path).await.json
            }
            "tool" => {
                tool(&service, &connection, "acquire_lock", json!({ "file_path": "free" })).await
            }
            _ => {
                post(&header.clone().header("idempotency-key", "i"), "/locks/acquire", lock.clone())
                    .await
            }
        };
        let told = call().await;
        assert_eq!(told["revived"], true, "{what}: {told}");
        let lost = &told["lost"];
        let locks = lost["locks"].as_array().expect("a list");
        assert!(locks.iter().any(|it| it["file_path"] == "k"), "{what}: {told}");
        assert_eq!(lost["claims"].as_array().map(Vec::len), Some(1), "{what}: {told}");
        assert_eq!(lost["claims"][0]["claim_token"], claim["claim_token"], "{what}");
        assert_eq!(lost["ports"], json!([{ "session_id": "s", "db_port": 10000 }]), "{what}");
        let again = call().await;
        assert_eq!((again.get("revived"), again.get("lost")), (None, None), "{what}: {again}");
        client.release("b", "k", json!({})).await;
        post(&client, "/ports/release", json!({ "agent_id": "b", "session_id": "b" })).await;
        let id = claim["task_id"].as_str().expect("an id");
        client.complete("b", id, json!({})).await;
    }
}

#[tokio::test]
async fn reading_a_resource_tells_what_the_session_of_its_reader_has_lost() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    let mcp = Mcp::new(client.clone().header("x-agent-id", "a"));
    let resources = mcp.ask("resources/list", json!({})).await["resources"].clone();
    let uris: Vec<_> = resources.as_array().expect("a list").iter().map(|it| &it["uri"]).collect();
    assert!(uris.len() >= 7, "{uris:?}");
    for uri in uris {
        let uri = uri.as_str().expect("a URI");
        client.acquire("a", "k", json!({ "session_id": "s" })).await;
        let id = client.submit(json!({})).await;
        let claim = client.claim("a", json!({ "session_id": "s" })).await;
        post(&client, "/ports/allocate", json!({ "agent_id": "a", "session_id": "s" })).await;
        pass_minutes(&service, 130).await;
        // A process records the heartbeat of a reader at most once in ten seconds.
        let fresh = service.replica(&[]).await.header("x-api-key", FREE);
        let fresh = Mcp::new(fresh.header("x-agent-id", "a").header("x-session-id", "s"));
        let text = fresh.read(uri).await;
        let next = fresh.tool("acquire_lock", json!({ "file_path": "j" })).await;
        if text.contains("live again") {
            for part in [r#""file_path":"k""#, &format!(r#""task_id":"{id}""#), r#""db_port":"#] {
                assert!(text.contains(part), "{uri}: {text}");
            }
            assert_eq!((next.get("revived"), next.get("lost")), (None, None), "{uri}: {next}");
        } else {
            // A list has no place for it, and leaves it to the next call.
            let lost = &next["lost"];
            assert_eq!(
                (&next["revived"], &lost["locks"][0]["file_path"]),
                (&json!(true), &json!("k")),
                "{uri}: {next}"
            );
            assert_eq!(lost["claims"][0]["task_id"], json!(id), "{uri}: {next}");
        }
        let again = fresh.read(uri).await;
        assert!(!again.contains("live again"), "{uri}: once: {again}");
        let proof = json!({ "claim_token": claim["claim_token"] });
        assert_eq!(client.complete("a", &id, proof).await["status"], "completed", "{uri}");
    }
}

#[tokio::test]
async fn a_list_leaves_a_lost_session_as_it_is() {
    let service = Service::start().await;
    register(&service.client(), Some("s"), json!({})).await;
    pass_minutes(&service, 130).await;
    let header = service.client().header("x-agent-id", "a").header("x-session-id", "s");
    assert_eq!(header.get("/ports/status").await.json, json!([]));
    let told = header.get("/locks").await.json;
    assert_eq!(told["revived"], true, "the first answer that is an object tells it");
}

#[tokio::test]
async fn a_registration_tells_what_sessions_of_its_agent_have_lost() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    pass_minutes(&service, 130).await;
    let boss = service.client_with(BOSS);
    post(&boss, "/maintenance/run", json!({ "tasks": ["sessions"] })).await;
    let lost = json!([{ "file_path": "k", "fencing_token": 1, "session_id": "s" }]);
    let new = register(&client, None, json!({})).await;
    assert_eq!((&new["lost"]["locks"], new.get("revived")), (&lost, None));
    assert_eq!(register(&client, None, json!({})).await.get("lost"), None, "once");
    let back =
        post(&client, "/discovery/heartbeat", json!({ "agent_id": "a", "session_id": "s" })).await;
    assert_eq!((&back["revived"], &back["lost"]["locks"]), (&json!(true), &lost), "and itself");
}

#[tokio::test]
async fn the_end_of_a_session_by_its_subagent_is_told_to_the_parent() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("parent"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "parent" })).await;
    let end = json!({ "agent_id": "a", "session_id": "parent" });
    assert_eq!(post(&client, "/discovery/deregister", end).await["locks_released"], 1);
    let next = register(&client, Some("other"), json!({})).await;
    assert_eq!(next.get("lost"), None, "the answer of the end has told it");
    let parent = client.acquire("a", "j", json!({ "session_id": "parent" })).await;
    assert_eq!((&parent["action"], &parent["revived"]), (&json!("acquired"), &json!(true)));
    assert_eq!(parent["lost"]["locks"][0]["file_path"], "k");
}

#[tokio::test]
async fn a_call_that_fails_does_not_swallow_the_losses() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    let register = async || {
        let body = json!({ "agent_id": "", "agent_type": "", "session_id": "s" });
        post(&client, "/discovery/register", body).await
    };
    let of = |key: &str, session: Value| json!({ "file_path": key, "agent_id": "", "agent_type": "", "session_id": session });
    service.execute("update profile set max_file_modifications = 1 where max_file_modifications is not null").await;
    register().await;
    post(&client, "/locks/acquire", of("k", json!("s"))).await;
    pass_minutes(&service, 130).await;
    post(&client, "/locks/acquire", of("unnamed", Value::Null)).await;
    // Denied before it runs: the session stays lost.
    let denied = client.clone().header("x-session-id", "s").delete("/locks/k").await;
    assert_eq!(denied.status, 403);
    // Denied by the limit, in the transaction that follows the revival.
    let limited = client.post("/locks/acquire", of("more", json!("s"))).await;
    assert_eq!(limited.status, 403, "{}", limited.text);
    let told = register().await;
    assert_eq!(told["revived"], true, "the denied call has revived it, and told nobody");
    assert_eq!(
        told["lost"]["locks"],
        json!([{ "file_path": "k", "fencing_token": 1, "session_id": "s" }])
    );
    assert_eq!(register().await.get("lost"), None);
}

/// Lets the time pass after which another call tells what no answer has told.
const ANSWER_STAYS_AWAY: &str = "update agent_session set untold_at =
    (untold_at at time zone 'utc' - interval '1 minute') at time zone 'utc'";

#[tokio::test]
async fn a_call_whose_client_goes_away_does_not_swallow_the_losses() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    pass_minutes(&service, 130).await;
    client.acquire("b", "busy", json!({})).await;
    let wait = json!({ "session_id": "s", "wait_seconds": 30 });
    let waits = "select count(*) from lock_waiter";
    tokio::select! {
        answer = client.acquire("a", "busy", wait) => panic!("not answered yet: {answer}"),
        _ = eventually("waits", async || service.scalar::<i64>(waits).await, |it| *it == 1) => {}
    }
    // The client is gone. Within ten seconds the call could still answer.
    let early = client.acquire("a", "j", json!({ "session_id": "s" })).await;
    assert_eq!((&early["action"], early.get("revived")), (&json!("acquired"), None));
    service.execute(ANSWER_STAYS_AWAY).await;
    // A list has no place for it, and leaves it to the next answer.
    let header = client.clone().header("x-agent-id", "a").header("x-session-id", "s");
    assert_eq!(header.get("/ports/status").await.json, json!([]));
    let told = client.acquire("a", "i", json!({ "session_id": "s" })).await;
    assert_eq!((&told["action"], &told["revived"]), (&json!("acquired"), &json!(true)));
    assert_eq!(
        told["lost"]["locks"],
        json!([{ "file_path": "k", "fencing_token": 1, "session_id": "s" }])
    );
    assert_eq!(holds(&client, "j").await, "a", "what was acquired after the revival is kept");
    service.execute(ANSWER_STAYS_AWAY).await;
    let again = client.acquire("a", "i", json!({ "session_id": "s" })).await;
    assert_eq!((&again["action"], again.get("lost")), (&json!("refreshed"), None));
}

#[tokio::test]
async fn a_call_that_waits_longer_than_others_leave_it_tells_the_losses_all_the_same() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    pass_minutes(&service, 130).await;
    client.acquire("b", "busy", json!({})).await;
    let wait = json!({ "session_id": "s", "wait_seconds": 30 });
    let free = async {
        let waits = "select count(*) from lock_waiter";
        eventually("waits", async || service.scalar::<i64>(waits).await, |it| *it == 1).await;
        service.execute(ANSWER_STAYS_AWAY).await;
        client.release("b", "busy", json!({})).await;
    };
    let (told, ()) = join(client.acquire("a", "busy", wait), free).await;
    assert_eq!((&told["action"], &told["revived"]), (&json!("acquired"), &json!(true)), "{told}");
    assert_eq!(told["lost"]["locks"][0]["file_path"], "k", "{told}");
}

#[tokio::test]
async fn more_losses_than_an_answer_has_place_for_are_told_by_the_next_ones() {
    let service = Service::start().await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    let locks =
        "insert into file_lock (workspace, key, token, is_file, agent_id, agent_type, session_id,
            locked_at, expires_at)
        select 'default', 'k-' || n, 1, true, 'a', 't', 's', clock_timestamp(),
            clock_timestamp() + interval '4 hours'
        from generate_series(1, 120) n";
    service.execute(locks).await;
    let told = async |answer: Value| {
        let count = answer["lost"]["locks"].as_array().map_or(0, Vec::len);
        (count, answer["lost"]["truncated"] == true)
    };
    pass_minutes(&service, 130).await;
    let call = async || client.acquire("a", "j", json!({ "session_id": "s" })).await;
    let answers = [told(call().await).await, told(call().await).await, told(call().await).await];
    assert_eq!(answers, [(100, true), (20, false), (0, false)], "its own calls");
    // What others free of a lost session is told to registrations in the same way.
    let again = locks.replace("k-", "m-");
    service.execute(&again).await;
    pass_minutes(&service, 130).await;
    let boss = service.client_with(BOSS);
    post(&boss, "/maintenance/run", json!({ "tasks": ["sessions"] })).await;
    let call = async || register(&client, Some("other"), json!({})).await;
    let answers = [told(call().await).await, told(call().await).await, told(call().await).await];
    assert_eq!(answers, [(100, true), (21, false), (0, false)], "registrations");
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_expires_with_its_lease() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "20")]).await;
    let client = service.client();
    register(&client, Some("s"), json!({})).await;
    let mine = json!({ "session_id": "s", "lease_minutes": 60 });
    let lost = client.submit(json!({ "priority": 1 })).await;
    client.submit(json!({ "priority": 2 })).await;
    let claim = client.claim("a", mine.clone()).await;
    assert_eq!((claim["task_id"].as_str(), claim.get("open_claims")), (Some(&*lost), None));
    let left = async |column: &str| -> f64 {
        let sql = format!(
            "select extract(epoch from {column} - clock_timestamp())::float8 / 60 from work_task
             where id = '{lost}'"
        );
        service.scalar(&sql).await
    };
    let age = async || {
        let sql = "update work_task set lease_expires_at =
                (lease_expires_at at time zone 'utc' - interval '15 minutes') at time zone 'utc',
            claim_expires_at =
                (claim_expires_at at time zone 'utc' - interval '15 minutes') at time zone 'utc'
            where claimed_by is not null";
        service.execute(sql).await;
    };
    age().await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    assert!(left("lease_expires_at").await < 46.0, "other calls do not extend the lease");
    assert!(left("claim_expires_at").await > 19.0, "but the session is alive");
    // The next claim names it, and from then on it is renewed.
    let next = client.claim("a", mine.clone()).await;
    assert_ne!(next["task_id"], json!(lost));
    let open = &next["open_claims"];
    assert_eq!(open.as_array().map(Vec::len), Some(1), "{open}");
    assert_eq!((&open[0]["task_id"], &open[0]["renewed"]), (&json!(lost), &json!(false)));
    assert_eq!(open[0]["claim_token"], claim["claim_token"]);
    age().await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    assert!(left("lease_expires_at").await > 59.0);
    let mine = client.clone().header("x-agent-id", "a").get("/work?mine=true").await.json;
    let tokens: Vec<_> =
        mine["tasks"].as_array().expect("tasks").iter().map(|it| &it["claim_token"]).collect();
    assert_eq!(tokens, [&claim["claim_token"], &next["claim_token"]]);
    let others = client.clone().header("x-agent-id", "b").get("/work?mine=true").await.json;
    assert_eq!(others["count"], 0);
    let all = client.clone().header("x-agent-id", "b").get("/work").await.json;
    assert_eq!(all["tasks"][0].get("claim_token"), None, "a token is shown to its agent alone");
}

#[tokio::test]
async fn a_claim_that_only_a_list_has_shown_is_renewed() {
    let service = Service::start().await;
    let client = service.client();
    client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    let known = "select is_claim_known from work_task";
    assert!(!service.scalar::<bool>(known).await);
    client.clone().header("x-agent-id", "a").get("/work").await;
    client.clone().header("x-agent-id", "b").get("/work?mine=true").await;
    assert!(!service.scalar::<bool>(known).await, "neither list shows the token to its agent");
    client.clone().header("x-agent-id", "a").get("/work?mine=true").await;
    assert!(service.scalar::<bool>(known).await);
}

#[tokio::test]
async fn a_new_connection_after_the_end_of_one_finds_what_its_session_holds() {
    let service = Service::start().await;
    let before = [("mcp-session-id", "c-1")];
    tool(&service, &before, "register_session", json!({ "session_id": "s" })).await;
    tool(&service, &before, "acquire_lock", json!({ "file_path": "k" })).await;
    let gone = service.client().header("x-agent-id", "a").header("mcp-session-id", "c-1");
    assert_eq!(gone.delete("/mcp").await.status, 204);
    let after = [("mcp-session-id", "c-2")];
    let new = tool(&service, &after, "register_session", json!({ "adopt": true })).await;
    assert_eq!(new["adopted"]["locks"][0]["session_id"], "s");
    let own = tool(&service, &after, "acquire_lock", json!({ "file_path": "k" })).await;
    assert_eq!((&own["action"], &own["session_id"]), (&json!("refreshed"), &new["session_id"]));
}

#[tokio::test]
async fn losses_are_kept_for_a_week() {
    let service = Service::start().await;
    service
        .execute(
            "insert into session_loss
                (workspace, agent_id, session_id, kind, name, token, since, lost_at)
             select 'default', 'a', 's', 'lock', days::text, '1', now(),
                now() - days * interval '1 day'
             from generate_series(6, 8) days",
        )
        .await;
    let boss = service.client_with(BOSS);
    let deleted = post(&boss, "/maintenance/run", json!({ "tasks": ["retention"] })).await;
    assert_eq!(deleted["rows_deleted"], 2);
    assert_eq!(service.scalar::<i64>("select count(*) from session_loss").await, 1);
}

#[tokio::test]
async fn windows_of_one_bound_key_keep_one_another_alive_and_tell_their_locks_apart() {
    let service = Service::start().await;
    let client = service.client_with(CODEX);
    let own = |more: Value| with(json!({ "agent_id": "", "agent_type": "" }), more);
    for window in ["w-1", "w-2"] {
        post(&client, "/discovery/register", own(json!({ "session_id": window }))).await;
    }
    post(&client, "/locks/acquire", own(json!({ "file_path": "k", "session_id": "w-1" }))).await;
    pass_minutes(&service, 100).await;
    // A call without a session, as a script of one of the windows makes it.
    post(&client, "/locks/acquire", own(json!({ "file_path": "j" }))).await;
    pass_minutes(&service, 100).await;
    let lock = own(json!({ "file_path": "k", "session_id": "w-2" }));
    let refused = post(&client, "/locks/acquire", lock).await;
    assert_eq!(refused["reason"], "locked_by_other_session", "{refused}");
    assert_eq!((&refused["same_agent"], &refused["session_id"]), (&json!(true), &json!("w-1")));
}
