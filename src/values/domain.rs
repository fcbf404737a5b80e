//! Host names in their canonical form: lower case, without the dot of the root.
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The maximum length of a host name.
const MAX_BYTES: usize = 253;

/// The maximum length of a label: the text between two dots.
const MAX_LABEL_BYTES: usize = 63;

/// A canonical host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

/// The text is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a host name, without scheme, port or path")]
pub struct DomainError;

impl Domain {
    /// Converts a host name to its canonical form. Accepts international names only in their ASCII form
    /// (`xn--…`): letters of two scripts can look alike, and a homograph could imitate an allowed name.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_valid = (1..=MAX_BYTES).contains(&name.len()) && name.split('.').all(is_label);
        if is_valid { Ok(Self(name)) } else { Err(DomainError) }
    }

    /// Returns the canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

impl<'de> Deserialize<'de> for Domain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Domain {
    fn schema_name() -> Cow<'static, str> {
        "Domain".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "hostname" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_have_one_canonical_form() {
        for (text, expected) in [
            ("example.com", "example.com"),
            ("Evil.Example.COM.", "evil.example.com"),
            ("localhost", "localhost"),
            ("a_b.example", "a_b.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            (&"a.".repeat(127), &"a.".repeat(127)[..253]),
            (&format!("{}.a", "x".repeat(63)), &format!("{}.a", "x".repeat(63))),
        ] {
            assert_eq!(
                Domain::parse(text).map(|domain| domain.0).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ".",
            "..",
            "example.com..",
            ".example.com",
            "a..b",
            "https://example.com",
            "example.com:443",
            "example.com/path",
            "user@example.com",
            "*.example.com",
            "example com",
            " example.com",
            "example.com\n",
            "-a.example",
            "a-.example",
            "b\u{fc}cher.example",
            "\u{ff45}xample.com",
            "2001:db8::1",
            "[2001:db8::1]",
            &"a.".repeat(128),
            &"x".repeat(64),
        ] {
            assert_eq!(Domain::parse(text), Err(DomainError), "{text:?}");
        }
    }
}
