-- Shared by all transitions: the request that a transition answers, the record of installed functions,
-- and the append-only audit log with one partition for each month.

-- The request that a transition answers. The workspace is not a member: it is the first argument of
-- every function, because Citus routes a call by one argument (the distribution argument).
create type request as (
    id text,
    agent_id text,
    agent_type text,
    session_id text,
    elapsed_ms double precision, -- from the request's arrival to this call
    session_timeout interval     -- a session without a call for this long counts as ended
);

-- The digest of the text of the installed functions, in one row; see migrations/README.md.
create table installed_functions (
    digest text not null,
    installed_at timestamptz not null default clock_timestamp()
);

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

-- Every write pays for each index here, so there are two: one by agent, and a partial one by change,
-- which costs nothing for a row without a change id. Searches by time, and by anything less selective,
-- use the primary key, newest month first. A new partition gets both indexes when it is attached.
create index audit_log_by_agent on audit_log (workspace, agent_id, created_at);
create index audit_log_by_change on audit_log (
    workspace, (parameters ->> 'change_id'), created_at
) where parameters ->> 'change_id' is not null;

-- Refuses changes and deletions of audit rows. Retention drops whole partitions, which does not fire a
-- trigger.
create function refuse_audit_log_change() returns trigger
language plpgsql as $$
begin
    raise exception 'audit_log is append-only: % is refused', tg_op using errcode = 'restrict_violation';
end
$$;

-- Partitions do not inherit a statement trigger, so each partition gets its own
-- (`ensure_audit_partitions`). ALWAYS fires even where a superuser switches triggers off with
-- `session_replication_role`.
create trigger audit_log_append_only before update or delete or truncate on audit_log
for each statement execute function refuse_audit_log_change();
alter table audit_log enable always trigger audit_log_append_only;
