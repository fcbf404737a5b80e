-- Inserts handoffs of 500 agents, one in five in another workspace.

insert into handoff (
    workspace, agent_id, agent_type, session_id, summary, completed_work, in_progress, decisions,
    next_steps, relevant_files, content, created_at
)
select
    case when n % 5 = 0 then 'team-' || n / 5 % 4 else 'default' end, 'agent-' || n % 500, 'claude_code',
    'session-' || n % 2000, 'Part ' || n || ' of the parser is done, its tests are missing',
    '["parser"]', '["tests"]', '[]', '[]', '[]', '{}', clock_timestamp() - n % 129600 * interval '1 minute'
from generate_series({first}, {last}) n;
