//! The canonical form of lock keys: two spellings of one thing are one key.
//!
//! Pure, and idempotent: canonicalising a canonical key changes nothing.
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error as _};
use unicode_normalization::UnicodeNormalization;

/// The most bytes a canonical key may have.
pub(crate) const MAX_BYTES: usize = 1024;

/// The most bytes of a key before it is canonical: no honest spelling is so much longer, and each
/// pass over it costs time.
const MAX_SPELLING_BYTES: usize = 16 * MAX_BYTES;

/// How often a key may change its form before it is refused: white space and dots can be nested so
/// that each pass uncovers only a little more.
const MAX_PASSES: u32 = 16;

/// A canonical lock key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockKey {
    text: String,
    is_file: bool,
}

/// Why a text is no lock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockKeyError {
    /// A `..` leads out of the place where the path starts.
    #[error("path must not lead out of its start with `..`")]
    Escapes,
    /// The canonical form is longer than 1,024 bytes.
    #[error("String should have at most 1024 bytes")]
    TooLong,
    /// Dots and white space are nested too deeply to tell what is meant.
    #[error("path has too many spaces and dots between slashes")]
    Tangled,
    /// The text contains a NUL character.
    #[error("NUL characters are not allowed")]
    Nul,
}

impl LockKey {
    /// Brings a key into its canonical form. Blank text gives a blank key, which names nothing.
    pub fn parse(text: &str) -> Result<Self, LockKeyError> {
        if text.contains('\0') {
            return Err(LockKeyError::Nul);
        }
        if text.len() > MAX_SPELLING_BYTES {
            return Err(LockKeyError::TooLong);
        }
        // One pass may uncover what the next one changes: `./api:get /x` is a namespaced key once
        // its `./` is gone. Two passes settle any honest spelling.
        let mut text = text.to_owned();
        for passes in 0.. {
            let next: String = pass(text.nfc().collect::<String>().trim())?;
            if next == text {
                break;
            }
            if passes == MAX_PASSES {
                return Err(LockKeyError::Tangled);
            }
            text = next;
        }
        if text.len() > MAX_BYTES {
            return Err(LockKeyError::TooLong);
        }
        let is_file = !text.is_empty() && namespace(&text).is_none();
        Ok(Self { text, is_file })
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the key names a file rather than a namespaced thing such as `api:GET /users`.
    pub fn is_file(&self) -> bool {
        self.is_file
    }
}

impl<'de> Deserialize<'de> for LockKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for LockKey {
    fn schema_name() -> Cow<'static, str> {
        "LockKey".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "lock-key" })
    }
}

fn pass(key: &str) -> Result<String, LockKeyError> {
    let Some((name, rest)) = namespace(key) else {
        return path(key);
    };
    let rest = match name {
        "api" => api(rest).unwrap_or_else(|| rest.to_owned()),
        "db" => match rest.to_lowercase() {
            lower if lower == "migration-slot" || named(&lower, "schema:") => lower,
            _ => rest.to_owned(),
        },
        "event" | "flag" => rest.to_lowercase(),
        "contract" => path(rest)?,
        _ => rest.to_owned(),
    };
    Ok(format!("{name}:{rest}"))
}

fn named(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|name| !name.is_empty())
}

/// Splits `namespace:rest`: a lower-case letter, then at least one more of `a-z0-9_-`, a colon,
/// and something behind it.
fn namespace(key: &str) -> Option<(&str, &str)> {
    let (name, rest) = key.split_once(':')?;
    let mut letters = name.bytes();
    let known = letters.next()?.is_ascii_lowercase()
        && letters.len() > 0
        && letters.all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    (known && !rest.is_empty()).then_some((name, rest))
}

/// `get   /users` becomes `GET /users`; anything else is not of the form.
fn api(rest: &str) -> Option<String> {
    let (method, path) = rest.split_once(char::is_whitespace)?;
    let path = path.trim_start();
    let fits = !method.is_empty()
        && method.bytes().all(|it| it.is_ascii_alphabetic())
        && path.starts_with('/');
    fits.then(|| format!("{} {path}", method.to_ascii_uppercase()))
}

