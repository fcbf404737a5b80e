-- Registration and heartbeat of sessions.

-- Registers a session, or updates its description. Returns why a quota does not allow it, or null. Claims
-- made before the session was registered depended on their lease alone; from now on they also expire with
-- the session's timeout.
create or replace function register_session(
    in_workspace text, cx request, in_session_id text, in_capabilities text[], in_current_task text,
    in_delegated_from text, in_metadata json, in_phase_archetype text, in_connection_id text,
    in_quota integer[], in_quota_of_connections integer[]
) returns text language plpgsql as $$
#variable_conflict use_column
declare
    refusal text := refuse_registration(in_workspace, cx, in_session_id, in_connection_id, in_quota,
        in_quota_of_connections);
    at timestamptz := clock_timestamp();
    claims_expire_at timestamptz := claim_expiry(null, cx.session_timeout, at);
    ended_at timestamptz;
    last_heartbeat_at timestamptz;
begin
    if refusal is not null then
        perform record_audit(
            in_workspace, cx, 'register_agent',
            jsonb_build_object('session_id', in_session_id, 'capabilities', to_jsonb(in_capabilities)),
            jsonb_build_object('reason', refusal), false);
        return refusal;
    end if;
    insert into agent_session as s (
        workspace, agent_id, session_id, agent_type, capabilities, current_task, delegated_from,
        metadata, phase_archetype
    ) values (
        in_workspace, cx.agent_id, in_session_id, cx.agent_type, in_capabilities, in_current_task,
        in_delegated_from, in_metadata, in_phase_archetype
    )
    on conflict (workspace, agent_id, session_id) do nothing;
    if not found then
        perform mark_session_alive(in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
        update agent_session s set
            agent_type = cx.agent_type, capabilities = in_capabilities,
            current_task = in_current_task, delegated_from = in_delegated_from,
            metadata = in_metadata, phase_archetype = in_phase_archetype
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and s.session_id = in_session_id
        returning s.ended_at, s.last_heartbeat_at into ended_at, last_heartbeat_at;
        -- The update has waited for a call that was ending the session.
        if not is_session_live(ended_at, last_heartbeat_at, cx.session_timeout, clock_timestamp()) then
            perform raise_session_lost();
        end if;
    end if;
    update work_task t set claim_expires_at = claims_expire_at
    where t.workspace = in_workspace and t.claimed_by = cx.agent_id
        and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
        and t.claim_expires_at <> least(t.claim_expires_at, claims_expire_at);
    if in_connection_id is not null then
        insert into mcp_connection (workspace, agent_id, connection_id, session_id)
        values (in_workspace, cx.agent_id, in_connection_id, in_session_id)
        on conflict (workspace, agent_id, connection_id) do update set
            session_id = excluded.session_id, bound_at = excluded.bound_at;
    end if;
    perform record_audit(
        in_workspace, cx, 'register_agent',
        jsonb_build_object('session_id', in_session_id, 'capabilities', to_jsonb(in_capabilities)),
        '{}', true);
    return null;
end
$$;

-- Returns the quota that does not allow another session, or another MCP connection. Null where both are
-- known already.
create or replace function refuse_registration(
    in_workspace text, cx request, in_session_id text, in_connection_id text, in_quota integer[],
    in_quota_of_connections integer[]
) returns text language plpgsql as $$
declare
    refusal text := refused_by_quota(
        in_workspace, cx.agent_id, 'sessions', in_quota, cx.session_timeout);
begin
    if refusal is not null then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id;
        refusal := case when not found then refusal end;
    end if;
    if refusal is null and in_connection_id is not null then
        refusal := refuse_connection(in_workspace, cx.agent_id, in_connection_id,
            in_quota_of_connections, cx.session_timeout);
    end if;
    return refusal;
end
$$;

-- Returns the quota that does not allow another MCP connection. Null if it does, or if the connection is
-- known already.
create or replace function refuse_connection(
    in_workspace text, in_agent_id text, in_connection_id text, in_quota integer[],
    session_timeout interval
) returns text language plpgsql as $$
declare
    refusal text := refused_by_quota(
        in_workspace, in_agent_id, 'mcp_connections', in_quota, session_timeout);
begin
    if refusal is null then
        return null;
    end if;
    perform from mcp_connection c
    where c.workspace = in_workspace and c.agent_id = in_agent_id
        and c.connection_id = in_connection_id;
    return case when not found then refusal end;
end
$$;

-- Registers a session, and returns what its agent should know: `held_elsewhere`, what other live sessions
-- of the agent hold; `adopted`, what this session takes over from them (with `in_adopts`); and `lost`,
-- what its other sessions have lost, once.
--
-- An adoption first locks the rows of all live sessions of the agent, and of its own, in the order of
-- their keys, which a clean-up skips then: none of them ends before the adoption does. Without effect where
-- a quota does not allow the registration: `refusal` says so then.
create or replace function begin_session(
    in_workspace text, cx request, in_session_id text, in_capabilities text[], in_current_task text,
    in_delegated_from text, in_metadata json, in_phase_archetype text, in_connection_id text,
    in_adopts boolean, in_quota integer[], in_quota_of_connections integer[],
    out held_elsewhere jsonb, out adopted jsonb, out lost jsonb, out refusal text
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    if in_adopts then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and (s.session_id = in_session_id
                or is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at))
        order by s.session_id
        for update;
    end if;
    refusal := register_session(
        in_workspace, cx, in_session_id, in_capabilities, in_current_task, in_delegated_from,
        in_metadata, in_phase_archetype, in_connection_id, in_quota, in_quota_of_connections);
    if refusal is not null then
        return;
    end if;
    if in_adopts then
        adopted := adopt_held_elsewhere(
            in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
    end if;
    held_elsewhere := list_held_elsewhere(
        in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
    lost := tell_losses(in_workspace, cx.agent_id, in_session_id);
end
$$;

-- Returns the live session of an agent of this type that was registered last, or null if it has none.
create or replace function newest_live_session(
    in_workspace text, in_agent_id text, in_agent_type text, session_timeout interval
) returns text language sql volatile as $$
    select s.session_id from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.agent_type = in_agent_type
        and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, clock_timestamp())
    order by s.started_at desc, s.session_id desc limit 1
$$;

-- Records the heartbeat of the session in which the caller acts or, where it acts in none, of all live
-- sessions of the caller. Returns the session's id, that of the latest one where there are several, or
-- null where there is no such session. Heartbeats have no audit row.
create or replace function record_session_heartbeat(
    in_workspace text, cx request, in_phase_archetype text, out session_id text
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    select s.session_id into session_id from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id
        and case when cx.session_id is null
            then is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at)
            else s.session_id = cx.session_id end
    order by s.last_heartbeat_at desc limit 1;
    if session_id is null then
        return;
    end if;
    perform record_heartbeat(in_workspace, cx);
    if in_phase_archetype is not null then
        update agent_session s set phase_archetype = in_phase_archetype
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and s.session_id = record_session_heartbeat.session_id
            and s.phase_archetype is distinct from in_phase_archetype;
    end if;
end
$$;

-- Decides in which session an MCP call acts that comes through a connection or names no session: the
-- table in docs/states.md. Writes nothing, because the call is not permitted yet.
create or replace function find_session(
    in_workspace text, in_agent_id text, in_connection_id text, in_named_session_id text,
    session_timeout interval, out session_id text, out has_ended boolean
) language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    live text[];
begin
    if in_connection_id is not null then
        select c.session_id, c.has_ended into session_id, has_ended from mcp_connection c
        where c.workspace = in_workspace and c.agent_id = in_agent_id
            and c.connection_id = in_connection_id;
    end if;
    has_ended := coalesce(has_ended, false);
    if has_ended then
        return;
    elsif in_named_session_id is not null then
        session_id := in_named_session_id;
        return;
    elsif in_connection_id is null then
        live := array(
            select s.session_id from agent_session s
            where s.workspace = in_workspace and s.agent_id = in_agent_id
                and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
            limit 2);
        session_id := case when cardinality(live) = 1 then live[1] end;
    end if;
end
$$;
