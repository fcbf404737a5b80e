-- Answers of requests that carried an Idempotency-Key, kept for a day to be given again.

create table idempotency_key (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea not null,
    body text,
    created_at timestamptz not null default clock_timestamp(),
    primary key (workspace, agent_id, key)
);

-- Retention looks for the oldest rows of all workspaces.
create index idempotency_key_by_age on idempotency_key (created_at);
