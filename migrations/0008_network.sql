-- Rules for the domains that agents may reach, and the log of network checks.

-- The rules of workspace `default` apply to every workspace that has no rules of its own. A rule
-- without a profile applies to every agent.
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
    -- A star is the whole pattern, or its beginning as `*.`.
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
    -- The rule that decided. It may have been deleted since.
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

-- Finds the oldest rows of all workspaces, for retention.
create index network_log_by_age on network_log using brin (created_at);
