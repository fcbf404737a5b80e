-- Assignments of profiles.

-- Assigns a profile to an agent (null: removes the assignment) and suspends the agent or lifts its
-- suspension. Returns why this was refused, or null.
--
-- Three trusts may not exceed the caller's: the target's before the assignment, that of the profile,
-- and the target's afterwards, because removing an assignment gives back what the target's key or type
-- grants. They are computed without the suspension: otherwise a caller could lift the suspension of an
-- agent that it may not manage. `in_key_types` and `in_key_profiles` describe the target's keys,
-- with one pair of nulls for an agent without keys. Assignments of one agent run one after the other
-- under an advisory lock, which also works before the agent has a row.
create or replace function assign_profile(
    in_workspace text, cx request, in_target_agent_id text, in_profile text, in_suspended boolean,
    in_key_types text[], in_key_profiles text[], in_max_trust integer, in_default_trust integer,
    in_caller_trust integer, out refusal text
) language plpgsql as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    home_workspace text := profile_workspace(in_workspace);
    assigned text;
    profile_trust integer;
    target_trust integer;
    resulting_trust integer;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from acquire_advisory_lock(in_workspace, 'profiles', in_target_agent_id);
    select p.trust_level into profile_trust from profile p
    where p.workspace = home_workspace and p.name = in_profile and p.enabled;
    select a.profile into assigned from agent_assignment a
    where a.workspace = in_workspace and a.agent_id = in_target_agent_id;
    target_trust := trust_of_agent(
        home_workspace, assigned, in_key_types, in_key_profiles, in_max_trust, in_default_trust);
    resulting_trust := trust_of_agent(
        home_workspace, in_profile, in_key_types, in_key_profiles, in_max_trust, in_default_trust);
    refusal := case
        when in_profile is not null and profile_trust is null then 'profile_not_found'
        when in_target_agent_id = cx.agent_id then 'cannot_assign_self'
        when greatest(target_trust, profile_trust, resulting_trust) > in_caller_trust then 'trust_above_caller'
    end;
    if refusal is null then
        insert into agent_assignment (workspace, agent_id, profile, suspended)
        values (in_workspace, in_target_agent_id, in_profile, in_suspended)
        on conflict (workspace, agent_id) do update set
            profile = excluded.profile, suspended = excluded.suspended, assigned_at = at;
    end if;
    perform record_audit(
        in_workspace, cx, 'assign_profile',
        jsonb_build_object(
            'target_agent_id', in_target_agent_id, 'profile', in_profile, 'suspended', in_suspended),
        case when refusal is null then '{}'::jsonb else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

-- Returns the trust of an agent by the profile that is assigned to it (null: none), else by its keys.
-- `in_workspace` is the workspace whose profiles apply.
create or replace function trust_of_agent(
    in_workspace text, in_assigned text, in_key_types text[], in_key_profiles text[],
    in_max_trust integer, in_default_trust integer
) returns integer language plpgsql stable as $$
declare
    trust integer;
begin
    select max(case when effective.name is null then in_default_trust
        else coalesce(p.trust_level, 0) end)
    into trust
    from (
        select coalesce(
            in_assigned,
            key.profile,
            (select d.name from profile d
                where d.workspace = in_workspace and d.agent_type = key.agent_type
                    and d.is_type_default and d.enabled)
        ) as name
        from unnest(in_key_types, in_key_profiles) as key (agent_type, profile)
    ) effective
    left join profile p on p.workspace = in_workspace and p.name = effective.name and p.enabled;
    return least(in_max_trust, trust);
end
$$;

-- Returns the workspace whose profiles apply to a workspace: itself, or `default` where it has no
-- profiles.
create or replace function profile_workspace(in_workspace text) returns text language plpgsql stable as $$
begin
    return case when exists (select from profile p where p.workspace = in_workspace) then in_workspace
        else 'default' end;
end
$$;

-- Records that the keys of a workspace were listed.
create or replace function record_key_list(in_workspace text, cx request, in_count bigint) returns void
language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_audit(
        in_workspace, cx, 'manage_keys', '{}', jsonb_build_object('count', in_count), true);
end
$$;
