-- The end of sessions, and the release of what they hold.

-- Ends sessions of a workspace that have not ended yet, and releases what they hold: releases their
-- locks, requeues their claims, releases their ports. The arguments narrow this to the sessions of an
-- agent, to one session, or to sessions whose last call is older than a timeout; null means no
-- restriction. Other sessions of the agent keep what they hold, and so does the agent with what it
-- acquired without a session. A dry run counts and changes nothing.
--
-- Every operation that ends a session calls this: nothing else knows what a session can hold. Rows are
-- locked in the order sessions, locks, tasks, ports, each by its key, which prevents deadlocks. `for
-- update` checks the conditions again on the newest row (EvalPlanQual), so a session that calls
-- meanwhile stays live. What a session had already lost is cleared but not counted. What it held is
-- recorded as its loss, which its next call is told (`revive_session`).
create or replace function end_sessions(
    in_workspace text, in_agent_id text, in_session_id text, in_session_timeout interval,
    in_dry_run boolean,
    out agents bigint, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    session record;
    previous_agent_id text;
begin
    agents := 0;
    sessions := 0;
    locks_released := 0;
    tasks_requeued := 0;
    ports_released := 0;
    for session in
        select s.agent_id, s.session_id from agent_session s
        where s.workspace = in_workspace and s.ended_at is null
            and (in_agent_id is null or s.agent_id = in_agent_id)
            and (in_session_id is null or s.session_id = in_session_id)
            and (in_session_timeout is null
                or not is_session_live(s.ended_at, s.last_heartbeat_at, in_session_timeout, at))
        order by s.agent_id, s.session_id
        for update
    loop
        sessions := sessions + 1;
        agents := agents + (session.agent_id is distinct from previous_agent_id)::integer;
        previous_agent_id := session.agent_id;
        locks_released := locks_released
            + release_session_locks(in_workspace, session.agent_id, session.session_id, in_dry_run);
        tasks_requeued := tasks_requeued
            + requeue_session_claims(in_workspace, session.agent_id, session.session_id, in_dry_run);
        ports_released := ports_released
            + release_session_ports(in_workspace, session.agent_id, session.session_id, in_dry_run);
        if not in_dry_run then
            update agent_session s set ended_at = at
            where s.workspace = in_workspace and s.agent_id = session.agent_id
                and s.session_id = session.session_id;
        end if;
    end loop;
end
$$;

-- Returns a timeout that no session reaches. With it, `is_live` counts what a session holds however
-- long the session was silent, until it is ended.
create or replace function unlimited_session_timeout() returns interval
language sql immutable parallel safe as $$
    select interval '1000 years'
$$;

-- Releases the locks of a session and returns how many of them were live.
create or replace function release_session_locks(
    in_workspace text, in_agent_id text, in_session_id text, in_dry_run boolean
) returns bigint language plpgsql as $$
declare
    lock record;
    was_live boolean;
    released bigint := 0;
begin
    for lock in
        select l.key, l.token, l.locked_at, l.expires_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id = in_session_id
        order by l.key
        for update
    loop
        was_live := is_live(in_workspace, in_agent_id, in_session_id, lock.locked_at, lock.expires_at,
            unlimited_session_timeout());
        released := released + was_live::integer;
        if not in_dry_run then
            if was_live then
                perform store_loss(in_workspace, in_agent_id, in_session_id, 'lock', lock.key,
                    lock.token::text, lock.locked_at);
            end if;
            perform free_lock(in_workspace, lock.key, lock.token);
        end if;
    end loop;
    return released;
end
$$;

-- Requeues the claimed tasks of a session and returns how many. A task out of attempts fails instead. A
-- task that has expired is left as it is: a later claim or sweep records its failure, with that reason.
create or replace function requeue_session_claims(
    in_workspace text, in_agent_id text, in_session_id text, in_dry_run boolean
) returns bigint language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    task record;
    requeued bigint := 0;
begin
    for task in
        select t.id, t.attempt >= t.max_attempts as is_exhausted, t.claim_token, t.claimed_at
        from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
            and task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null
        order by t.id
        for update
    loop
        requeued := requeued + (not task.is_exhausted)::integer;
        if not in_dry_run then
            perform store_loss(in_workspace, in_agent_id, in_session_id, 'claim', task.id::text,
                task.claim_token, task.claimed_at);
            perform requeue_or_fail_task(in_workspace, task.id, task.is_exhausted);
        end if;
    end loop;
    return requeued;
end
$$;

-- Ends a claim without its claimant's report: the task is pending again, or fails when it is out of
-- attempts.
create or replace function requeue_or_fail_task(in_workspace text, in_id uuid, in_is_exhausted boolean)
returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update work_task t set
        status = case when in_is_exhausted then 'failed' else 'pending' end,
        error_message = case when in_is_exhausted then 'max_attempts_exceeded' else t.error_message end,
        completed_at = case when in_is_exhausted then at end,
        claim_token = case when in_is_exhausted then t.claim_token end,
        claimed_by = case when in_is_exhausted then t.claimed_by end,
        claimed_session_id = case when in_is_exhausted then t.claimed_session_id end,
        claimed_at = case when in_is_exhausted then t.claimed_at end,
        lease_expires_at = null, claim_expires_at = null, available_at = null, is_delayed = false,
        is_expiry_recorded = false
    where t.workspace = in_workspace and t.id = in_id;
end
$$;

-- Releases the ports of a session and returns how many of its blocks were live.
create or replace function release_session_ports(
    in_workspace text, in_agent_id text, in_session_id text, in_dry_run boolean
) returns bigint language plpgsql as $$
declare
    block record;
    was_live boolean;
    released bigint := 0;
begin
    for block in
        select p.slot, p.allocated_at, p.expires_at from port_block p
        where p.workspace = in_workspace and p.agent_id = in_agent_id and p.session_id = in_session_id
        order by p.slot
        for update
    loop
        was_live := is_live(in_workspace, in_agent_id, in_session_id, block.allocated_at,
            block.expires_at, unlimited_session_timeout());
        released := released + was_live::integer;
        if not in_dry_run then
            if was_live then
                perform store_loss(in_workspace, in_agent_id, in_session_id, 'port', block.slot::text,
                    null, block.allocated_at);
            end if;
            delete from port_block p where p.workspace = in_workspace and p.slot = block.slot;
        end if;
    end loop;
    return released;
end
$$;

-- Ends a session of the caller, and its MCP connections. An unknown session is refused. The answer tells
-- what was freed, so only the session itself is told again, where it is used once more.
create or replace function deregister_session(
    in_workspace text, cx request, in_session_id text,
    out is_known boolean, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint
) language plpgsql as $$
begin
    delete from mcp_connection c
    where c.workspace = in_workspace and c.agent_id = cx.agent_id and c.session_id = in_session_id;
    is_known := exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id);
    select e.sessions, e.locks_released, e.tasks_requeued, e.ports_released
    into sessions, locks_released, tasks_requeued, ports_released
    from end_sessions(in_workspace, cx.agent_id, in_session_id, null, false) e;
    if sessions > 0 then
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = cx.agent_id
            and l.session_id = in_session_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'deregister_agent',
        jsonb_build_object('session_id', in_session_id, 'capabilities', null),
        case when is_known then '{}'::jsonb else jsonb_build_object('reason', 'session_not_found') end,
        is_known);
