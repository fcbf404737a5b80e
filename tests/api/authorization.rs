//! The matrix of authorization: every operation, over every route, tool and resource, for every kind of caller.
//!
//! What a request must be answered is derived from docs/api-design.md ("Authentication", "Identity",
//! "Workspaces", "Authorization") and from the `Meta` of the operation. All deviations are reported together.
mod callers;
mod messages;
mod routes;

use std::collections::BTreeMap;

use agent_coordinator::{Category, IdentityMode, operation::Meta};
use serde_json::Value;

use crate::{
    laws,
    support::{Client, Service},
};
use callers::{Caller, Key, Standing, callers};

const ID_FORBIDDEN: &str = "API key is not permitted to act as requested agent_id";
const ID_LOOKALIKE: &str = "API key is not permitted to act as requested agent_id: it looks like the name of \
    an agent that has a key of its own; choose another name";
const TYPE_FORBIDDEN: &str = "API key is not permitted to act as requested agent_type";
const WORKSPACE_FORBIDDEN: &str = "API key is not permitted to use requested workspace";

/// What a request must be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Permitted,
    Unauthenticated,
    /// Denied with this reason. A denial is recorded once if the request has a key.
    Denied(String),
}

fn denied(reason: impl Into<String>) -> Expected {
    Expected::Denied(reason.into())
}

/// The expected answer to a caller of an operation. Over MCP, no body names the caller and a key is needed.
fn expected(caller: &Caller, meta: &Meta, is_mcp: bool) -> Expected {
    let header = |name: &str| caller.header(name);
    let Some(presented) = caller.key() else {
        return match header("x-workspace") {
            _ if is_mcp || !meta.open => Expected::Unauthenticated,
            Some(workspace) if workspace != "default" => denied(WORKSPACE_FORBIDDEN),
            _ => Expected::Permitted,
        };
    };
    let Some(key) = Key::find(presented) else { return Expected::Unauthenticated };
    let reads = match meta.identity {
        _ if is_mcp => [false, false],
        IdentityMode::Strict => [true, true],
        IdentityMode::StrictId => [true, false],
        IdentityMode::Soft => [key.agent_id.is_none(); 2],
        IdentityMode::HeadersOnly => [false, false],
    };
    let named = |name: &str, header_name: &str, reads: bool| {
        let in_body = caller.body.iter().find(|(member, _)| *member == name).map(|(_, it)| *it);
        let names = [in_body.filter(|_| reads), header(header_name)];
        names.into_iter().flatten().collect::<Vec<_>>()
    };
    let ids = named("agent_id", "x-agent-id", reads[0]);
    let is_permitted = |id: &&str| match key.agent_id {
        Some(own) => *id == own,
        None => !Key::is_bound_to(id),
    };
    if !ids.iter().all(is_permitted) {
        return denied(ID_FORBIDDEN);
    }
    let types = named("agent_type", "x-agent-type", reads[1]);
    if key.agent_type.is_some_and(|own| types.iter().any(|it| *it != own)) {
        return denied(TYPE_FORBIDDEN);
    }
    if key.agent_id.is_none() && ids.first().is_some_and(|id| callers::LOOKALIKES.contains(id)) {
        return denied(ID_LOOKALIKE);
    }
    if header("x-workspace").is_some_and(|name| name != key.workspace) {
        return denied(WORKSPACE_FORBIDDEN);
    }
    by_standing(&key.standing, meta)
}

/// The decision about a caller whose identity and workspace are permitted, by the native engine.
fn by_standing(standing: &Standing, meta: &Meta) -> Expected {
    let (name, trust) = (meta.name, standing.trust);
    let lacks = |list: &[String]| !list.iter().any(|it| it == name);
    if trust == 0 {
        return denied("agent_suspended: trust_level=0");
    }
    if !lacks(&standing.blocked) {
        return denied(format!("profile_denied: operation_blocked: {name}"));
    }
    if !standing.allowed.is_empty() && lacks(&standing.allowed) {
        return denied(format!("profile_denied: operation_not_in_allowlist: {name}"));
    }
    match meta.category {
        Category::Write if trust < 2 => denied(format!("write_denied: trust_level={trust} < 2")),
        Category::Admin if trust < 3 => denied(format!("admin_denied: trust_level={trust} < 3")),
        _ => Expected::Permitted,
    }
}

/// The service with every kind of caller, and rows that a refused request could change.
struct Matrix {
    service: Service,
    deviations: Vec<String>,
    /// The tables before the requests of which none may change any.
    before: Value,
    /// Denials that must be recorded, by the id of their request.
    recorded: BTreeMap<String, (Vec<String>, String)>,
    requests: usize,
}

