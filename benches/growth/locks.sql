-- Inserts held locks, 25 for each session, one in five in another workspace.

insert into agent_session (workspace, agent_id, session_id, agent_type)
select
    case when n % 5 = 0 then 'team-' || n / 5 % 4 else 'default' end, 'agent-' || n / 2, 'session-' || n,
    'claude_code'
from generate_series({first} / 25, {last} / 25) n
on conflict do nothing;

insert into file_lock (
    workspace, key, token, is_file, agent_id, agent_type, session_id, locked_at, expires_at
)
select
    case when s % 5 = 0 then 'team-' || s / 5 % 4 else 'default' end,
    'src/module-' || n % 997 || '/file-' || n || '.rs', 1, true, 'agent-' || s / 2, 'claude_code',
    'session-' || s, clock_timestamp(), clock_timestamp() + interval '8 hours'
from generate_series({first}, {last}) n cross join lateral (select n / 25) as session (s);
