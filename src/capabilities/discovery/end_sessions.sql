-- The end of sessions, and the release of what they hold.

-- Ends sessions of a workspace whose last call is older than a timeout, the longest silent first, and
-- releases what they hold. Other sessions of their agents keep what they hold, and so do the agents with
-- what they acquired without a session. A dry run counts what would be done and changes nothing.
--
-- One call is one batch: it ends sessions and releases rows up to `maintenance_batch` in sum, so that it
-- stays far below the statement timeout however many there are. `more` says that some are left for the
-- next call; then this one has made progress. Sessions that another call has locked are skipped: a call in
-- them keeps them alive, or another batch ends them. `for update` checks the conditions again on the
-- newest row (EvalPlanQual), so a session that calls meanwhile stays live.
create or replace function end_silent_sessions(
    in_workspace text, in_session_timeout interval, in_dry_run boolean,
    out agents bigint, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint, out more boolean
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    rows_left integer := maintenance_batch();
    session record;
    ended record;
    agent_ids text[] := array[]::text[];
begin
    select 0, 0, 0, 0, false
    into sessions, locks_released, tasks_requeued, ports_released, more;
    for session in
        select s.agent_id, s.session_id from agent_session s
        where s.workspace = in_workspace and s.ended_at is null
            and s.last_heartbeat_at <= at - in_session_timeout
        order by s.last_heartbeat_at
        limit maintenance_batch() + 1
        for update skip locked
    loop
        more := more or rows_left <= 0;
        exit when more;
        select * into ended
        from end_session(in_workspace, session.agent_id, session.session_id, rows_left, in_dry_run);
        rows_left := rows_left - 1 - ended.touched;
        locks_released := locks_released + ended.locks_released;
        tasks_requeued := tasks_requeued + ended.tasks_requeued;
        ports_released := ports_released + ended.ports_released;
        sessions := sessions + ended.has_ended::integer;
        agent_ids := agent_ids || case when ended.has_ended then session.agent_id end;
        more := not ended.has_ended;
    end loop;
    agents := (select count(distinct agent_id) from unnest(agent_ids) agent_id);
end
$$;

-- Releases what a session holds and ends it: releases its locks, requeues its claims, releases its ports.
-- The caller has locked the row of the session.
--
-- Every operation that ends a session calls this: nothing else knows what a session can hold. Rows are
-- locked in the order sessions, locks, tasks, ports, each by its key, which prevents deadlocks. What a
-- session had already lost is cleared but not counted. What it held is recorded as its loss, which its
-- next call is told (`revive_session`).
--
-- Releases at most `in_limit` rows. Where more can be left, the session does not end yet,
-- because a claim that still named it would then wait for its lease. Its next call, should one come
-- before the next batch, is told what was released until then.
create or replace function end_session(
    in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean,
    out locks_released bigint, out tasks_requeued bigint, out ports_released bigint,
    out touched bigint, out has_ended boolean
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    locks record;
    claims record;
    ports record;
begin
    select * into locks
    from release_session_locks(in_workspace, in_agent_id, in_session_id, in_limit, in_dry_run);
    select * into claims from requeue_session_claims(
        in_workspace, in_agent_id, in_session_id, in_limit - locks.touched::integer, in_dry_run);
    select * into ports
    from release_session_ports(in_workspace, in_agent_id, in_session_id, in_dry_run);
    locks_released := locks.released;
    tasks_requeued := claims.requeued;
    ports_released := ports.released;
    touched := locks.touched + claims.touched + ports.touched;
    has_ended := locks.touched + claims.touched < in_limit;
    if not in_dry_run then
        update agent_session s set
            ended_at = case when has_ended then at end,
            untold_at = case when has_ended then s.untold_at else timestamptz '-infinity' end
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
    end if;
end
$$;

-- Returns a timeout that no session reaches. With it, `is_live` counts what a session holds however
-- long the session was silent, until it is ended.
create or replace function unlimited_session_timeout() returns interval
language sql immutable parallel safe as $$
    select interval '1000 years'
$$;

-- Releases locks of a session, at most `in_limit`; returns how many of them were live, and how many rows it
-- has touched. The keys are selected first, and then locked one by one in their order: with `order by` and
-- `limit` in one query, the planner may read all locks of the workspace.
create or replace function release_session_locks(
    in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean,
    out released bigint, out touched bigint
) language plpgsql as $$
declare
    keys text[] := array(
        select l.key from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id = in_session_id
        limit in_limit);
    held_key text;
    lock record;
    was_live boolean;
begin
    released := 0;
    touched := 0;
    for held_key in select key from unnest(keys) key order by key collate "C" loop
        touched := touched + 1;
        select l.token, l.locked_at, l.expires_at into lock from file_lock l
        where l.workspace = in_workspace and l.key = held_key and l.agent_id = in_agent_id
            and l.session_id = in_session_id
        for update;
        continue when not found;
        was_live := is_live(in_workspace, in_agent_id, in_session_id, lock.locked_at, lock.expires_at,
            unlimited_session_timeout());
        released := released + was_live::integer;
        if not in_dry_run then
            if was_live then
                perform store_loss(in_workspace, in_agent_id, in_session_id, 'lock', held_key,
                    lock.token::text, lock.locked_at);
            end if;
            perform free_lock(in_workspace, held_key, lock.token);
        end if;
    end loop;
end
$$;

-- Requeues claimed tasks of a session, at most `in_limit`; returns how many, and how many rows it has
-- touched. A task out of attempts fails instead. A task that has expired is left as it is: a later claim or
-- sweep records its failure, with that reason. Tasks are locked as locks are by `release_session_locks`.
create or replace function requeue_session_claims(
    in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean,
    out requeued bigint, out touched bigint
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    ids uuid[] := array(
        select t.id from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
            and task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null
        limit in_limit);
    claimed_id uuid;
    task record;
begin
    requeued := 0;
    touched := 0;
    for claimed_id in select id from unnest(ids) id order by id loop
        touched := touched + 1;
        select t.attempt >= t.max_attempts as is_exhausted, t.claim_token, t.claimed_at into task
        from work_task t
        where t.workspace = in_workspace and t.id = claimed_id and t.claimed_by = in_agent_id
            and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
            and task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null
        for update;
        continue when not found;
        requeued := requeued + (not task.is_exhausted)::integer;
        if not in_dry_run then
            perform store_loss(in_workspace, in_agent_id, in_session_id, 'claim', claimed_id::text,
                task.claim_token, task.claimed_at);
            perform requeue_or_fail_task(in_workspace, claimed_id, task.is_exhausted);
        end if;
    end loop;
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

-- Releases the ports of a session, which has at most one block; returns how many blocks were live, and how
-- many it has touched.
create or replace function release_session_ports(
    in_workspace text, in_agent_id text, in_session_id text, in_dry_run boolean,
    out released bigint, out touched bigint
) language plpgsql as $$
declare
    block record;
    was_live boolean;
begin
    released := 0;
    touched := 0;
    for block in
        select p.slot, p.allocated_at, p.expires_at from port_block p
        where p.workspace = in_workspace and p.agent_id = in_agent_id and p.session_id = in_session_id
        order by p.slot
        for update
    loop
        touched := touched + 1;
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
end
$$;

-- Ends a session of the caller, and its MCP connections. An unknown session is refused. The answer tells
-- what was freed, so only the session itself is told again, where it is used once more.
--
-- One call is one batch, as with `end_silent_sessions`: `more` says that the session holds more than this
-- call has released. The caller then repeats it, and only the last call is recorded.
create or replace function deregister_session(
    in_workspace text, cx request, in_session_id text,
    out is_known boolean, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint, out more boolean
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    delete from mcp_connection c
    where c.workspace = in_workspace and c.agent_id = cx.agent_id and c.session_id = in_session_id;
    is_known := exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id);
    select 0, 0, 0, 0 into sessions, locks_released, tasks_requeued, ports_released;
    perform from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id
        and s.ended_at is null
    for update;
    more := false;
    if found then
        select 1, e.locks_released, e.tasks_requeued, e.ports_released, not e.has_ended
        into sessions, locks_released, tasks_requeued, ports_released, more
        from end_session(in_workspace, cx.agent_id, in_session_id, maintenance_batch(), false) e;
        -- A batch marks its own losses only, and the last one those of earlier batches of the sweep too.
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = cx.agent_id
            and l.session_id = in_session_id and not l.is_told and (not more or l.lost_at >= at);
    end if;
    if more then
        return;
    end if;
    perform record_audit(
        in_workspace, cx, 'deregister_agent',
        jsonb_build_object('session_id', in_session_id, 'capabilities', null),
        case when is_known then '{}'::jsonb else jsonb_build_object('reason', 'session_not_found') end,
        is_known);
end
$$;

-- Ends a batch of the sessions of a workspace whose last call is older than a threshold. Records the
-- caller's heartbeat first, so that the caller's own session stays live.
create or replace function cleanup_sessions(
    in_workspace text, cx request, in_threshold_minutes integer, in_dry_run boolean,
    out agents bigint, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint, out more boolean
) language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    select e.* into agents, sessions, locks_released, tasks_requeued, ports_released, more
    from end_silent_sessions(in_workspace, make_interval(mins => in_threshold_minutes), in_dry_run) e;
    perform record_audit(
        in_workspace, cx, 'cleanup_dead_agents',
        jsonb_build_object('stale_threshold_minutes', in_threshold_minutes, 'dry_run', in_dry_run),
        jsonb_build_object(
            'agents_cleaned', agents, 'locks_released', locks_released, 'sessions_cleaned', sessions,
            'tasks_requeued', tasks_requeued, 'ports_released', ports_released)
            || case when more then '{"more": true}' else '{}' end::jsonb,
        true);
end
$$;

-- Ends an MCP connection, whose id can then never be used again. The session that it was bound to stays
-- live. Returns why a quota does not allow to store the end of a connection that is not known, or null.
create or replace function end_mcp_connection(
    in_workspace text, in_agent_id text, in_connection_id text, in_quota integer[]
) returns text language plpgsql as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    -- Connections are counted whether or not their sessions are live.
    refusal text := refuse_connection(in_workspace, in_agent_id, in_connection_id, in_quota,
        unlimited_session_timeout());
begin
    if refusal is not null then
        return refusal;
    end if;
    insert into mcp_connection (workspace, agent_id, connection_id, session_id, has_ended)
    values (in_workspace, in_agent_id, in_connection_id, null, true)
    on conflict (workspace, agent_id, connection_id) do update set
        session_id = null, has_ended = true, bound_at = at;
    return null;
end
$$;
