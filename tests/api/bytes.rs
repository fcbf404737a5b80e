//! Bounds in bytes: how large a page of a list gets, what a process holds at once, and JSON that is passed on as
//! text.
use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{Answer, Client, Service};

#[cfg(target_os = "linux")]
mod process;

/// A list that is filled with large rows: how a row is written, and how the list is read.
struct List {
    write: (&'static str, fn(usize, &str) -> String),
    read: (&'static str, &'static str),
    /// Where the answer has the list.
    member: &'static str,
}

/// The lists whose rows can be large. The text is the JSON of an object.
const LISTS: [List; 4] = [
    List {
        write: ("/memory/store", |n, object| {
            format!(
                r#"{{"agent_id":"a","event_type":"e","summary":"memory {n}","details":{object}}}"#
            )
        }),
        read: ("POST", "/memory/query"),
        member: "memories",
    },
    List {
        write: ("/handoffs/write", |n, object| {
            format!(r#"{{"agent_id":"a","summary":"handoff {n}","content":{object}}}"#)
        }),
        read: ("POST", "/handoffs/read"),
        member: "handoffs",
    },
    List {
        write: ("/work/submit", |n, object| {
            format!(r#"{{"task_type":"t","task_description":"task {n}","input_data":{object}}}"#)
        }),
        read: ("GET", "/work"),
        member: "tasks",
    },
    List {
        write: ("/discovery/register", |n, object| {
            format!(r#"{{"agent_id":"a","session_id":"s{n}","metadata":{object}}}"#)
        }),
        read: ("GET", "/discovery/agents"),
        member: "agents",
    },
];

impl List {
    async fn fill(&self, client: &Client, count: usize, object: &str) {
        let (path, body) = self.write;
        for n in 0..count {
            let answer = client.post_text(path, body(n, object)).await;
            assert_eq!(answer.status, 200, "{path}: {:.300}", answer.json);
        }
    }

    async fn page(&self, client: &Client, limit: usize, cursor: Option<&str>) -> Answer {
        let (method, path) = self.read;
        if method == "POST" {
            return client
                .post(path, json!({ "agent_id": "a", "limit": limit, "cursor": cursor }))
                .await;
        }
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        client.get(&format!("{path}?limit={limit}{cursor}")).await
    }
}

/// An object of about so many bytes.
fn object(bytes: usize) -> String {
    format!(r#"{{"zeros":[{}0]}}"#, "0,".repeat(bytes / 2))
}

#[tokio::test]
async fn a_page_ends_where_it_gets_too_large_and_its_cursor_goes_on() {
    let service = Service::start().await;
    let client = service.client();
    for list in LISTS {
        list.fill(&client, 5, &object(400_000)).await;
        let (mut shown, mut cursor) = (Vec::new(), None::<String>);
        let mut pages = 0;
        loop {
            let page = list.page(&client, 10, cursor.as_deref()).await.json;
            let rows = page[list.member].as_array().expect("a list").clone();
            assert_eq!(page["count"], json!(rows.len()));
            shown.extend(
                rows.iter().map(|row| {
                    row["id"].as_str().or(row["session_id"].as_str()).map(str::to_owned)
                }),
            );
            pages += 1;
            if page["truncated"] == false {
                break;
            }
            assert_eq!(rows.len(), 2, "{}", list.member);
            let hint = "showing first 2, because a page has at most 1 MiB; repeat the request with \
                next_cursor as cursor for those that follow";
            assert_eq!(page["hint"], hint);
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            assert!(cursor.is_some(), "{}", list.member);
        }
        let distinct: BTreeSet<_> = shown.iter().collect();
        assert_eq!((shown.len(), distinct.len(), pages), (5, 5, 3), "{}", list.member);
        let none = list.page(&client, 0, None).await.json;
        assert_eq!((&none["count"], &none["truncated"]), (&json!(0), &json!(true)));
    }
}

#[tokio::test]
async fn a_page_has_one_row_however_large_it_is() {
    let service = Service::start().await;
    let client = service.client();
    for list in LISTS {
        list.fill(&client, 2, &object(1_040_000)).await;
        let page = list.page(&client, 10, None).await.json;
        assert_eq!(
            (&page["count"], &page["truncated"]),
            (&json!(1), &json!(true)),
            "{}",
            list.member
        );
    }
}

#[tokio::test]
async fn a_claim_of_many_tasks_ends_where_the_answer_gets_too_large() {
    let service = Service::start().await;
    let client = service.client();
    LISTS[2].fill(&client, 5, &object(400_000)).await;
    let claimed = client.claim("a", json!({ "count": 5 })).await;
    assert_eq!(claimed["tasks"].as_array().map(Vec::len), Some(3));
    let rest = client.claim("a", json!({ "count": 5 })).await;
    assert_eq!(rest["tasks"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn free_form_json_is_returned_as_it_was_sent() {
    let object =
        r#"{ "b": 12345678901234567890123, "a": 0.1000000000000000055, "c": [-0, 1E2, "\u00e9"] }"#;
    let service = Service::start().await;
    let client = service.client();
    for list in LISTS {
        list.fill(&client, 1, object).await;
        let answer = list.page(&client, 1, None).await;
        assert!(answer.text.contains(object), "{}: {}", list.member, answer.text);
    }
    let claimed = client.post_text("/work/claim", r#"{"agent_id":"a","agent_type":"t"}"#).await;
    assert!(claimed.text.contains(object), "{}", claimed.text);
    let complete = |object: &str| {
        let (id, token) = (&claimed.json["task_id"], &claimed.json["claim_token"]);
        format!(
            r#"{{"agent_id":"a","task_id":{id},"claim_token":{token},"success":true,"result":{object}}}"#
        )
    };
    let completed = client.post_text("/work/complete", complete(object)).await;
    assert_eq!(completed.json["success"], true, "{}", completed.text);
    let task = client.post("/work/get", json!({ "task_id": claimed.json["task_id"] })).await;
    assert_eq!(task.text.matches(object).count(), 2, "{}", task.text);
}

#[tokio::test]
async fn free_form_json_that_cannot_be_stored_is_refused() {
    let service = Service::start().await;
    let client = service.client();
    let store = async |details: &str| {
        let body =
            format!(r#"{{"agent_id":"a","event_type":"e","summary":"s","details":{details}}}"#);
        client.post_text("/memory/store", body).await
    };
    for (details, kind) in [
        (r#"{"a":1e999}"#, "json_invalid"),
        (r#"{"a":"\ud800"}"#, "json_invalid"),
        (r#"{"a":}"#, "json_invalid"),
        (r#"{"a":"\u0000"}"#, "value_error"),
        (r#"{"a\u0000":1}"#, "value_error"),
        ("[1]", "dict_type"),
        (r#""{}""#, "dict_type"),
    ] {
        let answer = store(details).await;
        assert_eq!(answer.status, 422, "{details}");
        assert_eq!(answer.json["detail"][0]["type"], kind, "{details}");
    }
    assert_eq!(store(r#"{"a":"\\u0000"}"#).await.status, 200);
    let echo = &store("[1]").await.json["detail"][0]["input"];
    assert_eq!(*echo, json!([1]));
}

#[tokio::test]
async fn numbers_of_tool_arguments_are_kept() {
    let service = Service::start().await;
    let client = service.client().header("accept", "application/json");
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"remember",
        "arguments":{"summary":"s","details":{"n":12345678901234567890123}}}}"#;
    let answer = client.post_text("/mcp", call).await;
    assert_eq!(answer.json["result"]["isError"], json!(false), "{}", answer.text);
    let found = client.post("/memory/query", json!({ "agent_id": "", "scope": "workspace" })).await;
    assert!(found.text.contains(r#"{"n":12345678901234567890123}"#), "{}", found.text);
}
