-- Ranking of memories by BM25, for a database with extension pg_search. The index only orders what the
-- native search finds. Without the extension nothing here is used.

-- Returns a search vector as plain text: each term as often as it occurs, in the order of positions.
create or replace function search_terms(in_search tsvector) returns text
language sql immutable parallel safe as $$
    select coalesce(string_agg(lexeme, ' ' order by lexeme_position, lexeme), '')
    from unnest(in_search) as vector (lexeme, positions, weights)
    cross join lateral unnest(positions) as lexeme_position
$$;

-- Returns the segments of the words of a text, as the BM25 index is asked for them: it stores the
-- segments of every word. Null for a text without words.
create or replace function search_segments(in_text text) returns text
language plpgsql immutable parallel safe as $$
begin
    return (
        select string_agg(segment, ' ' order by segment_position)
        from search_words(in_text) where segment <> ''
    );
end
$$;

-- Returns the scores of the memories of a workspace for the words of a query, by their ids; null if the
-- index failed, with the `problem`, or if it is locked (`is_busy`), as while it is created again: the
-- caller then does without it and does not wait. The statement is dynamic, because its operator and
-- function exist only with the extension, which has also had bugs with parameters of cached plans.
create or replace function bm25_scores(
    in_workspace text, in_query text, in_limit bigint, out scores jsonb, out problem text,
    out is_busy boolean
) language plpgsql set lock_timeout = '100ms' as $$
declare
    segments text := search_segments(in_query);
begin
    scores := null;
    is_busy := false;
    if segments is null then
        return;
    end if;
    execute format(
        'select coalesce(jsonb_object_agg(id, score) filter (where score is not null), ''{}'')
        from (
            select id, pdb.score(id) as score from memory_words
            where workspace = $1 and words ||| $2
            order by pdb.score(id) desc, id limit %s
        ) as ranked', in_limit)
    into scores using in_workspace, segments;
exception
    when lock_not_available then
        is_busy := true;
    when query_canceled or others then
        problem := sqlerrm;
end
$$;

-- Stores the words of a memory for the BM25 index, and those of earlier memories that it did not take.
-- Any error is caught and leaves the memory without words for now: it has no rank until a later store
-- succeeds, but it is stored and can be found. A lock on the words does not stop the agent for long.
create or replace function store_memory_words() returns trigger
language plpgsql set search_path from current set lock_timeout = '1s' as $$
begin
    begin
        insert into memory_words (workspace, id, words)
        values (new.workspace, new.id, search_terms(new.search))
        on conflict (workspace, id) do update set words = excluded.words;
        perform restore_memory_words(new.workspace);
    exception when others then
        raise warning 'the BM25 index does not take memory %: %', new.id, sqlerrm;
        insert into memory_without_words (workspace, id) values (new.workspace, new.id)
        on conflict (workspace, id) do update set tried_at = clock_timestamp();
    end;
    return null;
exception when others then
    raise warning 'the words of memory % are missing: %', new.id, sqlerrm;
    return null;
end
$$;

-- Stores the words of memories that the BM25 index did not take before. Stops at the first that it does
-- not take now either; the next call begins with another one.
create or replace function restore_memory_words(in_workspace text) returns void
language plpgsql as $$
declare
    missing uuid;
begin
    for missing in
        select w.id from memory_without_words w where w.workspace = in_workspace
        order by w.tried_at limit 10 for update skip locked
    loop
        begin
            insert into memory_words (workspace, id, words)
            select m.workspace, m.id, search_terms(m.search) from memory m
            where m.workspace = in_workspace and m.id = missing
            on conflict (workspace, id) do update set words = excluded.words;
            delete from memory_without_words w where w.workspace = in_workspace and w.id = missing;
        exception when others then
            update memory_without_words w set tried_at = clock_timestamp()
            where w.workspace = in_workspace and w.id = missing;
            return;
        end;
    end loop;
end
$$;

-- Creates the BM25 index again from all memories, where pg_search 0.24 or later is installed; the index
-- of an older version does not recover from crashes. Returns whether it did. An error is caught and
-- leaves everything as it was. `finish_installation` calls this when there is no index. An operator
-- calls it after installing the extension later, or when the index is broken.
create or replace function create_bm25_index() returns boolean
language plpgsql set search_path from current as $$
declare
    installed integer[] := (
        select regexp_match(extversion, '^(\d+)\.(\d+)')::integer[]
        from pg_extension where extname = 'pg_search'
    );
begin
    if installed is null or installed < array[0, 24] then
        return false;
    end if;
    -- Waits for transactions that are storing memories, and later ones wait for this transaction, so no
    -- memory is missing from the index. This table comes first: a transaction that stores a memory locks
    -- it before its words, and the other order would be a deadlock.
    lock table memory in share row exclusive mode;
    drop index if exists memory_bm25;
    create or replace trigger memory_words_stored
        after insert or update of summary, lessons, tags on memory
        for each row execute function store_memory_words();
    insert into memory_words (workspace, id, words)
    select workspace, id, search_terms(search) from memory
    on conflict (workspace, id) do update set words = excluded.words;
    delete from memory_without_words;
    create index memory_bm25 on memory_words
        using bm25 (id, (words::pdb.whitespace)) with (key_field = 'id');
    return true;
exception when others then
    raise warning 'memories are not ranked by BM25: %', sqlerrm;
    return false;
end
$$;
