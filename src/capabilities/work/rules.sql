-- Rules about tasks, as functions of columns. Each rule stands here and nowhere else.

-- Whether a claim has expired: with its lease, or with its session's timeout.
create or replace function is_claim_expired(status text, claim_expires_at timestamptz, at timestamptz)
returns boolean language sql immutable parallel safe as $$
    select status in ('claimed', 'running') and claim_expires_at <= at
$$;

-- Returns why a task has expired, whether or not its row says so yet; null while it has not. An expired
-- task has failed. A pending task expires at its deadline. A claimed task expires with its claim, when
-- it is out of attempts or past its deadline; otherwise it can then be claimed again.
create or replace function task_expiry_reason(
    status text, deadline timestamptz, claim_expires_at timestamptz, attempt smallint,
    max_attempts smallint, at timestamptz
) returns text language sql immutable parallel safe as $$
    select case
        when status = 'pending' and deadline <= at then 'deadline_exceeded'
        when is_claim_expired(status, claim_expires_at, at) and attempt >= max_attempts
            then 'max_attempts_exceeded'
        when is_claim_expired(status, claim_expires_at, at) and deadline <= at then 'deadline_exceeded'
    end
$$;

-- Returns when a task expired, for a task that has.
create or replace function task_expired_at(
    status text, deadline timestamptz, claim_expires_at timestamptz, attempt smallint, max_attempts smallint
) returns timestamptz language sql immutable parallel safe as $$
    select case when status = 'pending' then deadline
        when attempt >= max_attempts then claim_expires_at
        else greatest(deadline, claim_expires_at) end
$$;

-- Returns the status of a task now, which its row may not show yet.
create or replace function task_status(
    status text, deadline timestamptz, claim_expires_at timestamptz, attempt smallint,
    max_attempts smallint, at timestamptz
) returns text language sql immutable parallel safe as $$
    select case
        when task_expiry_reason(status, deadline, claim_expires_at, attempt, max_attempts, at) is not null
            then 'failed'
        else status end
$$;

-- Whether an agent may claim a task, as far as the task's row says. `is_ready` is a column of the
-- table: the task is pending without open dependencies or delay, or its claim has expired and its row
-- says so. `capabilities` are those that the agent's live sessions declare, null where they declare
-- none. `task_types` null means any type.
create or replace function is_claimable(
    is_ready boolean, needed_trust smallint, task_type text, deadline timestamptz, submitted_by text,
    authored_by text, archetype text, claimant text, trust integer, task_types text[],
    capabilities text[], at timestamptz
) returns boolean language sql immutable parallel safe as $$
    select is_ready and needed_trust <= trust
        and (task_types is null or task_type = any(task_types))
        and is_eligible(
            task_type, deadline, submitted_by, authored_by, archetype, claimant, capabilities, at)
$$;

-- Whether an agent is eligible for a task whatever its trust, the part of `is_claimable` that does not
-- depend on the guardrails: the deadline has not passed, the agent did not write or submit what it
-- would review, and it has the required archetype.
create or replace function is_eligible(
    task_type text, deadline timestamptz, submitted_by text, authored_by text, archetype text,
    claimant text, capabilities text[], at timestamptz
) returns boolean language sql immutable parallel safe as $$
    select (deadline is null or deadline > at)
        and not (task_type in ('evaluate', 'review')
            and (submitted_by = claimant or authored_by is not distinct from claimant))
        and (archetype is null or coalesce(archetype = any(capabilities), true))
$$;

-- Whether a call that keeps a claim alive renews it: the claim has not expired, would expire later, and
-- was not renewed within `heartbeat_interval`. A claim whose session was registered after the claim is
-- due too, because it expires too late (last condition). `session_timeout` is null for a claim without a
-- session, or whose session is not registered.
create or replace function is_claim_renewal_due(
    is_claim_known boolean, claim_expires_at timestamptz, lease_expires_at timestamptz,
    lease_minutes integer, session_timeout interval, at timestamptz
) returns boolean language sql stable parallel safe as $$
    select claim_expires_at > at
        and (
            (claim_expires_at < claim_expiry(
                    renewed_lease(is_claim_known, lease_expires_at, lease_minutes, at),
                    session_timeout, at)
                and claim_expires_at < at - heartbeat_interval() + least(
                    case when is_claim_known then make_interval(mins => lease_minutes) end,
                    session_timeout))
            or claim_expires_at > at + heartbeat_interval() + session_timeout
        )
$$;

-- Returns when the lease of a claim ends that a call keeps alive. The lease of a claim that its agent
-- may not know of is not extended: the answer that granted it can have been lost.
create or replace function renewed_lease(
    is_claim_known boolean, lease_expires_at timestamptz, lease_minutes integer, at timestamptz
) returns timestamptz language sql stable parallel safe as $$
    select case
        when is_claim_known then greatest(lease_expires_at, at + make_interval(mins => lease_minutes))
        else lease_expires_at end
$$;

-- Returns when a claim that is made or renewed now expires: with its lease, or earlier with its
-- session's timeout.
create or replace function claim_expiry(
    lease_ends_at timestamptz, session_timeout interval, at timestamptz
) returns timestamptz language sql stable parallel safe as $$
    select least(lease_ends_at, at + session_timeout)
