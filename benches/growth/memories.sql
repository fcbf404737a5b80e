-- Inserts memories of 500 agents, one in five in another workspace. One in 97 contains the words of the search.

insert into memory (
    workspace, agent_id, session_id, event_type, summary, summary_digest, details, lessons, tags, created_at
)
select
    case when n % 5 = 0 then 'team-' || n / 5 % 4 else 'default' end, 'agent-' || n % 500,
    'session-' || n % 2000, (array['decision', 'error', 'success'])[1 + n % 3],
    'Memory ' || n || ': chose the parser of the library for topic-' || n % 97,
    decode(md5(n::text), 'hex'), '{}', '{}', array['tag-' || n % 100],
    clock_timestamp() - n % 129600 * interval '1 minute'
from generate_series({first}, {last}) n;
