-- Distribution over the servers of a Citus cluster. See docs/scale-out.md.

-- Lists where the rows of each table are when Citus distributes the database. `by workspace`: all rows
-- of a workspace are on one worker. `everywhere`: each server has a copy (a reference table), for
-- configuration whose workspace `default` serves other workspaces too. `coordinator`: on the server
-- that clients connect to. Nothing else in the code says what is distributed. A table comes after those
-- that its foreign keys refer to.
create or replace function table_placements() returns table (name text, placement text)
language sql immutable as $$
    values
        ('agent_session', 'by workspace'),
        ('agent_assignment', 'by workspace'),
        ('audit_log', 'by workspace'),
        ('file_lock', 'by workspace'),
        ('guardrail_violation', 'by workspace'),
        ('handoff', 'by workspace'),
        ('idempotency_key', 'by workspace'),
        ('lock_token_floor', 'by workspace'),
        ('lock_waiter', 'by workspace'),
        ('mcp_call', 'by workspace'),
        ('mcp_connection', 'by workspace'),
        ('memory', 'by workspace'),
        ('memory_words', 'by workspace'),
        ('memory_without_words', 'by workspace'),
        ('network_log', 'by workspace'),
        ('port_block', 'by workspace'),
        ('quota_reached', 'by workspace'),
        ('session_loss', 'by workspace'),
        ('work_dependency', 'by workspace'),
        ('work_task', 'by workspace'),
        ('cedar_policy', 'everywhere'),
        ('domain_rule', 'everywhere'),
        ('guardrail_pattern', 'everywhere'),
        ('profile', 'everywhere'),
        ('_sqlx_migrations', 'coordinator'),
        ('installed_functions', 'coordinator'),
        ('audit_retention', 'coordinator')
$$;

-- Distributes the tables, and the functions whose first argument is `in_workspace`, over the workers of
-- the Citus cluster that this database coordinates. The other functions are copied to the workers.
-- Tables and functions that are distributed already stay as they are. An operator calls this once; each
-- later installation of functions repeats it for new ones. Returns how many tables and functions it
-- distributed.
create or replace function distribute(out tables integer, out functions integer)
language plpgsql as $$
begin
    if to_regclass('pg_catalog.pg_dist_partition') is null then
        raise exception 'this database has no extension citus'
            using errcode = 'feature_not_supported',
                hint = 'Install Citus, run "create extension citus" and add the workers: docs/scale-out.md.';
    end if;
    -- One transaction distributes tables and functions, for which Citus must use one connection to each
    -- worker (sequential mode).
    perform set_config('citus.multi_shard_modify_mode', 'sequential', true);
    -- Citus refuses tables with triggers without this. The audit log's triggers only raise an error.
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    -- A function may call one that comes later, also while a worker creates it.
    perform set_config('check_function_bodies', 'off', true);
    perform set_config('client_min_messages', 'warning', true);
    tables := distribute_tables();
    functions := distribute_functions();
end
$$;

-- Distributes new tables and functions where the database is distributed. Elsewhere this does nothing.
create or replace function distribute_new_objects() returns void language plpgsql as $$
begin
    if is_distributed('agent_session') then
        perform distribute();
    end if;
end
$$;

-- Whether Citus distributes a table. False in a database without the extension citus.
create or replace function is_distributed(in_table regclass) returns boolean
language plpgsql stable as $$
declare
    catalog regclass := to_regclass('pg_catalog.pg_dist_partition');
    is_listed boolean := false;
begin
    if catalog is not null then
        execute format('select exists (select from %s where logicalrelid = $1)', catalog)
        into is_listed using in_table;
    end if;
    return is_listed;
end
$$;

-- Distributes the tables that are not distributed yet and returns how many it distributed. Tables are
-- colocated, so that all rows of a workspace are on one worker and no transition needs a second one.
create or replace function distribute_tables() returns integer language plpgsql as $$
declare
    item record;
    colocated_table text := 'none';
    distributed integer := 0;
begin
    for item in
        select p.name, p.placement, is_distributed(p.name::regclass) as is_done
        from table_placements() p where p.placement <> 'coordinator'
    loop
        if not item.is_done and item.placement = 'everywhere' then
            execute format('select create_reference_table(%L)', item.name);
        elsif not item.is_done then
            execute format(
                'select create_distributed_table(%L, ''workspace'', colocate_with := %L)',
                item.name, colocated_table);
        end if;
        distributed := distributed + (not item.is_done)::integer;
        if colocated_table = 'none' and item.placement = 'by workspace' then
            colocated_table := item.name;
        end if;
    end loop;
    return distributed;
end
$$;

-- Distributes the functions that are not distributed yet and returns how many it distributed. Citus
-- sends a call of a transition to its workspace's worker, except in a transaction of several
-- statements, whose statements it sends there one by one. Calls of `acquire_advisory_lock` are always
-- sent (`force_delegation`), because such a transaction and a transition on the worker must wait for
-- the same lock.
create or replace function distribute_functions() returns integer language plpgsql as $$
declare
    catalog regclass := to_regclass('pg_catalog.pg_dist_object');
    colocated_table text := (
        select p.name from table_placements() p where p.placement = 'by workspace' limit 1);
    copied oid[];
    delegated oid[];
    item record;
    distributed integer := 0;
begin
    execute format(
        'select coalesce(array_agg(objid), ''{}''),
            coalesce(array_agg(objid) filter (where distribution_argument_index = 0), ''{}'')
        from %s where classid = ''pg_proc''::regclass', catalog)
    into copied, delegated;
    -- Citus copies a function to the workers when it is created, unless that was before Citus was
    -- there, or it takes or returns rows of a table that was not distributed yet.
    for item in select f.name from own_functions() f where f.name <> all(copied) loop
        execute pg_get_functiondef(item.name);
        distributed := distributed + 1;
    end loop;
    for item in
        select f.name from own_functions() f
        where f.first_argument = 'in_workspace' and f.name <> all(delegated)
    loop
        execute format(
            'select create_distributed_function(
                %L, ''in_workspace'', colocate_with := %L, force_delegation := %L)',
            item.name, colocated_table,
            item.name = 'acquire_advisory_lock(text, text, text)'::regprocedure);
        distributed := distributed + 1;
    end loop;
    -- Citus cannot route a generic plan to one worker, and each installation sets this again.
    for item in
        select f.name from own_functions() f
        where 'plan_cache_mode=force_generic_plan' = any(f.settings)
    loop
        execute format('alter function %s reset plan_cache_mode', item.name);
    end loop;
    return distributed;
end
$$;

-- Lists the functions of this schema that do not belong to an extension.
create or replace function own_functions()
returns table (name regprocedure, first_argument text, settings text[])
language sql stable as $$
    select p.oid::regprocedure, p.proargnames[1], p.proconfig
    from pg_proc p
    where p.pronamespace = current_schema()::regnamespace and p.prokind = 'f'
        and not exists (
            select from pg_depend d
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    order by p.oid
$$;
