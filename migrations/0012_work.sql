-- The work queue: tasks with dependencies, which agents claim for the time of a lease.

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

    -- How many dependencies are not completed. The transition that completes a dependency decrements
    -- it, so that a claim need not read the dependencies of the backlog.
    open_dependencies integer not null default 0,
    not_before timestamptz,
    deadline timestamptz,
    -- When a task can be claimed: at `not_before`, or after the backoff of its retry. `is_delayed`
    -- keeps the task out of the index of ready tasks until its row is updated after that time.
    available_at timestamptz,
    is_delayed boolean not null default false,

    agent_requirements json,
    archetype text,
    min_trust smallint not null default 0,
    -- An agent that may not claim a task of type `evaluate` or `review`, besides its submitter.
    authored_by text,
    -- What the guardrails found in the task's text, the set of patterns that was used, and the trust
    -- below which the findings forbid a claim.
    guard_version text not null,
    guard_trust smallint not null,
    guard_findings jsonb not null,
    -- The greater of `min_trust` and `guard_trust`, stored for the indexes of ready tasks.
    needed_trust smallint not null,

    max_attempts smallint not null,
    retry_on_failure boolean not null,
    attempt smallint not null default 0,
    claim_token text,
    claimed_by text collate "C",
    claimed_session_id text,
    claimed_at timestamptz,
    started_at timestamptz,
    -- The lease that a heartbeat renews, and the lease of a renewal that does not name a duration.
    lease_minutes integer,
    claim_lease_minutes integer,
    lease_expires_at timestamptz,
    -- When the claim expires: with its lease, or earlier with its session's timeout.
    claim_expires_at timestamptz,
    -- Whether the row was updated after the claim expired. The task is then in the index of ready
    -- tasks, and its claimant may still complete it until it is claimed again.
    is_expiry_recorded boolean not null default false,
    -- Whether the task is in the indexes of ready tasks, which claims read.
    is_ready boolean not null generated always as (
        (status = 'pending' and open_dependencies = 0 and not is_delayed)
        or (status in ('claimed', 'running') and is_expiry_recorded and attempt < max_attempts)
    ) stored,

    completed_at timestamptz,
    result json,
    error_message text,
    -- The latest report as the claimant sent it, and its answer: a repeated report gets the same answer
    -- until the task is claimed again.
    completion jsonb,

    primary key (workspace, id),
    constraint work_task_status_known check (
        status in ('pending', 'claimed', 'running', 'completed', 'failed', 'cancelled')
    ),
    constraint work_task_priority_range check (priority between 1 and 10),
    -- 5 is above every trust.
    constraint work_task_trust_range check (needed_trust between 0 and 5),
    constraint work_task_dependencies_counted check (open_dependencies >= 0),
    constraint work_task_claim_is_whole check (
        status not in ('claimed', 'running')
        or num_nulls(
            claim_token, claimed_by, claimed_at, lease_minutes, claim_lease_minutes,
            lease_expires_at, claim_expires_at) = 0
    )
);

-- One unfinished task for each unique key.
create unique index work_task_unique_key on work_task (workspace, unique_key)
where unique_key is not null and status in ('pending', 'claimed', 'running');

-- Ready tasks in queue order, for claims of any type and of given types. Tasks that require an
-- archetype have indexes of their own, so that a claimant without the archetype does not read them.
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
-- Ready tasks that the guardrails forbid to some agents, for the explanation of a claim without a task.
create index work_task_guarded on work_task (workspace, priority, created_at, id)
where is_ready and guard_trust > 0;
-- Overdue tasks, whose rows do not show yet what time has changed: delayed tasks that are due, expired
-- claims, and (`work_task_overdue`) deadlines that have passed.
create index work_task_delayed on work_task (workspace, available_at)
where status = 'pending' and open_dependencies = 0 and is_delayed;
create index work_task_claim_expiry on work_task (workspace, claim_expires_at)
where status in ('claimed', 'running') and not is_expiry_recorded;
-- Tasks that a set of guardrail patterns has forbidden to some agents, to scan them with another set.
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

-- A submitted task with what the guardrails found in it. `refusal` is why its submitter may not submit
-- it; `patterns` and `violations` are the findings that count at the submitter's trust.
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

-- The verdict of a submission, with the task, or with the number of the dependency that is unknown.
create type submission_verdict as (
    verdict text,
    task_id uuid,
    dependency_number bigint -- starting at 1
);

-- The verdict of a claim, with the claimed task or without a task.
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
    texts json -- texts of tasks to scan first
);

-- The task that a claim gets next, whose row is locked. The id is null when there is no such task.
create type next_task as (
    id uuid,
    guard_version text,
    guard_findings jsonb,
    is_contended boolean -- rivals have locked the remaining tasks
);
