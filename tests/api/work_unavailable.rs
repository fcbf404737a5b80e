//! What an empty claim says of tasks that wait for something that time alone does not change.
use serde_json::{Value, json};

use crate::support::{BOSS, Client, Service};

/// Submits a task that fails for good, and returns its id.
async fn failed(client: &Client) -> String {
    let id = client.submit(json!({ "task_type": "first", "priority": 1 })).await;
    client.claim("w", json!({ "task_types": ["first"] })).await;
    client.complete("w", &id, json!({ "success": false })).await;
    id
}

async fn waiting_for(client: &Client, ids: &[&str]) -> String {
    client.submit(json!({ "task_type": "later", "depends_on": ids })).await
}

/// The members of an empty claim that explain it.
async fn explained(client: &Client, more: Value) -> Value {
    let claim = client.claim("a", more).await;
    assert_eq!(claim["reason"], "no_tasks_available", "{claim}");
    let names = ["blocked", "by_failed", "undeclared_archetypes"];
    let members =
        names.into_iter().filter_map(|name| Some((name.to_owned(), claim.get(name)?.clone())));
    Value::Object(members.collect())
}

#[tokio::test]
async fn tasks_that_wait_for_a_failed_one_are_counted() {
    let service = Service::start().await;
    let client = service.client();
    assert_eq!(explained(&client, json!({})).await, json!({}), "an empty queue");
    let first = failed(&client).await;
    let waiting = waiting_for(&client, &[&first]).await;
    let expected = json!({ "blocked": 1, "by_failed": [first] });
    assert_eq!(explained(&client, json!({})).await, expected);
    assert_eq!(explained(&client, json!({ "task_types": ["later"] })).await, expected);
    assert_eq!(explained(&client, json!({ "task_types": ["other"] })).await, json!({}));
    let many = client.claim("a", json!({ "count": 2 })).await;
    let blocked = json!({
        "success": false, "tasks": [], "reason": "no_tasks_available",
        "blocked": 1, "by_failed": [first],
    });
    assert_eq!(many, blocked);
    // A task that takes the place of the failed one ends the wait.
    let again = json!({ "task_type": "first", "task_description": "d", "replaces": first });
    assert_eq!(client.post("/work/submit", again).await.status, 200);
    let task = client.claim("a", json!({})).await;
    assert_eq!((&task["task_type"], task.get("blocked")), (&json!("first"), None));
    assert_eq!(explained(&client, json!({})).await, json!({}), "it waits for a running one");
    assert_eq!(
        client.complete("a", task["task_id"].as_str().expect("an id"), json!({})).await["success"],
        true
    );
    assert_eq!(client.claim("a", json!({})).await["task_id"], json!(waiting));
}

#[tokio::test]
async fn a_wait_for_a_cancelled_or_overdue_task_is_explained_through_others() {
    let service = Service::start().await;
    let (client, boss) = (service.client(), service.client_with(BOSS));
    let cancelled = client.submit(json!({ "task_type": "first" })).await;
    let cancel = json!({ "agent_id": "", "agent_type": "", "task_id": cancelled });
    assert_eq!(boss.post("/work/cancel", cancel).await.json["success"], true);
    let overdue =
        client.submit(json!({ "task_type": "first", "deadline": "2999-01-01T00:00:00Z" })).await;
    let direct = waiting_for(&client, &[&cancelled]).await;
    let indirect = waiting_for(&client, &[&direct]).await;
    waiting_for(&client, &[&indirect, &overdue]).await;
    service
        .execute(
            "update work_task set deadline = '2024-01-01T00:00:00Z' where deadline is not null",
        )
        .await;
    let found = explained(&client, json!({})).await;
    assert_eq!(found["blocked"], 3, "{found}");
    let mut by: Vec<_> = found["by_failed"].as_array().expect("ids").clone();
    by.sort_by_key(Value::to_string);
    let mut expected = [json!(cancelled), json!(overdue)];
    expected.sort_by_key(Value::to_string);
    assert_eq!(by, expected);
}

#[tokio::test]
async fn an_explanation_is_bounded_and_only_of_tasks_that_the_agent_could_claim() {
    let service = Service::start().await;
    let client = service.client();
    let first = failed(&client).await;
    let above = json!({
        "task_type": "later", "depends_on": [first], "agent_requirements": { "min_trust_level": 3 },
    });
    client.submit(above).await;
    assert_eq!(explained(&client, json!({})).await, json!({}), "its trust is too low");
    service
        .execute(
            "insert into work_task (workspace, task_type, description, priority, status, submitted_by,
                guard_version, guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure)
             select 'default', 'first', 'd', 5, 'failed', 's', '', 0, '[]', 0, 3, false
             from generate_series(1, 150);
             insert into work_task (workspace, task_type, description, priority, status, submitted_by,
                guard_version, guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure,
                open_dependencies, change_id)
             select 'default', 'later', 'd', 5, 'pending', 's', '', 0, '[]', 0, 3, false, 1, id::text
             from work_task where status = 'failed' and submitted_by = 's';
             insert into work_dependency (workspace, task_id, depends_on, list_order)
             select 'default', id, change_id::uuid, 1 from work_task where change_id is not null",
        )
        .await;
    let found = explained(&client, json!({})).await;
    assert_eq!(found["blocked"], 100);
    assert_eq!(found["by_failed"].as_array().expect("ids").len(), 20);
}

#[tokio::test]
async fn an_archetype_that_no_session_of_the_agent_declares_is_named() {
    let service = Service::start().await;
    let client = service.client();
    for archetype in ["rust", "go", "rust"] {
        client.submit(json!({ "agent_requirements": { "archetype": archetype } })).await;
    }
    let expected = json!({ "undeclared_archetypes": ["go", "rust"] });
    assert_eq!(explained(&client, json!({})).await, expected);
    assert_eq!(explained(&client, json!({ "task_types": ["other"] })).await, json!({}));
    let register = json!({ "agent_id": "a", "session_id": "s", "capabilities": ["rust"] });
    assert_eq!(client.post("/discovery/register", register).await.status, 200);
    for _ in 0..2 {
        let task = client.claim("a", json!({ "session_id": "s" })).await;
        assert_eq!(task["success"], true, "{task}");
    }
    assert_eq!(explained(&client, json!({})).await, json!({ "undeclared_archetypes": ["go"] }));
}

/// Stores a failed task and a chain of tasks that wait for it, of which the last is the first in the queue.
pub(crate) async fn store_chain(service: &Service, length: u32) {
    service
        .execute(&format!(
            "insert into work_task (workspace, id, task_type, description, priority, status, submitted_by,
                guard_version, guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure,
                open_dependencies, created_at)
             select 'default', md5(n::text)::uuid, 'later', 'd', 5,
                case n when 0 then 'failed' else 'pending' end, 's', '', 0, '[]', 0, 3, false, sign(n),
                now() - n * interval '1 second'
             from generate_series(0, {length}) n;
             insert into work_dependency (workspace, task_id, depends_on, list_order)
             select 'default', md5(n::text)::uuid, md5((n - 1)::text)::uuid, 1
             from generate_series(1, {length}) n;
             analyze work_task, work_dependency"
        ))
        .await;
}

#[tokio::test]
async fn a_failure_at_the_far_end_of_a_long_chain_is_found() {
    let service = Service::start().await;
    store_chain(&service, 600).await;
    let failed: String = service.scalar("select md5('0')::uuid::text").await;
    let expected = json!({ "blocked": 100, "by_failed": [failed] });
    assert_eq!(explained(&service.client(), json!({})).await, expected);
}
