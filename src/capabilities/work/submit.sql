-- Submission of tasks.

-- Stores a submitted task, unless it is refused. Returns the verdict: `created`, `deduplicated` (with
-- the id of the unfinished task that has this unique key), `blocked` by the guardrails, the reason of a
-- quota, or an issue of the input, which is not recorded: `unknown_dependency` (`dependency_number` says
-- which, starting at 1), `not_replaceable`, `deadline_past`.
create or replace function submit_task(
    in_workspace text, cx request, task task_submission, in_quota integer[]
) returns submission_verdict language plpgsql as $$
declare
    submitted submission_verdict;
begin
    perform record_heartbeat(in_workspace, cx);
    submitted := store_task(in_workspace, cx, task, in_quota);
    if submitted.verdict in ('created', 'deduplicated', 'blocked') then
        perform record_submission(
            in_workspace, cx, task, submitted.verdict, submitted.task_id);
    elsif is_quota_refusal(submitted.verdict) then
        perform record_refused_submission(in_workspace, cx, task, submitted.verdict);
    end if;
    return submitted;
end
$$;

-- Records a submission and its verdict, with what the guardrails found in the task's text.
create or replace function record_submission(
    in_workspace text, cx request, task task_submission, verdict text, in_task_id uuid
) returns void language plpgsql as $$
declare
    parameters jsonb := jsonb_build_object('task_type', task.task_type, 'priority', task.priority);
begin
    if task.change_id is not null then
        parameters := parameters || jsonb_build_object('change_id', task.change_id);
    end if;
    if verdict <> 'deduplicated' and task.violations <> '[]' then
        perform record_guardrail_violations(in_workspace, cx, task.violations);
    end if;
    perform record_audit(
        in_workspace, cx, 'submit_task', parameters,
        case when verdict = 'blocked'
            then jsonb_build_object('reason', task.refusal, 'guardrails', task.patterns)
            else jsonb_build_object(
                'task_id', in_task_id, 'action', verdict, 'guardrails', task.patterns) end,
        verdict <> 'blocked');
end
$$;

-- Records a submission that was refused for a reason that is not in its text.
create or replace function record_refused_submission(
    in_workspace text, cx request, task task_submission, in_reason text
) returns void language plpgsql as $$
begin
    perform record_audit(
        in_workspace, cx, 'submit_task',
        jsonb_build_object('task_type', task.task_type, 'priority', task.priority),
        jsonb_build_object('reason', in_reason), false);
end
$$;

-- Checks a submitted task and stores it. The rows of its dependencies stay locked from the count of the
-- open ones until the end of the transaction, so that no completion is missed. They are locked in
-- the order of their ids, which prevents deadlocks. When another call stores a task with the same
-- unique key meanwhile, the loop finds that task.
create or replace function store_task(
    in_workspace text, cx request, task task_submission, in_quota integer[]
) returns submission_verdict language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    dependencies uuid[] := to_uuid_array(task.depends_on);
    open_count integer := 0;
    stored submission_verdict := check_submission(in_workspace, task, dependencies, at);
begin
    while stored.verdict is null loop
        if task.unique_key is not null then
            stored.task_id := find_unfinished_task(in_workspace, task.unique_key);
            if stored.task_id is not null then
                stored.verdict := 'deduplicated';
                return stored;
            end if;
        end if;
        stored.verdict := refused_by_quota(
            in_workspace, cx.agent_id, 'tasks', in_quota, cx.session_timeout);
        exit when stored.verdict is not null;
        if dependencies <> '{}' then
            open_count := count_open_dependencies(in_workspace, dependencies);
        end if;
        insert into work_task as t (
            workspace, task_type, description, input_data, priority, agent_requirements, archetype,
            min_trust, deadline, not_before, available_at, is_delayed, max_attempts,
            retry_on_failure, unique_key, guard_version, guard_trust, guard_findings, needed_trust,
            authored_by, change_id, submitted_by, submitted_session_id, open_dependencies
        ) values (
            in_workspace, task.task_type, task.description, task.input_data, task.priority,
            task.agent_requirements, task.archetype, task.min_trust, task.deadline, task.not_before,
            task.not_before, coalesce(task.not_before > at, false), task.max_attempts,
            task.retry_on_failure, task.unique_key, task.guard_version, task.guard_trust,
            task.guard_findings, greatest(task.min_trust, task.guard_trust), task.authored_by,
            task.change_id, cx.agent_id, cx.session_id, open_count
        )
        on conflict (workspace, unique_key)
            where unique_key is not null and status in ('pending', 'claimed', 'running')
            do nothing
        returning 'created', t.id, null::bigint into stored;
    end loop;
    if stored.verdict = 'created' and dependencies <> '{}' then
        insert into work_dependency (workspace, task_id, depends_on, list_order)
        select in_workspace, stored.task_id, asked.id, asked.list_order
        from unnest(dependencies) with ordinality as asked (id, list_order)
        on conflict (workspace, task_id, depends_on) do nothing;
    end if;
    if stored.verdict = 'created' and task.replaces is not null then
        perform replace_dependency(in_workspace, task.replaces, stored.task_id);
    end if;
    return stored;
