-- Inserts audit rows of 500 agents into this month's partition, one in five in another workspace.

insert into audit_log (
    workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
    duration_ms
)
select
    case when n % 5 = 0 then 'team-' || n / 5 % 4 else 'default' end, 'agent-' || n % 500, 'claude_code',
    'session-' || n % 2000, md5(n::text), 'check_guardrails', '{"operation_text": "git status --short"}',
    '{"blocked": false, "violations": []}', true, 1
from generate_series({first}, {last}) n;
