//! What each operation costs the database, from PostgreSQL's own statistics, which depend neither on the
//! clock nor on the load of the machine.
//!
//! Every case has a database of its own on a server of its own, because the position in the WAL is the
//! server's, and one connection. A call is measured only once its plans are generic.
use std::{collections::BTreeSet, fmt::Write as _};

use agent_coordinator::{capabilities, schema};
use axum::body::Body;
use http::Method;
use managed_postgres::throwaway;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use self::{
    cases::{Ask, Case, SESSIONS, Step},
    limits::{COLUMNS, LIMITS, Limit, TOLERANCE},
};
use crate::{
    relay::{PUBLISH, Relay, relayed},
    support::{Client, execute, scalar},
};

mod cases;
mod limits;

/// Calls before the first measured one: the sixth execution of a statement may choose a generic plan.
const WARM: usize = 8;
/// Measured calls, so that what happens in some calls only, such as the split of a page, is shared out.
const CALLS: usize = 24;

/// Quotas so high that hardly any call counts: what a count costs depends on chance.
const RARELY_COUNTED: [(&str, &str); 14] = [
    ("QUOTA_LOCKS_PER_AGENT", "100000000"),
    ("QUOTA_LOCKS_PER_WORKSPACE", "100000000"),
    ("QUOTA_SESSIONS_PER_AGENT", "100000000"),
    ("QUOTA_SESSIONS_PER_WORKSPACE", "100000000"),
    ("QUOTA_TASKS_PER_AGENT", "100000000"),
    ("QUOTA_TASKS_PER_WORKSPACE", "100000000"),
    ("QUOTA_MEMORIES_PER_AGENT", "100000000"),
    ("QUOTA_MEMORIES_PER_WORKSPACE", "100000000"),
    ("QUOTA_HANDOFFS_PER_AGENT", "100000000"),
    ("QUOTA_HANDOFFS_PER_WORKSPACE", "100000000"),
    ("QUOTA_IDEMPOTENCY_KEYS_PER_AGENT", "100000000"),
    ("QUOTA_IDEMPOTENCY_KEYS_PER_WORKSPACE", "100000000"),
    ("QUOTA_MCP_CONNECTIONS_PER_AGENT", "100000000"),
    ("QUOTA_MCP_CONNECTIONS_PER_WORKSPACE", "100000000"),
];

/// Operations without a case, each with its reason.
const WITHOUT_CASE: [(&str, &str); 2] = [
    ("check_locks", "a tool without a route, which executes the statement of list_locks"),
    ("validate_policy", "parses the text in the process and never reaches the database"),
];

/// What a call costs on average, in the order of `COLUMNS`.
type Cost = [f64; COLUMNS.len()];

#[tokio::test]
async fn operations_cost_what_the_table_says() {
    let server = throwaway::quiet().await.expect("a server");
    let schema = schema();
    let mut admin = PgConnection::connect(&server.url("postgres")).await.expect("it answers");
    execute(&mut admin, "alter system set checkpoint_timeout = '1d'").await;
    execute(&mut admin, "select pg_reload_conf()").await;
    execute(&mut admin, "create database ready").await;
    let mut ready = PgConnection::connect(&server.url("ready")).await.expect("it answers");
    throwaway::prepare(&mut ready, schema.migrator, schema.functions).await.expect("a schema");
    execute(&mut ready, SESSIONS).await;
    ready.close().await.expect("an end");

    let mut measured = Vec::new();
    for (n, case) in cases::all().iter().enumerate() {
        let name = format!("case_{n}");
        execute(&mut admin, &format!("create database {name} template ready strategy file_copy"))
            .await;
        let mut bench = Bench::new(&mut admin, &name, &server.url(&name)).await;
        measured.push((case.name, bench.measure(case).await));
    }
    println!("{}", table(&measured));
    let names = (measured.iter().map(|it| it.0), LIMITS.iter().map(|it| it.0));
    assert!(
        names.0.eq(names.1),
        "the table lists other cases than there are\n{}",
        lines(&measured)
    );
    let wrong: Vec<_> =
        measured.iter().zip(LIMITS).flat_map(|(it, limit)| faults(it, limit)).collect();
    assert!(wrong.is_empty(), "{}\n\nMeasured:\n{}", wrong.join("\n"), lines(&measured));
}

