//! Guardrails: destructive operations are recognised by patterns before they are done.
//!
//! The invariant: a scan that cannot be made is an error, never "safe".
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    access::IdentityMode,
    config::Config,
    database::Db,
    operation::{
        Actor, Context, McpResource, Meta, Operation, Operations, Services, Tool, Transition,
        column,
    },
    values::{Cache, Error, Limit, ListPage, Result, json::canonical, text::text_of},
};

mod patterns;

use patterns::{Compiled, built_in, compile, find, first_chars};
pub use patterns::{Finding, Pattern, Span};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<CheckGuardrails>().with::<ListGuardrails>().resource(McpResource {
        uri: "guardrails://patterns",
        description: "What check_guardrails looks for.",
        operation: "list_guardrails",
        input: || json!({ "limit": 500 }),
        lines: pattern_lines,
        empty: "No guardrail patterns configured.",
    })
}

fn pattern_lines(answer: &Value) -> Vec<String> {
    let patterns: Vec<_> = answer["patterns"].as_array().into_iter().flatten().collect();
    let mut categories: Vec<&Value> = Vec::new();
    for pattern in &patterns {
        if !categories.contains(&&pattern["category"]) {
            categories.push(&pattern["category"]);
        }
    }
    let mut lines = Vec::new();
    for category in categories {
        lines.push(format!("{}:", text_of(category)));
        for pattern in patterns.iter().filter(|it| it["category"] == *category) {
            lines.push(format!(
                "  {} ({}, counts below trust {})",
                text_of(&pattern["name"]),
                text_of(&pattern["severity"]),
                pattern["min_trust_level"],
            ));
        }
    }
    lines
}

/// How many characters of the scanned text a violation record keeps.
const RECORDED_TEXT_CHARS: usize = 500;

/// How many characters of the operation's text its audit row keeps.
const AUDITED_TEXT_CHARS: usize = 200;

/// How many workspaces, and how many compiled patterns, are kept in memory at most.
const CAPACITY: usize = 1_000;

/// What a text holds that is destructive, in the eyes of a caller of this trust. Nothing found and
/// nothing known are told apart: when the patterns are not to be had, this is an error.
///
/// The database is asked only when what is known of the workspace's patterns is too old, and then
/// in a transaction of its own, nested in the caller's, which no failure to read can break.
async fn scan(cx: &mut Context<'_>, text: &str) -> Result<Vec<Finding>> {
    let trust = cx.caller.trust;
    Ok(find(text, &patterns(cx).await?.patterns, trust))
}

async fn patterns(cx: &mut Context<'_>) -> Result<PatternSet> {
    let caller = cx.caller;
    let guardrails = cx.services.state::<Guardrails>();
    guardrails.patterns(cx.config, cx.db, &caller.workspace).await
}

/// Everything that a text holds for anybody, to be judged for each caller later.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The set of patterns that judged it.
    pub(crate) version: String,
    findings: Vec<Finding>,
    text: String,
}

/// Scans a text for whoever may read it later.
pub(crate) async fn scan_all(cx: &mut Context<'_>, text: String) -> Result<Scan> {
    let set = patterns(cx).await?;
    // Every finding counts for somebody without any trust.
    let findings = find(&text, &set.patterns, 0);
    Ok(Scan { version: set.version, findings, text })
}

/// The set of patterns in force.
pub(crate) async fn version(cx: &mut Context<'_>) -> Result<String> {
    Ok(patterns(cx).await?.version)
}

impl Scan {
    fn counting(&self, trust: u8) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |it| i16::from(trust) < it.bypass_trust)
    }

    /// The trust from which on nothing of it blocks.
    pub(crate) fn needed_trust(&self) -> i16 {
        let blocking = self.findings.iter().filter(|it| it.blocked);
        blocking.map(|it| it.bypass_trust).max().unwrap_or_default()
    }

    /// The refusal of a caller whom it blocks.
    pub(crate) fn refusal(&self, trust: u8) -> Option<String> {
        let names: Vec<_> =
            self.counting(trust).filter(|it| it.blocked).map(|it| &*it.pattern_name).collect();
        (!names.is_empty()).then(|| format!("destructive_operation_blocked: {}", names.join(", ")))
    }

    /// The names of what counts for a caller, for its audit row.
    pub(crate) fn names(&self, trust: u8) -> Value {
        self.counting(trust).map(|it| json!(it.pattern_name)).collect()
    }

    /// What counts for a caller, as `record_guardrail_violations` takes it.
    pub(crate) fn violations(&self, trust: u8) -> Value {
        let counting: Vec<_> = self.counting(trust).cloned().collect();
        violation_records(&counting, &self.text, None, trust)
    }

    /// Everything it found, in the same form and with the trust from which on each does not count.
    pub(crate) fn to_json(&self) -> Value {
        let mut records = violation_records(&self.findings, &self.text, None, 0);
        for (record, finding) in records.as_array_mut().into_iter().flatten().zip(&self.findings) {
            record["bypass_trust"] = json!(finding.bypass_trust);
        }
        records
    }
}

