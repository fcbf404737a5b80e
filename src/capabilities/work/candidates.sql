-- The head of the queue: the first tasks that an agent may take, read from the indexes of ready tasks
-- in the order of handing out, so that neither blocked nor forbidden tasks are walked over.

-- The first ready tasks that an agent may take: a few for each degree of trust up to its own, for each
-- kind of work it asks for (null: any), and for each archetype it may serve (null: any).
--
-- Each column of an index of ready tasks is asked for by a range and ordered by, although one value is
-- wanted: no other index then gives this order. For an equality the planner may choose
-- `work_task_listed`, which has the same order at the end, and walk over the whole backlog where a
-- degree has no task.
create or replace function claimable_tasks(
    in_workspace text, cx request, in_trust integer, in_task_types text[], at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
begin
    if in_task_types is null then
        return query
        select it.* from (values (0), (1), (2), (3), (4)) degree (needed) cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.needed_trust between needed and needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.needed_trust, t.priority, t.created_at, t.id limit 16
        ) it
        where needed <= in_trust;
    else
        return query
        select it.* from (values (0), (1), (2), (3), (4)) degree (needed)
        cross join unnest(in_task_types) wanted
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.task_type between wanted and wanted and t.needed_trust between needed and needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.task_type, t.needed_trust, t.priority, t.created_at, t.id limit 16
        ) it
        where needed <= in_trust;
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

-- The part of `claimable_tasks` for tasks that ask for an archetype.
create or replace function claimable_tasks_of_archetypes(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], able text[],
    at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
declare
    served text;
    wanted text;
begin
    foreach served in array coalesce(able, array(select ready_archetypes(in_workspace))) loop
        for needed in 0..in_trust loop
            if in_task_types is null then
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served and served
                    and t.needed_trust between needed and needed
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, able, at)
                order by t.archetype, t.needed_trust, t.priority, t.created_at, t.id limit 16;
                continue;
            end if;
            foreach wanted in array in_task_types loop
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served and served
                    and t.task_type between wanted and wanted
                    and t.needed_trust between needed and needed
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, able, at)
                order by t.archetype, t.task_type, t.needed_trust, t.priority, t.created_at, t.id
                limit 16;
            end loop;
        end loop;
    end loop;
end
$$;

-- The archetypes that ready tasks ask for, read by jumping from one to the next in the index.
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

-- For each of the requests that wait for work, given in the order of arrival as parallel arrays:
-- whether to try again now. Each task wakes one request. Where time has changed something that nothing
-- has noticed yet, the first request is woken to notice it.
create or replace function poll_work_waiters(
    in_workspace text, in_waiter_ids uuid[], in_agent_ids text[], in_trusts integer[],
    in_task_types jsonb, session_timeout interval
) returns setof uuid language plpgsql stable set plan_cache_mode = force_generic_plan as $$
declare
    at timestamptz := clock_timestamp();
    is_unnoticed boolean := overdue_tasks(in_workspace, at, 1) <> '{}';
    cx request;
    woken uuid[] := array[]::uuid[];
    task_types text[];
    task uuid;
begin
    for n in 1..cardinality(in_waiter_ids) loop
        task_types := to_text_array(in_task_types -> (n - 1));
        cx.agent_id := in_agent_ids[n];
        cx.session_timeout := session_timeout;
        select c.id into task
        from claimable_tasks(in_workspace, cx, in_trusts[n], task_types, at) c
        where c.id <> all(woken)
        limit 1;
        if task is not null or is_unnoticed then
            woken := woken || task;
            is_unnoticed := is_unnoticed and task is not null;
            return next in_waiter_ids[n];
        end if;
    end loop;
end
$$;
