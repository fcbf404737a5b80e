-- What sessions lose when they fall silent or are ended, and the revival of such sessions.

-- Revives a session that has ended or was silent for too long, and returns what it lost; the same for a
-- live session whose revival no answer has told. Null where there is nothing to tell: the session is not
-- registered, or another call tells it. The service calls this alone, before it repeats the call that
-- found the session so, and `settle_losses` once the repeated call has its answer.
create or replace function revive_session(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns jsonb language plpgsql as $$
declare
    at timestamptz;
    session agent_session;
begin
    select * into session from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    for update;
    at := clock_timestamp();
    if session.session_id is null then
        return null;
    elsif not is_session_live(session.ended_at, session.last_heartbeat_at, session_timeout, at) then
        update agent_session s set
            last_heartbeat_at = at, ended_at = null, revived_at = at, untold_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
        perform store_losses(in_workspace, session, session_timeout);
    elsif is_telling_due(session.untold_at, at) then
        update agent_session s set last_heartbeat_at = at, untold_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
    else
        return null;
    end if;
    return list_losses(in_workspace, in_agent_id, in_session_id);
end
$$;

-- Whether a call tells the losses of its session: no answer is known to have told them, and the call that
-- was to do so last was chosen more than `heartbeat_interval` ago.
create or replace function is_telling_due(untold_at timestamptz, at timestamptz) returns boolean
language sql stable parallel safe as $$
    select coalesce(untold_at < at - heartbeat_interval(), false)
$$;

-- Stores what a session has lost since it was revived the last time and nobody has taken yet, which still
-- names the session in its own row; `session` is its row from before this revival. What was taken has
-- been stored by the call that took it. One that takes it meanwhile stores it too, and need not wait for
-- the revival: the rows differ in `since`, and are told as one.
create or replace function store_losses(in_workspace text, session agent_session, session_timeout interval)
returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    lost record;
begin
    for lost in
        select l.key, l.token from file_lock l
        where l.workspace = in_workspace and l.agent_id = session.agent_id
            and l.session_id = session.session_id
            and was_held_at_last_call(l.locked_at, l.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by l.key
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'lock', lost.key,
            lost.token::text, at);
    end loop;
    for lost in
        select t.id, t.claim_token from work_task t
        where t.workspace = in_workspace and t.claimed_by = session.agent_id
            and t.claimed_session_id = session.session_id
            and is_claim_expired(t.status, t.claim_expires_at, at)
            and was_held_at_last_call(t.claimed_at, 'infinity', session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by t.id
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'claim', lost.id::text,
            lost.claim_token, at);
    end loop;
    for lost in
        select p.slot from port_block p
        where p.workspace = in_workspace and p.agent_id = session.agent_id
            and p.session_id = session.session_id
            and was_held_at_last_call(p.allocated_at, p.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by p.slot
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'port', lost.slot::text,
            null, at);
    end loop;
end
$$;

-- Lists the stored losses of a session, at most `most_losses` of each kind. Where there are more,
-- `truncated` is true; a later call tells them.
create or replace function list_losses(in_workspace text, in_agent_id text, in_session_id text)
returns jsonb language plpgsql as $$
declare
    listed_kind text;
    listed jsonb[];
    losses jsonb[] := array[]::jsonb[];
    is_truncated boolean := false;
begin
    foreach listed_kind in array array['lock', 'claim', 'port'] loop
        listed := array(
            select loss_entry(l.kind, l.session_id, l.name, l.token) from session_loss l
            where l.workspace = in_workspace and l.agent_id = in_agent_id
                and l.session_id = in_session_id and l.kind = listed_kind
            order by l.name, l.since limit most_losses() + 1);
        is_truncated := is_truncated or cardinality(listed) > most_losses();
        losses := losses || listed[1:most_losses()];
    end loop;
    return losses_by_kind(losses, is_truncated);
end
$$;

-- Deletes the losses that the answer of a call has told the session. With null, because the call has
-- failed, or where more losses are left, the next call in the session tells. Without this, because the
-- call was dropped, the first one after `heartbeat_interval` does.
create or replace function settle_losses(
    in_workspace text, in_agent_id text, in_session_id text, in_told jsonb
) returns void language plpgsql as $$
declare
    told record;
    is_left boolean := in_told is null;
begin
    for told in
        select left(kind, -1) as kind, -- `locks` as `lock`
            coalesce(entry ->> 'file_path', entry ->> 'task_id', entry ->> 'slot') as name,
            coalesce(entry ->> 'fencing_token', entry ->> 'claim_token') as token
        from jsonb_each(in_told - 'truncated') list (kind, entries),
            jsonb_array_elements(entries) entry
        order by 1, 2
    loop
        delete from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = in_session_id and l.kind = told.kind and l.name = told.name
            and l.token is not distinct from told.token;
    end loop;
    is_left := is_left or exists (
        select from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = in_session_id);
    update agent_session s set untold_at = case when is_left then timestamptz '-infinity' end
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
end
$$;

-- Tells a registration what other sessions of its agent have lost and nobody was told of, at most
-- `most_losses`; the next registration tells the rest. These sessions are still told themselves when they
-- call again. Null where there is nothing to tell.
create or replace function tell_losses(in_workspace text, in_agent_id text, in_session_id text)
returns jsonb language plpgsql as $$
declare
    loss record;
    losses jsonb[] := array[]::jsonb[];
    is_truncated boolean := false;
begin
    for loss in
        select l.session_id, l.kind, l.name, l.token, l.since from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id <> in_session_id and not l.is_told
        order by l.session_id, l.kind, l.name, l.since limit most_losses() + 1
        for update skip locked
    loop
        is_truncated := cardinality(losses) = most_losses();
        exit when is_truncated;
        losses := losses || loss_entry(loss.kind, loss.session_id, loss.name, loss.token);
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = loss.session_id and l.kind = loss.kind and l.name = loss.name
            and l.since = loss.since;
    end loop;
    return case when losses <> array[]::jsonb[] then losses_by_kind(losses, is_truncated) end;
end
$$;

-- Returns how many losses of a kind are told at most.
create or replace function most_losses() returns integer language sql immutable parallel safe as $$
    select 100
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

-- Returns losses, without repetitions, as an object with a list for each kind, and `truncated` where there
-- are more.
create or replace function losses_by_kind(in_losses jsonb[], is_truncated boolean) returns jsonb
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
    ) || case when is_truncated then '{"truncated": true}'::jsonb else '{}'::jsonb end;
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
