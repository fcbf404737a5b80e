//! Answers as people read them. The invariant: text that others wrote cannot steer the terminal, for
//! every control character is escaped before it is printed.
use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::DateTime;
use serde_json::Value;

use crate::{commands::Show, routes::TIMES, settings::variable};

/// The widest that a cell of a table gets.
const WIDEST: usize = 60;

const RED: &str = "31";
const BOLD: &str = "1";
const YELLOW: &str = "33";

/// Whether a part of the result could not be written.
static IS_LOST: AtomicBool = AtomicBool::new(false);

/// Sees whether a result was written. Whoever no longer reads it does not want it.
pub(crate) fn written(result: io::Result<()>) {
    if let Err(error) = result.and_then(|()| io::stdout().flush())
        && error.kind() != io::ErrorKind::BrokenPipe
        && !IS_LOST.swap(true, Ordering::Relaxed)
    {
        let _ = writeln!(io::stderr(), "The result cannot be written: {error}.");
    }
}

pub(crate) fn is_output_lost() -> bool {
    IS_LOST.load(Ordering::Relaxed)
}

/// Where results and problems go, and in which form.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Output {
    pub(crate) is_json: bool,
    pub(crate) is_quiet: bool,
    has_colours: bool,
    is_watched: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool, is_quiet: bool) -> Output {
        let is_plain =
            variable("NO_COLOR").is_some() || variable("TERM").as_deref() == Some("dumb");
        Output {
            is_json,
            is_quiet,
            has_colours: !is_plain && std::io::stdout().is_terminal(),
            is_watched: !is_quiet && !is_json && std::io::stderr().is_terminal(),
        }
    }

    /// Whether somebody looks on while a command waits.
    pub(crate) fn is_watched(self) -> bool {
        self.is_watched
    }

    /// Prints a result.
    pub(crate) fn print(self, text: &str) {
        if !self.is_quiet && !text.is_empty() {
            written(writeln!(std::io::stdout(), "{}", text.trim_end_matches('\n')));
        }
    }

    /// Says what went wrong, on standard error.
    pub(crate) fn problem(self, text: &str) {
        if !self.is_quiet {
            let _ = writeln!(std::io::stderr(), "{}", line(text));
        }
    }

    /// The same for a text that is clean already, and may have colours.
    pub(crate) fn problem_as_is(self, text: &str) {
        if !self.is_quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// An answer as people read it.
    pub(crate) fn shown(self, show: &Show, answer: &Value) -> String {
        match show {
            Show::Fields => self.fields(answer),
            Show::Only(member) => match &answer[*member] {
                Value::Null => self.fields(answer),
                only => self.fields(only),
            },
            Show::Sentence(template) => filled(template, answer),
            Show::Table("", columns) => self.table(answer, answer, columns),
            Show::Table(member, columns) => self.table(&answer[*member], answer, columns),
            Show::Entries(member, names) => self.entries(&answer[*member], answer, names),
        }
    }

    fn fields(self, value: &Value) -> String {
        let Some(members) = value.as_object() else { return cell("", value) };
        // That it is a yes need not be said.
        let has_value = |it: &(&String, &Value)| !it.1.is_null() && it.0 != "success";
        let members: Vec<_> = members.iter().filter(has_value).collect();
        self.lines(members.iter().map(|(name, value)| (name.as_str(), *value)))
    }

    /// Names and values, one below the other.
    fn lines<'a>(self, members: impl Iterator<Item = (&'a str, &'a Value)> + Clone) -> String {
        let width = members.clone().map(|it| width(&title(it.0))).max().unwrap_or_default();
        let mut text = String::new();
        for (name, value) in members {
            let name = title(name);
            let gap = width - self::width(&name);
            let indent = format!("\n{}", " ".repeat(width + 2));
            let value = long(name.as_str(), value).replace('\n', &indent);
            let name = self.painted(BOLD, &name);
            writeln!(text, "{name}{}  {value}", " ".repeat(gap)).expect("a String takes any text");
        }
        text
    }

    fn entries(self, list: &Value, answer: &Value, names: &[&str]) -> String {
        let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let blocks: Vec<_> = entries
            .iter()
            .map(|entry| {
                let is_there = |it: &&str| match &entry[*it] {
                    Value::Null => false,
                    Value::Array(list) => !list.is_empty(),
                    _ => true,
                };
                let names: Vec<_> = names.iter().copied().filter(is_there).collect();
                self.lines(names.iter().map(|it| (*it, &entry[*it])))
            })
            .collect();
        match blocks.is_empty() {
            true => "None.".to_owned(),
            false => blocks.join("\n") + &self.hint(answer),
        }
    }

    fn table(self, list: &Value, answer: &Value, columns: &[&str]) -> String {
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            let is_safe = answer["safe"] == true;
            return if is_safe { "Safe." } else { "None." }.to_owned();
        }
        let heads: Vec<_> = columns.iter().map(|it| title(it).to_uppercase()).collect();
        let cells: Vec<Vec<_>> = rows
            .iter()
            .map(|row| columns.iter().map(|it| shortened(&cell(it, &row[*it]))).collect())
            .collect();
        let widths: Vec<_> = (0..columns.len())
            .map(|column| {
                let cells = cells.iter().map(|row| width(&row[column]));
                cells.chain([width(&heads[column])]).max().unwrap_or_default()
            })
            .collect();
        let line = |cells: &[String]| {
            let padded: Vec<_> = cells
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - self::width(cell))))
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        let mut text = self.painted(BOLD, &line(&heads)) + "\n";
        for row in &cells {
            text += &line(row);
            text.push('\n');
        }
        text + &self.hint(answer)
    }

    fn hint(self, answer: &Value) -> String {
        match answer["hint"].as_str() {
            Some(hint) => format!("{}\n", self.painted(YELLOW, &clean(hint))),
            None => String::new(),
        }
    }

    /// Why an answer is a no, in one sentence.
    pub(crate) fn refusal(self, answer: &Value) -> String {
        let text = |name: &str| answer[name].as_str().filter(|it| !it.is_empty()).map(line);
        let reason = text("reason").or(text("error")).or(text("detail"));
        let mut sentence = match reason {
            Some(reason) => format!("{} {reason}", self.warning("Refused:")),
            None => match first_no(answer) {
                Some(member) => format!("{} {member} is false", self.warning("Refused:")),
                None => self.warning("Refused").clone(),
            },
        };
        let lists = ["errors", "issues"].into_iter().filter_map(|it| answer[it].as_array());
        let details: Vec<_> = lists.flatten().filter_map(Value::as_str).map(line).collect();
        if !details.is_empty() {
            sentence += &format!(": {}", details.join("; "));
        }
        if let Some(holder) = text("locked_by") {
            sentence += &format!(" ({holder}");
            if let Some(kind) = text("agent_type") {
                sentence += &format!(", {kind}");
            }
            if let Some(session) = text("session_id") {
                sentence += &format!(", session {session}");
            }
            if let Some(reason) = text("lock_reason") {
                sentence += &format!(", \"{reason}\"");
            }
            if let Some(time) = text("expires_at") {
                sentence += &format!(", expires {}", relative(&time).unwrap_or(time));
            }
            sentence += ")";
        }
        sentence + "."
    }

    fn warning(self, text: &str) -> String {
        let to_terminal = Output { has_colours: self.has_colours && self.is_watched, ..self };
        to_terminal.painted(RED, text)
    }

    fn painted(self, colour: &str, text: &str) -> String {
        match self.has_colours {
            true => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }
}

