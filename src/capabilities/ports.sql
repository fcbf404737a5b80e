-- Blocks of ports.

-- Allocates the lowest free slot to a session, or extends the block that the session has. Returns a
-- refusal when the session belongs to another agent or no slot is free.
--
-- Allocations of one workspace run one after the other under an advisory lock. Each sees what the
-- previous one committed, so no slot is allocated twice.
create or replace function allocate_ports(
    in_workspace text, cx request, in_session_id text, in_slots integer, in_ttl interval,
    out refusal text, out slot integer, out expires_at timestamptz
) language plpgsql as $$
declare
    at timestamptz;
    held record;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from acquire_advisory_lock(in_workspace, 'ports', '');
    at := clock_timestamp();
    expires_at := at + in_ttl;
    select b.slot, b.agent_id into held from live_port_blocks(in_workspace, cx.session_timeout) b
    where b.session_id = in_session_id;
    if held.agent_id <> cx.agent_id then
        refusal := 'session_owned_by_other_agent';
    elsif held.slot is not null then
        slot := held.slot;
        update port_block p set expires_at = allocate_ports.expires_at
        where p.workspace = in_workspace and p.slot = allocate_ports.slot;
    else
        select min(n) into slot from generate_series(0, in_slots - 1) n
        where n not in (select b.slot from live_port_blocks(in_workspace, cx.session_timeout) b);
        if slot is null then
            refusal := 'no_ports_available';
        else
            perform free_lost_ports(in_workspace, slot, cx, in_session_id);
            insert into port_block (workspace, slot, agent_id, session_id, allocated_at, expires_at)
            values (in_workspace, slot, cx.agent_id, in_session_id, at, expires_at);
        end if;
    end if;
    if refusal is not null then
        expires_at := null;
    end if;
    perform record_audit(
        in_workspace, cx, 'allocate_ports', jsonb_build_object('session_id', in_session_id),
        case when refusal is null then jsonb_build_object('slot', slot)
            else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

-- Frees a slot whose block is not live any more for an allocation, and records the loss for the session
-- that held the block, unless that session takes the slot again.
create or replace function free_lost_ports(
    in_workspace text, in_slot integer, cx request, in_session_id text
) returns void language plpgsql as $$
declare
    block port_block;
begin
    delete from port_block p where p.workspace = in_workspace and p.slot = in_slot
    returning * into block;
    if (block.agent_id, block.session_id) is distinct from (cx.agent_id, in_session_id) then
        perform record_loss(in_workspace, block.agent_id, block.session_id, 'port', in_slot::text, null,
            block.allocated_at, block.expires_at, cx.session_timeout);
    end if;
end
$$;

-- Lists the live blocks of ports in the order of allocation.
create or replace function live_port_blocks(in_workspace text, session_timeout interval)
returns setof port_block language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
begin
    return query
    select p.* from port_block p
    left join lateral (
        select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
        limit 1
    ) s on true
    where p.workspace = in_workspace
        and is_live_with_session(p.allocated_at, p.expires_at, session_timeout, at,
            s.ended_at, s.last_heartbeat_at, s.revived_at)
    order by p.allocated_at, p.slot;
end
$$;

-- Releases a session's block when it belongs to the caller, or to any agent with `in_any_owner`. A
-- session without a block is not refused; `slot` is then null.
create or replace function release_ports(
    in_workspace text, cx request, in_session_id text, in_any_owner boolean,
    out refusal text, out slot integer
) language plpgsql as $$
declare
    at timestamptz;
    block port_block;
begin
    perform record_heartbeat(in_workspace, cx);
    at := clock_timestamp();
    select p.* into block from port_block p
    left join lateral (
        select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
        limit 1
    ) s on true
    where p.workspace = in_workspace and p.session_id = in_session_id
        and is_live_with_session(p.allocated_at, p.expires_at, cx.session_timeout, at,
            s.ended_at, s.last_heartbeat_at, s.revived_at)
    for update of p;
    if block.agent_id = cx.agent_id or (block.slot is not null and in_any_owner) then
        slot := block.slot;
        delete from port_block p where p.workspace = in_workspace and p.slot = release_ports.slot;
    elsif block.slot is not null then
        refusal := 'not_owner';
    end if;
    perform record_audit(
        in_workspace, cx, 'release_ports', jsonb_build_object('session_id', in_session_id),
        case when refusal is null then jsonb_build_object('slot', slot)
            else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;
