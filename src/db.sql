-- What all capabilities share: turns of transactions, and the installation.

-- Makes transactions of a workspace that name the same thing take turns: waits until no other has its
-- turn, and keeps it until the transaction ends. Always called in FROM (`perform from acquire_advisory_lock(…)`), because
-- a distributed database can then send the call to where the workspace's rows are (see `distribute`).
create or replace function acquire_advisory_lock(in_workspace text, in_kind text, in_name text) returns void
language plpgsql as $$
begin
    perform pg_advisory_xact_lock(
        hashtextextended(concat_ws(chr(10), in_workspace, in_kind, in_name), 0));
end
$$;

-- Ends an installation of functions: remembers which are installed, distributes what is new where the
-- database is distributed, makes the coming months of the audit log, and builds the BM25 index where there
-- is an extension for it and no index yet.
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

-- The members of a JSON list of texts; null for null. Most lists are empty and cost no query.
create or replace function to_text_array(in_list jsonb) returns text[] language plpgsql immutable as $$
begin
    if in_list is null or in_list = 'null' then
        return null;
    elsif in_list = '[]' then
        return '{}'::text[];
    end if;
    return array(
        select member from jsonb_array_elements_text(in_list) with ordinality as it (member, n) order by n);
end
$$;
