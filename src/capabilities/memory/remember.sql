-- Storing memories.

-- Stores a memory, or merges it into the memory that the agent stored with the same type and summary
-- within the last hour. Of two calls at once, the second waits at the unique index for the first and
-- then merges. Without effect where a quota does not allow another memory: `refusal` says so then. A
-- memory that can be merged is not another one.
create or replace function remember(
    in_workspace text, cx request, in_event_type text, in_summary text, in_summary_digest bytea,
    in_details json, in_outcome text, in_lessons jsonb, in_tags jsonb, in_quota integer[],
    out memory_id uuid, out action text, out refusal text
) language plpgsql as $$
#variable_conflict use_column
declare
    merge_count integer;
    new_lessons text[] := to_text_array(in_lessons);
    new_tags text[] := to_text_array(in_tags);
begin
    perform record_heartbeat(in_workspace, cx);
    -- A memory that is too old to be merged into stops being the current one, so the insert has no
    -- conflict.
    update memory m set is_current = false
    where m.workspace = in_workspace and m.agent_id = cx.agent_id and m.event_type = in_event_type
        and m.summary_digest = in_summary_digest and m.is_current
        and m.created_at <= statement_timestamp() - interval '1 hour';
    refusal := refused_by_quota(
        in_workspace, cx.agent_id, 'memories', in_quota, cx.session_timeout);
    if refusal is not null then
        perform from memory m
        where m.workspace = in_workspace and m.agent_id = cx.agent_id and m.event_type = in_event_type
            and m.summary_digest = in_summary_digest and m.is_current;
        if not found then
            perform record_audit(
                in_workspace, cx, 'remember',
                jsonb_build_object('event_type', in_event_type, 'tags', in_tags),
                jsonb_build_object('reason', refusal), false);
            return;
        end if;
        refusal := null;
    end if;
    insert into memory as m (
        workspace, agent_id, session_id, event_type, summary, summary_digest, details, outcome,
        lessons, tags
    ) values (
        in_workspace, cx.agent_id, cx.session_id, in_event_type, in_summary, in_summary_digest,
        in_details, in_outcome, new_lessons, new_tags
    )
    on conflict (workspace, agent_id, event_type, summary_digest) where is_current do update set
        details = case when excluded.details::text = '{}' then m.details else excluded.details end,
        outcome = coalesce(excluded.outcome, m.outcome),
        lessons = merge_distinct(m.lessons, excluded.lessons),
        tags = merge_distinct(m.tags, excluded.tags),
        merge_count = m.merge_count + 1
    returning m.id, m.merge_count into memory_id, merge_count;
    action := case when merge_count = 0 then 'created' else 'deduplicated' end;
    perform record_audit(
        in_workspace, cx, 'remember',
        jsonb_build_object('event_type', in_event_type, 'tags', in_tags),
        jsonb_build_object('action', action, 'memory_id', memory_id),
        true);
end
$$;

-- Returns the distinct elements of two lists, in the order of their first occurrence.
create or replace function merge_distinct(in_first text[], in_second text[]) returns text[]
language plpgsql immutable parallel safe as $$
begin
    return coalesce((
        select array_agg(element order by first_position) from (
            select element, min(n) as first_position
            from unnest(in_first || in_second) with ordinality as list (element, n)
            group by element
        ) as elements), '{}');
end
$$;
