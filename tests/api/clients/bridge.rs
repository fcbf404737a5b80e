//! The common part of the two generations of the HTTP bridge: detection, the result that they derive from
//! an answer, and most of their requests.
use http::Method;
use serde_json::{Value, json};

use super::{Sender, names};
use crate::support::Service;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    Earlier,
    Later,
}

use Generation::{Earlier, Later};

pub(super) struct Bridge {
    generation: Generation,
    /// For `/health`, which is requested without a key.
    open: Sender,
    pub(super) keyed: Sender,
}

/// A flag of the detection, its name in the map of capabilities, and its probes.
struct Flag {
    name: &'static str,
    capability: &'static str,
    probes: &'static [&'static str],
}

const fn flag(
    name: &'static str,
    capability: &'static str,
    probes: &'static [&'static str],
) -> Flag {
    Flag { name, capability, probes }
}

const EARLIER: [Flag; 5] = [
    flag("CAN_LOCK", "lock", &["POST /locks/acquire"]),
    flag("CAN_QUEUE_WORK", "queue_work", &["POST /work/claim"]),
    flag(
        "CAN_HANDOFF",
        "handoff",
        &["POST /handoff/write", "POST /handoffs/write", "GET /handoffs/latest"],
    ),
    flag("CAN_MEMORY", "memory", &["POST /memory/query"]),
    flag("CAN_GUARDRAILS", "guardrails", &["POST /guardrails/check"]),
];

const LATER: [Flag; 9] = [
    flag("CAN_LOCK", "lock", &["POST /locks/acquire"]),
    flag("CAN_QUEUE_WORK", "queue_work", &["POST /work/claim"]),
    flag("CAN_HANDOFF", "handoff", &["POST /handoffs/write"]),
    flag("CAN_MEMORY", "memory", &["POST /memory/query"]),
    flag("CAN_GUARDRAILS", "guardrails", &["POST /guardrails/check"]),
    flag("CAN_FEATURE_REGISTRY", "feature_registry", &["GET /features/active"]),
    flag("CAN_MERGE_QUEUE", "merge_queue", &["GET /merge-queue"]),
    flag("CAN_ISSUES", "", &["POST /issues/list"]),
    flag("CAN_CODE_SEARCH", "code_search", &["GET /search/code/status"]),
];

impl Bridge {
    /// A bridge with a key, or without one.
    pub(super) fn new(service: &Service, generation: Generation, key: Option<&str>) -> Self {
        let keyed = match key {
            Some(key) => service.client_with(key),
            None => service.anonymous(),
        };
        let sender = |client| match generation {
            Earlier => Sender::new(client, "coordination-bridge/1"),
            Later => {
                let sender = Sender::new(client, "coordination-bridge/2");
                let client = sender.client.header("cf-access-client-id", "id.access");
                Sender { client: client.header("cf-access-client-secret", "secret") }
            }
        };
        Self { generation, open: sender(service.anonymous()), keyed: sender(keyed) }
    }

