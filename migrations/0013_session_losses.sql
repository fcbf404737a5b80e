-- What sessions have lost, the live sessions of an agent, and claims that their agent knows of.

-- What a session held when it fell silent or was ended, from the moment when another call takes or frees
-- it: the row of the lock, task or slot does not say any more whose it was. A revival adds the rest. The
-- session's next call, or a registration of its agent, tells it; a row is deleted when the answer of a
-- call in the session has told it. Only these rare transitions write here.
create table session_loss (
    workspace text collate "C" not null,
    agent_id text collate "C" not null,
    session_id text collate "C" not null,
    kind text not null,
    name text collate "C" not null, -- lock key, id of the task, or number of the slot
    token text,                     -- fencing token or claim token
    since timestamptz not null,     -- when the session had acquired it, or was revived
    lost_at timestamptz not null default clock_timestamp(),
    is_told boolean not null default false, -- to another session of the agent, or by the end of the session
    primary key (workspace, agent_id, session_id, kind, name, since),
    constraint session_loss_kind_known check (kind in ('lock', 'claim', 'port'))
);

-- When a call was last chosen to tell the revival of the session and its losses, while no answer is known
-- to have told them.
alter table agent_session add column untold_at timestamptz;

-- Finds the oldest rows of all workspaces, for retention.
create index session_loss_by_age on session_loss (lost_at);

-- Finds the live sessions of an agent, for a call that names none of them.
create index agent_session_not_ended_of_agent on agent_session (workspace, agent_id, last_heartbeat_at)
where ended_at is null;

-- Whether the agent of the latest claim is known to have its token: it has sent the token, or a later
-- answer has listed it. Only then do other calls of the agent extend the lease: the answer of the claim
-- itself can have been lost.
alter table work_task add column is_claim_known boolean not null default true;
