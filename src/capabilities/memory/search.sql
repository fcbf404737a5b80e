-- Searching memories: those that have all words of the query first, then those that have any of them.

-- Returns the words of a query. Words without a meaning of their own (`the`, `does`) count only if there
-- are no others. A word in a script without spaces can be a sentence, so its pairs of characters follow
-- as weak words. Compiling the plan (JIT) would take longer than running it.
create or replace function search_query_words(in_text text) returns search_word[]
language plpgsql immutable parallel safe set jit = off as $$
begin
    return (
        with words as (
            select word, min(word_position) as place, search_quote(word) as quoted,
                word ~ '^[a-z]+$' and ts_lexize('english_stem', word) = '{}' as is_empty
            from search_words(in_text) group by word
            order by is_empty, place limit 64
        ), chosen as (
            select w.*, word_forms(word) as forms, (
                select string_agg(search_quote(lower(segment)), ' <-> ' order by segment_position)
                from search_words(w.word) where segment <> ''
            ) as parts
            from words w where not is_empty or not exists (select from words where not is_empty)
        ), pairs as (
            select place, pair, count(*) over (partition by place) as pair_count
            from chosen cross join lateral unnest(character_pairs(forms[1])) as pairs (pair)
        ), all_words as (
            select place, row(
                word, concat_ws(' | ', quoted, '(' || parts || ')')::tsquery,
                (quoted || case when length(word) > 1 then ':*' else '' end)::tsquery,
                array(
                    select case when form ~ '^[a-z]{2,3}$' then ' ' || form else form end
                    from unnest(forms) as form),
                concat_ws(' | ', quoted, search_finder(forms)), 1
            )::search_word as term
            from chosen
            union all
            select place, row(
                pair, search_quote(pair)::tsquery, search_quote(pair)::tsquery, array[pair],
                search_finder(array[pair]), 0.3 / pair_count
            )::search_word from pairs
        )
        select coalesce(array_agg(term order by place, (term).weight desc), '{}') from all_words
    );
end
$$;

-- Returns the forms in which a word of a query is looked for as a part of a text: that of `search_forms`,
-- and of an English word its stem, so that `failing` finds `failed`. A single letter is a part of too many
-- texts, with or without an accent, so it has none.
create or replace function word_forms(in_word text) returns text[]
language plpgsql immutable parallel safe as $$
declare
    forms text[] := search_forms(left(in_word, 100));
    stem text := case when in_word ~ '^[a-z]{4,100}$'
        then (ts_lexize('english_stem', in_word))[1] end;
begin
    return case
        when forms[1] ~ '^[!-~]$' then '{}'
        when length(stem) > 2 and stem <> in_word then forms || stem
        else forms
    end;
end
$$;

-- Returns the pairs of characters of a word of three or more in a script that is written without spaces,
-- and its parts in Latin script. Hangul is such a script here, because particles follow its words.
create or replace function character_pairs(in_word text) returns text[]
language plpgsql immutable parallel safe set jit = off as $$
declare
    pairs text[];
begin
    if length(in_word) < 3 or octet_length(in_word) = length(in_word) then
        return '{}'::text[];
    end if;
    pairs := array(
        select distinct substr(run, place, 2)
        from unnest(regexp_split_to_array(in_word,
            '[^\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+')) as run
        cross join lateral generate_series(1, least(40, length(run) - 1)) as places (place));
    if pairs = '{}' then
        return pairs;
    end if;
    return pairs || array(
        select run from unnest(regexp_split_to_array(in_word, '[^a-z0-9]+')) as run where length(run) > 1);
end
$$;

-- Returns the query for the index that finds each memory with one of the forms of a word, and more.
create or replace function search_finder(in_forms text[]) returns text
language plpgsql immutable parallel safe set jit = off as $$
begin
    return (
        select string_agg('(' || coalesce(
            (select string_agg(distinct search_quote(trigram), ' & ')
            from unnest(search_trigrams(form)) as trigram where length(trigram) = 4),
            search_quote('~' || form) || ':*') || ')', ' | ')
        from unnest(in_forms) as form where form <> ''
    );
end
$$;