fn path(path: &str) -> Result<String, LockKeyError> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop().ok_or(LockKeyError::Escapes)?),
            segment => segments.push(segment),
        }
    }
    let start = if path.starts_with('/') { "/" } else { "" };
    Ok(format!("{start}{}", segments.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_canonical(text: &str, expected: &str, is_file: bool) {
        let key = LockKey::parse(text).expect("a key");
        assert_eq!((key.as_str(), key.is_file()), (expected, is_file));
        assert_eq!(LockKey::parse(expected).as_ref(), Ok(&key), "not idempotent: {text:?}");
    }

    #[test]
    fn files() {
        for (text, expected) in [
            ("src/main.rs", "src/main.rs"),
            ("./src//main.rs", "src/main.rs"),
            ("././src/./a/./b.rs", "src/a/b.rs"),
            ("src/a/../b.rs", "src/b.rs"),
            ("a/b/../../c", "c"),
            ("  src/a.rs\n", "src/a.rs"),
            ("src/dir/", "src/dir"),
            ("/abs//path/", "/abs/path"),
            ("/", "/"),
            ("Src/Main.RS", "Src/Main.RS"),
            ("src/a b.rs", "src/a b.rs"),
            ("./ src/a.rs", "src/a.rs"),
            ("...", "..."),
            (".hidden/..x", ".hidden/..x"),
            ("C:/x", "C:/x"),
            ("c:/x", "c:/x"),
            ("1a:x", "1a:x"),
            ("_a:x", "_a:x"),
            ("ns:", "ns:"),
            ("cafe\u{301}.rs", "caf\u{e9}.rs"),
        ] {
            assert_canonical(text, expected, true);
        }
    }

    #[test]
    fn blank() {
        for text in ["", "  ", "./", ".", "a/..", "\t\n", "\u{a0}"] {
            assert_canonical(text, "", false);
        }
    }

    #[test]
    fn namespaces() {
        for (text, expected) in [
            ("api:get /Users//x", "api:GET /Users//x"),
            ("api:Post   /a", "api:POST /a"),
            ("api:get\t/a", "api:GET /a"),
            ("api:GET users", "api:GET users"),
            ("api:whatever", "api:whatever"),
            ("db:schema:Users", "db:schema:users"),
            ("db:Schema:Users", "db:schema:users"),
            ("db:MIGRATION-SLOT", "db:migration-slot"),
            ("db:Other", "db:Other"),
            ("db:schema:", "db:schema:"),
            ("event:Order.Placed", "event:order.placed"),
            ("flag:Billing/New", "flag:billing/new"),
            ("env:Staging", "env:Staging"),
            ("contract:./specs//a.yaml", "contract:specs/a.yaml"),
            ("contract:a/../b/", "contract:b"),
            ("feature:FEAT-123:pause", "feature:FEAT-123:pause"),
            ("sync-point:Main//x/", "sync-point:Main//x/"),
            ("./api:get /x", "api:GET /x"),
        ] {
            assert_canonical(text, expected, false);
        }
    }

    #[test]
    fn refusals() {
        for text in ["..", "../x", "/../x", "a/../../x", "contract:../x", "a/../.."] {
            assert_eq!(LockKey::parse(text), Err(LockKeyError::Escapes), "{text}");
        }
        assert_eq!(LockKey::parse("a\0b"), Err(LockKeyError::Nul));
        assert_eq!(LockKey::parse(&"a".repeat(1025)), Err(LockKeyError::TooLong));
        assert!(LockKey::parse(&"a".repeat(1024)).is_ok());
        assert!(LockKey::parse(&format!("{}a", "./".repeat(5000))).is_ok());
        assert_eq!(LockKey::parse(&"\u{e9}".repeat(513)), Err(LockKeyError::TooLong));
        assert_eq!(LockKey::parse(&"./".repeat(10_000)), Err(LockKeyError::TooLong));
        assert_eq!(LockKey::parse(&"./ ".repeat(1_000)), Err(LockKeyError::Tangled));
    }
}
