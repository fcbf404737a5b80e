-- Answers that are stored for repeated requests.

-- Reserves an idempotency key for a request of `in_operation`. `is_reserved` is false when an answer is
-- stored under the key and is not older than `idempotency_key_lifetime`, or when a quota does not allow
-- another key: `refusal` says so then. Of two requests at once, the second waits at the unique index until
-- the first has committed.
create or replace function reserve_idempotency_key(
    in_workspace text, cx request, in_operation text, in_key text, in_fingerprint bytea, in_quota integer[],
    out is_reserved boolean, out refusal text
) language plpgsql as $$
declare
    at timestamptz;
begin
    refusal := refuse_idempotency_key(in_workspace, cx, in_operation, in_key, in_quota);
    is_reserved := false;
    if refusal is not null then
        return;
    end if;
    insert into idempotency_key (workspace, agent_id, key, fingerprint)
    values (in_workspace, cx.agent_id, in_key, in_fingerprint)
    on conflict (workspace, agent_id, key) do nothing;
    is_reserved := found;
    if is_reserved then
        return;
    end if;
    at := clock_timestamp();
    update idempotency_key k set fingerprint = in_fingerprint, body = null, created_at = at
    where k.workspace = in_workspace and k.agent_id = cx.agent_id and k.key = in_key
        and k.created_at <= at - idempotency_key_lifetime();
    is_reserved := found;
    if is_reserved then
        return;
    end if;
    update mcp_call c set taken = null
    where c.workspace = in_workspace and c.agent_id = cx.agent_id and c.idempotency_key = in_key
        and c.taken is not null;
end
$$;

-- Returns why an agent cannot have another idempotency key, and records it as the refusal of the operation.
-- Null if it can, or if it has the key already.
create or replace function refuse_idempotency_key(
    in_workspace text, cx request, in_operation text, in_key text, in_quota integer[]
) returns text language plpgsql as $$
declare
    refusal text := refused_by_quota(
        in_workspace, cx.agent_id, 'idempotency_keys', in_quota, cx.session_timeout);
begin
    if refusal is null then
        return null;
    end if;
    perform from idempotency_key k
    where k.workspace = in_workspace and k.agent_id = cx.agent_id and k.key = in_key;
    if found then
        return null;
    end if;
    perform record_refused_key(in_workspace, cx, in_operation, refusal);
    return refusal;
end
$$;

-- Records that an operation was refused because a quota allows no other idempotency key.
create or replace function record_refused_key(
    in_workspace text, cx request, in_operation text, in_reason text
) returns void language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_audit(
        in_workspace, cx, in_operation, '{}', jsonb_build_object('reason', in_reason), false);
end
$$;

-- Returns how long a stored answer is given to repeated requests.
create or replace function idempotency_key_lifetime() returns interval
language sql immutable parallel safe as $$
    select interval '24 hours'
$$;
