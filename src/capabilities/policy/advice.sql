-- Checks of policy that an agent asks for.

-- Records a policy check and returns its answer. `in_decision` is the decision of the policy engine:
-- `allowed`, `reason` and `diagnostics`. Where it allows to lock a file, `in_file_limit` is the most
-- file locks that the agent may hold, and the limit is checked here: the answer is `in_denial` when
-- `in_files_modified` or the number of other file locks reaches it.
create or replace function record_policy_check(
    in_workspace text, cx request, in_parameters jsonb, in_decision jsonb, in_key text,
    in_file_limit bigint, in_files_modified bigint, in_denial text,
    out allowed boolean, out reason text
) language plpgsql as $$
declare
    is_over_limit boolean := false;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_file_limit is not null then
        is_over_limit := in_file_limit <= greatest(
            in_files_modified,
            count_other_file_locks(in_workspace, cx.agent_id, in_key, cx.session_timeout));
    end if;
    allowed := (in_decision -> 'allowed')::boolean and not is_over_limit;
    reason := case when is_over_limit then in_denial else in_decision ->> 'reason' end;
    perform record_audit(
        in_workspace, cx, 'policy_decision', in_parameters,
        jsonb_build_object(
            'allowed', allowed, 'reason', reason, 'policy_id', null,
            'diagnostics', case when is_over_limit then '[]' else in_decision -> 'diagnostics' end),
        allowed);
end
$$;
