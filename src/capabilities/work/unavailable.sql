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
    task_id uuid;
    failed uuid[];
begin
    blocked := 0;
    by_failed := '{}'::uuid[];
    foreach task_id in array waiting loop
        failed := failed_dependencies(in_workspace, task_id);
        blocked := blocked + (failed <> '{}')::integer;
        by_failed := by_failed || array(
            select id from unnest(failed) id where id <> all(by_failed));
    end loop;
    by_failed := by_failed[:20];
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

-- Returns how many waiting tasks an explanation counts, and how many dependencies of each. So that an empty
-- claim costs the same however long the backlog is, it looks at five times as many tasks at most.
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

-- Returns the failed and cancelled tasks that a pending task waits for, by itself or through pending
-- tasks that it depends on. Goes from level to level, because a chain can be long.
create or replace function failed_dependencies(in_workspace text, in_task_id uuid) returns uuid[]
language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
    level uuid[] := array[in_task_id];
    seen uuid[] := '{}'::uuid[];
    failed uuid[] := '{}'::uuid[];
    dependency record;
begin
    while level <> '{}' and cardinality(seen) < explained_tasks() loop
        seen := seen || level;
        for dependency in
            select d.depends_on as id, task_status(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) as status
            from work_dependency d
            join work_task t on t.workspace = in_workspace and t.id = d.depends_on
            where d.workspace = in_workspace and d.task_id = any(level)
            order by d.list_order, d.depends_on
            limit explained_tasks()
        loop
            level := array_remove(level, dependency.id) || dependency.id;
            if dependency.status in ('failed', 'cancelled') and dependency.id <> all(failed) then
                failed := failed || dependency.id;
            end if;
        end loop;
        level := array(
            select id from unnest(level) id where id <> all(seen) and id <> all(failed));
    end loop;
    return failed;
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
