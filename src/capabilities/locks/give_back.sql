-- Locks of calls that their clients have cancelled.

-- Gives back the lock that a cancelled call has acquired. A lock that was refreshed since, or adopted by
-- another session, which sets `locked_at`, is in use, and stays.
create or replace function give_back_lock(
    in_workspace text, cx request, in_key text, in_token bigint, in_locked_at timestamptz,
    in_expires_at timestamptz
) returns void language plpgsql as $$
declare
    is_free boolean;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from file_lock l
    where l.workspace = in_workspace and l.key = in_key and l.token = in_token
        and l.agent_id = cx.agent_id and l.locked_at = in_locked_at and l.expires_at = in_expires_at
    for update;
    is_free := found and free_lock(in_workspace, in_key, in_token);
    perform record_audit(
        in_workspace, cx, 'release_lock', jsonb_build_object('file_path', in_key),
        case when is_free then jsonb_build_object('action', 'released', 'call', 'cancelled')
            else jsonb_build_object('reason', 'lock_in_use', 'call', 'cancelled') end,
        is_free);
end
$$;
