//! The policy engine, and the source of its policies.
use std::time::Duration;

use super::reader::Reader;

/// The policy engine and its settings.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "only Cedar reads policies"))]
pub(crate) struct PolicySettings {
    pub(crate) engine: PolicyEngine,
    /// How long policies are kept in memory.
    pub(crate) cache_ttl: Duration,
    /// Whether the bundled policies apply when the database has none.
    pub(crate) code_fallback: bool,
    /// The operator's Cedar schema, already parsed once. `None` is the bundled schema.
    pub(crate) schema: Option<String>,
}

/// The engine that decides what a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyEngine {
    Native,
    #[cfg(feature = "cedar")]
    Cedar,
}

impl Reader<'_> {
    pub(super) fn policy(&mut self) -> PolicySettings {
        let engine = match self.word("POLICY_ENGINE").as_str() {
            #[cfg(feature = "cedar")]
            "cedar" => PolicyEngine::Cedar,
            _ => PolicyEngine::Native,
        };
        PolicySettings {
            engine,
            cache_ttl: self.seconds("POLICY_CACHE_TTL"),
            code_fallback: self.bool("POLICY_CODE_FALLBACK"),
            schema: self.checked("CEDAR_SCHEMA_PATH", |_, path| {
                let text = std::fs::read_to_string(path).ok()?;
                is_schema(&text).then_some(Some(text))
            }),
        }
    }
}

/// Whether a text is a Cedar schema, in Cedar syntax or as JSON. A build without Cedar accepts any text,
/// because it never reads the schema.
#[cfg(feature = "cedar")]
fn is_schema(text: &str) -> bool {
    use cedar_policy::Schema;
    if text.trim_start().starts_with('{') {
        return Schema::from_json_str(text).is_ok();
    }
    Schema::from_cedarschema_str(text).is_ok()
}

#[cfg(not(feature = "cedar"))]
fn is_schema(_: &str) -> bool {
    true
}
