//! Answers as text for people.
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{
    console::{BOLD, Output, RED, YELLOW},
    text::{escape_line, escape_text},
    time::relative_time,
};
use crate::service::{answer::refusing_member, routes::TIMES};

/// The greatest width of a cell of a table, in characters.
const CELL_WIDTH: usize = 60;

/// How an answer is shown to people.
#[derive(Debug)]
pub(crate) enum Show {
    /// Each member that has a value, on a line of its own.
    Fields,
    /// The list in this member (the answer itself if the name is empty), with these columns.
    Table(&'static str, &'static [&'static str]),
    /// The list in this member, with these members of each entry on lines of their own.
    Entries(&'static str, &'static [&'static str]),
    /// A sentence with names of members in braces.
    Sentence(&'static str),
    /// This member alone.
    Only(&'static str),
}

impl Show {
    /// Renders an answer.
    pub(crate) fn render(&self, answer: &Value, output: Output) -> String {
        match self {
            Show::Fields => render_fields(answer, output),
            Show::Only(member) => match &answer[*member] {
                Value::Null => render_fields(answer, output),
                only => render_fields(only, output),
            },
            Show::Sentence(template) => fill_template(template, answer),
            Show::Table("", columns) => render_table(answer, answer, columns, output),
            Show::Table(member, columns) => render_table(&answer[*member], answer, columns, output),
            Show::Entries(member, names) => render_entries(&answer[*member], answer, names, output),
        }
    }
}

/// Renders why an answer refuses, in one sentence for standard error.
pub(crate) fn render_refusal(answer: &Value, output: Output) -> String {
    let text = |name: &str| answer[name].as_str().filter(|text| !text.is_empty()).map(escape_line);
    let reason = text("reason").or(text("error")).or(text("detail"));
    let mut sentence = match (reason, refusing_member(answer)) {
        (Some(reason), _) => format!("{} {reason}", output.paint_problem(RED, "Refused:")),
        (None, Some(member)) => {
            format!("{} {member} is false", output.paint_problem(RED, "Refused:"))
        }
        (None, None) => output.paint_problem(RED, "Refused"),
    };
    let errors = answer["errors"].as_array().into_iter().flatten();
    let errors: Vec<_> = errors.filter_map(Value::as_str).map(escape_line).collect();
    if !errors.is_empty() {
        sentence += &format!(": {}", errors.join("; "));
    }
    if let Some(holder) = text("locked_by") {
        let details = [
            text("agent_type"),
            text("session_id").map(|session| format!("session {session}")),
            text("lock_reason").map(|reason| format!("\"{reason}\"")),
            text("expires_at")
                .map(|time| format!("expires {}", relative_time(&time).unwrap_or(time))),
        ];
        let details: Vec<_> = [Some(holder)].into_iter().chain(details).flatten().collect();
        sentence += &format!(" ({})", details.join(", "));
    }
    sentence + "."
}

fn render_fields(value: &Value, output: Output) -> String {
    let Some(members) = value.as_object() else { return render_cell("", value) };
    // A shown answer is a success; the member `success` would repeat that.
    let is_shown =
        |(name, value): &(&String, &Value)| !value.is_null() && name.as_str() != "success";
    let members = members.iter().filter(is_shown);
    render_members(members.map(|(name, value)| (name.as_str(), value)), output)
}

/// Renders names and values, one pair below the other, with the values aligned.
fn render_members<'a>(
    members: impl Iterator<Item = (&'a str, &'a Value)> + Clone,
    output: Output,
) -> String {
    let names_width =
        members.clone().map(|(name, _)| width(&title(name))).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in members {
        let title = title(name);
        let gap = names_width - width(&title);
        let indent = format!("\n{}", " ".repeat(names_width + 2));
        let value = render_lines(name, value).replace('\n', &indent);
        let title = output.paint(BOLD, &title);
        writeln!(text, "{title}{}  {value}", " ".repeat(gap)).expect("a String takes any text");
    }
    text
}

fn render_entries(list: &Value, answer: &Value, names: &[&str], output: Output) -> String {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        return "None.".to_owned();
    }
    let blocks: Vec<_> = entries
        .iter()
        .map(|entry| {
            let has_value = |name: &&str| match &entry[*name] {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                _ => true,
            };
            let names = names.iter().copied().filter(has_value);
            render_members(names.map(|name| (name, &entry[name])), output)
        })
        .collect();
    blocks.join("\n") + &render_hint(answer, output)
}

fn render_table(list: &Value, answer: &Value, columns: &[&str], output: Output) -> String {
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        let is_safe = answer["safe"] == true;
        return if is_safe { "Safe." } else { "None." }.to_owned();
    }
    let heads: Vec<_> = columns.iter().map(|column| title(column).to_uppercase()).collect();
    let cell = |row: &Value, column: &str| shorten(&render_cell(column, &row[column]));
    let cells: Vec<Vec<_>> =
        rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()).collect();
    let widths: Vec<_> = (0..columns.len())
        .map(|column| {
            let cells = cells.iter().map(|row| width(&row[column]));
            cells.chain([width(&heads[column])]).max().unwrap_or_default()
        })
        .collect();
    let mut text = output.paint(BOLD, &align(&heads, &widths)) + "\n";
    for row in &cells {
        text += &align(row, &widths);
        text.push('\n');
    }
    text + &render_hint(answer, output)
}

/// Pads cells to the widths of their columns.
fn align(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<_> = cells
        .iter()
        .zip(widths)
        .map(|(cell, column)| format!("{cell}{}", " ".repeat(column - width(cell))))
        .collect();
    padded.join("  ").trim_end().to_owned()
}

fn render_hint(answer: &Value, output: Output) -> String {
    match answer["hint"].as_str() {
        Some(hint) => format!("{}\n", output.paint(YELLOW, &escape_text(hint))),
        None => String::new(),
    }
}

/// Replaces names in braces with the members of an answer.
fn fill_template(template: &str, answer: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        text += before;
        text += &render_cell(name, &answer[name]);
        rest = after;
    }
    text + rest
}

fn title(name: &str) -> String {
    escape_text(&name.replace('_', " "))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(CELL_WIDTH) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// Returns a timestamp relative to now, if the member with this name is one.
fn time_in(name: &str, text: &str) -> Option<String> {
    TIMES.contains(&name).then(|| relative_time(text)).flatten()
}

/// Renders a value on one line.
fn render_cell(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => time_in(name, text)
            .unwrap_or_else(|| escape_text(&text.split_whitespace().collect::<Vec<_>>().join(" "))),
        Value::Array(list) if list.is_empty() => "–".to_owned(),
        Value::Array(list) => {
            list.iter().map(|item| render_cell(name, item)).collect::<Vec<_>>().join(", ")
        }
        other => escape_text(&other.to_string()),
    }
}

/// Renders a value that can take several lines.
fn render_lines(name: &str, value: &Value) -> String {
    match value {
        Value::String(text) => match time_in(name, text) {
            Some(time) => format!("{time} ({})", escape_text(text)),
            None => text.lines().map(escape_text).collect::<Vec<_>>().join("\n"),
        },
        Value::Array(list) if !list.is_empty() => {
            let items = list.iter().map(|item| match item {
                Value::Object(members) => join_members(members),
                _ => render_lines("", item),
            });
            items.collect::<Vec<_>>().join("\n")
        }
        Value::Object(members) if !members.is_empty() => members
            .iter()
            .map(|(name, value)| format!("{}: {}", escape_text(name), render_cell(name, value)))
            .collect::<Vec<_>>()
            .join("\n"),
        other => render_cell(name, other),
    }
}

/// Renders an object on one line, as a person reads it.
fn join_members(members: &Map<String, Value>) -> String {
    let known = members.iter().filter(|(_, value)| !value.is_null());
    let known = known
        .map(|(name, value)| format!("{}: {}", escape_text(name), render_cell(name, value)))
        .collect::<Vec<_>>();
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::text::is_invisible;

    #[test]
    fn control_sequences_are_escaped() {
        let evil = json!({ "locks": [{
            "file_path": "a\u{1b}]0;title\u{7}b\r\u{9b}2J\u{202e}c\u{8}", "reason": "x\ny" }] });
        for show in [
            Show::Table("locks", &["file_path", "reason"]),
            Show::Entries("locks", &["file_path", "reason"]),
            Show::Fields,
        ] {
            let answer = if matches!(show, Show::Fields) { &evil["locks"][0] } else { &evil };
            let text = show.render(answer, Output::default());
            let is_bad =
                |letter: char| (letter.is_control() && letter != '\n') || is_invisible(letter);
            assert!(!text.contains(is_bad), "{text:?}");
            assert!(text.contains("\\u{1b}]0;title\\u{7}b"), "{text}");
        }
        let forged = json!({ "success": false, "reason": "a\nRefused: b", "locked_by": "c\td" });
        let refusal = render_refusal(&forged, Output::default());
        assert_eq!(refusal, "Refused: a\\nRefused: b (c\\td).");
        let evil = json!({ "reason": "\u{1b}[31mx" });
        assert_eq!(fill_template("{reason}.", &evil), "\\u{1b}[31mx.");
    }

    #[test]
    fn tables_are_aligned() {
        let list = json!({ "locks": [
            { "file_path": "src/a.rs", "locked_by": "ä" },
            { "file_path": "b", "locked_by": null },
        ], "hint": "showing first 2" });
        let table = Show::Table("locks", &["file_path", "locked_by"]);
        assert_eq!(
            table.render(&list, Output::default()),
            "FILE PATH  LOCKED BY\nsrc/a.rs   ä\nb          –\nshowing first 2\n"
        );
        let none = Show::Table("", &["a"]).render(&json!([]), Output::default());
        assert_eq!(none, "None.");
    }
}
