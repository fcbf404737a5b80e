-- A connection that its client has ended speaks for no session and may not be used again, as the
-- protocol demands. Retention deletes it after a week.
alter table mcp_connection alter column session_id drop not null;
alter table mcp_connection add column has_ended boolean not null default false;
