//! Memories ranked by BM25, with a stand-in for extension pg_search: an operator, a score and an index
//! with the same names. It tests when the service uses the index, and how it handles errors. It does not
//! test the extension.
use serde_json::{Value, json};

use crate::support::{Client, FREE, Service, TEAM, execute, try_execute, with};

/// The operator finds any of the words; the score is the beginning of the id. Sequence `asked` counts
/// the comparisons, those of failed transactions too.
const STAND_IN: &str = "
    create schema pdb;
    create function pdb.score(id uuid) returns real immutable language sql as $$
        select ('x00' || left(id::text, 6))::bit(32)::integer::real
    $$;
    create sequence asked;
    create function any_word(words text, query text) returns boolean language sql as $$
        select nextval('asked') > 0 and string_to_array(words, ' ') && string_to_array(lower(query), ' ')
    $$;
    create operator ||| (leftarg = text, rightarg = text, function = any_word);
    create index memory_bm25 on memory_words (id);
    create trigger memory_words_stored after insert or update of summary, lessons, tags on memory
        for each row execute function store_memory_words()";

const FAILING: &str = "
    create or replace function any_word(words text, query text) returns boolean
    language plpgsql as $$
    begin
        perform nextval('asked');
        raise exception 'could not read blocks 435..435';
    end $$";

async fn stand_in() -> Service {
    let service = Service::start().await;
    service.execute(STAND_IN).await;
    service
}

