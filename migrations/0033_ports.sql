-- Blocks of ports that sessions hold for their test environments, and the end of sessions, which
-- frees them with everything else that is held.

-- One row a slot, so that no two sessions hold one. A row that has expired, or whose session lost
-- it, is a free slot.
create table port_block (
    workspace text collate "C" not null,
    slot integer not null,
    agent_id text collate "C" not null,
    session_id text collate "C" not null,
    allocated_at timestamptz not null,
    expires_at timestamptz not null,
    primary key (workspace, slot),
    constraint port_block_slot_range check (slot >= 0)
);

-- Gives a session the lowest free slot, or the one it has for longer, or says why not. The advisory
-- lock ends with the caller's transaction and makes allocations of one workspace take turns, and
-- the choice, being a statement of its own in a volatile function, sees what the previous one
-- committed.
create function allocate_port_block(
    in_workspace text, in_agent_id text, in_session_id text, slots integer, ttl interval,
    timeout interval,
    out refusal text, out granted_slot integer, out granted_until timestamptz
)
language sql volatile as $$
    select pg_advisory_xact_lock(hashtextextended(in_workspace, 2));
    with live as materialized (
        select slot, agent_id, session_id from port_block
        where workspace = in_workspace and expires_at > clock_timestamp()
            and not session_lost(workspace, agent_id, session_id, allocated_at, timeout)
    ), own as materialized (
        select slot, agent_id from live where session_id = in_session_id
    ), chosen as (
        select coalesce(
            (select slot from own),
            (
                select min(n) from generate_series(0, slots - 1) n
                where n not in (select slot from live)
            )
        ) as slot
        where not exists (select from own where agent_id <> in_agent_id)
    ), granted as (
        insert into port_block as b (
            workspace, slot, agent_id, session_id, allocated_at, expires_at
        )
        select
            in_workspace, slot, in_agent_id, in_session_id, clock_timestamp(),
            clock_timestamp() + ttl
        from chosen where slot is not null
        on conflict (workspace, slot) do update set
            agent_id = excluded.agent_id,
            session_id = excluded.session_id,
            allocated_at = case when exists (select from own) then b.allocated_at
                else excluded.allocated_at end,
            expires_at = excluded.expires_at
        returning slot, expires_at
    )
    select
        case
            when g.slot is not null then null
            when exists (select from own) then 'session_owned_by_other_agent'
            else 'no_ports_available'
        end,
        g.slot, g.expires_at
    from (select) one left join granted g on true
$$;

-- Ends the live sessions of a workspace and frees what each holds: its locks, its claims, its
-- ports. With an agent, only that agent's; with a session too, only that one; with a silence, only
-- those not heard for so long. Other sessions of the agent keep everything, and so does what was
-- taken without naming a session. A dry run counts and changes nothing.
--
-- This is the one place that knows what a session may hold, for every operation that ends one. The
-- silence is judged on the locked row: a session that is heard meanwhile lives on. What the session
-- had already lost is cleared but not counted. Rows are locked in the order sessions, locks, ports,
-- each by its key.
create function end_sessions(
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
        -- Claims: none yet. The migration that brings the work queue replaces this function and
        -- requeues the claims of the sessions in `ending` here.
        0::bigint,
        (select count(*) from ports where is_live)
$$;
