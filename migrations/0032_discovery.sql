-- What finds the sessions that still live, however many have ended.

create index agent_session_not_ended on agent_session (workspace, last_heartbeat_at)
where ended_at is null;
