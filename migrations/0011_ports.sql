-- Blocks of ports that sessions hold for their test environments.

-- One row for each slot, so that no two sessions hold the same slot. A row that has expired, or whose
-- session has lost it, is a free slot.
create table port_block (
    workspace text collate "C" not null,
    slot integer not null,
    agent_id text collate "C" not null,
    session_id text collate "C" not null,
    allocated_at timestamptz not null,
    expires_at timestamptz not null,
    primary key (workspace, slot),
    constraint port_block_slot_range check (slot >= 0)
);
