//! The size of answers: what a model reads at once is bounded, and an answer that was cut says so.
use serde_json::{Map, Value, json};

use crate::{operation::Whole, values::Order};

/// The maximum size of an answer as it is sent, in bytes: text and structured content together.
pub(super) const MAX_BYTES: usize = 60_000;

/// What is kept for the marks and the envelope of an answer, in bytes.
const RESERVED: usize = 6_500;

/// The longest text, in bytes, of an answer that is too large. Halved until the answer fits.
const FIRST_TEXT_LIMIT: usize = 8_192;

/// Texts are not made shorter than this before entries are left out, in bytes.
const LAST_TEXT_LIMIT_OF_A_LIST: usize = 512;

const LAST_TEXT_LIMIT: usize = 32;

/// As many bytes of a text weigh as much as one item of a list.
const BYTES_PER_ITEM: usize = 16;

/// The bytes of the quotation marks around a text within JSON.
const QUOTES: usize = 2;

/// The bytes of a line break within JSON.
const LINE_BREAK: usize = 2;

/// The mark of what was cut.
const MARK: &str = "…[cut:";

/// The list in an answer, as far as it can be continued.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listing<'a> {
    /// The order of the list, where the tool can continue it.
    pub(super) order: Option<Order>,
    /// The cursor of the call.
    pub(super) start: Option<&'a str>,
    /// Whether the tool can answer a single entry, with the argument `limit`.
    pub(super) has_limit: bool,
    /// The call that returns one entry whole.
    pub(super) whole: Option<Whole>,
}

impl Listing<'_> {
    /// Returns how to read one of the entries whole, where a call can return it.
    fn remedy(&self, entries: &[Value], index: usize) -> Option<String> {
        let entry = &entries[index];
        if size(entry) > MAX_BYTES - RESERVED {
            return None;
        }
        if let Some(Whole { tool, argument, member }) = self.whole {
            return Some(format!("{tool} {}", json!({ argument: entry[member] })));
        }
        let order = self.order.filter(|_| self.has_limit)?;
        let mut call = json!({ "limit": 1 });
        if let Some(cursor) = order.cursor(&entries[..index], self.start) {
            call["cursor"] = json!(cursor);
        }
        Some(format!("the same call with {call}"))
    }
}

/// What was cut.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// How many entries of the list are shown, and how many there were.
    entries: Option<(usize, usize)>,
    /// Whether texts or lists within the entries were shortened.
    has_short_texts: bool,
    /// The cursor of the call that returns the entries that were cut.
    pub(super) next_cursor: Option<String>,
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

/// Cuts an answer to the maximum size: first the long texts of all its entries, each with a mark that says
/// how to read it whole, then its largest list, to the entries that fit. The first entry is always shown.
pub(super) fn fit(body: &mut Value, listing: Listing<'_>) -> Cut {
    let mut cut = Cut::default();
    let limit = MAX_BYTES - RESERVED;
    if size(body) <= limit {
        return cut;
    }
    let place = place_of_list(body);
    let mut whole = body.clone();
    let entries =
        place.as_ref().and_then(|it| list_at(&mut whole, it)).cloned().unwrap_or_default();
    let remedies: Vec<_> = (0..entries.len()).map(|it| listing.remedy(&entries, it)).collect();
    let mut most = FIRST_TEXT_LIMIT;
    while size(body) > limit && most >= LAST_TEXT_LIMIT_OF_A_LIST {
        body.clone_from(&whole);
        shorten_answer(body, most, place.as_ref(), &remedies);
        most /= 2;
    }
    if size(body) > limit
        && let Some(place) = &place
    {
        let shown = fitting(body, place, limit);
        if shown < entries.len() {
            cut.entries = Some((shown, entries.len()));
            cut.next_cursor =
                listing.order.and_then(|order| order.cursor(&entries[..shown], listing.start));
            truncate(body, place, shown);
            truncate(&mut whole, place, shown);
        }
    }
    while size(body) > limit && most >= LAST_TEXT_LIMIT {
        body.clone_from(&whole);
        shorten_answer(body, most, place.as_ref(), &[]);
        most /= 2;
    }
    cut.has_short_texts = *body != whole;
    cut
}

