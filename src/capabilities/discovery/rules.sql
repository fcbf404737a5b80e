-- Rules about sessions, as functions of columns. Each rule stands here and nowhere else.

-- Whether a session is live: it has not ended, and its last call is not older than `session_timeout`.
create or replace function is_session_live(
    ended_at timestamptz, last_heartbeat_at timestamptz, session_timeout interval, at timestamptz
) returns boolean language sql stable parallel safe as $$
    select ended_at is null and last_heartbeat_at > at - session_timeout
$$;

-- Returns the state of a session: `active`, `idle` after 15 minutes without a call, or `disconnected`.
create or replace function session_status(
    ended_at timestamptz, last_heartbeat_at timestamptz, session_timeout interval, at timestamptz
) returns text language sql stable parallel safe as $$
    select case
        when not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) then 'disconnected'
        when last_heartbeat_at <= at - interval '15 minutes' then 'idle'
        else 'active'
    end
$$;

-- Whether a lock or a block of ports is live: it has not expired, and its session has not lost it. A
-- session loses what it acquired at `since` when it ends, and has lost it when it was revived after
-- `since`. The last three arguments are the session's columns. They are null where the session is not
-- registered or where the holder named none; then nothing is lost with a session.
--
-- Queries join the session and call this instead of `is_live`: Citus refuses a query on rows with a
-- function that itself reads a table.
create or replace function is_live_with_session(
    since timestamptz, expires_at timestamptz, session_timeout interval, at timestamptz,
    ended_at timestamptz, last_heartbeat_at timestamptz, revived_at timestamptz
) returns boolean language sql stable parallel safe as $$
    select coalesce(
        expires_at > at
        and not coalesce(
            not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) or revived_at > since,
            false),
        false)
$$;

-- Whether a session held a lock or a block of ports when it made its last call. `revived_at` is that of
-- its earlier revivals, at which it was told what it had lost before.
create or replace function was_held_at_last_call(
    since timestamptz, expires_at timestamptz, session_timeout interval, last_heartbeat_at timestamptz,
    revived_at timestamptz
) returns boolean language sql stable parallel safe as $$
    select is_live_with_session(
        since, expires_at, session_timeout, last_heartbeat_at, null, last_heartbeat_at, revived_at)
$$;

-- Whether a lock or a block of ports of this holder is live now: looks up the holder's session and
-- calls `is_live_with_session`. False without a holder (`expires_at` is null then).
create or replace function is_live(
    in_workspace text, in_agent_id text, in_session_id text, since timestamptz, expires_at timestamptz,
    session_timeout interval
) returns boolean language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
    ended_at timestamptz;
    last_heartbeat_at timestamptz;
    revived_at timestamptz;
begin
    if in_session_id is not null and expires_at > at then
        select s.ended_at, s.last_heartbeat_at, s.revived_at
        into ended_at, last_heartbeat_at, revived_at
        from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    end if;
    return is_live_with_session(
        since, expires_at, session_timeout, at, ended_at, last_heartbeat_at, revived_at);
end
$$;

-- Whether a session comes after another one in the list of sessions: the latest heartbeat is first.
create or replace function is_session_after(
    heartbeat timestamptz, agent_id text, session_id text,
    other_heartbeat timestamptz, other_agent_id text, other_session_id text
) returns boolean language sql immutable parallel safe as $$
    select heartbeat < other_heartbeat or (heartbeat = other_heartbeat
        and (agent_id, session_id) > (other_agent_id, other_session_id))
$$;
