//! The operations of `coord try`: the request of each, and its fields.
//!
//! Existing clients call all of these operations by name, and continue without an operation when
//! the result is `skipped`. So the table also has operations that the service does not offer:
//! features, the merge queue, issues, code search and archetypes. Without their rows `coord try`
//! would reject the name with exit code 2.

/// An operation of `coord try`.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// The flag of the detection that the operation needs; empty if it needs none.
    pub(super) flag: &'static str,
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The fields of the body, each with the value that is sent if the payload does not have it.
    pub(super) fields: &'static [(&'static str, FieldDefault)],
}

/// The value of a field that the payload does not have.
#[derive(Clone, Copy)]
pub(super) enum FieldDefault {
    Null,
    Number(i64),
    Text(&'static str),
    /// The caller's identity.
    Caller,
    /// The caller's identity; omitted when a key is set, because the key implies it.
    CallerWithoutKey,
    /// The field is omitted.
    Omitted,
}

use FieldDefault::{Caller, CallerWithoutKey, Null, Number, Omitted, Text};

impl Operation {
    const fn new(
        name: &'static str,
        flag: &'static str,
        method: &'static str,
        path: &'static str,
        fields: &'static [(&'static str, FieldDefault)],
    ) -> Operation {
        Operation { name, flag, method, path, fields }
    }

    /// Returns the operation with this name.
    pub(super) fn find(name: &str) -> Option<&'static Operation> {
        OPERATIONS.iter().find(|operation| operation.name == name)
    }
}

/// Returns the names of all operations.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    OPERATIONS.iter().map(|operation| operation.name)
}

const OPERATIONS: &[Operation] = &[
    Operation::new(
        "lock",
        "CAN_LOCK",
        "POST",
        "/locks/acquire",
        &[
            ("file_path", Null),
            ("agent_id", Caller),
            ("agent_type", Caller),
            ("session_id", Caller),
            ("reason", Null),
            ("ttl_minutes", Number(30)),
        ],
    ),
    Operation::new(
        "unlock",
        "CAN_LOCK",
        "POST",
        "/locks/release",
        &[("file_path", Null), ("agent_id", Caller)],
    ),
    Operation::new(
        "submit_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/submit",
        &[
            ("task_type", Null),
            ("task_description", Null),
            ("input_data", Null),
            ("priority", Number(5)),
            ("depends_on", Null),
        ],
    ),
    Operation::new(
        "get_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/claim",
        &[("agent_id", Caller), ("agent_type", Caller), ("task_types", Null)],
    ),
    Operation::new(
        "complete_work",
        "CAN_QUEUE_WORK",
        "POST",
        "/work/complete",
        &[
            ("task_id", Null),
            ("agent_id", Caller),
            ("success", Null),
            ("result", Null),
            ("error_message", Null),
        ],
    ),
    Operation::new(
        "remember",
        "CAN_MEMORY",
        "POST",
        "/memory/store",
        &[
            ("agent_id", Caller),
            ("session_id", Caller),
            ("event_type", Null),
            ("summary", Null),
            ("details", Null),
            ("outcome", Null),
            ("lessons", Null),
            ("tags", Null),
        ],
    ),
    Operation::new(
        "recall",
        "CAN_MEMORY",
        "POST",
        "/memory/query",
        &[("agent_id", Caller), ("tags", Null), ("event_type", Null), ("limit", Number(10))],
    ),
    Operation::new(
        "check_guardrails",
        "CAN_GUARDRAILS",
        "POST",
        "/guardrails/check",
        &[("operation_text", Null), ("file_paths", Null)],
    ),
    Operation::new(
        "handoff_write",
        "CAN_HANDOFF",
        "POST",
        "/handoffs/write",
        &[
            ("session_id", Caller),
            ("summary", Null),
            ("completed_work", Null),
            ("in_progress", Null),
            ("decisions", Null),
            ("next_steps", Null),
            ("relevant_files", Null),
            ("agent_id", CallerWithoutKey),
            ("agent_type", CallerWithoutKey),
        ],
    ),
    Operation::new(
        "handoff_read",
        "CAN_HANDOFF",
        "POST",
        "/handoffs/read",
        &[("agent_id", Caller), ("session_id", Caller), ("limit", Number(1))],
    ),
    Operation::new(
        "register_feature",
        "CAN_FEATURE_REGISTRY",
        "POST",
        "/features/register",
        &[
            ("feature_id", Null),
            ("resource_claims", Null),
            ("title", Null),
            ("branch_name", Null),
            ("agent_id", Caller),
            ("agent_type", Caller),
            ("merge_priority", Number(5)),
            ("metadata", Null),
        ],
    ),
    Operation::new(
        "deregister_feature",
        "CAN_FEATURE_REGISTRY",
        "POST",
        "/features/deregister",
        &[("feature_id", Null), ("status", Text("completed"))],
    ),
    Operation::new(
        "enqueue_merge",
        "CAN_MERGE_QUEUE",
        "POST",
        "/merge-queue/enqueue",
        &[("feature_id", Null), ("pr_url", Null)],
    ),
    Operation::new(
        "pre_merge_checks",
        "CAN_MERGE_QUEUE",
        "POST",
        "/merge-queue/check/{feature_id}",
        &[],
    ),
    Operation::new(
        "mark_merged",
        "CAN_MERGE_QUEUE",
        "POST",
        "/merge-queue/merged/{feature_id}",
        &[],
    ),
    Operation::new(
        "issue_create",
        "CAN_ISSUES",
        "POST",
        "/issues/create",
        &[
            ("title", Null),
            ("description", Null),
            ("issue_type", Text("task")),
            ("priority", Number(5)),
            ("labels", Null),
            ("parent_id", Null),
            ("assignee", Null),
            ("depends_on", Null),
        ],
    ),
    Operation::new("issue_list", "CAN_ISSUES", "POST", "/issues/list", &[("limit", Number(50))]),
    Operation::new("issue_show", "CAN_ISSUES", "GET", "/issues/{issue_id}", &[]),
    Operation::new("issue_update", "CAN_ISSUES", "POST", "/issues/update", &[("issue_id", Null)]),
    Operation::new(
        "issue_close",
        "CAN_ISSUES",
        "POST",
        "/issues/close",
        &[("issue_id", Null), ("issue_ids", Null), ("reason", Null)],
    ),
    Operation::new(
        "issue_comment",
        "CAN_ISSUES",
        "POST",
        "/issues/comment",
        &[("issue_id", Null), ("body", Null)],
    ),
    Operation::new(
        "issue_ready",
        "CAN_ISSUES",
        "POST",
        "/issues/ready",
        &[("parent_id", Null), ("limit", Number(50))],
    ),
    Operation::new("issue_blocked", "CAN_ISSUES", "GET", "/issues/blocked", &[]),
    Operation::new(
        "issue_search",
        "CAN_ISSUES",
        "POST",
        "/issues/search",
        &[("query", Null), ("limit", Number(50))],
    ),
    Operation::new("code_search", "CAN_CODE_SEARCH", "POST", "/search/code", &[("query", Null)]),
    Operation::new(
        "resolve_archetype_for_phase",
        "",
        "POST",
        "/archetypes/resolve_for_phase",
        &[("phase", Omitted)],
    ),
];
