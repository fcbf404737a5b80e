//! Laws: what holds for every operation. Each law runs over the registry, so a new operation is covered.
mod constants;
mod functions;
mod outcomes;
mod privileges;
mod rooms;
mod rules;
mod scale_out;
mod sql;
mod workspaces;

use std::collections::{BTreeSet, HashSet};

use agent_coordinator::{App, Category, capabilities, operation::Registered, router};
use axum::body::Body;
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::{Answer, BOSS, Client, FREE, Service, config, variables};

/// One request to an operation.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Body,
}

/// The request with these members for a route: in the path, the query or the body.
pub(crate) fn request(route: &str, input: &Value) -> Asked {
    let (method, template) = route.split_once(' ').expect("method and path");
    let method: Method = method.parse().expect("a method");
    let text = |value: &Value| match value {
        Value::String(text) => utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
        other => utf8_percent_encode(&other.to_string(), NON_ALPHANUMERIC).to_string(),
    };
    let mut path = template.replace("{*", "{");
    let mut rest = serde_json::Map::new();
    for (name, value) in input.as_object().expect("an object") {
        let part = format!("{{{name}}}");
        if path.contains(&part) {
            path = path.replace(&part, &text(value));
        } else {
            rest.insert(name.clone(), value.clone());
        }
    }
    if [Method::GET, Method::DELETE].contains(&method) {
        let query: Vec<_> = rest.iter().map(|(name, it)| format!("{name}={}", text(it))).collect();
        let path = format!("{path}?{}", query.join("&"));
        return Asked { method, path, body: Body::empty() };
    }
    Asked { method, path, body: Value::Object(rest).to_string().into() }
}

pub(crate) async fn ask(client: &Client, op: &Registered, route: &str) -> Answer {
    let Asked { method, path, body } = request(route, &op.example);
    let answer = client.send(method, &path, body).await;
    assert!(!answer.status.is_server_error(), "{}: {}", op.meta.id, answer.text);
    answer
}

/// The operations with each of their routes.
pub(crate) fn routes() -> Vec<(std::sync::Arc<Registered>, &'static str)> {
    let operations = capabilities::all();
    let each = operations.iter().flat_map(|op| op.meta.routes.iter().map(|it| (op.clone(), *it)));
    each.collect()
}

/// Writes whose example is refused or changes nothing in an empty database: a repetition with the same
/// idempotency key is judged again.
const JUDGED_AGAIN: [&str; 8] = [
    "cancel_work",
    "check_guardrails",
    "cleanup_agents",
    "complete_work",
    "complete_work_batch",
    "force_release_lock",
    "manage_keys",
    "renew_work",
];

/// Tables that have no key.
const WITHOUT_KEY: [&str; 0] = [];

/// The tables whose rows differ between two states of a workspace.
pub(crate) fn changed(before: &Value, after: &Value) -> Vec<String> {
    let tables = before.as_object().expect("tables").iter();
    tables.filter(|(name, rows)| after[*name] != **rows).map(|(name, _)| name.clone()).collect()
}

/// A client with permission for an operation, as the agent that the examples name.
pub(crate) fn permitted(service: &Service, op: &Registered) -> Client {
    match op.meta.category {
        Category::Admin => service.client_with(BOSS),
        Category::Read | Category::Write => service.client(),
    }
}

#[tokio::test]
async fn without_a_key_only_open_operations_answer_and_only_where_reads_are_public() {
    for public in ["false", "true"] {
        let service = Service::with(&[("COORDINATION_PUBLIC_READS", public)]).await;
        for (op, route) in routes() {
            let Asked { method, path, body } = request(route, &op.example);
            let status = service.anonymous().send(method, &path, body).await.status;
            let open = op.meta.open && public == "true";
            assert_eq!(status.as_u16(), if open { 200 } else { 401 }, "{route}");
            assert!(!open || op.meta.is_pure_read(), "{route} is open and writes");
            let Asked { method, path, body } = request(route, &op.example);
            let wrong = service.client_with("wrong").send(method, &path, body).await;
            wrong.assert_is(401, json!({ "detail": "Invalid API key" }));
        }
        assert_eq!(service.audit_rows().await, 0);
    }
}

