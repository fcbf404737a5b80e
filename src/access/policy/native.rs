//! The native engine: trust against the category of an operation. Also the steps that both engines share:
//! suspension, the lists of profiles, and the limit on locked files. Pure functions of the caller and the
//! question. Every text here is part of the wire contract: `docs/api-design.md#authorization`.
use super::decision::Question;
use crate::access::{caller::Caller, kinds::Category};

/// Decides by suspension, then the lists of the profile, then trust. Returns the reason either way.
pub(crate) fn decide(
    caller: &Caller,
    question: &Question<'_>,
    enforce_lists: bool,
) -> Result<String, String> {
    check_lists(caller, question.operation, enforce_lists)?;
    let trust = caller.trust;
    let (category, needed) = match question.category {
        None => return Err(format!("unknown_operation: {}", question.operation)),
        Some(Category::Read) => return Ok("read_permitted".to_owned()),
        Some(Category::Write) => ("write", 2),
        Some(Category::Admin) => ("admin", 3),
    };
    if trust < needed {
        return Err(format!("{category}_denied: trust_level={trust} < {needed}"));
    }
    Ok(format!("{category}_permitted: trust_level={trust}"))
}

/// Checks suspension and the lists of the profile. Returns the reason of a denial.
pub(super) fn check_lists(
    caller: &Caller,
    operation: &str,
    enforce_lists: bool,
) -> Result<(), String> {
    if caller.trust == 0 {
        return Err("agent_suspended: trust_level=0".to_owned());
    }
    let Some(profile) = caller.profile.as_deref().filter(|_| enforce_lists) else { return Ok(()) };
    if profile.blocked_operations.iter().any(|name| name == operation) {
        return Err(format!("profile_denied: operation_blocked: {operation}"));
    }
    let allowed = &profile.allowed_operations;
    if !allowed.is_empty() && !allowed.iter().any(|name| name == operation) {
        return Err(format!("profile_denied: operation_not_in_allowlist: {operation}"));
    }
    Ok(())
}

/// Returns how many live file locks the caller can hold besides the one it asks for.
pub(crate) fn file_limit(caller: &Caller, enforce_limits: bool) -> Option<i64> {
    let profile = caller.profile.as_deref().filter(|_| enforce_limits)?;
    Some(profile.max_file_modifications)
}

/// Returns the reason of a denial because of that limit.
pub(crate) fn over_file_limit(limit: i64) -> String {
    format!("profile_denied: resource_limit_exceeded: max_file_modifications={limit}")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::access::{kinds::TargetKind, profile::Profile};

    pub(crate) fn caller(trust: u8, lists: Option<(&[&str], &[&str])>) -> Caller {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let profile = lists.map(|(allowed, blocked)| {
            Arc::new(Profile {
                name: "p".to_owned(),
                agent_type: "t".to_owned(),
                trust_level: trust,
                allowed_operations: owned(allowed),
                blocked_operations: owned(blocked),
                max_file_modifications: 7,
                max_execution_time_seconds: 300,
                max_api_calls_per_hour: 1000,
            })
        });
        Caller { trust, profile, ..Caller::anonymous() }
    }

    fn question(category: Option<Category>) -> Question<'static> {
        Question { operation: "op", category, target_kind: TargetKind::Task, target: "" }
    }

    #[test]
    fn every_category_at_every_trust() {
        let categories = [Some(Category::Read), Some(Category::Write), Some(Category::Admin), None];
        let suspended = Err("agent_suspended: trust_level=0");
        let read = Ok("read_permitted");
        let unknown = Err("unknown_operation: op");
        let expected = [
            [suspended, suspended, suspended, suspended],
            [
                read,
                Err("write_denied: trust_level=1 < 2"),
                Err("admin_denied: trust_level=1 < 3"),
                unknown,
            ],
            [
                read,
                Ok("write_permitted: trust_level=2"),
                Err("admin_denied: trust_level=2 < 3"),
                unknown,
            ],
            [
                read,
                Ok("write_permitted: trust_level=3"),
                Ok("admin_permitted: trust_level=3"),
                unknown,
            ],
            [
                read,
                Ok("write_permitted: trust_level=4"),
                Ok("admin_permitted: trust_level=4"),
                unknown,
            ],
        ];
        for (trust, row) in expected.into_iter().enumerate() {
            for (category, expected) in categories.into_iter().zip(row) {
                let decision = decide(&caller(trust as u8, None), &question(category), true);
                let decision = decision.as_deref().map_err(String::as_str);
                assert_eq!(decision, expected, "trust {trust} {category:?}");
            }
        }
    }

    #[test]
    fn lists_deny_but_never_permit() {
        let write = question(Some(Category::Write));
        let denied = |lists, trust| decide(&caller(trust, Some(lists)), &write, true).unwrap_err();
        assert_eq!(denied((&["op"], &["op"]), 4), "profile_denied: operation_blocked: op");
        let missing = "profile_denied: operation_not_in_allowlist: op";
        assert_eq!(denied((&["other"], &[]), 4), missing);
        assert_eq!(denied((&["op"], &[]), 1), "write_denied: trust_level=1 < 2");
        assert_eq!(denied((&["op"], &["op"]), 0), "agent_suspended: trust_level=0");
        assert!(decide(&caller(2, Some((&[], &[]))), &write, true).is_ok());
        assert!(decide(&caller(2, Some((&["x"], &["op"]))), &write, false).is_ok());
    }

    #[test]
    fn the_file_limit_is_the_profiles() {
        assert_eq!(file_limit(&caller(2, Some((&[], &[]))), true), Some(7));
        assert_eq!(file_limit(&caller(2, Some((&[], &[]))), false), None);
        assert_eq!(file_limit(&caller(2, None), true), None);
    }
}
