-- The deletion of free keys, and the end of sessions in batches.

-- A function whose result is different now. No release has it.
drop function if exists deregister_session(text, request, text);

-- When the key was freed, for retention. Keys that are free already count from now.
alter table file_lock add column freed_at timestamptz default now();
alter table file_lock alter column freed_at drop default;
-- Finds the keys of a workspace that have been free the longest.
create index file_lock_free on file_lock (workspace, freed_at) where agent_id is null;

-- The highest fencing token of the keys of a workspace whose rows were deleted. A key without a row begins
-- above it, so that the tokens of each key increase for ever.
create table lock_token_floor (
    workspace text collate "C" primary key,
    token bigint not null
);
