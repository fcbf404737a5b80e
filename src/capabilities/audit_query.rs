//! Reading the audit log; `crate::audit` writes it.
//!
//! The invariant: a query is answered from the newest month backwards and reads no month that it
//! does not need.
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    operation::{Context, McpResource, Meta, Operation, Operations, Tool},
    values::{
        Error, Issue, Limit, ListPage, Result, Timestamp,
        issue::value_error,
        list_page::default_limit,
        text::{one_line, text_of},
    },
};

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<QueryAudit>().resource(McpResource {
        uri: "audit://recent",
        description: "What was done last, 20 entries.",
        operation: "query_audit",
        input: || json!({ "limit": 20 }),
        lines: entry_lines,
        empty: "No audit log entries.",
    })
}

fn entry_lines(answer: &Value) -> Vec<String> {
    let line = |entry: &Value| {
        let verdict = if entry["success"] == true { "OK" } else { "FAIL" };
        let told = [&entry["error_message"], &entry["result"]["reason"]];
        let error = told.iter().find_map(|it| it.as_str());
        format!(
            "{verdict} {} by {}, {} ms, {}{}",
            text_of(&entry["operation"]),
            text_of(&entry["agent_id"]),
            entry["duration_ms"],
            text_of(&entry["created_at"]),
            error.map(|it| format!(": {}", one_line(it))).unwrap_or_default(),
        )
    };
    answer["entries"].as_array().into_iter().flatten().map(line).collect()
}

/// See what was done, by whom and with what result, newest first: to find out why something is as
/// it is, or what an agent did. Every filter given must match; an empty one does not count.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct QueryAudit {
    /// Only what this agent did.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: Option<String>,
    /// Only entries of this name, such as `acquire_lock` or `policy_decision`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub operation: Option<String>,
    /// Return at most this many, up to 500.
    #[serde(default = "default_limit::<20>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// Only entries made at this time or after it: ISO-8601 with offset or `Z`.
    #[schemars(extend("x-time" = true))]
    pub since: Option<String>,
    /// Only entries that belong to this change.
    #[schemars(extend("x-max-bytes" = 256))]
    pub change_id: Option<String>,
    /// Only entries made before this time: ISO-8601 with offset or `Z`.
    #[schemars(extend("x-time" = true))]
    pub until: Option<String>,
    /// Only what succeeded, or only what was refused.
    pub success: Option<bool>,
    /// Only entries of the request with this `x-request-id`. Give `since` too, where you can: it
    /// makes the search shorter.
    #[schemars(extend("x-max-bytes" = 256))]
    pub request_id: Option<String>,
    /// Only entries of this session.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
}

/// Entries of the audit log, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditEntries {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// How many there are and whether that is all.
    #[serde(flatten)]
    pub page: ListPage,
}

/// One thing that was done, or refused.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct AuditEntry {
    /// Its id.
    pub id: String,
    /// The agent that asked for it.
    pub agent_id: String,
    /// Type of that agent.
    pub agent_type: String,
    /// What was asked for.
    pub operation: String,
    /// The members of the request that matter.
    #[schemars(extend("type" = "object"))]
    pub parameters: Value,
    /// What came of it; with a `reason` when it was refused.
    #[schemars(extend("type" = "object"))]
    pub result: Value,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// Whether it was done.
    pub success: bool,
    /// When.
    pub created_at: Timestamp,
    /// What went wrong, when something did.
    pub error_message: Option<String>,
    /// The `x-request-id` of the request.
    pub request_id: String,
    /// Session of the agent, when it named one.
    pub session_id: Option<String>,
}

/// The entries that match every filter of the query and one condition more, which picks the index:
/// a filter that may be absent cannot, in a plan that must serve every request. The times are
/// never null there, so that months outside of them are left out.
macro_rules! entries {
    ($condition:literal, $query:expr, $workspace:expr, $times:expr, $rows:expr) => {
        sqlx::query_as!(
            AuditEntry,
            r#"
            select
                id::text as "id!", agent_id, agent_type, operation, parameters, result,
                duration_ms, success, created_at as "created_at: Timestamp", error_message,
                request_id, session_id
            from audit_log
            where workspace = $1 and "#
                + $condition
                + r#"
                and created_at >= coalesce($4::timestamptz, '-infinity')
                and created_at < coalesce($5::timestamptz, 'infinity')
                and ($2::text is null or agent_id = $2)
                and ($3::text is null or parameters ->> 'change_id' = $3)
                and ($6::text is null or operation = $6)
                and ($7::boolean is null or success = $7)
                and ($8::text is null or request_id = $8)
                and ($9::text is null or session_id = $9)
            order by created_at desc, id desc
            limit $10
            "#,
            $workspace,
            given(&$query.agent_id),
            given(&$query.change_id),
            $times.0,
            $times.1,
            given(&$query.operation),
            $query.success,
            given(&$query.request_id),
            given(&$query.session_id),
            $rows,
        )
    };
}

