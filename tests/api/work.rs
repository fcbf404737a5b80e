//! The work queue, literally as the contract has it.
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    BOSS, CODEX, Client, REVIEWER, Service, TEAM, blocked, execute, try_execute, with,
};

async fn ask(client: &Client, route: &str, body: Value) -> Value {
    let answer = client.post(&format!("/work/{route}"), body).await;
    assert_eq!(answer.status, 200, "{route}: {}", answer.text);
    answer.json
}

async fn task(client: &Client, id: &str) -> Value {
    ask(client, "get", json!({ "task_id": id })).await["task"].clone()
}

fn nothing(reason: &str) -> Value {
    json!({
        "success": false, "task_id": null, "task_type": null, "description": null,
        "input_data": null, "priority": null, "deadline": null, "reason": reason, "attempt": null,
        "claim_token": null, "lease_expires_at": null,
    })
}

/// Moves the ends of all leases into the past.
async fn end_leases(service: &Service) {
    service
        .execute(
            "update work_task set claim_expires_at = now() - interval '1 second',
                lease_expires_at = now() - interval '1 second'
             where status in ('claimed', 'running')",
        )
        .await;
}

/// What the audit log records of the latest transition.
async fn recorded(service: &Service) -> Value {
    let mut row = service.last_audit().await;
    let names = ["operation", "agent_id", "success", "parameters", "result"];
    Value::Object(names.map(|name| (name.to_owned(), row[name].take())).into_iter().collect())
}

/// A value with the text `time` in place of these members, which must be times.
fn without_times(mut value: Value, members: &[&str]) -> Value {
    for member in members {
        let text = value[*member].as_str().unwrap_or_else(|| panic!("{member} in {value}"));
        let shape = "2026-11-30T00:00";
        let is_time = text.len() > shape.len() && text.as_bytes()[10] == b'T';
        assert!(is_time, "{member}: {text} is not a time");
        value[*member] = json!("time");
    }
    value
}

/// The members of an answer and their order are part of the contract, so texts are compared.
#[track_caller]
fn assert_same_text(answer: &Value, expected: &Value) {
    assert_eq!(answer.to_string(), expected.to_string());
}

/// Submits the task that the tests of single transitions use, and returns the answer.
async fn submit_suite(client: &Client) -> Value {
    let body = json!({
        "task_type": "test", "task_description": "run the suite",
        "input_data": { "suite": "unit", "a": [1, 2.5] }, "priority": 3, "depends_on": null,
        "agent_id": "boss-agent", "agent_type": "x", "session_id": "sub",
    });
    ask(client, "submit", body).await
}

/// The id and the claim token of that task, claimed by agent `codex-9`.
async fn claimed_suite(client: &Client) -> (String, String) {
    submit_suite(client).await;
    let claimed = client.claim("codex-9", json!({})).await;
    let text = |name: &str| claimed[name].as_str().expect("a text").to_owned();
    (text("task_id"), text("claim_token"))
}

#[tokio::test]
async fn a_submission_answers_the_id_of_the_new_task_and_is_recorded() {
    let service = Service::start().await;
    let submitted = submit_suite(&service.client()).await;
    let id = submitted["task_id"].as_str().expect("an id");
    let expected = json!({ "success": true, "task_id": id, "action": "created", "reason": null });
    assert_same_text(&submitted, &expected);
    let expected = json!({
        "operation": "submit_task", "agent_id": "boss-agent", "success": true,
        "parameters": { "task_type": "test", "priority": 3 },
        "result": { "task_id": id, "action": "created", "guardrails": [] },
    });
    assert_eq!(recorded(&service).await, expected);
}

#[tokio::test]
async fn a_submitted_task_is_pending() {
    let service = Service::start().await;
    let client = service.client();
    let id = submit_suite(&client).await["task_id"].clone();
    let found = ask(&client, "get", json!({ "task_id": id })).await;
    let found = json!({
        "success": found["success"],
        "task": without_times(found["task"].clone(), &["created_at"]),
        "reason": found["reason"],
    });
    let expected = json!({
        "success": true,
        "task": {
            "id": id, "task_type": "test", "description": "run the suite", "status": "pending",
            "priority": 3, "input_data": { "suite": "unit", "a": [1, 2.5] }, "claimed_by": null,
            "claimed_at": null, "result": null, "error_message": null, "depends_on": [],
            "deadline": null, "created_at": "time", "completed_at": null,
            "submitted_by": "boss-agent", "submitted_session_id": "sub", "claimed_session_id": null,
            "agent_requirements": null, "attempt": 0, "max_attempts": 3, "retry_on_failure": false,
            "lease_expires_at": null, "not_before": null, "unique_key": null, "started_at": null,
            "blocked_by": [],
        },
        "reason": null,
    });
    assert_same_text(&found, &expected);
}

#[tokio::test]
async fn a_claim_answers_the_task_with_its_lease_and_is_recorded() {
    let service = Service::start().await;
    let client = service.client();
    let id = submit_suite(&client).await["task_id"].clone();
    let claimed = client.claim("codex-9", json!({ "task_types": ["test"] })).await;
    let token = claimed["claim_token"].as_str().expect("a token").to_owned();
    let expected = json!({
        "success": true, "task_id": id, "task_type": "test", "description": "run the suite",
        "input_data": { "suite": "unit", "a": [1, 2.5] }, "priority": 3, "deadline": null,
        "reason": null, "attempt": 1, "claim_token": token, "lease_expires_at": "time",
    });
    assert_same_text(&without_times(claimed, &["lease_expires_at"]), &expected);
    let expected = json!({
        "operation": "claim_task", "agent_id": "codex-9", "success": true,
        "parameters": { "task_types": ["test"] },
        "result": { "task_id": id, "attempt": 1, "guardrails": [] },
    });
    assert_eq!(recorded(&service).await, expected);
}

#[tokio::test]
async fn a_completion_answers_the_final_status_and_is_recorded() {
    let service = Service::start().await;
    let client = service.client();
    let (id, token) = claimed_suite(&client).await;
    let report = json!({ "result": { "passed": 212 }, "claim_token": token });
    let done = client.complete("codex-9", &id, report).await;
    let expected = json!({
        "success": true, "status": "completed", "task_id": id, "reason": null, "retry_at": null,
    });
    assert_same_text(&done, &expected);
    let expected = json!({
        "operation": "complete_task", "agent_id": "codex-9", "success": true,
        "parameters": { "task_id": id, "success": true },
        "result": { "status": "completed", "guardrails": [] },
    });
    assert_eq!(recorded(&service).await, expected);
}

#[tokio::test]
async fn a_completed_task_keeps_its_result_verbatim() {
    let service = Service::start().await;
    let client = service.client();
    let (id, _) = claimed_suite(&client).await;
    client.complete("codex-9", &id, json!({ "result": { "passed": 212, "z": 1, "a": 2 } })).await;
    let times = ["claimed_at", "created_at", "completed_at", "started_at"];
    let expected = json!({
        "id": id, "task_type": "test", "description": "run the suite", "status": "completed",
        "priority": 3, "input_data": { "suite": "unit", "a": [1, 2.5] }, "claimed_by": "codex-9",
        "claimed_at": "time", "result": { "passed": 212, "z": 1, "a": 2 }, "error_message": null,
        "depends_on": [], "deadline": null, "created_at": "time", "completed_at": "time",
        "submitted_by": "boss-agent", "submitted_session_id": "sub", "claimed_session_id": null,
        "agent_requirements": null, "attempt": 1, "max_attempts": 3, "retry_on_failure": false,
        "lease_expires_at": null, "not_before": null, "unique_key": null, "started_at": "time",
        "blocked_by": [],
    });
    assert_same_text(&without_times(task(&client, &id).await, &times), &expected);
}

#[tokio::test]
async fn a_completion_that_is_repeated_gets_the_same_answer() {
    let service = Service::start().await;
    let client = service.client();
    let (id, token) = claimed_suite(&client).await;
    let report = json!({ "result": { "passed": 212 }, "claim_token": token });
    let done = client.complete("codex-9", &id, report.clone()).await;
    assert_same_text(&client.complete("codex-9", &id, report).await, &done);
}

#[tokio::test]
async fn another_completion_of_a_completed_task_is_refused_and_recorded() {
    let service = Service::start().await;
    let client = service.client();
    let (id, _) = claimed_suite(&client).await;
    client.complete("codex-9", &id, json!({ "result": { "passed": 212 } })).await;
    let other = client.complete("codex-9", &id, json!({ "result": { "passed": 1 } })).await;
    let expected = json!({
        "success": false, "status": null, "task_id": null, "reason": "task_already_finished",
        "retry_at": null,
    });
    assert_same_text(&other, &expected);
    let expected = json!({
        "operation": "complete_task", "agent_id": "codex-9", "success": false,
        "parameters": { "task_id": id, "success": true },
        "result": { "reason": "task_already_finished" },
    });
    assert_eq!(recorded(&service).await, expected);
}

#[tokio::test]
async fn a_claim_of_an_empty_queue_is_refused_and_recorded() {
    let service = Service::start().await;
    let claimed = service.client().claim("a", json!({})).await;
    assert_same_text(&claimed, &nothing("no_tasks_available"));
    let expected = json!({
        "operation": "claim_task", "agent_id": "a", "success": false,
        "parameters": { "task_types": null }, "result": { "reason": "no_tasks_available" },
    });
    assert_eq!(recorded(&service).await, expected);
}

