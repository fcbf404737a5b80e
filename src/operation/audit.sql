-- The audit log: one row for each transition, written by the transition itself.

-- Writes the audit row of one transition. Each path of a transition calls this exactly once, refusals
-- included.
create or replace function record_audit(
    in_workspace text, cx request, operation text, parameters jsonb, result jsonb, success boolean
) returns void language plpgsql as $$
declare
    duration_ms double precision := request_duration_ms(cx);
begin
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result,
        success, duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, operation, parameters, result,
        success, duration_ms
    );
end
$$;

-- Returns the milliseconds from a request's arrival until now.
create or replace function request_duration_ms(cx request) returns double precision language plpgsql as $$
begin
    return cx.elapsed_ms + 1000 * extract(epoch from clock_timestamp() - statement_timestamp());
end
$$;

-- Records that a policy denied an operation. A request that is answered with 403 has this audit row
-- alone.
create or replace function record_denial(
    in_workspace text, cx request, operation text, resource text, engine text, reason text,
    diagnostics text[]
) returns void language plpgsql as $$
begin
    perform record_audit(
        in_workspace, cx, 'policy_decision',
        jsonb_build_object(
            'operation', operation, 'resource', resource, 'engine', engine, 'context', null,
            'advisory', false
        ),
        jsonb_build_object(
            'allowed', false, 'reason', reason, 'policy_id', null, 'diagnostics', to_jsonb(diagnostics)
        ),
        false
    );
end
$$;

-- Creates the missing partitions of the current month and of the months after it, and returns how many
-- it created. Months are those of UTC. A request that finds no partition for its audit row calls this
-- and is run again, so no background task is needed. Each partition is created as a table of its own
-- and then attached, which does not block writers. Runs with its owner's rights, so that the service's
-- role need not own the table.
create or replace function ensure_audit_partitions(months_ahead integer) returns integer
language plpgsql security definer set search_path from current as $$
declare
    this_month timestamp := date_trunc('month', clock_timestamp() at time zone 'UTC');
    lower_bound timestamptz;
    upper_bound timestamptz;
    partition text;
    created integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('ensure_audit_partitions', 0));
    -- Without this, Citus refuses to distribute a partition that has a trigger. Elsewhere it has no
    -- effect.
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    for n in 0..least(months_ahead, 24) loop
        lower_bound := (this_month + make_interval(months => n)) at time zone 'UTC';
        upper_bound := (this_month + make_interval(months => n + 1)) at time zone 'UTC';
        partition := 'audit_log_' || to_char(this_month + make_interval(months => n), 'YYYY_MM');
        continue when to_regclass(quote_ident(partition)) is not null;
        execute format('create table %I (like audit_log including defaults)', partition);
        perform close_table(quote_ident(partition)::regclass);
        execute format(
            'create trigger audit_log_append_only before update or delete or truncate on %I
             for each statement execute function refuse_audit_log_change()', partition);
        execute format('alter table %I enable always trigger audit_log_append_only', partition);
        execute format(
            'alter table audit_log attach partition %I for values from (%L) to (%L)',
            partition, lower_bound, upper_bound);
        created := created + 1;
    end loop;
    return created;
end
$$;

-- Drops the partitions of months that ended before the days to keep, and returns how many it dropped.
-- Runs with its owner's rights, so that the service's role need not own the table. No argument drops
-- what `audit_retention` keeps. While another call is running, this one does nothing.
create or replace function drop_audit_partitions(retention_days integer) returns bigint
language plpgsql security definer set search_path from current as $$
declare
    kept_days integer := (select max(r.days) from audit_retention r);
    oldest_kept date := (clock_timestamp() at time zone 'UTC')::date
        - least(greatest(retention_days, kept_days), 3650);
    month record;
    dropped bigint := 0;
begin
    if kept_days is null then
        return 0;
    elsif retention_days < kept_days then
        raise warning 'the audit log keeps % days, not %: run "coordinator migrate" with AUDIT_RETENTION_DAYS=%',
            kept_days, retention_days, retention_days;
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('drop_audit_partitions', 0)) then
        return 0;
    end if;
    for month in
        select
            c.oid::regclass as name,
            (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month')::date as ended
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'audit_log'::regclass
    loop
        continue when month.ended > oldest_kept;
        execute format('drop table %s', month.name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

-- Returns the bytes of an entry's values in a list. Those that are not compressed are not read for it.
create or replace function audit_bytes(parameters jsonb, result jsonb, error_message text) returns integer
language sql immutable parallel safe as $$
    select case when pg_column_compression(parameters) is null then pg_column_size(parameters)
            else octet_length(parameters::text) end
        + case when pg_column_compression(result) is null then pg_column_size(result)
            else octet_length(result::text) end
        + coalesce(octet_length(error_message), 0)
$$;
