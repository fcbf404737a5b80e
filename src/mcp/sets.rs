//! Which tools are offered together. A tool that no operation has yet is left out of its sets, and a
//! set without tools does not exist.
use std::sync::Arc;

use serde_json::json;

use crate::{
    Error, Result,
    input::issue,
    registry::{Operations, Registered},
};

/// The set that is offered when none is asked for.
const DEFAULT: &str = "core";

/// The set of everything.
const ALL: &str = "all";

/// The sets with their tools, in the order in which they are listed.
const SETS: [(&str, &[&str]); 12] = [
    (
        "core",
        &[
            "acquire_lock",
            "release_lock",
            "check_locks",
            "submit_work",
            "get_work",
            "renew_work",
            "complete_work",
            "get_task",
            "remember",
            "recall",
            "write_handoff",
            "read_handoff",
            "check_guardrails",
            "register_session",
            "heartbeat",
            "discover_agents",
            "report_status",
            "request_approval",
            "check_approval",
            "help",
        ],
    ),
    ("locks", &["acquire_lock", "release_lock", "check_locks", "verify_locks"]),
    (
        "work",
        &[
            "submit_work",
            "get_work",
            "renew_work",
            "complete_work",
            "cancel_work",
            "get_task",
            "list_work",
        ],
    ),
    (
        "issues",
        &[
            "issue_create",
            "issue_list",
            "issue_show",
            "issue_update",
            "issue_close",
            "issue_comment",
            "issue_labels",
            "issue_ready",
            "issue_blocked",
            "issue_search",
        ],
    ),
    (
        "features",
        &[
            "register_feature",
            "deregister_feature",
            "get_feature",
            "list_active_features",
            "analyze_feature_conflicts",
        ],
    ),
    (
        "merge",
        &[
            "enqueue_merge",
            "get_merge_queue",
            "get_next_merge",
            "run_pre_merge_checks",
            "mark_merged",
            "remove_from_merge_queue",
        ],
    ),
    (
        "approvals",
        &[
            "request_approval",
            "check_approval",
            "list_approvals",
            "decide_approval",
            "request_permission",
            "list_permissions",
            "revoke_permission",
        ],
    ),
    (
        "policy",
        &[
            "check_policy",
            "validate_cedar_policy",
            "list_policy_versions",
            "rollback_policy",
            "get_my_profile",
            "check_network",
            "list_guardrail_patterns",
        ],
    ),
    ("watch", &["query_audit", "list_status", "ack_status", "poll_events"]),
    ("ports", &["allocate_ports", "release_ports", "ports_status"]),
    (
        "admin",
        &[
            "force_release_lock",
            "evict_agent",
            "cleanup_dead_agents",
            "deregister_session",
            "assign_profile",
            "list_keys",
            "run_maintenance",
        ],
    ),
    (
        "classic",
        &[
            "acquire_lock",
            "release_lock",
            "check_locks",
            "get_work",
            "complete_work",
            "submit_work",
            "write_handoff",
            "read_handoff",
            "register_session",
            "discover_agents",
            "heartbeat",
            "cleanup_dead_agents",
            "remember",
            "recall",
            "check_guardrails",
            "get_my_profile",
            "query_audit",
            "check_policy",
            "validate_cedar_policy",
            "allocate_ports",
            "release_ports",
            "ports_status",
        ],
    ),
];

/// All tools that there are, in order, and the sets that have any.
pub(super) struct Sets {
    tools: Vec<Arc<Registered>>,
    names: Vec<&'static str>,
}

impl Sets {
    /// # Panics
    /// When a tool is in no set: nobody would ever see it.
    pub(super) fn new(operations: &Operations) -> Self {
        let mut sets = Self { tools: Vec::new(), names: Vec::new() };
        for (set, tools) in SETS {
            let find = |name: &&str| operations.iter().find(|it| it.is_tool(name));
            let there: Vec<_> = tools.iter().filter_map(find).collect();
            if !there.is_empty() {
                sets.names.push(set);
            }
            for tool in there {
                add(&mut sets.tools, tool);
            }
        }
        sets.names.push(ALL);
        for op in operations.iter().filter(|it| it.tool.is_some()) {
            let known = sets.tools.iter().any(|it| Arc::ptr_eq(it, op));
            assert!(known, "the tool of `{}` is in no set", op.meta.id);
        }
        sets
    }

    fn tool(&self, name: &str) -> Option<&Arc<Registered>> {
        self.tools.iter().find(|it| it.is_tool(name))
    }

    /// The tools that a list of sets and tools asks for, in the order of that list.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is neither; it lists those that are.
    pub(super) fn select(&self, asked: Option<&str>) -> Result<Vec<Arc<Registered>>> {
        let asked = asked.unwrap_or_default().split(',').map(str::trim).filter(|it| !it.is_empty());
        let mut asked: Vec<_> = asked.collect();
        if asked.is_empty() {
            asked.push(DEFAULT);
        }
        let mut selected: Vec<Arc<Registered>> = Vec::new();
        let mut issues = Vec::new();
        for name in asked {
            let tools: Vec<_> = match SETS.iter().find(|it| it.0 == name) {
                _ if name == ALL => self.tools.iter().collect(),
                Some((set, tools)) if self.names.contains(set) => {
                    tools.iter().filter_map(|it| self.tool(it)).collect()
                }
                _ => self.tool(name).into_iter().collect(),
            };
            if tools.is_empty() {
                issues.push(issue(self.unknown(), &[json!("query"), json!("tools")], &json!(name)));
            }
            for tool in tools {
                add(&mut selected, tool);
            }
        }
        if issues.is_empty() { Ok(selected) } else { Err(Error::Invalid(issues)) }
    }

    fn unknown(&self) -> (&'static str, String) {
        let tools = self.tools.iter().filter_map(|it| Some(it.tool.as_ref()?.name()));
        let names: Vec<_> = self.names.iter().copied().chain(tools).collect();
        ("enum", format!("Input should be one of {}", names.join(", ")))
    }
}

/// Adds a tool at the end of a list that has it once at most.
fn add(tools: &mut Vec<Arc<Registered>>, tool: &Arc<Registered>) {
    if !tools.iter().any(|it| Arc::ptr_eq(it, tool)) {
        tools.push(tool.clone());
    }
}
