-- Tasks whose text another set of guardrail patterns has judged: the service scans the text anew, because
-- the patterns are regular expressions of its own.

-- Tasks that another set of patterns than `in_guard_version` has forbidden to some agents, at most
-- `in_limit`.
create or replace function tasks_to_scan(in_workspace text, in_guard_version text, in_limit integer)
returns uuid[] language plpgsql stable as $$
begin
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

-- The texts of tasks, as an array of objects; null for no task.
create or replace function texts_to_scan(in_workspace text, in_ids uuid[]) returns json
language plpgsql stable as $$
begin
    if in_ids = '{}' then
        return null;
    end if;
    return (
        select json_agg(json_build_object(
            'id', t.id, 'description', t.description, 'input_data', t.input_data))
        from work_task t
        where t.workspace = in_workspace and t.id = any(in_ids)
    );
end
$$;

-- Stores what a set of patterns found in the texts of tasks: an array of objects with `id`, `guard_trust`
-- and `findings`. Rows that another call holds are skipped: that call does the same, or claims the task.
create or replace function store_scans(in_workspace text, in_guard_version text, in_scans jsonb)
returns void language plpgsql as $$
declare
    scan record;
begin
    for scan in
        select t.id, s.guard_trust, s.findings
        from jsonb_to_recordset(in_scans) as s (id uuid, guard_trust smallint, findings jsonb)
        join work_task t on t.workspace = in_workspace and t.id = s.id
        order by t.id
        for update of t skip locked
    loop
        update work_task t set
            guard_version = in_guard_version, guard_trust = scan.guard_trust,
            guard_findings = scan.findings, needed_trust = greatest(t.min_trust, scan.guard_trust)
        where t.workspace = in_workspace and t.id = scan.id;
    end loop;
end
$$;
