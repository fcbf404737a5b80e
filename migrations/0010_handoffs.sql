-- Handoffs: notes that an agent leaves for the agent that continues its work.

create table handoff (
    workspace text collate "C" not null,
    id uuid not null default gen_random_uuid(),
    agent_id text collate "C" not null,
    agent_type text not null,
    session_id text collate "C",
    summary text not null,
    -- json and not jsonb: never queried, and returned exactly as the client sent it.
    completed_work json not null,
    in_progress json not null,
    decisions json not null,
    next_steps json not null,
    relevant_files json not null,
    content json not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (workspace, id)
);

create index handoff_newest on handoff (workspace, created_at desc, id desc);
create index handoff_newest_of_agent on handoff (workspace, agent_id, created_at desc, id desc);
