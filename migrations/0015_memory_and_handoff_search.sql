-- The search of memories by parts of words. Each memory is found by its trigrams: the three characters
-- at each place of its words, fewer at their ends. So a part of a compound or an identifier is found,
-- and a word of a language that is written without spaces.

-- Returns a text as the search of parts compares it: in lower case, without accents and ASCII
-- punctuation. `_`, `-` and the like only separate numbers, so `user_id` equals `UserId`, and `1.23`
-- differs from `12.3`. A text with umlauts has a second form that spells them out: `Müller` is `muller`
-- and `mueller`.
create function search_forms(in_text text) returns text[]
language plpgsql immutable parallel safe as $$
declare
    forms text[] := array[lower(in_text)];
begin
    if octet_length(in_text) <> length(in_text) then
        forms[1] := replace(lower(normalize(in_text, NFKC)), 'ß', 'ss');
        if forms[1] ~ '[äöü]' then
            forms[2] := replace(replace(replace(forms[1], 'ä', 'ae'), 'ö', 'oe'), 'ü', 'ue');
        end if;
        for n in 1..cardinality(forms) loop
            forms[n] := translate(
                normalize(regexp_replace(normalize(forms[n], NFKD), '[\u0300-\u036f]+', '', 'g'), NFC),
                'øłđıæ', 'oldia');
        end loop;
    end if;
    for n in 1..cardinality(forms) loop
        if forms[n] ~ '[0-9][!-/:-@\[-`{-~]+[0-9]' then
            forms[n] := regexp_replace(forms[n], '([0-9])[!-/:-@\[-`{-~]+(?=[0-9])', '\1' || chr(2), 'g');
        end if;
        -- Several times as fast as `translate`, which compares each character with all of them.
        forms[n] := regexp_replace(forms[n], '[!-/:-@\[-`{-~]+', '', 'g');
    end loop;
    return forms;
end
$$;

-- Returns the trigrams of a text, each after `~`, which begins no word of `search_words`. The characters
-- and those that follow them are unnested side by side, because a place in a text is found by counting
-- from its beginning.
create function search_trigrams(in_text text) returns text[]
language plpgsql immutable parallel safe set jit = off as $$
declare
    characters text[] := string_to_array(regexp_replace(in_text, '[\s\u00a0\u3000]+', ' ', 'g'), null);
begin
    return array(
        select '~' || case
            when second is null or second = ' ' then first
            when third is null or third = ' ' then first || second
            else first || second || third end
        from unnest(characters, characters[2:], characters[3:]) as places (first, second, third)
        where first <> ' ');
end
$$;

-- Returns the text of a memory in which words are looked for as parts: a space, which comes before each
-- word, and the forms of its texts. These are cut as in `memory_search`, and the forms too, because one
-- character can stand for many.
create function memory_text(in_summary text, in_lessons text[], in_tags text[]) returns text
language plpgsql immutable parallel safe as $$
begin
    return ' ' || left(array_to_string(search_forms(concat_ws(' ', in_summary,
        left(array_to_string(in_lessons, ' '), 30000),
        left(array_to_string(in_tags, ' '), 15000))), ' '), 130000);
end
$$;

-- Returns what the index of memories finds them by: trigrams, and words that are too short for one.
-- Compiling the plan (JIT) would take longer than running it. The cost keeps the planner from computing
-- this for each memory of a workspace instead of using its index.
create function memory_terms(in_search tsvector, in_summary text, in_lessons text[], in_tags text[])
returns tsvector language plpgsql immutable parallel safe cost 1000000
set search_path from current set jit = off as $$
begin
    return array_to_tsvector(
        search_trigrams(memory_text(in_summary, in_lessons, in_tags))
        || array(
            select lexeme from unnest(tsvector_to_array(in_search)) as lexeme
            where length(lexeme) between 1 and 2));
end
$$;

create index memory_by_term on memory using gin (memory_terms(search, summary, lessons, tags));
-- Statistics of this expression would be computed for a sample of all memories, and no plan needs them.
alter index memory_by_term alter column 1 set statistics 0;

-- A word of a query. `exact` finds it as a word or as consecutive parts of one, `beginning` as the
-- beginning of a word; `forms` are looked for as parts of the text, empty for short words; `finder` is
-- for the index and also finds too much. A weak word, of weight less than 1, is a part of another one.
create type search_word as (
    word text, exact tsquery, beginning tsquery, forms text[], finder text, weight float8
);

-- Memories whose words the BM25 index did not take, for example because its table was locked. Later
-- stores try again. Empty without extension pg_search.
create table memory_without_words (
    workspace text collate "C" not null,
    id uuid not null,
    tried_at timestamptz not null default clock_timestamp(),
    primary key (workspace, id),
    constraint memory_without_words_memory foreign key (workspace, id)
        references memory (workspace, id) on delete cascade
);

insert into memory_without_words (workspace, id)
select m.workspace, m.id from memory m
where exists (select from pg_trigger where tgname = 'memory_words_stored')
    and not exists (select from memory_words w where w.workspace = m.workspace and w.id = m.id);

-- Automatic handoffs: notes of hooks and scripts, which never count as the newest handoff. They come
-- last, so that handoffs do not wait for the index of memories.

alter table handoff add column is_automatic boolean not null default false;

-- What the documented session hook of earlier versions wrote at each end of a session.
update handoff set is_automatic = true
where btrim(summary) = 'Session ended.'
    and completed_work::text = '[]' and in_progress::text = '[]' and decisions::text = '[]'
    and next_steps::text = '[]' and relevant_files::text = '[]' and content::text = '{}';

drop index handoff_newest;
drop index handoff_newest_of_agent;
create index handoff_newest on handoff (workspace, is_automatic, created_at desc, id desc);
create index handoff_newest_of_agent
    on handoff (workspace, agent_id, is_automatic, created_at desc, id desc);
create index handoff_of_session on handoff (workspace, session_id)
    where session_id is not null and not is_automatic;
