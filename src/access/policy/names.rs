//! The operation names that policies, profiles and advice can use: those of all operations, and those
//! that the contract gives to operations of other parts of the product.
use std::collections::BTreeMap;

use crate::access::kinds::{
    Category::{self, Admin, Read, Write},
    TargetKind::{self, File, Task},
};

/// Names without an operation in the registry. Profiles and policies can list them, and `check_policy`
/// gives advice about them: pages that are not operations, destructive commands that agents ask about
/// before running them, and operations that the contract names and this version does not offer.
const OTHER_NAMES: &[(&str, Category, TargetKind)] = &[
    ("check_approval", Read, Task),
    ("get_merge_queue", Read, Task),
    ("list_permissions", Read, Task),
    ("list_policy_versions", Read, Task),
    ("public", Read, Task),
    ("read_events", Read, Task),
    ("read_features", Read, Task),
    ("read_issues", Read, Task),
    ("read_metrics", Read, Task),
    ("read_status", Read, Task),
    ("report_status", Read, Task),
    ("stub", Read, Task),
    ("use_mcp", Read, Task),
    ("ack_status", Write, Task),
    ("close_issue", Write, Task),
    ("comment_issue", Write, Task),
    ("create_issue", Write, Task),
    ("deregister_feature", Write, Task),
    ("enqueue_merge", Write, Task),
    ("label_issue", Write, Task),
    ("mark_merged", Write, Task),
    ("register_feature", Write, Task),
    ("remove_from_merge_queue", Write, Task),
    ("request_approval", Write, Task),
    ("request_permission", Write, Task),
    ("revoke_permission", Write, Task),
    ("run_pre_merge_checks", Write, Task),
    ("update_issue", Write, Task),
    ("decide_approval", Admin, Task),
    ("delete_branch", Admin, File),
    ("evict_agent", Admin, Task),
    ("force_push", Admin, File),
    ("rollback_policy", Admin, Task),
];

/// What policies know about an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownOperation {
    /// The category, which determines the needed trust.
    pub category: Category,
    /// The kind of target.
    pub target_kind: TargetKind,
}

/// All names that policies know.
#[derive(Debug)]
pub struct KnownOperations(BTreeMap<&'static str, KnownOperation>);

impl KnownOperations {
    /// Adds the operations of the registry to the names without one.
    ///
    /// # Panics
    /// When an operation has another category or kind of target than its namesake: a policy could not
    /// tell them apart.
    pub fn new(registered: impl IntoIterator<Item = (&'static str, KnownOperation)>) -> Self {
        let others = OTHER_NAMES
            .iter()
            .map(|&(name, category, target_kind)| (name, KnownOperation { category, target_kind }));
        let mut known = BTreeMap::new();
        for (name, operation) in others.chain(registered) {
            let namesake = known.insert(name, operation);
            let is_consistent = namesake.is_none_or(|known| known == operation);
            assert!(is_consistent, "`{name}` has two categories or kinds of target");
        }
        Self(known)
    }

    /// Returns what is known about a name, if any operation has it.
    pub fn get(&self, name: &str) -> Option<KnownOperation> {
        self.0.get(name).copied()
    }

    /// Iterates over all names, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, KnownOperation)> {
        self.0.iter().map(|(name, operation)| (*name, *operation))
    }
}
