-- Gathered calls: one statement that runs a transition's function once for each of several requests.

-- Begins a gathered call. Its requests wait only a moment for rows that other calls hold: a call that must
-- wait fails, and its requests then run alone. Agents whose file locks are limited take their turns in one
-- order, before any row is locked; `in_agent_ids` has null for the others.
create or replace function begin_gathered_call(in_workspaces text[], in_agent_ids text[])
returns boolean language plpgsql as $$
declare
    turn record;
begin
    perform set_config('lock_timeout', '200ms', true);
    for turn in
        select distinct r.workspace, r.agent_id
        from unnest(in_workspaces, in_agent_ids) as r (workspace, agent_id)
        where r.agent_id is not null
        order by r.workspace, r.agent_id
    loop
        perform from acquire_advisory_lock(turn.workspace, 'locks', turn.agent_id);
    end loop;
    return true;
end
$$;