    fn flags(&self) -> &'static [Flag] {
        match self.generation {
            Earlier => &EARLIER,
            Later => &LATER,
        }
    }

    /// Why the service counts as unavailable. `None` when it is available.
    async fn unavailable(&self) -> Option<String> {
        let status = self.open.get("/health").await.status.as_u16();
        (status == 404 || status >= 500).then(|| format!("health_status_{status}"))
    }

    /// Whether a probe finds its route.
    async fn finds(&self, probe: &str) -> bool {
        let (method, path) = probe.split_once(' ').expect("a method and a path");
        let method: Method = method.parse().expect("a method");
        let payload = (method == Method::POST).then(|| json!({}));
        let answer = self.keyed.send(method, path, payload.as_ref()).await;
        let status = answer.status.as_u16();
        if path == "/search/code/status" {
            let ready = json!({ "available": true, "state": "ready", "reason": "ready" });
            return status == 200
                && ready.as_object().expect("members").iter().all(|(k, v)| answer.json[k] == *v)
                && answer.json["usable_index_count"].as_i64() >= Some(1);
        }
        !([401, 403, 404].contains(&status) || status >= 500)
    }

    async fn has(&self, flag: &Flag) -> bool {
        for probe in flag.probes {
            if self.finds(probe).await {
                return true;
            }
        }
        false
    }

    /// The state that the bridge prints.
    pub(super) async fn detect(&self) -> Value {
        let unavailable = self.unavailable().await;
        let available = unavailable.is_none();
        let mut state = json!({
            "status": if available { "ok" } else { "skipped" },
            "COORDINATOR_AVAILABLE": available,
            "COORDINATION_TRANSPORT": if available { "http" } else { "none" },
            "reason": unavailable.unwrap_or("http_reachable".to_owned()),
            "capabilities": {},
        });
        for flag in self.flags() {
            let has = available && self.has(flag).await;
            state[flag.name] = has.into();
            if !flag.capability.is_empty() {
                state["capabilities"][flag.capability] = has.into();
            }
        }
        state
    }

    /// The result of an operation that needs a flag and has several forms. The bridge uses the first form
    /// whose route exists.
    async fn attempt(&self, flag: &str, forms: &[(&str, Option<&Value>)]) -> Value {
        let skipped = |reason: &str| json!({ "status": "skipped", "reason": reason });
        if self.unavailable().await.is_some() {
            return skipped("coordinator_unavailable");
        }
        let flag = self.flags().iter().find(|it| it.name == flag);
        match flag {
            Some(flag) if self.has(flag).await => {}
            _ => return skipped("capability_unavailable"),
        }
        for (n, (form, payload)) in forms.iter().enumerate() {
            let (method, path) = form.split_once(' ').expect("a method and a path");
            let answer = self.keyed.send(method.parse().expect("a method"), path, *payload).await;
            let status = answer.status.as_u16();
            let response = match answer.text.as_str() {
                "" => json!({}),
                text => serde_json::from_str(text).unwrap_or(json!({ "raw": text })),
            };
            return match status {
                404 if n + 1 < forms.len() => continue,
                404 => skipped("capability_unavailable"),
                401 | 403 => skipped("unauthorized"),
                500.. => skipped("coordinator_unreachable"),
                _ => {
                    let outcome = if (200..300).contains(&status) { "ok" } else { "error" };
                    json!({ "status": outcome, "status_code": status, "response": response })
                }
            };
        }
        unreachable!("an operation has a form")
    }

    /// The result of an operation of one form.
    pub(super) async fn attempt_post(&self, flag: &str, path: &str, payload: Value) -> Value {
        self.attempt(flag, &[(&format!("POST {path}"), Some(&payload))]).await
    }

    /// The answer to an operation whose result is `ok`.
    pub(super) async fn done(&self, flag: &str, path: &str, payload: Value) -> Value {
        let mut result = self.attempt_post(flag, path, payload).await;
        assert_eq!((&result["status"], &result["status_code"]), (&json!("ok"), &json!(200)));
        result["response"].take()
    }

    pub(super) async fn handoff_write(&self, payload: Value) -> Value {
        let payload = Some(&payload);
        match self.generation {
            Earlier => {
                let forms = ["POST /handoff/write", "POST /handoffs/write", "POST /handoffs"];
                self.attempt("CAN_HANDOFF", &forms.map(|it| (it, payload))).await
            }
            Later => self.attempt("CAN_HANDOFF", &[("POST /handoffs/write", payload)]).await,
        }
    }

    pub(super) async fn handoff_read(&self, payload: Value) -> Value {
        let payload = Some(&payload);
        let forms = match self.generation {
            Earlier => vec![
                ("POST /handoff/read", payload),
                ("POST /handoffs/read", payload),
                ("GET /handoffs/latest", None),
            ],
            Later => vec![("POST /handoffs/read", payload)],
        };
        self.attempt("CAN_HANDOFF", &forms).await
    }
}

