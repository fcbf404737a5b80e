-- Storing memories.

-- Stores a memory, or merges it into the one that the agent stored with the same type and summary
-- within the last hour, and records it. Of two calls at once, one waits for the other and then merges.
create or replace function remember(
    in_workspace text, cx request, in_event_type text, in_summary text, in_summary_digest bytea,
    in_details jsonb, in_outcome text, in_lessons jsonb, in_tags jsonb,
    out memory_id uuid, out action text
) language plpgsql as $$
#variable_conflict use_column
declare
    merge_count integer;
    new_lessons text[] := to_text_array(in_lessons);
    new_tags text[] := to_text_array(in_tags);
begin
    perform record_heartbeat(in_workspace, cx);
    -- A memory too old to be merged into is no longer the current one, and the insert meets no
    -- conflict.
    update memory m set is_current = false
    where m.workspace = in_workspace and m.agent_id = cx.agent_id and m.event_type = in_event_type
        and m.summary_digest = in_summary_digest and m.is_current
        and m.created_at <= statement_timestamp() - interval '1 hour';
    insert into memory as m (
        workspace, agent_id, session_id, event_type, summary, summary_digest, details, outcome,
        lessons, tags
    ) values (
        in_workspace, cx.agent_id, cx.session_id, in_event_type, in_summary, in_summary_digest,
        in_details, in_outcome, new_lessons, new_tags
    )
    on conflict (workspace, agent_id, event_type, summary_digest) where is_current do update set
        details = case when excluded.details = '{}' then m.details else excluded.details end,
        outcome = coalesce(excluded.outcome, m.outcome),
        lessons = union_first_seen(m.lessons, excluded.lessons),
        tags = union_first_seen(m.tags, excluded.tags),
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

-- Both lists without repetitions, in the order in which members were first seen.
create or replace function union_first_seen(one text[], other text[]) returns text[]
language plpgsql immutable parallel safe as $$
begin
    return coalesce((
        select array_agg(it order by first_seen) from (
            select it, min(place) as first_seen
            from unnest(one || other) with ordinality as u (it, place)
            group by it
        ) as seen), '{}');
end
$$;

-- The search for all words of a text: each as a whole or, as part of a longer one, its segments in a
-- row. The last word may be the beginning of one. Null when there is no word.
create or replace function search_query(in_text text) returns tsquery
language plpgsql immutable parallel safe as $$
begin
    return (
        with terms as (
            select
                word_place, word, place, search_quote(left(lower(segment), 200))
                    || case when place = max(place) over () then ':*' else '' end as segment,
                case when word_place = max(word_place) over () then ':*' else '' end as ending
            from search_words(in_text)
        ), words as (
            select word_place, '(' || search_quote(word) || ending || ' | '
                || string_agg(segment, ' <-> ' order by place) || ')' as either
            from terms
            group by word_place, word, ending
        )
        select string_agg(either, ' & ' order by word_place)::tsquery from words
    );
end
$$;
