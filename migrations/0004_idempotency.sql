-- Answers of requests with an Idempotency-Key, stored for `idempotency_key_lifetime` for repeated
-- requests.

create table idempotency_key (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    key text collate "C" not null,
    fingerprint bytea not null,
    body text,
    created_at timestamptz not null default clock_timestamp(),
    primary key (workspace, agent_id, key)
);

-- Finds the oldest rows of all workspaces, for retention.
create index idempotency_key_by_age on idempotency_key (created_at);
