//! Hot paths that do not need a database, for `benches/instructions.rs`. Not part of the public interface.
use http::HeaderMap;
use serde_json::Value;

use crate::{
    access::{
        Caller, Keyring, TargetKind,
        policy::{self, Question},
    },
    capabilities::{self, guardrails},
    config::Identity,
    operation::input,
};

/// Authenticates the headers of a request against a ring of keys named `key-0`, `key-1`, ….
pub fn authentication(keys: usize) -> impl Fn(&HeaderMap) -> bool {
    let keys: Vec<_> = (0..keys).map(|n| format!("key-{n}")).collect();
    let keys = keys.iter().map(|key| (key.as_str(), Identity::default()));
    let ring = Keyring::new(keys, false);
    move |headers| matches!(ring.authenticate(headers), Ok(Some(_)))
}

/// Parses the text of an input, and coerces and checks it against a schema. Returns the number of issues.
///
/// # Panics
/// If the text is not JSON.
pub fn input_check(schema: &Value, text: &[u8]) -> usize {
    let mut input = input::parse(schema, text).expect("JSON");
    input::check(schema, &mut input, |_| "body").len()
}

/// Decides with the native engine whether a caller of trust 2 may run an operation.
pub fn decision() -> impl Fn(&str) -> bool {
    let caller = Caller { trust: 2, ..Caller::anonymous() };
    let known = capabilities::all().known();
    move |operation| {
        let category = known.get(operation).map(|known| known.category);
        let (target_kind, target) = (TargetKind::File, "src/main.rs");
        let question = Question { operation, category, target_kind, target };
        policy::decide(&caller, &question, true).is_ok()
    }
}

/// Scans a text with the built-in guardrail patterns. Returns the number of findings.
pub fn scan() -> impl Fn(&str) -> usize {
    guardrails::built_in_scan()
}
