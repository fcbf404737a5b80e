-- Taking a lock, or extending one.

-- Takes the lock on a key, or extends it for its holder, and records it. Returns the verdict
-- (`acquired`, `refreshed`, `over_limit`, `locked_by_other`, `locked_by_other_session`, or
-- `in_refusal`) and the lock: the caller's, or the one that stands in its way. The token of another's
-- lock is not for the caller.
--
-- `in_refusal` says what is wrong with the request, whoever holds the lock. `in_denial` is the reason
-- of the denial when the agent holds `in_file_limit` other file locks. `in_waiter_id` identifies a
-- request that waits; `in_may_wait` is false in its last attempt, the one whose refusal is recorded.
create or replace function acquire_lock(
    in_workspace text, cx request, in_key text, in_is_file boolean, in_reason text, in_ttl interval,
    in_refusal text, in_file_limit bigint, in_denial text, in_engine text, in_waiter_id uuid,
    in_may_wait boolean
) returns lock_verdict language plpgsql as $$
declare
    taken lock_verdict;
    is_granted boolean := false;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_is_file and in_file_limit is not null
        and count_other_file_locks(in_workspace, cx.agent_id, in_key, cx.session_timeout) >= in_file_limit
    then
        taken.verdict := 'over_limit';
        perform record_denial(
            in_workspace, cx, 'acquire_lock', in_key, in_engine, in_denial, '{}');
        return taken;
    end if;

    if in_refusal is not null then
        taken.verdict := in_refusal;
    else
        taken := grant_lock(in_workspace, cx, in_key, in_is_file, in_reason, in_ttl, in_waiter_id);
        is_granted := taken.verdict in ('acquired', 'refreshed');
        if in_waiter_id is not null then
            taken.queue_position := update_queue_position(
                in_workspace, cx, in_key, in_reason, in_waiter_id, in_may_wait and not is_granted);
        end if;
    end if;
    if is_granted or in_refusal is not null or not in_may_wait then
        perform record_audit(
            in_workspace, cx, 'acquire_lock',
            jsonb_build_object('file_path', in_key, 'reason', in_reason),
            case when is_granted
                then jsonb_build_object('action', taken.verdict, 'fencing_token', taken.token,
                    'took_over_from', taken.took_over_from)
                else jsonb_build_object('reason', taken.verdict, 'locked_by', taken.agent_id) end,
            is_granted);
    end if;
    return taken;
end
$$;

-- Grants or extends the lock on a key, or says what stands in the way.
--
-- A held key is refused after one read, so callers that are refused do not queue behind one another.
-- Otherwise the row is written only while it is as it was judged, and is judged again when another call
-- was faster: each statement of a volatile function has a snapshot of its own.
create or replace function grant_lock(
    in_workspace text, cx request, in_key text, in_is_file boolean, in_reason text, in_ttl interval,
    in_waiter_id uuid
) returns lock_verdict language plpgsql as $$
declare
    judged lock_verdict;
    taken lock_verdict;
    at timestamptz;
begin
    while taken.verdict is null loop
        judged := check_lock_availability(in_workspace, cx, in_key, in_waiter_id);
        at := clock_timestamp();
        if judged.verdict = 'free' and judged.token is null then
            insert into file_lock as l (
                workspace, key, token, is_file, agent_id, agent_type, session_id, reason, locked_at,
                expires_at
            ) values (
                in_workspace, in_key, 1, in_is_file, cx.agent_id, cx.agent_type, cx.session_id,
                in_reason, at, at + in_ttl
            )
            on conflict (workspace, key) do nothing
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into taken;
        elsif judged.verdict = 'free' then
            update file_lock l set
                token = l.token + 1, agent_id = cx.agent_id, agent_type = cx.agent_type,
                session_id = cx.session_id, reason = in_reason, locked_at = at,
                expires_at = at + in_ttl, refresh_count = 0, took_over_from = l.agent_id
            where l.workspace = in_workspace and l.key = in_key and l.token = judged.token
                and l.agent_id is not distinct from judged.agent_id
                and l.expires_at is not distinct from judged.expires_at
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, l.took_over_from, null::bigint into taken;
        elsif judged.verdict = 'own' then
            update file_lock l set
                expires_at = at + in_ttl, refresh_count = l.refresh_count + 1,
                reason = coalesce(in_reason, l.reason)
            where l.workspace = in_workspace and l.key = in_key and l.token = judged.token
                and l.agent_id = judged.agent_id and l.expires_at = judged.expires_at
            returning 'refreshed', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into taken;
        else
            return judged;
        end if;
    end loop;
    return taken;
end
$$;

-- Says how a caller stands to a key: `own` when it holds the lock, `free` when it may take it, else
-- `locked_by_other` or `locked_by_other_session` with what stands in its way. A free key is reserved
-- for the request that has waited longest; to other callers, that one is its holder. A key that has
-- never been locked has no token.
create or replace function check_lock_availability(in_workspace text, cx request, in_key text, in_waiter_id uuid)
returns lock_verdict language plpgsql stable as $$
declare
    judged lock_verdict;
    ahead lock_waiter;
