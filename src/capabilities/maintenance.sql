-- The clean-up of what has expired, and retention. Nothing depends on the clean-up: every transition
-- compares with the clock itself.

-- Runs one batch of each maintenance task that `in_tasks` names for a workspace. Retention concerns every
-- workspace and is not done here: where it was requested, the caller has applied it before and passes the
-- counts, for the audit row. `in_requested` is the list as the caller sent it.
create or replace function run_maintenance(
    in_workspace text, cx request, in_requested jsonb, in_tasks text[], in_rows_deleted bigint,
    in_audit_partitions_dropped bigint,
    out sessions_expired bigint, out locks_expired bigint, out locks_released bigint,
    out tasks_requeued bigint, out tasks_failed bigint, out ports_released bigint,
    out duration_ms bigint, out more boolean
) language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    select s.* into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed,
        ports_released, more
    from sweep_workspace(in_workspace, cx.session_timeout, in_tasks) s;
    duration_ms := request_duration_ms(cx);
    perform record_audit(
        in_workspace, cx, 'run_maintenance', jsonb_build_object('tasks', in_requested),
        jsonb_build_object(
            'sessions_expired', sessions_expired, 'locks_expired', locks_expired,
            'locks_released', locks_released, 'tasks_requeued', tasks_requeued,
            'tasks_failed', tasks_failed, 'ports_released', ports_released, 'approvals_expired', 0,
            'rows_deleted', in_rows_deleted,
            'audit_partitions_dropped', in_audit_partitions_dropped)
            || case when more then '{"more": true}' else '{}' end::jsonb,
        true);
end
$$;

-- Returns how many rows one batch of maintenance changes at most. A batch is one statement: this many rows
-- take a small part of the statement timeout, and other calls wait for few of them.
create or replace function maintenance_batch() returns integer language sql immutable parallel safe as $$
    select 1000
$$;

-- Returns the workspaces in which something may have to be cleaned up. Reads one row of each workspace and
-- table, from the beginning of an index, however many rows there are.
create or replace function workspaces_to_sweep() returns setof text language plpgsql stable as $$
declare
    previous text collate "C" := '';
    with_session text collate "C";
    with_lock text collate "C";
    with_claim text collate "C";
    with_deadline text collate "C";
    with_ports text collate "C";
begin
    loop
        select min(s.workspace) into with_session from agent_session s
        where s.workspace > previous and s.ended_at is null;
        select min(l.workspace) into with_lock from file_lock l
        where l.workspace > previous and l.agent_id is not null;
        select min(t.workspace) into with_claim from work_task t
        where t.workspace > previous and t.status in ('claimed', 'running');
        select min(t.workspace) into with_deadline from work_task t
        where t.workspace > previous and t.status = 'pending' and t.deadline is not null;
        select min(p.workspace) into with_ports from port_block p where p.workspace > previous;
        previous := least(with_session, with_lock, with_claim, with_deadline, with_ports);
        exit when previous is null;
        return next previous;
    end loop;
end
$$;

-- Ends expired sessions, clears expired locks, updates overdue tasks and releases expired ports of a
-- workspace, as far as `in_tasks` names them (`sessions`, `locks`, `work`, `ports`): one batch of each.
-- `more` says that some are left for the next call; then this one has made progress.
create or replace function sweep_workspace(
    in_workspace text, session_timeout interval, in_tasks text[],
    out sessions_expired bigint, out locks_expired bigint, out locks_released bigint,
    out tasks_requeued bigint, out tasks_failed bigint, out ports_released bigint, out more boolean
) language plpgsql as $$
declare
    batch record;
begin
    select 0, 0, 0, 0, 0, 0, false
    into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed, ports_released,
        more;
    if 'sessions' = any(in_tasks) then
        select * into batch from end_silent_sessions(in_workspace, session_timeout, false);
        sessions_expired := batch.sessions;
        locks_released := batch.locks_released;
        tasks_requeued := batch.tasks_requeued;
        ports_released := batch.ports_released;
        more := batch.more;
    end if;
    if 'locks' = any(in_tasks) then
        select * into batch from clear_expired_locks(in_workspace, session_timeout);
        locks_expired := batch.cleared;
        more := more or batch.more;
    end if;
    if 'work' = any(in_tasks) then
        select * into batch from update_overdue_tasks(in_workspace, maintenance_batch());
        tasks_failed := batch.failed;
        more := more or (batch.updated > 0
            and cardinality(overdue_tasks(in_workspace, clock_timestamp(), 1)) > 0);
    end if;
    if 'ports' = any(in_tasks) then
        ports_released := ports_released + release_expired_ports(in_workspace, session_timeout);
    end if;
end
$$;

-- Clears a batch of locks that are not live any more; returns how many, and whether more are left. The
-- counters of their keys stay. Rows that another call has locked are skipped. The query has the snapshot of
-- its beginning, so each lock is checked again once its row is locked: a revived session can have acquired
-- it meanwhile.
create or replace function clear_expired_locks(
    in_workspace text, session_timeout interval, out cleared bigint, out more boolean
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    lock file_lock;
begin
    cleared := 0;
    more := false;
    for lock in
        select l.* from file_lock l
        left join lateral (
            select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
            where s.workspace = in_workspace and s.agent_id = l.agent_id and s.session_id = l.session_id
            limit 1
        ) s on true
        where l.workspace = in_workspace and l.agent_id is not null
            and not is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                s.ended_at, s.last_heartbeat_at, s.revived_at)
        order by l.key
        limit maintenance_batch() + 1
        for update of l skip locked
    loop
        more := cleared >= maintenance_batch();
        exit when more;
        continue when is_live(in_workspace, lock.agent_id, lock.session_id, lock.locked_at,
            lock.expires_at, session_timeout);
        perform free_lock(in_workspace, lock.key, lock.token);
        perform record_loss(in_workspace, lock.agent_id, lock.session_id, 'lock', lock.key,
            lock.token::text, lock.locked_at, lock.expires_at, session_timeout);
        cleared := cleared + 1;
    end loop;
end
$$;

-- Releases port blocks that are not live any more, and returns how many. Each is checked again once its
-- row is locked, for the same reason as in `clear_expired_locks`.
create or replace function release_expired_ports(in_workspace text, session_timeout interval) returns bigint
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    block port_block;
    released bigint := 0;
begin
    for block in
        select p.* from port_block p
        left join lateral (
            select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
            where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
            limit 1
        ) s on true
        where p.workspace = in_workspace
            and not is_live_with_session(p.allocated_at, p.expires_at, session_timeout, at,
                s.ended_at, s.last_heartbeat_at, s.revived_at)
        order by p.slot
        for update of p skip locked
    loop
        continue when is_live(in_workspace, block.agent_id, block.session_id, block.allocated_at,
            block.expires_at, session_timeout);
        delete from port_block p where p.workspace = in_workspace and p.slot = block.slot;
        perform record_loss(in_workspace, block.agent_id, block.session_id, 'port', block.slot::text,
            null, block.allocated_at, block.expires_at, session_timeout);
        released := released + 1;
    end loop;
    return released;
end
$$;