async fn remember(client: &Client, summary: &str, more: Value) -> Value {
    let body = json!({ "agent_id": "a", "event_type": "discovery", "summary": summary });
    let answer = client.post("/memory/store", with(body, more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

async fn recall(client: &Client, query: &str) -> Value {
    let body = json!({ "agent_id": "a", "query": query });
    let answer = client.post("/memory/query", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

fn members(answer: &Value) -> Vec<&String> {
    answer.as_object().expect("an object").keys().collect()
}

fn each<'a>(answer: &'a Value, member: &str) -> Vec<&'a str> {
    let memories = answer["memories"].as_array().expect("a list");
    memories.iter().map(|it| it[member].as_str().expect("a text")).collect()
}

/// How often the index was queried so far.
async fn asked(service: &Service) -> i64 {
    service.scalar("select case when is_called then last_value else 0 end from asked").await
}

/// Another process on the same database, with empty caches and a single connection.
async fn other_process(service: &Service) -> Client {
    service.replica(&[("POSTGRES_POOL_MAX", "1")]).await.header("x-api-key", FREE)
}

#[tokio::test]
async fn without_the_extension_nothing_is_kept_or_told() {
    let service = Service::start().await;
    let client = service.client();
    remember(&client, "one pool", json!({})).await;
    assert_eq!(members(&recall(&client, "pool").await), ["memories", "count", "truncated"]);
    assert!(!service.scalar::<bool>("select create_bm25_index()").await);
    assert_eq!(service.scalar::<i64>("select count(*) from memory_words").await, 0);
    let triggers = "select count(*) from pg_trigger where tgname = 'memory_words_stored'";
    assert_eq!(service.scalar::<i64>(triggers).await, 0);
}

#[tokio::test]
async fn the_index_is_made_for_versions_that_recover_and_its_failure_breaks_nothing() {
    let service = Service::start().await;
    service
        .execute(
            "create sequence tried;
             create function try() returns event_trigger language plpgsql as $$
                 begin perform nextval('tried'); end $$;
             create event trigger try on ddl_command_start when tag in ('CREATE INDEX')
                 execute function try()",
        )
        .await;
    let versions = [
        ("0.9.1", 0),
        ("0.23.9", 0),
        ("nightly", 0),
        ("0.24.0", 1),
        ("0.25.0-rc.1", 2),
        ("0.100.0", 3),
        ("1.0.0", 4),
    ];
    for (version, tries) in versions {
        // Without the access method, the index cannot be created.
        service
            .execute(&format!(
                "begin;
                 set local allow_system_table_mods = on;
                 insert into pg_extension values
                     (99999, 'pg_search', 10, 'public'::regnamespace, false, '{version}');
                 create table made as select create_bm25_index() as made;
                 delete from pg_extension where oid = 99999;
                 commit"
            ))
            .await;
        assert!(!service.scalar::<bool>("select made from made").await, "{version}");
        let tried = "select case when is_called then last_value else 0 end from tried";
        assert_eq!(service.scalar::<i64>(tried).await, tries, "{version}");
        let triggers = "select count(*) from pg_trigger where tgname = 'memory_words_stored'";
        assert_eq!(service.scalar::<i64>(triggers).await, 0, "{version}");
        service.execute("drop table made").await;
    }
    assert_eq!(remember(&service.client(), "x", json!({})).await["action"], "created");
}

#[tokio::test]
async fn the_index_orders_what_is_found() {
    let service = stand_in().await;
    let client = service.client();
    for n in 0..8 {
        remember(&client, &format!("pool {n}"), json!({})).await;
    }
    remember(&service.client_with(TEAM), "pool of a team", json!({})).await;
    let answer = recall(&client, "Pool").await;
    assert!(asked(&service).await > 0);
    assert_eq!(members(&answer), ["memories", "count", "truncated"]);
    assert_eq!((&answer["count"], &answer["truncated"]), (&json!(8), &json!(false)));
    let ids = each(&answer, "id");
    let mut expected = ids.clone();
    expected.sort_by(|one, other| other[..6].cmp(&one[..6]));
    assert_eq!(ids, expected);
    let memory = answer["memories"][0].as_object().expect("an object");
    assert_eq!(memory.len(), 12, "no other members");
    assert!(memory["relevance_score"].as_f64() > Some(0.99), "relevance stays that of age");
    let own = recall(&service.client_with(TEAM), "pool").await;
    assert_eq!(each(&own, "summary"), ["pool of a team"]);
    service
        .execute(
            "create or replace function any_word(words text, query text) returns boolean
             language plpgsql as $$
             begin
                 if words like '%team%' then raise exception 'not our words'; end if;
                 return true;
             end $$",
        )
        .await;
    let answer = recall(&client, "pool").await;
    assert_eq!(answer["degraded"], Value::Null, "the words of others are not looked at");
}

#[tokio::test]
async fn what_is_older_counts_less_there_too() {
    let service = stand_in().await;
    let client = service.client();
    // In the native ranking, a match in the summary instead of a tag outweighs a day of age.
    service
        .execute(
            "create or replace function pdb.score(id uuid) returns real immutable language sql as
             'select 2::real'",
        )
        .await;
    remember(&client, "pool", json!({})).await;
    service
        .execute(
            "update memory set
                created_at = (created_at at time zone 'utc' - interval '1 day') at time zone 'utc'",
        )
        .await;
    remember(&client, "other", json!({ "tags": ["pool"] })).await;
    assert_eq!(each(&recall(&client, "pool").await, "summary"), ["other", "pool"]);
    service.execute("drop index memory_bm25").await;
    let natively = recall(&other_process(&service).await, "pool").await;
    assert_eq!(each(&natively, "summary"), ["pool", "other"]);
}

#[tokio::test]
async fn what_the_index_misses_is_found_all_the_same() {
    let service = stand_in().await;
    let client = service.client();
    remember(&client, "pools in src/lockKey.rs", json!({})).await;
    remember(&client, "a pool in src", json!({})).await;
    remember(&client, "a pool", json!({})).await;
    let found = async |query: &str| {
        let answer = recall(&client, query).await;
        each(&answer, "summary").iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(found("src nowhere").await.len(), 2);
    assert_eq!(found("nowhere").await, [""; 0]);
    assert_eq!(found("lockKey.rs").await, ["pools in src/lockKey.rs"]);
    let whole_first = found("poo").await;
    assert_eq!(whole_first.len(), 3, "the beginning of a word is enough: {whole_first:?}");
    assert_eq!(found("pool").await[2], "pools in src/lockKey.rs", "whole words come first");
    let before = asked(&service).await;
    assert_eq!(found("?!").await.len(), 3, "without a word there is nothing to rank");
    assert_eq!(asked(&service).await, before);
    service.execute("truncate memory_words").await;
    assert_eq!(found("pool").await.len(), 3, "an index that lost its rows");
}

#[tokio::test]
async fn a_failing_index_is_made_up_for_in_the_same_request_and_left_alone() {
    let service = stand_in().await;
    let client = other_process(&service).await;
    remember(&client, "one pool", json!({})).await;
    remember(&client, "two pools", json!({})).await;
    let ordered = recall(&client, "pool").await;
    service.execute(FAILING).await;
    let answer = recall(&client, "pool").await;
    assert_eq!(members(&answer), ["memories", "count", "truncated", "degraded"]);
    assert_eq!((&answer["count"], &answer["degraded"]), (&json!(2), &json!(true)));
    let same = |answer: &Value| {
        let mut ids: Vec<String> = each(answer, "id").into_iter().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    assert_eq!(same(&answer), same(&ordered));
    let tries = asked(&service).await;

    // The answer is still `degraded`, and the index is not queried again.
    assert_eq!(recall(&client, "pool").await["degraded"], true);
    assert_eq!(asked(&service).await, tries);
    let body = json!({ "agent_id": "a" });
    let wordless = client.post("/memory/query", body).await;
    assert_eq!(members(&wordless.json), ["memories", "count", "truncated"]);

    // The one connection is not in a transaction, and a write with an idempotency key takes effect once.
    let open = "select count(*) from pg_stat_activity where datname = current_database()
                and state like 'idle in transaction%'";
    assert_eq!(service.scalar::<i64>(open).await, 0);
    let once = client.clone().header("idempotency-key", "k");
    let stored = remember(&once, "three", json!({})).await;
    assert_eq!(remember(&once, "three", json!({})).await, stored);
    assert_eq!(recall(&once, "pool").await["degraded"], true, "a read heeds no such key");

    // Another process detects the failure itself.
    let before = asked(&service).await;
    assert_eq!(recall(&other_process(&service).await, "pool").await["degraded"], true);
    assert!(asked(&service).await > before);
}

#[tokio::test]
async fn an_index_that_takes_the_connection_with_it_is_not_asked_by_the_repetition() {
    let service = stand_in().await;
    let client = other_process(&service).await;
    remember(&client, "one pool", json!({})).await;
    service
        .execute(
            "create or replace function any_word(words text, query text) returns boolean
             language sql as 'select pg_terminate_backend(pg_backend_pid())'",
        )
        .await;
    // The service itself repeats a read whose connection was lost.
    let answer = recall(&client, "pool").await;
    assert_eq!((&answer["count"], &answer["degraded"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn an_index_that_is_not_valid_is_not_asked() {
    let service = stand_in().await;
    service
        .execute(
            "begin;
             set local allow_system_table_mods = on;
             update pg_index set indisvalid = false where indexrelid = 'memory_bm25'::regclass;
             commit",
        )
        .await;
    remember(&service.client(), "one pool", json!({})).await;
    let answer = recall(&service.client(), "pool").await;
    assert_eq!(members(&answer), ["memories", "count", "truncated"]);
    assert_eq!(asked(&service).await, 0);
}

#[tokio::test]
async fn the_words_of_a_memory_are_kept_with_it() {
    let service = stand_in().await;
    let client = service.client();
    let words = "select words from memory_words";
    remember(&client, "lockKey, lockKey", json!({ "tags": ["db"] })).await;
    assert_eq!(service.scalar::<String>(words).await, "key lock lockkey key lock lockkey db");
    remember(&client, "lockKey, lockKey", json!({ "lessons": ["wait"] })).await;
    let merged = "key lock lockkey key lock lockkey wait db";
    assert_eq!(service.scalar::<String>(words).await, merged);
    service.execute("delete from memory").await;
    assert_eq!(service.scalar::<i64>("select count(*) from memory_words").await, 0);
}

#[tokio::test]
async fn an_index_that_takes_no_row_refuses_no_memory() {
    let service = stand_in().await;
    let client = service.client();
    service.execute("alter table memory_words add check (words <> 'one pool')").await;
    assert_eq!(remember(&client, "one pool", json!({})).await["action"], "created");
    remember(&client, "another pool", json!({})).await;
    let answer = recall(&client, "pool").await;
    assert_eq!(
        each(&answer, "summary"),
        ["another pool", "one pool"],
        "the memory that the index misses comes last"
    );
    let refused = "insert into memory_words select workspace, id, 'one pool' from memory limit 1";
    assert!(try_execute(&service.db, refused).await.is_err());
}

#[tokio::test]
async fn words_that_the_index_did_not_take_are_stored_later() {
    let service = stand_in().await;
    let client = service.client();
    let words = async || {
        let words = service.rows("select words from memory_words order by words").await;
        words.iter().map(|it| it["words"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    service.execute("alter table memory_words add constraint no check (words <> 'bad')").await;
    remember(&client, "bad", json!({})).await;
    let mut locking = service.db.begin().await.expect("a transaction");
    execute(&mut *locking, "lock table memory_words").await;
    remember(&client, "locked", json!({})).await;
    locking.rollback().await.expect("the end");
    assert_eq!(words().await, [""; 0]);
    // The one that is still refused does not keep others back.
    remember(&client, "one", json!({})).await;
    remember(&client, "two", json!({})).await;
    assert_eq!(words().await, ["locked", "one", "two"]);
    service.execute("alter table memory_words drop constraint no").await;
    remember(&client, "three", json!({})).await;
    assert_eq!(words().await, ["bad", "locked", "one", "three", "two"]);
    assert_eq!(service.scalar::<i64>("select count(*) from memory_without_words").await, 0);
}

#[tokio::test]
async fn a_locked_index_is_not_waited_for_and_asked_again_at_once() {
    let service = stand_in().await;
    let client = service.client();
    remember(&client, "one pool", json!({})).await;
    let mut locking = service.db.begin().await.expect("a transaction");
    execute(&mut *locking, "lock table memory_words").await;
    let meanwhile = recall(&client, "pool").await;
    assert_eq!((&meanwhile["count"], &meanwhile["degraded"]), (&json!(1), &json!(true)));
    locking.rollback().await.expect("the end");
    assert_eq!(members(&recall(&client, "pool").await), ["memories", "count", "truncated"]);
}
