-- Ranking of memories by BM25, for a database with extension pg_search. The index only orders what the
-- native search finds. Without the extension nothing here is used.

-- Returns a search vector as plain text: each term as often as it occurs, in the order of positions.
create or replace function search_terms(in_search tsvector) returns text
language sql immutable parallel safe as $$
    select coalesce(string_agg(lexeme, ' ' order by lexeme_position, lexeme), '')
    from unnest(in_search) as vector (lexeme, positions, weights)
    cross join lateral unnest(positions) as lexeme_position
$$;

-- Stores the words of a memory for the BM25 index. Any error is caught and leaves the memory without
-- words: it then has no rank, but it is stored and can be found.
create or replace function store_memory_words() returns trigger
language plpgsql set search_path from current as $$
begin
    insert into memory_words (workspace, id, words)
    values (new.workspace, new.id, search_terms(new.search))
    on conflict (workspace, id) do update set words = excluded.words;
    return null;
exception when others then
    raise warning 'the BM25 index does not take memory %: %', new.id, sqlerrm;
    return null;
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
    drop index if exists memory_bm25;
    -- Creating the trigger locks the table: it waits for transactions that are storing memories, and
    -- later ones wait for this transaction. So no memory is missing from the index.
    create or replace trigger memory_words_stored
        after insert or update of summary, lessons, tags on memory
        for each row execute function store_memory_words();
    insert into memory_words (workspace, id, words)
    select workspace, id, search_terms(search) from memory
    on conflict (workspace, id) do update set words = excluded.words;
    create index memory_bm25 on memory_words
        using bm25 (id, (words::pdb.whitespace)) with (key_field = 'id');
    return true;
exception when others then
    raise warning 'memories are not ranked by BM25: %', sqlerrm;
    return false;
end
$$;
