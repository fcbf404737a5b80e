//! Memories on ParadeDB's extension pg_search itself. `make test-paradedb` runs these tests, and those of
//! `memory`, on a server that has it.
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

use crate::support::{Client, FREE, Service, execute};

async fn remember(client: &Client, summary: &str) -> Value {
    let body = json!({ "agent_id": "a", "event_type": "discovery", "summary": summary });
    let answer = client.post("/memory/store", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn recall(client: &Client, query: &str) -> Value {
    let answer = client.post("/memory/query", json!({ "agent_id": "a", "query": query })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

fn summaries(answer: &Value) -> Vec<&str> {
    let memories = answer["memories"].as_array().expect("a list");
    memories.iter().map(|it| it["summary"].as_str().expect("a text")).collect()
}

/// How many memories have no words, or words that the index does not find.
async fn without_words(service: &Service) -> i64 {
    service
        .scalar(
            "select count(*) from memory m where not exists (
                select from memory_words w
                where w.workspace = m.workspace and w.id = m.id and w.words ||| 'memory')",
        )
        .await
}

#[tokio::test]
async fn a_migration_creates_the_index_and_it_ranks_what_is_found() {
    let service = Service::start().await;
    let client = service.client();
    let index = "select indexdef from pg_indexes where indexname = 'memory_bm25'";
    assert!(service.scalar::<String>(index).await.contains("USING bm25"));
    // Natively the newest of equals comes first. The index knows that the rare word tells more.
    remember(&client, "memory of the pool").await;
    remember(&client, "memory of a leak").await;
    for n in 0..5 {
        remember(&client, &format!("memory of a leak, number {n}")).await;
    }
    let answer = recall(&client, "pool leak").await;
    assert_eq!(answer.get("degraded"), None);
    assert_eq!(summaries(&answer)[0], "memory of the pool");
    service.execute("drop index memory_bm25").await;
    let other = service.replica(&[]).await.header("x-api-key", FREE);
    assert_ne!(summaries(&recall(&other, "pool leak").await)[0], "memory of the pool");
}

#[tokio::test]
async fn words_between_typographic_marks_are_scored() {
    let service = Service::start().await;
    remember(&service.client(), "memory of pools").await;
    for query in [
        "\u{201e}pools\u{201c}",
        "\u{ab}pools\u{bb}",
        "the\u{2026}pools",
        "pools\u{2013}leaks",
        "pools\u{3002}",
        "\u{ff08}pools\u{ff09}",
        "\u{300c}pools\u{300d}",
        "POOLS\u{ff0c}x",
    ] {
        let scored = format!(
            "select count(*) from jsonb_object_keys(
                (select scores from bm25_scores('default', '{query}', 1000)))"
        );
        assert_eq!(service.scalar::<i64>(&scored).await, 1, "{query}");
    }
}

#[tokio::test]
async fn the_index_is_created_again_while_memories_are_stored() {
    let service = Service::start().await;
    let store = async |writer: u32| {
        let client = service.client();
        for n in 0..30 {
            remember(&client, &format!("memory {n} of {writer}")).await;
        }
    };
    let create = async || {
        for n in 0..12 {
            assert!(service.scalar::<bool>("select create_bm25_index()").await, "{n}");
        }
    };
    join(join_all((0..8).map(store)), create()).await;
    let count: i64 = service.scalar("select count(*) from memory").await;
    assert_eq!((count, without_words(&service).await), (240, 0));
}

#[tokio::test]
async fn a_recall_does_not_wait_for_an_index_that_is_being_created() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "memory of pools").await;
    assert_eq!(recall(&client, "pools").await.get("degraded"), None);
    let mut creating = service.db.begin().await.expect("a transaction");
    execute(&mut *creating, "select create_bm25_index()").await;
    let meanwhile = recall(&client, "pools").await;
    assert_eq!((&meanwhile["count"], &meanwhile["degraded"]), (&json!(1), &json!(true)));
    creating.commit().await.expect("the index");
    let answer = recall(&client, "pools").await;
    assert_eq!(
        (&answer["count"], answer.get("degraded")),
        (&json!(1), None),
        "asked again at once"
    );
}

#[tokio::test]
async fn a_memory_stored_while_the_words_are_locked_gets_them_later() {
    let service = Service::start().await;
    let client = service.client();
    for lock in ["reindex index memory_bm25", "lock table memory_words"] {
        let mut locking = service.db.begin().await.expect("a transaction");
        execute(&mut *locking, lock).await;
        remember(&client, &format!("memory during {lock}")).await;
        locking.commit().await.expect("the lock");
        assert_eq!(without_words(&service).await, 1, "{lock}");
        remember(&client, &format!("memory after {lock}")).await;
        assert_eq!(without_words(&service).await, 0, "{lock}");
    }
}
