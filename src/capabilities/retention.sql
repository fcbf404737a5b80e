-- Retention: the deletion of records that no longer have to be kept. docs/operating.md lists what is deleted
-- when. Each function deletes one batch and returns how many rows it deleted: the service calls it until
-- nothing is left, each batch in a transaction of its own. Whether a row is still old enough is checked
-- again once it is locked.

-- Deletes the oldest rows of a table, of every workspace: stored answers after their lifetime, losses that
-- no session was told within a week, calls over MCP after a day, and quotas that were reached a day ago and
-- that nobody has tried since. A batch is what is not younger than
-- its last row, so the deletion reads the index by age alone.
create or replace function delete_old_records(in_table text) returns bigint language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    oldest_kept timestamptz;
    last timestamptz;
    deleted bigint;
begin
    if in_table = 'idempotency_key' then
        oldest_kept := at - idempotency_key_lifetime();
        select k.created_at into last from idempotency_key k where k.created_at <= oldest_kept
        order by k.created_at limit 1 offset maintenance_batch() - 1;
        delete from idempotency_key k where k.created_at <= coalesce(last, oldest_kept);
    elsif in_table = 'session_loss' then
        oldest_kept := at - interval '7 days';
        select l.lost_at into last from session_loss l where l.lost_at <= oldest_kept
        order by l.lost_at limit 1 offset maintenance_batch() - 1;
        delete from session_loss l where l.lost_at <= coalesce(last, oldest_kept);
    elsif in_table = 'mcp_call' then
        oldest_kept := at - interval '1 day';
        select c.due_at into last from mcp_call c where c.due_at <= oldest_kept
        order by c.due_at limit 1 offset maintenance_batch() - 1;
        delete from mcp_call c where c.due_at <= coalesce(last, oldest_kept);
    elsif in_table = 'quota_reached' then
        oldest_kept := at - interval '1 day';
        select q.counted_at into last from quota_reached q where q.counted_at <= oldest_kept
        order by q.counted_at limit 1 offset maintenance_batch() - 1;
        delete from quota_reached q where q.counted_at <= coalesce(last, oldest_kept);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

-- Returns the workspaces that can have rows which `delete_old_rows` deletes. Reads one row of each
-- workspace and table, as `workspaces_to_sweep` does.
create or replace function workspaces_with_records() returns setof text language plpgsql stable as $$
declare
    previous text collate "C" := '';
    with_connection text collate "C";
    with_violation text collate "C";
    with_check text collate "C";
    with_session text collate "C";
    with_task text collate "C";
    with_key text collate "C";
begin
    loop
        select min(c.workspace) into with_connection from mcp_connection c where c.workspace > previous;
        select min(v.workspace) into with_violation from guardrail_violation v
        where v.workspace > previous;
        select min(n.workspace) into with_check from network_log n where n.workspace > previous;
        select min(s.workspace) into with_session from agent_session s where s.workspace > previous;
        select min(t.workspace) into with_task from work_task t where t.workspace > previous;
        select min(l.workspace) into with_key from file_lock l where l.workspace > previous;
        previous := least(
            with_connection, with_violation, with_check, with_session, with_task, with_key);
        exit when previous is null;
        return next previous;
    end loop;
end
$$;

-- Deletes old rows of a table in a workspace: MCP connections whose sessions have made no call for a week,
-- violations and network checks of months that ended before `in_log_days`, sessions, tasks that were
-- finished before `in_task_days`, and free keys.
create or replace function delete_old_rows(
    in_workspace text, in_table text, in_log_days integer, in_task_days integer
) returns bigint language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    oldest_kept timestamptz := date_trunc('month', at - make_interval(days => in_log_days));
    last timestamptz;
    deleted bigint;
begin
    if in_table = 'mcp_connection' then
        return delete_old_connections(in_workspace);
    elsif in_table = 'agent_session' then
        return delete_old_sessions(in_workspace);
    elsif in_table = 'work_task' then
        return delete_old_tasks(in_workspace, in_task_days);
    elsif in_table = 'file_lock' then
        return delete_free_keys(in_workspace);
    elsif in_table = 'guardrail_violation' then
        last := (
            select v.created_at from guardrail_violation v
            where v.workspace = in_workspace and v.created_at < oldest_kept
            order by v.created_at limit 1 offset maintenance_batch() - 1);
        delete from guardrail_violation v
        where v.workspace = in_workspace and v.created_at < oldest_kept
            and v.created_at <= coalesce(last, oldest_kept);
    elsif in_table = 'network_log' then
        last := (
            select n.created_at from network_log n
            where n.workspace = in_workspace and n.created_at < oldest_kept
            order by n.created_at limit 1 offset maintenance_batch() - 1);
        delete from network_log n
        where n.workspace = in_workspace and n.created_at < oldest_kept
            and n.created_at <= coalesce(last, oldest_kept);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

