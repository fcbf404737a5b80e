-- Which domains agents may reach, and what was answered when they asked.

-- The rules of workspace `default` serve every workspace that has none of its own. A rule without a
-- profile holds for every agent.
create table domain_rule (
    workspace text collate "C" not null,
    id uuid not null default gen_random_uuid(),
    profile text collate "C",
    pattern text collate "C" not null,
    action text not null,
    priority integer not null,
    enabled boolean not null default true,
    primary key (workspace, id),
    constraint domain_rule_action_known check (action in ('allow', 'deny')),
    -- A star stands alone or before everything else, as `*.`.
    constraint domain_rule_pattern_form
        check (pattern = '*' or pattern ~ '^(\*\.)?[^*.[:space:]]+(\.[^*.[:space:]]+)*$')
);

create table network_log (
    workspace text collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    id uuid not null default gen_random_uuid(),
    agent_id text not null,
    agent_type text not null,
    session_id text,
    request_id text not null,
    domain text not null,
    allowed boolean not null,
    -- The rule that decided, which may be gone by now.
    policy_id uuid,
    reason text not null,
    primary key (workspace, created_at, id)
);

insert into domain_rule (workspace, pattern, action, priority) values
    ('default', 'github.com', 'allow', 1),
    ('default', '*.github.com', 'allow', 1),
    ('default', 'api.github.com', 'allow', 1),
    ('default', 'raw.githubusercontent.com', 'allow', 1),
    ('default', '*.supabase.co', 'allow', 1);

-- Retention looks for the oldest rows of all workspaces.
create index network_log_by_age on network_log using brin (created_at);
