-- What other sessions of an agent hold, and its adoption by one of them.

-- Lists what live sessions of an agent other than one hold: locks, claims and blocks of ports, at most
-- `most_held` of each. Null where they hold nothing. The agent knows of the listed claims from now on.
create or replace function list_held_elsewhere(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    locks jsonb := '[]'::jsonb;
    claims jsonb := '[]'::jsonb;
    ports jsonb := '[]'::jsonb;
    held record;
begin
    for held in
        select l.key, l.token, l.session_id, l.expires_at, l.locked_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id <> in_session_id
        order by l.key
    loop
        exit when jsonb_array_length(locks) > most_held();
        continue when not is_live(in_workspace, in_agent_id, held.session_id, held.locked_at,
            held.expires_at, session_timeout);
        locks := locks || held_lock(held.key, held.token, held.session_id, held.expires_at);
    end loop;
    claims := list_claims_elsewhere(in_workspace, in_agent_id, in_session_id);
    for held in
        select p.slot, p.session_id, p.expires_at from live_port_blocks(in_workspace, session_timeout) p
        where p.agent_id = in_agent_id and p.session_id <> in_session_id
        order by p.slot limit most_held() + 1
    loop
        ports := ports || held_ports(held.slot, held.session_id, held.expires_at);
    end loop;
    if locks || claims || ports = '[]' then
        return null;
    end if;
    return held_lists(locks, claims, ports);
end
$$;

-- Lists the claims of other sessions of an agent that have not expired, and marks them as known.
create or replace function list_claims_elsewhere(
    in_workspace text, in_agent_id text, in_session_id text
) returns jsonb language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    claims jsonb := '[]'::jsonb;
    held record;
begin
    for held in
        select t.id, t.claim_token, t.claimed_session_id, t.claim_expires_at from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id <> in_session_id and t.status in ('claimed', 'running')
            and not is_claim_expired(t.status, t.claim_expires_at, at)
        order by t.id limit most_held() + 1
    loop
        perform mark_claim_known(in_workspace, held.id, held.claim_token);
        claims := claims || held_claim(
            held.id, held.claim_token, held.claimed_session_id, held.claim_expires_at);
    end loop;
    return claims;
end
$$;

-- Returns a lock, a claim or a block of ports as the lists of what sessions hold show it.
create or replace function held_lock(key text, token bigint, session_id text, expires_at timestamptz)
returns jsonb language sql stable parallel safe as $$
    select jsonb_build_object('file_path', key, 'fencing_token', token, 'session_id', session_id,
        'expires_at', expires_at)
$$;

create or replace function held_claim(id uuid, token text, session_id text, expires_at timestamptz)
returns jsonb language sql stable parallel safe as $$
    select jsonb_build_object('task_id', id, 'claim_token', token, 'session_id', session_id,
        'claim_expires_at', expires_at)
$$;

create or replace function held_ports(slot integer, session_id text, expires_at timestamptz)
returns jsonb language sql stable parallel safe as $$
    select jsonb_build_object('slot', slot, 'session_id', session_id, 'expires_at', expires_at)
$$;

-- Returns lists of what sessions hold as one object, each cut to `most_held` entries.
create or replace function held_lists(locks jsonb, claims jsonb, ports jsonb) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_object(
        'locks', first_held(locks), 'claims', first_held(claims), 'ports', first_held(ports),
        'truncated', greatest(jsonb_array_length(locks), jsonb_array_length(claims),
            jsonb_array_length(ports)) > most_held())
$$;

-- Returns the first `most_held` entries of a list.
create or replace function first_held(list jsonb) returns jsonb language sql immutable parallel safe as $$
    select jsonb_path_query_array(list, '$[0 to $last]', jsonb_build_object('last', most_held() - 1))
$$;

-- Returns how many locks, claims and blocks of ports a registration lists or adopts at most.
create or replace function most_held() returns integer language sql immutable parallel safe as $$
    select 100
$$;

-- Moves what other live sessions of an agent hold to one of its sessions, and returns it. Fencing tokens
-- and claim tokens stay valid, and so do the times of expiry. The caller has locked the rows of these
-- sessions (`begin_session`). Locks and tasks are locked in the order of their keys, and each is checked
-- again with its row locked: its session can have lost it, and another call can have taken it meanwhile.
-- What belongs to a session that is not live is not locked: `end_session` may be freeing it, session by
-- session, and would wait for a lock that the adoption has.
--
-- `locked_at` becomes the time of the adoption: the adopting session may have been revived after the lock
-- was acquired, and had then lost it at once. A call that has read the lock before sees by that time that
-- it has changed.
create or replace function adopt_held_elsewhere(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    held record;
    locks jsonb := '[]'::jsonb;
begin
    for held in
        select l.key, l.token, l.session_id, l.locked_at, l.expires_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id <> in_session_id
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = in_agent_id
                    and s.session_id = l.session_id
                    and not is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        order by l.key
        for update of l
    loop
        exit when jsonb_array_length(locks) = most_held();
        continue when not is_live(in_workspace, in_agent_id, held.session_id, held.locked_at,
            held.expires_at, session_timeout);
        at := clock_timestamp();
        update file_lock l set session_id = in_session_id, locked_at = at
        where l.workspace = in_workspace and l.key = held.key;
        locks := locks || held_lock(held.key, held.token, held.session_id, held.expires_at);
    end loop;
    return held_lists(
        locks,
        adopt_claims(in_workspace, in_agent_id, in_session_id, session_timeout),
        adopt_ports(in_workspace, in_agent_id, in_session_id, session_timeout));
end
$$;

-- The part of `adopt_held_elsewhere` for claims. An adopted claim expires with its new session.
create or replace function adopt_claims(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    held record;
    expires_at timestamptz;
    claims jsonb := '[]'::jsonb;
begin
    for held in
        select t.id, t.status, t.claim_token, t.claimed_session_id, t.claim_expires_at,
            t.lease_expires_at
        from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id <> in_session_id and t.status in ('claimed', 'running')
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = in_agent_id
                    and s.session_id = t.claimed_session_id
                    and not is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        order by t.id
        for update of t
    loop
        exit when jsonb_array_length(claims) = most_held();
        at := clock_timestamp();
        continue when is_claim_expired(held.status, held.claim_expires_at, at);
        expires_at := claim_expiry(held.lease_expires_at, session_timeout, at);
        update work_task t set
            claimed_session_id = in_session_id, claim_expires_at = expires_at, is_claim_known = true
        where t.workspace = in_workspace and t.id = held.id;
        claims := claims || held_claim(
            held.id, held.claim_token, held.claimed_session_id, expires_at);
    end loop;
    return claims;
end
$$;

-- The part of `adopt_held_elsewhere` for blocks of ports: one, because a session has at most one, and
-- none where the session has its own.
create or replace function adopt_ports(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    at timestamptz;
    held record;
begin
    perform from acquire_advisory_lock(in_workspace, 'ports', '');
    if exists (
        select from live_port_blocks(in_workspace, session_timeout) b where b.session_id = in_session_id
    ) then
        return '[]'::jsonb;
    end if;
    select b.slot, b.session_id, b.allocated_at, b.expires_at into held
    from live_port_blocks(in_workspace, session_timeout) b
    where b.agent_id = in_agent_id and b.session_id <> in_session_id
    order by b.expires_at desc, b.slot limit 1;
    at := clock_timestamp();
    update port_block p set session_id = in_session_id, allocated_at = at
    where p.workspace = in_workspace and p.slot = held.slot and p.agent_id = in_agent_id
        and p.session_id = held.session_id and p.allocated_at = held.allocated_at;
    if not found then
        return '[]'::jsonb;
    end if;
    return jsonb_build_array(held_ports(held.slot, held.session_id, held.expires_at));
end
$$;
