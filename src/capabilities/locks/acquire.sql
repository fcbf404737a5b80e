-- Acquisition and refresh of locks, and the queues of requests that wait for a lock.

-- Acquires the lock on a key, or refreshes it for its holder. Returns the verdict (`acquired`,
-- `refreshed`, `over_limit`, `locked_by_other`, `locked_by_other_session`, `in_refusal`, or the reason of
-- a quota) and a lock: the caller's, or the one that prevents the acquisition. The service does not show
-- the token of another holder's lock.
--
-- `in_refusal` is a refusal that does not depend on the lock's state. `in_denial` is the reason of the
-- denial when the agent holds `in_file_limit` other file locks. `in_waiter_id` identifies a request
-- that waits. `in_can_wait` is false in the last run of such a request, the only one whose refusal
-- is recorded.
create or replace function acquire_lock(
    in_workspace text, cx request, in_key text, in_is_file boolean, in_reason text, in_ttl interval,
    in_refusal text, in_file_limit bigint, in_denial text, in_engine text, in_waiter_id uuid,
    in_can_wait boolean, in_quota integer[]
) returns lock_verdict language plpgsql as $$
declare
    answer lock_verdict;
    is_granted boolean := false;
    is_waiting boolean := false;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_is_file and in_file_limit is not null
        and count_other_file_locks(in_workspace, cx.agent_id, in_key, cx.session_timeout) >= in_file_limit
    then
        answer.verdict := 'over_limit';
        perform record_denial(
            in_workspace, cx, 'acquire_lock', in_key, in_engine, in_denial, '{}');
        return answer;
    end if;

    if in_refusal is not null then
        answer.verdict := in_refusal;
    else
        answer := grant_lock(
            in_workspace, cx, in_key, in_is_file, in_reason, in_ttl, in_waiter_id, in_quota);
        is_granted := answer.verdict in ('acquired', 'refreshed');
        -- A caller that a quota refuses would wait for no holder.
        is_waiting := in_can_wait and not is_granted and answer.agent_id is not null;
        if in_waiter_id is not null then
            answer.queue_position := update_queue_position(
                in_workspace, cx, in_key, in_reason, in_waiter_id, is_waiting);
        end if;
    end if;
    if not is_waiting then
        perform record_audit(
            in_workspace, cx, 'acquire_lock',
            jsonb_build_object('file_path', in_key, 'reason', in_reason),
            case when is_granted
                then jsonb_build_object('action', answer.verdict, 'fencing_token', answer.token,
                    'took_over_from', answer.took_over_from)
                else jsonb_build_object('reason', answer.verdict, 'locked_by', answer.agent_id) end,
            is_granted);
    end if;
    return answer;
end
$$;

-- Grants or refreshes the lock on a key, or returns what prevents it.
--
-- A held key is refused after a read without a row lock, so refused callers do not queue behind one
-- another. Otherwise the row is written only if it is still as it was read (optimistic concurrency).
-- When another call was faster, the check is repeated, and sees what that call committed: each
-- statement of a volatile function has its own snapshot. A key without a row begins above the tokens of
-- the rows that retention has deleted (`delete_free_keys`), which can have been its own.
create or replace function grant_lock(
    in_workspace text, cx request, in_key text, in_is_file boolean, in_reason text, in_ttl interval,
    in_waiter_id uuid, in_quota integer[]
) returns lock_verdict language plpgsql as $$
declare
    checked lock_verdict;
    granted lock_verdict;
    token_floor bigint;
    at timestamptz;
begin
    while granted.verdict is null loop
        checked := check_lock_availability(in_workspace, cx, in_key, in_waiter_id);
        if checked.verdict = 'free' then
            granted.verdict := refused_by_quota(
                in_workspace, cx.agent_id, 'locks', in_quota, cx.session_timeout);
            exit when granted.verdict is not null;
        end if;
        at := clock_timestamp();
        if checked.verdict = 'free' and checked.token is null then
            select f.token into token_floor from lock_token_floor f where f.workspace = in_workspace;
            insert into file_lock as l (
                workspace, key, token, is_file, agent_id, agent_type, session_id, reason, locked_at,
                expires_at
            ) values (
                in_workspace, in_key, coalesce(token_floor, 0) + 1, in_is_file, cx.agent_id,
                cx.agent_type, cx.session_id, in_reason, at, at + in_ttl
            )
            on conflict (workspace, key) do nothing
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into granted;
        elsif checked.verdict = 'free' then
            update file_lock l set
                token = l.token + 1, agent_id = cx.agent_id, agent_type = cx.agent_type,
                session_id = cx.session_id, reason = in_reason, locked_at = at,
                expires_at = at + in_ttl, refresh_count = 0, took_over_from = l.agent_id
            where l.workspace = in_workspace and l.key = in_key and l.token = checked.token
                and l.agent_id is not distinct from checked.agent_id
                and l.locked_at is not distinct from checked.locked_at
                and l.expires_at is not distinct from checked.expires_at
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, l.took_over_from, null::bigint into granted;
        elsif checked.verdict = 'own' then
            update file_lock l set
                expires_at = at + in_ttl, refresh_count = l.refresh_count + 1,
                reason = coalesce(in_reason, l.reason)
            where l.workspace = in_workspace and l.key = in_key and l.token = checked.token
                and l.agent_id = checked.agent_id and l.locked_at = checked.locked_at
                and l.expires_at = checked.expires_at
            returning 'refreshed', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into granted;
        else
            return checked;
        end if;
    end loop;
    if granted.verdict = 'acquired' and checked.session_id is not null
        and (checked.agent_id, checked.session_id) is distinct from (cx.agent_id, cx.session_id)
    then
        perform record_loss(in_workspace, checked.agent_id, checked.session_id, 'lock', in_key,
            checked.token::text, checked.locked_at, checked.expires_at, cx.session_timeout);
    end if;
    return granted;
