//! Reading the audit log. The database function `record_audit` writes it, see
//! `operation/audit.sql`.
//!
//! Invariants: a query reads from the newest month backwards, and no month that it does not need; and it
//! compares at most `MOST_SEARCHED` entries, whatever its filters.
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    capabilities::filter::non_empty,
    operation::{Context, McpResource, Meta, Operation, Operations, Tool},
    values::{
        Error, Issue, Limit, ListPage, Order, RawJson, Result, Timestamp,
        issue::value_error,
        list_page::{Entry, default_limit},
        read_cursor,
        text::{one_line, text_of},
    },
};

/// How many entries one query compares with its filters. Agent, change and time are found by indexes, and
/// other filters by comparison: more indexes would cost every write. Without a bound, a filter that matches
/// nothing would read every entry of the workspace.
const MOST_SEARCHED: i64 = 10_000;

pub(super) fn operations(operations: Operations) -> Operations {
    operations.with::<QueryAudit>().resource(McpResource {
        uri: "audit://recent",
        description: "The 20 newest entries of the audit log.",
        operation: "query_audit",
        input: || json!({ "limit": 20 }),
        lines: entry_lines,
        empty: "No audit log entries.",
    })
}

fn entry_lines(answer: &Value) -> Vec<String> {
    let line = |entry: &Value| {
        let verdict = if entry["success"] == true { "OK" } else { "FAIL" };
        let reasons = [&entry["error_message"], &entry["result"]["reason"]];
        let error = reasons.iter().find_map(|reason| reason.as_str());
        format!(
            "{verdict} {} by {}, {} ms, {}{}",
            text_of(&entry["operation"]),
            text_of(&entry["agent_id"]),
            entry["duration_ms"],
            text_of(&entry["created_at"]),
            error.map(|text| format!(": {}", one_line(text))).unwrap_or_default(),
        )
    };
    answer["entries"].as_array().into_iter().flatten().map(line).collect()
}

/// See what was done, by which agent and with what result, newest first: to find out why something
/// is as it is, or what an agent did. All given filters must match; an empty text is not a filter. One
/// query searches 10000 entries at most; `continue_until` in the answer leads to earlier ones.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct QueryAudit {
    /// Only entries of this agent.
    #[schemars(extend("x-max-bytes" = 256))]
    pub agent_id: Option<String>,
    /// Only entries with this name, such as `acquire_lock` or `policy_decision`.
    #[schemars(extend("x-max-bytes" = 256))]
    pub operation: Option<String>,
    /// Maximum number of entries, 0 to 500. A higher value counts as 500.
    #[serde(default = "default_limit::<20>")]
    #[schemars(range(min = 0))]
    pub limit: i64,
    /// Only entries made at this time or later: ISO-8601 with an offset or `Z`.
    #[schemars(extend("x-time" = true))]
    pub since: Option<String>,
    /// Only entries of this change.
    #[schemars(extend("x-max-bytes" = 256))]
    pub change_id: Option<String>,
    /// Only entries made before this time: ISO-8601 with an offset or `Z`.
    #[schemars(extend("x-time" = true))]
    pub until: Option<String>,
    /// True: only successes. False: only refusals and denials.
    pub success: Option<bool>,
    /// Only entries of the request with this `x-request-id`. Give `until` too if it was long ago: the
    /// search begins there.
    #[schemars(extend("x-max-bytes" = 256))]
    pub request_id: Option<String>,
    /// Only entries of this session.
    #[schemars(extend("x-max-bytes" = 256))]
    pub session_id: Option<String>,
    /// The `next_cursor` of an earlier answer, for the entries after it. Absent: from the first.
    #[schemars(extend("x-max-bytes" = 1024))]
    pub cursor: Option<String>,
}

/// Entries of the audit log, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditEntries {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// How many entries are returned, and whether there are more.
    #[serde(flatten)]
    pub page: ListPage,
    /// Present if the search ended before it had compared all entries: repeat the query with this as
    /// `until` to search earlier ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continue_until: Option<Timestamp>,
}

/// What an agent did or was refused.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(extend("x-untrusted" = true))]
pub struct AuditEntry {
    /// Id of the entry.
    pub id: String,
    /// The agent that made the request.
    pub agent_id: String,
    /// Type of that agent.
    pub agent_type: String,
    /// Name of the operation.
    pub operation: String,
    /// The relevant members of the request.
    #[schemars(with = "Value", extend("type" = "object"))]
    pub parameters: RawJson,
    /// The result, with a `reason` if the request was refused.
    #[schemars(with = "Value", extend("type" = "object"))]
    pub result: RawJson,
    /// Duration in milliseconds.
    pub duration_ms: i32,
    /// Whether the operation succeeded.
    pub success: bool,
    /// When the entry was made.
    pub created_at: Timestamp,
    /// What went wrong. Null if nothing did.
    pub error_message: Option<String>,
    /// The `x-request-id` of the request.
    pub request_id: String,
    /// The agent's session. Null if it named none.
    pub session_id: Option<String>,
    /// Whether there are entries after this one.
    #[serde(skip)]
    has_more: bool,
}