#[tokio::test]
async fn a_claim_gets_only_tasks_of_the_types_that_it_names() {
    let service = Service::start().await;
    let client = service.client();
    client.submit(json!({})).await;
    for types in [json!([]), json!(["x"])] {
        let claimed = client.claim("a", json!({ "task_types": types })).await;
        assert_eq!(claimed, nothing("no_tasks_available"), "{types}");
    }
    assert_eq!(client.claim("a", json!({ "task_types": ["x", "test"] })).await["success"], true);
}

#[tokio::test]
async fn an_unknown_task_is_not_found() {
    let service = Service::start().await;
    let unknown = json!({ "task_id": "00000000-0000-0000-0000-000000000000" });
    let answer = ask(&service.client(), "get", unknown).await;
    assert_same_text(&answer, &json!({ "success": false, "reason": "task_not_found" }));
}

#[tokio::test]
async fn tasks_are_handed_out_by_priority_then_age() {
    let service = Service::start().await;
    let client = service.client();
    for (name, priority) in [("c", 5), ("d", 5), ("a", 1), ("e", 10), ("b", 2)] {
        client.submit(json!({ "task_description": name, "priority": priority })).await;
    }
    let listed = client.get("/work").await.json;
    let names: Vec<_> = listed["tasks"]
        .as_array()
        .expect("tasks")
        .iter()
        .map(|it| it["description"].clone())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    assert_eq!((&listed["count"], &listed["truncated"]), (&json!(5), &json!(false)));
    for expected in ["a", "b", "c", "d", "e"] {
        assert_eq!(client.claim("x", json!({})).await["description"], expected);
    }
    let count =
        async |query: &str| client.get(&format!("/work?{query}")).await.json["count"].clone();
    assert_eq!(count("status=claimed&claimed_by=x").await, 5);
    assert_eq!(count("status=pending").await, 0);
    assert_eq!(count("submitted_by=cloud-agent&task_type=test&limit=2").await, 2);
    assert_eq!(count("submitted_by=nobody").await, 0);
}

#[tokio::test]
async fn invalid_submissions_are_refused_and_store_nothing() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    let unknown = "11111111-1111-1111-1111-111111111111";
    let problems = async |more: Value| {
        let body = json!({ "task_type": "t", "task_description": "d" });
        client.post("/work/submit", with(body, more)).await.issues()
    };
    for (more, kind, loc) in [
        (json!({ "priority": 0 }), "greater_than_equal", json!(["body", "priority"])),
        (json!({ "priority": 11 }), "less_than_equal", json!(["body", "priority"])),
        (json!({ "max_attempts": 21 }), "less_than_equal", json!(["body", "max_attempts"])),
        (json!({ "input_data": [] }), "dict_type", json!(["body", "input_data"])),
        (json!({ "depends_on": ["x"] }), "uuid_parsing", json!(["body", "depends_on", 0])),
        (json!({ "depends_on": [unknown] }), "value_error", json!(["body", "depends_on", 0])),
        (json!({ "replaces": unknown }), "value_error", json!(["body", "replaces"])),
        (json!({ "deadline": "2020-01-01T00:00:00Z" }), "value_error", json!(["body", "deadline"])),
        (json!({ "deadline": "2999-01-01T00:00:00" }), "value_error", json!(["body", "deadline"])),
        (
            json!({ "deadline": "2999-01-01T00:00:00Z", "not_before": "2999-01-01T00:00:00Z" }),
            "value_error",
            json!(["body", "deadline"]),
        ),
        (
            json!({ "agent_requirements": { "min_trust_level": 5 } }),
            "less_than_equal",
            json!(["body", "agent_requirements", "min_trust_level"]),
        ),
        (
            json!({ "agent_requirements": { "archetype": "x".repeat(65) } }),
            "string_too_long",
            json!(["body", "agent_requirements", "archetype"]),
        ),
        (
            json!({ "agent_requirements": { "x": "\0" } }),
            "value_error",
            json!(["body", "agent_requirements", "x"]),
        ),
        (
            json!({ "unique_key": "x".repeat(257) }),
            "string_too_long",
            json!(["body", "unique_key"]),
        ),
    ] {
        assert_eq!(problems(more.clone()).await, [(kind.to_owned(), loc)], "{more}");
    }
    assert_eq!(service.contents().await, before);
    let known = client.submit(json!({})).await;
    let second = problems(json!({ "depends_on": [known, known, unknown] })).await;
    assert_eq!(second, [("value_error".to_owned(), json!(["body", "depends_on", 2]))]);
    let pending = problems(json!({ "replaces": known })).await;
    assert_eq!(pending[0].1, json!(["body", "replaces"]), "only a failed or cancelled task");
}

#[tokio::test]
async fn a_unique_key_has_one_live_task() {
    let service = Service::start().await;
    let client = service.client();
    let body = json!({ "task_type": "t", "task_description": "d", "unique_key": "k" });
    let answers = join_all((0..16).map(|_| ask(&client, "submit", body.clone()))).await;
    let created = answers.iter().filter(|it| it["action"] == "created").count();
    let same = answers.iter().filter(|it| it["action"] == "deduplicated").count();
    assert_eq!((created, same), (1, 15));
    assert!(
        answers.iter().all(|it| it["success"] == true && it["task_id"] == answers[0]["task_id"])
    );
    assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 1);
    let id = answers[0]["task_id"].as_str().expect("an id");
    client.claim("a", json!({})).await;
    assert_eq!(ask(&client, "submit", body.clone()).await["action"], "deduplicated");
    client.complete("a", id, json!({})).await;
    let next = ask(&client, "submit", body.clone()).await;
    assert_eq!(next["action"], "created");
    // A task whose deadline has passed frees its unique key at once.
    service.execute("update work_task set deadline = now() where status = 'pending'").await;
    assert_eq!(ask(&client, "submit", body).await["action"], "created");
    let failed = task(&client, next["task_id"].as_str().expect("an id")).await;
    assert_eq!(
        (&failed["status"], &failed["error_message"]),
        (&json!("failed"), &json!("deadline_exceeded"))
    );
}

#[tokio::test]
async fn a_task_is_not_handed_out_before_its_dependencies_are_completed() {
    let service = Service::start().await;
    let client = service.client();
    let one = client.submit(json!({ "task_description": "one", "priority": 9 })).await;
    let two = client.submit(json!({ "task_description": "two", "priority": 9 })).await;
    let last = client
        .submit(json!({ "task_description": "last", "priority": 1, "depends_on": [two, one, two] }))
        .await;
    let waiting = task(&client, &last).await;
    assert_eq!(waiting["depends_on"], json!([two, one]));
    let pending = |id: &String| json!({ "id": id, "status": "pending" });
    assert_eq!(waiting["blocked_by"], json!([pending(&two), pending(&one)]));
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(one));
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(two));
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    client.complete("a", &one, json!({})).await;
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    client.complete("a", &two, json!({})).await;
    assert_eq!(task(&client, &last).await["blocked_by"], json!([]));
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(last));
    let after = client.submit(json!({ "depends_on": [one] })).await;
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(after), "completed already");
}

#[tokio::test]
async fn a_failed_dependency_blocks_until_it_is_replaced() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.submit(json!({ "priority": 1 })).await;
    let waiting = client.submit(json!({ "depends_on": [first] })).await;
    client.claim("a", json!({})).await;
    let failed =
        client.complete("a", &first, json!({ "success": false, "error_message": "no" })).await;
    assert_eq!((&failed["success"], &failed["status"]), (&json!(true), &json!("failed")));
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    let blocked = json!([{ "id": first, "status": "failed" }]);
    assert_eq!(task(&client, &waiting).await["blocked_by"], blocked);
    let second = client.submit(json!({ "replaces": first })).await;
    let moved = task(&client, &waiting).await;
    assert_eq!(
        (&moved["depends_on"], &moved["blocked_by"][0]["status"]),
        (&json!([second]), &json!("pending"))
    );
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(second));
    client.complete("a", &second, json!({})).await;
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(waiting));
}

#[tokio::test]
async fn no_completion_is_missed_by_a_dependent_submitted_at_the_same_time() {
    let service = Service::start().await;
    let client = service.client();
    for round in 0..20 {
        let first = client.submit(json!({})).await;
        client.claim("a", json!({})).await;
        let submitting = join_all((0..4).map(|_| client.submit(json!({ "depends_on": [first] }))));
        let (dependents, _) =
            futures_util::future::join(submitting, client.complete("a", &first, json!({}))).await;
        let stuck: i64 = service
            .scalar("select count(*) from work_task where status = 'pending' and open_dependencies <> 0")
            .await;
        assert_eq!(stuck, 0, "round {round}");
        for id in dependents {
            client.claim("a", json!({})).await;
            client.complete("a", &id, json!({})).await;
        }
    }
}

