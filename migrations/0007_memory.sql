-- Memories: what agents learnt, found again by tag, time and full text.

-- The words of a text, as both sides of the search see them: a word is what stands between white
-- space, without punctuation at its ends; its segments are what stands between punctuation. `place`
-- counts the segments of the whole text. Only ASCII punctuation separates, whatever the locale, and
-- typographic marks count as white space. Arrays are unnested rather than split into rows: the
-- planner expects few rows of the former, and a thousand each of the latter, which it would compile.
create function search_words(in_text text)
returns table (word_place bigint, word text, place bigint, segment text)
language sql immutable parallel safe as $$
    with trimmed as materialized (
        select place, btrim(raw, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~') as word
        from unnest(regexp_split_to_array(
            in_text, '[\s\u00a0\u2009\u202f\u3000‘’“”„«»‹›–—…、。，：；！？（）「」]+'
        )) with ordinality as split (raw, place)
    ), words as materialized (
        select place, left(lower(left(word, 200)), 200) as word,
            regexp_split_to_array(word, '[!-/:-@\[-`{-~]+') as segments
        from trimmed
        where word <> ''
    )
    select w.place, w.word, row_number() over (order by w.place, s.place), s.segment
    from words w cross join lateral unnest(w.segments) with ordinality as s (segment, place)
$$;

create function search_quote(in_term text) returns text
language sql immutable parallel safe as $$
    select '''' || replace(replace(in_term, '\', '\\'), '''', '''''') || ''''
$$;

-- What a text is found by, each with its place: its words, their segments, and the parts of segments
-- in camel case, all in lower case. `src/lockKey.rs` is found by itself, `lockkey.rs`, `lockkey`,
-- `lock`, `key` and more.
create function search_vector(in_text text, in_weight text) returns tsvector
language plpgsql immutable parallel safe as $$
begin
    if in_text is null or in_text = '' then
        return ''::tsvector;
    end if;
    return (
        select coalesce(
            string_agg(search_quote(left(term, 200)) || ':' || least(place, 16383) || in_weight, ' '), ''
        )::tsvector
        from (
            select *, place = min(place) over (partition by word_place) as is_first
            from search_words(in_text)
        ) as words
        cross join lateral unnest(
            array[case when is_first then word end, lower(segment)]
            || case when segment <> lower(segment) then string_to_array(
                lower(regexp_replace(
                    regexp_replace(segment, '([a-z0-9])([A-Z])', '\1 \2', 'g'),
                    '([A-Z])([A-Z][a-z])', '\1 \2', 'g'
                )), ' ') end
        ) as found_by (term)
        where term is not null
    );
end
$$;

-- What a memory is found by. Lists are taken as far as an index entry of limited size allows. The
-- search path is fixed, because a restored backup computes this with an empty one. One plan serves
-- every text; by itself PostgreSQL would make another for each.
create function memory_search(in_summary text, in_lessons text[], in_tags text[]) returns tsvector
language plpgsql immutable parallel safe
set search_path from current set plan_cache_mode = force_generic_plan as $$
begin
    return search_vector(in_summary, 'A')
        || search_vector(left(array_to_string(in_lessons, ' '), 30000), 'B')
        || search_vector(left(array_to_string(in_tags, ' '), 15000), 'C');
end
$$;

-- `is_current` marks the one memory that a repetition is merged into: the latest of its agent, type
-- and summary.
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

-- The words of each memory as the native search sees them, for ranking by BM25. They stand in a table
-- of their own, so that an index that refuses a row refuses no memory. Empty without extension
-- pg_search.
create table memory_words (
    workspace text collate "C" not null,
    id uuid not null,
    words text not null,
    primary key (workspace, id),
    constraint memory_words_memory foreign key (workspace, id) references memory (workspace, id)
        on delete cascade
);
