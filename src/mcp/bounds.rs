//! The size of answers: what a model reads at once is bounded, and an answer that was cut says so.
use std::cell::Cell;

use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    operation::Whole,
    values::{Order, raw_json::members_of, visit_scalars},
};

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
    /// `bytes` is the size of the entry, where it is not that of its value.
    fn remedy(&self, entries: &[Value], index: usize, bytes: Option<usize>) -> Option<String> {
        let entry = &entries[index];
        if bytes.unwrap_or_else(|| size(entry)) > MAX_BYTES - RESERVED {
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

/// An answer larger than this many bytes is read only as far as it can be shown: a parsed value takes up to 72
/// times the memory of its text.
const LARGE: usize = 64 << 10;

/// How many values of a large answer are read in all, and of each entry at least.
const MOST_VALUES: usize = 64 << 10;
const LEAST_VALUES_OF_ENTRY: usize = 256;

/// An answer as it was read.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) body: Value,
    /// The size of each entry of the list of a large answer, in bytes as it would be sent.
    sizes: Vec<usize>,
    /// Whether lists or objects were left out.
    is_clipped: bool,
}

impl From<Value> for Answer {
    fn from(body: Value) -> Self {
        Self { body, ..Self::default() }
    }
}

/// Reads an answer, a large one only as far as it can be shown.
///
/// # Errors
/// For a text that is not JSON.
pub(super) fn read(text: &str) -> serde_json::Result<Answer> {
    if text.len() <= LARGE {
        return serde_json::from_str(text).map(|body: Value| body.into());
    }
    let mut answer = Answer::default();
    answer.body = match text.starts_with('{') {
        true => {
            let mut body = Map::new();
            for (name, raw) in members_of(text)? {
                let member = answer.read_member(raw.get())?;
                body.insert(name, member);
            }
            body.into()
        }
        false => answer.read_member(text)?,
    };
    Ok(answer)
}

impl Answer {
    /// Reads a member of the answer. The values that are read are shared among the entries of a list.
    fn read_member(&mut self, text: &str) -> serde_json::Result<Value> {
        if !text.starts_with('[') {
            return self.clip(text, MOST_VALUES);
        }
        let entries: Vec<&RawValue> = serde_json::from_str(text)?;
        let values = (MOST_VALUES / entries.len().max(1)).max(LEAST_VALUES_OF_ENTRY);
        let sizes: Vec<_> = entries.iter().map(|entry| size_of_text(entry.get())).collect();
        if sizes.iter().sum::<usize>() > self.sizes.iter().sum() {
            self.sizes = sizes;
        }
        entries.into_iter().map(|entry| self.clip(entry.get(), values)).collect()
    }

    fn clip(&mut self, text: &str, values: usize) -> serde_json::Result<Value> {
        let (left, is_clipped) = (Cell::new(values), Cell::new(false));
        let clip = Clip { left: &left, is_clipped: &is_clipped };
        let value = clip.deserialize(&mut serde_json::Deserializer::from_str(text))?;
        self.is_clipped |= is_clipped.get();
        Ok(value)
    }
}

/// Reads a value, and behind a number of values only how many there are.
#[derive(Clone, Copy)]
struct Clip<'l> {
    left: &'l Cell<usize>,
    is_clipped: &'l Cell<bool>,
}

impl Clip<'_> {
    fn take(self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

impl<'de> DeserializeSeed<'de> for Clip<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Clip<'_> {
    type Value = Value;

    visit_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while self.take() {
            match elements.next_element_seed(self)? {
                Some(element) => kept.push(element),
                None => return Ok(kept.into()),
            }
        }
        let mut all = kept.len();
        while elements.next_element::<IgnoredAny>()?.is_some() {
            all += 1;
        }
        if all > kept.len() {
            self.is_clipped.set(true);
            kept.push(mark(kept.len(), all, "items", None).into());
        }
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while self.take() {
            match members.next_key::<String>()? {
                Some(name) => drop(kept.insert(name, members.next_value_seed(self)?)),
                None => return Ok(kept.into()),
            }
        }
        let mut all = kept.len();
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            all += 1;
        }
        if all > kept.len() {
            self.is_clipped.set(true);
            kept.insert(mark(kept.len(), all, "members", None), Value::Null);
        }
        Ok(kept.into())
    }
}

/// Returns the number that the mark of a clipped list or object tells.
fn marked_total(mark: &str) -> Option<usize> {
    mark.strip_prefix(MARK)?.split_whitespace().nth(2)?.parse().ok()
}

