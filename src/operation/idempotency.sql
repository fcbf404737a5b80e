-- Answers that are kept for repeated requests.

-- Takes an idempotency key for a request. Returns false when an answer is stored under it; one older than
-- 24 hours does not count. Of two requests at once, the second waits until the first has committed.
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
        and k.created_at <= at - interval '24 hours';
    return found;
end
$$;