-- Deletes MCP connections that were bound more than a week ago and whose sessions have made no call for a
-- week.
create or replace function delete_old_connections(in_workspace text) returns bigint
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    kept_for constant interval := interval '7 days';
    connection record;
    deleted bigint := 0;
begin
    for connection in
        select c.agent_id, c.connection_id from mcp_connection c
        where c.workspace = in_workspace and c.bound_at <= at - kept_for
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = c.agent_id
                    and s.session_id = c.session_id
                    and is_session_live(s.ended_at, s.last_heartbeat_at, kept_for, at))
        limit maintenance_batch()
        for update of c skip locked
    loop
        delete from mcp_connection c
        where c.workspace = in_workspace and c.agent_id = connection.agent_id
            and c.connection_id = connection.connection_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

-- Deletes sessions that ended more than 30 days ago and that nothing names any more. A lock that still
-- named its session would be live again without the session's row: `is_live` takes a session that is not
-- registered for one that has lost nothing. A revival waits for the row and then finds none, or it comes
-- first and `for update` does not return the row.
create or replace function delete_old_sessions(in_workspace text) returns bigint language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    session record;
    deleted bigint := 0;
begin
    for session in
        select s.agent_id, s.session_id from agent_session s
        where s.workspace = in_workspace and s.ended_at <= at - interval '30 days'
            and not exists (
                select from file_lock l
                where l.workspace = in_workspace and l.agent_id = s.agent_id
                    and l.session_id = s.session_id)
            and not exists (
                select from work_task t
                where t.workspace = in_workspace and t.claimed_by = s.agent_id
                    and t.claimed_session_id = s.session_id and t.status in ('claimed', 'running'))
            and not exists (
                select from port_block p
                where p.workspace = in_workspace and p.agent_id = s.agent_id
                    and p.session_id = s.session_id)
            and not exists (
                select from session_loss l
                where l.workspace = in_workspace and l.agent_id = s.agent_id
                    and l.session_id = s.session_id)
            and not exists (
                select from mcp_connection c
                where c.workspace = in_workspace and c.agent_id = s.agent_id
                    and c.session_id = s.session_id)
        order by s.ended_at
        limit maintenance_batch()
        for update of s skip locked
    loop
        delete from agent_session s
        where s.workspace = in_workspace and s.agent_id = session.agent_id
            and s.session_id = session.session_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

-- Deletes tasks that were finished more than `in_days` ago, with what they depended on. A task on which
-- another one depends stays until that is deleted: `depends_on` and `blocked_by` never name a task that is
-- not there. This is checked again once the row is locked, because a submission locks the tasks that it
-- depends on without changing them.
create or replace function delete_old_tasks(in_workspace text, in_days integer) returns bigint
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    old_id uuid;
    deleted bigint := 0;
begin
    for old_id in
        select t.id from work_task t
        where t.workspace = in_workspace and t.status in ('completed', 'failed', 'cancelled')
            and t.completed_at <= at - make_interval(days => in_days)
            and not exists (
                select from work_dependency d
                where d.workspace = in_workspace and d.depends_on = t.id)
        order by t.completed_at
        limit maintenance_batch()
        for update of t skip locked
    loop
        continue when exists (
            select from work_dependency d
            where d.workspace = in_workspace and d.depends_on = old_id);
        delete from work_dependency d where d.workspace = in_workspace and d.task_id = old_id;
        delete from work_task t where t.workspace = in_workspace and t.id = old_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

-- Deletes keys that have been free for a week. Their highest fencing token stays, so that a key which is
-- locked again gets a higher one: it is stored in the same transaction, and `grant_lock` reads it after it
-- has found that the key has no row. An acquisition that waits for a row finds it deleted and tries again.
create or replace function delete_free_keys(in_workspace text) returns bigint language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    free record;
    highest bigint := 0;
    deleted bigint := 0;
begin
    for free in
        select l.key, l.token from file_lock l
        where l.workspace = in_workspace and l.agent_id is null
            and l.freed_at <= at - interval '7 days'
        order by l.freed_at
        limit maintenance_batch()
        for update of l skip locked
    loop
        delete from file_lock l where l.workspace = in_workspace and l.key = free.key;
        highest := greatest(highest, free.token);
        deleted := deleted + 1;
    end loop;
    if deleted > 0 then
        insert into lock_token_floor as f (workspace, token) values (in_workspace, highest)
        on conflict (workspace) do update set token = greatest(f.token, excluded.token);
    end if;
    return deleted;
end
$$;
