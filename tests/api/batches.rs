//! Batches of work, literally as the contract has them.
use serde_json::{Value, json};

use crate::support::{Client, Service, TEAM, with};

const ROWS: &str = "select operation, success, result->>'action' as action,
    result->>'reason' as reason from audit_log order by created_at";

async fn post(client: &Client, route: &str, body: Value) -> Value {
    let answer = client.post(&format!("/work/{route}"), body).await;
    assert_eq!(answer.status, 200, "{route}: {}", answer.text);
    answer.json
}

fn task(reference: &str, depends_on: Value) -> Value {
    json!({
        "ref": reference, "task_type": "t", "task_description": reference, "depends_on": depends_on,
    })
}

#[tokio::test]
async fn a_batch_is_stored_with_its_dependencies_and_an_audit_row_for_each_task() {
    let service = Service::start().await;
    let client = service.client();
    let older = post(&client, "submit", json!({ "task_type": "t", "task_description": "o" })).await;
    let older = older["task_id"].clone();
    service.execute("update work_task set status = 'completed'").await;
    let body = json!({ "agent_id": "planner", "tasks": [
        task("a", json!(null)),
        task("b", json!(["ref:a", older, "ref:a"])),
        { "task_type": "t", "task_description": "d", "unique_key": "k" },
        { "ref": "twin", "task_type": "t", "task_description": "e", "unique_key": "k" },
    ] });
    let answer = post(&client, "submit-batch", body).await;
    let ids: Vec<_> = (0..4).map(|n| answer["results"][n]["task_id"].clone()).collect();
    let result = |reference: Value, id: &Value, deduplicated: bool| {
        json!({
            "ref": reference, "task_id": id, "success": true, "deduplicated": deduplicated,
            "reason": null,
        })
    };
    assert_eq!(
        answer,
        json!({ "success": true, "reason": null, "results": [
            result(json!("a"), &ids[0], false),
            result(json!("b"), &ids[1], false),
            result(json!(null), &ids[2], false),
            result(json!("twin"), &ids[2], true),
        ] })
    );
    let blocked = post(&client, "get", json!({ "task_id": ids[1] })).await["task"].clone();
    assert_eq!(blocked["depends_on"], json!([ids[0], older]));
    assert_eq!(blocked["blocked_by"], json!([{ "id": ids[0], "status": "pending" }]));
    assert_eq!(blocked["submitted_by"], "planner");
    let rows = service.rows(ROWS).await;
    let expected: Vec<_> = [
        ("submit_task", Some("created")),
        ("submit_task", Some("created")),
        ("submit_task", Some("created")),
        ("submit_task", Some("created")),
        ("submit_task", Some("deduplicated")),
        ("submit_task_batch", None),
    ]
    .map(|(operation, action)| {
        json!({ "operation": operation, "success": true, "action": action, "reason": null })
    })
    .into();
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_refused_task_refuses_the_batch_and_stores_nothing() {
    let service = Service::start().await;
    let client = service.client();
    let before = "select count(*) from work_task";
    let unknown = "1d0b9f0e-5b1d-4c39-9a53-0d6ef0c6d7a1";
    let body = json!({ "tasks": [
        task("fine", json!([])),
        { "ref": "bad", "task_type": "t", "task_description": "rm -rf /" },
        task("later", json!(["ref:sooner"])),
        task("sooner", json!([unknown])),
        { "task_type": "t", "task_description": "d", "replaces": unknown },
        { "task_type": "t", "task_description": "d", "deadline": "2020-01-01T00:00:00Z" },
    ] });
    let answer = post(&client, "submit-batch", body).await;
    assert_eq!((&answer["success"], &answer["reason"]), (&json!(false), &json!("batch_refused")));
    let results = answer["results"].as_array().expect("a list");
    let reasons: Vec<_> = results.iter().map(|it| it["reason"].as_str().expect("a text")).collect();
    assert_eq!(
        reasons,
        [
            "batch_refused",
            "destructive_operation_blocked: rm_recursive_force, rm_rf",
            "unknown_dependency",
            "unknown_dependency",
            "not_replaceable",
            "deadline_past",
        ]
    );
    assert!(results.iter().all(|it| it["success"] == false && it["task_id"] == json!(null)));
    assert_eq!(service.scalar::<i64>(before).await, 0);
    let rows = service.rows(ROWS).await;
    assert_eq!(rows.len(), 7);
    assert!(rows.iter().all(|it| it["success"] == false), "{rows:?}");
    assert_eq!(rows[6]["operation"], "submit_task_batch");
    assert_eq!(service.scalar::<i64>("select count(*) from guardrail_violation").await, 2);
}

#[tokio::test]
async fn a_batch_is_checked_before_anything_is_stored() {
    let service = Service::start().await;
    let client = service.client();
    let issues = async |body: Value| {
        let answer = client.post("/work/submit-batch", body).await;
        assert_eq!(answer.status, 422, "{}", answer.text);
        let detail = answer.json["detail"].as_array().expect("issues").clone();
        detail.iter().map(|it| it["loc"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(issues(json!({})).await, [json!(["body", "tasks"])]);
    assert_eq!(issues(json!({ "tasks": [] })).await, [json!(["body", "tasks"])]);
    let many: Vec<_> = (0..501).map(|_| task("a", json!(null))).collect();
    assert_eq!(issues(json!({ "tasks": many })).await, [json!(["body", "tasks"])]);
    let body = json!({ "tasks": [
        task("a", json!(null)),
        { "task_type": "t" },
        { "task_type": "t", "task_description": "d", "priority": 11 },
    ] });
    assert_eq!(
        issues(body).await,
        [json!(["body", "tasks", 1, "task_description"]), json!(["body", "tasks", 2, "priority"])]
    );
    let times = json!({
        "task_type": "t", "task_description": "d", "deadline": "2999-01-01T00:00:00Z",
        "not_before": "2999-01-02T00:00:00Z",
    });
    let body = json!({ "tasks": [task("a", json!(["ref:x", "b", "ref:"]))] });
    assert_eq!(
        issues(body).await,
        [
            json!(["body", "tasks", 0, "depends_on", 1]),
            json!(["body", "tasks", 0, "depends_on", 2]),
        ]
    );
    let body = json!({ "tasks": [task("a", json!(null)), times] });
    assert_eq!(issues(body).await, [json!(["body", "tasks", 1, "deadline"])]);
    assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 0);
}

#[tokio::test]
async fn several_tasks_are_claimed_and_completed_at_once() {
    let service = Service::start().await;
    let client = service.client();
    let tasks: Vec<_> = (0..5).map(|n| task(&format!("t{n}"), json!(null))).collect();
    post(&client, "submit-batch", json!({ "tasks": tasks })).await;
    let agent = json!({ "agent_id": "a", "agent_type": "t", "count": 3 });
    let claimed = post(&client, "claim", agent.clone()).await;
    let members: Vec<_> = claimed.as_object().expect("an object").keys().cloned().collect();
    assert_eq!(members, ["success", "tasks", "reason"]);
    let tasks = claimed["tasks"].as_array().expect("tasks").clone();
    let names: Vec<_> = tasks.iter().map(|it| it["description"].clone()).collect();
    assert_eq!(names, ["t0", "t1", "t2"]);
    assert!(tasks.iter().all(|it| it["success"] == true && it["claim_token"].is_string()));
    let more = post(&client, "claim", agent.clone()).await;
    assert_eq!(more["tasks"].as_array().expect("tasks").len(), 2, "as many as there are");
    let none = post(&client, "claim", agent).await;
    let reason = (&none["success"], &none["tasks"], &none["reason"]);
    assert_eq!(reason, (&json!(false), &json!([]), &json!("no_tasks_available")));
    assert_eq!(none["open_claims"].as_array().expect("claims").len(), 5);
    let claims = "select count(*) from audit_log where operation = 'claim_task' and success";
    assert_eq!(service.scalar::<i64>(claims).await, 5);

    let report = |n: usize, more: Value| {
        with(json!({ "task_id": tasks[n]["task_id"], "success": true }), more)
    };
    let body = json!({ "agent_id": "a", "completions": [
        report(2, json!({ "result": { "n": 2 } })),
        report(0, json!({ "claim_token": "c_other" })),
        report(1, json!({ "success": false, "error_message": "broke" })),
        report(2, json!({ "result": { "n": 2 } })),
    ] });
    let answer = post(&client, "complete-batch", body).await;
    let results: Vec<_> = answer["results"].as_array().expect("results").clone();
    let short: Vec<_> = results.iter().map(|it| (&it["status"], &it["reason"])).collect();
    assert_eq!(
        short,
        [
            (&json!("completed"), &json!(null)),
            (&json!(null), &json!("claim_superseded")),
            (&json!("failed"), &json!(null)),
            (&json!("completed"), &json!(null)),
        ]
    );
    assert_eq!(answer["success"], true);
    assert_eq!(results[0]["task_id"], tasks[2]["task_id"]);
    let rows = "select count(*) from audit_log where operation = 'complete_task'";
    assert_eq!(service.scalar::<i64>(rows).await, 4);
    let other = service.client_with(TEAM);
    let foreign = json!({ "agent_id": "a", "completions": [report(1, json!({}))] });
    let refused = post(&other, "complete-batch", foreign).await;
    assert_eq!(refused["results"][0]["reason"], "task_not_found_or_not_claimed_by_agent");
}

#[tokio::test]
async fn a_batch_repeated_with_its_idempotency_key_has_one_effect() {
    let service = Service::start().await;
    let client = service.client().header("idempotency-key", "plan");
    let body = json!({ "tasks": [task("a", json!(null)), task("b", json!(["ref:a"]))] });
    let first = client.post("/work/submit-batch", body.clone()).await;
    let second = client.post("/work/submit-batch", body).await;
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(first.text, second.text);
    assert_eq!(service.scalar::<i64>("select count(*) from work_task").await, 2);
}