/// The member of an answer that says no.
pub(crate) fn first_no(answer: &Value) -> Option<&'static str> {
    ["success", "safe", "allowed", "valid", "passed", "released"]
        .into_iter()
        .find(|name| answer[*name] == false)
}

/// A template with the members of an answer in place of their names.
fn filled(template: &str, answer: &Value) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        text += before;
        text += &cell(name, &answer[name]);
        rest = after;
    }
    text + rest
}

fn title(name: &str) -> String {
    clean(&name.replace('_', " "))
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(WIDEST) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

/// A value on one line.
fn cell(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => match TIMES.contains(&name).then(|| relative(text)).flatten() {
            Some(time) => time,
            None => clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")),
        },
        Value::Array(list) if list.is_empty() => "–".to_owned(),
        Value::Array(list) => list.iter().map(|it| cell(name, it)).collect::<Vec<_>>().join(", "),
        other => clean(&other.to_string()),
    }
}

/// A value that may take several lines.
fn long(name: &str, value: &Value) -> String {
    let name = name.replace(' ', "_");
    match value {
        Value::String(text) => {
            match TIMES.contains(&name.as_str()).then(|| relative(text)).flatten() {
                Some(time) => format!("{time} ({})", clean(text)),
                None => text.lines().map(clean).collect::<Vec<_>>().join("\n"),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let items = list.iter().map(|it| match it {
                Value::Object(_) => cell("", it),
                it => long("", it),
            });
            items.collect::<Vec<_>>().join("\n")
        }
        Value::Object(members) if !members.is_empty() => members
            .iter()
            .map(|(name, value)| format!("{}: {}", clean(name), cell(name, value)))
            .collect::<Vec<_>>()
            .join("\n"),
        other => cell(&name, other),
    }
}

/// Text in which nothing steers a terminal: control characters, and those that nobody sees, are escaped. The colours of this program's own are put around it afterwards.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => cleaned.push(character),
            it if it.is_control() || is_unseen(it) => cleaned.extend(it.escape_unicode()),
            it => cleaned.push(it),
        }
    }
    cleaned
}

