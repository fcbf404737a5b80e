//! JSON that is passed on as text. A parsed value takes up to 72 times the memory of its text, and changes
//! numbers that a float cannot hold.
use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueRef},
    types::Json,
};

/// A JSON value as text. It is read from the columns `json` and `jsonb`, and from the text that the input
/// check has for a free-form member (`docs/decisions/0021-bounds-in-bytes.md`).
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Returns the text.
    pub(crate) fn get(&self) -> &str {
        self.0.get()
    }

    /// Returns the text.
    pub(crate) fn into_text(self) -> String {
        self.get().to_owned()
    }

    /// Returns the member of an object, as text.
    pub(crate) fn member<'a>(&'a self, name: &str) -> Option<&'a str> {
        let mut deserializer = serde_json::Deserializer::from_str(self.get());
        FindMember(name).deserialize(&mut deserializer).ok().flatten().map(RawValue::get)
    }

    /// Returns the text that a member of an object has as its value.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.member(name)?).ok()
    }

    /// Whether this is an empty object or list.
    pub(crate) fn is_empty(&self) -> bool {
        is_empty(self.get())
    }
}

/// Whether JSON is an empty object or list.
pub(crate) fn is_empty(json: &str) -> bool {
    let inner = json.strip_prefix(['{', '[']).and_then(|rest| rest.strip_suffix(['}', ']']));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

impl Type<Postgres> for RawJson {
    fn type_info() -> PgTypeInfo {
        <Json<Value> as Type<Postgres>>::type_info()
    }

    fn compatible(ty: &PgTypeInfo) -> bool {
        <Json<Value> as Type<Postgres>>::compatible(ty)
    }
}

impl<'r> Decode<'r, Postgres> for RawJson {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let Json(raw) = Json::decode(value)?;
        Ok(Self(raw))
    }
}

impl<'de> Deserialize<'de> for RawJson {
    /// Reads the text from a string. An object or list without content loses its white space.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        if is_empty(&text) {
            text.retain(|character| !character.is_whitespace());
        }
        RawValue::from_string(text).map(Self).map_err(D::Error::custom)
    }
}

/// Finds a member of an object. Of several with the name, the last one.
struct FindMember<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for FindMember<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FindMember<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = members.next_key::<String>()? {
            if name == self.0 {
                found = Some(members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Returns the members of an object, as text.
///
/// # Errors
/// For a text that is not an object in JSON.
pub(crate) fn members_of(text: &str) -> serde_json::Result<Vec<(String, &RawValue)>> {
    serde_json::from_str(text).map(|RawMembers(members)| members)
}

struct RawMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawMembersVisitor)
    }
}

struct RawMembersVisitor;

impl<'de> Visitor<'de> for RawMembersVisitor {
    type Value = RawMembers<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(RawMembers(all))
    }
}

/// Returns an object with more members, the others of which stay as they are. One that it has already is
/// replaced.
///
/// # Errors
/// For a text that is not an object in JSON.
pub(crate) fn with_members(text: &str, added: &[(&str, &Value)]) -> serde_json::Result<String> {
    let kept = members_of(text)?;
    let kept = kept.iter().filter(|(name, _)| added.iter().all(|(other, _)| other != name));
    let kept = kept.map(|(name, raw)| format!("{}:{}", quoted(name), raw.get()));
    let added = added.iter().map(|(name, value)| format!("{}:{value}", quoted(name)));
    let members: Vec<_> = kept.chain(added).collect();
    Ok(format!("{{{}}}", members.join(",")))
}

/// Returns JSON in canonical form, see [`super::json::canonical`], without parsing it into a value.
///
/// # Errors
/// For a text that is not JSON.
pub(crate) fn canonical_text(json: &[u8]) -> serde_json::Result<String> {
    let mut canonical = String::with_capacity(json.len());
    walk(json, &mut Texts { canonical: &mut canonical, strings: None })?;
    Ok(canonical)
}

/// Appends JSON in canonical form to a text, then every string in it, member names included, in that order
/// and each on a line of its own.
///
/// # Errors
/// For a text that is not JSON.
pub(crate) fn push_canonical_and_strings(json: &str, text: &mut String) -> serde_json::Result<()> {
    let mut strings = String::new();
    walk(json.as_bytes(), &mut Texts { canonical: text, strings: Some(&mut strings) })?;
    text.push_str(&strings);
    Ok(())
}

