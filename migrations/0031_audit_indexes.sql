-- What the audit log is searched by. Every write of the service pays for each index here, so there
-- are two: one for agents, and one for changes, which costs nothing for a row that names none. By
-- time alone, and by anything less selective, the primary key serves, newest month first. New
-- partitions get both when they are attached.

create index audit_log_by_agent on audit_log (workspace, agent_id, created_at);

create index audit_log_by_change on audit_log (
    workspace, (parameters ->> 'change_id'), created_at
) where parameters ->> 'change_id' is not null;
