-- Sessions of agents, and the MCP connections that speak for them.

-- Any call that names a registered session keeps it alive. What a session holds is lost when it ends,
-- and stays lost when a later call revives it (`revived_at`).
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
-- Finds the sessions that are still live, however many have ended.
create index agent_session_not_ended on agent_session (workspace, last_heartbeat_at)
where ended_at is null;

-- The session that an MCP connection speaks for: the one that its agent registered through it. A
-- connection that its client has ended may not be used again, as the protocol demands. Any replica may
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

-- The end of a session ends its connections too.
create index mcp_connection_of_session on mcp_connection (workspace, agent_id, session_id);
-- Retention looks for the oldest rows of all workspaces.
create index mcp_connection_by_age on mcp_connection (bound_at);
