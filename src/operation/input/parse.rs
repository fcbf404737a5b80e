//! From the text of a body to the input of an operation, by its schema. Members that the operation does not
//! have are read only as far as an issue repeats them, and free-form ones stay text: as values, they would take
//! up to 72 times the memory of the body.
use std::{cell::Cell, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, value::RawValue};

use super::keywords::{inner_schema, is_free_form, most_items};
use crate::values::{
    json::{ECHO_BYTES, SCALAR_BYTES, canonical},
    raw_json::canonical_text,
    visit_scalars,
};

/// Parses a body. In the result, a free-form member that is not null is its text, as a string.
///
/// # Errors
/// The offset at which the body stops being JSON.
pub(crate) fn parse(schema: &Value, body: &[u8]) -> Result<Value, usize> {
    let parsing = Parsing { body, echo_left: Cell::new(ECHO_BYTES), fault: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // The root is never free-form, although the schema of an operation without members looks like it.
    let parsed = deserializer
        .deserialize_any(Guided { schema, parsing: &parsing })
        .and_then(|value| deserializer.end().map(|()| value));
    parsed.map_err(|error| parsing.fault.get().unwrap_or_else(|| offset(body, &error)))
}

/// Returns the offset in bytes at which JSON stops being valid.
pub(crate) fn offset(body: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return body.len();
    }
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    before + error.column().saturating_sub(1)
}

/// Returns the text of a free-form value as the value that it is, as far as an issue repeats it.
pub(super) fn echo(text: &str) -> Value {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let left = Cell::new(ECHO_BYTES);
    Bounded { left: &left, most_text: ECHO_BYTES }
        .deserialize(&mut deserializer)
        .unwrap_or_default()
}

/// Returns the places and the echoes of the elements of a free-form list that have a NUL character.
pub(super) fn elements_with_nul(text: &str) -> Vec<(usize, Value)> {
    let Checked { with_nul, .. } = serde_json::from_str(text).unwrap_or_default();
    if with_nul.is_empty() {
        return Vec::new();
    }
    let elements: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
    let echo_of = |n: usize| elements.get(n).map_or(Value::Null, |element| echo(element.get()));
    with_nul.into_iter().map(|n| (n, echo_of(n))).collect()
}

/// Parses a value without what is behind the bytes that are left: short values count more than their text.
///
/// # Errors
/// For a text that is not JSON.
pub(crate) fn bounded_value(text: &str, left: &Cell<usize>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Bounded { left, most_text: usize::MAX }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Whether a text is JSON throughout.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<Checked>(text).is_ok()
}

/// The state of parsing one body.
struct Parsing<'b> {
    body: &'b [u8],
    /// How much an issue can still repeat.
    echo_left: Cell<usize>,
    /// The offset at which free-form text stops being JSON.
    fault: Cell<Option<usize>>,
}

/// Parses a value of which a schema says what is read.
#[derive(Clone, Copy)]
struct Guided<'s> {
    schema: &'s Value,
    parsing: &'s Parsing<'s>,
}

impl<'s> Guided<'s> {
    fn echoed(self) -> Bounded<'s> {
        Bounded { left: &self.parsing.echo_left, most_text: ECHO_BYTES }
    }

    /// Checks that free-form text is JSON throughout: the search for its end only looks at brackets.
    fn free_form<E: serde::de::Error>(self, raw: &RawValue) -> Result<Value, E> {
        let text = raw.get();
        if text == "null" {
            return Ok(Value::Null);
        }
        if let Err(error) = serde_json::from_str::<Checked>(text) {
            let start =
                (text.as_ptr() as usize).saturating_sub(self.parsing.body.as_ptr() as usize);
            self.parsing.fault.set(Some(start + offset(text.as_bytes(), &error)));
            return Err(E::custom(error));
        }
        Ok(text.into())
    }
}

impl<'de> DeserializeSeed<'de> for Guided<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let schema = inner_schema(self.schema);
        if is_free_form(schema) {
            return self.free_form(<&RawValue>::deserialize(deserializer)?);
        }
        deserializer.deserialize_any(Guided { schema, ..self })
    }
}

