-- Claims of tasks.

-- Claims up to `in_count` tasks for the caller, fewer where they are too large for one answer, and records
-- each claim. Returns a row for each claimed task (verdict `claimed`), or one row that says why no task was claimed (verdict `none`, with an empty
-- list of texts where `explain_unavailable_work` can say more).
--
-- A task whose text was scanned with another set of guardrail patterns than `in_guard_version` cannot
-- be claimed: the verdict `rescan` returns such texts, and the service repeats the call with what it
-- found in them (`in_scans`). With `in_may_rescan` false such tasks are left alone. With `in_can_wait`
-- a claim without a task is not recorded, because the request waits. Without `in_waits_for_rivals` the
-- verdict is `contended`, and nothing is recorded, where rivals have locked all remaining tasks.
create or replace function claim_tasks(
    in_workspace text, cx request, in_count integer, in_task_types jsonb, in_lease_minutes integer,
    in_trust integer, in_guard_version text, in_scans jsonb, in_may_rescan boolean,
    in_can_wait boolean, in_waits_for_rivals boolean
) returns setof claim_verdict language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    task_types text[] := to_text_array(in_task_types);
    picked next_task;
    answer claim_verdict;
    texts json;
    claimed integer := 0;
    bytes bigint := 0;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_scans is not null then
        perform store_scan_results(in_workspace, in_guard_version, in_scans);
    end if;
    if in_may_rescan then
        texts := texts_to_scan(in_workspace, tasks_to_scan(in_workspace, in_guard_version, 100));
    end if;
    while texts is null and claimed < in_count and is_on_page(claimed + 1, bytes) loop
        picked := lock_next_task(
            in_workspace, cx, task_types, in_trust,
            in_waits_for_rivals and claimed = 0 and in_scans is null);
        exit when picked.id is null;
        if picked.guard_version <> in_guard_version then
            if in_may_rescan then
                texts := texts_to_scan(in_workspace, candidates_to_scan(
                    in_workspace, cx, in_trust, task_types, in_guard_version));
            end if;
            exit;
        end if;
        answer := grant_claim(in_workspace, cx, picked, in_task_types, in_lease_minutes, in_trust);
        return next answer;
        claimed := claimed + 1;
        if claimed < in_count then
            bytes := bytes + octet_length(answer.description)
                + coalesce(octet_length(answer.input_data::text), 0);
        end if;
    end loop;
    if claimed > 0 then
        return;
    end if;

    answer.verdict := case when texts is not null then 'rescan'
        when picked.is_contended and not in_waits_for_rivals then 'contended' else 'none' end;
    answer.texts := texts;
    if answer.verdict = 'none' then
        answer.reason := explain_empty_claim(in_workspace, cx, in_trust, task_types);
        if not in_can_wait then
            perform record_audit(
                in_workspace, cx, 'claim_task', jsonb_build_object('task_types', in_task_types),
                jsonb_build_object('reason', answer.reason), false);
        end if;
        if has_unavailable_work(in_workspace) then
            answer.texts := '[]'::json;
        end if;
    end if;
    return next answer;
end
$$;

-- Finds the first task that an agent may claim and locks its row. The id is null where there is no such
-- task; `is_contended` says that rivals have locked the remaining ones.
--
-- Overdue tasks are updated first, because time may have made them claimable. Rows that rivals have
-- locked are skipped. With `in_waits`, and where rivals have locked all remaining tasks, waits for the
-- first of them and searches again, because the rival may leave it. The
-- function does not wait while it has locked rows itself, which would allow a deadlock. It gives up
-- after 32 searches, so that no claim waits for rivals without end.
create or replace function lock_next_task(
    in_workspace text, cx request, in_task_types text[], in_trust integer, in_waits boolean
) returns next_task language plpgsql as $$
declare
    picked next_task;
    at timestamptz;
    overdue uuid[];
    candidates uuid[];
    candidate uuid;
    newly_updated bigint;
    updated bigint := 0;
