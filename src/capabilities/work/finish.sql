-- Renewal, completion and cancellation of claimed tasks.

-- Renews the lease of a claim for `in_lease_minutes` or, when that is null, for as long as the claim
-- requested. A claim of another session of the agent, which its token proves, moves to the caller's: the
-- end of that session does not take it away any more.
create or replace function renew_task(
    in_workspace text, cx request, in_id uuid, in_claim_token text, in_lease_minutes integer,
    out success boolean, out status text, out task_id uuid, out lease_expires_at timestamptz,
    out reason text
) language plpgsql as $$
declare
    at timestamptz;
    task work_task;
    minutes integer;
    new_session_id text;
    new_claim_expires_at timestamptz;
begin
    perform record_heartbeat(in_workspace, cx);
    select * into task from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    reason := check_claim(
        task.id, task.claimed_by, task.claimed_session_id, task.claim_token,
        task_status(task.status, task.deadline, task.claim_expires_at, task.attempt, task.max_attempts, at),
        cx, in_claim_token);
    success := reason is null;
    if success then
        minutes := coalesce(in_lease_minutes, task.claim_lease_minutes);
        status := 'running';
        task_id := in_id;
        lease_expires_at := at + make_interval(mins => minutes);
        new_session_id := session_of_renewed_claim(in_workspace, cx, task.claimed_session_id);
        -- Not within the update: on Citus it runs on a shard, where the function cannot read sessions.
        new_claim_expires_at := claim_expiry(
            lease_expires_at,
            registered_session_timeout(
                in_workspace, cx.agent_id, new_session_id, cx.session_timeout),
            at);
        update work_task t set
            status = renew_task.status, is_expiry_recorded = false, lease_minutes = minutes,
            is_claim_known = true, claimed_session_id = new_session_id,
            lease_expires_at = renew_task.lease_expires_at,
            claim_expires_at = new_claim_expires_at
        where t.workspace = in_workspace and t.id = in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'renew_task', jsonb_build_object('task_id', in_id),
        case when success then jsonb_build_object('lease_expires_at', lease_expires_at)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

-- Returns the session of a claim that its agent renews: the caller's, where the caller acts in one. A
-- claim of a session that has ended otherwise becomes one without a session.
create or replace function session_of_renewed_claim(
    in_workspace text, cx request, in_claimed_session_id text
) returns text language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
begin
    return case
        when in_claimed_session_id is null or in_claimed_session_id = cx.session_id
            then in_claimed_session_id
        when cx.session_id is not null then cx.session_id
        when not exists (
            select from agent_session s
            where s.workspace = in_workspace and s.agent_id = cx.agent_id
                and s.session_id = in_claimed_session_id
                and not is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at)
        ) then in_claimed_session_id
    end;
end
$$;

-- Checks whether a caller may renew or complete a claim. Returns why not, or null. The token of a
-- superseded claim is refused whichever agent sends it. The current one proves that a claim of another
-- session of the agent is the caller's own.
create or replace function check_claim(
    in_id uuid, claimed_by text, claimed_session_id text, claim_token text, current_status text,
    cx request, in_claim_token text
) returns text language plpgsql immutable as $$
begin
    return case
        when in_id is null then 'task_not_found_or_not_claimed_by_agent'
        when in_claim_token <> coalesce(claim_token, '') then 'claim_superseded'
        when claimed_by is null
            or is_owned_by_other_without_proof(claimed_by, claimed_session_id,
                in_claim_token = claim_token, cx.agent_id, cx.session_id)
            then 'task_not_found_or_not_claimed_by_agent'
        when current_status not in ('claimed', 'running') then 'task_already_finished'
    end;
end
$$;

-- Completes a claimed task, or reports its failure. A repeated report gets the same answer until the
-- task is claimed again. A failed task with `retry_on_failure` is requeued while attempts are left.
--
-- `in_refusal` is why the guardrails block the result. `in_patterns` and `in_violations` are what they
-- found in it.
create or replace function complete_task(
    in_workspace text, cx request, in_id uuid, in_success boolean, in_result json,
    in_error_message text, in_claim_token text, in_refusal text, in_patterns jsonb,
    in_violations jsonb,
    out success boolean, out status text, out task_id uuid, out reason text,
    out retry_at timestamptz
) language plpgsql as $$
declare
    at timestamptz;
    task record;
    finished record;
    is_repeat boolean;
    report jsonb := jsonb_build_object('agent_id', cx.agent_id, 'success', in_success,
        'result', in_result, 'error_message', in_error_message);