impl Matrix {
    async fn start() -> Self {
        let variables = callers::environment();
        let variables: Vec<_> = variables.iter().map(|(name, it)| (*name, it.as_str())).collect();
        let service = Service::configured(&variables, |config| config).await;
        service.execute(&callers::rows()).await;
        let free = service.client_with(Key::find("key-free").expect("a key").text);
        let boss = service.client_with(Key::find("key-4").expect("a key").text);
        for (op, route) in laws::routes() {
            let client = if op.meta.category == Category::Admin { &boss } else { &free };
            let answer = laws::ask(client, &op, route).await;
            assert_eq!(answer.status, 200, "{route}: {}", answer.text);
        }
        // Some examples have ended what earlier ones began.
        free.acquire("claude-1", "src/main.rs", serde_json::json!({})).await;
        service.execute(SEEN).await;
        let before = tables(&service).await;
        let (deviations, recorded) = (Vec::new(), BTreeMap::new());
        Self { service, deviations, before, recorded, requests: 0 }
    }

    /// A client that sends what a caller sends, with a request id of its own, and that id.
    fn client(&mut self, caller: &Caller) -> (Client, String) {
        self.requests += 1;
        let id = format!("request-{}", self.requests);
        let client = self.service.anonymous().header("x-request-id", &id);
        let headers = caller.headers.iter();
        (headers.fold(client, |client, (name, value)| client.header(name, value)), id)
    }

    /// Expects so many audit rows for a denied request, or none where it has no known key.
    fn expect_record(&mut self, id: String, caller: &Caller, operations: &[&str], reason: &str) {
        if caller.key().is_some() {
            let operations = operations.iter().map(|it| (*it).to_owned()).collect();
            self.recorded.insert(id, (operations, reason.to_owned()));
        }
    }

    /// Compares all tables, and the denials that were recorded since the last comparison.
    async fn compare(&mut self, place: &str) {
        let after = tables(&self.service).await;
        for table in laws::changed(&self.before, &after) {
            if table != "audit_log" {
                let added = added(&self.before[&table], &after[&table]);
                self.deviations
                    .push(format!("{place}: a refused request changed {table}: {added}"));
            }
        }
        let rows = self.service.rows(RECORDED).await;
        let count = rows.len() as i64;
        let audited = |tables: &Value| tables["audit_log"].as_i64().expect("a number");
        if audited(&after) - audited(&self.before) != count {
            self.deviations.push(format!("{place}: rows of the audit log that are no denials"));
        }
        let mut found: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
        for row in &rows {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            let entry = found.entry(text("request_id")).or_default();
            entry.0.push(text("asked"));
            entry.1 = text("reason");
        }
        for (id, expected) in std::mem::take(&mut self.recorded) {
            let row = found.remove(&id);
            if row.as_ref() != Some(&expected) {
                self.deviations
                    .push(format!("{place} {id}: recorded {row:?}, expected {expected:?}"));
            }
        }
        for (id, row) in found {
            self.deviations.push(format!("{place} {id}: recorded {row:?}, expected nothing"));
        }
        self.service.execute(SEEN).await;
        self.before = tables(&self.service).await;
    }

    #[track_caller]
    fn finish(self, at_least: usize) {
        let Self { deviations, requests, .. } = self;
        assert!(requests > at_least, "only {requests} requests");
        let count = deviations.len();
        assert!(deviations.is_empty(), "{count} deviations:\n{}", deviations.join("\n"));
    }
}

/// Notes which rows the audit log has.
const SEEN: &str = "truncate seen; insert into seen select id from audit_log";

/// The denials in the audit log since the last comparison.
const RECORDED: &str =
    "select request_id, parameters ->> 'operation' as asked, result ->> 'reason' as reason
    from audit_log
    where id not in (select id from seen) and operation = 'policy_decision' and not success
    order by created_at";

/// The rows of a table that were not there before.
fn added(before: &Value, after: &Value) -> Value {
    let rows = |table: &Value| table.as_array().cloned().unwrap_or_default();
    let before = rows(before);
    rows(after).into_iter().filter(|row| !before.contains(row)).collect()
}

async fn tables(service: &Service) -> Value {
    serde_json::from_str(&service.contents().await).expect("JSON")
}

/// The callers whose expected answer is, or is not, that they are permitted.
fn those_who(are_permitted: bool, meta: &Meta, is_mcp: bool) -> Vec<(Caller, Expected)> {
    let judged = callers().into_iter().map(|caller| {
        let expected = expected(&caller, meta, is_mcp);
        (caller, expected)
    });
    judged.filter(|(_, it)| (*it == Expected::Permitted) == are_permitted).collect()
}