#[tokio::test]
async fn many_claimants_never_share_a_task() {
    let service = Service::start().await;
    let client = service.client();
    for _ in 0..40 {
        client.submit(json!({})).await;
    }
    let claims = join_all((0..40).map(|n| {
        let client = client.clone();
        async move { client.claim(&format!("agent-{n}"), json!({})).await }
    }))
    .await;
    let mut ids: Vec<_> = claims.iter().map(|it| it["task_id"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 40, "forty tasks, forty claimants, none empty-handed");
    assert_eq!(client.claim("late", json!({})).await["reason"], "no_tasks_available");
    let one = client.submit(json!({})).await;
    let rivals = join_all((0..16).map(|n| {
        let client = client.clone();
        async move { client.claim(&format!("rival-{n}"), json!({})).await }
    }))
    .await;
    let winners: Vec<_> = rivals.iter().filter(|it| it["success"] == true).collect();
    assert_eq!((winners.len(), &winners[0]["task_id"]), (1, &json!(one)));
    assert_eq!(service.scalar::<i32>("select max(attempt)::integer from work_task").await, 1);
}

#[tokio::test]
async fn a_task_whose_lease_has_ended_is_claimed_again_and_the_old_claim_is_superseded() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    let first = client.claim("a", json!({ "lease_minutes": 5 })).await;
    assert_eq!(client.claim("b", json!({})).await["success"], false);
    end_leases(&service).await;
    let second = client.claim("b", json!({})).await;
    assert_eq!((&second["task_id"], &second["attempt"]), (&json!(id), &json!(2)));
    assert_ne!(first["claim_token"], second["claim_token"]);
    let token = first["claim_token"].clone();
    for route in ["complete", "renew"] {
        let body = json!({ "agent_id": "a", "agent_type": "t", "task_id": id, "success": true, "claim_token": token });
        let refused = ask(&client, route, body).await;
        assert_eq!(refused["reason"], "claim_superseded", "{route}");
        let body = json!({ "agent_id": "a", "agent_type": "t", "task_id": id, "success": true });
        let refused = ask(&client, route, body).await;
        assert_eq!(refused["reason"], "task_not_found_or_not_claimed_by_agent", "{route}");
    }
    let token = json!({ "claim_token": second["claim_token"] });
    assert_eq!(client.complete("b", &id, token).await["status"], "completed");
}

#[tokio::test]
async fn a_late_completion_counts_while_no_other_agent_has_claimed_the_task() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    let claimed = client.claim("a", json!({})).await;
    end_leases(&service).await;
    let token = json!({ "claim_token": claimed["claim_token"] });
    assert_eq!(client.complete("a", &id, token).await["status"], "completed");
}

#[tokio::test]
async fn a_task_out_of_attempts_has_failed() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "max_attempts": 2 })).await;
    for attempt in 1..=2 {
        assert_eq!(client.claim("a", json!({})).await["attempt"], attempt);
        end_leases(&service).await;
    }
    let failed = task(&client, &id).await;
    assert_eq!(
        (&failed["status"], &failed["error_message"]),
        (&json!("failed"), &json!("max_attempts_exceeded"))
    );
    assert!(failed["completed_at"].is_string());
    assert_eq!(client.complete("a", &id, json!({})).await["reason"], "task_already_finished");
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    let stored: String = service.scalar("select status from work_task").await;
    assert_eq!(stored, "failed", "the claim wrote it down");
    assert_eq!(client.get("/work?status=failed").await.json["count"], 1);
}

#[tokio::test]
async fn a_renewal_extends_the_lease_and_sets_running() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    let body = json!({ "agent_id": "a", "agent_type": "t", "task_id": id });
    let refusal = |reason: &str| {
        json!({
            "success": false, "status": null, "task_id": null, "lease_expires_at": null, "reason": reason,
        })
    };
    let not_mine = "task_not_found_or_not_claimed_by_agent";
    assert_eq!(ask(&client, "renew", body.clone()).await, refusal(not_mine), "not claimed");
    let claimed = client.claim("a", json!({ "lease_minutes": 5 })).await;
    let mut renewed =
        ask(&client, "renew", json!({ "agent_id": "a", "task_id": id, "lease_minutes": 60 })).await;
    assert!(renewed["lease_expires_at"].as_str() > claimed["lease_expires_at"].as_str());
    let audit = service.last_audit().await;
    assert_eq!(
        (&audit["operation"], &audit["parameters"]),
        (&json!("renew_task"), &json!({ "task_id": id }))
    );
    assert!(audit["result"]["lease_expires_at"].is_string());
    renewed["lease_expires_at"] = json!("time");
    let expected = json!({
        "success": true, "status": "running", "task_id": id, "lease_expires_at": "time", "reason": null,
    });
    assert_eq!(renewed.to_string(), expected.to_string());
    assert_eq!(task(&client, &id).await["status"], "running");
    let wrong = json!({ "agent_id": "a", "task_id": id, "claim_token": "c_wrong" });
    assert_eq!(ask(&client, "renew", wrong).await, refusal("claim_superseded"));
    let other = json!({ "agent_id": "b", "task_id": id });
    assert_eq!(ask(&client, "renew", other).await, refusal(not_mine));
    client.complete("a", &id, json!({})).await;
    assert_eq!(ask(&client, "renew", body).await, refusal("task_already_finished"));
    let unknown = json!({ "task_id": "00000000-0000-0000-0000-000000000000", "agent_id": "a" });
    assert_eq!(ask(&client, "renew", unknown).await, refusal(not_mine));
    let answer = client.post("/work/renew", json!({ "task_id": id, "lease_minutes": 1441 })).await;
    assert_eq!(answer.issues()[0].0, "less_than_equal");
}

#[tokio::test]
async fn a_failed_task_is_retried_where_the_submitter_asks_for_it() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "retry_on_failure": true, "max_attempts": 3 })).await;
    for (attempt, low, high) in [(1, 24.0, 36.0), (2, 48.0, 72.0)] {
        let claimed = client.claim("a", json!({})).await;
        assert_eq!(claimed["attempt"], attempt);
        let report = json!({ "success": false, "error_message": "flaky", "claim_token": claimed["claim_token"] });
        let failed = client.complete("a", &id, report.clone()).await;
        assert_eq!((&failed["success"], &failed["status"]), (&json!(true), &json!("pending")));
        assert!(failed["retry_at"].is_string());
        assert_eq!(client.complete("a", &id, report).await, failed, "an identical repeat");
        let delay: f64 = service
            .scalar("select extract(epoch from available_at - clock_timestamp())::float8 from work_task")
            .await;
        assert!(delay > low - 5.0 && delay <= high, "{delay}");
        assert_eq!(client.claim("a", json!({})).await["success"], false, "not yet");
        let waiting = task(&client, &id).await;
        assert_eq!(
            (&waiting["status"], &waiting["error_message"]),
            (&json!("pending"), &json!("flaky"))
        );
        service.execute("update work_task set available_at = now()").await;
    }
    client.claim("a", json!({})).await;
    let last = client.complete("a", &id, json!({ "success": false })).await;
    assert_eq!((&last["status"], &last["retry_at"]), (&json!("failed"), &json!(null)));
}

#[tokio::test]
async fn a_task_is_handed_out_after_not_before_and_fails_at_its_deadline() {
    let service = Service::start().await;
    let client = service.client();
    let future = "2999-01-01T00:00:00Z";
    let later = client.submit(json!({ "not_before": future })).await;
    assert_eq!(task(&client, &later).await["not_before"], "2999-01-01T00:00:00+00:00");
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    service.execute("update work_task set available_at = now()").await;
    let claimed = client.claim("a", json!({})).await;
    assert_eq!((&claimed["task_id"], &claimed["deadline"]), (&json!(later), &json!(null)));
    let urgent = client.submit(json!({ "deadline": future })).await;
    service.execute(&format!("update work_task set deadline = now() where id = '{urgent}'")).await;
    let failed = task(&client, &urgent).await;
    assert_eq!(
        (&failed["status"], &failed["error_message"]),
        (&json!("failed"), &json!("deadline_exceeded"))
    );
    assert_eq!(client.claim("a", json!({})).await["success"], false);
    let claimed_one = client.submit(json!({ "deadline": future })).await;
    assert!(client.claim("a", json!({})).await["deadline"].is_string());
    service
        .execute(&format!("update work_task set deadline = now() where id = '{claimed_one}'"))
        .await;
    assert_eq!(
        client.complete("a", &claimed_one, json!({})).await["status"],
        "completed",
        "may finish"
    );
}

#[tokio::test]
async fn a_task_is_cancelled_by_its_submitter_or_with_trust() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let id = client.submit(json!({ "agent_id": "sub" })).await;
    let cancel = async |client: &Client, agent: &str, id: &str| {
        ask(client, "cancel", json!({ "agent_id": agent, "task_id": id, "reason": "why" })).await
    };
    let refusal = |reason: &str| json!({ "success": false, "status": null, "task_id": null, "reason": reason });
    let unknown = "00000000-0000-0000-0000-000000000000";
    assert_eq!(cancel(&client, "sub", unknown).await, refusal("task_not_found"));
    assert_eq!(cancel(&client, "other", &id).await, refusal("not_submitter"));
    let done = cancel(&client, "sub", &id).await;
    assert_eq!(
        done,
        json!({ "success": true, "status": "cancelled", "task_id": id, "reason": null })
    );
    let audit = service.last_audit().await;
    assert_eq!(audit["parameters"], json!({ "task_id": id, "reason": "why" }));
    assert_eq!(audit["result"], json!({ "status": "cancelled" }));
    assert_eq!(cancel(&client, "sub", &id).await, refusal("task_already_finished"));
    assert_eq!(task(&client, &id).await["error_message"], "why");
    let other = client.submit(json!({ "agent_id": "sub" })).await;
    client.claim("a", json!({})).await;
    assert_eq!(cancel(&boss, "", &other).await["success"], true);
    assert_eq!(client.complete("a", &other, json!({})).await["reason"], "task_already_finished");
}