end
$$;

-- Ends all sessions of a workspace whose last call is older than a threshold. Records the caller's
-- heartbeat first, so that the caller's own session stays live.
create or replace function cleanup_sessions(
    in_workspace text, cx request, in_threshold_minutes integer, in_dry_run boolean,
    out agents bigint, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint
) language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    select e.* into agents, sessions, locks_released, tasks_requeued, ports_released
    from end_sessions(in_workspace, null, null, make_interval(mins => in_threshold_minutes), in_dry_run) e;
    perform record_audit(
        in_workspace, cx, 'cleanup_dead_agents',
        jsonb_build_object('stale_threshold_minutes', in_threshold_minutes, 'dry_run', in_dry_run),
        jsonb_build_object(
            'agents_cleaned', agents, 'locks_released', locks_released, 'sessions_cleaned', sessions,
            'tasks_requeued', tasks_requeued, 'ports_released', ports_released),
        true);
end
$$;

-- Ends an MCP connection, whose id can then never be used again. The session that it was bound to stays
-- live.
create or replace function end_mcp_connection(in_workspace text, in_agent_id text, in_connection_id text)
returns void language plpgsql as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
begin
    insert into mcp_connection (workspace, agent_id, connection_id, session_id, has_ended)
    values (in_workspace, in_agent_id, in_connection_id, null, true)
    on conflict (workspace, agent_id, connection_id) do update set
        session_id = null, has_ended = true, bound_at = at;
end
$$;
