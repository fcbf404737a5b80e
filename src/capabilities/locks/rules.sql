-- What several transitions of locks share.

-- Whether a caller is another holder than the one named: another agent, or another session where both
-- name one.
create or replace function is_owned_by_other(
    agent_id text, session_id text, caller_agent_id text, caller_session_id text
) returns boolean language sql immutable parallel safe as $$
    select agent_id <> caller_agent_id or coalesce(session_id <> caller_session_id, false)
$$;

-- Whether a position in a queue still counts: its request is still being served.
create or replace function is_waiter_alive(alive_until timestamptz, at timestamptz) returns boolean
language sql immutable parallel safe as $$
    select alive_until > at
$$;

-- Ends the grant of a key that has this token; the token stays, as the key's counter. Returns false
-- when the grant has ended before.
create or replace function free_lock(in_workspace text, in_key text, in_token bigint) returns boolean
language plpgsql as $$
begin
    update file_lock l set
        agent_id = null, agent_type = null, session_id = null, reason = null, locked_at = null,
        expires_at = null
    where l.workspace = in_workspace and l.key = in_key and l.token = in_token
        and l.agent_id is not null;
    return found;
end
$$;

-- Counts the live file locks that an agent holds besides one key. Acquisitions of one agent take turns;
-- the count is a statement of its own and sees what the previous one committed. So a limit judged by it
-- holds under any concurrency.
--
-- One plan serves every agent; in a small database PostgreSQL would make another for each call.
create or replace function count_other_file_locks(
    in_workspace text, in_agent_id text, in_key text, session_timeout interval
) returns bigint language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    lock record;
    counted bigint := 0;
begin
    perform from acquire_advisory_lock(in_workspace, 'locks', in_agent_id);
    for lock in
        select l.session_id, l.locked_at, l.expires_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.key <> in_key and l.is_file
    loop
        counted := counted + is_live(in_workspace, in_agent_id, lock.session_id, lock.locked_at,
            lock.expires_at, session_timeout)::integer;
    end loop;
    return counted;
end
$$;