#[tokio::test]
async fn reviews_are_not_handed_to_their_authors() {
    let service = Service::start().await;
    let client = service.client();
    for kind in ["evaluate", "review"] {
        let data = json!({ "submitted_by": "author" });
        client.submit(json!({ "task_type": kind, "agent_id": "sub", "input_data": data })).await;
        assert_eq!(client.claim("sub", json!({})).await["reason"], "no_tasks_available");
        assert_eq!(client.claim("author", json!({ "task_types": [kind] })).await["success"], false);
        assert_eq!(client.claim("third", json!({})).await["success"], true);
    }
    client.submit(json!({ "agent_id": "sub" })).await;
    assert_eq!(client.claim("sub", json!({})).await["success"], true, "other kinds are");
}

#[tokio::test]
async fn requirements_decide_who_gets_a_task() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    client.submit(json!({ "agent_requirements": { "min_trust_level": 3 } })).await;
    assert_eq!(client.claim("a", json!({})).await["reason"], "no_tasks_available");
    assert_eq!(boss.claim("", json!({ "agent_type": "" })).await["success"], true);
    client.submit(json!({ "agent_requirements": { "archetype": "rust" } })).await;
    let declare = async |agent: &str, capabilities: &str, ended: &str| {
        service
            .execute(&format!(
                "insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities, ended_at)
                 values ('default', '{agent}', '{capabilities}{ended}', 't', '{capabilities}', {ended})"
            ))
            .await;
    };
    declare("b", "{go}", "null").await;
    declare("b", "{rust}", "clock_timestamp()").await;
    assert_eq!(client.claim("b", json!({})).await["success"], false, "only live sessions count");
    declare("c", "{go,rust}", "null").await;
    assert_eq!(client.claim("c", json!({})).await["success"], true);
    client.submit(json!({ "agent_requirements": { "archetype": "rust" } })).await;
    declare("d", "{}", "null").await;
    assert_eq!(client.claim("d", json!({})).await["success"], false, "it declares none");
    assert_eq!(client.claim("e", json!({})).await["success"], false, "it has no session");
}

#[tokio::test]
async fn destructive_text_is_refused_at_submission_by_the_submitters_trust() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let refused = |names: &str| {
        json!({
            "success": false, "task_id": null, "action": null,
            "reason": format!("destructive_operation_blocked: {names}"),
        })
    };
    for body in [
        json!({ "task_type": "t", "task_description": "git push origin --force" }),
        json!({ "task_type": "t", "task_description": "d", "input_data": { "run": ["git  push -u\n", "git push x --force"] } }),
        json!({ "task_type": "t", "task_description": "d", "input_data": { "git push --force": 1 } }),
    ] {
        assert_eq!(ask(&client, "submit", body).await, refused("git_force_push"));
        let audit = service.last_audit().await;
        assert_eq!(
            (&audit["operation"], &audit["success"]),
            (&json!("submit_task"), &json!(false))
        );
        assert_eq!(audit["result"]["guardrails"], json!(["git_force_push"]));
    }
    assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 0);
    assert_eq!(
        service.scalar::<i64>("select count(*) from guardrail_violation where blocked").await,
        3
    );
    let both = json!({ "task_type": "t", "task_description": "rm -rf / " });
    assert_eq!(ask(&client, "submit", both.clone()).await, refused("rm_recursive_force, rm_rf"));
    assert_eq!(ask(&boss, "submit", both).await, refused("rm_recursive_force"));
    let warned = json!({ "task_type": "t", "task_description": "git branch -D x" });
    assert_eq!(ask(&client, "submit", warned).await["success"], true);
    assert_eq!(service.last_audit().await["result"]["guardrails"], json!(["git_branch_delete"]));
}

#[tokio::test]
async fn destructive_text_is_skipped_for_claimants_below_the_trust_it_needs() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let id = boss
        .submit(json!({ "task_description": "git push --force", "priority": 1, "agent_id": "" }))
        .await;
    let blocked = nothing("destructive_operation_blocked: git_force_push");
    assert_eq!(client.claim("a", json!({})).await, blocked);
    assert_eq!(
        client.claim("a", json!({ "task_types": ["other"] })).await,
        nothing("no_tasks_available")
    );
    let harmless = client.submit(json!({ "task_description": "git branch -D x" })).await;
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(harmless), "others may be had");
    assert_eq!(service.last_audit().await["result"]["guardrails"], json!(["git_branch_delete"]));
    assert_eq!(boss.claim("", json!({ "agent_type": "" })).await["task_id"], json!(id));
}

#[tokio::test]
async fn a_destructive_result_is_refused_and_the_claim_kept() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    let report = json!({ "result": { "next": "DROP TABLE users" } });
    let refused = client.complete("a", &id, report.clone()).await;
    let expected = json!({
        "success": false, "status": "blocked", "task_id": id,
        "reason": "destructive_operation_blocked: drop_table", "retry_at": null,
    });
    assert_eq!(refused, expected);
    let kept = task(&client, &id).await;
    assert_eq!(
        (&kept["status"], &kept["claimed_by"], &kept["result"]),
        (&json!("claimed"), &json!("a"), &json!(null))
    );
    assert_eq!(service.last_audit().await["result"]["status"], "blocked");
    let failed =
        client.complete("a", &id, json!({ "success": false, "result": report["result"] })).await;
    assert_eq!(failed["status"], "failed", "a failure is not scanned");
}

#[tokio::test]
async fn changed_patterns_apply_to_pending_tasks() {
    let service = Service::with(&[("GUARDRAILS_CACHE_TTL", "0")]).await;
    let client = service.client();
    client.submit(json!({ "task_description": "feed the cat" })).await;
    service
        .execute(
            "insert into guardrail_pattern (workspace, name, list_order, category, severity,
                min_trust_level, pattern, explanation)
             values ('default', 'no_cats', 16, 'pets', 'block', 4, 'cat', 'Cats bite.')",
        )
        .await;
    let blocked = nothing("destructive_operation_blocked: no_cats");
    assert_eq!(client.claim("a", json!({})).await, blocked);
    service.execute("update guardrail_pattern set enabled = false where name = 'no_cats'").await;
    let freed = client.claim("a", json!({})).await;
    assert_eq!((&freed["success"], &freed["description"]), (&json!(true), &json!("feed the cat")));
}

#[tokio::test]
async fn any_call_renews_the_claims_of_its_session_and_never_shortens_them() {
    let service = Service::start().await;
    let client = service.client();
    let left = async || -> f64 {
        service
            .scalar("select extract(epoch from lease_expires_at - clock_timestamp())::float8 / 60 from work_task")
            .await
    };
    let age = async || {
        service
            .execute(
                "update work_task set lease_expires_at =
                    (lease_expires_at at time zone 'utc' - interval '30 minutes') at time zone 'utc',
                    claim_expires_at =
                    (claim_expires_at at time zone 'utc' - interval '30 minutes') at time zone 'utc'",
            )
            .await;
    };
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s-1" })).await;
    let shown = json!({ "agent_id": "a", "task_id": id, "session_id": "s-1" });
    ask(&client, "renew", shown).await;
    age().await;
    client.acquire("a", "k", json!({ "session_id": "s-2" })).await;
    assert!(left().await < 31.0, "another session");
    client.acquire("b", "k2", json!({ "session_id": "s-1" })).await;
    assert!(left().await < 31.0, "another agent");
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    assert!(left().await > 59.0, "a write of the session");
    age().await;
    let reader = client.clone().header("x-agent-id", "a").header("x-session-id", "s-1");
    reader.get("/locks").await;
    assert!(left().await > 59.0, "a read of the session");
    let renew =
        json!({ "agent_id": "a", "task_id": id, "lease_minutes": 600, "session_id": "s-1" });
    ask(&client, "renew", renew).await;
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    assert!(left().await > 599.0, "never shortened");
    end_leases(&service).await;
    client.acquire("a", "k", json!({ "session_id": "s-1" })).await;
    assert!(left().await < 0.0, "an ended lease stays ended");
}

#[tokio::test]
async fn a_claim_ends_with_its_session() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "20")]).await;
    let client = service.client();
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type)
             values ('default', 'a', 's-1', 't')",
        )
        .await;
    let id = client.submit(json!({})).await;
    let claimed = client.claim("a", json!({ "session_id": "s-1", "lease_minutes": 600 })).await;
    assert!(claimed["lease_expires_at"].is_string());
    assert_eq!(client.claim("b", json!({})).await["success"], false);
    let horizon: f64 = service
        .scalar(
            "select extract(epoch from claim_expires_at - clock_timestamp())::float8 / 60 from work_task",
        )
        .await;
    assert!(horizon > 19.0 && horizon <= 20.0, "{horizon}");
    service
        .execute(
            "update agent_session set last_heartbeat_at =
                    (last_heartbeat_at at time zone 'utc' - interval '21 minutes') at time zone 'utc';
             update work_task set claim_expires_at =
                    (claim_expires_at at time zone 'utc' - interval '21 minutes') at time zone 'utc'",
        )
        .await;
    let taken = client.claim("b", json!({})).await;
    assert_eq!((&taken["task_id"], &taken["attempt"]), (&json!(id), &json!(2)));
}

