-- Ranking of memories by BM25, for a database with extension pg_search. The index orders what the
-- native search finds and decides nothing; without the extension nothing here is ever used.

-- What a memory is found by, as plain text: each term as often as it occurs, in order of places.
create or replace function search_terms(in_search tsvector) returns text
language sql immutable parallel safe as $$
    select coalesce(string_agg(term, ' ' order by place, term), '')
    from unnest(in_search) as found_by (term, places, weights)
    cross join lateral unnest(places) as place
$$;

-- Keeps the words of a memory. Whatever goes wrong leaves it without words, which costs it its rank
-- and nothing else.
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

-- Makes the index anew, where pg_search is installed in a version that recovers from crashes: 0.24 or
-- later. Otherwise, and when it fails, everything stays as it was. Called once when migrating; to be
-- called by hand when the extension is installed later or the index is broken.
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
    -- From here on nothing is stored unseen: the trigger waits for whoever is storing, and whoever
    -- comes later waits for this.
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
