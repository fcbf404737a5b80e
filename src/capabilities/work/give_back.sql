-- Claims of calls that their clients have cancelled.

-- Gives back the task that a cancelled call has claimed, as if it had not been claimed. A claim that was
-- renewed since, or that its agent knows from another answer, is in use, and stays.
create or replace function give_back_claim(
    in_workspace text, cx request, in_id uuid, in_claim_token text
) returns void language plpgsql as $$
declare
    is_pending boolean;
begin
    perform record_heartbeat(in_workspace, cx);
    update work_task t set
        status = 'pending', attempt = t.attempt - 1, is_expiry_recorded = false,
        claim_token = null, claimed_by = null, claimed_session_id = null, claimed_at = null,
        started_at = case when t.attempt > 1 then t.started_at end,
        lease_minutes = null, claim_lease_minutes = null, lease_expires_at = null,
        claim_expires_at = null
    where t.workspace = in_workspace and t.id = in_id and t.claim_token = in_claim_token
        and t.claimed_by = cx.agent_id and t.status = 'claimed' and not t.is_claim_known;
    is_pending := found;
    perform record_audit(
        in_workspace, cx, 'claim_task', jsonb_build_object('task_id', in_id),
        jsonb_build_object('call', 'cancelled', 'status', case when is_pending then 'pending' end),
        is_pending);
end
$$;
