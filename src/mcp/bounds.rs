//! The size of answers: what a model reads at once is bounded, and an answer that was cut says so.
use serde_json::{Map, Value, json};

/// The maximum size of an answer as it is sent, in bytes: text and structured content together.
pub(super) const MAX_BYTES: usize = 60_000;

/// What is kept for the marks and the envelope of an answer, in bytes.
const RESERVED: usize = 4_000;

/// The longest text, in bytes, of an entry that does not fit alone. Halved until the entry fits.
const FIRST_TEXT_LIMIT: usize = 8_192;

const LAST_TEXT_LIMIT: usize = 32;

/// As many bytes of a text weigh as much as one item of a list.
const BYTES_PER_ITEM: usize = 16;

/// The bytes of the quotation marks around a text within JSON.
const QUOTES: usize = 2;

/// The bytes of a line break within JSON.
const LINE_BREAK: usize = 2;

/// The mark of what was cut.
const MARK: &str = "…[cut:";

/// What was cut.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many entries of the list are shown, and how many there were.
    entries: Option<(usize, usize)>,
    /// Whether texts or lists within the entries were shortened.
    has_short_texts: bool,
}

impl Cut {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what was cut, in words.
    pub(super) fn words(&self) -> String {
        let entries =
            self.entries.map(|(shown, all)| format!("{shown} of {all} entries are shown"));
        let texts =
            self.has_short_texts.then(|| format!("long texts and lists end in `{MARK} …]`"));
        let parts: Vec<_> = entries.into_iter().chain(texts).collect();
        parts.join(", ")
    }
}

/// Cuts an answer to the maximum size: first its largest list, to the entries that fit, then the texts of
/// what is left. The first entry is always shown.
pub(super) fn fit(body: &mut Value) -> Cut {
    let mut cut = Cut::default();
    let limit = MAX_BYTES - RESERVED;
    let whole = size(body);
    if whole <= limit {
        return cut;
    }
    if let Some(entries) = largest_list(body) {
        let sizes: Vec<_> = entries.iter().map(|entry| size(entry) + 2).collect();
        let all = sizes.len();
        let mut rest = whole - sizes.iter().sum::<usize>().min(whole);
        let fitting = sizes.iter().take_while(|entry| {
            rest += *entry;
            rest <= limit
        });
        let shown = fitting.count().max(1);
        if shown < all {
            entries.truncate(shown);
            cut.entries = Some((shown, all));
            if let Some(count) = body.get_mut("count").filter(|count| **count == json!(all)) {
                *count = json!(shown);
            }
        }
    }
    let (whole, mut most) = (body.clone(), FIRST_TEXT_LIMIT);
    while size(body) > limit && most >= LAST_TEXT_LIMIT {
        cut.has_short_texts = true;
        body.clone_from(&whole);
        shorten_answer(body, most);
        most /= 2;
    }
    cut
}

/// Returns the bytes of a value in an answer: as structured content, and as text within JSON.
fn size(value: &Value) -> usize {
    let text = value.to_string();
    // JSON has no control characters, so as a text it grows by these escapes and its quotation marks alone.
    let escaped = text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    2 * text.len() + escaped + QUOTES
}

/// Returns the bytes of a text within JSON, without its quotation marks.
fn bytes_in_json(text: &str) -> usize {
    json!(text).to_string().len() - QUOTES
}

/// Returns the list of an answer: the answer itself, or its largest member that is a list.
fn largest_list(body: &mut Value) -> Option<&mut Vec<Value>> {
    let lists = match body {
        Value::Array(list) => return Some(list).filter(|list| !list.is_empty()),
        Value::Object(members) => members.values_mut().filter_map(Value::as_array_mut),
        _ => return None,
    };
    lists.filter(|list| !list.is_empty()).max_by_key(|list| json!(list).to_string().len())
}

/// Shortens everything within the entries of an answer, but not its lists of entries.
fn shorten_answer(body: &mut Value, most: usize) {
    let members: &mut dyn Iterator<Item = &mut Value> = match body {
        Value::Array(entries) => &mut entries.iter_mut(),
        Value::Object(members) => &mut members.values_mut(),
        _ => return,
    };
    for member in members {
        match member {
            Value::Array(entries) => entries.iter_mut().for_each(|entry| shorten(entry, most)),
            member => shorten(member, most),
        }
    }
}