/// The state of a bridge with a valid key: all core capabilities are found.
pub(super) fn everything(generation: Generation) -> Value {
    let mut state = json!({
        "status": "ok",
        "COORDINATOR_AVAILABLE": true,
        "COORDINATION_TRANSPORT": "http",
        "reason": "http_reachable",
        "capabilities": {
            "lock": true, "queue_work": true, "handoff": true, "memory": true, "guardrails": true,
        },
    });
    for name in ["CAN_LOCK", "CAN_QUEUE_WORK", "CAN_HANDOFF", "CAN_MEMORY", "CAN_GUARDRAILS"] {
        state[name] = true.into();
    }
    if generation == Later {
        for name in ["CAN_FEATURE_REGISTRY", "CAN_MERGE_QUEUE", "CAN_ISSUES", "CAN_CODE_SEARCH"] {
            state[name] = false.into();
        }
        for name in ["feature_registry", "merge_queue", "code_search"] {
            state["capabilities"][name] = false.into();
        }
    }
    state
}

/// The state of a bridge that is denied everything, or that finds no service.
pub(super) fn nothing(generation: Generation, status: &str, reason: &str) -> Value {
    let mut state = everything(generation);
    for (name, value) in state.as_object_mut().expect("an object") {
        if name.starts_with("CAN_") {
            *value = false.into();
        }
    }
    for value in state["capabilities"].as_object_mut().expect("an object").values_mut() {
        *value = false.into();
    }
    state["status"] = status.into();
    state["reason"] = reason.into();
    state["COORDINATOR_AVAILABLE"] = (status == "ok").into();
    state["COORDINATION_TRANSPORT"] = if status == "ok" { "http" } else { "none" }.into();
    state
}

/// Detection with every kind of key and without a database. It changes nothing.
pub(super) async fn detects(generation: Generation, keys: &[&str]) {
    let service = Service::start().await;
    let before = service.contents().await;
    for key in keys {
        let state = Bridge::new(&service, generation, Some(key)).detect().await;
        assert_eq!(state, everything(generation), "{key}");
    }
    for key in [Some("wrong"), None] {
        let state = Bridge::new(&service, generation, key).detect().await;
        assert_eq!(state, nothing(generation, "ok", "http_reachable"), "{key:?}");
    }
    assert_eq!(service.contents().await, before);
    let down = super::without_database().await;
    let state = Bridge::new(&down, generation, Some(keys[0])).detect().await;
    assert_eq!(state, nothing(generation, "skipped", "health_status_503"));
    let lock =
        Bridge::new(&down, generation, Some(keys[0])).try_lock("a", "a-1", Value::Null).await;
    assert_eq!(lock, json!({ "status": "skipped", "reason": "coordinator_unavailable" }));
}

impl Bridge {
    pub(super) async fn try_lock(&self, key: &str, agent: &str, session: Value) -> Value {
        let payload = json!({
            "file_path": key, "agent_id": agent, "agent_type": "claude_code",
            "session_id": session, "reason": null, "ttl_minutes": 30,
        });
        self.attempt_post("CAN_LOCK", "/locks/acquire", payload).await
    }

    async fn submit(&self, depends_on: Value) -> Value {
        let payload = json!({
            "task_type": "test", "task_description": "run the suite",
            "input_data": { "suite": "unit" }, "priority": 5, "depends_on": depends_on,
        });
        self.done("CAN_QUEUE_WORK", "/work/submit", payload).await
    }

    async fn claim(&self, task_types: Value) -> Value {
        let payload =
            json!({ "agent_id": "codex-9", "agent_type": "codex", "task_types": task_types });
        self.done("CAN_QUEUE_WORK", "/work/claim", payload).await
    }
}

