-- Shared by all capabilities: advisory locks of transactions, the installation, conversions of JSON
-- lists.

-- Acquires an advisory lock until the end of the transaction, so that transactions of one workspace
-- that name the same thing run one after the other. A statement that begins after the lock was acquired
-- sees what the previous holder committed. Callers write `perform from acquire_advisory_lock(…)`: Citus
-- sends a call in FROM to the worker that has the workspace's rows (see `distribute_functions`).
create or replace function acquire_advisory_lock(in_workspace text, in_kind text, in_name text) returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock(
        hashtextextended(concat_ws(chr(10), in_workspace, in_kind, in_name), 0));
end
$$;

-- Completes an installation of functions: stores their digest, distributes new tables and functions
-- where Citus distributes the database, creates the audit log's coming months, and creates the BM25
-- index where its extension is installed and the index is missing.
create or replace function finish_installation(in_digest text) returns void language plpgsql as $$
begin
    delete from installed_functions;
    insert into installed_functions (digest) values (in_digest);
    perform distribute_new_objects();
    perform ensure_audit_partitions(3);
    if to_regclass('memory_bm25') is null then
        perform create_bm25_index();
    end if;
end
$$;

-- Converts a JSON list of strings to an array; null stays null. Most lists are empty, and these run no
-- query.
create or replace function to_text_array(in_list jsonb) returns text[] language plpgsql immutable as $$
begin
    if in_list is null or in_list = 'null' then
        return null;
    elsif in_list = '[]' then
        return '{}'::text[];
    end if;
    return array(
        select element from jsonb_array_elements_text(in_list) with ordinality as list (element, n)
        order by n);
end
$$;

-- Converts a JSON list of ids to an array. An empty list runs no query.
create or replace function to_uuid_array(in_list jsonb) returns uuid[] language plpgsql immutable as $$
begin
    if in_list = '[]' then
        return '{}'::uuid[];
    end if;
    return array(
        select element::uuid from jsonb_array_elements_text(in_list) with ordinality as list (element, n)
        order by n);
end
$$;

-- Whether a row belongs to a page of a list, by its place on the page and the bytes of the rows up to and
-- including it. A page has at most about 1 MiB, and at least one row.
create or replace function is_on_page(place bigint, bytes bigint) returns boolean
language sql immutable parallel safe as $$
    select place = 1 or bytes <= 1048576
$$;