fn shorten(value: &mut Value, most: usize) {
    let most_items = (most / BYTES_PER_ITEM).max(1);
    match value {
        Value::String(text) => *text = shortened(text, most),
        Value::Array(items) => {
            let all = items.len();
            items.iter_mut().take(most_items).for_each(|item| shorten(item, most));
            if all > most_items + 1 {
                items.truncate(most_items);
                items.push(json!(format!("{MARK} {most_items} of {all} items]")));
            }
        }
        Value::Object(members) => {
            members.values_mut().take(most_items).for_each(|member| shorten(member, most));
            let all = members.len();
            if all > most_items + 1 {
                let kept = std::mem::take(members).into_iter().take(most_items);
                *members = kept.collect::<Map<_, _>>();
                members.insert(format!("{MARK} {most_items} of {all} members]"), Value::Null);
            }
        }
        _ => {}
    }
}

/// Returns the beginning of a text, with a mark where the rest was cut.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most + MARK.len() + 32 {
        return text.to_owned();
    }
    let shown = text.floor_char_boundary(most);
    format!("{}{MARK} {shown} of {} bytes]", &text[..shown], text.len())
}

/// Cuts lines of a text to the maximum size.
pub(super) fn fit_lines(lines: Vec<String>) -> String {
    let limit = MAX_BYTES - RESERVED;
    let all = lines.len();
    let (mut text, mut used) = (String::new(), 2 * QUOTES);
    for (index, line) in lines.into_iter().enumerate() {
        let line = shortened(&line, FIRST_TEXT_LIMIT);
        let bytes = bytes_in_json(&line);
        if used + bytes > limit {
            text.push_str(&format!("\n({} of {all} lines are left out.)", all - index));
            break;
        }
        if index > 0 {
            text.push('\n');
            used += LINE_BREAK;
        }
        used += bytes;
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(mut body: Value) -> (Value, Cut) {
        let cut = fit(&mut body);
        assert!(size(&body) <= MAX_BYTES - RESERVED, "{} bytes", size(&body));
        (body, cut)
    }

    #[test]
    fn a_list_is_cut_to_the_entries_that_fit() {
        let small = json!({ "tasks": [1, 2], "count": 2, "truncated": false });
        assert_eq!(fitted(small.clone()), (small, Cut::default()));
        let entry = json!({ "text": "x".repeat(1_000), "quotes": "\"\\\n".repeat(100) });
        let tasks = vec![entry.clone(); 100];
        let (body, cut) = fitted(json!({ "tasks": tasks, "others": [1], "count": 100 }));
        let shown = body["tasks"].as_array().expect("a list").len();
        assert!((10..30).contains(&shown), "{shown}");
        assert_eq!(cut, Cut { entries: Some((shown, 100)), has_short_texts: false });
        assert_eq!((&body["count"], &body["others"]), (&json!(shown), &json!([1])));
        assert_eq!(body["tasks"][0], entry);
        assert_eq!(cut.words(), format!("{shown} of 100 entries are shown"));
        let (body, cut) = fitted(json!(vec![entry; 100]));
        assert_eq!(cut.entries, Some((body.as_array().expect("a list").len(), 100)));
    }

    #[test]
    fn an_entry_that_does_not_fit_alone_is_shortened() {
        let long = "ü".repeat(100_000);
        let steps = vec![json!("step".repeat(2_000)); 500];
        let many: Map<_, _> =
            (0..5_000).map(|n| (format!("m{n}"), json!("x".repeat(50)))).collect();
        for body in [
            json!({ "handoffs": [{ "id": "a", "summary": long, "steps": steps }], "count": 1 }),
            json!({ "task": { "id": "a", "input_data": many } }),
            json!([{ "id": "a", "deep": { "deeper": [[long]] } }]),
            json!({ "id": "a", "text": long }),
        ] {
            let (body, cut) = fitted(body);
            assert_eq!(cut, Cut { entries: None, has_short_texts: true });
            let text = body.to_string();
            assert!(text.contains("\"id\":\"a\"") && text.contains(MARK), "{text:.200}");
        }
        let (body, _) = fitted(json!({ "text": long }));
        assert!(body["text"].as_str().expect("text").ends_with(" of 200000 bytes]"), "{body:.0}");
    }

    #[test]
    fn lines_that_do_not_fit_are_left_out() {
        let lines = vec!["x\"".repeat(500); 200];
        let text = fit_lines(lines);
        assert!(json!(text).to_string().len() <= MAX_BYTES);
        assert!(text.ends_with(" of 200 lines are left out.)"), "{text:.0}");
        assert_eq!(fit_lines(vec!["a".into(), "b".into()]), "a\nb");
    }
}
