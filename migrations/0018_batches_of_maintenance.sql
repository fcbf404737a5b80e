-- Maintenance in batches, and the retention of sessions and tasks.

-- Functions whose results or parameters are different now, and those that have no caller any more. No release
-- has them.
drop function if exists finish_claim(text, uuid, boolean, json, text, jsonb, text, smallint);
drop function if exists read_handoffs(text, request, text, bigint, jsonb);
drop function if exists run_maintenance(text, request, jsonb, text[], bigint, bigint);
drop function if exists sweep_workspace(text, interval, text[]);
drop function if exists clear_expired_locks(text, interval);
drop function if exists apply_retention(integer, integer);
drop function if exists delete_old_records(integer);
drop function if exists cleanup_sessions(text, request, integer, boolean);
drop function if exists end_sessions(text, text, text, interval, boolean);
drop function if exists release_session_locks(text, text, text, boolean);
drop function if exists requeue_session_claims(text, text, text, boolean);
drop function if exists release_session_ports(text, text, text, boolean);

-- Find what a session holds, also where its agent has many sessions. They replace the indexes by agent
-- alone, so that writers maintain no more of them than before.
create index file_lock_held_by_session on file_lock (workspace, agent_id, session_id)
where agent_id is not null;
drop index file_lock_held_by_agent;
create index work_task_claimed_by_session on work_task (workspace, claimed_by, claimed_session_id)
where status in ('claimed', 'running');
drop index work_task_claimed_by;

-- Find the oldest sessions that have ended and the oldest finished tasks, for retention. Live sessions and
-- unfinished tasks are not in them.
create index agent_session_ended on agent_session (workspace, ended_at) where ended_at is not null;
create index work_task_finished on work_task (workspace, completed_at)
where status in ('completed', 'failed', 'cancelled');
-- Finds the oldest connections of a workspace, for retention; `mcp_connection_by_age` had every workspace.
create index mcp_connection_oldest on mcp_connection (workspace, bound_at);
drop index mcp_connection_by_age;
