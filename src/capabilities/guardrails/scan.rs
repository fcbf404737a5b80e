//! Scans of texts that other agents read later: tasks and their results.
use serde_json::{Value, json};

use super::{
    pattern_set::patterns,
    patterns::{Finding, find, first_chars},
};
use crate::{
    operation::Context,
    values::{Result, json::canonical},
};

/// How many characters of the scanned text a violation record keeps.
const RECORDED_TEXT_CHARS: usize = 500;

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
pub(super) fn violation_records(
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

#[cfg(test)]
mod tests {
    use super::{super::patterns::Span, *};

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
