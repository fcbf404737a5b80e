-- Cancellation of calls over MCP that wait. A run of such a call and its cancellation lock the row of the
-- call, so one of them comes first: the run then takes nothing, or the cancellation takes it back.

-- Begins a run of a call within its transaction. Returns whether the client has cancelled the call. The
-- first run stores the call. A client that uses the id of a request again means its newest call: a call
-- that has begun before and has no row any more was replaced by that one, and counts as cancelled.
create or replace function begin_mcp_call_run(
    in_workspace text, in_id uuid, in_agent_id text, in_connection_id text, in_request_id text,
    in_lifetime interval, in_has_begun boolean
) returns boolean language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    due timestamptz := at + in_lifetime;
    -- A cancellation after this has overtaken the call.
    overtaken_after timestamptz := at - interval '10 seconds';
    cancelled timestamptz;
begin
    select c.cancelled_at into cancelled from mcp_call c
    where c.workspace = in_workspace and c.id = in_id for update;
    if not found and in_has_begun then
        return true;
    elsif not found then
        insert into mcp_call as c (
            workspace, id, agent_id, connection_id, request_id, started_at, due_at
        ) values (
            in_workspace, in_id, in_agent_id, in_connection_id, in_request_id, at, due
        )
        on conflict (workspace, agent_id, connection_id, request_id) where connection_id <> ''
        do update set
            id = in_id, started_at = at, due_at = due, answered_at = null,
            operation = null, taken = null, idempotency_key = null,
            cancelled_at = case
                when c.started_at is null and c.cancelled_at > overtaken_after
                    then c.cancelled_at end
        returning c.cancelled_at into cancelled;
    end if;
    return cancelled is not null;
end
$$;

-- Stores that a call has ended and what it has taken, in the transaction that took it.
create or replace function end_mcp_call(
    in_workspace text, in_id uuid, in_operation text, in_taken jsonb, in_idempotency_key text
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update mcp_call c set
        answered_at = at, operation = in_operation, taken = in_taken,
        idempotency_key = in_idempotency_key
    where c.workspace = in_workspace and c.id = in_id;
end
$$;

-- Stores that a call has ended without an answer that takes anything, unless its last run has stored that.
create or replace function fail_mcp_call(in_workspace text, in_id uuid) returns void
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update mcp_call c set answered_at = at
    where c.workspace = in_workspace and c.id = in_id and c.answered_at is null;
end
$$;

-- Cancels the call with this id, and returns the id.
create or replace function cancel_mcp_call(
    in_workspace text, in_id uuid, in_agent_id text, in_request_id text
) returns uuid language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    -- The row of a call whose first run is about to commit is waited for, although it cannot be seen yet.
    insert into mcp_call as c (
        workspace, id, agent_id, connection_id, request_id, due_at, cancelled_at
    ) values (in_workspace, in_id, in_agent_id, '', in_request_id, at, at)
    on conflict (workspace, id) do update set cancelled_at = coalesce(c.cancelled_at, at);
    return in_id;
end
$$;

-- Cancels the call that a client calls by the id of its request. Returns the id of the call, or null if it
-- is not known. Without a connection, several clients of an agent can use an id: the call that runs is
-- meant, if it is the only one.
create or replace function cancel_mcp_request(
    in_workspace text, in_agent_id text, in_connection_id text, in_request_id text
) returns uuid language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    call_id uuid;
    running uuid[];
begin
    if in_connection_id <> '' then
        call_id := gen_random_uuid();
        insert into mcp_call as c (
            workspace, id, agent_id, connection_id, request_id, due_at, cancelled_at
        ) values (in_workspace, call_id, in_agent_id, in_connection_id, in_request_id, at, at)
        on conflict (workspace, agent_id, connection_id, request_id) where connection_id <> ''
        do update set cancelled_at = coalesce(c.cancelled_at, at)
        returning c.id into call_id;
    else
        select array_agg(c.id) into running from mcp_call c
        where c.workspace = in_workspace and c.agent_id = in_agent_id and c.connection_id = ''
            and c.request_id = in_request_id and c.started_at is not null
            and c.cancelled_at is null and c.answered_at is null and c.due_at > at;
        call_id := case when cardinality(running) = 1 then running[1] end;
        update mcp_call c set cancelled_at = coalesce(c.cancelled_at, at)
        where c.workspace = in_workspace and c.id = call_id;
    end if;
    return call_id;
end
$$;

-- Returns what a cancelled call has taken, once, and forgets its stored answer. What is taken is given back
-- in the same transaction. What a call took long ago is in use: its client has got the answer.
create or replace function take_mcp_call_back(
    in_workspace text, in_id uuid, out operation text, out taken jsonb
) language plpgsql as $$
declare
    call mcp_call;
    at timestamptz := clock_timestamp();
begin
    select * into call from mcp_call c
    where c.workspace = in_workspace and c.id = in_id and c.taken is not null
        and c.answered_at > at - interval '30 seconds'
    for update;
    if found then
        operation := call.operation;
        taken := call.taken;
        update mcp_call c set taken = null where c.workspace = in_workspace and c.id = in_id;
        delete from idempotency_key k
        where k.workspace = in_workspace and k.agent_id = call.agent_id
            and k.key = call.idempotency_key;
    end if;
end
$$;
