-- Ending sessions returns their claims too, and what time has ended can be tidied up. None of it is
-- needed for correctness: every statement compares for itself.

-- Ends sessions and takes back what they hold: releases their file locks, returns their claims to
-- the queue, frees their ports. With an agent, only that agent's; with a session too, only that one;
-- with a silence, only those not heard for so long. Other sessions of the agent keep everything, and
-- so does what was taken without naming a session. A dry run counts and changes nothing.
--
-- This is the one place that knows what a session may hold, for every operation that ends one. The
-- silence is judged on the locked row: a session that is heard meanwhile lives on. What the session
-- had already lost is cleared but not counted. Rows are locked in the order sessions, locks, tasks,
-- ports, each by its key. A task out of attempts fails instead of returning.
create or replace function end_sessions(
    in_workspace text, in_agent_id text, in_session_id text, silence interval, dry_run boolean,
    out agents bigint, out sessions bigint, out locks_released bigint, out tasks_requeued bigint,
    out ports_released bigint
)
language sql volatile as $$
    with ending as materialized (
        select agent_id, session_id, revived_at from agent_session
        where workspace = in_workspace and ended_at is null
            and (in_agent_id is null or agent_id = in_agent_id)
            and (in_session_id is null or session_id = in_session_id)
            and (silence is null or last_heartbeat_at <= statement_timestamp() - silence)
        order by agent_id, session_id
        for update
    ), ended as (
        update agent_session s set ended_at = clock_timestamp()
        from ending e
        where not dry_run and s.workspace = in_workspace and s.agent_id = e.agent_id
            and s.session_id = e.session_id
    ), locks as materialized (
        select
            l.key,
            l.expires_at > statement_timestamp()
                and coalesce(l.locked_at >= e.revived_at, true) as is_live
        from ending e
        join file_lock l on l.workspace = in_workspace and l.agent_id = e.agent_id
            and l.session_id = e.session_id
        order by l.key
        for update of l
    ), unlocked as (
        update file_lock l set
            agent_id = null, agent_type = null, session_id = null, reason = null,
            locked_at = null, expires_at = null
        from locks
        where not dry_run and l.workspace = in_workspace and l.key = locks.key
    ), claims as materialized (
        select t.id, t.attempt >= t.max_attempts as is_out
        from ending e
        join work_task t on t.workspace = in_workspace and t.claimed_by = e.agent_id
            and t.claimed_session_id = e.session_id
        where t.status in ('claimed', 'running')
        order by t.id
        for update of t
    ), requeued as (
        update work_task t set
            status = case when claims.is_out then 'failed' else 'pending' end,
            error_message = case when claims.is_out then 'max_attempts_exceeded'
                else t.error_message end,
            completed_at = case when claims.is_out then clock_timestamp() end,
            claim_token = case when claims.is_out then t.claim_token end,
            claimed_by = case when claims.is_out then t.claimed_by end,
            claimed_session_id = case when claims.is_out then t.claimed_session_id end,
            claimed_at = case when claims.is_out then t.claimed_at end,
            lease_expires_at = null, held_until = null, available_at = null, is_parked = false,
            is_lapsed = false
        from claims
        where not dry_run and t.workspace = in_workspace and t.id = claims.id
    ), ports as materialized (
        select
            p.slot,
            p.expires_at > statement_timestamp()
                and coalesce(p.allocated_at >= e.revived_at, true) as is_live
        from ending e
        join port_block p on p.workspace = in_workspace and p.agent_id = e.agent_id
            and p.session_id = e.session_id
        order by p.slot
        for update of p
    ), freed as (
        delete from port_block p
        using ports
        where not dry_run and p.workspace = in_workspace and p.slot = ports.slot
    )
    select
        (select count(distinct agent_id) from ending),
        (select count(*) from ending),
        (select count(*) from locks where is_live),
        (select count(*) from claims where not is_out),
        (select count(*) from ports where is_live)