#[test]
fn every_operation_has_a_case() {
    // The calls of some cases take ids from the answer of an earlier step.
    let earlier = json!({ "tasks": [] });
    let asked: Vec<_> = cases::all().iter().map(|it| (it.name, (it.call)(0, &earlier))).collect();
    let mut faults = Vec::new();
    let mut with_case = BTreeSet::new();
    for (name, (method, path, _)) in &asked {
        match operation(method, path) {
            Some(id) => _ = with_case.insert(id),
            None => faults.push(format!("case \"{name}\": no operation has {method} {path}")),
        }
    }
    for op in capabilities::all().iter() {
        let id = op.meta.id;
        let is_exempt = WITHOUT_CASE.iter().any(|(name, _)| *name == id);
        match (with_case.contains(id), is_exempt) {
            (false, false) => faults.push(format!(
                "{id} has no case: add one to tests/api/costs/cases.rs and its line to \
                 tests/api/costs/limits.rs, or name it with the reason in WITHOUT_CASE of tests/api/costs.rs"
            )),
            (true, true) => faults.push(format!("{id} has a case: remove it from WITHOUT_CASE")),
            _ => {}
        }
    }
    for (id, reason) in WITHOUT_CASE {
        let is_known = capabilities::all().iter().any(|it| it.meta.id == id);
        assert!(is_known, "there is no operation {id}: {reason}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The id of the operation that a request reaches. A route without parameters precedes one with parameters.
fn operation(method: &str, path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap_or_default();
    let operations = capabilities::all();
    let routes = operations.iter().flat_map(|op| op.meta.routes.iter().map(|it| (*it, op.meta.id)));
    let reached = routes.filter(|(route, _)| {
        let (its_method, template) = route.split_once(' ').expect("method and path");
        its_method == method && is_reached(template, path)
    });
    reached.min_by_key(|(route, _)| route.matches('{').count()).map(|(_, id)| id)
}

/// Whether a path matches the template of a route: `{name}` stands for one segment, `{*name}` for the rest.
fn is_reached(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for part in template.split('/') {
        match segments.next() {
            Some(_) if part.starts_with("{*") => return true,
            Some(segment) if part.starts_with('{') || part == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// A service with its database, and a connection that reads what the service costs the database.
struct Bench<'a> {
    admin: &'a mut PgConnection,
    database: String,
    relay: Relay,
    client: Client,
    /// For operations of administrators.
    boss: Client,
    /// For statements that no operation executes. Its statistics are published with each statement.
    beside: PgConnection,
}

impl<'a> Bench<'a> {
    async fn new(admin: &'a mut PgConnection, name: &str, url: &str) -> Self {
        let (relay, client, boss) = relayed(url, &RARELY_COUNTED).await;
        let beside = PgConnection::connect(url).await.expect("it answers");
        Self { admin, database: name.to_owned(), relay, client, boss, beside }
    }

    /// The average cost of a call.
    async fn measure(&mut self, case: &Case) -> Cost {
        let mut latest = self.take((case.prepare)()).await.unwrap_or_default();
        let mut total = [0; COLUMNS.len()];
        for n in 0..WARM + CALLS {
            if let Some(answer) = self.take((case.before)(n)).await {
                latest = answer;
            }
            let call = (case.call)(n, &latest);
            let answer = if n < WARM {
                self.ask(&call).await
            } else {
                let before = self.spent().await;
                let answer = self.ask(&call).await;
                for (total, (after, before)) in
                    total.iter_mut().zip(self.spent().await.iter().zip(before))
                {
                    *total += after - before;
                }
                answer
            };
            let (member, expected) = &case.answer;
            let found = if member.starts_with('/') {
                answer.pointer(member).unwrap_or(&Value::Null)
            } else {
                &answer[member]
            };
            assert_eq!(found, expected, "{}: {answer}", case.name);
            self.take((case.after)(&answer)).await;
        }
        total.map(|it| it as f64 / CALLS as f64)
    }

    /// Executes steps, and returns the latest answer if there is one.
    async fn take(&mut self, steps: Vec<Step>) -> Option<Value> {
        let mut answer = None;
        for step in steps {
            match step {
                Step::Ask(ask) => answer = Some(self.ask(&ask).await),
                Step::Sql(sql) => {
                    execute(&mut self.beside, &sql).await;
                    execute(&mut self.beside, PUBLISH).await;
                }
            }
        }
        answer
    }

    async fn ask(&self, (method, path, body): &Ask) -> Value {
        let method: Method = method.parse().expect("a method");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let is_admins =
            ["/keys", "/audit", "/profiles/assign", "/discovery/cleanup", "/maintenance"];
        let is_admins = is_admins.iter().any(|it| path.starts_with(it)) || method == Method::DELETE;
        let client = if is_admins { &self.boss } else { &self.client };
        let answer = client.send(method, path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json
    }

    /// The costs since the start, in the order of `COLUMNS`.
    async fn spent(&mut self) -> [i64; COLUMNS.len()] {
        let round_trips = self.relay.count() as i64;
        self.relay.publish_statistics().await;
        let database = &self.database;
        let sql = format!(
            "select array[
                {round_trips},
                pg_stat_get_db_blocks_fetched(oid),
                pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
                pg_stat_get_db_tuples_inserted(oid),
                pg_stat_get_db_tuples_updated(oid),
                pg_stat_get_db_tuples_deleted(oid),
                pg_stat_get_db_tuples_returned(oid)]
            from pg_database where datname = '{database}'"
        );
        let spent: Vec<i64> = scalar(&mut *self.admin, &sql).await;
        spent.try_into().expect("a number for each column")
    }
}

/// The differences between what a case costs and what the table states.
fn faults((name, cost): &(&str, Cost), (_, stated): &Limit) -> Vec<String> {
    let mut faults = Vec::new();
    for ((&cost, &limit), (column, is_exact)) in cost.iter().zip(stated).zip(COLUMNS) {
        let limit = f64::from(limit);
        let most = if is_exact { limit } else { limit * (1.0 + TOLERANCE / 100.0) };
        let least = if is_exact { limit } else { most / 2.0 };
        let problem = match cost {
            cost if cost > most => "too many",
            cost if cost < least => "lower the limit",
            _ => continue,
        };
        faults.push(format!("{name}: {column}: {cost}, the table says {limit}: {problem}"));
    }
    faults
}

/// A readable line with the measured costs and those of the table.
fn table(measured: &[(&str, Cost)]) -> String {
    let mut text = format!("{:<28}", "measured (table)");
    for (column, _) in COLUMNS {
        let _ = write!(text, "{column:>16}");
    }
    for (name, cost) in measured {
        let _ = write!(text, "\n{name:<28}");
        let stated = LIMITS.iter().find(|(it, _)| it == name).map(|(_, stated)| stated);
        for (column, cost) in cost.iter().enumerate() {
            let stated = stated.map_or("none".to_owned(), |it| it[column].to_string());
            let _ = write!(text, "{cost:>9.2} {:>6}", format!("({stated})"));
        }
    }
    text
}

/// A line of Rust for `LIMITS`.
fn lines(measured: &[(&str, Cost)]) -> String {
    let mut text = String::new();
    for (name, cost) in measured {
        let cost: Vec<_> = cost.iter().map(|it| format!("{it:>5.0}")).collect();
        let _ = writeln!(text, "    ({:<30} [{}]),", format!("{name:?},"), cost.join(","));
    }
    text
}