begin
    perform record_heartbeat(in_workspace, cx);
    select t.id, t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, t.claimed_by,
        t.claimed_session_id, t.claim_token, t.retry_on_failure, t.completion
    into task
    from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    is_repeat := coalesce(task.completion -> 'report' = report, false)
        and (coalesce(task.completion ->> 'session_id' = cx.session_id, true)
            or coalesce(task.completion ->> 'claim_token' = in_claim_token, false));
    if is_repeat then
        status := task.completion ->> 'status';
        retry_at := (task.completion ->> 'retry_at')::timestamptz;
    else
        reason := coalesce(
            check_claim(task.id, task.claimed_by, task.claimed_session_id, task.claim_token,
                task_status(task.status, task.deadline, task.claim_expires_at, task.attempt,
                    task.max_attempts, at),
                cx, in_claim_token),
            in_refusal);
        if reason is null then
            finished := finish_claim(
                in_workspace, in_id, in_success, in_result, in_error_message, report,
                task.claimed_session_id, task.claim_token,
                case when not in_success and task.retry_on_failure
                    and task.attempt < task.max_attempts then task.attempt end);
            status := finished.status;
            retry_at := finished.retry_at;
        elsif reason = in_refusal then
            status := 'blocked';
            perform mark_claim_known(in_workspace, in_id, task.claim_token);
        end if;
        if status is not null then
            perform record_guardrail_violations(in_workspace, cx, in_violations);
        end if;
    end if;
    success := reason is null;
    if status is not null then
        task_id := in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'complete_task',
        jsonb_build_object('task_id', in_id, 'success', in_success),
        case
            when success then jsonb_build_object('status', status, 'guardrails', in_patterns)
            when status = 'blocked' then jsonb_build_object(
                'status', status, 'reason', reason, 'guardrails', in_patterns)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

-- Finishes a claim, whose row is locked, with its claimant's report. A completed task is no longer an
-- open dependency of others. With `in_retry_attempt`, the number of the failed attempt, the task is
-- requeued after an exponential backoff: 30 s, doubled with each attempt up to an hour, with a jitter
-- of 20 %, so that tasks that failed together are not retried together.
create or replace function finish_claim(
    in_workspace text, in_id uuid, in_success boolean, in_result json, in_error_message text,
    report jsonb, in_claimed_session_id text, in_claim_token text, in_retry_attempt smallint,
    out status text, out retry_at timestamptz
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    jitter double precision := 0.8 + 0.4 * random();
    will_retry boolean := in_retry_attempt is not null;
    new_completion jsonb;
begin
    status := case when in_success then 'completed' when will_retry then 'pending' else 'failed' end;
    if will_retry then
        retry_at := at + jitter * least(
            interval '60 minutes', interval '30 seconds' * 2 ^ (in_retry_attempt - 1));
    end if;
    new_completion := jsonb_build_object('report', report, 'session_id', in_claimed_session_id,
        'claim_token', in_claim_token, 'status', status, 'retry_at', retry_at);
    update work_task t set
        status = finish_claim.status,
        result = in_result,
        error_message = in_error_message,
        completed_at = case when not will_retry then at end,
        claim_token = case when not will_retry then t.claim_token end,
        claimed_by = case when not will_retry then t.claimed_by end,
        claimed_session_id = case when not will_retry then t.claimed_session_id end,
        lease_expires_at = null,
        claim_expires_at = null,
        is_expiry_recorded = false,
        available_at = coalesce(finish_claim.retry_at, t.available_at),
        is_delayed = will_retry,
        completion = new_completion
    where t.workspace = in_workspace and t.id = in_id;
    if in_success then
        perform decrement_open_dependencies(in_workspace, in_id);
    end if;
end
$$;

-- Cancels a task for its submitter, or for an agent of trust 3 or more.
create or replace function cancel_task(
    in_workspace text, cx request, in_id uuid, in_reason text, in_trust integer,
    out success boolean, out status text, out task_id uuid, out reason text
) language plpgsql as $$
declare
    at timestamptz;
    task work_task;
begin
    perform record_heartbeat(in_workspace, cx);
    select * into task from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    reason := case
        when task.id is null then 'task_not_found'
        when task.submitted_by <> cx.agent_id and in_trust < 3 then 'not_submitter'
        when task_status(
            task.status, task.deadline, task.claim_expires_at, task.attempt, task.max_attempts, at)
            in ('completed', 'failed', 'cancelled') then 'task_already_finished'
    end;
    success := reason is null;
    if success then
        status := 'cancelled';
        task_id := in_id;
        update work_task t set
            status = 'cancelled', error_message = in_reason, completed_at = at,
            lease_expires_at = null, claim_expires_at = null
        where t.workspace = in_workspace and t.id = in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'cancel_task',
        jsonb_build_object('task_id', in_id, 'reason', in_reason),
        case when success then jsonb_build_object('status', status)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

-- Records that the agent of a claim knows its token, unless the task was claimed again since. A row that
-- another call has locked is skipped: this call can have locked other tasks, and must not wait. The next
-- list marks it.
create or replace function mark_claim_known(in_workspace text, in_id uuid, in_claim_token text)
returns void language plpgsql as $$
begin
    perform from work_task t
    where t.workspace = in_workspace and t.id = in_id and t.claim_token = in_claim_token
        and not t.is_claim_known
    for update skip locked;
    if found then
        update work_task t set is_claim_known = true where t.workspace = in_workspace and t.id = in_id;
    end if;
end
$$;
