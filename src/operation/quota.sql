-- Quotas: how much an agent and a workspace can have at the same time.
--
-- Counting at each call would cost more than the call. A quota of n is counted by one call in n/64, so that
-- the counts read about 64 rows per call on average, whatever the quota. Once a count has found it reached,
-- `quota_reached` says so, and every call is refused until another count finds less. A quota of up to 64
-- is counted by every call: docs/decisions/0023-quotas.md.

-- Returns why an agent cannot have one more of a kind, or null if it can. `in_limits` has the quota per
-- agent and that per workspace; 0 is no quota, and null is none of them.
create or replace function refused_by_quota(
    in_workspace text, in_agent_id text, in_kind text, in_limits integer[], session_timeout interval
) returns text language plpgsql as $$
declare
    draw double precision := random();
    smallest integer := least(nullif(in_limits[1], 0), nullif(in_limits[2], 0));
begin
    if smallest is null then
        return null;
    end if;
    perform from quota_reached q where q.workspace = in_workspace and q.kind = in_kind limit 1;
    if not found and not is_counted(smallest, draw) then
        return null;
    end if;
    if is_quota_reached(in_workspace, in_agent_id, in_kind, in_limits[1], draw, session_timeout) then
        return quota_refusal(in_kind, 'agent', in_limits[1]);
    elsif is_quota_reached(in_workspace, '', in_kind, in_limits[2], draw, session_timeout) then
        return quota_refusal(in_kind, 'workspace', in_limits[2]);
    end if;
    return null;
end
$$;

-- Whether a call counts a quota that was not reached when it was counted last. `draw` is a random number
-- from 0 to 1.
create or replace function is_counted(quota integer, draw double precision) returns boolean
language sql immutable parallel safe as $$
    select draw * quota <= 64
$$;

-- Whether a quota is reached: that of an agent, or with an empty `in_agent_id` that of the workspace. A
-- count that found it reached is believed for ten seconds, so that a client which keeps calling does not
-- make the database count all the time. A quota of up to 64 is always counted.
create or replace function is_quota_reached(
    in_workspace text, in_agent_id text, in_kind text, in_limit integer, draw double precision,
    session_timeout interval
) returns boolean language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    last_count timestamptz;
    is_reached boolean;
begin
    if in_limit = 0 then
        return false;
    end if;
    select q.counted_at into last_count from quota_reached q
    where q.workspace = in_workspace and q.kind = in_kind and q.agent_id = in_agent_id;
    if last_count is null and not is_counted(in_limit, draw) then
        return false;
    elsif last_count > at - interval '10 seconds' and not is_counted(in_limit, 1) then
        return true;
    end if;
    is_reached := count_for_quota(in_workspace, in_agent_id, in_kind, in_limit, session_timeout) >= in_limit;
    if is_reached then
        perform mark_quota_reached(in_workspace, in_agent_id, in_kind);
    elsif last_count is not null then
        delete from quota_reached q
        where q.workspace = in_workspace and q.kind = in_kind and q.agent_id = in_agent_id;
    end if;
    return is_reached;
end
$$;

-- Counts the quotas of an agent and its workspace, whether or not it is their turn, and stores what is
-- reached.
create or replace function recount_quota(
    in_workspace text, in_agent_id text, in_kind text, in_limits integer[], session_timeout interval
) returns void language plpgsql as $$
begin
    perform is_quota_reached(in_workspace, in_agent_id, in_kind, in_limits[1], 0, session_timeout);
    perform is_quota_reached(in_workspace, '', in_kind, in_limits[2], 0, session_timeout);
end
$$;

-- Stores that a quota is reached.
create or replace function mark_quota_reached(in_workspace text, in_agent_id text, in_kind text)
returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    insert into quota_reached as q (workspace, kind, agent_id, counted_at)
    values (in_workspace, in_kind, in_agent_id, at)
    on conflict (workspace, kind, agent_id) do update set counted_at = excluded.counted_at;
end
$$;

-- Counts what an agent has of a kind or, with an empty `in_agent_id`, its workspace; at most `in_limit`.
-- What a quota counts is stated here alone. Each call plans the query anew, because one plan cannot serve
-- both an agent and a workspace.
create or replace function count_for_quota(
    in_workspace text, in_agent_id text, in_kind text, in_limit integer, session_timeout interval
) returns bigint language plpgsql set plan_cache_mode = force_custom_plan as $$
declare
    at timestamptz := clock_timestamp();
    n bigint;
begin
    if in_kind = 'locks' then
        select count(*) into n from (
            select from file_lock l
            left join lateral (
                select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                where s.workspace = in_workspace and s.agent_id = l.agent_id
                    and s.session_id = l.session_id
                limit 1
            ) s on true
            where l.workspace = in_workspace and l.agent_id is not null
                and (in_agent_id = '' or l.agent_id = in_agent_id)
                and is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                    s.ended_at, s.last_heartbeat_at, s.revived_at)
            limit in_limit) live;
    elsif in_kind = 'sessions' then
        select count(*) into n from (
            select from agent_session s
            where s.workspace = in_workspace and (in_agent_id = '' or s.agent_id = in_agent_id)
                and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
            limit in_limit) live;
    elsif in_kind = 'tasks' then
        select count(*) into n from (
            select from work_task t
            where t.workspace = in_workspace and (in_agent_id = '' or t.submitted_by = in_agent_id)
                and t.completed_at is null and t.status in ('pending', 'claimed', 'running')
                and task_expiry_reason(t.status, t.deadline, t.claim_expires_at, t.attempt,
                    t.max_attempts, at) is null
            limit in_limit) unfinished;
    elsif in_kind = 'memories' then
        select count(*) into n from (
            select from memory m
            where m.workspace = in_workspace and (in_agent_id = '' or m.agent_id = in_agent_id)
            limit in_limit) stored;
    elsif in_kind = 'handoffs' then
        select count(*) into n from (
            select from handoff h
            where h.workspace = in_workspace and (in_agent_id = '' or h.agent_id = in_agent_id)
            limit in_limit) stored;
    elsif in_kind = 'idempotency_keys' then
        select count(*) into n from (
            select from idempotency_key k
            where k.workspace = in_workspace and (in_agent_id = '' or k.agent_id = in_agent_id)
                and k.created_at > at - idempotency_key_lifetime()
            limit in_limit) kept;
    elsif in_kind = 'mcp_connections' then
        select count(*) into n from (
            select from mcp_connection c
            where c.workspace = in_workspace and (in_agent_id = '' or c.agent_id = in_agent_id)
            limit in_limit) stored;
    end if;
    return n;
end
$$;

-- Returns the reason of a refusal, which names the quota and the variable that sets it.
create or replace function quota_refusal(in_kind text, in_per text, in_limit integer) returns text
language plpgsql immutable parallel safe as $$
declare
    counted text := case in_kind
        when 'locks' then 'live locks' when 'sessions' then 'live sessions'
        when 'tasks' then 'open tasks' when 'idempotency_keys' then 'idempotency keys'
        when 'mcp_connections' then 'MCP connections' else in_kind end;
begin
    return 'quota_exceeded: ' || counted || ' per ' || in_per || ', ' || in_limit || '; QUOTA_'
        || upper(in_kind) || '_PER_' || upper(in_per);
end
$$;

-- Whether a verdict is the reason that `quota_refusal` returns.
create or replace function is_quota_refusal(in_verdict text) returns boolean
language sql immutable parallel safe as $$
    select starts_with(in_verdict, 'quota_exceeded: ')
$$;