begin
    for round in 1..32 loop
        newly_updated := 0;
        overdue := overdue_tasks(in_workspace, clock_timestamp(), 1);
        if overdue <> '{}' then
            select u.updated into newly_updated from update_overdue_tasks(in_workspace, 100) u;
            updated := updated + newly_updated;
        end if;
        at := clock_timestamp();
        candidates := array(
            select c.id from claimable_tasks(in_workspace, cx, in_trust, in_task_types, at) c
            order by c.priority, c.created_at, c.id);
        foreach candidate in array candidates loop
            -- Checked again on the locked row: a rival may have claimed it since. Its archetype never
            -- changes.
            select t.id, t.guard_version, t.guard_findings, false into picked
            from work_task t
            where t.workspace = in_workspace and t.id = candidate
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            for update skip locked;
            exit when found;
        end loop;
        exit when picked.id is not null;
        if newly_updated = 0 then
            picked.is_contended := candidates || overdue <> '{}';
            exit when updated > 0 or not in_waits or not picked.is_contended;
            perform from work_task t
            where t.workspace = in_workspace and t.id = (candidates || overdue)[1]
            for update;
        end if;
    end loop;
    return picked;
end
$$;

-- Grants a claim of a task, whose row is locked, to the caller. Records the claim, and what the
-- guardrails found in the task's text that counts at the caller's trust.
create or replace function grant_claim(
    in_workspace text, cx request, picked next_task, in_task_types jsonb, in_lease_minutes integer,
    in_trust integer
) returns claim_verdict language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    lease_ends_at timestamptz := at + make_interval(mins => in_lease_minutes);
    expires_at timestamptz := claim_expiry(
        lease_ends_at,
        registered_session_timeout(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout), at);
    token text := 'c_' || replace(gen_random_uuid()::text, '-', '');
    granted claim_verdict;
    pattern_names jsonb := jsonb_build_array();
    violations jsonb;
begin
    perform record_lost_claim(in_workspace, picked.id, cx.session_timeout);
    update work_task t set
        status = 'claimed', attempt = t.attempt + 1, is_delayed = false, is_expiry_recorded = false,
        claim_token = token, is_claim_known = false, claimed_by = cx.agent_id,
        claimed_session_id = cx.session_id, claimed_at = at, started_at = coalesce(t.started_at, at),
        lease_minutes = in_lease_minutes, claim_lease_minutes = in_lease_minutes,
        lease_expires_at = lease_ends_at, claim_expires_at = expires_at,
        completion = null, result = null, error_message = null
    where t.workspace = in_workspace and t.id = picked.id
    returning 'claimed', t.id, t.task_type, t.description, t.input_data, t.priority, t.deadline,
        t.attempt, t.claim_token, t.lease_expires_at, null, null::json
    into granted;
    if picked.guard_findings <> '[]' then
        select coalesce(jsonb_agg(finding -> 'pattern_name' order by n), '[]'),
            jsonb_agg(finding || jsonb_build_object('trust_level', in_trust, 'blocked', false) order by n)
        into pattern_names, violations
        from jsonb_array_elements(picked.guard_findings) with ordinality as list (finding, n)
        where (finding ->> 'bypass_trust')::integer > in_trust;
        perform record_guardrail_violations(in_workspace, cx, violations);
    end if;
    perform record_audit(
        in_workspace, cx, 'claim_task', jsonb_build_object('task_types', in_task_types),
        jsonb_build_object(
            'task_id', granted.id, 'attempt', granted.attempt, 'guardrails', pattern_names),
        true);
    return granted;
end
$$;

-- Records the loss of the session whose claim of a task, whose row is locked, has expired and is now
-- granted to another.
create or replace function record_lost_claim(in_workspace text, in_id uuid, session_timeout interval)
returns void language plpgsql as $$
declare
    task record;
begin
    select t.claimed_by, t.claimed_session_id, t.claim_token, t.claimed_at into task from work_task t
    where t.workspace = in_workspace and t.id = in_id and t.status in ('claimed', 'running');
    if task.claimed_session_id is not null then
        perform record_loss(in_workspace, task.claimed_by, task.claimed_session_id, 'claim',
            in_id::text, task.claim_token, task.claimed_at, 'infinity', session_timeout);
    end if;
end
$$;

-- Claims up to `in_count` tasks as `claim_tasks` does, and adds to the first row the other open claims
-- of the caller. They tell an agent that has lost the answer of an earlier claim what it holds.
create or replace function get_work(
    in_workspace text, cx request, in_count integer, in_task_types jsonb, in_lease_minutes integer,
    in_trust integer, in_guard_version text, in_scans jsonb, in_may_rescan boolean,
    in_can_wait boolean, in_waits_for_rivals boolean
) returns table (
    verdict text, id uuid, task_type text, description text, input_data json, priority smallint,
    deadline timestamptz, attempt smallint, claim_token text, lease_expires_at timestamptz, reason text,
    texts json, open_claims jsonb
) language plpgsql as $$
#variable_conflict use_column
declare
    claims claim_verdict[] := array(
        select c from claim_tasks(in_workspace, cx, in_count, in_task_types, in_lease_minutes, in_trust,
            in_guard_version, in_scans, in_may_rescan, in_can_wait, in_waits_for_rivals) c);
    others jsonb;