/// The text of a task or its result that is scanned: the description, the data in canonical form,
/// and every string of the data as it is, because an escaped line break hides what it separates.
pub(crate) fn task_text(description: &str, data: Option<&Value>) -> String {
    let Some(data) = data else { return description.to_owned() };
    let mut text = format!("{description}\n");
    push_data(data, &mut text);
    text
}

/// The text of a task's result that is scanned, in the same manner.
pub(crate) fn result_text(result: &Value) -> String {
    let mut text = String::new();
    push_data(result, &mut text);
    text
}

fn push_data(data: &Value, text: &mut String) {
    text.push_str(&canonical(data));
    push_strings(data, text);
}

/// Adds every string in a value, names included and in the canonical order, a line each.
fn push_strings(value: &Value, text: &mut String) {
    match value {
        Value::String(line) => {
            text.push('\n');
            text.push_str(line);
        }
        Value::Array(values) => values.iter().for_each(|it| push_strings(it, text)),
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            for (name, it) in members {
                text.push('\n');
                text.push_str(name);
                push_strings(it, text);
            }
        }
        _ => {}
    }
}

/// The records of findings in a text, as `record_guardrail_violations` takes them in the statement
/// of the operation that scanned it.
pub(crate) fn violation_records(
    findings: &[Finding],
    text: &str,
    file_paths: Option<&[String]>,
    trust: u8,
) -> Value {
    let record = |it: &Finding| {
        json!({
            "trust_level": trust,
            "pattern_name": it.pattern_name,
            "category": it.category,
            "severity": it.severity,
            "blocked": it.blocked,
            "operation_text": first_chars(text, RECORDED_TEXT_CHARS),
            "matched_text": it.matched_text,
            "file_paths": file_paths,
        })
    };
    findings.iter().map(record).collect()
}

/// Whether every enabled pattern of every workspace compiles. It asks for the whole installation
/// and not for a tenant, so this one statement is not limited to one workspace.
pub(crate) async fn all_compile(services: &Services, db: &mut Db) -> Result<bool> {
    let patterns =
        sqlx::query_scalar!("select distinct pattern from guardrail_pattern where enabled")
            .fetch_all(db)
            .await?;
    Ok(patterns.iter().all(|it| services.state::<Guardrails>().compile(it).is_ok()))
}

/// Compiled patterns: by workspace as last read, and by their text, which most workspaces share.
#[derive(Debug)]
pub(crate) struct Guardrails {
    by_workspace: Cache<String, PatternSet>,
    by_text: Cache<String, Regex>,
}

/// Compiled patterns, with a name that changes when one of them does.
#[derive(Clone, Debug)]
struct PatternSet {
    version: String,
    patterns: Arc<[Compiled]>,
}

impl Guardrails {
    pub(crate) fn new() -> Self {
        Self { by_workspace: Cache::new(CAPACITY), by_text: Cache::new(CAPACITY) }
    }

    /// Returns the enabled patterns of a workspace, in list order.
    async fn patterns(&self, config: &Config, db: &mut Db, workspace: &str) -> Result<PatternSet> {
        let generation = match self.by_workspace.get(workspace) {
            Ok(set) => return Ok(set),
            Err(generation) => generation,
        };
        let read_at = Instant::now();
        let read = read(db, workspace).await?;
        let is_readable = read.is_some();
        let patterns = read.filter(|it| !it.is_empty()).map_or_else(|| fallback(config), Ok)?;
        let enabled = patterns.into_iter().filter(|it| it.enabled);
        let compiled = enabled.map(|pattern| {
            let regex = self.compile(&pattern.pattern).map_err(|error| {
                let name = &pattern.name;
                Error::Unavailable(format!("pattern `{name}` of `{workspace}`: {error}").into())
            })?;
            Ok(Compiled { pattern, regex })
        });
        let patterns: Arc<[Compiled]> = compiled.collect::<Result<_>>()?;
        let set = PatternSet { version: version_of(&patterns), patterns };
        if is_readable {
            let (key, max_age) = (workspace.to_owned(), config.guardrails_max_age);
            self.by_workspace.insert(generation, key, set.clone(), read_at, max_age);
        }
        Ok(set)
    }

