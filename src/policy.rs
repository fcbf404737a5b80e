//! May this caller run this operation? Pure functions of the caller and the question; the native
//! engine. Every text here is part of the wire contract (conventions 5).
use crate::{auth::Caller, operation::Category};

/// Every operation of the product by its category, those that are not built yet included: advice
/// is given about all of them. Profiles and policies list the same names.
const READ: &[&str] = &[
    "check_approval",
    "check_locks",
    "check_policy",
    "discover_agents",
    "get_merge_queue",
    "get_my_profile",
    "get_task",
    "heartbeat",
    "list_guardrails",
    "list_permissions",
    "list_policy_versions",
    "network_access",
    "ports_status",
    "public",
    "query_audit",
    "read_events",
    "read_features",
    "read_handoff",
    "read_issues",
    "read_metrics",
    "read_status",
    "recall",
    "report_status",
    "stub",
    "use_mcp",
    "validate_policy",
    "verify_locks",
];
const WRITE: &[&str] = &[
    "ack_status",
    "acquire_lock",
    "allocate_ports",
    "cancel_work",
    "check_guardrails",
    "close_issue",
    "comment_issue",
    "complete_work",
    "create_issue",
    "deregister_feature",
    "deregister_session",
    "enqueue_merge",
    "get_work",
    "label_issue",
    "mark_merged",
    "register_feature",
    "register_session",
    "release_lock",
    "release_ports",
    "remember",
    "remove_from_merge_queue",
    "renew_work",
    "request_approval",
    "request_permission",
    "revoke_permission",
    "run_pre_merge_checks",
    "submit_work",
    "update_issue",
    "write_handoff",
];
const ADMIN: &[&str] = &[
    "assign_profile",
    "cleanup_agents",
    "decide_approval",
    "delete_branch",
    "evict_agent",
    "force_push",
    "force_release_lock",
    "manage_keys",
    "rollback_policy",
    "run_maintenance",
];

/// Every operation with its category.
pub fn known_operations() -> impl Iterator<Item = (&'static str, Category)> {
    let of = |names: &'static [&str], category| names.iter().map(move |it| (*it, category));
    of(READ, Category::Read).chain(of(WRITE, Category::Write)).chain(of(ADMIN, Category::Admin))
}

/// The category of an operation; nothing for a name that no operation has.
pub(crate) fn category(operation: &str) -> Option<Category> {
    known_operations().find(|(name, _)| *name == operation).map(|(_, category)| category)
}

/// What is to be decided for a caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) operation: &'a str,
    /// Nothing for a name that no operation has.
    pub(crate) category: Option<Category>,
    #[cfg_attr(
        not(feature = "cedar"),
        expect(dead_code, reason = "the native engine decides without looking at it")
    )]
    pub(crate) resource: &'a str,
}

/// What an engine decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
    /// The policies that determined it, where the engine has any.
    pub(crate) diagnostics: Vec<String>,
}

impl From<Result<String, String>> for Decision {
    fn from(decided: Result<String, String>) -> Self {
        let allowed = decided.is_ok();
        let (Ok(reason) | Err(reason)) = decided;
        Self { allowed, reason, diagnostics: vec![] }
    }
}

/// Decides steps 2 to 5 of conventions 5.1: the reason of the permission, or that of the denial.
pub(crate) fn decide(
    caller: &Caller,
    question: &Question<'_>,
    enforce_lists: bool,
) -> Result<String, String> {
    admit(caller, question.operation, enforce_lists)?;
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

/// Steps 2 to 4: suspension and the lists of the profile, or the reason of the denial.
pub(crate) fn admit(caller: &Caller, operation: &str, enforce_lists: bool) -> Result<(), String> {
    if caller.trust == 0 {
        return Err("agent_suspended: trust_level=0".to_owned());
    }
    let Some(profile) = caller.profile.as_deref().filter(|_| enforce_lists) else { return Ok(()) };
    if profile.blocked_operations.iter().any(|it| it == operation) {
        return Err(format!("profile_denied: operation_blocked: {operation}"));
    }
    let allowed = &profile.allowed_operations;
    if !allowed.is_empty() && !allowed.iter().any(|it| it == operation) {
        return Err(format!("profile_denied: operation_not_in_allowlist: {operation}"));
    }
    Ok(())
}

/// Step 6: how many live file locks the caller may hold besides the one it asks for.
pub(crate) fn file_limit(caller: &Caller, enforce_limits: bool) -> Option<i64> {
    let profile = caller.profile.as_deref().filter(|_| enforce_limits)?;
    Some(profile.max_file_modifications)
}

/// The denial of step 6.
pub(crate) fn over_file_limit(limit: i64) -> String {
    format!("profile_denied: resource_limit_exceeded: max_file_modifications={limit}")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::*;
    use crate::{Profile, capabilities};

    pub(crate) fn caller(trust: u8, lists: Option<(&[&str], &[&str])>) -> Caller {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        let profile = lists.map(|(allowed, blocked)| {
            Arc::new(Profile {
                name: "p".to_owned(),
                agent_type: "t".to_owned(),
                trust,
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
        Question { operation: "op", category, resource: "" }
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

    #[test]
    fn what_is_registered_is_known_in_the_same_category() {
        for op in capabilities::all().iter() {
            assert_eq!(category(op.meta.name), Some(op.meta.category), "{}", op.meta.name);
        }
        assert_eq!(category("no_such_operation"), None);
    }

    #[test]
    fn no_operation_is_known_twice() {
        let names: BTreeSet<_> = known_operations().map(|(name, _)| name).collect();
        assert_eq!(names.len(), known_operations().count());
    }
}
