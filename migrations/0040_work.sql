-- The work queue: tasks with dependencies, handed out as leases with attempts and claim tokens.

create table work_task (
    workspace text collate "C" not null,
    id uuid not null default gen_random_uuid(),
    task_type text collate "C" not null,
    description text not null,
    input_data json,
    priority smallint not null,
    status text not null default 'pending',
    created_at timestamptz not null default clock_timestamp(),
    submitted_by text collate "C" not null,
    submitted_session_id text,
    change_id text,
    unique_key text collate "C",

    -- How many dependencies are not completed. Kept by whoever completes one, so that a claim need
    -- not look at the backlog.
    open_dependencies integer not null default 0,
    not_before timestamptz,
    deadline timestamptz,
    -- Not handed out before; the later of `not_before` and the end of a retry's delay. While it was
    -- in the future when written, the task is parked outside the index of ready tasks.
    available_at timestamptz,
    is_parked boolean not null default false,

    agent_requirements json,
    archetype text,
    min_trust smallint not null default 0,
    -- Agent that a task of type `evaluate` or `review` is not handed to, besides its submitter.
    authored_by text,
    -- What the guardrails found in its text, under which set of patterns, and the trust below which
    -- that blocks it.
    guard_version text not null,
    guard_trust smallint not null,
    guard_findings jsonb not null,
    -- The greater of `min_trust` and `guard_trust`: part of the index that claims read.
    needed_trust smallint not null,

    max_attempts smallint not null,
    retry_on_failure boolean not null,
    attempt smallint not null default 0,
    claim_token text,
    claimed_by text collate "C",
    claimed_session_id text,
    claimed_at timestamptz,
    started_at timestamptz,
    -- How long a renewal by heartbeat lasts, and how long one that does not say.
    lease_minutes integer,
    claim_lease_minutes integer,
    lease_expires_at timestamptz,
    -- When the claim ends by itself: with its lease, or earlier with its session's silence.
    held_until timestamptz,
    -- Whether somebody has noticed that the claim has ended. It may still be completed, and is
    -- among the tasks that are handed out.
    is_lapsed boolean not null default false,
    -- Whether the task is in the index that claims read.
    is_ready boolean not null generated always as (
        (status = 'pending' and open_dependencies = 0 and not is_parked)
        or (status in ('claimed', 'running') and is_lapsed and attempt < max_attempts)
    ) stored,

    completed_at timestamptz,
    result json,
    error_message text,
    -- The latest completion as the claimant sent it, and what it was answered: an identical repeat
    -- gets the same answer until somebody claims the task again.
    completion jsonb,

    primary key (workspace, id),
    constraint work_task_status_known check (
        status in ('pending', 'claimed', 'running', 'completed', 'failed', 'cancelled')
    ),
    constraint work_task_priority_range check (priority between 1 and 10),
    -- Five is above every trust.
    constraint work_task_trust_range check (needed_trust between 0 and 5),
    constraint work_task_dependencies_counted check (open_dependencies >= 0),
    constraint work_task_claim_is_whole check (
        status not in ('claimed', 'running')
        or num_nulls(
            claim_token, claimed_by, claimed_at, lease_minutes, claim_lease_minutes,
            lease_expires_at, held_until) = 0
    )
);

-- One live task a unique key.
create unique index work_task_unique_key on work_task (workspace, unique_key)
where unique_key is not null and status in ('pending', 'claimed', 'running');

-- In the order in which tasks are handed out, once for any type and once for given ones.
create index work_task_ready on work_task (workspace, needed_trust, priority, created_at, id)
where is_ready;
create index work_task_ready_by_type on work_task
    (workspace, task_type, needed_trust, priority, created_at, id)
where is_ready;
-- What time has changed and nobody has noticed yet: parked tasks that are due, claims that have
-- ended, deadlines that passed.
create index work_task_parked on work_task (workspace, available_at)
where status = 'pending' and open_dependencies = 0 and is_parked;
create index work_task_held on work_task (workspace, held_until)
where status in ('claimed', 'running') and not is_lapsed;
-- Tasks that some set of patterns has forbidden to somebody: those that another set is to judge.
create index work_task_forbidden on work_task (workspace, guard_version)
where status = 'pending' and guard_trust > 0;
create index work_task_overdue on work_task (workspace, deadline)
where status = 'pending' and deadline is not null;
create index work_task_claimed_by on work_task (workspace, claimed_by)
where status in ('claimed', 'running');
create index work_task_listed on work_task (workspace, priority, created_at, id);

create table work_dependency (
    workspace text collate "C" not null,
    task_id uuid not null,
    depends_on uuid not null,
    place integer not null,
    primary key (workspace, task_id, depends_on)
);
create index work_dependency_on on work_dependency (workspace, depends_on);

-- The status that holds now: a task past its deadline that nobody has claimed, or whose lease ended
-- when it was out of attempts or past its deadline, has failed without anybody having to write that
-- down.
create function task_status(t work_task) returns text
language sql stable as $$
    select case
        when t.status = 'pending' and t.deadline <= statement_timestamp() then 'failed'
        when t.status in ('claimed', 'running') and t.held_until <= statement_timestamp()
            and (t.attempt >= t.max_attempts or t.deadline <= statement_timestamp()) then 'failed'
        else t.status
    end
$$;

