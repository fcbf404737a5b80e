-- Sessions of agents: a registered session is kept alive by any call that names it.

create table agent_session (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    session_id text collate "C" not null,
    agent_type text not null,
    started_at timestamptz not null default clock_timestamp(),
    last_heartbeat_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    primary key (workspace, agent_id, session_id)
);

-- Hears a session: marks it alive unless it was heard less than ten seconds ago, and tells whether
-- it wrote. An unregistered or absent session is no error and changes nothing. A row that another
-- call is about to touch is skipped: that call does the same, and nobody waits.
create function touch_session(in_workspace text, in_agent_id text, in_session_id text)
returns boolean
language sql volatile as $$
    with due as (
        select workspace, agent_id, session_id from agent_session
        where workspace = in_workspace and agent_id = in_agent_id and session_id = in_session_id
            and (last_heartbeat_at < clock_timestamp() - interval '10 seconds' or ended_at is not null)
        for update skip locked
    ), heard as (
        update agent_session s set last_heartbeat_at = clock_timestamp(), ended_at = null
        from due
        where s.workspace = due.workspace and s.agent_id = due.agent_id
            and s.session_id = due.session_id
        returning 1
    )
    select exists (select from heard)
$$;
