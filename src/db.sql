-- Installation.

-- Ends an installation of functions: remembers which are installed, makes the coming months of the audit
-- log, and builds the BM25 index where there is an extension for it and no index yet.
create or replace function finish_installation(in_digest text) returns void language plpgsql as $$
begin
    delete from installed_functions;
    insert into installed_functions (digest) values (in_digest);
    perform audit_log_ensure_partitions(3);
    if to_regclass('memory_bm25') is null then
        perform make_memory_bm25();
    end if;
end
$$;
