//! The canonical form of lock keys, so that two spellings of one path are one lock. Canonicalisation is
//! pure and idempotent.
use unicode_normalization::UnicodeNormalization;

/// The maximum size of a canonical key, in bytes.
pub const MAX_BYTES: usize = 1024;

/// The maximum size of a key before it is canonical, in bytes. Each pass over a key costs time, and no
/// plausible spelling is longer.
pub const MAX_SPELLING_BYTES: usize = 16 * MAX_BYTES;

/// The maximum number of passes that change a key. White space and dots can be nested so that each pass
/// removes only a few characters, which would take quadratic time.
const MAX_PASSES: u32 = 16;

/// A canonical lock key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockKey {
    text: String,
    is_file: bool,
}

/// Why a text is not a lock key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockKeyError {
    /// A `..` leads above the start of the path.
    #[error("path must not lead out of its start with `..`")]
    Escapes,
    /// The canonical form is longer than 1,024 bytes.
    #[error("String should have at most 1024 bytes")]
    TooLong,
    /// Dots and white space are nested so deeply that the key was not canonical after the last pass.
    #[error("path has too many spaces and dots between slashes")]
    Tangled,
    /// The text contains a NUL character.
    #[error("NUL characters are not allowed")]
    Nul,
}

impl LockKey {
    /// Converts a key to its canonical form. Blank text becomes an empty key, which names nothing.
    pub fn parse(text: &str) -> Result<Self, LockKeyError> {
        if text.contains('\0') {
            return Err(LockKeyError::Nul);
        }
        if text.len() > MAX_SPELLING_BYTES {
            return Err(LockKeyError::TooLong);
        }
        // A pass can uncover what the next pass changes: `./api:get /x` is a namespaced key once its
        // `./` is removed. Two passes are enough for any plausible spelling.
        let mut text = text.to_owned();
        for passes in 0.. {
            let next = canonicalize_once(text.nfc().collect::<String>().trim())?;
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
        let is_file = !text.is_empty() && split_namespace(&text).is_none();
        Ok(Self { text, is_file })
    }

    /// Returns the canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the key names a file, and not a namespaced resource such as `api:GET /users`.
    pub fn is_file(&self) -> bool {
        self.is_file
    }
}

/// Whether a text has a namespace, such as `db:schema:users`, and so names no file.
pub fn has_namespace(text: &str) -> bool {
    split_namespace(text).is_some()
}

fn canonicalize_once(key: &str) -> Result<String, LockKeyError> {
    let Some((name, rest)) = split_namespace(key) else {
        return canonical_path(key);
    };
    let rest = match name {
        "api" => canonical_route(rest).unwrap_or_else(|| rest.to_owned()),
        "db" => match rest.to_lowercase() {
            lower if lower == "migration-slot" || has_text_after(&lower, "schema:") => lower,
            _ => rest.to_owned(),
        },
        "event" | "flag" => rest.to_lowercase(),
        "contract" => canonical_path(rest)?,
        _ => rest.to_owned(),
    };
    Ok(format!("{name}:{rest}"))
}

fn has_text_after(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty())
}

/// Splits `namespace:rest`. A namespace is a lower-case letter and at least one more of `a-z0-9_-`, and
/// the rest is not empty. A single letter is a drive of Windows: `c:/x` is a file.
fn split_namespace(key: &str) -> Option<(&str, &str)> {
    let (name, rest) = key.split_once(':')?;
    let mut letters = name.bytes();
    let is_namespace = letters.next()?.is_ascii_lowercase()
        && letters.len() > 0
        && letters.all(|letter| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    (is_namespace && !rest.is_empty()).then_some((name, rest))
}

/// Converts `get   /users` to `GET /users`. Returns `None` for any other form.
fn canonical_route(rest: &str) -> Option<String> {
    let (method, path) = rest.split_once(char::is_whitespace)?;
    let path = path.trim_start();
    let is_route = !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_alphabetic())
        && path.starts_with('/');
    is_route.then(|| format!("{} {path}", method.to_ascii_uppercase()))
}

fn canonical_path(path: &str) -> Result<String, LockKeyError> {
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
