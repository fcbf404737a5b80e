//! Scanning texts that other agents read later: tasks and their results.
use serde_json::{Value, json};

use super::{
    pattern_set::patterns_of_caller,
    patterns::{Finding, find_matches, truncate},
};
use crate::{
    operation::Context,
    values::{Result, raw_json::push_canonical_and_strings},
};

/// The maximum number of characters of the scanned text in a record of a violation.
const RECORDED_TEXT_CHARS: usize = 500;

/// What the patterns find in a text, for callers of any trust.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// The version of the patterns that scanned the text.
    pub(crate) version: String,
    findings: Vec<Finding>,
    text: String,
}

/// Scans a text for readers of any trust.
pub(crate) async fn scan_all(cx: &mut Context<'_>, text: String) -> Result<Scan> {
    let set = patterns_of_caller(cx).await?;
    // At trust 0 every pattern applies.
    let findings = find_matches(&text, &set.patterns, 0);
    Ok(Scan { version: set.version, findings, text })
}

impl Scan {
    /// Returns the findings that apply to a caller of this trust.
    fn findings_for(&self, trust: u8) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| i16::from(trust) < finding.bypass_trust)
    }

    /// Returns the trust from which on no finding blocks the text.
    pub(crate) fn needed_trust(&self) -> i16 {
        let blocking = self.findings.iter().filter(|finding| finding.blocked);
        blocking.map(|finding| finding.bypass_trust).max().unwrap_or_default()
    }

    /// Returns the reason with which a caller of this trust is refused, if a finding blocks it.
    pub(crate) fn refusal(&self, trust: u8) -> Option<String> {
        let names: Vec<_> = self
            .findings_for(trust)
            .filter(|finding| finding.blocked)
            .map(|finding| &*finding.pattern_name)
            .collect();
        (!names.is_empty()).then(|| format!("destructive_operation_blocked: {}", names.join(", ")))
    }

    /// Returns the names of the patterns that apply to a caller of this trust, for its audit row.
    pub(crate) fn pattern_names(&self, trust: u8) -> Value {
        self.findings_for(trust).map(|finding| json!(finding.pattern_name)).collect()
    }

    /// Returns the findings for a caller of this trust, in the form that
    /// `record_guardrail_violations` takes.
    pub(crate) fn violations(&self, trust: u8) -> Value {
        let findings: Vec<_> = self.findings_for(trust).cloned().collect();
        violation_records(&findings, &self.text, None, trust)
    }

    /// Returns all findings in the same form, each with the trust from which on it does not apply.
    pub(crate) fn to_json(&self) -> Value {
        let mut records = violation_records(&self.findings, &self.text, None, 0);
        for (record, finding) in records.as_array_mut().into_iter().flatten().zip(&self.findings) {
            record["bypass_trust"] = json!(finding.bypass_trust);
        }
        records
    }
}

/// Returns the text of a task that is scanned: the description, the data as canonical JSON, and
/// every string of the data unescaped. Without the last part, an escaped line break would hide a
/// command.
pub(crate) fn task_text(description: &str, data: Option<&str>) -> String {
    let Some(data) = data else { return description.to_owned() };
    let mut text = format!("{description}\n");
    push_data(data, &mut text);
    text
}

/// Returns the text of a task's result that is scanned: canonical JSON and every string unescaped.
pub(crate) fn result_text(result: &str) -> String {
    let mut text = String::new();
    push_data(result, &mut text);
    text
}

/// Appends canonical JSON and every string of it.
fn push_data(data: &str, text: &mut String) {
    push_canonical_and_strings(data, text)
        .expect("the input check and the database take only JSON");
}

/// Returns the findings in the form that the database function `record_guardrail_violations` takes.
pub(super) fn violation_records(
    findings: &[Finding],
    text: &str,
    file_paths: Option<&[String]>,
    trust: u8,
) -> Value {
    let record = |finding: &Finding| {
        json!({
            "trust_level": trust,
            "pattern_name": finding.pattern_name,
            "category": finding.category,
            "severity": finding.severity,
            "blocked": finding.blocked,
            "operation_text": truncate(text, RECORDED_TEXT_CHARS),
            "matched_text": finding.matched_text,
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
            task_text("do it", Some(&data.to_string())),
            "do it\n{\"a\":1,\"deep\":null,\"run\":[\"rm\",\"-rf\\n\",{\"é\":\"\\\"/\\\"\"}]}\n\
             a\ndeep\nrun\nrm\n-rf\n\né\n\"/\""
        );
        assert_eq!(task_text("do it", None), "do it");
        assert_eq!(task_text("do it", Some("{}")), "do it\n{}");
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
