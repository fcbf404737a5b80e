-- What a session tells of itself, and when its silence ends what it holds.

alter table agent_session
    add column capabilities text[] not null default '{}',
    add column current_task text,
    add column delegated_from text,
    add column metadata jsonb not null default '{}',
    add column phase_archetype text,
    -- When the session was last heard again after it had been dead: what it held before is gone.
    add column revived_at timestamptz;

create index agent_session_by_heartbeat on agent_session (workspace, last_heartbeat_at desc);

-- Whether what a session has held since a moment is lost to it: it has ended, was silent for too
-- long, or was dead in between. A session that is not registered loses nothing this way.
create function session_lost(
    in_workspace text, in_agent_id text, in_session_id text, since timestamptz, timeout interval
) returns boolean
language sql stable as $$
    select exists (
        select from agent_session
        where workspace = in_workspace and agent_id = in_agent_id and session_id = in_session_id
            and (
                ended_at is not null
                or last_heartbeat_at <= clock_timestamp() - timeout
                or revived_at > since
            )
    )
$$;

drop function touch_session(text, text, text);

-- Hears a session: marks it alive unless it was heard less than ten seconds ago, and tells whether
-- it wrote. One that was dead is revived, without what it held: what it takes in the very statement
-- that revives it is newer than the statement's start. An unregistered or absent session is no
-- error and changes nothing. A row that another call is about to touch is skipped: that call does
-- the same, and nobody waits.
create function touch_session(
    in_workspace text, in_agent_id text, in_session_id text, timeout interval
) returns boolean
language sql volatile as $$
    with due as (
        select workspace, agent_id, session_id from agent_session
        where workspace = in_workspace and agent_id = in_agent_id and session_id = in_session_id
            and (last_heartbeat_at < clock_timestamp() - interval '10 seconds' or ended_at is not null)
        for update skip locked
    ), heard as (
        update agent_session s set
            revived_at = case
                when s.ended_at is not null or s.last_heartbeat_at <= clock_timestamp() - timeout
                then statement_timestamp() else s.revived_at end,
            last_heartbeat_at = clock_timestamp(),
            ended_at = null
        from due
        where s.workspace = due.workspace and s.agent_id = due.agent_id
            and s.session_id = due.session_id
        returning 1
    )
    select exists (select from heard)
$$;

drop function count_other_file_locks(text, text, text);

-- How many live file locks an agent holds besides one key. The advisory lock ends with the caller's
-- transaction and makes acquisitions of one agent take turns, and the count, being a statement of
-- its own in a volatile function, sees what the previous one committed: a limit judged by it holds
-- under any concurrency.
create function count_other_file_locks(
    in_workspace text, in_agent_id text, in_key text, timeout interval
) returns bigint
language sql volatile as $$
    select pg_advisory_xact_lock(hashtextextended(in_workspace || chr(10) || in_agent_id, 1));
    select count(*) from file_lock
    where workspace = in_workspace and agent_id = in_agent_id and key <> in_key
        and is_file and expires_at > clock_timestamp()
        and not session_lost(workspace, agent_id, session_id, locked_at, timeout)
$$;