/// `ok` means that the service answered. `success` in the answer says whether the lock is held.
pub(super) async fn locks(generation: Generation) {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, generation, Some(crate::support::FREE));
    let held = bridge.try_lock("./src//a.rs", "claude-1", "s-1".into()).await;
    assert_eq!((&held["status"], &held["status_code"]), (&json!("ok"), &json!(200)));
    let held = &held["response"];
    assert_eq!(
        names(held)[..7],
        ["success", "action", "file_path", "expires_at", "reason", "locked_by", "lock_reason"]
    );
    assert_eq!(
        (&held["success"], &held["action"], &held["file_path"]),
        (&json!(true), &json!("acquired"), &json!("src/a.rs"))
    );
    assert!(held["expires_at"].is_string() && held["fencing_token"].is_i64());
    let again = bridge.try_lock("src/a.rs", "claude-1", Value::Null).await;
    assert_eq!(again["response"]["action"], "refreshed");
    let contended = bridge.try_lock("src/a.rs", "claude-2", Value::Null).await;
    assert_eq!(contended["status"], "ok");
    let contended = &contended["response"];
    assert_eq!(
        (&contended["success"], &contended["reason"], &contended["locked_by"]),
        (&json!(false), &json!("locked_by_other"), &json!("claude-1"))
    );
    for (agent, expected) in [
        (
            "claude-2",
            json!({
                "success": false, "action": null, "file_path": null,
                "reason": "lock_not_found_or_not_owner",
            }),
        ),
        (
            "claude-1",
            json!({
                "success": true, "action": "released", "file_path": "src/a.rs", "reason": null,
            }),
        ),
    ] {
        let payload = json!({ "file_path": "src/a.rs", "agent_id": agent });
        assert_eq!(bridge.done("CAN_LOCK", "/locks/release", payload).await, expected);
    }
}

pub(super) async fn work(generation: Generation) {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, generation, Some(crate::support::FREE));
    let first = bridge.submit(Value::Null).await;
    assert_eq!((&first["success"], &first["reason"]), (&json!(true), &Value::Null));
    let id = first["task_id"].clone();
    let second = bridge.submit(json!([id])).await["task_id"].clone();
    assert_eq!(bridge.claim(json!(["review"])).await["reason"], "no_tasks_available");
    let mut claimed = bridge.claim(Value::Null).await;
    for name in ["attempt", "claim_token", "lease_expires_at"] {
        assert!(claimed.as_object_mut().expect("an object").remove(name).is_some(), "{name}");
    }
    assert_eq!(
        claimed,
        json!({
            "success": true, "task_id": id, "task_type": "test", "description": "run the suite",
            "input_data": { "suite": "unit" }, "priority": 5, "deadline": null, "reason": null,
        })
    );
    let nothing = bridge.claim(Value::Null).await;
    assert_eq!(
        (&nothing["success"], &nothing["task_id"], &nothing["reason"]),
        (&json!(false), &Value::Null, &json!("no_tasks_available"))
    );
    let report = |id: &Value, success: bool, result: Value, error: Value| {
        json!({
            "task_id": id, "agent_id": "codex-9", "success": success, "result": result,
            "error_message": error,
        })
    };
    let complete = async |payload| bridge.done("CAN_QUEUE_WORK", "/work/complete", payload).await;
    let completed = complete(report(&id, true, json!({ "passed": 3 }), Value::Null)).await;
    assert_eq!(
        (&completed["success"], &completed["status"], &completed["task_id"], &completed["reason"]),
        (&json!(true), &json!("completed"), &id, &Value::Null)
    );
    // Only now can the other task be claimed.
    assert_eq!(bridge.claim(json!(["test"])).await["task_id"], second);
    let failed = complete(report(&second, false, Value::Null, "no disk".into())).await;
    assert_eq!((&failed["success"], &failed["status"]), (&json!(true), &json!("failed")));
    let unknown = json!("1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1");
    let refused = complete(report(&unknown, true, Value::Null, Value::Null)).await;
    assert_eq!(
        (&refused["success"], &refused["reason"]),
        (&json!(false), &json!("task_not_found_or_not_claimed_by_agent"))
    );
    let malformed = report(&json!("7"), true, Value::Null, Value::Null);
    let error = bridge.attempt_post("CAN_QUEUE_WORK", "/work/complete", malformed).await;
    assert_eq!((&error["status"], &error["status_code"]), (&json!("error"), &json!(422)));
    assert!(error["response"]["detail"].is_array());
}

