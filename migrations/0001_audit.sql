-- The append-only record of what was done and by whom, in one partition a month.

create table audit_log (
    workspace text collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    id uuid not null default gen_random_uuid(),
    agent_id text not null,
    agent_type text not null,
    session_id text,
    request_id text not null,
    operation text not null,
    parameters jsonb not null,
    result jsonb not null,
    error_message text,
    success boolean not null,
    duration_ms integer not null,
    primary key (workspace, created_at, id)
) partition by range (created_at);

create function audit_log_refuse() returns trigger
language plpgsql as $$
begin
    raise exception 'audit_log is append-only: % is refused', tg_op using errcode = 'restrict_violation';
end
$$;

-- Statement triggers are not inherited, so each partition gets its own below; "always" holds even
-- where a superuser switches ordinary triggers off with session_replication_role.
create trigger audit_log_append_only before update or delete or truncate on audit_log
for each statement execute function audit_log_refuse();
alter table audit_log enable always trigger audit_log_append_only;

-- Creates the partition of the current month and of the months after it, where they are missing,
-- and returns how many it made. Months are those of UTC. Whoever finds no partition for a row calls
-- it and inserts again, so no background task is needed. A partition is made apart and then
-- attached, which does not block writers. It runs with its owner's rights, so that the service's
-- role need not own the table.
create function audit_log_ensure_partitions(months_ahead integer) returns integer
language plpgsql security definer set search_path from current as $$
declare
    this_month timestamp := date_trunc('month', clock_timestamp() at time zone 'UTC');
    lower_bound timestamptz;
    upper_bound timestamptz;
    partition text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('audit_log_ensure_partitions', 0));
    for n in 0..least(months_ahead, 24) loop
        lower_bound := (this_month + make_interval(months => n)) at time zone 'UTC';
        upper_bound := (this_month + make_interval(months => n + 1)) at time zone 'UTC';
        partition := 'audit_log_' || to_char(this_month + make_interval(months => n), 'YYYY_MM');
        continue when to_regclass(quote_ident(partition)) is not null;
        execute format('create table %I (like audit_log including defaults)', partition);
        execute format(
            'create trigger audit_log_append_only before update or delete or truncate on %I
             for each statement execute function audit_log_refuse()', partition);
        execute format('alter table %I enable always trigger audit_log_append_only', partition);
        execute format(
            'alter table audit_log attach partition %I for values from (%L) to (%L)',
            partition, lower_bound, upper_bound);
        made := made + 1;
    end loop;
    return made;
end
$$;

select audit_log_ensure_partitions(3);
