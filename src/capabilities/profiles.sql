-- Assignments of profiles.

-- Gives an agent a profile, takes it away, or suspends the agent, and records it. Returns why it was
-- refused, or null.
--
-- An agent's trust is judged as it would be without a suspension: otherwise an administrator could lift
-- the suspension of an agent above. `in_key_types` and `in_key_profiles` are those of the agent's keys,
-- one pair of nulls without any. Assignments of one agent take turns, also of one that has no row yet.
create or replace function assign_profile(
    in_workspace text, cx request, in_target text, in_profile text, in_suspended boolean,
    in_key_types text[], in_key_profiles text[], in_most_trust integer, in_default_trust integer,
    in_trust integer, out refusal text
) language plpgsql as $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    home text := profile_workspace(in_workspace);
    asked_trust integer;
    target_trust integer;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from acquire_advisory_lock(in_workspace, 'profiles', in_target);
    select p.trust_level into asked_trust from profile p
    where p.workspace = home and p.name = in_profile and p.enabled;
    select least(in_most_trust, max(
        case when wanted.name is null then in_default_trust else coalesce(p.trust_level, 0) end))
    into target_trust
    from (
        select coalesce(
            (select a.profile from agent_assignment a
                where a.workspace = in_workspace and a.agent_id = in_target),
            key.profile,
            (select d.name from profile d
                where d.workspace = home and d.agent_type = key.agent_type
                    and d.is_type_default and d.enabled)
        ) as name
        from unnest(in_key_types, in_key_profiles) as key (agent_type, profile)
    ) wanted
    left join profile p on p.workspace = home and p.name = wanted.name and p.enabled;
    refusal := case
        when in_profile is not null and asked_trust is null then 'profile_not_found'
        when in_target = cx.agent_id then 'cannot_assign_self'
        when greatest(target_trust, asked_trust) > in_trust then 'trust_above_caller'
    end;
    if refusal is null then
        insert into agent_assignment (workspace, agent_id, profile, suspended)
        values (in_workspace, in_target, in_profile, in_suspended)
        on conflict (workspace, agent_id) do update set
            profile = excluded.profile, suspended = excluded.suspended, assigned_at = at;
    end if;
    perform record_audit(
        in_workspace, cx, 'assign_profile',
        jsonb_build_object(
            'target_agent_id', in_target, 'profile', in_profile, 'suspended', in_suspended),
        case when refusal is null then '{}'::jsonb else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

-- The workspace whose profiles serve a workspace: its own, or `default` where it has none.
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
