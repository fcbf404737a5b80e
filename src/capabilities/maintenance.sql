-- Tidying up what time has ended. Nothing depends on it: every statement compares for itself.

-- Tidies up a workspace, and records it. `in_tasks` names what to do. Retention concerns every workspace,
-- so it is not done here: `apply_retention` has done it before, where it was asked for, and the counts that it
-- returned are recorded.
create or replace function run_maintenance(
    in_workspace text, cx request, in_asked jsonb, in_tasks text[], in_rows_deleted bigint,
    in_audit_partitions_dropped bigint,
    out sessions_expired bigint, out locks_expired bigint, out locks_released bigint,
    out tasks_requeued bigint, out tasks_failed bigint, out ports_released bigint,
    out duration_ms bigint
) language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    select t.* into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed,
        ports_released
    from sweep_workspace(in_workspace, cx.session_timeout, in_tasks) t;
    duration_ms := cx.elapsed_ms
        + 1000 * extract(epoch from clock_timestamp() - statement_timestamp());
    perform record_audit(
        in_workspace, cx, 'run_maintenance', jsonb_build_object('tasks', in_asked),
        jsonb_build_object(
            'sessions_expired', sessions_expired, 'locks_expired', locks_expired,
            'locks_released', locks_released, 'tasks_requeued', tasks_requeued,
            'tasks_failed', tasks_failed, 'ports_released', ports_released, 'approvals_expired', 0,
            'rows_deleted', in_rows_deleted,
            'audit_partitions_dropped', in_audit_partitions_dropped),
        true);
end
$$;

-- Retention, for all workspaces: creates the audit log's coming months, deletes old records and drops old
-- months. Called before a transaction writes to the audit log: a partition cannot be attached by the
-- statement that does.
create or replace function apply_retention(
    retention_days integer, months_ahead integer,
    out rows_deleted bigint, out audit_partitions_dropped bigint
) language plpgsql as $$
begin
    perform ensure_audit_partitions(months_ahead);
    rows_deleted := delete_old_records(retention_days);
    audit_partitions_dropped := drop_audit_partitions(retention_days);
end
$$;

-- Ends silent sessions, clears expired locks, finishes lost tasks and frees expired ports of a workspace:
-- those of them that `in_tasks` names (`sessions`, `locks`, `work`, `ports`).
create or replace function sweep_workspace(
    in_workspace text, session_timeout interval, in_tasks text[],
    out sessions_expired bigint, out locks_expired bigint, out locks_released bigint,
    out tasks_requeued bigint, out tasks_failed bigint, out ports_released bigint
) language plpgsql as $$
declare
    batch record;
begin
    select 0, 0, 0, 0, 0, 0
    into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed, ports_released;
    if 'sessions' = any(in_tasks) then
        select e.sessions, e.locks_released, e.tasks_requeued, e.ports_released
        into sessions_expired, locks_released, tasks_requeued, ports_released
        from end_sessions(in_workspace, null, null, session_timeout, false) e;
    end if;
    if 'locks' = any(in_tasks) then
        locks_expired := clear_expired_locks(in_workspace, session_timeout);
    end if;
    if 'work' = any(in_tasks) then
        loop
            select * into batch from update_overdue_tasks(in_workspace, 1000);
            tasks_failed := tasks_failed + batch.failed;
            exit when batch.noticed = 0;
        end loop;
    end if;
    if 'ports' = any(in_tasks) then
        ports_released := ports_released + release_expired_ports(in_workspace, session_timeout);
    end if;
end
$$;

-- Clears locks that are no longer in force; the keys' counters stay. Rows that another call holds are
-- skipped. The search sees sessions as they were when it began, so each lock is judged again once its row is
-- locked: a session that came back may have taken it since.
create or replace function clear_expired_locks(in_workspace text, session_timeout interval) returns bigint
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    lock file_lock;
    cleared bigint := 0;
begin
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
        for update of l skip locked
    loop
        continue when is_live(in_workspace, lock.agent_id, lock.session_id, lock.locked_at,
            lock.expires_at, session_timeout);
        perform free_lock(in_workspace, lock.key, lock.token);
        cleared := cleared + 1;
    end loop;
    return cleared;
end
$$;

-- Frees port blocks that are no longer in force, each judged again once its row is locked.
create or replace function release_expired_ports(in_workspace text, session_timeout interval) returns bigint
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    block port_block;
    freed bigint := 0;
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
        freed := freed + 1;
    end loop;
    return freed;
end
$$;

-- Deletes, in every workspace, stored answers after a day, MCP connections of sessions that have been
-- silent for a week, and records of violations and of network checks whose month lies wholly before the
-- days to keep. Returns how many rows.
create or replace function delete_old_records(retention_days integer) returns bigint
language plpgsql as $$
declare
    at timestamptz := statement_timestamp();
    oldest_kept timestamptz := date_trunc('month', at - make_interval(days => retention_days));
    step bigint;
    deleted bigint := 0;
begin
    delete from idempotency_key k where k.created_at <= at - interval '24 hours';
    get diagnostics step = row_count;
    deleted := deleted + step;
    delete from mcp_connection c
    where c.bound_at <= at - interval '7 days'
        and not exists (
            select from agent_session s
            where s.workspace = c.workspace and s.agent_id = c.agent_id
                and s.session_id = c.session_id
                and is_session_live(s.ended_at, s.last_heartbeat_at, interval '7 days', at)
        );
    get diagnostics step = row_count;
    deleted := deleted + step;
    delete from guardrail_violation v where v.created_at < oldest_kept;
    get diagnostics step = row_count;
    deleted := deleted + step;
    delete from network_log n where n.created_at < oldest_kept;
    get diagnostics step = row_count;
    return deleted + step;
end
$$;
