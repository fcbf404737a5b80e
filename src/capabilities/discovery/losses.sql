-- What sessions lose when they fall silent or are ended, and the revival of such sessions.

-- Revives a session that has ended or was silent for too long, and returns what it lost. Null where
-- there is nothing to revive: the session is not registered, or another call has revived it and tells
-- the loss. The service calls this alone, before it repeats the call that found the session so.
create or replace function revive_session(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    at timestamptz;
    session agent_session;
    losses jsonb;
begin
    select * into session from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    for update;
    at := clock_timestamp();
    if session.session_id is null
        or is_session_live(session.ended_at, session.last_heartbeat_at, session_timeout, at)
    then
        return null;
    end if;
    update agent_session s set last_heartbeat_at = at, ended_at = null, revived_at = at
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    losses := list_losses(in_workspace, session, session_timeout);
    delete from session_loss l
    where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id = in_session_id;
    return losses;
end
$$;

-- Lists what a session has lost since it was revived the last time; `session` is its row from before
-- this revival. What nobody has taken yet still names the session in its own row. What was taken is in
-- `session_loss`, which is read last: what is taken in between is found in one of the two.
create or replace function list_losses(in_workspace text, session agent_session, session_timeout interval)
returns jsonb language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    losses jsonb[] := array(
        select loss_entry('lock', session.session_id, l.key, l.token::text)
        from file_lock l
        where l.workspace = in_workspace and l.agent_id = session.agent_id
            and l.session_id = session.session_id
            and was_held_at_last_call(l.locked_at, l.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by l.key limit most_losses());
begin
    losses := losses || array(
        select loss_entry('claim', session.session_id, t.id::text, t.claim_token)
        from work_task t
        where t.workspace = in_workspace and t.claimed_by = session.agent_id
            and t.claimed_session_id = session.session_id
            and is_claim_expired(t.status, t.claim_expires_at, at)
            and was_held_at_last_call(t.claimed_at, 'infinity', session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by t.id limit most_losses());
    losses := losses || array(
        select loss_entry('port', session.session_id, p.slot::text, null)
        from port_block p
        where p.workspace = in_workspace and p.agent_id = session.agent_id
            and p.session_id = session.session_id
            and was_held_at_last_call(p.allocated_at, p.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by p.slot limit most_losses());
    losses := losses || array(
        select loss_entry(l.kind, l.session_id, l.name, l.token)
        from session_loss l
        where l.workspace = in_workspace and l.agent_id = session.agent_id
            and l.session_id = session.session_id
            and was_held_at_last_call(l.since, 'infinity', session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by l.kind, l.name, l.since limit most_losses());
    return losses_by_kind(losses);
end
$$;

-- Records again what a revived session has lost, because the call that revived it has failed and its
-- client got no answer: a registration of the agent, or the next revival, tells it.
create or replace function keep_losses(
    in_workspace text, in_agent_id text, in_session_id text, in_lost jsonb
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    lost record;
begin
    for lost in
        select left(kind, -1) as kind, -- `locks` as `lock`
            coalesce(entry ->> 'file_path', entry ->> 'task_id', entry ->> 'slot') as name,
            coalesce(entry ->> 'fencing_token', entry ->> 'claim_token') as token
        from jsonb_each(in_lost) list (kind, entries), jsonb_array_elements(entries) entry
        order by 1, 2
    loop
        perform store_loss(
            in_workspace, in_agent_id, in_session_id, lost.kind, lost.name, lost.token, at);
    end loop;
end
$$;

-- Tells a registration what the sessions of its agent have lost to others and nobody was told of. These
-- sessions are still told themselves when they call again. Null where there is nothing to tell.
create or replace function tell_losses(in_workspace text, in_agent_id text) returns jsonb language plpgsql as $$
declare
    loss record;
    losses jsonb[] := array[]::jsonb[];
begin
    for loss in
        select l.session_id, l.kind, l.name, l.token, l.since from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and not l.is_told
        order by l.session_id, l.kind, l.name, l.since limit most_losses()
        for update skip locked
    loop
        losses := losses || loss_entry(loss.kind, loss.session_id, loss.name, loss.token);
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = loss.session_id and l.kind = loss.kind and l.name = loss.name
            and l.since = loss.since;
    end loop;
    return case when losses <> array[]::jsonb[] then losses_by_kind(losses) end;
end
$$;

-- Returns how many losses of a kind are told at most.
create or replace function most_losses() returns bigint language sql immutable parallel safe as $$
    select 100::bigint
$$;

-- Returns one loss with its kind, as `losses_by_kind` takes it.
create or replace function loss_entry(kind text, session_id text, name text, token text) returns jsonb
language sql immutable parallel safe as $$
    select jsonb_build_object('kind', kind, 'entry', case kind
        when 'lock' then jsonb_build_object(
            'file_path', name, 'fencing_token', token::bigint, 'session_id', session_id)
        when 'claim' then jsonb_build_object(
            'task_id', name, 'claim_token', token, 'session_id', session_id)
        else jsonb_build_object('slot', name::integer, 'session_id', session_id) end)
$$;

-- Returns losses, without repetitions, as an object with a list for each kind.
create or replace function losses_by_kind(in_losses jsonb[]) returns jsonb
language plpgsql immutable as $$
begin
    return (
        select jsonb_build_object(
            'locks', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'lock'), '[]'),
            'claims', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'claim'), '[]'),
            'ports', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'port'), '[]'))
        from (
            select distinct loss ->> 'kind' as kind, loss -> 'entry' as entry from unnest(in_losses) loss
        ) listed
    );
end
$$;

-- Records that another call takes or frees what a session held, where the session has lost it because
-- it ended or was silent for too long. Nothing is recorded of a live session, of one that is not
-- registered, and of what the session was told it lost when it was revived.
create or replace function record_loss(
    in_workspace text, in_agent_id text, in_session_id text, in_kind text, in_name text, in_token text,
    in_since timestamptz, in_expires_at timestamptz, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    session agent_session;
begin
    if in_session_id is null then
        return;
    end if;
    select * into session from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    if session.session_id is not null
        and not is_session_live(session.ended_at, session.last_heartbeat_at, session_timeout, at)
        and was_held_at_last_call(in_since, in_expires_at, session_timeout, session.last_heartbeat_at,
            session.revived_at)
    then
        perform store_loss(
            in_workspace, in_agent_id, in_session_id, in_kind, in_name, in_token, in_since);
    end if;
end
$$;

-- Stores a loss of a session, once.
create or replace function store_loss(
    in_workspace text, in_agent_id text, in_session_id text, in_kind text, in_name text, in_token text,
    in_since timestamptz
) returns void language plpgsql as $$
begin
    insert into session_loss (workspace, agent_id, session_id, kind, name, token, since)
    values (in_workspace, in_agent_id, in_session_id, in_kind, in_name, in_token, in_since)
    on conflict on constraint session_loss_pkey do nothing;
end
$$;
