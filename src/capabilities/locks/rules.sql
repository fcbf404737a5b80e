-- What several transitions of locks share.

-- Whether a caller is another holder than the one named: another agent, or another session where both
-- name one.
create or replace function is_other_holder(
    agent_id text, session_id text, caller_agent_id text, caller_session_id text
) returns boolean language sql immutable parallel safe as $$
    select agent_id <> caller_agent_id or coalesce(session_id <> caller_session_id, false)
$$;

-- Whether a position in a queue still counts: its request is still being served.
create or replace function is_waiting(alive_until timestamptz, at timestamptz) returns boolean
language sql immutable parallel safe as $$
    select alive_until > at
$$;

-- Frees a key. Its counter of tokens stays.
create or replace function free_lock(in_workspace text, in_key text) returns void
language plpgsql as $$
begin
    update file_lock l set
        agent_id = null, agent_type = null, session_id = null, reason = null, locked_at = null,
        expires_at = null
    where l.workspace = in_workspace and l.key = in_key;
end
$$;

-- Makes acquisitions of one agent take turns, by an advisory lock that ends with the transaction.
create or replace function take_turn(in_workspace text, in_agent_id text) returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended(in_workspace || chr(10) || in_agent_id, 1));
end
$$;

-- Counts the live file locks that an agent holds besides one key. Acquisitions of the agent take turns, and
-- the count is a statement of its own that sees what the previous one committed. So a limit judged by it
-- holds under any concurrency.
create or replace function count_other_file_locks(
    in_workspace text, in_agent_id text, in_key text, silence interval
) returns bigint language plpgsql as $$
declare
    counted bigint;
begin
    perform take_turn(in_workspace, in_agent_id);
    select count(*) into counted from file_lock l
    where l.workspace = in_workspace and l.agent_id = in_agent_id and l.key <> in_key and l.is_file
        and is_live(in_workspace, l.agent_id, l.session_id, l.locked_at, l.expires_at, silence);
    return counted;
end
$$;
