-- Exclusive, expiring locks on files and other named things, with fencing tokens.

-- One row a key, never deleted: `token` is the key's counter and must not fall when a lock is
-- released or expires. A row without a holder is a free key.
create table file_lock (
    workspace text collate "C" not null,
    key text collate "C" not null,
    token bigint not null,
    is_file boolean not null,
    agent_id text collate "C",
    agent_type text,
    session_id text,
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

-- How many live file locks an agent holds besides one key. The advisory lock ends with the caller's
-- transaction and makes acquisitions of one agent take turns, and the count, being a statement of
-- its own in a volatile function, sees what the previous one committed: a limit judged by it holds
-- under any concurrency.
create function count_other_file_locks(in_workspace text, in_agent_id text, in_key text)
returns bigint
language sql volatile as $$
    select pg_advisory_xact_lock(hashtextextended(in_workspace || chr(10) || in_agent_id, 1));
    select count(*) from file_lock
    where workspace = in_workspace and agent_id = in_agent_id and key <> in_key
        and is_file and expires_at > clock_timestamp()
$$;
