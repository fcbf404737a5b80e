-- Inserts claimable tasks of eight types and ten priorities, one in five in another workspace, one in twenty for an
-- archetype.

insert into work_task (
    workspace, task_type, description, priority, submitted_by, archetype, guard_version, guard_trust,
    guard_findings, needed_trust, max_attempts, retry_on_failure
)
select
    case when n % 5 = 0 then 'team-' || n / 5 % 4 else 'default' end,
    (array['implement', 'test', 'review', 'plan', 'fix', 'document', 'deploy', 'refactor'])[1 + n % 8],
    'Write part ' || n || ' of the configuration file''s parser and its tests', 1 + n % 10,
    'agent-' || n % 500, case when n % 20 = 7 then 'implementer' end, 'bench', 0, '[]', n % 3, 3, true
from generate_series({first}, {last}) n;
