-- Exclusive, expiring locks on files and other named things, with fencing tokens, and the queues of
-- requests that wait for a lock.

-- One row for each key, never deleted: `token` is the key's counter and must never decrease, also not
-- when a lock is released or expires. A row without a holder is a free key.
create table file_lock (
    workspace text collate "C" not null,
    key text collate "C" not null,
    token bigint not null,
    is_file boolean not null,
    agent_id text collate "C",
    agent_type text,
    session_id text collate "C",
    reason text,
    locked_at timestamptz,
    expires_at timestamptz,
    refresh_count integer not null default 0,
    took_over_from text,
    primary key (workspace, key),
    constraint file_lock_token_range check (token between 1 and 9007199254740991),
    constraint file_lock_holder_is_whole
        check (num_nulls(agent_id, agent_type, locked_at, expires_at) in (0, 4))
);

create index file_lock_held on file_lock (workspace, key) where agent_id is not null;
create index file_lock_held_by_agent on file_lock (workspace, agent_id) where agent_id is not null;

-- Waiters in the queues of keys. The replica that serves a waiting request extends `alive_until`, so a
-- waiter whose client disconnected or whose replica crashed soon stops blocking those behind it.
create table lock_waiter (
    workspace text collate "C" not null,
    id uuid not null,
    key text collate "C" not null,
    agent_id text collate "C" not null,
    agent_type text not null,
    session_id text collate "C",
    reason text,
    waiting_since timestamptz not null default clock_timestamp(),
    alive_until timestamptz not null,
    primary key (workspace, id)
);

create index lock_waiter_queue on lock_waiter (workspace, key, waiting_since, id);

-- The verdict of a function about a key, and the lock that the verdict is about.
create type lock_verdict as (
    verdict text,
    agent_id text,
    agent_type text,
    session_id text,
    reason text,
    locked_at timestamptz,
    expires_at timestamptz,
    token bigint,
    took_over_from text,
    queue_position bigint
);