-- Returns how well a memory has the words of a query: for each word its weight, times 3 where the memory
-- has it as a word or as consecutive parts of one, 2 as the beginning of a word, 1 as a part; and 1000
-- where it has all words of weight 1. Null where it has none, or not all and `in_has_all` is true, or all
-- and `in_has_all` is false. The text is computed once, and only for words that the search vector lacks.
create or replace function memory_fit(
    in_search tsvector, in_summary text, in_lessons text[], in_tags text[], in_words search_word[],
    in_has_all boolean
) returns float8 language plpgsql immutable parallel safe as $$
declare
    search tsvector := in_search || ''; -- decompressed once
    texts text;
    item search_word;
    level integer;
    fit float8 := 0;
    has_all boolean := true;
begin
    foreach item in array in_words loop
        level := case when search @@ item.exact then 3 when search @@ item.beginning then 2 else 0 end;
        if level = 0 and item.forms <> '{}' then
            texts := coalesce(texts, memory_text(in_summary, in_lessons, in_tags));
            level := has_form(texts, item.forms)::integer;
        end if;
        has_all := has_all and (level > 0 or item.weight < 1);
        if in_has_all and not has_all then
            return null;
        end if;
        fit := fit + item.weight * level;
    end loop;
    return case when fit > 0 and (has_all = in_has_all or in_has_all is null)
        then fit + 1000 * has_all::integer end;
end
$$;

-- Whether a text of `memory_text` has one of the forms of a word. Words of two or three letters are only
-- looked for after a space, because they are parts of too many.
create or replace function has_form(in_text text, in_forms text[]) returns boolean
language plpgsql immutable parallel safe as $$
declare
    form text;
begin
    foreach form in array in_forms loop
        if strpos(in_text, form) > 0 then
            return true;
        end if;
    end loop;
    return false;
end
$$;

-- Returns the relevance of a memory, which depends on its age alone: 1 for a new one, falling by a tenth
-- each day. The age is bounded, because the database refuses an exponential too small for its type.
create or replace function memory_relevance(in_created_at timestamptz) returns float8
language sql stable parallel safe as $$
    select exp(-0.1 * least(5000, greatest(0,
        extract(epoch from statement_timestamp() - in_created_at) / 86400))::float8)
$$;

-- Returns the memories of a workspace that a query asks for: without words the newest ones, else the
-- best fitting ones. Memories that have all words come first; the others are only looked for if these
-- are fewer than asked for. `in_scores` has the scores of the BM25 index by id, or is null.
create or replace function recall_memories(
    in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_since timestamptz,
    in_min_relevance float8, in_query text, in_scores jsonb, in_limit bigint
) returns setof memory language plpgsql stable set jit = off as $$
declare
    words search_word[] := search_query_words(in_query);
    -- A minimum relevance is a maximum age.
    oldest timestamptz := greatest(in_since, case when in_min_relevance > 0
        then statement_timestamp() - make_interval(secs => -864000 * ln(in_min_relevance)) end);
    finder tsquery;
    found_count bigint;
begin
    if words is null or words = '{}' then
        return query
        select * from memory m
        where m.workspace = in_workspace and (in_agent_id is null or m.agent_id = in_agent_id)
            and (in_tags is null or m.tags && in_tags)
            and (in_event_type is null or m.event_type = in_event_type)
            and (oldest is null or m.created_at >= oldest)
        order by m.created_at desc, m.id limit in_limit;
        return;
    end if;
    if not has_many_memories(in_workspace) then
        return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
            oldest, words, null, null, in_scores, in_limit);
        return;
    end if;
    select string_agg('(' || w.finder || ')', ' & ')::tsquery into finder
    from unnest(words) w where w.weight = 1;
    return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
        oldest, words, finder, true, in_scores, in_limit);
    get diagnostics found_count = row_count;
    if found_count < in_limit and cardinality(words) > 1 then
        finder := any_word_finder(in_workspace, words);
        return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
            oldest, words, finder, false, in_scores, in_limit - found_count);
    end if;
end
$$;

-- Whether the memories of a workspace are looked for by the index of their parts. Each of a few is compared
-- with the query instead: the planner would not use the index for so few, but compute what it has of them.
create or replace function has_many_memories(in_workspace text) returns boolean
language plpgsql stable set enable_sort = off as $$
begin
    -- In the order of an index, so that no more rows are read.
    perform from memory m where m.workspace = in_workspace
    order by m.created_at desc offset 99 limit 1;
    return found;
end
$$;