#[tokio::test]
async fn a_claim_belongs_to_its_session_when_both_are_named() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s-1" })).await;
    let other = client.complete("a", &id, json!({ "session_id": "s-2" })).await;
    assert_eq!(other["reason"], "task_not_found_or_not_claimed_by_agent");
    assert_eq!(client.complete("a", &id, json!({})).await["status"], "completed");
}

#[tokio::test]
async fn workspaces_do_not_share_tasks_and_reviewers_do_not_claim() {
    let service = Service::start().await;
    let (client, team) = (service.client(), service.client_with(TEAM));
    let id = client.submit(json!({ "unique_key": "k" })).await;
    assert_eq!(team.claim("a", json!({})).await["success"], false);
    assert_eq!(ask(&team, "get", json!({ "task_id": id })).await["success"], false);
    team.submit(json!({ "unique_key": "k" })).await;
    let dependent = json!({ "task_type": "t", "task_description": "d", "depends_on": [id] });
    assert_eq!(team.post("/work/submit", dependent).await.status, 422);
    assert_eq!(team.get("/work").await.json["count"], 1);
    let denied = service
        .client_with(REVIEWER)
        .post("/work/claim", json!({ "agent_id": "", "agent_type": "" }))
        .await;
    assert_eq!(denied.status, 403);
    let own = service.client_with(CODEX).claim("codex-1", json!({ "agent_type": "codex" })).await;
    assert_eq!(own["task_id"], json!(id));
}

#[tokio::test]
async fn probes_find_the_work_routes_and_change_nothing() {
    let service = Service::start().await;
    let before = service.contents().await;
    for (route, fields) in [
        ("submit", &["task_type", "task_description"][..]),
        ("claim", &["agent_id", "agent_type"]),
        ("renew", &["task_id"]),
        ("complete", &["task_id", "agent_id", "success"]),
        ("cancel", &["task_id"]),
        ("get", &["task_id"]),
    ] {
        let path = format!("/work/{route}");
        let found = service.client_with(CODEX).post(&path, json!({})).await.issues();
        let missing: Vec<_> =
            fields.iter().map(|it| ("missing".to_owned(), json!(["body", it]))).collect();
        assert_eq!(found, missing, "{route}");
        assert_eq!(service.client().get(&path).await.status, 405);
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn a_claim_reads_few_rows_however_long_the_backlog_is() {
    let service = Service::start().await;
    // At the head of the queue are tasks that are blocked, delayed or destructive, or that require another
    // claimant.
    let backlog = |priority: u8, open: u8, trust: u8, parked: bool, archetype: &str, count: u32| {
        format!(
            "insert into work_task (workspace, task_type, description, priority, submitted_by,
                open_dependencies, guard_version, guard_trust, guard_findings, needed_trust,
                max_attempts, retry_on_failure, is_delayed, available_at, archetype)
             select 'default', 'kind-' || n % 7, 'd', {priority}, 's', {open}, 'stale', 0, '[]',
                {trust}, 3, false, {parked}, '2999-01-01', {archetype}
             from generate_series(1, {count}) n;"
        )
    };
    let sql = [
        backlog(1, 1, 0, false, "null", 20_000),
        backlog(1, 0, 3, false, "null", 5_000),
        backlog(1, 0, 0, true, "null", 5_000),
        backlog(1, 0, 0, false, "'architect'", 5_000),
        backlog(5, 0, 0, false, "null", 20_000),
        backlog(6, 0, 0, false, "'tester'", 5_000),
    ]
    .concat();
    service.execute_uncounted(&sql).await;
    let read = "select (seq_tup_read + idx_tup_fetch) as n from pg_stat_user_tables
        where relname = 'work_task'";
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities)
             values ('default', 'a', 's', 't', '{tester}')",
        )
        .await;
    for types in [json!(null), json!(["kind-3", "kind-5"])] {
        // The statistics of a connection are complete when it is closed.
        let (counted, claims) = service
            .counted(read, async |client: Client| {
                client.claim("a", json!({ "task_types": types })).await
            })
            .await;
        assert_eq!(claims["priority"], 5, "{claims}");
        assert!(counted < 500, "{types}: {counted} rows read");
    }
    // A claimant that declares no capabilities gets no task that requires an archetype.
    let (counted, claims) =
        service.counted(read, async |client: Client| client.claim("b", json!({})).await).await;
    assert_eq!(claims["priority"], 5, "{claims}");
    assert!(counted < 500, "{counted} rows read");
    // A claim without a task looks at the head of what waits, whether or not it finds anything to explain.
    for (types, undeclared) in
        [(json!(["kind-9"]), None), (json!(["kind-3"]), Some(json!(["architect", "tester"])))]
    {
        let park = "update work_task set is_delayed = true where archetype is null";
        service.execute_uncounted(park).await;
        let (counted, claims) = service
            .counted(read, async |client: Client| {
                client.claim("b", json!({ "task_types": types })).await
            })
            .await;
        assert_eq!(claims.get("undeclared_archetypes"), undeclared.as_ref(), "{claims}");
        assert!(counted < 1_500, "{types}: {counted} rows read");
    }
}

#[tokio::test]
async fn a_deadlock_fails_no_request() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.submit(json!({})).await;
    let waiting = client.submit(json!({ "depends_on": [first] })).await;
    client.claim("a", json!({})).await;
    let row = |id: &str| {
        format!(
            "select 1 as one from work_task where workspace = 'default' and id = '{id}' for update"
        )
    };
    // A transaction locks the dependent task and then the completed one. The completion locks them in the
    // opposite order.
    let held = tokio::sync::Notify::new();
    let rival = async {
        let mut tx = service.db.begin().await.expect("a transaction");
        execute(&mut *tx, &row(&waiting)).await;
        held.notify_one();
        blocked(&service.db, 1).await;
        // Whichever transaction the database ends, the completion must succeed.
        if try_execute(&mut *tx, &row(&first)).await.is_ok() {
            tx.rollback().await.expect("rolled back");
        }
    };
    let begun = async {
        held.notified().await;
        client.complete("a", &first, json!({})).await
    };
    let (done, ()) = futures_util::future::join(begun, rival).await;
    assert_eq!(done["status"], "completed");
    assert_eq!(client.claim("b", json!({})).await["task_id"], json!(waiting));
    assert_eq!(
        service
            .scalar::<i64>("select count(*) from audit_log where operation = 'complete_task'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_task_whose_delay_or_lease_has_ended_is_found_behind_any_number_of_others() {
    let service = Service::start().await;
    let client = service.client();
    let insert = |kind: &str, count: u32, priority: u8, more: &str, values: &str| {
        format!(
            "insert into work_task (workspace, task_type, description, priority, submitted_by,
                guard_version, guard_trust, guard_findings, needed_trust, max_attempts,
                retry_on_failure, {more})
             select 'default', '{kind}', 'd', {priority}, 's', 'v', 0, '[]', 0, 3, false, {values}
             from generate_series(1, {count}) n;"
        )
    };
    let parked = "is_delayed, available_at";
    let ended = "status, attempt, claim_token, claimed_by, claimed_at, lease_minutes,
        claim_lease_minutes, lease_expires_at, claim_expires_at";
    let claimed = |minutes: u32| {
        format!(
            "'claimed', 1, 'c', 'x', clock_timestamp(), 1, 1, clock_timestamp(),
             clock_timestamp() - interval '{minutes} minutes'"
        )
    };
    let sql = [
        insert("pa", 250, 5, parked, "true, clock_timestamp() - interval '2 minutes'"),
        insert("pb", 1, 1, parked, "true, clock_timestamp() - interval '1 minute'"),
        insert("la", 250, 5, ended, &claimed(2)),
        insert("lb", 1, 1, ended, &claimed(1)),
    ]
    .concat();
    service.execute(&sql).await;
    for kind in ["pb", "lb"] {
        let claimed = client.claim("a", json!({ "task_types": [kind] })).await;
        assert_eq!(claimed["task_type"], kind, "{claimed}");
    }
    assert_eq!(client.claim("a", json!({ "task_types": ["la"] })).await["attempt"], 2);
    assert_eq!(client.claim("a", json!({ "task_types": ["pa"] })).await["attempt"], 1);
}

#[tokio::test]
async fn a_pattern_can_block_many_pending_tasks_for_every_agent() {
    let service = Service::with(&[("GUARDRAILS_CACHE_TTL", "0")]).await;
    let client = service.client();
    for n in 0..40 {
        client
            .submit(json!({ "task_description": format!("frobnicate {n}"), "priority": 1 }))
            .await;
    }
    let clean = client.submit(json!({ "task_description": "sweep" })).await;
    service
        .execute(
            "insert into guardrail_pattern (workspace, name, list_order, category, severity,
                min_trust_level, pattern, explanation)
             values ('default', 'no_frobnication', 16, 'x', 'block', 5, 'frobnicate', 'No.')",
        )
        .await;
    let once = client.clone().header("idempotency-key", "k");
    assert_eq!(once.claim("a", json!({})).await["task_id"], json!(clean));
    let blocked = nothing("destructive_operation_blocked: no_frobnication");
    let refused = client.claim("a", json!({})).await;
    assert_eq!(refused["reason"], blocked["reason"]);
    assert_eq!(refused["open_claims"][0]["task_id"], json!(clean));
    service.execute("delete from guardrail_pattern where name = 'no_frobnication'").await;
    assert_eq!(client.claim("a", json!({})).await["description"], "frobnicate 0", "in order again");
}

