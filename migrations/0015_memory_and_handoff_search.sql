-- Automatic handoffs: notes of hooks and scripts, which never count as the newest handoff.

alter table handoff add column is_automatic boolean not null default false;

-- What the documented session hook of earlier versions wrote at each end of a session.
update handoff set is_automatic = true
where btrim(summary) = 'Session ended.'
    and completed_work::text = '[]' and in_progress::text = '[]' and decisions::text = '[]'
    and next_steps::text = '[]' and relevant_files::text = '[]' and content::text = '{}';

drop index handoff_newest;
drop index handoff_newest_of_agent;
create index handoff_newest on handoff (workspace, is_automatic, created_at desc, id desc);
create index handoff_newest_of_agent
    on handoff (workspace, agent_id, is_automatic, created_at desc, id desc);
create index handoff_of_session on handoff (workspace, session_id)
    where session_id is not null and not is_automatic;
