-- The head of the queue: the first tasks that an agent may claim, read from the indexes of ready tasks
-- in queue order. Blocked and forbidden tasks are not in the ranges that are read, so a long backlog of
-- them costs nothing.

-- Lists the first ready tasks that an agent may claim: up to `candidates_per_range` for each trust
-- level up to the agent's own, for each requested task type (null: any), and for each archetype that
-- the agent has.
--
-- Each column of an index of ready tasks has a range condition (`between x and x`) and is in ORDER BY,
-- although it has one value: then no other index gives this order. With an equality the planner may
-- choose `work_task_listed`, whose order ends the same, and read the whole backlog where a trust level
-- has no task.
create or replace function claimable_tasks(
    in_workspace text, cx request, in_trust integer, in_task_types text[], at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
begin
    if in_task_types is null then
        return query
        select candidate.* from (values (0), (1), (2), (3), (4)) trust (level) cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.needed_trust between level and level
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.needed_trust, t.priority, t.created_at, t.id limit candidates_per_range()
        ) candidate
        where level <= in_trust;
    else
        return query
        select candidate.* from (values (0), (1), (2), (3), (4)) trust (level)
        cross join unnest(in_task_types) wanted_type
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.task_type between wanted_type and wanted_type
                and t.needed_trust between level and level
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.task_type, t.needed_trust, t.priority, t.created_at, t.id
            limit candidates_per_range()
        ) candidate
        where level <= in_trust;
    end if;
    if exists (
        select from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
    ) then
        return query
        select * from claimable_tasks_of_archetypes(
            in_workspace, cx.agent_id, in_trust, in_task_types,
            declared_capabilities(in_workspace, cx.agent_id, cx.session_timeout), at);
    end if;
end
$$;

-- Returns how many tasks are read from each range of an index of ready tasks: enough that a claim finds
-- one that rivals have not locked, and few enough to sort.
create or replace function candidates_per_range() returns bigint language sql immutable parallel safe as $$
    select 16::bigint
$$;

-- Lists the part of `claimable_tasks` that requires an archetype: one of `in_capabilities`, which are
-- those that the agent's live sessions declare, null where they declare none.
create or replace function claimable_tasks_of_archetypes(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], in_capabilities text[],
    at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
declare
    served_archetype text;
    wanted_type text;
begin
    foreach served_archetype in array
        coalesce(in_capabilities, '{}'::text[])
    loop
        for level in 0..in_trust loop
            if in_task_types is null then
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served_archetype and served_archetype
                    and t.needed_trust between level and level
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, in_capabilities, at)
                order by t.archetype, t.needed_trust, t.priority, t.created_at, t.id
                limit candidates_per_range();
                continue;
            end if;
            foreach wanted_type in array in_task_types loop
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served_archetype and served_archetype
                    and t.task_type between wanted_type and wanted_type
                    and t.needed_trust between level and level
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, in_capabilities, at)
                order by t.archetype, t.task_type, t.needed_trust, t.priority, t.created_at, t.id
                limit candidates_per_range();
            end loop;
        end loop;
    end loop;
end
$$;

-- Lists the archetypes that ready tasks require, by a loose index scan: each step jumps to the next
-- archetype.
create or replace function ready_archetypes(in_workspace text) returns setof text
language plpgsql stable rows 5 as $$
begin
    return query
    with recursive found as (
        (
            select t.archetype from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is not null
            order by t.archetype limit 1
        ) union all (
            select (
                select t.archetype from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype > found.archetype
                order by t.archetype limit 1
            )
            from found where found.archetype is not null
        )
    )
    select archetype from found where archetype is not null;
end
$$;

-- Polls for requests that wait for work, given as parallel arrays in the order of arrival, and returns
-- the ids of those that are ready to run again. Each claimable task wakes one request, which avoids a
-- thundering herd. Where tasks are overdue, one request is woken in any case: its claim updates their
-- rows.
create or replace function poll_work_waiters(
    in_workspace text, in_waiter_ids uuid[], in_agent_ids text[], in_trusts integer[],
    in_task_types jsonb, session_timeout interval
) returns setof uuid language plpgsql stable set plan_cache_mode = force_generic_plan as $$
declare
    at timestamptz := clock_timestamp();
    has_overdue_tasks boolean := overdue_tasks(in_workspace, at, 1) <> '{}';
    cx request;
    taken_tasks uuid[] := array[]::uuid[];
    task_types text[];
    task_id uuid;
begin
    for n in 1..cardinality(in_waiter_ids) loop
        task_types := to_text_array(in_task_types -> (n - 1));
        cx.agent_id := in_agent_ids[n];
        cx.session_timeout := session_timeout;
        select c.id into task_id
        from claimable_tasks(in_workspace, cx, in_trusts[n], task_types, at) c
        where c.id <> all(taken_tasks)
        limit 1;
        if task_id is not null or has_overdue_tasks then
            taken_tasks := taken_tasks || task_id;
            has_overdue_tasks := has_overdue_tasks and task_id is not null;
            return next in_waiter_ids[n];
        end if;
    end loop;
end
$$;