pub(super) async fn memory(generation: Generation) {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, generation, Some(crate::support::FREE));
    let memory = json!({
        "agent_id": "claude-1", "session_id": null, "event_type": "decision",
        "summary": "one pool", "details": null, "outcome": null, "lessons": null, "tags": null,
    });
    let stored = bridge.done("CAN_MEMORY", "/memory/store", memory.clone()).await;
    assert_eq!(names(&stored), ["success", "memory_id", "action"]);
    assert_eq!((&stored["success"], &stored["action"]), (&json!(true), &json!("created")));
    let merged = bridge.done("CAN_MEMORY", "/memory/store", memory).await;
    assert_eq!(
        merged,
        json!({ "success": true, "memory_id": stored["memory_id"], "action": "deduplicated" })
    );
    let full = json!({
        "agent_id": "claude-1", "session_id": "s-1", "event_type": "error", "summary": "E0308",
        "details": { "file": "a.rs" }, "outcome": "negative", "lessons": ["read it"],
        "tags": ["rust"],
    });
    assert_eq!(bridge.done("CAN_MEMORY", "/memory/store", full).await["action"], "created");
    let recall = async |tags: Value, event_type: Value| {
        let payload =
            json!({ "agent_id": "claude-1", "tags": tags, "event_type": event_type, "limit": 10 });
        bridge.done("CAN_MEMORY", "/memory/query", payload).await
    };
    let all = recall(Value::Null, Value::Null).await;
    assert_eq!((&all["count"], &all["truncated"]), (&json!(2), &json!(false)));
    let found = recall(json!(["rust"]), json!("error")).await;
    let memory = &found["memories"][0];
    for (name, value) in [
        ("event_type", json!("error")),
        ("summary", json!("E0308")),
        ("details", json!({ "file": "a.rs" })),
        ("outcome", json!("negative")),
        ("lessons", json!(["read it"])),
        ("tags", json!(["rust"])),
    ] {
        assert_eq!(memory[name], value, "{name}");
    }
    assert_eq!(found["count"], 1);
    assert_eq!(recall(json!(["go"]), Value::Null).await["memories"], json!([]));
}

pub(super) async fn guardrails(generation: Generation) {
    let service = Service::start().await;
    let bridge = Bridge::new(&service, generation, Some(crate::support::FREE));
    let check = async |text: &str, paths: Value| {
        let payload = json!({ "operation_text": text, "file_paths": paths });
        bridge.done("CAN_GUARDRAILS", "/guardrails/check", payload).await
    };
    let safe = json!({ "safe": true, "violations": [] });
    assert_eq!(check("git status", Value::Null).await, safe);
    assert_eq!(check("edit", json!(["src/a.rs"])).await, safe);
    let unsafe_ = check("git reset --hard", Value::Null).await;
    assert_eq!(unsafe_["safe"], false);
    let violation = &unsafe_["violations"][0];
    for (name, value) in [
        ("pattern_name", json!("git_reset_hard")),
        ("category", json!("git")),
        ("severity", json!("block")),
        ("matched_text", json!("git reset --hard")),
        ("blocked", json!(true)),
    ] {
        assert_eq!(violation[name], value, "{name}");
    }
}

/// A key without permission gets `unauthorized`, unlike a key with it.
pub(super) async fn is_told_what_it_may_not_do(generation: Generation) {
    let service = Service::start().await;
    let unauthorized = json!({ "status": "skipped", "reason": "unauthorized" });
    let reviewer = Bridge::new(&service, generation, Some(crate::support::REVIEWER));
    assert_eq!(reviewer.try_lock("a", "reviewer", Value::Null).await, unauthorized);
    let bound = Bridge::new(&service, generation, Some(crate::support::CODEX));
    assert_eq!(bound.try_lock("a", "claude-1", Value::Null).await, unauthorized);
    // Without a key, detection finds no capability.
    let keyless = Bridge::new(&service, generation, None);
    let unavailable = json!({ "status": "skipped", "reason": "capability_unavailable" });
    assert_eq!(keyless.try_lock("a", "claude-1", Value::Null).await, unavailable);
    // The issues of an invalid request are passed on to the caller.
    let bridge = Bridge::new(&service, generation, Some(crate::support::FREE));
    let long = "x".repeat(1 << 20);
    let payload = json!({ "operation_text": long, "file_paths": null });
    let error = bridge.attempt_post("CAN_GUARDRAILS", "/guardrails/check", payload).await;
    assert_eq!(
        error,
        json!({
            "status": "error", "status_code": 413,
            "response": { "detail": "Request body too large" },
        })
    );
}
