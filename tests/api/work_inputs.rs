//! Members of the work queue's requests that clients send although they mean nothing, or whose meaning the
//! service does not know.
use serde_json::{Value, json};

use crate::support::{Client, Service, with};

fn work(more: Value) -> Value {
    with(json!({ "task_type": "t", "task_description": "d" }), more)
}

async fn submitted(client: &Client, more: Value) -> Value {
    let answer = client.post("/work/submit", work(more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn task(client: &Client, id: &Value) -> Value {
    client.post("/work/get", json!({ "task_id": id })).await.json["task"].clone()
}

#[tokio::test]
async fn a_blank_unique_key_is_none() {
    let service = Service::start().await;
    let client = service.client();
    let first = submitted(&client, json!({ "unique_key": "" })).await;
    let second = submitted(&client, json!({ "unique_key": " " })).await;
    assert_eq!((&first["action"], &second["action"]), (&json!("created"), &json!("created")));
    assert_ne!(first["task_id"], second["task_id"]);
    assert_eq!(task(&client, &first["task_id"]).await["unique_key"], Value::Null);
    let tasks = [work(json!({ "unique_key": " " })), work(json!({ "unique_key": " " }))];
    let batch = client.post("/work/submit-batch", json!({ "tasks": tasks })).await.json;
    for result in batch["results"].as_array().expect("a list") {
        assert_eq!(result["deduplicated"], false, "{batch}");
    }
    let stored = "select count(*) from work_task where unique_key is null";
    assert_eq!(service.scalar::<i64>(stored).await, 4);
}

#[tokio::test]
async fn an_empty_claim_token_is_not_checked() {
    let service = Service::start().await;
    let client = service.client();
    for route in ["complete", "complete-batch"] {
        submitted(&client, json!({})).await;
        let id = client.claim("a", json!({})).await["task_id"].clone();
        let renewal = json!({ "agent_id": "a", "task_id": id, "claim_token": "" });
        let renewed = client.post("/work/renew", renewal).await.json;
        assert_eq!(renewed["status"], "running", "{renewed}");
        let report = json!({ "task_id": id, "success": true, "claim_token": "" });
        let body = match route {
            "complete" => with(report, json!({ "agent_id": "a" })),
            _ => json!({ "agent_id": "a", "completions": [report] }),
        };
        let answer = client.post(&format!("/work/{route}"), body).await;
        assert!(answer.text.contains(r#""status":"completed""#), "{}", answer.text);
    }
    submitted(&client, json!({})).await;
    let id = client.claim("a", json!({})).await["task_id"].clone();
    let id = id.as_str().expect("an id");
    let wrong = client.complete("a", id, json!({ "claim_token": "c_0" })).await;
    assert_eq!(wrong["reason"], "claim_superseded", "another token is");
}

#[tokio::test]
async fn requirements_that_nothing_would_check_are_refused() {
    let service = Service::start().await;
    let client = service.client();
    let before = service.contents().await;
    for (requirements, member, words) in [
        (json!({ "min_trust": 4 }), "min_trust", "(did you mean min_trust_level?)"),
        (json!({ "minTrustLevel": 1 }), "minTrustLevel", "(did you mean min_trust_level?)"),
        (json!({ "archetypes": ["rust"] }), "archetypes", "(did you mean archetype?)"),
        (json!({ "archetype": "rust", "tools": ["cargo"] }), "tools", "unknown requirement:"),
        (json!({ "min_trust": null }), "min_trust", "Expected archetype or min_trust_level"),
        (json!({ "": 1 }), "", "unknown requirement:"),
    ] {
        let more = json!({ "agent_requirements": requirements });
        let answer = client.post("/work/submit", work(more.clone())).await;
        let loc = json!(["body", "agent_requirements", member]);
        assert_eq!(answer.issues(), [("value_error".to_owned(), loc)], "{requirements}");
        let text = answer.json["detail"][0]["msg"].as_str().expect("words");
        assert!(text.contains(words), "{text}");
        let tasks = [work(json!({})), work(more)];
        let answer = client.post("/work/submit-batch", json!({ "tasks": tasks })).await;
        let loc = json!(["body", "tasks", 1, "agent_requirements", member]);
        assert_eq!(answer.issues(), [("value_error".to_owned(), loc)], "{requirements}");
    }
    assert_eq!(service.contents().await, before);
    let requirements = json!({ "min_trust_level": "1", "archetype": "rust" });
    let id = submitted(&client, json!({ "agent_requirements": requirements })).await;
    let kept = json!({ "archetype": "rust", "min_trust_level": 1 });
    assert_eq!(task(&client, &id["task_id"]).await["agent_requirements"], kept);
}

#[tokio::test]
async fn an_empty_archetype_is_none() {
    let service = Service::start().await;
    let client = service.client();
    for (requirements, kept) in [
        (json!({ "archetype": "" }), json!(null)),
        (json!({ "archetype": "", "min_trust_level": 2 }), json!({ "min_trust_level": 2 })),
    ] {
        let id = submitted(&client, json!({ "agent_requirements": requirements })).await;
        assert_eq!(task(&client, &id["task_id"]).await["agent_requirements"], kept);
        assert_eq!(client.claim("a", json!({})).await["task_id"], id["task_id"]);
    }
}
