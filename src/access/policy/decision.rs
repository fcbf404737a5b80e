//! A question to the policy engine, and its answer.
use crate::access::kinds::{Category, TargetKind};

/// The request that an engine decides for a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) operation: &'a str,
    /// `None` for a name that no operation has.
    pub(crate) category: Option<Category>,
    #[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "the native engine ignores it"))]
    pub(crate) target_kind: TargetKind,
    #[cfg_attr(not(feature = "cedar"), expect(dead_code, reason = "the native engine ignores it"))]
    pub(crate) target: &'a str,
}

/// What an engine decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
    /// The policies that determined the decision, where the engine has any.
    pub(crate) diagnostics: Vec<String>,
}

impl From<Result<String, String>> for Decision {
    fn from(decided: Result<String, String>) -> Self {
        let allowed = decided.is_ok();
        let (Ok(reason) | Err(reason)) = decided;
        Self { allowed, reason, diagnostics: vec![] }
    }
}