impl Operation for QueryAudit {
    type Output = AuditEntries;
    const META: Meta = Meta::read("query_audit")
        .at(&["GET /audit"])
        .tool(Tool::named("query_audit").hide(&["request_id", "session_id"]));

    fn example() -> Value {
        json!({ "operation": "acquire_lock", "since": "2026-09-01T10:00:00Z", "limit": 1 })
    }

    async fn run(self, cx: Context<'_>) -> Result<AuditEntries> {
        let limit = Limit::new(self.limit);
        let times = (time("since", &self.since)?, time("until", &self.until)?);
        let workspace = &cx.caller.workspace;
        let rows = if given(&self.change_id).is_some() {
            let query =
                entries!("parameters ->> 'change_id' = $3", self, workspace, times, limit.rows());
            query.fetch_all(cx.db).await?
        } else if given(&self.agent_id).is_some() {
            let query = entries!("agent_id = $2", self, workspace, times, limit.rows());
            query.fetch_all(cx.db).await?
        } else {
            let query = entries!("true", self, workspace, times, limit.rows());
            query.fetch_all(cx.db).await?
        };
        let (entries, page) = limit.cut(rows);
        Ok(AuditEntries { entries, page })
    }
}

/// A filter that counts.
fn given(filter: &Option<String>) -> Option<&str> {
    filter.as_deref().filter(|it| !it.is_empty())
}

/// The moment that a filter names. What is no time at all is a bad request by contract; a time
/// that leaves its moment open, for want of an offset, is an invalid value.
fn time(name: &'static str, filter: &Option<String>) -> Result<Option<DateTime<Utc>>> {
    let Some(text) = given(filter) else { return Ok(None) };
    // The plus of an offset that was not percent-encoded has become a space.
    let plain = match text.trim().split_once('T') {
        Some((day, rest)) => format!("{day}T{}", rest.replace(' ', "+")),
        None => text.trim().to_owned(),
    };
    if let Some(moment) = moment(&plain) {
        return Ok(Some(moment));
    }
    if is_without_offset(&plain) {
        let problem = value_error("expected an ISO-8601 time with offset or Z");
        let loc = [json!("query"), json!(name)];
        return Err(Error::Invalid(vec![Issue::new(problem, &loc, &json!(text))]));
    }
    Err(Error::BadRequest(format!("Invalid {name} format; use ISO-8601")))
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    let basic = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let parsed = DateTime::parse_from_rfc3339(text)
        .ok()
        .or_else(|| basic.iter().find_map(|format| DateTime::parse_from_str(text, format).ok()))?;
    // Beyond four digits, years leave the range of the database.
    Some(parsed.to_utc()).filter(|it| (0..=9999).contains(&it.year()))
}

fn is_without_offset(text: &str) -> bool {
    let times =
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"];
    times.iter().any(|format| NaiveDateTime::parse_from_str(text, format).is_ok())
        || NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_read(text: &str, expected: Result<&str, u16>) {
        let read = time("since", &Some(text.to_owned()));
        let read = read.map(|it| it.map(Timestamp::from).expect("a moment").to_string());
        let read = read.map_err(|error| error.status().as_u16());
        assert_eq!(read, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn a_time_needs_an_offset_and_anything_else_is_no_time() {
        for text in [
            "2026-09-01T10:00:00Z",
            "2026-09-01T10:00:00.000+00:00",
            "2026-09-01t10:00:00z",
            "2026-09-01T12:00:00+02:00",
            "2026-09-01T12:00:00+0200",
            "2026-09-01T12:00:00+02",
            "2026-09-01T10:00Z",
            "2026-09-01 10:00:00+00:00",
            " 2026-09-01T10:00:00Z ",
        ] {
            assert_read(text, Ok("2026-09-01T10:00:00+00:00"));
        }
        assert_read("2026-09-01T10:00:00.5Z", Ok("2026-09-01T10:00:00.500000+00:00"));
        for text in [
            "2026-09-01T10:00:00",
            "2026-09-01T10:00:00.123456",
            "2026-09-01T10:00",
            "2026-09-01 10:00:00",
            "2026-09-01",
        ] {
            assert_read(text, Err(422));
        }
        for text in [
            "yesterday",
            "1788256800",
            "2026-13-01T10:00:00Z",
            "2026-02-30",
            "10:00Z",
            " ",
            "-9999-01-01T00:00:00Z",
        ] {
            assert_read(text, Err(400));
        }
        assert!(matches!(time("since", &None), Ok(None)));
        assert!(matches!(time("since", &Some(String::new())), Ok(None)));
    }

    #[test]
    fn the_texts_of_the_contract() {
        for name in ["since", "until"] {
            let error = time(name, &Some("x".to_owned())).expect_err("no time");
            assert_eq!(error.to_string(), format!("Invalid {name} format; use ISO-8601"));
        }
    }
}