/// The same for a text that has to stay on its line, so that nothing in it looks like a line of ours.
pub(crate) fn line(text: &str) -> String {
    clean(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// JSON in which nothing steers a terminal: such characters stand within its texts only, where they may
/// be escaped.
pub(crate) fn clean_json(json: &str) -> String {
    let mut cleaned = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_control() || is_unseen(character) {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(cleaned, "\\u{unit:04x}").expect("a String takes any text");
            }
        } else {
            cleaned.push(character);
        }
    }
    cleaned
}

/// Characters that turn the direction of writing, break lines, or are there without being seen.
fn is_unseen(character: char) -> bool {
    matches!(
        character,
        '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// A time of the service as people say it: `in 29 min`, `3 min ago`.
pub(crate) fn relative(time: &str) -> Option<String> {
    let time = DateTime::parse_from_rfc3339(time).ok()?.timestamp();
    Some(distance(time - now()))
}

#[expect(clippy::disallowed_methods, reason = "only to say how long ago; it decides nothing")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn distance(seconds: i64) -> String {
    let size = seconds.unsigned_abs();
    let amount = match size {
        0..2 => return "now".to_owned(),
        2..90 => format!("{size} s"),
        90..5400 => format!("{} min", (size + 30) / 60),
        5400..129_600 => format!("{} h", (size + 1800) / 3600),
        _ => format!("{} days", (size + 43_200) / 86_400),
    };
    match seconds > 0 {
        true => format!("in {amount}"),
        false => format!("{amount} ago"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        for (seconds, text) in [
            (0, "now"),
            (-1, "now"),
            (59, "in 59 s"),
            (-180, "3 min ago"),
            (1799, "in 30 min"),
            (7200, "in 2 h"),
            (-172_800, "2 days ago"),
        ] {
            assert_eq!(distance(seconds), text);
        }
        assert_eq!(relative("yesterday"), None);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        let evil = json!({ "locks": [{
            "file_path": "a\u{1b}]0;title\u{7}b\r\u{9b}2J\u{202e}c\u{8}", "reason": "x\ny" }] });
        for show in [
            Show::Table("locks", &["file_path", "reason"]),
            Show::Entries("locks", &["file_path", "reason"]),
            Show::Fields,
        ] {
            let answer = if matches!(show, Show::Fields) { &evil["locks"][0] } else { &evil };
            let text = Output::default().shown(&show, answer);
            let is_bad = |it: char| (it.is_control() && it != '\n') || is_unseen(it);
            assert!(!text.contains(is_bad), "{text:?}");
            assert!(text.contains("\\u{1b}]0;title\\u{7}b"), "{text}");
        }
        for unseen in ['\u{61c}', '\u{200b}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{e0041}'] {
            let text = clean(&unseen.to_string());
            assert!(text.starts_with("\\u{"), "{text}");
            let json = json!({ "a": format!("{unseen}\u{85}é") });
            let text = clean_json(&json.to_string());
            assert!(!text.contains([unseen, '\u{85}']), "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json);
        }
        let forged = json!({ "success": false, "reason": "a\nRefused: b", "locked_by": "c\td" });
        assert_eq!(Output::default().refusal(&forged), "Refused: a\\nRefused: b (c\\td).");
        let evil = json!({ "reason": "\u{1b}[31mx" });
        assert_eq!(filled("{reason}.", &evil), "\\u{1b}[31mx.");
    }

    #[test]
    fn tables_are_aligned() {
        let list = json!({ "locks": [
            { "file_path": "src/a.rs", "locked_by": "ä" },
            { "file_path": "b", "locked_by": null },
        ], "hint": "showing first 2" });
        let table =
            Output::default().shown(&Show::Table("locks", &["file_path", "locked_by"]), &list);
        assert_eq!(table, "FILE PATH  LOCKED BY\nsrc/a.rs   ä\nb          –\nshowing first 2\n");
        let none = Output::default().shown(&Show::Table("", &["a"]), &json!([]));
        assert_eq!(none, "None.");
    }
}
