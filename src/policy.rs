//! May this caller run this operation? A pure function of the caller and the operation; the native
//! engine. Every text here is part of the wire contract (conventions 5).
use crate::{
    auth::Caller,
    operation::{Category, Meta},
};

/// Decides steps 2 to 5 of conventions 5.1: the reason of the permission, or that of the denial.
pub(crate) fn decide(caller: &Caller, meta: &Meta, enforce_lists: bool) -> Result<String, String> {
    let (trust, operation) = (caller.trust, meta.name);
    if trust == 0 {
        return Err("agent_suspended: trust_level=0".to_owned());
    }
    if let Some(profile) = caller.profile.as_deref().filter(|_| enforce_lists) {
        if profile.blocked_operations.iter().any(|it| it == operation) {
            return Err(format!("profile_denied: operation_blocked: {operation}"));
        }
        let allowed = &profile.allowed_operations;
        if !allowed.is_empty() && !allowed.iter().any(|it| it == operation) {
            return Err(format!("profile_denied: operation_not_in_allowlist: {operation}"));
        }
    }
    let (category, needed) = match meta.category {
        Category::Read => return Ok("read_permitted".to_owned()),
        Category::Write => ("write", 2),
        Category::Admin => ("admin", 3),
    };
    if trust < needed {
        return Err(format!("{category}_denied: trust_level={trust} < {needed}"));
    }
    Ok(format!("{category}_permitted: trust_level={trust}"))
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Profile;

    fn caller(trust: u8, lists: Option<(&[&str], &[&str])>) -> Caller {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        let profile = lists.map(|(allowed, blocked)| {
            Arc::new(Profile {
                name: "p".to_owned(),
                trust,
                allowed_operations: owned(allowed),
                blocked_operations: owned(blocked),
                max_file_modifications: 7,
            })
        });
        Caller { trust, profile, ..Caller::anonymous() }
    }

    #[test]
    fn every_category_at_every_trust() {
        let metas = [Meta::read("op"), Meta::write("op"), Meta::admin("op")];
        let suspended = Err("agent_suspended: trust_level=0");
        let read = Ok("read_permitted");
        let expected = [
            [suspended, suspended, suspended],
            [read, Err("write_denied: trust_level=1 < 2"), Err("admin_denied: trust_level=1 < 3")],
            [read, Ok("write_permitted: trust_level=2"), Err("admin_denied: trust_level=2 < 3")],
            [read, Ok("write_permitted: trust_level=3"), Ok("admin_permitted: trust_level=3")],
            [read, Ok("write_permitted: trust_level=4"), Ok("admin_permitted: trust_level=4")],
        ];
        for (trust, row) in expected.into_iter().enumerate() {
            for (meta, expected) in metas.iter().zip(row) {
                let decision = decide(&caller(trust as u8, None), meta, true);
                let decision = decision.as_deref().map_err(String::as_str);
                assert_eq!(decision, expected, "trust {trust} {:?}", meta.category);
            }
        }
    }

    #[test]
    fn lists_deny_but_never_permit() {
        let write = Meta::write("op");
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