fn walk(json: &[u8], texts: &mut Texts<'_>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    texts.reborrow().deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Where the canonical form goes, and the strings.
struct Texts<'t> {
    canonical: &'t mut String,
    strings: Option<&'t mut String>,
}

impl Texts<'_> {
    fn reborrow(&mut self) -> Texts<'_> {
        Texts { canonical: self.canonical, strings: self.strings.as_deref_mut() }
    }

    fn push_line(&mut self, line: &str) {
        if let Some(strings) = &mut self.strings {
            strings.push('\n');
            strings.push_str(line);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.canonical.push_str("null");
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.canonical.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.canonical.push_str(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.canonical.push_str(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.canonical.push_str(&Value::from(value).to_string());
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.canonical.push_str(&quoted(value));
        self.push_line(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        let start = self.canonical.len();
        loop {
            // Written before it is known whether an element follows.
            let separator = if self.canonical.len() == start { '[' } else { ',' };
            self.canonical.push(separator);
            if elements.next_element_seed(self.reborrow())?.is_none() {
                if separator == ',' {
                    self.canonical.pop();
                }
                break;
            }
        }
        self.canonical.push(']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        let mut sorted = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            let (mut canonical, mut strings) = (String::new(), String::new());
            let strings_of_member = self.strings.is_some().then_some(&mut strings);
            members
                .next_value_seed(Texts { canonical: &mut canonical, strings: strings_of_member })?;
            sorted.push((name, canonical, strings));
        }
        // Stable, so that the last of several members with one name is the last here too.
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        self.canonical.push('{');
        let mut is_first = true;
        for (n, (name, canonical, strings)) in sorted.iter().enumerate() {
            if sorted.get(n + 1).is_some_and(|next| next.0 == *name) {
                continue;
            }
            if !std::mem::take(&mut is_first) {
                self.canonical.push(',');
            }
            self.canonical.push_str(&quoted(name));
            self.canonical.push(':');
            self.canonical.push_str(canonical);
            self.push_line(name);
            if let Some(all) = &mut self.strings {
                all.push_str(strings);
            }
        }
        self.canonical.push('}');
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::values::json::canonical;

    fn raw(text: &str) -> RawJson {
        serde_json::from_value(json!(text)).expect("JSON")
    }

    #[test]
    fn the_canonical_form_of_a_text_is_that_of_its_value() {
        for text in [
            r#"{"b":[{"d":1,"c":"x\"y"}, -2, 1.50, []],"a":null,"é\n":[true,false,[[]],{}]}"#,
            r#"{"a":1,"b":2,"a":[1,[2,3]]}"#,
            "[]",
            " [ 0 , -0.0, 1e300, 12345678901234567890123 ] ",
            r#""text""#,
        ] {
            let value: Value = serde_json::from_str(text).expect("JSON");
            let of_text = canonical_text(text.as_bytes()).expect("JSON");
            assert_eq!(of_text, canonical(&value), "{text}");
        }
        assert!(canonical_text(b"[1").is_err() && canonical_text(b"1 2").is_err());
    }

    #[test]
    fn strings_follow_the_canonical_form_in_its_order() {
        let mut text = "task\n".to_owned();
        let json = r#"{"b":["x\ny",1],"a":{"c":"z"}}"#;
        push_canonical_and_strings(json, &mut text).expect("JSON");
        let canonical = r#"{"a":{"c":"z"},"b":["x\ny",1]}"#;
        assert_eq!(text, format!("task\n{canonical}\na\nc\nz\nb\nx\ny"));
    }

    #[test]
    fn a_text_is_kept_as_it_is_and_its_members_are_found() {
        let object = raw(r#"{ "n": 12345678901234567890123, "t": "a", "t": "b\u00e9" }"#);
        assert_eq!(object.member("n"), Some("12345678901234567890123"));
        assert_eq!(object.text("t").as_deref(), Some("bé"));
        assert_eq!((object.member("x"), object.text("n")), (None, None));
        assert_eq!(json!(object)["t"], "bé");
        let n = json!(3);
        let more = with_members(r#"{"a":1.50,"n":2}"#, &[("n", &n), ("m", &Value::Null)]);
        assert_eq!(more.expect("JSON"), r#"{"a":1.50,"n":3,"m":null}"#);
        assert_eq!(raw("{ \n}").get(), "{}");
        assert!(raw("[ ]").is_empty() && !object.is_empty() && !raw("\"\"").is_empty());
    }
}