#[tokio::test]
async fn a_shorter_renewal_lasts_as_long_as_requested() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "lease_minutes": 60, "session_id": "s" })).await;
    let renew = json!({ "agent_id": "a", "task_id": id, "lease_minutes": 1, "session_id": "s" });
    let renewed = ask(&client, "renew", renew).await;
    assert_eq!(task(&client, &id).await["lease_expires_at"], renewed["lease_expires_at"]);
    let renewed = ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    let left: f64 = service
        .scalar("select extract(epoch from lease_expires_at - clock_timestamp())::float8 / 60 from work_task")
        .await;
    assert!(left > 59.0, "the lease is as long as at the claim: {renewed}");
}

#[tokio::test]
async fn a_task_past_its_deadline_is_not_handed_out_again() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z" })).await;
    client.claim("a", json!({})).await;
    service.execute("update work_task set deadline = now()").await;
    end_leases(&service).await;
    assert_eq!(client.claim("b", json!({})).await["success"], false);
    let failed = task(&client, &id).await;
    assert_eq!(
        (&failed["status"], &failed["error_message"]),
        (&json!("failed"), &json!("deadline_exceeded"))
    );
}

/// Minutes from now to a time in a column of the only task.
async fn minutes_left(service: &Service, moment: &str) -> f64 {
    let sql = format!(
        "select extract(epoch from {moment} - clock_timestamp())::float8 / 60 from work_task"
    );
    service.scalar(&sql).await
}

/// Moves the ends of claims nearer.
async fn pass_minutes(service: &Service, minutes: u32) {
    service
        .execute(&format!(
            "update work_task set lease_expires_at =
                    (lease_expires_at at time zone 'utc' - interval '{minutes} minutes') at time zone 'utc',
                claim_expires_at =
                    (claim_expires_at at time zone 'utc' - interval '{minutes} minutes') at time zone 'utc'"
        ))
        .await;
}

#[tokio::test]
async fn a_lease_lasts_as_many_minutes_as_requested() {
    let service = Service::with(&[("WORK_LEASE_MINUTES", "7")]).await;
    let client = service.client();
    let lasts = async |minutes: f64| {
        for end in ["lease_expires_at", "claim_expires_at"] {
            let left = minutes_left(&service, end).await;
            assert!(left > minutes - 1.0 && left <= minutes, "{end}: {left} of {minutes}");
        }
    };
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    lasts(7.0).await;
    end_leases(&service).await;
    client.claim("a", json!({ "lease_minutes": 20 })).await;
    lasts(20.0).await;
    ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    pass_minutes(&service, 10).await;
    client.acquire("a", "k", json!({})).await;
    lasts(20.0).await;
    let renew = json!({ "agent_id": "a", "task_id": id, "lease_minutes": 90 });
    let renewed = ask(&client, "renew", renew).await;
    assert_eq!(task(&client, &id).await["lease_expires_at"], renewed["lease_expires_at"]);
    lasts(90.0).await;
    pass_minutes(&service, 10).await;
    client.acquire("a", "k", json!({})).await;
    lasts(90.0).await;
    ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    lasts(20.0).await;
}

#[tokio::test]
async fn a_claim_without_a_session_is_renewed_by_any_call_of_its_agent() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    pass_minutes(&service, 30).await;
    client.acquire("b", "k", json!({ "session_id": "s" })).await;
    assert!(minutes_left(&service, "claim_expires_at").await < 31.0, "another agent");
    client.acquire("a", "k2", json!({ "session_id": "s" })).await;
    assert!(minutes_left(&service, "claim_expires_at").await > 59.0);
}

#[tokio::test]
async fn a_renewed_claim_still_ends_with_its_session() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "20")]).await;
    let client = service.client();
    let who = json!({ "agent_id": "a", "agent_type": "t", "session_id": "s" });
    assert_eq!(client.post("/discovery/register", who).await.status, 200);
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s", "lease_minutes": 600 })).await;
    let horizon = async || {
        let left = minutes_left(&service, "claim_expires_at").await;
        assert!(left > 19.0 && left <= 20.0, "{left}");
        assert!(minutes_left(&service, "lease_expires_at").await > 590.0);
    };
    service
        .execute(
            "update work_task set claim_expires_at =
                    (claim_expires_at at time zone 'utc' - interval '5 minutes') at time zone 'utc'",
        )
        .await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    horizon().await;
    // A call does not shorten a lease either.
    service
        .execute(
            "update work_task set lease_minutes = 1,
                claim_expires_at = now() + interval '40 minutes'",
        )
        .await;
    client.acquire("a", "k", json!({ "session_id": "s" })).await;
    assert!(minutes_left(&service, "lease_expires_at").await > 590.0);
    let renew = json!({ "agent_id": "a", "task_id": id, "session_id": "s", "lease_minutes": 600 });
    assert_eq!(ask(&client, "renew", renew).await["success"], true);
    horizon().await;
}

#[tokio::test]
async fn only_the_claimants_own_session_renews_a_claim() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s-1" })).await;
    let renew = async |session: Value| {
        ask(&client, "renew", json!({ "agent_id": "a", "task_id": id, "session_id": session }))
            .await
    };
    assert_eq!(renew(json!("s-2")).await["reason"], "task_not_found_or_not_claimed_by_agent");
    assert_eq!(renew(json!("s-1")).await["success"], true);
    assert_eq!(renew(json!(null)).await["success"], true);
}

#[tokio::test]
async fn a_claim_that_is_renewed_late_is_not_handed_out() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    end_leases(&service).await;
    // A claim for another task type has stored that the lease is over.
    assert_eq!(client.claim("b", json!({ "task_types": ["other"] })).await["success"], false);
    let ready = "select count(*) from work_task where is_ready";
    assert_eq!(service.scalar::<i64>(ready).await, 1);
    let renewed = ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    assert_eq!(renewed["status"], "running");
    assert_eq!(service.scalar::<i64>(ready).await, 0);
    assert_eq!(client.claim("b", json!({})).await["success"], false);
    // Nor is it ready after another agent has claimed it.
    end_leases(&service).await;
    assert_eq!(client.claim("b", json!({ "task_types": ["other"] })).await["success"], false);
    assert_eq!(service.scalar::<i64>(ready).await, 1);
    assert_eq!(client.claim("b", json!({})).await["attempt"], 2);
    assert_eq!(service.scalar::<i64>(ready).await, 0);
}

#[tokio::test]
async fn only_the_same_report_of_the_same_claimant_is_a_repetition() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    let report = json!({ "result": { "run": "git branch -D x" }, "error_message": "one warning" });
    let done = client.complete("a", &id, report.clone()).await;
    assert_eq!(done["status"], "completed");
    let violations = "select count(*) from guardrail_violation";
    assert_eq!(service.scalar::<i64>(violations).await, 1);
    assert_eq!(client.complete("a", &id, report.clone()).await, done);
    assert_eq!(service.scalar::<i64>(violations).await, 1, "a repeat records nothing anew");
    let other = client.complete("b", &id, report.clone()).await;
    assert_eq!(other["reason"], "task_not_found_or_not_claimed_by_agent");
    for (member, value) in
        [("error_message", json!("two")), ("result", json!({})), ("success", json!(false))]
    {
        let mut changed = report.clone();
        changed[member] = value;
        let refused = client.complete("a", &id, changed).await;
        assert_eq!(refused["reason"], "task_already_finished", "{member}");
    }
}

#[tokio::test]
async fn a_task_that_is_claimed_again_has_no_report_yet() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "retry_on_failure": true })).await;
    client.claim("a", json!({})).await;
    let report = json!({ "success": false, "result": { "n": 1 }, "error_message": "flaky" });
    assert_eq!(client.complete("a", &id, report).await["status"], "pending");
    let started = task(&client, &id).await["started_at"].clone();
    service.execute("update work_task set available_at = now()").await;
    client.claim("b", json!({})).await;
    let claimed = task(&client, &id).await;
    assert_eq!((&claimed["result"], &claimed["error_message"]), (&json!(null), &json!(null)));
    assert_eq!(claimed["started_at"], started, "when the first claimant took it up");
}

