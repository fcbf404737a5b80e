//! The law that a transition leaves exactly one audit row, whatever its outcome. The table of outcomes is
//! compared with the registry and with the text of the functions, so that no new outcome is missed.
//!
//! Each outcome has a workspace of its own and a twin workspace with the same rows, which no outcome may
//! change.
mod table;

use std::collections::{BTreeMap, BTreeSet};

use agent_coordinator::{capabilities, operation::Meta};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

pub(super) use self::table::outcomes;
use super::{
    changed,
    sql::{functions, tokens},
};
use crate::support::{Answer, Client, Service};

/// An outcome of an operation, and the steps that lead to it.
pub(super) struct Outcome {
    /// Id of the operation.
    pub(super) operation: &'static str,
    /// The verdict or the reason, as the database function calls it.
    pub(super) name: &'static str,
    /// The steps before the request.
    pub(super) before: Vec<Step>,
    /// The request with this outcome.
    pub(super) asked: Step,
    /// The expected audit row.
    pub(super) recorded: Recorded,
    /// The audit rows of the parts of a batch, which come before that of the operation.
    pub(super) parts: &'static [(&'static str, bool)],
    /// A text in the answer or in the audit row that proves the outcome.
    pub(super) shown_as: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Recorded {
    /// One row with the operation's name and `success`.
    Success,
    /// One row with the operation's name, without `success`.
    Refusal,
    /// One row with this name, without `success`.
    As(&'static str),
    /// No row: the request was invalid (422).
    Nothing,
}

#[derive(Clone)]
pub(super) enum Step {
    /// A request of an agent. `$task` and `$token` in its body stand for the task id and the claim token that
    /// an earlier step was answered.
    Ask(Who, Method, &'static str, Value),
    /// SQL that moves time or adds rows that no operation adds. `$w` stands for the workspace.
    Sql(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A key that is bound to no agent: trust 2.
    Free,
    /// Bound to agent `boss`: trust 3.
    Boss,
    /// Bound to agent `codex-1`, whose profile allows two file locks.
    Codex,
}

impl Outcome {
    /// An outcome whose name is in the answer or in the audit row.
    pub(super) fn new(
        operation: &'static str,
        name: &'static str,
        recorded: Recorded,
        before: &[Step],
        asked: Step,
    ) -> Self {
        let before = before.to_vec();
        Self { operation, name, before, asked, recorded, parts: &[], shown_as: name }
    }

    pub(super) fn of_parts(self, parts: &'static [(&'static str, bool)]) -> Self {
        Self { parts, ..self }
    }

    /// Whether the outcome may change all workspaces: retention covers the whole installation.
    pub(super) fn covers_all_workspaces(&self) -> bool {
        (self.operation, self.name) == ("run_maintenance", "retention")
    }

    pub(super) fn shown_as(self, text: &'static str) -> Self {
        Self { shown_as: text, ..self }
    }
}

/// The environment of a service with keys for these workspaces and the limits that the table assumes.
pub(super) fn environment(workspaces: &[String]) -> [(&'static str, String); 4] {
    let mut identities = serde_json::Map::new();
    for workspace in workspaces {
        identities.insert(format!("free-{workspace}"), json!({ "workspace": workspace }));
        identities.insert(
            format!("boss-{workspace}"),
            json!({ "agent_id": "boss", "agent_type": "strands",
                "profile": "strands_orchestrator", "workspace": workspace }),
        );
        identities.insert(
            format!("codex-{workspace}"),
            json!({ "agent_id": "codex-1", "agent_type": "codex", "workspace": workspace }),
        );
    }
    let keys: Vec<_> = identities.keys().cloned().collect();
    [
        ("COORDINATION_API_KEYS", keys.join(",")),
        ("COORDINATION_API_KEY_IDENTITIES", Value::Object(identities).to_string()),
        ("PORT_ALLOC_MAX_SESSIONS", "2".to_owned()),
        // Without the sweep, which changes every workspace.
        ("SLEEP_FRIENDLY", "true".to_owned()),
    ]
}

/// The limit of locked files that the table assumes for agent `codex-1`.
pub(super) const FILE_LIMIT: &str =
    "update profile set max_file_modifications = 2 where name = 'codex_cloud_worker'";

/// A workspace for one outcome.
pub(super) struct Stage<'a> {
    service: &'a Service,
    workspace: String,
    task: String,
    token: String,
}

impl<'a> Stage<'a> {
    pub(super) fn new(service: &'a Service, workspace: &str) -> Self {
        let (task, token) = (String::new(), String::new());
        Self { service, workspace: workspace.to_owned(), task, token }
    }

    fn client(&self, who: Who) -> Client {
        let workspace = &self.workspace;
        self.service.client_with(&match who {
            Who::Free => format!("free-{workspace}"),
            Who::Boss => format!("boss-{workspace}"),
            Who::Codex => format!("codex-{workspace}"),
        })
    }

    /// Executes a step, and returns the answer to a request.
    pub(super) async fn take(
        &mut self,
        step: &Step,
        headers: &[(&'static str, &str)],
    ) -> Option<Answer> {
        match step {
            Step::Sql(text) => {
                self.service.execute(&text.replace("$w", &self.workspace)).await;
                None
            }
            Step::Ask(who, method, path, body) => {
                let mut client = self.client(*who);
                for (name, value) in headers {
                    client = client.header(name, value);
                }
                let body = match body {
                    Value::Null => Body::empty(),
                    body => {
                        let text = body.to_string();
                        text.replace("$task", &self.task).replace("$token", &self.token).into()
                    }
                };
                let answer = client.send(method.clone(), path, body).await;
                for (member, kept) in
                    [("task_id", &mut self.task), ("claim_token", &mut self.token)]
                {
                    if let Some(text) = answer.json[member].as_str() {
                        *kept = text.to_owned();
                    }
                }
                Some(answer)
            }
        }
    }

    async fn audit(&self) -> Vec<Value> {
        let sql = format!(
            "select operation, success, parameters, result from audit_log
             where workspace = '{}' order by created_at",
            self.workspace
        );
        self.service.rows(&sql).await
    }

    /// Copies all rows of the workspace into another one.
    pub(super) async fn copy(&self, into: &str) {
        let mut copies = String::new();
        for (table, columns) in self.service.tables_of_workspaces().await {
            let read = columns.join(", ").replacen("workspace", &format!("'{into}'"), 1);
            copies += &format!(
                "insert into {table} ({}) select {read} from {table} where workspace = '{}';",
                columns.join(", "),
                self.workspace
            );
        }
        self.service.execute(&copies).await;
    }

    /// Executes the steps of an outcome and compares its answer and audit rows. With a key, the request
    /// carries an `Idempotency-Key`, and is repeated if it succeeded.
    async fn check(&mut self, outcome: &Outcome, meta: &Meta, with_key: bool) {
        let what = format!("{}: {}, with a key: {with_key}", outcome.operation, outcome.name);
        for step in &outcome.before {
            if let Some(answer) = self.take(step, &[]).await {
                assert_eq!(answer.status, 200, "{what}: {}", answer.text);
            }
        }
        let twin = format!("twin-of-{}", self.workspace);
        self.copy(&twin).await;
        let untouched = self.service.contents_of(&twin).await;
        let before = self.audit().await;

        let headers = [("idempotency-key", "the-key")];
        let headers = if with_key { &headers[..] } else { &[] };
        let learnt = (self.task.clone(), self.token.clone());
        let answer = self.take(&outcome.asked, headers).await.expect("a request");
        (self.task, self.token) = learnt;
        let rows = self.audit().await.split_off(before.len());
        let rows_text = json!(rows).to_string();
        let shown = answer.text.contains(outcome.shown_as) || rows_text.contains(outcome.shown_as);
        assert!(shown, "{what}: {} {rows_text}", answer.text);
        let (status, last) = match outcome.recorded {
            Recorded::Success => (200, Some((meta.audit(), true))),
            Recorded::Refusal => (200, Some((meta.audit(), false))),
            Recorded::As("policy_decision") => (403, Some(("policy_decision", false))),
            Recorded::As(name) => (200, Some((name, false))),
            Recorded::Nothing => (422, None),
        };
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        let expected: Vec<_> = outcome.parts.iter().copied().chain(last).collect();
        let row = |row: &Value| (row["operation"].clone(), row["success"].clone());
        let found: Vec<_> = rows.iter().map(row).collect();
        let told: Vec<_> = expected.iter().map(|(name, it)| (json!(name), json!(it))).collect();
        assert_eq!(found, told, "{what}: {}", answer.text);
        if with_key && outcome.recorded == Recorded::Success && meta.idempotent() {
            let again = self.take(&outcome.asked, headers).await.expect("a request");
            let times = if again.headers.contains_key("idempotent-replayed") { 1 } else { 2 };
            let rows = self.audit().await.len() - before.len();
            assert_eq!(rows, times * expected.len(), "{what}: {}", again.text);
        }

        if !outcome.covers_all_workspaces() {
            let changed = changed(&untouched, &self.service.contents_of(&twin).await);
            assert!(changed.is_empty(), "{what}: changed another workspace: {changed:?}");
        }
    }
}

#[tokio::test]
async fn every_outcome_of_a_write_leaves_one_audit_row_and_no_trace_in_another_workspace() {
    let outcomes = outcomes();
    let workspaces: Vec<_> = (0..2 * outcomes.len()).map(|n| format!("w{n}")).collect();
    let environment = environment(&workspaces);
    let variables: Vec<_> = environment.iter().map(|(name, it)| (*name, it.as_str())).collect();
    let service = Service::with(&variables).await;
    service.execute(FILE_LIMIT).await;
    let operations = capabilities::all();
    for (n, outcome) in outcomes.iter().enumerate() {
        let operation = operations.iter().find(|it| it.meta.id == outcome.operation);
        let meta = &operation.expect("an operation").meta;
        for with_key in [false, true] {
            let workspace = &workspaces[2 * n + usize::from(with_key)];
            let mut stage = Stage::new(&service, workspace);
            stage.check(outcome, meta, with_key).await;
        }
    }
}

#[test]
fn the_table_covers_every_operation_that_is_audited() {
    let outcomes = outcomes();
    let covered: BTreeSet<_> = outcomes.iter().map(|it| it.operation).collect();
    let operations = capabilities::all();
    let audited: BTreeSet<_> =
        operations.iter().filter(|it| it.meta.is_audited()).map(|it| it.meta.id).collect();
    assert_eq!(covered, audited);
    let refused: BTreeSet<_> = outcomes
        .iter()
        .filter(|it| it.recorded == Recorded::Nothing)
        .map(|it| (it.operation, it.name))
        .collect();
    let faults = ["deadline_past", "not_replaceable", "unknown_dependency"];
    assert_eq!(refused, faults.map(|it| ("submit_work", it)).into(), "what records nothing");
}

/// Words that a function returns to another function or stores, each with its use.
const NOT_OUTCOMES: [(&str, &str); 12] = [
    ("free", "check_lock_availability: becomes `acquired`"),
    ("own", "check_lock_availability: becomes `refreshed`"),
    ("none", "claim_tasks: comes with a reason"),
    ("contended", "claim_tasks: the request runs once more, and waits for its rivals"),
    ("default", "profile_workspace and check_network: a workspace"),
    ("review", "is_eligible: a kind of task"),
    ("active", "session_status"),
    ("idle", "session_status"),
    ("disconnected", "session_status"),
    ("deadline_exceeded", "task_expiry_reason: the reason of a task that has failed"),
    ("max_attempts_exceeded", "task_expiry_reason: the reason of a task that has failed"),
    ("check_guardrails", "check_guardrails: the name of its audit row"),
];

/// The words that functions return: those at the end of a branch or an assignment, and the last words of
/// an audit row.
fn words() -> BTreeMap<String, String> {
    let mut words = BTreeMap::new();
    let word = regex::Regex::new(r"^'([a-z]+(?:_[a-z]+)*)(?:: )?'$").expect("a pattern");
    // Distribution and rights are not transitions.
    let is_other = |it: &str| it.contains("scale_out.sql: ") || it.contains("privileges.sql: ");
    for function in functions().iter().filter(|it| !is_other(&it.place)) {
        let read = tokens(&function.text);
        for at in 2..read.len() - 1 {
            let Some(found) = word.captures(&read[at]) else { continue };
            let (earlier, last, next) =
                (read[at - 2].as_str(), read[at - 1].as_str(), read[at + 1].as_str());
            let is_answered = ["then", "else", ":=", "return", "returning"].contains(&last)
                || (earlier == "row" && last == "(")
                || (["(", ","].contains(&last) && [")", "||"].contains(&next));
            if is_answered {
                words.insert(found[1].to_owned(), function.place.clone());
            }
        }
    }
    words
}

#[test]
fn every_word_that_a_function_answers_with_is_an_outcome() {
    let outcomes: BTreeSet<_> = outcomes().iter().map(|it| it.name).collect();
    let words = words();
    let is_known = |word: &str| {
        outcomes.contains(word) || NOT_OUTCOMES.iter().any(|(known, _)| *known == word)
    };
    let unknown: Vec<_> = words.iter().filter(|(word, _)| !is_known(word)).collect();
    assert!(unknown.is_empty(), "no outcome in the table is named {unknown:?}");
    let gone: Vec<_> = NOT_OUTCOMES.iter().filter(|(it, _)| !words.contains_key(*it)).collect();
    assert!(gone.is_empty(), "no function has {gone:?}");
    // The search finds words that are known to exist.
    for known in ["acquired", "over_limit", "claim_superseded", "no_tasks_available", "rescan"] {
        assert!(words.contains_key(known), "{known} in {words:?}");
    }
}