end
$$;

-- Checks whether a task can be stored, its unique key aside. The verdict is null when it can. The row
-- of the task that it replaces stays locked.
create or replace function check_submission(
    in_workspace text, task task_submission, in_depends_on uuid[], at timestamptz
) returns submission_verdict language plpgsql as $$
declare
    checked submission_verdict;
    replaced record;
begin
    if in_depends_on <> '{}' then
        select asked.list_order into checked.dependency_number
        from unnest(in_depends_on) with ordinality as asked (id, list_order)
        where not exists (
            select from work_task t where t.workspace = in_workspace and t.id = asked.id
        )
        order by asked.list_order limit 1;
        if found then
            checked.verdict := 'unknown_dependency';
            return checked;
        end if;
    end if;
    if task.replaces is not null then
        select t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts into replaced
        from work_task t where t.workspace = in_workspace and t.id = task.replaces
        for update;
        if coalesce(task_status(replaced.status, replaced.deadline, replaced.claim_expires_at,
            replaced.attempt, replaced.max_attempts, clock_timestamp())
            not in ('failed', 'cancelled'), true)
        then
            checked.verdict := 'not_replaceable';
            return checked;
        end if;
    end if;
    if task.deadline <= at then
        checked.verdict := 'deadline_past';
    elsif task.refusal is not null then
        checked.verdict := 'blocked';
    end if;
    return checked;
end
$$;

-- Finds the unfinished task that has this unique key; null without one. An expired task is updated to
-- failed, which frees the key.
create or replace function find_unfinished_task(in_workspace text, in_unique_key text) returns uuid
language plpgsql as $$
declare
    found_task record;
    at timestamptz := clock_timestamp();
begin
    select t.id, task_expiry_reason(
        t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) as expiry_reason
    into found_task
    from work_task t
    where t.workspace = in_workspace and t.unique_key = in_unique_key
        and t.status in ('pending', 'claimed', 'running');
    if found_task.expiry_reason is null then
        return found_task.id;
    end if;
    perform from work_task t where t.workspace = in_workspace and t.id = found_task.id for update;
    perform update_overdue_task(in_workspace, found_task.id);
    return null;
end
$$;

-- Counts the dependencies that are not completed, and locks their rows (`for share`) so that none is
-- completed until the transaction ends.
create or replace function count_open_dependencies(in_workspace text, in_task_ids uuid[])
returns integer language plpgsql as $$
declare
    dependency uuid;
    dependency_status text;
    open_count integer := 0;
begin
    for dependency in select id from unnest(in_task_ids) id order by id loop
        select t.status into dependency_status from work_task t
        where t.workspace = in_workspace and t.id = dependency
        for share;
        open_count := open_count + (dependency_status <> 'completed')::integer;
    end loop;
    return open_count;
end
$$;

-- Replaces a failed or cancelled task by a new one among the dependencies of pending tasks.
create or replace function replace_dependency(in_workspace text, in_old uuid, in_new uuid)
returns void language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
begin
    update work_dependency d set depends_on = in_new
    from work_task t
    where d.workspace = in_workspace and d.depends_on = in_old
        and t.workspace = in_workspace and t.id = d.task_id
        and task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at)
            = 'pending';
end
$$;