impl<'de> Visitor<'de> for Guided<'_> {
    type Value = Value;

    visit_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let Some(schema) = self.schema.get("items") else {
            return self.echoed().visit_seq(elements);
        };
        // One more than are allowed, which is refused.
        let most = most_items(self.schema) + 1;
        let mut kept = Vec::new();
        while kept.len() < most {
            match elements.next_element_seed(Guided { schema, ..self })? {
                Some(element) => kept.push(element),
                None => return Ok(kept.into()),
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let Some(declared) = self.schema["properties"].as_object() else {
            return self.echoed().visit_map(members);
        };
        let mut kept = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            match declared.get(&name) {
                Some(schema) => {
                    let value = members.next_value_seed(Guided { schema, ..self })?;
                    kept.insert(name, value);
                }
                // All of them are refused, and counted.
                None if self.schema["x-closed"] == true && self.parsing.echo_left.get() == 0 => {
                    members.next_value::<IgnoredAny>()?;
                    kept.insert(name, Value::Null);
                }
                None => self.echoed().read_member(name, &mut members, &mut kept)?,
            }
        }
        Ok(kept.into())
    }
}

/// Parses a value within a number of bytes. What is behind them is left out.
#[derive(Clone, Copy)]
struct Bounded<'l> {
    left: &'l Cell<usize>,
    /// The maximum size of a text, in bytes.
    most_text: usize,
}

impl Bounded<'_> {
    fn spend(self, bytes: usize) {
        self.left.set(self.left.get().saturating_sub(bytes));
    }

    fn scalar<E>(self, value: Value) -> Result<Value, E> {
        self.spend(SCALAR_BYTES);
        Ok(value)
    }

    fn read_member<'de, A: MapAccess<'de>>(
        self,
        name: String,
        members: &mut A,
        kept: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        if self.left.get() == 0 {
            return members.next_value::<IgnoredAny>().map(drop);
        }
        self.spend(name.len());
        let value = members.next_value_seed(self)?;
        kept.insert(name, value);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        self.scalar(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        self.spend(value.len());
        let end = value.floor_char_boundary(self.most_text.min(value.len()));
        Ok(value[..end].into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while self.left.get() > 0 {
            match elements.next_element_seed(self)? {
                Some(element) => kept.push(element),
                None => return Ok(kept.into()),
            }
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(kept.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.spend(SCALAR_BYTES);
        let mut kept = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            self.read_member(name, &mut members, &mut kept)?;
        }
        Ok(kept.into())
    }
}

/// A value of which only is known what the check of free-form text needs.
#[derive(Default)]
pub(super) struct Checked {
    /// Whether a text in it, or the name of a member, has a NUL character.
    pub(super) has_nul: bool,
    /// How many elements it has, if it is a list.
    pub(super) count: usize,
    /// The places of the first elements with such a character.
    pub(super) with_nul: Vec<usize>,
}

/// How many elements with a NUL character are told.
const MOST_WITH_NUL: usize = 100;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CheckedVisitor)
    }
}

struct CheckedVisitor;

impl<'de> Visitor<'de> for CheckedVisitor {
    type Value = Checked;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Checked, E> {
        Ok(Checked { has_nul: text.contains('\0'), ..Checked::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Checked, A::Error> {
        let mut all = Checked::default();
        while let Some(element) = elements.next_element::<Checked>()? {
            if element.has_nul && all.with_nul.len() < MOST_WITH_NUL {
                all.with_nul.push(all.count);
            }
            all.has_nul |= element.has_nul;
            all.count += 1;
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Checked, A::Error> {
        let mut all = Checked::default();
        while let Some((name, value)) = members.next_entry::<Checked, Checked>()? {
            all.has_nul |= name.has_nul || value.has_nul;
        }
        Ok(all)
    }
}

/// Turns the free-form members of an input that was parsed as values into their texts. A string that has such
/// a text is left as it is.
pub(crate) fn keep_free_form_as_text(schema: &Value, input: &mut Value) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let Some(member) = input.get_mut(name).filter(|member| !member.is_null()) else { continue };
        if !is_free_form(inner_schema(property)) {
            continue;
        }
        let is_text = |text: &str| text.starts_with(['{', '[']) && is_json(text);
        if !member.as_str().is_some_and(is_text) {
            *member = member.to_string().into();
        }
    }
}

/// Returns an input in canonical form, in which neither the white space of free-form members nor the order of
/// their members matters.
pub(crate) fn canonical_input(schema: &Value, input: &Value) -> String {
    let mut input = input.clone();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(Value::String(text)) = input.get_mut(name)
            && is_free_form(inner_schema(property))
            && let Ok(canonical) = canonical_text(text.as_bytes())
        {
            *text = canonical;
        }
    }
    canonical(&input)
}
