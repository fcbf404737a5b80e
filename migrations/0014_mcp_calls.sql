-- Calls over MCP that wait, so that a client can cancel them on whichever replica they wait.

-- One row for each waiting call, found by its id in the process that serves it, or by what its client calls
-- it: the connection and the id of the request. What the call has taken is stored by the transaction that
-- took it. A row without `started_at` is a cancellation that has arrived before its call.
create table mcp_call (
    workspace text collate "C" not null,
    id uuid not null,
    agent_id text collate "C" not null,
    -- Empty where the client has not opened a connection.
    connection_id text collate "C" not null,
    request_id text collate "C" not null,
    started_at timestamptz,
    -- When the call has ended, even if its replica has crashed.
    due_at timestamptz not null,
    cancelled_at timestamptz,
    answered_at timestamptz,
    -- What a cancellation takes back, and the operation that can do it.
    operation text,
    taken jsonb,
    idempotency_key text,
    primary key (workspace, id)
);

-- Within a connection, the id of a request names one call.
create unique index mcp_call_of_connection
on mcp_call (workspace, agent_id, connection_id, request_id) where connection_id <> '';
create index mcp_call_without_connection on mcp_call (workspace, agent_id, request_id)
where connection_id = '';
-- Finds what was taken under an idempotency key, when its stored answer is given again.
create index mcp_call_by_key on mcp_call (workspace, agent_id, idempotency_key)
where idempotency_key is not null and taken is not null;
-- Finds the oldest rows of all workspaces, for retention.
create index mcp_call_by_age on mcp_call (due_at);
