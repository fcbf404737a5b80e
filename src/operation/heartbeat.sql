-- Heartbeats: any call of an agent keeps its session and its claims alive.

-- Records that the caller's session is alive, and renews the leases of its claims. Every transition
-- calls this before it locks any other row. So all of them lock rows in one order, sessions before what
-- sessions hold, and cannot deadlock with one another.
--
-- Writes only what is due: a session or a claim at most once per `heartbeat_interval`. A session that
-- is not registered is not an error: nothing is written for it.
create or replace function record_heartbeat(in_workspace text, cx request) returns void
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    is_due boolean;
    session_timeout interval;
begin
    if cx.session_id is not null then
        select is_heartbeat_due(s.ended_at, s.last_heartbeat_at, at), cx.session_timeout
        into is_due, session_timeout
        from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and s.session_id = cx.session_id;
        if is_due then
            perform mark_session_alive(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout);
        end if;
    end if;
    perform from work_task t
    where t.workspace = in_workspace and t.claimed_by = cx.agent_id
        and t.status in ('claimed', 'running')
        and is_renewal_due(
            t.claimed_session_id, t.claim_expires_at, t.lease_minutes, cx.session_id, session_timeout, at)
    limit 1;
    if found then
        perform renew_claims(in_workspace, cx, session_timeout);
    end if;
end
$$;

-- Returns the time within which a heartbeat or the renewal of a lease is not written again.
create or replace function heartbeat_interval() returns interval language sql immutable parallel safe as $$
    select interval '10 seconds'
$$;

-- Whether a call writes its session's heartbeat: the last one is older than `heartbeat_interval`, or
-- the session has ended and must be revived.
create or replace function is_heartbeat_due(
    ended_at timestamptz, last_heartbeat_at timestamptz, at timestamptz
) returns boolean language sql stable parallel safe as $$
    select ended_at is not null or last_heartbeat_at < at - heartbeat_interval()
$$;

-- Writes a session's heartbeat. A session that has ended is revived, but what it held before
-- `revived_at` stays lost.
--
-- A live session's row is skipped while another call has locked it: that call writes the same
-- heartbeat. The row of an ended session is waited for, because what the caller acquires next counts
-- only once the session is live.
create or replace function mark_session_alive(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz;
    was_live boolean;
begin
    select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, clock_timestamp())
    into was_live
    from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    if was_live then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
        for update skip locked;
        if not found then
            return;
        end if;
    end if;

    -- Read again with the row locked: another call may have ended or revived the session since.
    select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, clock_timestamp())
    into was_live
    from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    for update;
    at := clock_timestamp();
    update agent_session s set
        last_heartbeat_at = at,
        ended_at = null,
        revived_at = case when was_live then s.revived_at else at end
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
end
$$;
