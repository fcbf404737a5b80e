-- The floor of tasks: write the rows of a submission, a claim and a completion, without any check. The caller names
-- the task to claim, so there is no search.

create function floor_submit_task(in_workspace text, cx request, in_description text, out task_id uuid)
language plpgsql as $$
begin
    insert into work_task (
        workspace, task_type, description, priority, submitted_by, submitted_session_id, guard_version,
        guard_trust, guard_findings, needed_trust, max_attempts, retry_on_failure
    ) values (
        in_workspace, 'implement', in_description, 5, cx.agent_id, cx.session_id, 'bench', 0, '[]', 0, 3,
        true
    )
    returning id into task_id;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'submit_task',
        jsonb_build_object('task_type', 'implement', 'priority', 5),
        jsonb_build_object('task_id', task_id, 'action', 'created', 'guardrails', '[]'::jsonb), true,
        cx.elapsed_ms
    );
end
$$;

create function floor_claim_task(
    in_workspace text, cx request, in_id uuid, in_lease_minutes integer, out claim_token text
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    ends_at timestamptz := at + make_interval(mins => in_lease_minutes);
    attempt smallint;
begin
    claim_token := 'c_' || replace(gen_random_uuid()::text, '-', '');
    update work_task t set
        status = 'claimed', attempt = t.attempt + 1, is_parked = false, is_lapsed = false,
        claim_token = floor_claim_task.claim_token, claimed_by = cx.agent_id,
        claimed_session_id = cx.session_id, claimed_at = at, started_at = at,
        lease_minutes = in_lease_minutes, claim_lease_minutes = in_lease_minutes,
        lease_expires_at = ends_at, held_until = ends_at, completion = null, result = null,
        error_message = null
    where t.workspace = in_workspace and t.id = in_id
    returning t.attempt into attempt;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'claim_task',
        jsonb_build_object('task_types', null),
        jsonb_build_object('task_id', in_id, 'attempt', attempt, 'guardrails', '[]'::jsonb), true,
        cx.elapsed_ms
    );
end
$$;

create function floor_complete_task(in_workspace text, cx request, in_id uuid, in_result json) returns void
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update work_task t set
        status = 'completed', result = in_result, completed_at = at, lease_expires_at = null,
        held_until = null, is_lapsed = false, is_parked = false,
        completion = jsonb_build_object('report', jsonb_build_object(
            'agent_id', cx.agent_id, 'success', true, 'result', in_result, 'error_message', null),
            'session_id', null, 'status', 'completed', 'retry_at', null)
    where t.workspace = in_workspace and t.id = in_id;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'complete_task',
        jsonb_build_object('task_id', in_id, 'success', true),
        jsonb_build_object('status', 'completed', 'guardrails', '[]'::jsonb), true, cx.elapsed_ms
    );
end
$$;
