-- Checks of domains.

-- Checks whether an agent may reach a domain, by the first rule that matches, and logs the answer.
-- Without a matching rule the answer is `in_default` with `in_default_reason`.
--
-- A pattern `*.example.com` is compared by `right` with the end of the domain, dot included. So it does
-- not match `badexample.com`, and no character of a pattern is special, as it would be in LIKE.
create or replace function check_network(
    in_workspace text, cx request, in_profile text, in_domain text, in_default boolean,
    in_default_reason text, out allowed boolean, out reason text, out policy_id uuid
) language plpgsql as $$
declare
    rule_workspace text := case when exists (select from domain_rule r where r.workspace = in_workspace)
        then in_workspace else 'default' end;
begin
    select r.action = 'allow', r.action, r.id into allowed, reason, policy_id
    from domain_rule r
    where r.workspace = rule_workspace and r.enabled
        and (r.profile is null or r.profile = in_profile)
        and (
            r.pattern in ('*', in_domain)
            or lower(r.pattern) = in_domain
            or (r.pattern like '*.%'
                and right(in_domain, length(r.pattern) - 1) = lower(substr(r.pattern, 2)))
        )
    order by r.profile is null, r.priority, r.pattern like '*%', r.action = 'allow', r.id
    limit 1;
    allowed := coalesce(allowed, in_default);
    reason := coalesce(reason, in_default_reason);
    insert into network_log (
        workspace, agent_id, agent_type, session_id, request_id, domain, allowed, policy_id, reason
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, in_domain, allowed, policy_id,
        reason
    );
end
$$;
