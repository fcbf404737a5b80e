-- Answers that are stored for repeated requests.

-- Reserves an idempotency key for a request. Returns false when an answer is stored under the key and
-- is not older than `idempotency_key_lifetime`. Of two requests at once, the second waits at the unique
-- index until the first has committed.
create or replace function reserve_idempotency_key(
    in_workspace text, in_agent_id text, in_key text, in_fingerprint bytea
) returns boolean language plpgsql as $$
declare
    at timestamptz;
begin
    insert into idempotency_key (workspace, agent_id, key, fingerprint)
    values (in_workspace, in_agent_id, in_key, in_fingerprint)
    on conflict (workspace, agent_id, key) do nothing;
    if found then
        return true;
    end if;
    at := clock_timestamp();
    update idempotency_key k set fingerprint = in_fingerprint, body = null, created_at = at
    where k.workspace = in_workspace and k.agent_id = in_agent_id and k.key = in_key
        and k.created_at <= at - idempotency_key_lifetime();
    if found then
        return true;
    end if;
    update mcp_call c set taken = null
    where c.workspace = in_workspace and c.agent_id = in_agent_id and c.idempotency_key = in_key
        and c.taken is not null;
    return false;
end
$$;

-- Returns how long a stored answer is given to repeated requests.
create or replace function idempotency_key_lifetime() returns interval
language sql immutable parallel safe as $$
    select interval '24 hours'
$$;