begin
    if claims[1].verdict in ('claimed', 'none') then
        others := list_open_claims(
            in_workspace, cx, array(select c.id from unnest(claims) c where c.id is not null));
    end if;
    return query
    select c.verdict, c.id, c.task_type, c.description, c.input_data, c.priority, c.deadline, c.attempt,
        c.claim_token, c.lease_expires_at, c.reason, c.texts, case when n = 1 then others end
    from unnest(claims) with ordinality c (
        verdict, id, task_type, description, input_data, priority, deadline, attempt, claim_token,
        lease_expires_at, reason, texts, n
    )
    order by n;
end
$$;

-- Lists the claims that a caller holds besides those of `in_except`, at most 20, the oldest first. Null
-- where there is none. The agent knows of the listed claims from now on; `renewed` says whether calls
-- already extended the lease of each.
create or replace function list_open_claims(in_workspace text, cx request, in_except uuid[])
returns jsonb language plpgsql as $$
declare
    at timestamptz := clock_timestamp();
    claims jsonb := '[]'::jsonb;
    held record;
begin
    for held in
        select t.id, t.task_type, t.claim_token, t.claim_expires_at, t.is_claim_known from work_task t
        where t.workspace = in_workspace and t.claimed_by = cx.agent_id
            and t.status in ('claimed', 'running') and t.id <> all(in_except)
            and not is_owned_by_other(t.claimed_by, t.claimed_session_id, cx.agent_id, cx.session_id)
            and not is_claim_expired(t.status, t.claim_expires_at, at)
        order by t.claimed_at, t.id limit 20
    loop
        if not held.is_claim_known then
            perform mark_claim_known(in_workspace, held.id, held.claim_token);
        end if;
        claims := claims || jsonb_build_object('task_id', held.id, 'claim_token', held.claim_token,
            'claim_expires_at', held.claim_expires_at, 'renewed', held.is_claim_known);
    end loop;
    return nullif(claims, '[]');
end
$$;

-- Returns the tokens of those of these tasks that an agent has claimed, and marks the claims as known.
create or replace function list_claim_tokens(in_workspace text, in_agent_id text, in_ids uuid[])
returns table (task_id uuid, claim_token text) language plpgsql as $$
begin
    foreach task_id in array in_ids loop
        select t.claim_token into claim_token from work_task t
        where t.workspace = in_workspace and t.id = task_id and t.claimed_by = in_agent_id
            and t.status in ('claimed', 'running');
        continue when claim_token is null;
        perform mark_claim_known(in_workspace, task_id, claim_token);
        return next;
    end loop;
end
$$;

-- Explains why a claim returns no task: the guardrail patterns that forbid the agent the first ready
-- task which is forbidden by nothing else, or that no task is available.
create or replace function explain_empty_claim(
    in_workspace text, cx request, in_trust integer, in_task_types text[]
) returns text language plpgsql stable as $$
declare
    capabilities text[] := declared_capabilities(in_workspace, cx.agent_id, cx.session_timeout);
    at timestamptz := clock_timestamp();
    findings jsonb;
    patterns text;
begin
    select t.guard_findings into findings
    from work_task t
    where t.workspace = in_workspace and t.is_ready and t.guard_trust > 0
        and t.guard_trust > in_trust
        and is_claimable(t.is_ready, t.min_trust, t.task_type, t.deadline, t.submitted_by, t.authored_by,
            t.archetype, cx.agent_id, in_trust, in_task_types, capabilities, at)
    order by t.priority, t.created_at, t.id limit 1;
    if findings is not null then
        select string_agg(finding ->> 'pattern_name', ', ' order by n) into patterns
        from jsonb_array_elements(findings) with ordinality as list (finding, n)
        where finding ->> 'severity' = 'block' and (finding ->> 'bypass_trust')::integer > in_trust;
    end if;
    return coalesce('destructive_operation_blocked: ' || patterns, 'no_tasks_available');
end
$$;

-- Returns the capabilities that an agent's live sessions declare, null where they declare none.
create or replace function declared_capabilities(
    in_workspace text, in_agent_id text, session_timeout interval
) returns text[] language plpgsql stable as $$
declare
    at timestamptz := clock_timestamp();
begin
    return (
        select array_agg(capability)
        from agent_session s, unnest(s.capabilities) capability
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
    );
end
$$;