    fn compile(&self, pattern: &str) -> Result<Regex, regex::Error> {
        let generation = match self.by_text.get(pattern) {
            Ok(regex) => return Ok(regex),
            Err(generation) => generation,
        };
        let regex = compile(pattern)?;
        let (key, now) = (pattern.to_owned(), Instant::now());
        self.by_text.insert(generation, key, regex.clone(), now, Duration::MAX);
        Ok(regex)
    }
}

/// A digest of everything about the patterns that decides what they find.
fn version_of(patterns: &[Compiled]) -> String {
    let mut hash = Sha256::new();
    for Compiled { pattern, .. } in patterns {
        let judged = (&pattern.name, &pattern.severity, pattern.min_trust_level, &pattern.pattern);
        hash.update(format!("{judged:?}\n"));
    }
    hex::encode(&hash.finalize()[..8])
}

/// The built-in patterns, or an error where the configuration forbids them.
fn fallback(config: &Config) -> Result<Vec<Pattern>> {
    if config.guardrails_code_fallback {
        return Ok(built_in());
    }
    Err(Error::Unavailable("there are no guardrail patterns".into()))
}

/// Scans texts with the built-in patterns and counts what counts for trust 2: for `measured`.
pub(crate) fn built_in_scan() -> impl Fn(&str) -> usize {
    let compiled = built_in().into_iter().map(|pattern| {
        let regex = compile(&pattern.pattern).expect("the built-in patterns compile");
        Compiled { pattern, regex }
    });
    let patterns: Vec<_> = compiled.collect();
    move |text| find(text, &patterns, 2).len()
}

/// The patterns of a workspace, or those of `default` when it has none; nothing when they cannot be
/// read. The nested transaction keeps a failure from breaking the one around it.
async fn read(db: &mut Db, workspace: &str) -> Result<Option<Vec<Pattern>>> {
    db.begin().await?;
    let read = sqlx::query_as!(
        Pattern,
        r#"
        select name, category, severity, min_trust_level, pattern, explanation, enabled
        from guardrail_pattern
        where workspace = case
            when exists (select from guardrail_pattern where workspace = $1) then $1
            else 'default'
        end
        order by list_order, name
        "#,
        workspace,
    )
    .fetch_all(&mut *db)
    .await;
    match read {
        Ok(patterns) => {
            db.commit().await?;
            Ok(Some(patterns))
        }
        Err(error) => {
            db.rollback().await?;
            tracing::error!(%error, workspace, "the guardrail patterns cannot be read");
            Ok(None)
        }
    }
}

/// Ask before you run something that could destroy data or other people's work: a shell command, an
/// SQL statement, a deployment. Do not run it when the answer is not safe. Every finding is
/// recorded.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct CheckGuardrails {
    /// What you are about to run, whole and literally.
    #[schemars(extend("x-max-bytes" = 262_144))]
    pub operation_text: String,
    /// The files it touches.
    pub file_paths: Option<Vec<String>>,
}

/// What was found.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// Whether nothing found blocks the operation.
    pub safe: bool,
    /// The patterns found, the first match of each.
    pub violations: Vec<Finding>,
}

impl Operation for CheckGuardrails {
    type Output = Checked;
    const META: Meta = Meta::write("check_guardrails")
        .at(&["POST /guardrails/check"])
        .identity(IdentityMode::Soft)
        .tool(Tool::named("check_guardrails"));

    fn example() -> Value {
        json!({ "operation_text": "git status", "file_paths": ["src/main.rs"] })
    }

    /// A check that found nothing leaves nothing, and its answer must not outlive a change of the
    /// patterns.
    fn took_effect(answer: &Checked) -> bool {
        !answer.violations.is_empty()
    }

    async fn run(self, mut cx: Context<'_>) -> Result<Checked> {
        let text = self.scanned_text();
        let trust = cx.caller.trust;
        let violations = scan(&mut cx, &text).await?;
        let blocked = violations.iter().any(|it| it.blocked);
        let names: Vec<_> = violations.iter().map(|it| &it.pattern_name).collect();
        let result = json!({
            "safe": !blocked,
            "violation_count": violations.len(),
            "blocked": blocked,
            "patterns": names,
        });
        let check = Check {
            actor: cx.actor(),
            audited_text: first_chars(&self.operation_text, AUDITED_TEXT_CHARS).to_owned(),
            violations: violation_records(&violations, &text, self.file_paths.as_deref(), trust),
            result,
        };
        cx.transition(check).await?;
        Ok(Checked { safe: !blocked, violations })
    }
}

/// A call of the database function `check_guardrails`.
#[derive(Debug)]
pub(crate) struct Check {
    actor: Actor,
    audited_text: String,
    violations: Value,
    result: Value,
}

impl Transition for Check {
    type Row = ();

