-- Rules about locks and waiters, and what several transitions of locks share.

-- Whether a lock, a waiter or a claim belongs to another holder than the caller: to another agent, or
-- to another session where both name a session.
create or replace function is_owned_by_other(
    agent_id text, session_id text, caller_agent_id text, caller_session_id text
) returns boolean language sql immutable parallel safe as $$
    select agent_id <> caller_agent_id or coalesce(session_id <> caller_session_id, false)
$$;

-- The same for a caller that can have proven that the lock or the claim is its own: the current fencing
-- token or claim token of the same agent is proof enough, whatever the session.
create or replace function is_owned_by_other_without_proof(
    agent_id text, session_id text, is_proven boolean, caller_agent_id text, caller_session_id text
) returns boolean language sql immutable parallel safe as $$
    select is_owned_by_other(
        agent_id, case when is_proven then null else session_id end, caller_agent_id, caller_session_id)
$$;

-- Whether a waiter still counts in the queue: a replica is still serving its request.
create or replace function is_waiter_alive(alive_until timestamptz, at timestamptz) returns boolean
language sql immutable parallel safe as $$
    select alive_until > at
$$;

-- Frees the key that is locked with this token. The token stays in the row as the key's counter.
-- Returns false when the lock was released before.
create or replace function free_lock(in_workspace text, in_key text, in_token bigint) returns boolean
language plpgsql as $$
begin
    return free_unchanged_lock(in_workspace, in_key, in_token, null);
end
$$;

-- Frees a key while its lock is still the one that the caller has read: not released, taken or adopted by
-- another session since. Returns false otherwise. Null as `in_locked_at` leaves it to the token.
create or replace function free_unchanged_lock(
    in_workspace text, in_key text, in_token bigint, in_locked_at timestamptz
) returns boolean language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update file_lock l set
        agent_id = null, agent_type = null, session_id = null, reason = null, locked_at = null,
        expires_at = null, freed_at = at
    where l.workspace = in_workspace and l.key = in_key and l.token = in_token
        and l.agent_id is not null and (in_locked_at is null or l.locked_at = in_locked_at);
    return found;
end
$$;

-- Counts the live file locks that an agent holds besides one key. Acquisitions of one agent run one
-- after the other under an advisory lock, and the count is a statement after it, whose snapshot has
-- what the previous acquisition committed. So no concurrency exceeds the limit.
--
-- The generic plan serves every agent. In a small database PostgreSQL would otherwise plan at each
-- call.
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
