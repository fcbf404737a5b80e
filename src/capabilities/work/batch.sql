-- Submission of several tasks at once.

-- Stores all tasks of a batch or none of them, and records the batch and each task. A task can depend
-- on an earlier task of the batch by `ref:<name>`, where `in_references` has the names of the tasks.
-- Returns a row for each task, in order.
create or replace function submit_tasks(
    in_workspace text, cx request, in_tasks task_submission[], in_references text[], in_quota integer[]
) returns table (is_stored boolean, verdict text, task_id uuid, reason text) language plpgsql as $$
declare
    verdicts text[] := array[]::text[];
    ids uuid[] := array[]::uuid[];
    ids_by_reference jsonb := '{}'::jsonb;
    task task_submission;
    stored record;
    is_accepted boolean := true;
begin
    perform record_heartbeat(in_workspace, cx);
    begin
        for n in 1..cardinality(in_tasks) loop
            task := in_tasks[n];
            task.depends_on := resolve_references(task.depends_on, ids_by_reference);
            stored := store_task(in_workspace, cx, task, in_quota);
            verdicts := verdicts || stored.verdict;
            ids := ids || stored.task_id;
            is_accepted := is_accepted and stored.verdict in ('created', 'deduplicated');
            if in_references[n] is not null and stored.task_id is not null then
                ids_by_reference := ids_by_reference
                    || jsonb_build_object('ref:' || in_references[n], stored.task_id);
            end if;
        end loop;
        if not is_accepted then
            raise exception 'batch_refused' using errcode = 'AC001';
        end if;
    exception when sqlstate 'AC001' then
        -- The subtransaction has rolled back the stored tasks, and that a quota is reached.
        perform recount_quota(in_workspace, cx.agent_id, 'tasks', in_quota, cx.session_timeout)
        from unnest(verdicts) as told (word) where is_quota_refusal(told.word) limit 1;
    end;

    for n in 1..cardinality(in_tasks) loop
        task := in_tasks[n];
        is_stored := is_accepted;
        verdict := verdicts[n];
        task_id := case when is_accepted then ids[n] end;
        reason := case
            when is_accepted then null
            when verdict = 'blocked' then task.refusal
            when verdict in ('created', 'deduplicated') then 'batch_refused'
            else verdict end;
        if is_accepted or verdict = 'blocked' then
            perform record_submission(in_workspace, cx, task, verdict, task_id);
        else
            perform record_refused_submission(in_workspace, cx, task, reason);
        end if;
        return next;
    end loop;
    perform record_audit(
        in_workspace, cx, 'submit_task_batch',
        jsonb_build_object('tasks', cardinality(in_tasks)),
        case when is_accepted then jsonb_build_object('task_ids', to_jsonb(ids))
            else jsonb_build_object('reason', 'batch_refused') end,
        is_accepted);
end
$$;

-- Replaces each `ref:<name>` by the id of the earlier task of the batch with this name. A name without
-- an earlier task becomes the nil id, which is then refused as an unknown dependency.
create or replace function resolve_references(in_dependencies jsonb, in_ids jsonb) returns jsonb
language plpgsql immutable as $$
begin
    if in_dependencies = '[]' then
        return in_dependencies;
    end if;
    return (
        select jsonb_agg(case
            when dependency not like 'ref:%' then dependency
            else coalesce(in_ids ->> dependency, '00000000-0000-0000-0000-000000000000') end order by n)
        from jsonb_array_elements_text(in_dependencies) with ordinality as list (dependency, n)
    );
end
$$;