    async fn run(&self, db: &mut Db) -> Result<()> {
        sqlx::query!(
            "select check_guardrails($1, row($2, $3, $4, $5, $6, $7)::request, $8, $9, $10)",
            self.actor.workspace,
            self.actor.request_id,
            self.actor.agent_id,
            self.actor.agent_type,
            self.actor.session_id,
            self.actor.elapsed_ms(),
            self.actor.session_timeout,
            self.audited_text,
            self.violations,
            self.result,
        )
        .execute(db)
        .await?;
        Ok(())
    }

    async fn run_all(requests: &[Arc<Self>], db: &mut Db) -> Result<Vec<()>> {
        sqlx::query!(
            r#"
            select check_guardrails(
                r.workspace,
                row(r.id, r.agent_id, r.agent_type, r.session_id, r.elapsed_ms, r.session_timeout)::request,
                r.audited_text, r.violations, r.result
            )
            from begin_gathered_call('{}', '{}') as has_begun,
            unnest(
                case when has_begun then $1::text[] end, $2::text[], $3::text[], $4::text[],
                $5::text[], $6::float8[], $7::interval[], $8::text[], $9::jsonb[], $10::jsonb[]
            ) as r (
                workspace, id, agent_id, agent_type, session_id, elapsed_ms, session_timeout, audited_text,
                violations, result
            )
            "#,
            &column(requests, |it| it.actor.workspace.as_str()) as _,
            &column(requests, |it| it.actor.request_id.as_str()) as _,
            &column(requests, |it| it.actor.agent_id.as_str()) as _,
            &column(requests, |it| it.actor.agent_type.as_str()) as _,
            &column(requests, |it| it.actor.session_id.as_deref()) as _,
            &column(requests, |it| it.actor.elapsed_ms()),
            &column(requests, |it| it.actor.session_timeout.clone()),
            &column(requests, |it| it.audited_text.as_str()) as _,
            &column(requests, |it| it.violations.clone()),
            &column(requests, |it| it.result.clone()),
        )
        .execute(db)
        .await?;
        Ok(vec![(); requests.len()])
    }

    /// It locks nothing.
    fn lock_order(&self) -> String {
        String::new()
    }
}

impl CheckGuardrails {
    fn scanned_text(&self) -> String {
        let paths = self.file_paths.iter().flatten().map(String::as_str);
        let lines: Vec<_> = [self.operation_text.as_str()].into_iter().chain(paths).collect();
        lines.join("\n")
    }
}

/// See which patterns check_guardrails looks for and how far you are bound by them.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct ListGuardrails {
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 0))]
    pub limit: i64,
}

fn default_limit() -> i64 {
    100
}

/// The patterns in the order in which they are looked for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PatternList {
    /// The patterns.
    pub patterns: Vec<Pattern>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
}

impl Operation for ListGuardrails {
    type Output = PatternList;
    const META: Meta = Meta::read("list_guardrails")
        .at(&["GET /guardrails/patterns"])
        .tool(Tool::named("list_guardrail_patterns").hide(&["limit"]));

    fn example() -> Value {
        json!({ "limit": 100 })
    }

    async fn run(self, cx: Context<'_>) -> Result<PatternList> {
        let read = read(cx.db, &cx.caller.workspace).await?;
        let patterns = read.filter(|it| !it.is_empty()).map_or_else(|| fallback(cx.config), Ok)?;
        let (patterns, page) = Limit::new(self.limit).cut(patterns);
        Ok(PatternList { patterns, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_task_holds_its_data_escaped_and_plain() {
        let data = json!({ "run": ["rm", "-rf\n", { "é": "\"/\"" }], "a": 1, "deep": null });
        assert_eq!(
            task_text("do it", Some(&data)),
            "do it\n{\"a\":1,\"deep\":null,\"run\":[\"rm\",\"-rf\\n\",{\"é\":\"\\\"/\\\"\"}]}\n\
             a\ndeep\nrun\nrm\n-rf\n\né\n\"/\""
        );
        assert_eq!(task_text("do it", None), "do it");
        assert_eq!(task_text("do it", Some(&json!({}))), "do it\n{}");
    }

    #[test]
    fn records_are_cut() {
        let finding = Finding {
            pattern_name: "p".to_owned(),
            category: "c".to_owned(),
            severity: "warn".to_owned(),
            matched_text: "m".to_owned(),
            blocked: false,
            explanation: "e".to_owned(),
            span: Span { start: 0, end: 1 },
            bypass_trust: 3,
        };
        let records = violation_records(&[finding], &"é".repeat(501), None, 2);
        assert_eq!(
            records,
            json!([{
                "trust_level": 2, "pattern_name": "p", "category": "c", "severity": "warn",
                "blocked": false, "operation_text": "é".repeat(500), "matched_text": "m",
                "file_paths": null,
            }])
        );
    }
}