#[tokio::test]
async fn only_a_completed_dependency_makes_a_task_ready() {
    let service = Service::start().await;
    let client = service.client();
    let ended = async |how: &str| {
        let id =
            client.submit(json!({ "task_type": how, "retry_on_failure": how == "retried" })).await;
        if how == "cancelled" {
            let body = json!({ "agent_id": "cloud-agent", "task_id": id });
            assert_eq!(ask(&client, "cancel", body).await["success"], true);
        } else {
            client.claim("a", json!({ "task_types": [how] })).await;
        }
        id
    };
    for (how, status) in [("cancelled", "cancelled"), ("failed", "failed"), ("retried", "pending")]
    {
        let first = ended(how).await;
        let early = client.submit(json!({ "task_type": "early", "depends_on": [first] })).await;
        if how != "cancelled" {
            let failed = client.complete("a", &first, json!({ "success": false })).await;
            assert_eq!(failed["status"], status);
        }
        let late = client.submit(json!({ "task_type": "late", "depends_on": [first] })).await;
        for id in [early, late] {
            let blocked = json!([{ "id": first, "status": status }]);
            assert_eq!(task(&client, &id).await["blocked_by"], blocked, "{how}");
        }
        assert_eq!(client.claim("a", json!({})).await["success"], false, "{how}");
    }
}

#[tokio::test]
async fn a_task_whose_delay_or_lease_has_ended_keeps_its_requirements() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities) values
                ('default', 'a', 's', 't', '{go}'), ('default', 'boss', 's', 't', '{rust}')",
        )
        .await;
    for requirements in [json!({ "min_trust_level": 3 }), json!({ "archetype": "rust" })] {
        let parked =
            json!({ "not_before": "2999-01-01T00:00:00Z", "agent_requirements": requirements });
        let id = client.submit(parked).await;
        service.execute("update work_task set available_at = now() where is_delayed").await;
        assert_eq!(client.claim("a", json!({})).await["success"], false, "parked");
        let first = boss.claim("", json!({ "agent_type": "" })).await;
        assert_eq!((&first["task_id"], &first["attempt"]), (&json!(id), &json!(1)));
        end_leases(&service).await;
        assert_eq!(client.claim("a", json!({})).await["success"], false, "its lease ended");
        let again = boss.claim("", json!({ "agent_type": "" })).await;
        assert_eq!((&again["task_id"], &again["attempt"]), (&json!(id), &json!(2)));
        assert_eq!(boss.complete("", &id, json!({})).await["status"], "completed");
    }
}

#[tokio::test]
async fn capabilities_of_a_silent_session_do_not_count() {
    let service = Service::with(&[("SESSION_TIMEOUT_MINUTES", "20")]).await;
    let client = service.client();
    client.submit(json!({ "agent_requirements": { "archetype": "rust" } })).await;
    service
        .execute(
            "insert into agent_session (workspace, agent_id, session_id, agent_type, capabilities,
                last_heartbeat_at) values
                ('default', 'a', 'live', 't', '{go}', clock_timestamp()),
                ('default', 'a', 'silent', 't', '{rust}', clock_timestamp() - interval '21 minutes')",
        )
        .await;
    assert_eq!(client.claim("a", json!({})).await["reason"], "no_tasks_available");
    service.execute("update agent_session set last_heartbeat_at = now()").await;
    assert_eq!(client.claim("a", json!({})).await["success"], true);
}

#[tokio::test]
async fn a_claim_stores_the_failure_of_tasks_whose_deadline_has_passed() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z" })).await;
    service.execute("update work_task set deadline = '2024-01-01T00:00:00Z'").await;
    assert_eq!(client.claim("a", json!({})).await["reason"], "no_tasks_available");
    assert_eq!(service.scalar::<String>("select status from work_task").await, "failed");
    let failed = task(&client, &id).await;
    assert_eq!(failed["error_message"], "deadline_exceeded");
    assert_eq!(failed["completed_at"], "2024-01-01T00:00:00+00:00");
}

#[tokio::test]
async fn a_task_out_of_attempts_failed_when_its_last_lease_ended() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "max_attempts": 1 })).await;
    client.claim("a", json!({})).await;
    service.execute("update work_task set claim_expires_at = '2024-01-01T00:00:00Z'").await;
    let moment = "2024-01-01T00:00:00+00:00";
    assert_eq!(task(&client, &id).await["completed_at"], moment);
    client.claim("b", json!({})).await;
    assert_eq!(service.scalar::<String>("select status from work_task").await, "failed");
    assert_eq!(task(&client, &id).await["completed_at"], moment, "also once it is written down");
}

#[tokio::test]
async fn the_delay_of_a_retry_doubles_up_to_an_hour_within_a_fifth() {
    let service = Service::start().await;
    let client = service.client();
    for (attempt, seconds) in
        [(1, 30.0), (2, 60.0), (4, 240.0), (7, 1920.0), (8, 3600.0), (19, 3600.0)]
    {
        let mut delays = Vec::new();
        for _ in 0..8 {
            let id = client.submit(json!({ "retry_on_failure": true, "max_attempts": 20 })).await;
            client.claim("a", json!({})).await;
            service
                .execute(&format!("update work_task set attempt = {attempt} where id = '{id}'"))
                .await;
            let failed = client.complete("a", &id, json!({ "success": false })).await;
            assert_eq!(failed["status"], "pending");
            let delay: f64 = service
                .scalar(&format!(
                    "select extract(epoch from available_at - clock_timestamp())::float8
                     from work_task where id = '{id}'"
                ))
                .await;
            assert!(
                delay > 0.8 * seconds - 5.0 && delay <= 1.2 * seconds,
                "attempt {attempt}: {delay}"
            );
            delays.push(delay);
        }
        delays.sort_by(f64::total_cmp);
        let spread = delays[7] - delays[0];
        assert!(attempt < 4 || spread > seconds / 100.0, "attempt {attempt}: {delays:?}");
    }
}

#[tokio::test]
async fn a_completed_task_is_not_retried() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "retry_on_failure": true })).await;
    client.claim("a", json!({})).await;
    let done = client.complete("a", &id, json!({})).await;
    assert_eq!((&done["status"], &done["retry_at"]), (&json!("completed"), &json!(null)));
}

#[tokio::test]
async fn a_claim_does_not_wait_for_a_task_that_another_agent_is_claiming() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.submit(json!({})).await;
    let second = client.submit(json!({})).await;
    let mut rival = service.db.begin().await.expect("a transaction");
    let taking = format!(
        "select 1 as one from work_task where workspace = 'default' and id = '{first}' for update"
    );
    execute(&mut *rival, &taking).await;
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(second));
    rival.rollback().await.expect("rolled back");
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(first));
}

#[tokio::test]
async fn a_running_task_keeps_its_unique_key() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "unique_key": "k" })).await;
    client.claim("a", json!({})).await;
    ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    assert_eq!(task(&client, &id).await["status"], "running");
    let body = json!({ "task_type": "t", "task_description": "d", "unique_key": "k" });
    let again = ask(&client, "submit", body).await;
    assert_eq!((&again["action"], &again["task_id"]), (&json!("deduplicated"), &json!(id)));
}

#[tokio::test]
async fn only_a_failed_or_cancelled_task_is_replaced() {
    let service = Service::start().await;
    let client = service.client();
    let replace = async |id: &str| {
        let body = json!({ "task_type": "new", "task_description": "d", "replaces": id });
        client.post("/work/submit", body).await
    };
    let completed = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    assert_eq!(replace(&completed).await.issues()[0].1, json!(["body", "replaces"]), "claimed");
    ask(&client, "renew", json!({ "agent_id": "a", "task_id": completed })).await;
    assert_eq!(replace(&completed).await.issues()[0].1, json!(["body", "replaces"]), "running");
    client.complete("a", &completed, json!({})).await;
    assert_eq!(replace(&completed).await.issues()[0].1, json!(["body", "replaces"]), "completed");
    let cancelled = client.submit(json!({ "agent_id": "sub" })).await;
    let waiting = client.submit(json!({ "depends_on": [cancelled] })).await;
    let over = client.submit(json!({ "depends_on": [cancelled], "agent_id": "sub" })).await;
    ask(&client, "cancel", json!({ "agent_id": "sub", "task_id": over })).await;
    ask(&client, "cancel", json!({ "agent_id": "sub", "task_id": cancelled })).await;
    let new = replace(&cancelled).await.json["task_id"].clone();
    assert_eq!(task(&client, &waiting).await["depends_on"], json!([new]));
    assert_eq!(task(&client, &over).await["depends_on"], json!([cancelled]), "pending ones only");
    assert_eq!(client.claim("a", json!({})).await["task_id"], new);
}

#[tokio::test]
async fn a_task_that_failed_by_time_cannot_be_cancelled() {
    let service = Service::start().await;
    let client = service.client();
    let late = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z", "agent_id": "s" })).await;
    service.execute("update work_task set deadline = now()").await;
    let out = client.submit(json!({ "max_attempts": 1, "agent_id": "s" })).await;
    service
        .execute(&format!(
            "update work_task set status = 'claimed', attempt = 1, claim_token = 'c', claimed_by = 'a',
                claimed_at = now(), lease_minutes = 1, claim_lease_minutes = 1,
                lease_expires_at = now(), claim_expires_at = now()
             where id = '{out}'"
        ))
        .await;
    for (id, why) in [(late, "deadline_exceeded"), (out, "max_attempts_exceeded")] {
        let refused = ask(&client, "cancel", json!({ "agent_id": "s", "task_id": id })).await;
        assert_eq!(refused["reason"], "task_already_finished");
        assert_eq!(task(&client, &id).await["error_message"], why);
    }
}