end
$$;

-- Checks whether a caller can acquire a key: `own` when the caller holds the lock, `free` when the
-- caller can acquire it, else `locked_by_other` or `locked_by_other_session` with the lock that
-- prevents it. A free key is reserved for the longest waiter: other callers see that waiter as the
-- holder, so that none of them overtakes it. A key that has never been locked has no token.
create or replace function check_lock_availability(
    in_workspace text, cx request, in_key text, in_waiter_id uuid
) returns lock_verdict language plpgsql stable as $$
declare
    checked lock_verdict;
    ahead lock_waiter;
begin
    select null, l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at, l.expires_at, l.token,
        null, null::bigint
    into checked
    from file_lock l where l.workspace = in_workspace and l.key = in_key;
    checked.verdict := case
        when not is_live(in_workspace, checked.agent_id, checked.session_id, checked.locked_at,
            checked.expires_at, cx.session_timeout)
            then 'free'
        when not is_owned_by_other(checked.agent_id, checked.session_id, cx.agent_id, cx.session_id)
            then 'own'
        when checked.agent_id = cx.agent_id then 'locked_by_other_session'
        else 'locked_by_other'
    end;
    if checked.verdict <> 'free' then
        return checked;
    end if;
    perform from lock_waiter w where w.workspace = in_workspace and w.key = in_key limit 1;
    if found then
        select * into ahead from waiters_ahead(in_workspace, cx, in_key, in_waiter_id) limit 1;
    end if;
    if ahead.id is null then
        return checked;
    end if;
    checked.verdict := case
        when ahead.agent_id = cx.agent_id then 'locked_by_other_session' else 'locked_by_other' end;
    checked.agent_id := ahead.agent_id;
    checked.agent_type := ahead.agent_type;
    checked.session_id := ahead.session_id;
    checked.reason := ahead.reason;
    checked.locked_at := null;
    checked.expires_at := ahead.alive_until;
    return checked;
end
$$;

-- Lists the waiters of other holders that are ahead of a caller in the queue of a key, the longest
-- waiter first.
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

-- Adds a waiter to the queue of a key or extends its lifetime, or removes it when it does not wait any
-- more. Returns its queue position, starting at 1.
create or replace function update_queue_position(
    in_workspace text, cx request, in_key text, in_reason text, in_waiter_id uuid, in_is_waiting boolean
) returns bigint language plpgsql as $$
declare
    alive_until timestamptz := clock_timestamp() + waiter_lifetime();
    queue_position bigint;
begin
    select count(*) + 1 into queue_position from waiters_ahead(in_workspace, cx, in_key, in_waiter_id);
    if in_is_waiting then
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

-- Returns how long a waiter stays in a queue after the replica that serves its request has last polled
-- for it.
create or replace function waiter_lifetime() returns interval language sql immutable parallel safe as $$
    select interval '3 seconds'
$$;

-- Polls for waiters: extends their lifetimes and returns the ids of those that are ready, because their
-- key is free and no other holder's waiter is ahead of them. Deletes waiters whose lifetime ended more
-- than a minute ago, which replicas that crashed have left.
create or replace function poll_lock_waiters(
    in_workspace text, in_waiter_ids uuid[], session_timeout interval
) returns setof uuid language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update lock_waiter w set alive_until = at + waiter_lifetime()
    where w.workspace = in_workspace and w.id = any(in_waiter_ids);
    delete from lock_waiter w
    where w.workspace = in_workspace and not is_waiter_alive(w.alive_until, at - interval '1 minute');
    return query
    select waiter.id from lock_waiter waiter
    where waiter.workspace = in_workspace and waiter.id = any(in_waiter_ids)
        and not exists (
            select from lock_waiter w
            where w.workspace = in_workspace and w.key = waiter.key and is_waiter_alive(w.alive_until, at)
                and is_owned_by_other(w.agent_id, w.session_id, waiter.agent_id, waiter.session_id)
                and (w.waiting_since, w.id) < (waiter.waiting_since, waiter.id)
        ) and not exists (
            select from file_lock l
            left join lateral (
                select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                where s.workspace = in_workspace and s.agent_id = l.agent_id
                    and s.session_id = l.session_id
                limit 1
            ) s on true
            where l.workspace = in_workspace and l.key = waiter.key
                and is_owned_by_other(l.agent_id, l.session_id, waiter.agent_id, waiter.session_id)
                and is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                    s.ended_at, s.last_heartbeat_at, s.revived_at)
        );
end
$$;