#[tokio::test]
async fn every_example_is_accepted_and_runs() {
    let service = Service::start().await;
    for (op, route) in routes() {
        let answer = ask(&permitted(&service, &op), &op, route).await;
        assert_eq!(answer.status, 200, "{route}: {}", answer.text);
    }
}

#[tokio::test]
async fn every_audited_call_leaves_exactly_one_row_of_its_name_and_no_other_call_any() {
    let service = Service::start().await;
    for (op, route) in routes() {
        // Twice: the first call can change something and the second one can be refused.
        for _ in 0..2 {
            // A batch has one row of its own, and one for each task.
            let named =
                format!("select count(*) from audit_log where operation = '{}'", op.meta.audit());
            let (all, before) = (service.audit_rows().await, service.scalar::<i64>(&named).await);
            ask(&permitted(&service, &op), &op, route).await;
            let expected = i64::from(op.meta.is_audited());
            assert_eq!(service.scalar::<i64>(&named).await - before, expected, "{route}");
            if op.meta.id != "submit_work_batch" {
                assert_eq!(service.audit_rows().await - all, expected, "{route}");
            }
        }
    }
}

#[tokio::test]
async fn a_write_repeated_with_its_idempotency_key_has_one_effect() {
    let service = Service::start().await;
    let (mut replayed, mut judged_again) = (BTreeSet::new(), BTreeSet::new());
    for (n, (op, route)) in routes().into_iter().enumerate() {
        if !op.meta.idempotent() {
            continue;
        }
        let client = permitted(&service, &op).header("idempotency-key", &format!("key-{n}"));
        let first = ask(&client, &op, route).await;
        let before = service.contents().await;
        let second = ask(&client, &op, route).await;
        if second.headers.contains_key("idempotent-replayed") {
            assert_eq!(second.text, first.text, "{route}");
            assert_eq!(service.contents().await, before, "{route}");
            replayed.insert(op.meta.id);
        } else {
            // Only an answer without an effect is judged again.
            judged_again.insert(op.meta.id);
            let kept = format!("select count(*) from idempotency_key where key = 'key-{n}'");
            assert_eq!(service.scalar::<i64>(&kept).await, 0, "{route}: {}", first.text);
        }
    }
    assert_eq!(judged_again, JUDGED_AGAIN.into());
    assert!(replayed.is_disjoint(&judged_again));
}

#[tokio::test]
async fn a_read_writes_nothing() {
    let service = Service::start().await;
    service.client().acquire("claude-1", "src/main.rs", json!({})).await;
    // On these connections, the database refuses to write.
    let separator = if service.url.contains('?') { '&' } else { '?' };
    let read_only =
        format!("{}{separator}options=-c%20default_transaction_read_only%3Don", service.url);
    // A pooler would not pass the option on, so the client connects to the database directly.
    let client = Client::new(router(App::new(config(&variables(&read_only)))));
    let client = client.header("x-api-key", FREE);
    let before = service.contents().await;
    for (op, route) in routes() {
        if op.meta.is_pure_read() && !op.meta.is_audited() {
            let answer = ask(&client, &op, route).await;
            assert_eq!(answer.status, 200, "{route}: {}", answer.text);
        } else if op.meta.is_audited() {
            let Asked { method, path, body } = request(route, &op.example);
            let status = client.send(method, &path, body).await.status;
            assert_eq!(status, 503, "the check itself must be able to fail: {route}");
        }
    }
    assert_eq!(service.contents().await, before);
}