$$;

-- Returns the timeout of a session, or null when the session is not registered: its claims then expire
-- with their leases alone.
create or replace function registered_session_timeout(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns interval language plpgsql stable as $$
begin
    if in_session_id is not null and exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    ) then
        return session_timeout;
    end if;
    return null;
end
$$;

-- Renews the claims that a call keeps alive: those of its session, and those that its agent made
-- without a session. For a call without a session (`in_session_id` null), those of all live sessions of
-- the agent. Never shortens a lease. Skips a row that another call has locked: that call renews it too.
create or replace function renew_due_claims(
    in_workspace text, in_agent_id text, in_session_id text, session_timeout interval
) returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    claim record;
begin
    for claim in
        select t.id, claim_session.timeout,
            renewed_lease(t.is_claim_known, t.lease_expires_at, t.lease_minutes, at) as lease_ends_at
        from work_task t
        left join lateral (
            select session_timeout as timeout,
                is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at) as is_live
            from agent_session s
            where s.workspace = in_workspace and s.agent_id = in_agent_id
                and s.session_id = t.claimed_session_id
            limit 1
        ) claim_session on true
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.status in ('claimed', 'running')
            and (t.claimed_session_id is null
                or coalesce(t.claimed_session_id = in_session_id, claim_session.is_live))
            and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
                t.lease_minutes, claim_session.timeout, at)
        order by t.id
        for update of t skip locked
    loop
        update work_task t set
            lease_expires_at = claim.lease_ends_at,
            claim_expires_at = claim_expiry(claim.lease_ends_at, claim.timeout, at)
        where t.workspace = in_workspace and t.id = claim.id;
    end loop;
end
$$;

-- Returns the tasks that time has changed while their rows do not show it: pending tasks past their
-- deadline, delayed tasks that are due, claims that have expired. At most `in_limit` of each kind, the
-- longest overdue first.
create or replace function overdue_tasks(in_workspace text, at timestamptz, in_limit integer)
returns uuid[] language plpgsql stable as $$
begin
    return array((
        select t.id from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.deadline <= at
        order by t.deadline limit in_limit
    ) union all (
        select t.id from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.open_dependencies = 0
            and t.is_delayed and t.available_at <= at
        order by t.available_at limit in_limit
    ) union all (
        select t.id from work_task t
        where t.workspace = in_workspace and not t.is_expiry_recorded
            and is_claim_expired(t.status, t.claim_expires_at, at)
        order by t.claim_expires_at limit in_limit
    ));
end
$$;

-- Updates the rows of tasks that time has changed, so that the index of ready tasks has them as they
-- are now. Updates at most `in_limit` tasks of each kind and skips rows that another call has locked.
--
-- Like other functions that touch several tasks, this looks up each task by its key: for a list of ids
-- the planner may read the whole workspace until it has statistics.
create or replace function update_overdue_tasks(
    in_workspace text, in_limit integer, out updated bigint, out failed bigint
) language plpgsql as $$
declare
    overdue uuid[] := array(
        select id from unnest(overdue_tasks(in_workspace, clock_timestamp(), in_limit)) id
        order by id);
    task_id uuid;
    new_status text;
begin
    updated := 0;
    failed := 0;
    foreach task_id in array overdue loop
        perform from work_task t where t.workspace = in_workspace and t.id = task_id
        for update skip locked;
        continue when not found;
        new_status := update_overdue_task(in_workspace, task_id);
        updated := updated + (new_status is not null)::integer;
        failed := failed + coalesce(new_status = 'failed', false)::integer;
    end loop;
end
$$;

-- Updates the row of a task, which the caller has locked, where time has changed the task: its delay is
-- over, its claim has expired, or it has failed. Returns the new status, or null when nothing has
-- changed.
create or replace function update_overdue_task(in_workspace text, in_id uuid) returns text
language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    new_status text;
begin
    update work_task t set
        is_delayed = false,
        is_expiry_recorded = is_claim_expired(t.status, t.claim_expires_at, at) and task_expiry_reason(
            t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null,
        status = task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at),
        error_message = coalesce(
            task_expiry_reason(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at),
            t.error_message),
        completed_at = case when task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is not null
            then task_expired_at(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts)
            else t.completed_at end
    where t.workspace = in_workspace and t.id = in_id
        and (
            is_claim_expired(t.status, t.claim_expires_at, at)
            or (t.status = 'pending' and (t.deadline <= at or (t.is_delayed and t.available_at <= at)))
        )
    returning t.status into new_status;
    return new_status;
end
$$;

-- Decrements the count of open dependencies of the tasks that depend on a completed task, in the order
-- of their ids, which prevents deadlocks. The query has its own snapshot, so it sees dependents that
-- were committed while the caller waited for the row of the completed task.
create or replace function decrement_open_dependencies(in_workspace text, in_task_id uuid) returns void
language plpgsql as $$
declare
    dependent uuid;
begin
    for dependent in
        select d.task_id from work_dependency d
        where d.workspace = in_workspace and d.depends_on = in_task_id
        order by d.task_id
    loop
        update work_task t set open_dependencies = t.open_dependencies - 1
        where t.workspace = in_workspace and t.id = dependent;
    end loop;
end
$$;
