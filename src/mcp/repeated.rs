//! Repeated members of JSON objects. Of two members with one name, this service, the MCP library and a proxy in
//! front of them could each read another, so each could judge another call than the one that runs.
use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// Whether an object in a JSON text, at any depth, has two members with one name. The text must be valid JSON.
pub(super) fn has_repeated_member(text: &[u8]) -> bool {
    // A number out of range and too deep nesting are errors of another kind.
    serde_json::from_slice::<Distinct>(text).is_err_and(|error| error.is_data())
}

/// A value whose objects have no repeated member.
struct Distinct;

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Walk)
    }
}

/// Walks through a value and keeps nothing of it but the names of the members of one object.
struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = Distinct;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON without repeated members")
    }

    fn visit_unit<E>(self) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_str<E>(self, _: &str) -> Result<Distinct, E> {
        Ok(Distinct)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Distinct, A::Error> {
        while list.next_element::<Distinct>()?.is_some() {}
        Ok(Distinct)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Distinct, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = object.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a member occurs twice"));
            }
            object.next_value::<Distinct>()?;
        }
        Ok(Distinct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_members_are_found_at_any_depth_and_in_any_spelling() {
        for (text, expected) in [
            (r#"{"a":1,"b":{"a":1},"c":[{"a":null},{"a":true}]}"#, false),
            (r#"[1,-1,1.5,"a",{"a":"{\"a\":1,\"a\":1}"}]"#, false),
            (r#"{"a":1,"a":1}"#, true),
            (r#"{"a":1,"\u0061":2}"#, true),
            (r#"{"a":{"b":[[{"c":1,"c":2}]]}}"#, true),
            (r#"[{},{"":1,"":1}]"#, true),
        ] {
            assert_eq!(has_repeated_member(text.as_bytes()), expected, "{text}");
        }
    }
}