impl Entry for AuditEntry {
    fn has_more(&self) -> bool {
        self.has_more
    }
}

/// Selects the entries that match every filter of the query, among the newest `MOST_SEARCHED` that match
/// one condition. The condition determines the index: the generic plan cannot use an index for a filter that
/// can be absent. The times are never null, so that the planner leaves out the other months.
macro_rules! entries {
    ($condition:literal, $query:expr, $workspace:expr, $times:expr, $rows:expr, $after:expr) => {
        sqlx::query_as!(
            AuditEntry,
            r#"
            select
                id::text as "id!", agent_id, agent_type, operation,
                parameters as "parameters: RawJson", result as "result: RawJson",
                duration_ms, success, created_at as "created_at: Timestamp", error_message,
                request_id, session_id, has_more as "has_more!"
            from (
                select found.*, row_number() over page as place, lead(true, 1, false) over page as has_more,
                    sum(audit_bytes(parameters, result, error_message)) over page as bytes
                from (
                    select * from (
                        select * from audit_log
                        where workspace = $1 and "#
                + $condition
                + r#"
                            and created_at >= coalesce($4::timestamptz, '-infinity')
                            and created_at < coalesce($5::timestamptz, 'infinity')
                            and ($12::timestamptz is null or (created_at, id) < ($12, $13))
                        order by created_at desc, id desc
                        limit $11
                    ) searched
                    where ($2::text is null or agent_id = $2)
                        and ($3::text is null or parameters ->> 'change_id' = $3)
                        and ($6::text is null or operation = $6)
                        and ($7::boolean is null or success = $7)
                        and ($8::text is null or request_id = $8)
                        and ($9::text is null or session_id = $9)
                    order by created_at desc, id desc
                    limit $10
                ) found
                window page as (order by created_at desc, id desc rows unbounded preceding)
            ) listed
            where is_on_page(place, bytes)
            order by place
            "#,
            $workspace,
            non_empty($query.agent_id.as_deref()),
            non_empty($query.change_id.as_deref()),
            $times.0,
            $times.1,
            non_empty($query.operation.as_deref()),
            $query.success,
            non_empty($query.request_id.as_deref()),
            non_empty($query.session_id.as_deref()),
            $rows,
            MOST_SEARCHED,
            $after.map(|(created_at, _)| created_at) as Option<Timestamp>,
            $after.map(|(_, id)| id),
        )
    };
}

/// Selects the end of the time that `entries` with the same condition has not searched. Entries of the same
/// microsecond are searched twice rather than not at all.
macro_rules! unsearched {
    ($condition:literal, $value:expr, $workspace:expr, $times:expr) => {
        sqlx::query_scalar!(
            r#"
            select created_at + interval '1 microsecond' as "continue_until!: Timestamp"
            from audit_log
            where workspace = $1 and "#
                + $condition
                + r#"
                and created_at >= coalesce($3::timestamptz, '-infinity')
                and created_at < coalesce($4::timestamptz, 'infinity')
            order by created_at desc
            limit 1 offset $5::bigint - 1
            "#,
            $workspace,
            $value,
            $times.0,
            $times.1,
            MOST_SEARCHED,
        )
    };
}

const ORDER: Order = Order::By(&["created_at", "id"]);

impl Operation for QueryAudit {
    type Output = AuditEntries;
    const META: Meta = Meta::read("query_audit")
        .at(&["GET /audit"])
        .tool(Tool::named("query_audit").hide(&["request_id", "session_id"]).pages(ORDER));

    fn example() -> Value {
        json!({ "operation": "acquire_lock", "since": "2026-09-01T10:00:00Z", "limit": 1 })
    }

    async fn run(self, mut cx: Context<'_>) -> Result<AuditEntries> {
        let limit = Limit::new(self.limit);
        let (since, until) =
            (parse_time_filter("since", &self.since)?, parse_time_filter("until", &self.until)?);
        let after: Option<(Timestamp, Uuid)> =
            read_cursor(self.cursor.as_deref(), |values| Some((values.next()?, values.next()?)))?;
        let times = (since, until_cursor(until, after));
        let rows = self.find(times, after, limit, &mut cx).await?;
        let (entries, mut page) = limit.cut_in_order(rows, ORDER, self.cursor.as_deref());
        let mut continue_until = None;
        if !page.truncated && self.compares() {
            continue_until = self.find_unsearched(times, &mut cx).await?;
        }
        if let Some(until) = continue_until {
            page.truncated = true;
            page.hint = Some(format!(
                "searched the newest {MOST_SEARCHED}; re-run with until={until} to search earlier ones"
            ));
        }
        Ok(AuditEntries { entries, page, continue_until })
    }
}

/// What narrows a query by an index.
enum Index {
    Change,
    Agent,
    Time,
}

impl QueryAudit {
    fn index(&self) -> Index {
        if non_empty(self.change_id.as_deref()).is_some() {
            Index::Change
        } else if non_empty(self.agent_id.as_deref()).is_some() {
            Index::Agent
        } else {
            Index::Time
        }
    }

