-- Sessions of agents, and the MCP connections that are bound to them.

-- Any call that names a registered session records its heartbeat. What a session holds is lost when the
-- session ends, and stays lost when a later call revives the session (`revived_at`).
create table agent_session (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    session_id text collate "C" not null,
    agent_type text not null,
    started_at timestamptz not null default clock_timestamp(),
    last_heartbeat_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    capabilities text[] not null default '{}',
    current_task text,
    delegated_from text,
    metadata jsonb not null default '{}',
    phase_archetype text,
    revived_at timestamptz,
    primary key (workspace, agent_id, session_id)
);

create index agent_session_by_heartbeat on agent_session (workspace, last_heartbeat_at desc);
-- Finds the sessions that have not ended without reading those that have.
create index agent_session_not_ended on agent_session (workspace, last_heartbeat_at)
where ended_at is null;

-- The session that an MCP connection is bound to, which is the session that its agent registered over
-- it. The protocol forbids using a connection again after its client has ended it. Any replica can
-- answer any request of a connection, so this cannot be kept in memory.
create table mcp_connection (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    connection_id text collate "C" not null,
    session_id text collate "C",
    has_ended boolean not null default false,
    bound_at timestamptz not null default clock_timestamp(),
    primary key (workspace, agent_id, connection_id)
);

-- Finds the connections of a session that ends.
create index mcp_connection_of_session on mcp_connection (workspace, agent_id, session_id);
-- Finds the oldest rows of all workspaces, for retention.
create index mcp_connection_by_age on mcp_connection (bound_at);