-- Returns the memories that `in_finder` finds (null: all) and that have all words of the query or, where
-- `in_has_all` is false, only some of them; null stands for both. Those that have all words, more of them,
-- or have them more literally, come first; of equal ones those with the better score, and then the more
-- relevant ones. Of more candidates than a request can compare, the newest are compared.
create or replace function fitting_memories(
    in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_oldest timestamptz,
    in_words search_word[], in_finder tsquery, in_has_all boolean, in_scores jsonb, in_limit bigint
) returns setof memory language plpgsql stable set jit = off as $$
declare
    ranking tsquery := (
        select string_agg('(' || w.exact::text || ' | ' || w.beginning::text || ')', ' | ')::tsquery
        from unnest(in_words) w);
    candidates uuid[] := memory_candidates(
        in_workspace, in_agent_id, in_tags, in_event_type, in_oldest, in_finder);
begin
    return query
    select m.* from unnest(candidates) as candidate
    cross join lateral (
        select * from memory c where c.workspace = in_workspace and c.id = candidate limit 1
    ) as m
    cross join lateral memory_fit(
        m.search, m.summary, m.lessons, m.tags, in_words, in_has_all) as fit
    where fit is not null
    order by fit desc,
        case when in_scores is not null then
            memory_relevance(m.created_at) * coalesce((in_scores ->> m.id::text)::float8, 0) end desc,
        memory_relevance(m.created_at) * ts_rank(m.search, ranking) desc,
        m.created_at desc, m.id
    limit in_limit;
end
$$;

-- Returns the newest 3000 of the memories that `in_finder` finds (null: all), of the first 10000 that the
-- index finds.
create or replace function memory_candidates(
    in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_oldest timestamptz,
    in_finder tsquery
) returns uuid[] language plpgsql stable set jit = off as $$
begin
    if in_finder is null then
        return array(
            select m.id from memory m
            where m.workspace = in_workspace and (in_agent_id is null or m.agent_id = in_agent_id)
                and (in_tags is null or m.tags && in_tags)
                and (in_event_type is null or m.event_type = in_event_type)
                and (in_oldest is null or m.created_at >= in_oldest)
            order by m.created_at desc, m.id limit 3000);
    end if;
    return array(
        select found.id from (
            select m.id, m.created_at from memory m
            where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ in_finder
                and (in_agent_id is null or m.agent_id = in_agent_id)
                and (in_tags is null or m.tags && in_tags)
                and (in_event_type is null or m.event_type = in_event_type)
                and (in_oldest is null or m.created_at >= in_oldest)
            limit 10000
        ) as found
        order by found.created_at desc, found.id limit 3000);
end
$$;

-- Returns the query for the index that finds memories with any word of a query. Words that thousands of
-- memories have do not find, they only count for the order of what others find, unless all are such.
create or replace function any_word_finder(in_workspace text, in_words search_word[]) returns tsquery
language plpgsql stable set jit = off as $$
declare
    most constant bigint := 2000;
    item search_word;
    memory_count bigint;
    finders text[] := '{}'::text[];
begin
    foreach item in array in_words loop
        select count(*) into memory_count from (
            select from memory m where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ item.finder::tsquery
            limit most
        ) as found;
        if memory_count between 1 and most - 1 then
            finders := finders || ('(' || item.finder || ')');
        end if;
    end loop;
    if finders = '{}' then
        finders := array(select '(' || w.finder || ')' from unnest(in_words) w);
    end if;
    return array_to_string(finders, ' | ')::tsquery;
end
$$;

-- Returns the words of a query that no memory of the workspace has.
create or replace function unknown_words(in_workspace text, in_query text) returns text[]
language plpgsql stable set jit = off as $$
declare
    item search_word;
    unknown text[] := '{}'::text[];
    has_many boolean := has_many_memories(in_workspace);
begin
    foreach item in array search_query_words(in_query) loop
        continue when item.weight < 1;
        if has_many then
            perform from memory m
            where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ item.finder::tsquery
                and memory_fit(m.search, m.summary, m.lessons, m.tags, array[item], true) is not null
            limit 1;
        else
            perform from memory m
            where m.workspace = in_workspace
                and memory_fit(m.search, m.summary, m.lessons, m.tags, array[item], true) is not null
            limit 1;
        end if;
        if not found then
            unknown := unknown || item.word;
        end if;
    end loop;
    return unknown;
end
$$;