/// Cuts an answer to the maximum size: first the long texts of all its entries, each with a mark that says
/// how to read it whole, then its largest list, to the entries that fit. The first entry is always shown.
pub(super) fn fit(answer: &mut Answer, listing: Listing<'_>) -> Cut {
    let Answer { body, sizes, is_clipped } = answer;
    let mut cut = Cut { has_short_texts: *is_clipped, ..Cut::default() };
    let limit = MAX_BYTES - RESERVED;
    if size(body) <= limit {
        return cut;
    }
    let place = place_of_list(body);
    let mut whole = body.clone();
    let entries =
        place.as_ref().and_then(|it| list_at(&mut whole, it)).cloned().unwrap_or_default();
    let remedy = |n: usize| listing.remedy(&entries, n, sizes.get(n).copied());
    let remedies: Vec<_> = (0..entries.len()).map(remedy).collect();
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
    cut.has_short_texts |= *body != whole;
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
    size_of_text(&value.to_string())
}

fn size_of_text(text: &str) -> usize {
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
            let clipped = items.last().and_then(Value::as_str).and_then(marked_total);
            let all = clipped.unwrap_or(items.len());
            items.truncate(items.len() - usize::from(clipped.is_some()));
            items.iter_mut().take(most_items).for_each(|item| shorten(item, most, remedy));
            if all > most_items + 1 || clipped.is_some() {
                let most_items = most_items.min(items.len());
                items.truncate(most_items);
                items.push(json!(mark(most_items, all, "items", remedy)));
            }
        }
        Value::Object(members) => {
            let clipped = members.keys().next_back().and_then(|name| marked_total(name));
            let all = clipped.unwrap_or(members.len());
            let most_items = most_items.min(members.len() - usize::from(clipped.is_some()));
            members.values_mut().take(most_items).for_each(|it| shorten(it, most, remedy));
            if all > most_items + 1 || clipped.is_some() {
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

    fn fitted_in(body: Value, listing: Listing<'_>) -> (Value, Cut) {
        let mut answer = body.into();
        let cut = fit(&mut answer, listing);
        (answer.body, cut)
    }

    fn fitted(body: Value) -> (Value, Cut) {
        let (body, cut) = fitted_in(body, Listing::default());
        assert!(size(&body) <= MAX_BYTES - RESERVED, "{} bytes", size(&body));
        (body, cut)
    }

    #[test]
    fn of_a_large_answer_no_more_values_are_read_than_can_be_shown() {
        let zeros = format!("[{}0]", "0,".repeat(499_999));
        let large = format!(r#"{{"id":1,"details":{{"zeros":{zeros}}}}}"#);
        let text = format!(r#"{{"memories":[{large},{{"id":2,"details":{{}}}}],"count":2}}"#);
        let mut answer = read(&text).expect("JSON");
        assert!(answer.body.to_string().len() < 200_000);
        let whole = Whole { tool: "recall", argument: "id", member: "id" };
        let cut = fit(&mut answer, Listing { whole: Some(whole), ..Listing::default() });
        assert_eq!(cut, Cut { has_short_texts: true, ..Cut::default() });
        let memories = &answer.body["memories"];
        let shown = memories[0]["details"]["zeros"].as_array().expect("a list");
        let mark = shown.last().and_then(Value::as_str).expect("a mark");
        assert!(mark.ends_with(" of 500000 items]"), "{mark}");
        assert!(shown.len() > 100 && memories[1] == json!({ "id": 2, "details": {} }));
    }

    #[test]
    fn a_large_answer_of_usual_entries_is_read_whole() {
        let entry = json!({ "id": 1, "list": [1, { "a": "x".repeat(300) }], "null": null });
        let body = json!({ "tasks": vec![entry; 500], "count": 500 });
        let answer = read(&body.to_string()).expect("JSON");
        assert!(!answer.is_clipped && answer.body == body && answer.sizes.len() == 500);
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
        let (body, cut) = fitted_in(json!({ "tasks": tasks(20), "count": 20 }), by_id);
        assert_eq!(cut, Cut { has_short_texts: true, ..Cut::default() });
        let text = body["tasks"][7]["text"].as_str().expect("text");
        assert!(text.ends_with(r#" of 5000 bytes; whole: get_task {"task_id":7}]"#), "{text}");

        let by_cursor = Listing { order, start: Some("x"), has_limit: true, whole: None };
        let (body, cut) = fitted_in(json!({ "tasks": tasks(200), "count": 200 }), by_cursor);
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
