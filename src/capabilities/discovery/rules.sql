-- Rules about sessions, as functions of columns: each is stated here and nowhere else.

-- Whether a session is live: it has not ended, and its last call is not older than `silence`.
create or replace function is_session_live(
    ended_at timestamptz, last_heartbeat_at timestamptz, silence interval, at timestamptz
) returns boolean language sql stable parallel safe as $$
    select ended_at is null and last_heartbeat_at > at - silence
$$;

-- The state of a session: `active`, `idle` after 15 minutes without a call, or `disconnected`.
create or replace function session_status(
    ended_at timestamptz, last_heartbeat_at timestamptz, silence interval, at timestamptz
) returns text language sql stable parallel safe as $$
    select case
        when not is_session_live(ended_at, last_heartbeat_at, silence, at) then 'disconnected'
        when last_heartbeat_at <= at - interval '15 minutes' then 'idle'
        else 'active'
    end
$$;

-- Whether a session has lost what it took at `since`: it has ended, or it had ended and came back later.
-- What was taken without a session, or in one that is not registered, cannot be lost this way.
create or replace function session_lost(
    in_workspace text, in_agent_id text, in_session_id text, since timestamptz, silence interval
) returns boolean language plpgsql stable as $$
begin
    return exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id
            and (
                not is_session_live(s.ended_at, s.last_heartbeat_at, silence, clock_timestamp())
                or s.revived_at > since
            )
    );
end
$$;

-- Whether something that an agent holds (a lock, a block of ports) is in force: it has not expired, and
-- its session has not lost it. Null-safe: without a holder it is not. The planner puts the body in place of
-- the call, which it would not do for a function called stable: the clock is volatile.
create or replace function is_live(
    in_workspace text, agent_id text, session_id text, since timestamptz, expires_at timestamptz,
    silence interval
) returns boolean language sql volatile parallel safe as $$
    select coalesce(expires_at > clock_timestamp(), false)
        and (session_id is null
            or not session_lost(in_workspace, agent_id, session_id, since, silence))
$$;