/// Where the list of an answer is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The answer is the list.
    Root,
    Member(String),
}

/// Returns the place of the list of an answer: the answer itself, or its largest member that is a list.
fn place_of_list(body: &Value) -> Option<Place> {
    match body {
        Value::Array(_) => Some(Place::Root),
        Value::Object(members) => {
            let lists = members.iter().filter(|(_, member)| member.is_array());
            let largest = lists.max_by_key(|(_, list)| list.to_string().len());
            largest.map(|(name, _)| Place::Member(name.clone()))
        }
        _ => None,
    }
}

fn list_at<'a>(body: &'a mut Value, place: &Place) -> Option<&'a mut Vec<Value>> {
    match place {
        Place::Root => body.as_array_mut(),
        Place::Member(name) => body[name].as_array_mut(),
    }
}

/// Returns how many entries of the list fit, at least one.
fn fitting(body: &mut Value, place: &Place, limit: usize) -> usize {
    let whole = size(body);
    let sizes: Vec<_> =
        list_at(body, place).into_iter().flatten().map(|entry| size(entry) + 2).collect();
    let mut rest = whole - sizes.iter().sum::<usize>().min(whole);
    let fitting = sizes.iter().take_while(|entry| {
        rest += *entry;
        rest <= limit
    });
    fitting.count().max(1)
}

