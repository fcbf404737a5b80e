-- Guardrails: patterns of destructive operations, and the violations that they found.

-- The patterns of workspace `default` apply to every workspace that has no patterns of its own. A match
-- counts for callers whose trust is below `min_trust_level`; 5 is above every trust.
create table guardrail_pattern (
    workspace text collate "C" not null,
    name text collate "C" not null,
    list_order integer not null,
    category text not null,
    severity text not null,
    min_trust_level smallint not null,
    pattern text not null,
    explanation text not null,
    enabled boolean not null default true,
    primary key (workspace, name),
    constraint guardrail_pattern_severity_known
        check (severity in ('block', 'warn', 'log', 'approval_required')),
    constraint guardrail_pattern_trust_range check (min_trust_level between 0 and 5),
    constraint guardrail_pattern_not_empty check (name <> '' and pattern <> '')
);

insert into guardrail_pattern (
    workspace, list_order, name, category, severity, min_trust_level, pattern, explanation
) values
    ('default', 1, 'git_force_push', 'git', 'block', 3,
        'git\s+push\s+.*--force',
        'Force push can overwrite other people''s commits.'),
    ('default', 2, 'git_reset_hard', 'git', 'block', 3,
        'git\s+reset\s+--hard',
        'Hard reset throws away uncommitted work.'),
    ('default', 3, 'git_clean_force', 'git', 'block', 3,
        'git\s+clean\s+-[fd]',
        'Forced clean deletes untracked files.'),
    ('default', 4, 'git_branch_delete', 'git', 'warn', 3,
        'git\s+(branch\s+-D|push\s+.*--delete)',
        'Deletes a branch.'),
    ('default', 5, 'rm_recursive_force', 'file', 'block', 4,
        'rm\s+-r[f]?\s+/',
        'Recursive delete from an absolute path.'),
    ('default', 6, 'rm_rf', 'file', 'block', 3,
        'rm\s+-rf\s+',
        'Recursive forced delete.'),
    ('default', 7, 'find_delete', 'file', 'warn', 3,
        'find\s+.*-delete',
        'Deletes every file a search finds.'),
    ('default', 8, 'drop_table', 'database', 'block', 4,
        'DROP\s+TABLE',
        'Drops a table with its data.'),
    ('default', 9, 'truncate_table', 'database', 'block', 4,
        'TRUNCATE\s+',
        'Empties a table.'),
    ('default', 10, 'delete_no_where', 'database', 'block', 3,
        'DELETE\s+FROM\s+\w+\s*;',
        'Deletes all rows: no condition.'),
    ('default', 11, 'env_file_modify', 'credential', 'warn', 2,
        '\.(env|env\.local|env\.production)',
        'Touches an environment file that may hold secrets.'),
    ('default', 12, 'credentials_file', 'credential', 'warn', 2,
        '(credentials|secrets|passwords)\.(json|yaml|yml|txt)',
        'Touches a credentials file.'),
    ('default', 13, 'ssh_key_modify', 'credential', 'block', 4,
        '\.ssh/(id_rsa|id_ed25519|authorized_keys)',
        'Touches SSH keys.'),
    ('default', 14, 'deploy_command', 'deployment', 'block', 3,
        '(kubectl\s+apply|terraform\s+apply|docker\s+push)',
        'Changes a running environment.'),
    ('default', 15, 'npm_publish', 'deployment', 'block', 3,
        'npm\s+publish',
        'Publishes a package.');

-- The primary key is also the index by time.
create table guardrail_violation (
    workspace text collate "C" not null,
    created_at timestamptz not null default clock_timestamp(),
    id uuid not null default gen_random_uuid(),
    agent_id text not null,
    session_id text,
    request_id text not null,
    trust_level smallint not null,
    pattern_name text not null,
    category text not null,
    severity text not null,
    blocked boolean not null,
    operation_text text not null,
    matched_text text not null,
    file_paths text[],
    primary key (workspace, created_at, id)
);

-- Finds the oldest rows of all workspaces, for retention.
create index guardrail_violation_by_age on guardrail_violation using brin (created_at);
