-- Memories of agents, and their search by tag, time and full text.

-- Splits a text into words and their segments, for the vectors and for the queries of the search. Words
-- are separated by white space and lose the punctuation at their ends. Segments are separated by
-- punctuation, and `segment_position` numbers those of the whole text. Only ASCII punctuation
-- separates, whatever the locale; typographic marks count as white space. The text is split into
-- arrays, which are unnested, and not into rows: the planner expects ten rows of an array but a
-- thousand of `regexp_split_to_table`, and would then compile the query (JIT).
create function search_words(in_text text)
returns table (word_position bigint, word text, segment_position bigint, segment text)
language sql immutable parallel safe as $$
    with trimmed as materialized (
        select word_position, btrim(raw, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~') as word
        from unnest(regexp_split_to_array(
            in_text, '[\s\u00a0\u2009\u202f\u3000‘’“”„«»‹›–—…、。，：；！？（）「」]+'
        )) with ordinality as split (raw, word_position)
    ), words as materialized (
        select word_position, left(lower(left(word, 200)), 200) as word,
            regexp_split_to_array(word, '[!-/:-@\[-`{-~]+') as segments
        from trimmed
        where word <> ''
    )
    select w.word_position, w.word, row_number() over (order by w.word_position, s.n), s.segment
    from words w cross join lateral unnest(w.segments) with ordinality as s (segment, n)
$$;

-- Quotes a term for `tsvector` and `tsquery`.
create function search_quote(in_term text) returns text
language sql immutable parallel safe as $$
    select '''' || replace(replace(in_term, '\', '\\'), '''', '''''') || ''''
$$;

-- Returns the search vector of a text: its words, their segments, and the parts of segments in camel
-- case, each with its position and in lower case. `src/lockKey.rs` is found by itself, `lockkey.rs`,
-- `lockkey`, `lock`, `key` and more.
create function search_vector(in_text text, in_weight text) returns tsvector
language plpgsql immutable parallel safe as $$
begin
    if in_text is null or in_text = '' then
        return ''::tsvector;
    end if;
    return (
        select coalesce(
            string_agg(
                search_quote(left(term, 200)) || ':' || least(segment_position, 16383) || in_weight, ' '),
            ''
        )::tsvector
        from (
            select *, segment_position = min(segment_position) over (partition by word_position) as is_first
            from search_words(in_text)
        ) as words
        cross join lateral unnest(
            array[case when is_first then word end, lower(segment)]
            || case when segment <> lower(segment) then string_to_array(
                lower(regexp_replace(
                    regexp_replace(segment, '([a-z0-9])([A-Z])', '\1 \2', 'g'),
                    '([A-Z])([A-Z][a-z])', '\1 \2', 'g'
                )), ' ') end
        ) as terms (term)
        where term is not null
    );
end
$$;

-- Returns the search vector of a memory. Lists are cut to what an index entry of limited size can hold.
-- The search path is fixed, because `pg_restore` computes the generated column with an empty one. The
-- generic plan serves every text; PostgreSQL would otherwise plan for each.
create function memory_search(in_summary text, in_lessons text[], in_tags text[]) returns tsvector
language plpgsql immutable parallel safe
set search_path from current set plan_cache_mode = force_generic_plan as $$
begin
    return search_vector(in_summary, 'A')
        || search_vector(left(array_to_string(in_lessons, ' '), 30000), 'B')
        || search_vector(left(array_to_string(in_tags, ' '), 15000), 'C');
end
$$;

-- `is_current` marks the memory into which a repetition is merged: the latest of its agent, type and
-- summary.
create table memory (
    workspace text collate "C" not null,
    id uuid not null default gen_random_uuid(),
    agent_id text collate "C" not null,
    session_id text,
    event_type text collate "C" not null,
    summary text not null,
    summary_digest bytea not null,
    details jsonb not null,
    outcome text,
    lessons text[] not null,
    tags text[] not null,
    merge_count integer not null default 0,
    is_current boolean not null default true,
    created_at timestamptz not null default clock_timestamp(),
    search tsvector not null generated always as (memory_search(summary, lessons, tags)) stored,
    primary key (workspace, id)
);

create unique index memory_one_current
    on memory (workspace, agent_id, event_type, summary_digest) where is_current;
create index memory_by_agent on memory (workspace, agent_id, created_at desc, id);
create index memory_by_time on memory (workspace, created_at desc, id);
create index memory_by_word on memory using gin (search);
create index memory_by_tag on memory using gin (tags);

-- The words of each memory as the native search splits them, for ranking by BM25. They are in a
-- separate table, so that a memory is stored even when the BM25 index refuses its row. Empty without
-- extension pg_search.
create table memory_words (
    workspace text collate "C" not null,
    id uuid not null,
    words text not null,
    primary key (workspace, id),
    constraint memory_words_memory foreign key (workspace, id) references memory (workspace, id)
        on delete cascade
);