/// Cuts the list to its first entries, and corrects their number in the answer.
fn truncate(body: &mut Value, place: &Place, shown: usize) {
    let Some(list) = list_at(body, place) else { return };
    let all = list.len();
    list.truncate(shown);
    if let Some(count) = body.get_mut("count").filter(|count| **count == json!(all)) {
        *count = json!(shown);
    }
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

/// Shortens everything within the entries of an answer, but not its lists of entries. `remedies` says for
/// each entry of the list at `place` how to read it whole.
fn shorten_answer(
    body: &mut Value,
    most: usize,
    place: Option<&Place>,
    remedies: &[Option<String>],
) {
    let remedy = |index: usize| remedies.get(index).and_then(Option::as_deref);
    match body {
        Value::Array(entries) => {
            for (index, entry) in entries.iter_mut().enumerate() {
                shorten(entry, most, remedy(index));
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                let is_list = matches!(place, Some(Place::Member(list)) if list == name);
                match member {
                    Value::Array(entries) => {
                        for (index, entry) in entries.iter_mut().enumerate() {
                            shorten(entry, most, remedy(index).filter(|_| is_list));
                        }
                    }
                    member => shorten(member, most, None),
                }
            }
        }
        _ => {}
    }
}

fn shorten(value: &mut Value, most: usize, remedy: Option<&str>) {
    let most_items = (most / BYTES_PER_ITEM).max(1);
    match value {
        Value::String(text) => *text = shortened(text, most, remedy),
        Value::Array(items) => {
            let all = items.len();
            items.iter_mut().take(most_items).for_each(|item| shorten(item, most, remedy));
            if all > most_items + 1 {
                items.truncate(most_items);
                items.push(json!(mark(most_items, all, "items", remedy)));
            }
        }
        Value::Object(members) => {
            members.values_mut().take(most_items).for_each(|it| shorten(it, most, remedy));
            let all = members.len();
            if all > most_items + 1 {
                let kept = std::mem::take(members).into_iter().take(most_items);
                *members = kept.collect::<Map<_, _>>();
                members.insert(mark(most_items, all, "members", remedy), Value::Null);
            }
        }
        _ => {}
    }
}

/// Returns the mark of what was cut, with how to read it whole.
fn mark(shown: usize, all: usize, unit: &str, remedy: Option<&str>) -> String {
    let whole = remedy.map(|remedy| format!("; whole: {remedy}")).unwrap_or_default();
    format!("{MARK} {shown} of {all} {unit}{whole}]")
}

/// Returns the beginning of a text, with a mark where the rest was cut.
pub(super) fn shortened(text: &str, most: usize, remedy: Option<&str>) -> String {
    let shown = text.floor_char_boundary(most);
    let mark = mark(shown, text.len(), "bytes", remedy);
    if text.len() <= most + mark.len() {
        return text.to_owned();
    }
    format!("{}{mark}", &text[..shown])
}

/// Cuts lines of a text to the maximum size.
pub(super) fn fit_lines(lines: Vec<String>) -> String {
    let limit = MAX_BYTES - RESERVED;
    let all = lines.len();
    let (mut text, mut used) = (String::new(), 2 * QUOTES);
    for (index, line) in lines.into_iter().enumerate() {
        let line = shortened(&line, FIRST_TEXT_LIMIT, None);
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
        let cut = fit(&mut body, Listing::default());
        assert!(size(&body) <= MAX_BYTES - RESERVED, "{} bytes", size(&body));
        (body, cut)
    }

    #[test]
    fn a_list_is_cut_to_the_entries_that_fit() {
        let small = json!({ "tasks": [1, 2], "count": 2, "truncated": false });
        assert_eq!(fitted(small.clone()), (small, Cut::default()));
        let entry = json!({ "text": "x".repeat(400), "quotes": "\"\\\n".repeat(100) });
        let tasks = vec![entry.clone(); 100];
        let (body, cut) = fitted(json!({ "tasks": tasks, "others": [1], "count": 100 }));
        let shown = body["tasks"].as_array().expect("a list").len();
        assert!((10..30).contains(&shown), "{shown}");
        assert_eq!(
            cut,
            Cut { entries: Some((shown, 100)), has_short_texts: false, next_cursor: None }
        );
        assert_eq!((&body["count"], &body["others"]), (&json!(shown), &json!([1])));
        assert_eq!(body["tasks"][0], entry);
        assert_eq!(cut.words(), format!("{shown} of 100 entries are shown"));
        let (body, cut) = fitted(json!(vec![entry; 100]));
        assert_eq!(cut.entries, Some((body.as_array().expect("a list").len(), 100)));
    }

    #[test]
    fn texts_are_shortened_before_entries_are_cut_and_say_how_to_read_them_whole() {
        let tasks = |count: usize| -> Vec<_> {
            (0..count).map(|n| json!({ "id": n, "text": "long ".repeat(1_000) })).collect()
        };
        let whole = Whole { tool: "get_task", argument: "task_id", member: "id" };
        let order = Some(Order::By(&["id"]));
        let by_id = Listing { order, whole: Some(whole), ..Listing::default() };
        let mut body = json!({ "tasks": tasks(20), "count": 20 });
        let cut = fit(&mut body, by_id);
        assert_eq!(cut, Cut { has_short_texts: true, ..Cut::default() });
        let text = body["tasks"][7]["text"].as_str().expect("text");
        assert!(text.ends_with(r#" of 5000 bytes; whole: get_task {"task_id":7}]"#), "{text}");

        let mut body = json!({ "tasks": tasks(200), "count": 200 });
        let by_cursor = Listing { order, start: Some("x"), has_limit: true, whole: None };
        let cut = fit(&mut body, by_cursor);
        let shown = body["tasks"].as_array().expect("a list").len();
        assert!((20..60).contains(&shown), "{shown}");
        assert_eq!(cut.next_cursor, Some((shown - 1).to_string()));
        for (index, cursor) in [(0, "x"), (7, "6")] {
            let text = body["tasks"][index]["text"].as_str().expect("text");
            let mark = format!(r#"whole: the same call with {{"limit":1,"cursor":"{cursor}"}}]"#);
            assert!(text.ends_with(&mark), "{text}");
        }
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
            assert_eq!(cut, Cut { has_short_texts: true, ..Cut::default() });
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
