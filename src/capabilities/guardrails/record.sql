-- Records of guardrail checks and of the violations that they found.

-- Records violations from a JSON array of objects whose members are named like the columns. Null and an
-- empty array record nothing.
create or replace function record_guardrail_violations(in_workspace text, cx request, violations jsonb)
returns void language plpgsql as $$
begin
    if violations = '[]' or violations is null then
        return;
    end if;
    insert into guardrail_violation (
        workspace, agent_id, session_id, request_id, trust_level, pattern_name, category, severity,
        blocked, operation_text, matched_text, file_paths
    )
    select
        in_workspace, cx.agent_id, cx.session_id, cx.id, v.trust_level, v.pattern_name, v.category,
        v.severity, v.blocked, v.operation_text, v.matched_text, v.file_paths
    from jsonb_to_recordset(violations) as v (
        trust_level smallint, pattern_name text, category text, severity text, blocked boolean,
        operation_text text, matched_text text, file_paths text[]
    );
end
$$;

-- Records a check of an operation's text: one row for each violation, and one audit row, whose
-- operation is `guardrail_violation` when the check found any.
create or replace function check_guardrails(
    in_workspace text, cx request, in_audited_text text, in_violations jsonb, in_result jsonb
) returns void language plpgsql as $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_guardrail_violations(in_workspace, cx, in_violations);
    perform record_audit(
        in_workspace, cx,
        case when in_violations = '[]' then 'check_guardrails' else 'guardrail_violation' end,
        jsonb_build_object('operation_text', in_audited_text), in_result,
        not (in_result -> 'blocked')::boolean);
end
$$;
