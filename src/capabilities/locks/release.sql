-- Release of locks, by their holder or by an administrator.

-- Releases the caller's lock on a key. Returns why this was refused, or null. The current token proves
-- that a lock of another session of the agent is the caller's own. The row is written only while it is
-- as it was read, so a refused call locks no row and delays no other call.
create or replace function release_lock(
    in_workspace text, cx request, in_key text, in_token bigint, out refusal text
) language plpgsql as $$
declare
    held record;
begin
    perform record_heartbeat(in_workspace, cx);
    -- The condition names the key alone. With the holder in it, the planner may read the index of all
    -- locks that the agent holds.
    select l.agent_id, l.session_id, l.locked_at, l.expires_at, l.token into held
    from file_lock l where l.workspace = in_workspace and l.key = in_key;
    refusal := case
        when is_owned_by_other_without_proof(held.agent_id, held.session_id, in_token = held.token,
                cx.agent_id, cx.session_id) is not false
            or not is_live(in_workspace, held.agent_id, held.session_id, held.locked_at,
                held.expires_at, cx.session_timeout)
            then 'lock_not_found_or_not_owner'
        when held.token <> in_token then 'stale_fencing_token'
        when not free_unchanged_lock(in_workspace, in_key, held.token, held.locked_at)
            then 'lock_not_found_or_not_owner'
    end;
    perform record_audit(
        in_workspace, cx, 'release_lock', jsonb_build_object('file_path', in_key),
        case when refusal is null then jsonb_build_object('action', 'released')
            else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

-- Releases a lock for an administrator, whichever agent holds it; with a token, only if that is the
-- current one.
create or replace function force_release_lock(
    in_workspace text, cx request, in_key text, in_token bigint,
    out released boolean, out prior_agent_id text, out prior_locked_at timestamptz, out reason text
) language plpgsql as $$
declare
    held file_lock;
begin
    perform record_heartbeat(in_workspace, cx);
    select * into held from file_lock l
    where l.workspace = in_workspace and l.key = in_key for update;
    if not is_live(in_workspace, held.agent_id, held.session_id, held.locked_at, held.expires_at,
        cx.session_timeout)
    then
        reason := 'not_locked';
    elsif held.token <> in_token then
        reason := 'stale_fencing_token';
    else
        prior_agent_id := held.agent_id;
        prior_locked_at := held.locked_at;
        perform free_lock(in_workspace, in_key, held.token);
    end if;
    released := reason is null;
    perform record_audit(
        in_workspace, cx, 'force_release_lock', jsonb_build_object('file_path', in_key),
        case when released
            then jsonb_build_object(
                'prior_holder_agent_id', prior_agent_id, 'fencing_token', held.token)
            else jsonb_build_object('reason', reason) end,
        released);
end
$$;
