//! Which tools are offered together, and in which order: `docs/agents.md#tools`. The order is part of the
//! contract, so it is defined here and not with the operations.
use std::sync::Arc;

use serde_json::json;

use super::form::OfferedTool;
use crate::{
    operation::Operations,
    values::{Error, Issue, Result, issue::Problem, nearest},
};

/// The set that is offered when a client selects no tools.
const DEFAULT: &str = "core";

/// The set of all tools.
const ALL: &str = "all";

/// The sets with their tools, in the order in which they are listed.
const SETS: [(&str, &[&str]); 8] = [
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
            "list_work",
            "remember",
            "recall",
            "write_handoff",
            "read_handoff",
            "check_guardrails",
            "register_session",
            "heartbeat",
            "discover_agents",
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
        "policy",
        &[
            "check_policy",
            "validate_cedar_policy",
            "get_my_profile",
            "check_network",
            "list_guardrail_patterns",
        ],
    ),
    ("watch", &["query_audit"]),
    ("ports", &["allocate_ports", "release_ports", "ports_status"]),
    (
        "admin",
        &[
            "force_release_lock",
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

/// All tools, in order.
pub(super) struct ToolSets(Vec<Arc<OfferedTool>>);

impl ToolSets {
    /// Collects the tools of all operations.
    ///
    /// # Panics
    /// When a tool of a set does not exist, or when a tool is in no set and no client would ever see it.
    pub(super) fn new(operations: &Operations) -> Self {
        let mut offered: Vec<_> =
            operations.iter().filter_map(OfferedTool::new).map(Arc::new).collect();
        let mut tools = Vec::new();
        for name in SETS.iter().flat_map(|(_, names)| *names) {
            if let Some(position) = offered.iter().position(|tool| tool.name() == *name) {
                tools.push(offered.remove(position));
            }
            let is_offered = tools.iter().any(|tool: &Arc<OfferedTool>| tool.name() == *name);
            assert!(is_offered, "no operation is offered as the tool `{name}`");
        }
        let forgotten: Vec<_> = offered.iter().map(|tool| tool.name()).collect();
        assert!(forgotten.is_empty(), "tools in no set: {forgotten:?}");
        Self(tools)
    }

    /// Returns the tools that a list of sets and tools selects, in the order of that list.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name. The issue lists the known names.
    pub(super) fn select(&self, requested: Option<&str>) -> Result<Vec<Arc<OfferedTool>>> {
        let requested = requested.unwrap_or_default().split(',').map(str::trim);
        let mut requested: Vec<_> = requested.filter(|name| !name.is_empty()).collect();
        if requested.is_empty() {
            requested.push(DEFAULT);
        }
        let mut selected: Vec<Arc<OfferedTool>> = Vec::new();
        let mut issues = Vec::new();
        for name in requested {
            let tools = self.named(name);
            if tools.is_empty() {
                let loc = [json!("query"), json!("tools")];
                issues.push(Issue::new(self.unknown_name(), &loc, &json!(name)));
            }
            for tool in tools {
                if !selected.iter().any(|other| Arc::ptr_eq(other, tool)) {
                    selected.push(tool.clone());
                }
            }
        }
        if issues.is_empty() { Ok(selected) } else { Err(Error::Invalid(issues)) }
    }

    /// Returns the tools of a set, or the one tool of a name.
    fn named(&self, name: &str) -> Vec<&Arc<OfferedTool>> {
        let tool = |name: &str| self.0.iter().find(|tool| tool.name() == name);
        match SETS.iter().find(|(set, _)| *set == name) {
            _ if name == ALL => self.0.iter().collect(),
            Some((_, names)) => names.iter().filter_map(|name| tool(name)).collect(),
            None => tool(name).into_iter().collect(),
        }
    }

    /// Explains why a request cannot call a tool: the set that has it, or the name that was probably meant.
    pub(super) fn not_offered(&self, name: &str, offered: &[Arc<OfferedTool>]) -> String {
        if self.0.iter().any(|tool| tool.name() == name) {
            let set = SETS.iter().find(|(_, names)| names.contains(&name));
            let set = set.map_or(ALL, |(set, _)| set);
            return format!(
                "the tool `{name}` is not offered here: it is in the set `{set}`; connect to \
                 /mcp?tools={DEFAULT},{set}, or start `coord mcp --tools {DEFAULT},{set}`"
            );
        }
        match nearest(name, self.0.iter().map(|tool| tool.name())) {
            Some(meant) if offered.iter().any(|tool| tool.name() == meant) => {
                format!("unknown tool `{name}`: did you mean `{meant}`?")
            }
            Some(meant) => {
                let hint = self.not_offered(meant, offered);
                format!("unknown tool `{name}`: did you mean `{meant}`? But {hint}")
            }
            None => format!("unknown tool `{name}`: call tools/list for the offered tools"),
        }
    }

    /// Returns all tools, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<OfferedTool>> {
        self.0.iter()
    }

    /// Returns the names of the tools of each set.
    pub(super) fn by_set(&self) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
        let names = |set| self.named(set).into_iter().map(|tool| tool.name()).collect();
        SETS.iter().map(|(set, _)| *set).chain([ALL]).map(move |set| (set, names(set)))
    }

    fn unknown_name(&self) -> Problem {
        let sets = SETS.iter().map(|(set, _)| *set).chain([ALL]);
        let names: Vec<_> = sets.chain(self.0.iter().map(|tool| tool.name())).collect();
        ("enum", format!("Input should be one of {}", names.join(", ")))
    }
}
