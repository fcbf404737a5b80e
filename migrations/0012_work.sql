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
    is_delayed boolean not null default false,

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
    claim_expires_at timestamptz,
    -- Whether somebody has noticed that the claim has ended. It may still be completed, and is
    -- among the tasks that are handed out.
    is_expiry_recorded boolean not null default false,
    -- Whether the task is in the index that claims read.
    is_ready boolean not null generated always as (
        (status = 'pending' and open_dependencies = 0 and not is_delayed)
        or (status in ('claimed', 'running') and is_expiry_recorded and attempt < max_attempts)
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
            lease_expires_at, claim_expires_at) = 0
    )
);

-- One live task a unique key.
create unique index work_task_unique_key on work_task (workspace, unique_key)
where unique_key is not null and status in ('pending', 'claimed', 'running');

-- In the order in which tasks are handed out, for any type and for given ones. Tasks that ask for an
-- archetype have indexes of their own, so that a claimant without it does not walk over them.
create index work_task_ready on work_task (workspace, needed_trust, priority, created_at, id)
where is_ready and archetype is null;
create index work_task_ready_by_type on work_task
    (workspace, task_type, needed_trust, priority, created_at, id)
where is_ready and archetype is null;
create index work_task_ready_by_archetype on work_task
    (workspace, archetype, needed_trust, priority, created_at, id)
where is_ready and archetype is not null;
create index work_task_ready_by_archetype_and_type on work_task
    (workspace, archetype, task_type, needed_trust, priority, created_at, id)
where is_ready and archetype is not null;
-- Ready tasks that the guardrails forbid to some agents.
create index work_task_guarded on work_task (workspace, priority, created_at, id)
where is_ready and guard_trust > 0;
-- What time has changed and nobody has noticed yet: parked tasks that are due, claims that have
-- ended, deadlines that passed.
create index work_task_delayed on work_task (workspace, available_at)
where status = 'pending' and open_dependencies = 0 and is_delayed;
create index work_task_claim_expiry on work_task (workspace, claim_expires_at)
where status in ('claimed', 'running') and not is_expiry_recorded;
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
    list_order integer not null,
    primary key (workspace, task_id, depends_on)
);
create index work_dependency_on on work_dependency (workspace, depends_on);

-- A task as it is submitted, with what the guardrails say of it. `refusal` is why its submitter may not
-- submit it, `patterns` and `violations` are what counts against the submitter.
create type task_submission as (
    task_type text,
    description text,
    input_data json,
    priority smallint,
    depends_on jsonb, -- a list of ids without repetitions
    agent_requirements json,
    archetype text,
    min_trust smallint,
    deadline timestamptz,
    not_before timestamptz,
    max_attempts smallint,
    retry_on_failure boolean,
    unique_key text,
    replaces uuid,
    authored_by text,
    change_id text,
    guard_version text,
    guard_trust smallint,
    guard_findings jsonb,
    refusal text,
    patterns jsonb,
    violations jsonb
);

-- What became of a submission: the verdict, the task, and which of its dependencies is not known.
create type submission_verdict as (
    verdict text,
    task_id uuid,
    dependency_number bigint -- starting at 1
);

-- A task as a claim hands it out, with the verdict of the claim; or a verdict without a task.
create type claim_verdict as (
    verdict text,
    id uuid,
    task_type text,
    description text,
    input_data json,
    priority smallint,
    deadline timestamptz,
    attempt smallint,
    claim_token text,
    lease_expires_at timestamptz,
    reason text, -- why there is no task
    texts json -- texts of tasks to judge first
);

-- A task to claim, whose row is locked; none where the id is null.
create type next_task as (
    id uuid,
    guard_version text,
    guard_findings jsonb,
    is_contended boolean -- others hold what is left
);