create function task_error(t work_task) returns text
language sql stable as $$
    select case
        when t.status = 'pending' and t.deadline <= statement_timestamp() then 'deadline_exceeded'
        when t.status in ('claimed', 'running') and t.held_until <= statement_timestamp()
            and t.attempt >= t.max_attempts then 'max_attempts_exceeded'
        when t.status in ('claimed', 'running') and t.held_until <= statement_timestamp()
            and t.deadline <= statement_timestamp() then 'deadline_exceeded'
        else t.error_message
    end
$$;

-- When a task that has failed by itself did so.
create function task_failed_at(t work_task) returns timestamptz
language sql immutable as $$
    select case when t.status = 'pending' then t.deadline
        when t.attempt >= t.max_attempts then t.held_until
        else greatest(t.deadline, t.held_until) end
$$;

-- Counts a completed dependency down in the tasks that wait for it. A statement of its own, so that
-- it sees dependents that were committed while the caller waited for the completed task's row.
create function release_dependents(in_workspace text, in_task_id uuid) returns bigint
language sql volatile as $$
    with waiting as materialized (
        select t.id from work_dependency d
        join work_task t on t.workspace = d.workspace and t.id = d.task_id
        where d.workspace = in_workspace and d.depends_on = in_task_id
        order by t.id
        for update of t
    ), released as (
        update work_task t set open_dependencies = t.open_dependencies - 1
        from waiting
        where t.workspace = in_workspace and t.id = waiting.id
        returning 1
    )
    select count(*) from released
$$;

-- How many of these dependencies are not completed; their rows are locked against completion until
-- the caller's transaction ends, in one order for everybody.
create function open_dependencies(in_workspace text, in_task_ids uuid[]) returns integer
language sql volatile as $$
    with locked as (
        select status from work_task
        where workspace = in_workspace and id = any(in_task_ids)
        order by id
        for share
    )
    select count(*)::integer from locked where status <> 'completed'
$$;

-- Has pending tasks wait for a new task instead of one that failed or was cancelled.
create function replace_dependency(in_workspace text, in_old uuid, in_new uuid) returns bigint
language sql volatile as $$
    with moved as (
        update work_dependency d set depends_on = in_new
        from work_task t
        where d.workspace = in_workspace and d.depends_on = in_old
            and t.workspace = d.workspace and t.id = d.task_id and t.status = 'pending'
        returning 1
    )
    select count(*) from moved
$$;

-- The silence that ends what a session claims, for a session that is registered; null for another,
-- whose claims end with their lease alone.
create function session_patience(
    in_workspace text, in_agent_id text, in_session_id text, timeout interval
) returns interval
language sql stable as $$
    select timeout from agent_session
    where workspace = in_workspace and agent_id = in_agent_id and session_id = in_session_id
$$;

-- Whether a session is to be heard again: not within ten seconds of the last time.
create function session_is_due(s agent_session) returns boolean
language sql volatile as $$
    select s.last_heartbeat_at < clock_timestamp() - interval '10 seconds' or s.ended_at is not null
$$;

-- Whether a claim is to be renewed by a call of this agent and session: it has not ended, and was
-- not renewed within ten seconds, or its session was registered after it was made.
create function claim_is_due(t work_task, in_session_id text, timeout interval) returns boolean
language sql volatile as $$
    select t.status in ('claimed', 'running')
        and coalesce(t.claimed_session_id = in_session_id, t.claimed_session_id is null)
        and t.held_until > clock_timestamp()
        and (
            t.held_until < clock_timestamp() - interval '10 seconds' + least(
                make_interval(mins => t.lease_minutes),
                session_patience(t.workspace, t.claimed_by, t.claimed_session_id, timeout))
            or t.held_until > clock_timestamp() + interval '10 seconds'
                + session_patience(t.workspace, t.claimed_by, t.claimed_session_id, timeout)
        )
$$;

-- Whether touch_session has anything to do. Most calls end here, having read and not written.
create function caller_is_due(
    in_workspace text, in_agent_id text, in_session_id text, timeout interval
) returns boolean
language sql volatile as $$
    select exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id and session_is_due(s)
    ) or exists (
        select from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.status in ('claimed', 'running') and claim_is_due(t, in_session_id, timeout)
    )
$$;

-- Hears a session and renews the leases of whoever calls: those of its session, and those that its
-- agent took without one. Each at most once in ten seconds; the result tells whether the session was
-- written. A lease is never shortened and an ended one left alone. A session that was dead is
-- revived, without what it held: what it takes in the very statement that revives it is newer than
-- the statement's start. An unregistered or absent session is no error. A row that another call is
-- about to touch is skipped: that call does the same, and nobody waits.
create or replace function touch_session(
    in_workspace text, in_agent_id text, in_session_id text, timeout interval
) returns boolean
language sql volatile as $$
    with due as (
        select
            workspace, id,
            greatest(lease_expires_at, clock_timestamp() + make_interval(mins => lease_minutes)) as lease,
            session_patience(workspace, claimed_by, claimed_session_id, timeout) as patience
        from work_task
        where workspace = in_workspace and claimed_by = in_agent_id
            and status in ('claimed', 'running') and claim_is_due(work_task, in_session_id, timeout)
        for update skip locked
    )
    update work_task t set
        lease_expires_at = due.lease,
        held_until = least(due.lease, clock_timestamp() + due.patience)
    from due
    where t.workspace = due.workspace and t.id = due.id;

    with due as (
        select workspace, agent_id, session_id from agent_session
        where workspace = in_workspace and agent_id = in_agent_id and session_id = in_session_id
            and session_is_due(agent_session)
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
