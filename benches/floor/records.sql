-- The floor of memories, handoffs and guardrail checks: write their rows, without any check.

create function floor_remember(
    in_workspace text, cx request, in_event_type text, in_summary text, in_digest bytea,
    out memory_id uuid
) language plpgsql as $$
begin
    insert into memory (
        workspace, agent_id, session_id, event_type, summary, summary_digest, details, lessons, tags
    ) values (
        in_workspace, cx.agent_id, cx.session_id, in_event_type, in_summary, in_digest, '{}', '{}', '{}'
    )
    returning id into memory_id;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'remember',
        jsonb_build_object('event_type', in_event_type, 'tags', '[]'::jsonb),
        jsonb_build_object('action', 'created', 'memory_id', memory_id), true, cx.elapsed_ms
    );
end
$$;

create function floor_write_handoff(in_workspace text, cx request, in_summary text, out handoff_id uuid)
language plpgsql as $$
begin
    insert into handoff (
        workspace, agent_id, agent_type, session_id, summary, completed_work, in_progress, decisions,
        next_steps, relevant_files, content
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, in_summary, '[]', '[]', '[]', '[]',
        '[]', '{}'
    )
    returning id into handoff_id;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'write_handoff',
        jsonb_build_object('summary_length', length(in_summary)),
        jsonb_build_object('handoff_id', handoff_id), true, cx.elapsed_ms
    );
end
$$;

create function floor_check_guardrails(in_workspace text, cx request, in_text text, in_result jsonb)
returns void language plpgsql as $$
begin
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'check_guardrails',
        jsonb_build_object('operation_text', in_text), in_result, true, cx.elapsed_ms
    );
end
$$;
