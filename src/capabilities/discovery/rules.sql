-- Rules about sessions, as functions of columns: each is stated here and nowhere else.

-- Whether a session is live: it has not ended, and its last call is not older than `silence`.
create or replace function is_session_live(
    ended_at timestamptz, last_heartbeat_at timestamptz, session_timeout interval, at timestamptz
) returns boolean language sql stable parallel safe as $$
    select ended_at is null and last_heartbeat_at > at - session_timeout
$$;

-- The state of a session: `active`, `idle` after 15 minutes without a call, or `disconnected`.
create or replace function session_status(
    ended_at timestamptz, last_heartbeat_at timestamptz, session_timeout interval, at timestamptz
) returns text language sql stable parallel safe as $$
    select case
        when not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) then 'disconnected'
        when last_heartbeat_at <= at - interval '15 minutes' then 'idle'
        else 'active'
    end
$$;

-- Whether something that an agent holds (a lock, a block of ports) is in force: it has not expired, and
-- its session has not lost it. A session loses what it took at `since` when it ends, or when it had ended
-- and came back later. The last three columns are the session's; they are null where it is not
-- registered, or where something was taken without one, and then nothing can be lost this way.
--
-- A condition on rows calls this on a joined session and not `is_live`: Citus refuses a condition whose
-- function reads a table.
create or replace function is_live_with_session(
    since timestamptz, expires_at timestamptz, session_timeout interval, at timestamptz,
    ended_at timestamptz, last_heartbeat_at timestamptz, revived_at timestamptz
) returns boolean language sql stable parallel safe as $$
    select coalesce(
        expires_at > at
        and not coalesce(
            not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) or revived_at > since, false),
        false)
$$;

-- `is_live_with_session` for one holder, now. Null-safe: without a holder nothing is in force.
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
    return is_live_with_session(since, expires_at, session_timeout, at, ended_at, last_heartbeat_at, revived_at);
end
$$;
