-- What a claim that found no task leaves behind: tasks that the agent could claim, were it not for
-- something that time alone does not change.

-- Explains an empty claim, for the agent whose claim it was. Returns how many tasks wait for one that
-- failed or was cancelled for good, up to `explained_tasks`; the first 20 of the latter; and the first 20
-- archetypes that ready tasks require and no live session of the agent declares.
create or replace function explain_unavailable_work(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types jsonb, session_timeout interval
) returns table (blocked integer, by_failed uuid[], undeclared_archetypes text[])
language plpgsql stable as $$
declare
    task_types text[] := to_text_array(in_task_types);
    waiting uuid[] := blocked_tasks(in_workspace, in_agent_id, in_trust, task_types, session_timeout);
    tasks uuid[];
    dependencies uuid[];
    failures boolean[];
begin
    select array_agg(w.task_id order by w.place), array_agg(w.depends_on order by w.place),
        array_agg(w.is_failed order by w.place)
    into tasks, dependencies, failures
    from waiting_dependencies(in_workspace, waiting) w;
    blocked := count_stuck_tasks(waiting, tasks, dependencies, failures);
    by_failed := array(
        select d.id from unnest(dependencies, failures) with ordinality as d (id, is_failed, place)
        where d.is_failed group by d.id order by min(d.place) limit 20);
    undeclared_archetypes := find_undeclared_archetypes(
        in_workspace, in_agent_id, in_trust, task_types, session_timeout);
    return next;
end
$$;

-- Whether `explain_unavailable_work` can have something to say: a task waits for another one, or a ready
-- task requires an archetype. Two looks at indexes, so that an empty claim costs no round trip more.
create or replace function has_unavailable_work(in_workspace text) returns boolean
language plpgsql stable as $$
begin
    return exists (
        select from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.open_dependencies > 0
    ) or exists (
        select from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
    );
end
$$;

-- Returns how many waiting tasks an explanation counts. So that an empty claim costs the same however long
-- the backlog is, it looks for them among five times as many tasks at most, and follows their dependencies
-- through twenty times as many.
create or replace function explained_tasks() returns bigint language sql immutable parallel safe as $$
    select 100::bigint
$$;

-- Returns tasks at the head of the queue that an agent could claim if their dependencies were completed.
create or replace function blocked_tasks(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], session_timeout interval
) returns uuid[] language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
    capabilities text[] := declared_capabilities(in_workspace, in_agent_id, session_timeout);
begin
    return array(
        select t.id from (
            select * from work_task w
            where w.workspace = in_workspace and w.status = 'pending' and w.open_dependencies > 0
            order by w.priority, w.created_at, w.id limit 5 * explained_tasks()
        ) t
        where is_claimable(true, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
            t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, capabilities, at)
        order by t.priority, t.created_at, t.id limit explained_tasks());
end
$$;

-- Returns the dependencies of these pending tasks, and of the pending tasks that they wait for, the nearest
-- first. Follows each task once, whichever tasks wait for it, and the first hundred dependencies of each.
create or replace function waiting_dependencies(in_workspace text, in_task_ids uuid[])
returns table (task_id uuid, depends_on uuid, is_failed boolean, place bigint)
language plpgsql stable set jit = off as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
begin
    return query
    with recursive waiting (id) as (
        select id from unnest(in_task_ids) id
        union
        select t.id
        from waiting w
        cross join lateral (
            select d.depends_on from work_dependency d
            where d.workspace = in_workspace and d.task_id = w.id limit explained_tasks()
        ) dependency
        join work_task t on t.workspace = in_workspace and t.id = dependency.depends_on
        where t.open_dependencies > 0 and task_status(
            t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) = 'pending'
    ), nearest as (
        select id, row_number() over () as place
        from (select id from waiting limit 20 * explained_tasks()) w
    )
    select n.id, t.id, task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at)
        in ('failed', 'cancelled'), n.place
    from nearest n
    cross join lateral (
        select d.depends_on from work_dependency d
        where d.workspace = in_workspace and d.task_id = n.id limit explained_tasks()
    ) dependency
    join work_task t on t.workspace = in_workspace and t.id = dependency.depends_on;
end
$$;

-- Returns how many of `in_task_ids` wait for a failed task, by themselves or through others, according to
-- dependencies that are given as parallel arrays. Goes from the failed tasks back to those that wait. The
-- settings have the dependencies hashed once; a nested loop would read all of them for each task.
create or replace function count_stuck_tasks(
    in_task_ids uuid[], in_tasks uuid[], in_dependencies uuid[], in_failures boolean[]
) returns integer language plpgsql immutable
set jit = off set enable_nestloop = off set enable_mergejoin = off as $$
begin
    if in_failures is null or true <> all(in_failures) then
        return 0;
    end if;
    return (
        with recursive edge as materialized (
            select * from unnest(in_tasks, in_dependencies, in_failures) as e (task_id, depends_on, is_failed)
        ), stuck (id) as (
            select task_id from edge where is_failed
            union
            select e.task_id from stuck s join edge e on e.depends_on = s.id
        )
        select count(*) from stuck where id = any(in_task_ids));
end
$$;

-- Returns the first 20 archetypes that ready tasks require of an agent that could claim them otherwise,
-- and that none of its live sessions declares.
create or replace function find_undeclared_archetypes(
    in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], session_timeout interval
) returns text[] language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
    capabilities text[] := declared_capabilities(in_workspace, in_agent_id, session_timeout);
    required text;
    found_archetypes text[] := '{}'::text[];
begin
    foreach required in array array(select ready_archetypes(in_workspace)) loop
        continue when required = any(capabilities);
        perform from (
            select * from work_task w
            where w.workspace = in_workspace and w.is_ready and w.archetype is not null
                and w.archetype between required and required
            order by w.archetype, w.needed_trust, w.priority, w.created_at, w.id
            limit explained_tasks()
        ) t
        where is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
            t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, array[t.archetype], at);
        if found then
            found_archetypes := found_archetypes || required;
        end if;
        exit when cardinality(found_archetypes) = 20;
    end loop;
    return found_archetypes;
end
$$;