begin
    select null, l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at, l.expires_at, l.token,
        null, null::bigint
    into judged
    from file_lock l where l.workspace = in_workspace and l.key = in_key;
    judged.verdict := case
        when not is_live(in_workspace, judged.agent_id, judged.session_id, judged.locked_at,
            judged.expires_at, cx.session_timeout)
            then 'free'
        when not is_owned_by_other(judged.agent_id, judged.session_id, cx.agent_id, cx.session_id)
            then 'own'
        when judged.agent_id = cx.agent_id then 'locked_by_other_session'
        else 'locked_by_other'
    end;
    if judged.verdict <> 'free' then
        return judged;
    end if;
    perform from lock_waiter w where w.workspace = in_workspace and w.key = in_key limit 1;
    if found then
        select * into ahead from waiters_ahead(in_workspace, cx, in_key, in_waiter_id) limit 1;
    end if;
    if ahead.id is null then
        return judged;
    end if;
    judged.verdict := case
        when ahead.agent_id = cx.agent_id then 'locked_by_other_session' else 'locked_by_other' end;
    judged.agent_id := ahead.agent_id;
    judged.agent_type := ahead.agent_type;
    judged.session_id := ahead.session_id;
    judged.reason := ahead.reason;
    judged.locked_at := null;
    judged.expires_at := ahead.alive_until;
    return judged;
end
$$;

-- The requests of others that go before a caller in the queue of a key, the longest waiting first.
create or replace function waiters_ahead(
    in_workspace text, cx request, in_key text, in_waiter_id uuid
) returns setof lock_waiter language plpgsql stable as $$
declare
    own lock_waiter;
    at timestamptz := clock_timestamp();
begin
    if in_waiter_id is not null then
        select * into own from lock_waiter w where w.workspace = in_workspace and w.id = in_waiter_id;
    end if;
    return query
    select * from lock_waiter w
    where w.workspace = in_workspace and w.key = in_key and is_waiter_alive(w.alive_until, at)
        and is_owned_by_other(w.agent_id, w.session_id, cx.agent_id, cx.session_id)
        and (own.id is null or (w.waiting_since, w.id) < (own.waiting_since, own.id))
    order by w.waiting_since, w.id;
end
$$;

-- Keeps a waiting request's position in the queue of a key, or gives it up. Returns the position,
-- starting at 1.
create or replace function update_queue_position(
    in_workspace text, cx request, in_key text, in_reason text, in_waiter_id uuid, in_is_kept boolean
) returns bigint language plpgsql as $$
declare
    alive_until timestamptz := clock_timestamp() + waiter_lifetime();
    queue_position bigint;
begin
    select count(*) + 1 into queue_position from waiters_ahead(in_workspace, cx, in_key, in_waiter_id);
    if in_is_kept then
        insert into lock_waiter as w (
            workspace, id, key, agent_id, agent_type, session_id, reason, alive_until
        ) values (
            in_workspace, in_waiter_id, in_key, cx.agent_id, cx.agent_type, cx.session_id, in_reason,
            alive_until
        )
        on conflict on constraint lock_waiter_pkey do update set alive_until = excluded.alive_until;
    else
        delete from lock_waiter w where w.workspace = in_workspace and w.id = in_waiter_id;
    end if;
    return queue_position;
end
$$;

-- How long a position in a queue lasts after the serving process last looked for its request.
create or replace function waiter_lifetime() returns interval language sql immutable parallel safe as $$
    select interval '3 seconds'
$$;

-- Keeps the positions of requests that wait, and returns those whose turn has come: the key is free for
-- them, and no other request has waited for it longer. Deletes positions that nothing has kept for a
-- minute.
create or replace function poll_lock_waiters(in_workspace text, in_waiter_ids uuid[], session_timeout interval)
returns setof uuid language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update lock_waiter w set alive_until = at + waiter_lifetime()
    where w.workspace = in_workspace and w.id = any(in_waiter_ids);
    delete from lock_waiter w
    where w.workspace = in_workspace and not is_waiter_alive(w.alive_until, at - interval '1 minute');
    return query
    select own.id from lock_waiter own
    where own.workspace = in_workspace and own.id = any(in_waiter_ids)
        and not exists (
            select from lock_waiter w
            where w.workspace = in_workspace and w.key = own.key and is_waiter_alive(w.alive_until, at)
                and is_owned_by_other(w.agent_id, w.session_id, own.agent_id, own.session_id)
                and (w.waiting_since, w.id) < (own.waiting_since, own.id)
        ) and not exists (
            select from file_lock l
            left join lateral (
                select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                where s.workspace = in_workspace and s.agent_id = l.agent_id
                    and s.session_id = l.session_id
                limit 1
            ) s on true
            where l.workspace = in_workspace and l.key = own.key
                and is_owned_by_other(l.agent_id, l.session_id, own.agent_id, own.session_id)
                and is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                    s.ended_at, s.last_heartbeat_at, s.revived_at)
        );
end
$$;
