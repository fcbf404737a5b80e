-- Gathered calls: one statement that calls a transition's function once for each of several requests.

-- Begins a gathered call. Its requests wait only a moment for rows that other calls have locked: a call
-- that would wait longer fails, and its requests then run alone, so that one contended row does not
-- delay all of them. The advisory locks of agents whose file locks are limited are acquired here, in
-- one order and before any row is locked, so that gathered calls cannot deadlock. `in_agent_ids` has
-- null for agents without a limit.
create or replace function begin_gathered_call(in_workspaces text[], in_agent_ids text[])
returns boolean language plpgsql as $$
declare
    limited record;
begin
    perform set_config('lock_timeout', '200ms', true);
    for limited in
        select distinct r.workspace, r.agent_id
        from unnest(in_workspaces, in_agent_ids) as r (workspace, agent_id)
        where r.agent_id is not null
        order by r.workspace, r.agent_id
    loop
        perform from acquire_advisory_lock(limited.workspace, 'locks', limited.agent_id);
    end loop;
    return true;
end
$$;
