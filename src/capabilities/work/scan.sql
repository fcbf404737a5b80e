-- Tasks whose text was scanned with another set of guardrail patterns. The service scans it again,
-- because the patterns are regular expressions of Rust and not of PostgreSQL.

-- Returns tasks that another set of patterns than `in_guard_version` has forbidden to some agents, at
-- most `in_limit`.
create or replace function tasks_to_scan(in_workspace text, in_guard_version text, in_limit integer)
returns uuid[] language plpgsql stable as $$
begin
    -- Most queues have no forbidden task at all, and one look at the index tells.
    perform from work_task t
    where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
    limit 1;
    if not found then
        return '{}'::uuid[];
    end if;
    return array(
        (
            select t.id from work_task t
            where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
                and t.guard_version < in_guard_version
            limit in_limit
        ) union all (
            select t.id from work_task t
            where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
                and t.guard_version > in_guard_version
            limit in_limit
        )
        limit in_limit
    );
end
$$;

-- Returns the tasks at the head of an agent's queue that were scanned with another set of patterns.
create or replace function candidates_to_scan(
    in_workspace text, cx request, in_trust integer, in_task_types text[], in_guard_version text
) returns uuid[] language plpgsql stable as $$
declare
    candidates uuid[] := array(
        select c.id
        from claimable_tasks(in_workspace, cx, in_trust, in_task_types, clock_timestamp()) c);
begin
    return array(
        select candidate from unnest(candidates) candidate, lateral (
            select t.guard_version from work_task t
            where t.workspace = in_workspace and t.id = candidate limit 1
        ) task
        where task.guard_version <> in_guard_version);
end
$$;

-- Returns the texts of tasks as a JSON array of objects, as far as they are not too large together; null
-- without tasks. The service asks again for the others.
create or replace function texts_to_scan(in_workspace text, in_ids uuid[]) returns json
language plpgsql stable as $$
begin
    if in_ids = '{}' then
        return null;
    end if;
    return (
        select json_agg(json_build_object(
            'id', p.id, 'description', p.description, 'input_data', p.input_data))
        from (
            select task.*, row_number() over page as place, sum(task.stored_bytes) over page as bytes
            from unnest(in_ids) with ordinality as ids (task_id, n), lateral (
                select t.id, t.description, t.input_data, t.stored_bytes from work_task t
                where t.workspace = in_workspace and t.id = task_id limit 1
            ) task
            window page as (order by n rows unbounded preceding)
        ) p
        where is_on_page(p.place, p.bytes)
    );
end
$$;

-- Stores what a set of patterns found in the texts of tasks: a JSON array of objects with `id`,
-- `guard_trust` and `findings`. Skips rows that another call has locked: that call stores the same, or
-- claims the task.
create or replace function store_scan_results(in_workspace text, in_guard_version text, in_scans jsonb)
returns void language plpgsql as $$
declare
    scan record;
begin
    for scan in
        select s.id, s.guard_trust, s.findings
        from jsonb_to_recordset(in_scans) as s (id uuid, guard_trust smallint, findings jsonb)
        order by s.id
    loop
        perform from work_task t where t.workspace = in_workspace and t.id = scan.id
        for update skip locked;
        if found then
            update work_task t set
                guard_version = in_guard_version, guard_trust = scan.guard_trust,
                guard_findings = scan.findings, needed_trust = greatest(t.min_trust, scan.guard_trust)
            where t.workspace = in_workspace and t.id = scan.id;
        end if;
    end loop;
end
$$;