    /// Whether entries that the index finds have to be compared with a filter.
    fn compares(&self) -> bool {
        let texts = [&self.operation, &self.request_id, &self.session_id];
        let has_text = texts.iter().any(|it| non_empty(it.as_deref()).is_some());
        let has_agent = non_empty(self.agent_id.as_deref()).is_some();
        has_text || self.success.is_some() || (has_agent && matches!(self.index(), Index::Change))
    }

    /// Finds the newest entries that match.
    async fn find(
        &self,
        times: Times,
        after: Option<(Timestamp, Uuid)>,
        limit: Limit,
        cx: &mut Context<'_>,
    ) -> Result<Vec<AuditEntry>> {
        let workspace = &cx.caller.workspace;
        let rows = limit.rows();
        let found = match self.index() {
            Index::Change => {
                entries!("parameters ->> 'change_id' = $3", self, workspace, times, rows, after)
                    .fetch_all(&mut *cx.db)
                    .await
            }
            Index::Agent => {
                entries!("agent_id = $2", self, workspace, times, rows, after)
                    .fetch_all(&mut *cx.db)
                    .await
            }
            Index::Time => {
                entries!("true", self, workspace, times, rows, after).fetch_all(&mut *cx.db).await
            }
        };
        Ok(found?)
    }

    /// Finds the end of the time that the query has not searched. `None` if it has searched everything.
    async fn find_unsearched(
        &self,
        times: Times,
        cx: &mut Context<'_>,
    ) -> Result<Option<Timestamp>> {
        let workspace = &cx.caller.workspace;
        let found = match self.index() {
            Index::Change => {
                unsearched!("parameters ->> 'change_id' = $2", self.change_id, workspace, times)
                    .fetch_optional(&mut *cx.db)
                    .await
            }
            Index::Agent => {
                unsearched!("agent_id = $2", self.agent_id, workspace, times)
                    .fetch_optional(&mut *cx.db)
                    .await
            }
            Index::Time => {
                unsearched!("$2::text is null", None::<&str>, workspace, times)
                    .fetch_optional(&mut *cx.db)
                    .await
            }
        };
        Ok(found?)
    }
}

/// The bounds of a query in time: inclusive and exclusive.
type Times = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Returns the end of a query that continues after an entry, so that the index leads to that entry. Others of
/// the same microsecond can follow it.
fn until_cursor(
    until: Option<DateTime<Utc>>,
    after: Option<(Timestamp, Uuid)>,
) -> Option<DateTime<Utc>> {
    let behind = after.map(|(time, _)| DateTime::from(time) + TimeDelta::microseconds(1));
    [until, behind].into_iter().flatten().min()
}

/// Parses a time filter. A text that is not a time is a 400, as `docs/api-design.md#errors` says. A
/// time without an offset is a 422.
fn parse_time_filter(name: &'static str, filter: &Option<String>) -> Result<Option<DateTime<Utc>>> {
    let Some(text) = non_empty(filter.as_deref()) else { return Ok(None) };
    // In a URL, a plus that is not percent-encoded means a space.
    let plain = match text.trim().split_once('T') {
        Some((day, rest)) => format!("{day}T{}", rest.replace(' ', "+")),
        None => text.trim().to_owned(),
    };
    if let Some(time) = parse_time(&plain) {
        return Ok(Some(time));
    }
    if is_without_offset(&plain) {
        let problem = value_error("expected an ISO-8601 time with offset or Z");
        let loc = [json!("query"), json!(name)];
        return Err(Error::Invalid(vec![Issue::new(problem, &loc, &json!(text))]));
    }
    Err(Error::BadRequest(format!("Invalid {name} format; use ISO-8601")))
}

/// Parses a time with an offset. Returns `None` for other texts.
fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    let formats = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let parsed = DateTime::parse_from_rfc3339(text).ok().or_else(|| {
        formats.iter().find_map(|format| DateTime::parse_from_str(text, format).ok())
    })?;
    // The database does not support every year with more than four digits.
    Some(parsed.to_utc()).filter(|time| (0..=9999).contains(&time.year()))
}

/// Whether a text is a time that lacks only its offset.
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
        let read = parse_time_filter("since", &Some(text.to_owned()));
        let read = read.map(|time| time.map(Timestamp::from).expect("a time").to_string());
        let read = read.map_err(|error| error.status().as_u16());
        assert_eq!(read, expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn a_time_needs_an_offset_and_other_texts_are_refused() {
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
        assert!(matches!(parse_time_filter("since", &None), Ok(None)));
        assert!(matches!(parse_time_filter("since", &Some(String::new())), Ok(None)));
    }

    #[test]
    fn a_refused_time_gets_the_documented_message() {
        for name in ["since", "until"] {
            let error = parse_time_filter(name, &Some("x".to_owned())).expect_err("not a time");
            assert_eq!(error.to_string(), format!("Invalid {name} format; use ISO-8601"));
        }
    }
}