#[tokio::test]
async fn guardrails_are_the_last_check_of_a_completion() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({})).await;
    let bad = json!({ "next": "DROP TABLE users" });
    let wrong = json!({ "result": bad, "claim_token": "c_wrong" });
    assert_eq!(client.complete("a", &id, wrong).await["reason"], "claim_superseded");
    let other = client.complete("b", &id, json!({ "result": bad })).await;
    assert_eq!(other["reason"], "task_not_found_or_not_claimed_by_agent");
    client.complete("a", &id, json!({})).await;
    let late = client.complete("a", &id, json!({ "result": bad })).await;
    assert_eq!(late["reason"], "task_already_finished");
    assert_eq!(service.scalar::<i64>("select count(*) from guardrail_violation").await, 0);
}

#[tokio::test]
async fn a_task_that_waits_for_its_retry_is_not_claimed() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "retry_on_failure": true })).await;
    client.claim("a", json!({})).await;
    client.complete("a", &id, json!({ "success": false })).await;
    let refused = client.complete("a", &id, json!({})).await;
    assert_eq!(refused["reason"], "task_not_found_or_not_claimed_by_agent");
    let renew = ask(&client, "renew", json!({ "agent_id": "a", "task_id": id })).await;
    assert_eq!(renew["reason"], "task_not_found_or_not_claimed_by_agent");
    assert_eq!(task(&client, &id).await["claimed_by"], json!(null));
}

#[tokio::test]
async fn a_dependency_that_failed_by_time_is_shown_as_failed() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z" })).await;
    let waiting = client.submit(json!({ "depends_on": [first] })).await;
    service.execute("update work_task set deadline = now() where deadline is not null").await;
    let blocked = json!([{ "id": first, "status": "failed" }]);
    assert_eq!(task(&client, &waiting).await["blocked_by"], blocked);
    // Another task can replace it at once.
    let second = client.submit(json!({ "replaces": first })).await;
    assert_eq!(task(&client, &waiting).await["depends_on"], json!([second]));
}

#[tokio::test]
async fn a_claimant_without_the_required_trust_is_not_told_of_destructive_text() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let text = json!({ "task_description": "git push --force",
        "agent_requirements": { "min_trust_level": 3 } });
    let id = boss.submit(text).await;
    assert_eq!(client.claim("a", json!({})).await, nothing("no_tasks_available"));
    assert_eq!(boss.claim("", json!({ "agent_type": "" })).await["task_id"], json!(id));
}

#[tokio::test]
async fn the_list_filters_by_type_and_shows_tasks_that_failed_by_time() {
    let service = Service::start().await;
    let client = service.client();
    let late = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z", "task_type": "x" })).await;
    client.submit(json!({ "task_type": "y" })).await;
    service.execute("update work_task set deadline = now() where deadline is not null").await;
    for (query, ids) in [
        ("status=failed", json!([late])),
        ("status=pending&task_type=x", json!([])),
        ("task_type=x", json!([late])),
        ("task_type=z", json!([])),
    ] {
        let listed = client.get(&format!("/work?{query}")).await.json;
        let found: Vec<_> =
            listed["tasks"].as_array().expect("tasks").iter().map(|it| it["id"].clone()).collect();
        assert_eq!(json!(found), ids, "{query}");
    }
}

#[tokio::test]
async fn a_task_that_failed_by_time_is_final_before_its_failure_is_stored() {
    let service = Service::start().await;
    let client = service.client();
    let first = client.submit(json!({ "agent_id": "sub" })).await;
    let late = json!({ "depends_on": [first], "deadline": "2999-01-01T00:00:00Z" });
    let late = client.submit(late).await;
    let cancel = json!({ "agent_id": "sub", "task_id": first });
    assert_eq!(ask(&client, "cancel", cancel).await["success"], true);
    service.execute(&format!("update work_task set deadline = now() where id = '{late}'")).await;
    let failed = task(&client, &late).await;
    assert_eq!(failed["status"], "failed");
    client.submit(json!({ "replaces": first })).await;
    assert_eq!(task(&client, &late).await, failed, "the failed task has no open dependencies");
}

#[tokio::test]
async fn the_end_of_a_session_does_not_requeue_tasks_that_failed_by_time() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({ "deadline": "2999-01-01T00:00:00Z" })).await;
    let named = json!({ "agent_id": "a", "session_id": "s" });
    client
        .post("/discovery/register", named.clone())
        .await
        .assert_is(200, json!({ "success": true, "session_id": "s", "error": null }));
    let claimed = client.claim("a", json!({ "session_id": "s" })).await;
    end_leases(&service).await;
    service.execute("update work_task set deadline = now()").await;
    let failed = task(&client, &id).await;
    assert_eq!((&failed["status"], &failed["claimed_by"]), (&json!("failed"), &json!("a")));
    let ended = client.post("/discovery/deregister", named).await.json;
    assert_eq!((&ended["success"], &ended["tasks_requeued"]), (&json!(true), &json!(0)));
    assert_eq!(task(&client, &id).await, failed, "the failed task keeps its last claimant");
    let token = json!({ "claim_token": claimed["claim_token"] });
    assert_eq!(client.complete("a", &id, token).await["reason"], "task_already_finished");
}

#[tokio::test]
async fn only_the_claimant_repeats_a_completion() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s-1" })).await;
    let done = client.complete("a", &id, json!({ "session_id": "s-1" })).await;
    assert_eq!(done["status"], "completed");
    let sibling = client.complete("a", &id, json!({ "session_id": "s-2" })).await;
    assert_eq!(sibling["reason"], "task_not_found_or_not_claimed_by_agent");
    assert_eq!(client.complete("a", &id, json!({ "session_id": "s-1" })).await, done);
    assert_eq!(
        client.complete("a", &id, json!({})).await,
        done,
        "the repetition names no other session"
    );
}

#[tokio::test]
async fn a_claim_uses_the_capabilities_of_the_session_that_it_revives() {
    let service = Service::start().await;
    let client = service.client();
    client.submit(json!({ "agent_requirements": { "archetype": "rust" } })).await;
    for (ended, heard) in [("null", "3 hours"), ("clock_timestamp()", "0 hours")] {
        service
            .execute(&format!(
                "insert into agent_session (workspace, agent_id, session_id, agent_type,
                    capabilities, ended_at, last_heartbeat_at)
                 values ('default', 'a', 's', 't', '{{go}}', {ended},
                    clock_timestamp() - interval '{heard}')
                 on conflict (workspace, agent_id, session_id) do update set
                    ended_at = excluded.ended_at, last_heartbeat_at = excluded.last_heartbeat_at"
            ))
            .await;
        let refused = client.claim("a", json!({ "session_id": "s" })).await;
        let mut expected = nothing("no_tasks_available");
        expected["undeclared_archetypes"] = json!(["rust"]);
        let lost = json!({ "locks": [], "claims": [], "ports": [] });
        let told = json!({ "revived": true, "lost": lost });
        assert_eq!(refused, with(expected, told), "{ended}");
    }
    service.execute("update agent_session set capabilities = '{go,rust}', ended_at = now()").await;
    assert_eq!(client.claim("a", json!({ "session_id": "s" })).await["success"], true);
}

#[tokio::test]
async fn a_claim_made_before_its_session_was_registered_ends_with_the_session() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    client.claim("a", json!({ "session_id": "s", "lease_minutes": 600 })).await;
    let register = json!({ "agent_id": "a", "session_id": "s" });
    assert_eq!(client.post("/discovery/register", register).await.status, 200);
    assert_eq!(client.claim("b", json!({})).await["success"], false);
    let ago = "- interval '121 minutes'";
    service
        .execute(&format!(
            "update agent_session set last_heartbeat_at = (last_heartbeat_at at time zone 'utc' {ago}) at time zone 'utc';
             update work_task set lease_expires_at = (lease_expires_at at time zone 'utc' {ago}) at time zone 'utc',
                claim_expires_at = (claim_expires_at at time zone 'utc' {ago}) at time zone 'utc'"
        ))
        .await;
    let taken = client.claim("b", json!({})).await;
    assert_eq!((&taken["task_id"], &taken["attempt"]), (&json!(id), &json!(2)));
}

#[tokio::test]
async fn a_renewal_waits_for_the_claim_that_it_renews() {
    let service = Service::start().await;
    let client = service.client();
    let id = client.submit(json!({})).await;
    // A claim that is committed only after the renewal waits for its row.
    let mut tx = service.db.begin().await.expect("a transaction");
    let claim = format!(
        "update work_task set status = 'claimed', attempt = 1, claim_token = 'c',
            claimed_by = 'a', claimed_at = now(), lease_minutes = 60,
            claim_lease_minutes = 60, lease_expires_at = now() + interval '1 hour',
            claim_expires_at = now() + interval '1 hour'
         where id = '{id}'"
    );
    execute(&mut *tx, &claim).await;
    let committed = async {
        blocked(&service.db, 1).await;
        tx.commit().await.expect("committed");
    };
    let renew = json!({ "agent_id": "a", "task_id": id, "lease_minutes": 600 });
    let renewing = ask(&client, "renew", renew);
    let (renewed, ()) = futures_util::future::join(renewing, committed).await;
    assert_eq!((&renewed["success"], &renewed["status"]), (&json!(true), &json!("running")));
    let task = task(&client, &id).await;
    assert_eq!((&task["attempt"], &task["claimed_by"]), (&json!(1), &json!("a")));
}
