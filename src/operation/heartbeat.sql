-- Heartbeats: any call of an agent keeps its session and its claims alive.

-- Records that the session in which a call acts is alive, and renews the claims that the call keeps
-- alive. A call that acts in no session is a heartbeat for every live session of its agent. Every
-- transition calls this before it locks any other row. So all of them lock rows in one order, sessions
-- before what sessions hold, and cannot deadlock with one another.
--
-- Writes only what is due: a session or a claim at most once per `heartbeat_interval`. A session that
-- is not registered is not an error: nothing is written for it. A session that has ended is one: see
-- `mark_session_alive`.
create or replace function record_heartbeat(in_workspace text, cx request) returns void
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    is_due boolean;
    session_timeout interval;
begin
    if cx.session_id is null then
        perform record_agent_heartbeat(in_workspace, cx.agent_id, cx.session_timeout);
        return;
    end if;
    select is_heartbeat_due(s.ended_at, s.last_heartbeat_at, at) or is_telling_due(s.untold_at, at),
        cx.session_timeout
    into is_due, session_timeout
    from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id
        and s.session_id = cx.session_id;
    if is_due then
        perform mark_session_alive(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout);
    end if;
    perform from work_task t
    where t.workspace = in_workspace and t.claimed_by = cx.agent_id
        and t.status in ('claimed', 'running')
        and coalesce(t.claimed_session_id = cx.session_id, t.claimed_session_id is null)
        and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
            t.lease_minutes, case when t.claimed_session_id is not null then session_timeout end, at)
    limit 1;
    if found then
        perform renew_due_claims(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout);
    end if;
end
$$;

-- Records the heartbeat of every live session of an agent, and renews the claims of these sessions and
-- those that the agent made without a session. Sessions that have ended stay as they are.
create or replace function record_agent_heartbeat(
    in_workspace text, in_agent_id text, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    perform from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.ended_at is null
        and s.last_heartbeat_at > at - session_timeout
        and s.last_heartbeat_at < at - heartbeat_interval()
    limit 1;
    if found then
        perform mark_agent_alive(in_workspace, in_agent_id, session_timeout);
    end if;
    perform from work_task t
    left join lateral (
        select s.ended_at, s.last_heartbeat_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = t.claimed_session_id
        limit 1
    ) s on true
    where t.workspace = in_workspace and t.claimed_by = in_agent_id
        and t.status in ('claimed', 'running')
        and (t.claimed_session_id is null
            or is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
            t.lease_minutes, case when t.claimed_session_id is not null then session_timeout end, at)
    limit 1;
    if found then
        perform renew_due_claims(in_workspace, in_agent_id, null, session_timeout);
    end if;
end
$$;

-- Records the heartbeat of a call that is no transition. Returns whether that was possible: a session that
-- is lost stays so where the answer has no place to tell it (`in_raises_loss` false). A live one whose
-- losses are not told yet stays live.
create or replace function record_heartbeat_of_read(
    in_workspace text, cx request, in_raises_loss boolean
) returns boolean language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    if in_raises_loss then
        perform record_heartbeat(in_workspace, cx);
        return true;
    end if;
    begin
        perform record_heartbeat(in_workspace, cx);
    exception when sqlstate 'AC002' then
        update agent_session s set last_heartbeat_at = at
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = cx.session_id
            and is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at);
        return false;
    end;
    return true;
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

-- Writes the heartbeat of a live session. Its row is skipped while another call has locked it: that
-- call writes the same heartbeat.
--
-- A session that has ended, or was silent for too long, raises `session_lost` (SQLSTATE AC002), and the
-- whole call has no effect. The service then calls `revive_session`, repeats the call, and adds to its
-- answer what was lost. So nothing is granted to a session whose agent does not know that it lost all.
-- The same where a call has revived the session, and its answer has not come to tell it.
create or replace function mark_session_alive(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    was_live boolean;
begin
    select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
        and not is_telling_due(s.untold_at, at)
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
        -- Read again with the row locked: another call may have ended the session since.
        at := clock_timestamp();
        select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
        into was_live
        from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    end if;
    if not was_live then
        perform raise_session_lost();
    end if;
    update agent_session s set last_heartbeat_at = at
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
end
$$;

-- Raises `session_lost`, which `mark_session_alive` explains.
create or replace function raise_session_lost() returns void language plpgsql as $$
begin
    raise exception 'session_lost' using errcode = 'AC002';
end
$$;

-- Writes the heartbeat of each live session of an agent whose heartbeat is due. Rows that another call
-- has locked are skipped: that call writes the same, or ends the session. The time is read again for
-- each row, so that no session which fell silent meanwhile is taken for live.
create or replace function mark_agent_alive(
    in_workspace text, in_agent_id text, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    due_session_id text;
begin
    for due_session_id in
        select s.session_id from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.ended_at is null
            and s.last_heartbeat_at > at - session_timeout
            and s.last_heartbeat_at < at - heartbeat_interval()
        order by s.session_id
        for update skip locked
    loop
        at := clock_timestamp();
        update agent_session s set last_heartbeat_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = due_session_id
            and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at);
    end loop;
end
$$;