$$;

-- Clears locks that have expired or whose session has lost them; the keys' counters stay.
create function clear_expired_locks(in_workspace text, timeout interval) returns bigint
language sql volatile as $$
    with expired as (
        select key from file_lock
        where workspace = in_workspace and agent_id is not null
            and (
                expires_at <= statement_timestamp()
                or session_lost(workspace, agent_id, session_id, locked_at, timeout)
            )
        order by key
        for update skip locked
    ), cleared as (
        update file_lock l set
            agent_id = null, agent_type = null, session_id = null, reason = null,
            locked_at = null, expires_at = null
        from expired
        where l.workspace = in_workspace and l.key = expired.key
        returning 1
    )
    select count(*) from cleared
$$;

-- Writes down what time has decided: tasks past their deadline or out of attempts have failed.
create function finish_lost_work(in_workspace text) returns bigint
language sql volatile as $$
    with lost as (
        select t.id from work_task t
        where t.workspace = in_workspace and (
            (t.status = 'pending' and t.deadline <= statement_timestamp())
            or (t.status in ('claimed', 'running') and t.held_until <= statement_timestamp()
                and (t.attempt >= t.max_attempts or t.deadline <= statement_timestamp()))
        )
        order by t.id
        for update skip locked
    ), finished as (
        update work_task t set
            status = 'failed', error_message = task_error(t),
            completed_at = task_failed_at(t)
        from lost
        where t.workspace = in_workspace and t.id = lost.id
        returning 1
    )
    select count(*) from finished
$$;

-- Frees port blocks that have expired or whose session has lost them.
create function free_expired_ports(in_workspace text, timeout interval) returns bigint
language sql volatile as $$
    with expired as (
        select slot from port_block
        where workspace = in_workspace
            and (
                expires_at <= statement_timestamp()
                or session_lost(workspace, agent_id, session_id, allocated_at, timeout)
            )
        order by slot
        for update skip locked
    ), freed as (
        delete from port_block p
        using expired
        where p.workspace = in_workspace and p.slot = expired.slot
        returning 1
    )
    select count(*) from freed
$$;

-- Drops the audit log's months that lie wholly before the days to keep, and returns how many. It
-- runs with its owner's rights, so that the service's role need not own the table; a second caller
-- at the same time does nothing.
create function audit_log_drop_partitions(retention_days integer) returns bigint
language plpgsql security definer set search_path from current as $$
declare
    oldest_kept date := (clock_timestamp() at time zone 'UTC')::date - greatest(retention_days, 1);
    partition record;
    dropped bigint := 0;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('audit_log_drop_partitions', 0)) then
        return 0;
    end if;
    for partition in
        select
            c.oid::regclass as name,
            (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month')::date as ended
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'audit_log'::regclass
    loop
        continue when partition.ended > oldest_kept;
        execute format('drop table %s', partition.name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

-- Deletes stored answers after a day and records of violations and of network checks whose month
-- lies wholly before the days to keep, in every workspace; returns how many rows.
create function delete_old_records(retention_days integer) returns bigint
language sql volatile as $$
    with answers as (
        delete from idempotency_key where created_at <= statement_timestamp() - interval '24 hours'
        returning 1
    ), violations as (
        delete from guardrail_violation
        where created_at < date_trunc('month', statement_timestamp() - make_interval(days => retention_days))
        returning 1
    ), network as (
        delete from network_log
        where created_at < date_trunc('month', statement_timestamp() - make_interval(days => retention_days))
        returning 1
    )
    select (select count(*) from answers) + (select count(*) from violations)
        + (select count(*) from network)
$$;

-- Retention looks for the oldest rows of all workspaces.
create index idempotency_key_by_age on idempotency_key (created_at);
create index guardrail_violation_by_age on guardrail_violation using brin (created_at);
create index network_log_by_age on network_log using brin (created_at);
