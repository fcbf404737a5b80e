-- Quotas: what makes them cheap.

-- Functions whose parameters or results are different now. No release has them.
drop function if exists acquire_lock(
    text, request, text, boolean, text, interval, text, bigint, text, text, uuid, boolean);
drop function if exists grant_lock(text, request, text, boolean, text, interval, uuid);
drop function if exists begin_session(
    text, request, text, text[], text, text, jsonb, text, text, boolean);
drop function if exists register_session(
    text, request, text, text[], text, text, jsonb, text, text);
drop function if exists submit_task(text, request, task_submission);
drop function if exists submit_tasks(text, request, task_submission[], text[]);
drop function if exists store_task(text, request, task_submission);
drop function if exists remember(
    text, request, text, text, bytea, jsonb, text, jsonb, jsonb);
drop function if exists store_handoff(
    text, request, text, boolean, text, json, json, json, json, json, json);
drop function if exists reserve_idempotency_key(text, text, text, bytea);
drop function if exists end_mcp_connection(text, text, text);

-- The quotas that were reached when they were counted last. A row is deleted by the count that finds less.
-- While a quota has no row, only a part of the calls count: `refused_by_quota`.
create table quota_reached (
    workspace text collate "C" not null,
    kind text collate "C" not null,
    agent_id text collate "C" not null, -- empty: the quota of the whole workspace
    counted_at timestamptz not null,
    primary key (workspace, kind, agent_id)
);

-- Finds the oldest rows of all workspaces, for retention.
create index quota_reached_by_age on quota_reached (counted_at);

-- Counts the open tasks of a submitter and of a workspace. No other query implies this condition, as one by
-- status would, so the planner uses the index for nothing else.
create index work_task_open_of_submitter on work_task (workspace, submitted_by)
where completed_at is null;
