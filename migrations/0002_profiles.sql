-- Profiles define how far an agent is trusted and what it may do. Assignments give profiles to agents.

-- The profiles of workspace `default` apply to every workspace that has no profiles of its own.
create table profile (
    workspace text collate "C" not null,
    name text collate "C" not null,
    agent_type text not null,
    is_type_default boolean not null,
    trust_level smallint not null,
    max_file_modifications integer not null,
    max_execution_time_seconds integer not null,
    max_api_calls_per_hour integer not null,
    allowed_operations text[] not null,
    blocked_operations text[] not null,
    enabled boolean not null default true,
    primary key (workspace, name),
    constraint profile_trust_range check (trust_level between 0 and 4),
    constraint profile_limits_range check (
        max_file_modifications >= 0 and max_execution_time_seconds >= 0 and max_api_calls_per_hour >= 0
    )
);

create unique index profile_one_default_a_type on profile (workspace, agent_type)
where is_type_default;

create table agent_assignment (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    profile text,
    suspended boolean not null default false,
    assigned_at timestamptz not null default clock_timestamp(),
    primary key (workspace, agent_id)
);

insert into profile (
    workspace, name, agent_type, is_type_default, trust_level, max_file_modifications,
    max_execution_time_seconds, max_api_calls_per_hour, allowed_operations, blocked_operations
) values
    (
        'default', 'claude_code_cli', 'claude_code', true, 3, 100, 300, 1000,
        '{
            ack_status,acquire_lock,allocate_ports,cancel_work,check_approval,check_guardrails,
            check_locks,check_policy,close_issue,comment_issue,complete_work,create_issue,
            decide_approval,delete_branch,deregister_feature,deregister_session,discover_agents,
            enqueue_merge,evict_agent,force_push,force_release_lock,get_merge_queue,
            get_my_profile,get_task,get_work,heartbeat,label_issue,list_guardrails,
            list_permissions,list_policy_versions,mark_merged,network_access,ports_status,
            query_audit,read_events,read_features,read_handoff,read_issues,read_metrics,
            read_status,recall,register_feature,register_session,release_lock,release_ports,
            remember,remove_from_merge_queue,renew_work,report_status,request_approval,
            request_permission,revoke_permission,rollback_policy,run_pre_merge_checks,stub,
            submit_work,update_issue,use_mcp,validate_policy,verify_locks,write_handoff
        }',
        '{}'
    ),
    (
        'default', 'claude_code_web_reviewer', 'claude_code', false, 1, 0, 300, 1000,
        '{
            check_approval,check_guardrails,check_locks,check_policy,discover_agents,
            get_merge_queue,get_my_profile,get_task,heartbeat,list_guardrails,list_permissions,
            list_policy_versions,network_access,ports_status,query_audit,read_events,
            read_features,read_handoff,read_issues,read_metrics,read_status,recall,
            report_status,stub,use_mcp,validate_policy,verify_locks
        }',
        '{}'
    ),
    (
        'default', 'claude_code_web_implementer', 'claude_code', false, 2, 50, 300, 1000,
        '{
            ack_status,acquire_lock,allocate_ports,cancel_work,check_approval,check_guardrails,
            check_locks,check_policy,close_issue,comment_issue,complete_work,create_issue,
            deregister_feature,deregister_session,discover_agents,enqueue_merge,get_merge_queue,
            get_my_profile,get_task,get_work,heartbeat,label_issue,list_guardrails,
            list_permissions,list_policy_versions,mark_merged,network_access,ports_status,
            query_audit,read_events,read_features,read_handoff,read_issues,read_metrics,
            read_status,recall,register_feature,register_session,release_lock,release_ports,
            remember,remove_from_merge_queue,renew_work,report_status,request_approval,
            request_permission,revoke_permission,run_pre_merge_checks,stub,submit_work,
            update_issue,use_mcp,validate_policy,verify_locks,write_handoff
        }',
        '{}'
    ),
    (
        'default', 'codex_cloud_worker', 'codex', true, 2, 50, 300, 1000,
        '{
            ack_status,acquire_lock,allocate_ports,cancel_work,check_approval,check_guardrails,
            check_locks,check_policy,close_issue,comment_issue,complete_work,create_issue,
            deregister_feature,deregister_session,discover_agents,enqueue_merge,get_merge_queue,
            get_my_profile,get_task,get_work,heartbeat,label_issue,list_guardrails,
            list_permissions,list_policy_versions,mark_merged,network_access,ports_status,
            query_audit,read_events,read_features,read_handoff,read_issues,read_metrics,
            read_status,recall,register_feature,register_session,release_lock,release_ports,
            remember,remove_from_merge_queue,renew_work,report_status,request_approval,
            request_permission,revoke_permission,run_pre_merge_checks,stub,submit_work,
            update_issue,use_mcp,validate_policy,verify_locks,write_handoff
        }',
        '{}'
    ),
    (
        'default', 'strands_orchestrator', 'strands', true, 3, 200, 300, 1000,
        '{
            ack_status,acquire_lock,allocate_ports,assign_profile,cancel_work,check_approval,
            check_guardrails,check_locks,check_policy,cleanup_agents,close_issue,comment_issue,
            complete_work,create_issue,decide_approval,delete_branch,deregister_feature,
            deregister_session,discover_agents,enqueue_merge,evict_agent,force_push,
            force_release_lock,get_merge_queue,get_my_profile,get_task,get_work,heartbeat,
            label_issue,list_guardrails,list_permissions,list_policy_versions,manage_keys,
            mark_merged,network_access,ports_status,query_audit,read_events,read_features,
            read_handoff,read_issues,read_metrics,read_status,recall,register_feature,
            register_session,release_lock,release_ports,remember,remove_from_merge_queue,
            renew_work,report_status,request_approval,request_permission,revoke_permission,
            rollback_policy,run_maintenance,run_pre_merge_checks,stub,submit_work,update_issue,
            use_mcp,validate_policy,verify_locks,write_handoff
        }',
        '{}'
    ),
    (
        'default', 'evaluator', 'evaluator', true, 2, 0, 600, 500,
        '{
            check_approval,check_guardrails,check_locks,check_policy,comment_issue,
            complete_work,deregister_session,discover_agents,get_merge_queue,get_my_profile,
            get_task,get_work,heartbeat,list_guardrails,list_permissions,list_policy_versions,
            network_access,ports_status,query_audit,read_events,read_features,read_handoff,
            read_issues,read_metrics,read_status,recall,register_session,remember,renew_work,
            report_status,request_approval,stub,use_mcp,validate_policy,verify_locks,
            write_handoff
        }',
        '{
            acquire_lock,delete_branch,force_push,force_release_lock
        }'
    );
