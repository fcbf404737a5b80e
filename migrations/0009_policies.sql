-- The policies of the Cedar engine.

-- The policies of workspace `default` apply to every workspace that has no policies of its own.
-- Decisions refer to a policy by its name. The service also has the texts below built in.
create table cedar_policy (
    workspace text collate "C" not null,
    name text collate "C" not null,
    priority integer not null,
    policy_text text not null,
    enabled boolean not null default true,
    version integer not null default 1,
    primary key (workspace, name),
    constraint cedar_policy_version_positive check (version >= 1)
);

insert into cedar_policy (workspace, name, priority, policy_text) values
    ('default', 'suspended-agents', 1, $policy$forbid (principal, action, resource)
when { principal.trust_level <= 0 };
$policy$),
    ('default', 'read-operations', 10, $policy$permit (
    principal,
    action in [
        Action::"check_approval",
        Action::"check_locks",
        Action::"check_policy",
        Action::"discover_agents",
        Action::"get_merge_queue",
        Action::"get_my_profile",
        Action::"get_task",
        Action::"heartbeat",
        Action::"list_guardrails",
        Action::"list_permissions",
        Action::"list_policy_versions",
        Action::"network_access",
        Action::"ports_status",
        Action::"public",
        Action::"query_audit",
        Action::"read_events",
        Action::"read_features",
        Action::"read_handoff",
        Action::"read_issues",
        Action::"read_metrics",
        Action::"read_status",
        Action::"recall",
        Action::"report_status",
        Action::"stub",
        Action::"use_mcp",
        Action::"validate_policy",
        Action::"verify_locks"
    ],
    resource
)
when { principal.trust_level >= 1 };
$policy$),
    ('default', 'write-operations', 20, $policy$permit (
    principal,
    action in [
        Action::"ack_status",
        Action::"acquire_lock",
        Action::"allocate_ports",
        Action::"cancel_work",
        Action::"check_guardrails",
        Action::"close_issue",
        Action::"comment_issue",
        Action::"complete_work",
        Action::"create_issue",
        Action::"deregister_feature",
        Action::"deregister_session",
        Action::"enqueue_merge",
        Action::"get_work",
        Action::"label_issue",
        Action::"mark_merged",
        Action::"register_feature",
        Action::"register_session",
        Action::"release_lock",
        Action::"release_ports",
        Action::"remember",
        Action::"remove_from_merge_queue",
        Action::"renew_work",
        Action::"request_approval",
        Action::"request_permission",
        Action::"revoke_permission",
        Action::"run_pre_merge_checks",
        Action::"submit_work",
        Action::"update_issue",
        Action::"write_handoff"
    ],
    resource
)
when { principal.trust_level >= 2 };
$policy$),
    ('default', 'admin-operations', 30, $policy$permit (
    principal,
    action in [
        Action::"assign_profile",
        Action::"cleanup_agents",
        Action::"decide_approval",
        Action::"delete_branch",
        Action::"evict_agent",
        Action::"force_push",
        Action::"force_release_lock",
        Action::"manage_keys",
        Action::"rollback_policy",
        Action::"run_maintenance"
    ],
    resource
)
when { principal.trust_level >= 3 };
$policy$),
    ('default', 'network-access', 40, $policy$permit (
    principal,
    action == Action::"network_access",
    resource is Domain
)
when { principal.trust_level >= 1 };
$policy$);
