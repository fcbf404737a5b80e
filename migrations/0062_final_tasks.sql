-- A task that has failed with time is final, whether anybody has written that down or not: what
-- returns claims to the queue and what replaces dependencies leaves it alone.

-- Has pending tasks wait for a new task instead of one that failed or was cancelled.
create or replace function replace_dependency(in_workspace text, in_old uuid, in_new uuid)
returns bigint
language sql volatile as $$
    with moved as (
        update work_dependency d set depends_on = in_new
        from work_task t
        where d.workspace = in_workspace and d.depends_on = in_old
            and t.workspace = d.workspace and t.id = d.task_id and task_status(t) = 'pending'
        returning 1
    )
    select count(*) from moved
$$;

-- Ends sessions and takes back what they hold, as described where it was first defined.
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
        where t.status in ('claimed', 'running') and task_status(t) <> 'failed'
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