#[tokio::test]
async fn a_suspended_agent_is_denied_everything_and_changes_nothing() {
    let service = Service::start().await;
    service.client().acquire("claude-1", "src/main.rs", json!({})).await;
    service
        .execute(
            "insert into agent_assignment (workspace, agent_id, suspended)
             values ('default', 'boss', true)",
        )
        .await;
    let client = service.client_with(BOSS);
    for (op, route) in routes() {
        let mut example = op.example.clone();
        example.as_object_mut().expect("an object").remove("agent_type");
        for (name, _) in op.fields() {
            if ["agent_id", "agent_type"].contains(&name.as_str()) {
                example[name] = json!("");
            }
        }
        let locks = service.rows("select * from file_lock").await;
        let before = service.audit_rows().await;
        let Asked { method, path, body } = request(route, &example);
        let denied = client.send(method, &path, body).await;
        denied.assert_is(403, json!({ "detail": "agent_suspended: trust_level=0" }));
        assert_eq!(service.rows("select * from file_lock").await, locks, "{route}");
        assert_eq!(service.audit_rows().await - before, 1, "{route}");
        let audit = service.last_audit().await;
        assert_eq!(audit["operation"], "policy_decision");
        assert_eq!(audit["parameters"]["operation"], op.meta.name);
    }
}

#[test]
fn no_route_and_no_id_is_used_twice() {
    let mut seen = HashSet::new();
    for (_, route) in routes() {
        assert!(seen.insert(route.to_owned()), "{route}");
        assert!(route.starts_with(['G', 'P', 'D']), "{route}");
    }
    for op in capabilities::all().iter() {
        assert!(seen.insert(op.meta.id.to_owned()), "{}", op.meta.id);
        assert!(
            !op.meta.routes.is_empty() || op.meta.tool.is_some(),
            "{} is not reached",
            op.meta.id
        );
    }
}

#[tokio::test]
async fn every_operation_is_documented_where_it_is_reached() {
    let service = Service::start().await;
    let document = service.client().get("/openapi.json").await.json;
    assert_eq!(document["openapi"], "3.1.0");
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            documented.insert(format!("{} {path}", method.to_uppercase()));
            assert!(operation["summary"].as_str().is_some_and(|it| !it.is_empty()), "{path}");
        }
    }
    let pages = ["/health", "/live", "/ready", "/openapi.json", "/docs", "/metrics"];
    let mut reached: BTreeSet<_> = pages.iter().map(|it| format!("GET {it}")).collect();
    reached.extend(["POST /mcp", "DELETE /mcp"].map(str::to_owned));
    reached.extend(routes().iter().map(|(_, route)| route.replace("{*", "{")));
    for op in capabilities::all().iter() {
        assert!(!op.description().is_empty(), "{} has no description", op.meta.id);
        for (name, schema) in op.fields() {
            let described = schema["description"].as_str().is_some_and(|it| !it.is_empty());
            assert!(described, "{}.{name} has no description", op.meta.id);
        }
        for (name, schema) in op.output["properties"].as_object().into_iter().flatten() {
            let described = schema["description"].as_str().is_some_and(|it| !it.is_empty());
            assert!(described, "the answer of {} has no description of {name}", op.meta.id);
        }
    }
    assert_eq!(documented, reached);
    let ids: Vec<_> = document["paths"]
        .as_object()
        .expect("paths")
        .values()
        .flat_map(|it| it.as_object().expect("methods").values())
        .map(|it| it["operationId"].clone())
        .collect();
    let distinct: HashSet<_> = ids.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), ids.len(), "operation ids are unique");
}

#[tokio::test]
async fn every_key_and_every_unique_index_begins_with_the_workspace() {
    let service = Service::start().await;
    let rows = service
        .rows(
            "select c.relname as table, i.relname as index, (
                select attname from pg_attribute where attrelid = c.oid and attnum = x.indkey[0]
             ) as first
             from pg_index x
             join pg_class c on c.oid = x.indrelid
             join pg_class i on i.oid = x.indexrelid
             where x.indisunique and c.relnamespace = 'public'::regnamespace
                and not c.relispartition and c.relname <> '_sqlx_migrations'",
        )
        .await;
    let mut with_key = BTreeSet::new();
    for row in rows {
        assert_eq!(row["first"], "workspace", "{row}");
        with_key.insert(row["table"].as_str().expect("a name").to_owned());
    }
    let tables = service.tables_of_workspaces().await.into_iter().map(|it| it.0);
    let without_key: Vec<_> = tables.filter(|it| !with_key.contains(it)).collect();
    assert_eq!(without_key, WITHOUT_KEY, "tables without a key");
}
