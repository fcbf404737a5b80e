-- The head of the queue: the first tasks that an agent may take, read from the indexes of ready tasks in
-- the order of handing out, so that neither blocked nor forbidden tasks are walked over.

-- The first ready tasks that an agent may take: a few for each degree of trust up to its own, for each
-- kind of work it asks for (null: any), and for each archetype it may serve (null: any).
create or replace function claimable_tasks(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], able text[],
    at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
declare
    archetypes text[] := coalesce(able, array(select ready_archetypes(in_workspace)));
begin
    if in_task_types is null then
        return query
        select it.* from generate_series(0, in_trust) needed
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.needed_trust = needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, able, at)
            order by t.priority, t.created_at, t.id limit 16
        ) it;
    else
        return query
        select it.* from generate_series(0, in_trust) needed cross join unnest(in_task_types) wanted
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.task_type = wanted and t.needed_trust = needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, able, at)
            order by t.priority, t.created_at, t.id limit 16
        ) it;
    end if;
    if archetypes <> '{}' then
        return query
        select * from claimable_tasks_of_archetypes(
            in_workspace, in_agent_id, in_trust, in_task_types, able, archetypes, at);
    end if;
end
$$;

-- The part of `claimable_tasks` for tasks that ask for an archetype.
create or replace function claimable_tasks_of_archetypes(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], able text[],
    archetypes text[], at timestamptz
) returns table (id uuid, priority smallint, created_at timestamptz) language plpgsql stable as $$
#variable_conflict use_column
begin
    if in_task_types is null then
        return query
        select it.* from generate_series(0, in_trust) needed cross join unnest(archetypes) served
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                and t.archetype = served and t.needed_trust = needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, able, at)
            order by t.priority, t.created_at, t.id limit 16
        ) it;
    else
        return query
        select it.* from generate_series(0, in_trust) needed cross join unnest(archetypes) served
        cross join unnest(in_task_types) wanted
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                and t.archetype = served and t.task_type = wanted and t.needed_trust = needed
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, able, at)
            order by t.priority, t.created_at, t.id limit 16
        ) it;
    end if;
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

-- For each of the requests that wait for work, given in the order of arrival as parallel arrays: whether
-- to try again now. Each task wakes one request. Where time has changed something that nothing has
-- noticed yet, the first request is woken to notice it.
create or replace function ready_work_waiters(
    in_workspace text, in_places uuid[], in_agent_ids text[], in_trusts integer[],
    in_task_types jsonb, silence interval
) returns setof uuid language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
    is_unnoticed boolean := exists (select from tasks_to_notice(in_workspace, at, 1));
    woken uuid[] := array[]::uuid[];
    task_types text[];
    task uuid;
begin
    for n in 1..cardinality(in_places) loop
        task_types := case when in_task_types -> (n - 1) <> 'null' then array(
            select jsonb_array_elements_text(in_task_types -> (n - 1))) end;
        select c.id into task
        from claimable_tasks(
            in_workspace, in_agent_ids[n], in_trusts[n], task_types,
            declared_capabilities(in_workspace, in_agent_ids[n], silence), at) c
        where c.id <> all(woken)
        limit 1;
        if task is not null or is_unnoticed then
            woken := woken || task;
            is_unnoticed := is_unnoticed and task is not null;
            return next in_places[n];
        end if;
    end loop;
end
$$;
