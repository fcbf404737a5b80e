-- The clean-up of what has expired, and retention. Nothing depends on the clean-up: every transition
-- compares with the clock itself.

-- Runs the maintenance tasks that `in_tasks` names for a workspace. Retention concerns every workspace
-- and is not done here: where it was requested, the caller has called `apply_retention` before and
-- passes the counts that it returned, for the audit row. `in_requested` is the list as the caller sent
-- it.
create or replace function run_maintenance(
    in_workspace text, cx request, in_requested jsonb, in_tasks text[], in_rows_deleted bigint,
    in_audit_partitions_dropped bigint,
    out sessions_expired bigint, out locks_expired bigint, out locks_released bigint,
    out tasks_requeued bigint, out tasks_failed bigint, out ports_released bigint,
    out duration_ms bigint
) language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    select s.* into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed,
        ports_released
    from sweep_workspace(in_workspace, cx.session_timeout, in_tasks) s;
    duration_ms := request_duration_ms(cx);
    perform record_audit(
        in_workspace, cx, 'run_maintenance', jsonb_build_object('tasks', in_requested),
        jsonb_build_object(
            'sessions_expired', sessions_expired, 'locks_expired', locks_expired,
            'locks_released', locks_released, 'tasks_requeued', tasks_requeued,
            'tasks_failed', tasks_failed, 'ports_released', ports_released, 'approvals_expired', 0,
            'rows_deleted', in_rows_deleted,
            'audit_partitions_dropped', in_audit_partitions_dropped),
        true);
end
$$;

-- Applies retention to all workspaces: creates the audit log's coming months, deletes old records and
-- drops old months. Runs in a statement before the one that writes an audit row, because a statement
-- that has written to the audit log cannot attach a partition to it.
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

-- Ends expired sessions, clears expired locks, updates overdue tasks and releases expired ports of a
-- workspace, as far as `in_tasks` names them (`sessions`, `locks`, `work`, `ports`).
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
            exit when batch.updated = 0;
        end loop;
    end if;
    if 'ports' = any(in_tasks) then
        ports_released := ports_released + release_expired_ports(in_workspace, session_timeout);
    end if;
end
$$;

-- Clears locks that are not live any more, and returns how many. The counters of their keys stay. Rows
-- that another call has locked are skipped. The query has the snapshot of its beginning, so each lock
-- is checked again once its row is locked: a revived session can have acquired it meanwhile.
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
        perform record_loss(in_workspace, lock.agent_id, lock.session_id, 'lock', lock.key,
            lock.token::text, lock.locked_at, lock.expires_at, session_timeout);
        cleared := cleared + 1;
    end loop;
    return cleared;
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

-- Deletes old rows of every workspace and returns how many: idempotency keys after their lifetime, MCP
-- connections whose sessions have made no call for a week, losses that no session was told within a week,
-- calls over MCP after a day, and violations and network checks of months that ended before the days to
-- keep.
create or replace function delete_old_records(retention_days integer) returns bigint
language plpgsql as $$
declare
    at timestamptz := statement_timestamp();
    oldest_kept timestamptz := date_trunc('month', at - make_interval(days => retention_days));
    connection_retention constant interval := interval '7 days';
    loss_retention constant interval := interval '7 days';
    step_count bigint;
    deleted bigint := 0;
begin
    delete from idempotency_key k where k.created_at <= at - idempotency_key_lifetime();
    get diagnostics step_count = row_count;
    deleted := deleted + step_count;
    delete from mcp_connection c
    where c.bound_at <= at - connection_retention
        and not exists (
            select from agent_session s
            where s.workspace = c.workspace and s.agent_id = c.agent_id
                and s.session_id = c.session_id
                and is_session_live(s.ended_at, s.last_heartbeat_at, connection_retention, at)
        );
    get diagnostics step_count = row_count;
    deleted := deleted + step_count;
    delete from session_loss l where l.lost_at <= at - loss_retention;
    get diagnostics step_count = row_count;
    deleted := deleted + step_count;
    delete from mcp_call c where c.due_at <= at - interval '1 day';
    get diagnostics step_count = row_count;
    deleted := deleted + step_count;
    delete from guardrail_violation v where v.created_at < oldest_kept;
    get diagnostics step_count = row_count;
    deleted := deleted + step_count;
    delete from network_log n where n.created_at < oldest_kept;
    get diagnostics step_count = row_count;
    return deleted + step_count;
end
$$;
