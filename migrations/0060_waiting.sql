-- Requests that wait for a lock, first come, first served.

-- A place in the queue of a key. Whoever looks for the waiting request keeps it alive; without that
-- it is gone a moment later, so that a request that broke off holds nobody up.
create table lock_waiter (
    workspace text collate "C" not null,
    place uuid not null,
    key text collate "C" not null,
    agent_id text collate "C" not null,
    agent_type text not null,
    session_id text,
    reason text,
    waiting_since timestamptz not null default clock_timestamp(),
    alive_until timestamptz not null,
    primary key (workspace, place)
);
create index lock_waiter_queue on lock_waiter (workspace, key, waiting_since, place);

-- Claims and those who wait for work ask the same question, so it is stated once.

-- Whether a task may be handed to an agent, apart from its kind and the trust it needs. `capabilities`
-- are those that the agent's live sessions declare; null where they declare none.
create function is_open_to(t work_task, in_agent_id text, capabilities text[]) returns boolean
language sql stable as $$
    select (t.deadline is null or t.deadline > statement_timestamp())
        and not (t.task_type in ('evaluate', 'review')
            and (t.submitted_by = in_agent_id or t.authored_by is not distinct from in_agent_id))
        and (t.archetype is null or coalesce(t.archetype = any(capabilities), true))
$$;

-- Tasks that ask for an archetype are in indexes of their own, so that a claimant who is none of
-- those need not walk over them.
drop index work_task_ready;
drop index work_task_ready_by_type;
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
-- Ready tasks that the guardrails forbid to somebody.
create index work_task_guarded on work_task (workspace, priority, created_at, id)
where is_ready and guard_trust > 0;

-- The archetypes that ready tasks ask for, read by jumping from one to the next. In plpgsql so that it
-- is planned by itself: the planner takes a recursion for large, and compiles what asks it.
create function ready_archetypes(in_workspace text) returns setof text
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

-- The first ready tasks that an agent may take, a few for each degree of trust up to its own, for
-- each kind of work it asks for (null: any) and for each archetype: read from an index in the order
-- of handing out, so that nothing else is walked over.
create function claimable_tasks(
    in_workspace text, in_agent_id text, trust integer, task_types text[], capabilities text[]
) returns setof uuid
language sql stable as $$
    with needed as (
        select it.trust from (values (0::smallint), (1), (2), (3), (4)) as it (trust)
        where it.trust <= claimable_tasks.trust
    ), able as (
        select unnest(capabilities) as archetype
        union all select * from ready_archetypes(in_workspace) where capabilities is null
    )
    select it.id
    from needed
    cross join lateral (
        select t.id from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is null
            and t.needed_trust = needed.trust and is_open_to(t, in_agent_id, capabilities)
        order by t.priority, t.created_at, t.id limit 16
    ) it
    where task_types is null
    union all
    select it.id
    from needed
    cross join unnest(task_types) as wanted (task_type)
    cross join lateral (
        select t.id from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is null
            and t.task_type = wanted.task_type
            and t.needed_trust = needed.trust and is_open_to(t, in_agent_id, capabilities)
        order by t.priority, t.created_at, t.id limit 16
    ) it
    union all
    select it.id
    from able cross join needed
    cross join lateral (
        select t.id from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
            and t.archetype = able.archetype
            and t.needed_trust = needed.trust and is_open_to(t, in_agent_id, capabilities)
        order by t.priority, t.created_at, t.id limit 16
    ) it
    where task_types is null
    union all
    select it.id
    from able cross join needed
    cross join unnest(task_types) as wanted (task_type)
    cross join lateral (
        select t.id from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
            and t.archetype = able.archetype and t.task_type = wanted.task_type
            and t.needed_trust = needed.trust and is_open_to(t, in_agent_id, capabilities)
        order by t.priority, t.created_at, t.id limit 16
    ) it
    where task_types is not null
$$;

-- The same for those who wait for work, planned by itself for the same reason.
create function first_claimable_tasks(
    in_workspace text, in_agent_id text, trust integer, task_types text[], capabilities text[]
) returns uuid[]
language plpgsql stable as $$
begin
    return array(
        select id from claimable_tasks(in_workspace, in_agent_id, trust, task_types, capabilities) id
    );
end
$$;
