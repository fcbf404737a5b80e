-- Which session of an agent an MCP connection speaks for, the one that the agent registered through it,
-- and whether its client has ended it: then it may not be used again, as the protocol demands. Any
-- replica may answer any request of a connection, so this cannot be kept in memory.
create table mcp_connection (
    workspace text not null,
    agent_id text not null,
    connection_id text not null,
    session_id text,
    has_ended boolean not null default false,
    bound_at timestamptz not null default clock_timestamp(),
    constraint mcp_connection_speaks_for_one_session
        primary key (workspace, agent_id, connection_id)
);

-- The end of a session ends its connections too.
create index mcp_connection_of_session on mcp_connection (workspace, agent_id, session_id);

-- Retention looks for the oldest rows of all workspaces.
create index mcp_connection_by_age on mcp_connection (bound_at);

-- Deletes stored answers after a day, connections to sessions that have been silent for a week, and
-- records of violations and of network checks whose month lies wholly before the days to keep, in
-- every workspace; returns how many rows.
create or replace function delete_old_records(retention_days integer) returns bigint
language sql volatile as $$
    with answers as (
        delete from idempotency_key where created_at <= statement_timestamp() - interval '24 hours'
        returning 1
    ), connections as (
        delete from mcp_connection c
        where c.bound_at <= statement_timestamp() - interval '7 days'
            and not exists (
                select from agent_session s
                where s.workspace = c.workspace and s.agent_id = c.agent_id
                    and s.session_id = c.session_id and s.ended_at is null
                    and s.last_heartbeat_at > statement_timestamp() - interval '7 days'
            )
        returning 1
    ), violations as (
        delete from guardrail_violation
        where created_at < date_trunc('month', statement_timestamp() - make_interval(days => retention_days))
        returning 1
    ), network as (
        delete from network_log
        where created_at < date_trunc('month', statement_timestamp() - make_interval(days => retention_days))
        returning 1
    )
    select (select count(*) from answers) + (select count(*) from connections)
        + (select count(*) from violations) + (select count(*) from network)
$$;
