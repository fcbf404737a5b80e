-- The schema as the database has it: types, functions, tables, indexes and triggers, each kind by name.
-- To be read: migrations/ and the .sql files in src/ are what `coordinator migrate` installs.
--
-- Written by `make docs` with pg_dump 15 from a freshly migrated database, compared by `make schema`.
-- Left out are the settings of a session, and the monthly partitions of audit_log, which a function makes.

CREATE TYPE public.claim_verdict AS (
	verdict text,
	id uuid,
	task_type text,
	description text,
	input_data json,
	priority smallint,
	deadline timestamp with time zone,
	attempt smallint,
	claim_token text,
	lease_expires_at timestamp with time zone,
	reason text,
	texts json
);

CREATE TYPE public.lock_verdict AS (
	verdict text,
	agent_id text,
	agent_type text,
	session_id text,
	reason text,
	locked_at timestamp with time zone,
	expires_at timestamp with time zone,
	token bigint,
	took_over_from text,
	queue_position bigint
);

CREATE TYPE public.next_task AS (
	id uuid,
	guard_version text,
	guard_findings jsonb,
	is_contended boolean
);

CREATE TYPE public.request AS (
	id text,
	agent_id text,
	agent_type text,
	session_id text,
	elapsed_ms double precision,
	session_timeout interval
);

CREATE TYPE public.search_word AS (
	word text,
	exact tsquery,
	beginning tsquery,
	forms text[],
	finder text,
	weight double precision
);

CREATE TYPE public.submission_verdict AS (
	verdict text,
	task_id uuid,
	dependency_number bigint
);

CREATE TYPE public.task_submission AS (
	task_type text,
	description text,
	input_data json,
	priority smallint,
	depends_on jsonb,
	agent_requirements json,
	archetype text,
	min_trust smallint,
	deadline timestamp with time zone,
	not_before timestamp with time zone,
	max_attempts smallint,
	retry_on_failure boolean,
	unique_key text,
	replaces uuid,
	authored_by text,
	change_id text,
	guard_version text,
	guard_trust smallint,
	guard_findings jsonb,
	refusal text,
	patterns jsonb,
	violations jsonb
);

CREATE FUNCTION public.acquire_advisory_lock(in_workspace text, in_kind text, in_name text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform pg_advisory_xact_lock(
        hashtextextended(concat_ws(chr(10), in_workspace, in_kind, in_name), 0));
end
$$;

CREATE FUNCTION public.acquire_lock(in_workspace text, cx public.request, in_key text, in_is_file boolean, in_reason text, in_ttl interval, in_refusal text, in_file_limit bigint, in_denial text, in_engine text, in_waiter_id uuid, in_can_wait boolean, in_quota integer[]) RETURNS public.lock_verdict
    LANGUAGE plpgsql
    AS $$
declare
    answer lock_verdict;
    is_granted boolean := false;
    is_waiting boolean := false;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_is_file and in_file_limit is not null
        and count_other_file_locks(in_workspace, cx.agent_id, in_key, cx.session_timeout) >= in_file_limit
    then
        answer.verdict := 'over_limit';
        perform record_denial(
            in_workspace, cx, 'acquire_lock', in_key, in_engine, in_denial, '{}');
        return answer;
    end if;

    if in_refusal is not null then
        answer.verdict := in_refusal;
    else
        answer := grant_lock(
            in_workspace, cx, in_key, in_is_file, in_reason, in_ttl, in_waiter_id, in_quota);
        is_granted := answer.verdict in ('acquired', 'refreshed');
        -- A caller that a quota refuses would wait for no holder.
        is_waiting := in_can_wait and not is_granted and answer.agent_id is not null;
        if in_waiter_id is not null then
            answer.queue_position := update_queue_position(
                in_workspace, cx, in_key, in_reason, in_waiter_id, is_waiting);
        end if;
    end if;
    if not is_waiting then
        perform record_audit(
            in_workspace, cx, 'acquire_lock',
            jsonb_build_object('file_path', in_key, 'reason', in_reason),
            case when is_granted
                then jsonb_build_object('action', answer.verdict, 'fencing_token', answer.token,
                    'took_over_from', answer.took_over_from)
                else jsonb_build_object('reason', answer.verdict, 'locked_by', answer.agent_id) end,
            is_granted);
    end if;
    return answer;
end
$$;

CREATE FUNCTION public.adopt_claims(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    held record;
    expires_at timestamptz;
    claims jsonb := '[]'::jsonb;
begin
    for held in
        select t.id, t.status, t.claim_token, t.claimed_session_id, t.claim_expires_at,
            t.lease_expires_at
        from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id <> in_session_id and t.status in ('claimed', 'running')
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = in_agent_id
                    and s.session_id = t.claimed_session_id
                    and not is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        order by t.id
        for update of t
    loop
        exit when jsonb_array_length(claims) = most_held();
        at := clock_timestamp();
        continue when is_claim_expired(held.status, held.claim_expires_at, at);
        expires_at := claim_expiry(held.lease_expires_at, session_timeout, at);
        update work_task t set
            claimed_session_id = in_session_id, claim_expires_at = expires_at, is_claim_known = true
        where t.workspace = in_workspace and t.id = held.id;
        claims := claims || held_claim(
            held.id, held.claim_token, held.claimed_session_id, expires_at);
    end loop;
    return claims;
end
$$;

CREATE FUNCTION public.adopt_held_elsewhere(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    held record;
    locks jsonb := '[]'::jsonb;
begin
    for held in
        select l.key, l.token, l.session_id, l.locked_at, l.expires_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id <> in_session_id
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = in_agent_id
                    and s.session_id = l.session_id
                    and not is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        order by l.key
        for update of l
    loop
        exit when jsonb_array_length(locks) = most_held();
        continue when not is_live(in_workspace, in_agent_id, held.session_id, held.locked_at,
            held.expires_at, session_timeout);
        at := clock_timestamp();
        update file_lock l set session_id = in_session_id, locked_at = at
        where l.workspace = in_workspace and l.key = held.key;
        locks := locks || held_lock(held.key, held.token, held.session_id, held.expires_at);
    end loop;
    return held_lists(
        locks,
        adopt_claims(in_workspace, in_agent_id, in_session_id, session_timeout),
        adopt_ports(in_workspace, in_agent_id, in_session_id, session_timeout));
end
$$;

CREATE FUNCTION public.adopt_ports(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    held record;
begin
    perform from acquire_advisory_lock(in_workspace, 'ports', '');
    if exists (
        select from live_port_blocks(in_workspace, session_timeout) b where b.session_id = in_session_id
    ) then
        return '[]'::jsonb;
    end if;
    select b.slot, b.session_id, b.allocated_at, b.expires_at into held
    from live_port_blocks(in_workspace, session_timeout) b
    where b.agent_id = in_agent_id and b.session_id <> in_session_id
    order by b.expires_at desc, b.slot limit 1;
    at := clock_timestamp();
    update port_block p set session_id = in_session_id, allocated_at = at
    where p.workspace = in_workspace and p.slot = held.slot and p.agent_id = in_agent_id
        and p.session_id = held.session_id and p.allocated_at = held.allocated_at;
    if not found then
        return '[]'::jsonb;
    end if;
    return jsonb_build_array(held_ports(held.slot, held.session_id, held.expires_at));
end
$$;

CREATE FUNCTION public.allocate_ports(in_workspace text, cx public.request, in_session_id text, in_slots integer, in_ttl interval, OUT refusal text, OUT slot integer, OUT expires_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    held record;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from acquire_advisory_lock(in_workspace, 'ports', '');
    at := clock_timestamp();
    expires_at := at + in_ttl;
    select b.slot, b.agent_id into held from live_port_blocks(in_workspace, cx.session_timeout) b
    where b.session_id = in_session_id;
    if held.agent_id <> cx.agent_id then
        refusal := 'session_owned_by_other_agent';
    elsif held.slot is not null then
        slot := held.slot;
        update port_block p set expires_at = allocate_ports.expires_at
        where p.workspace = in_workspace and p.slot = allocate_ports.slot;
    else
        select min(n) into slot from generate_series(0, in_slots - 1) n
        where n not in (select b.slot from live_port_blocks(in_workspace, cx.session_timeout) b);
        if slot is null then
            refusal := 'no_ports_available';
        else
            perform free_lost_ports(in_workspace, slot, cx, in_session_id);
            insert into port_block (workspace, slot, agent_id, session_id, allocated_at, expires_at)
            values (in_workspace, slot, cx.agent_id, in_session_id, at, expires_at);
        end if;
    end if;
    if refusal is not null then
        expires_at := null;
    end if;
    perform record_audit(
        in_workspace, cx, 'allocate_ports', jsonb_build_object('session_id', in_session_id),
        case when refusal is null then jsonb_build_object('slot', slot)
            else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

CREATE FUNCTION public.any_word_finder(in_workspace text, in_words public.search_word[]) RETURNS tsquery
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
declare
    most constant bigint := 2000;
    item search_word;
    memory_count bigint;
    finders text[] := '{}'::text[];
begin
    foreach item in array in_words loop
        select count(*) into memory_count from (
            select from memory m where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ item.finder::tsquery
            limit most
        ) as found;
        if memory_count between 1 and most - 1 then
            finders := finders || ('(' || item.finder || ')');
        end if;
    end loop;
    if finders = '{}' then
        finders := array(select '(' || w.finder || ')' from unnest(in_words) w);
    end if;
    return array_to_string(finders, ' | ')::tsquery;
end
$$;

CREATE FUNCTION public.api_roles() RETURNS TABLE(id oid, name text)
    LANGUAGE sql STABLE
    AS $$
    select 0::oid, 'public'
    union all
    select r.oid, r.rolname::text from pg_roles r
    where r.rolname = any('{anon,anonymous,authenticated,service_role}')
$$;

CREATE FUNCTION public.assign_profile(in_workspace text, cx public.request, in_target_agent_id text, in_profile text, in_suspended boolean, in_key_types text[], in_key_profiles text[], in_max_trust integer, in_default_trust integer, in_caller_trust integer, OUT refusal text) RETURNS text
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    home_workspace text := profile_workspace(in_workspace);
    assigned text;
    profile_trust integer;
    target_trust integer;
    resulting_trust integer;
begin
    perform record_heartbeat(in_workspace, cx);
    perform from acquire_advisory_lock(in_workspace, 'profiles', in_target_agent_id);
    select p.trust_level into profile_trust from profile p
    where p.workspace = home_workspace and p.name = in_profile and p.enabled;
    select a.profile into assigned from agent_assignment a
    where a.workspace = in_workspace and a.agent_id = in_target_agent_id;
    target_trust := trust_of_agent(
        home_workspace, assigned, in_key_types, in_key_profiles, in_max_trust, in_default_trust);
    resulting_trust := trust_of_agent(
        home_workspace, in_profile, in_key_types, in_key_profiles, in_max_trust, in_default_trust);
    refusal := case
        when in_profile is not null and profile_trust is null then 'profile_not_found'
        when in_target_agent_id = cx.agent_id then 'cannot_assign_self'
        when greatest(target_trust, profile_trust, resulting_trust) > in_caller_trust then 'trust_above_caller'
    end;
    if refusal is null then
        insert into agent_assignment (workspace, agent_id, profile, suspended)
        values (in_workspace, in_target_agent_id, in_profile, in_suspended)
        on conflict (workspace, agent_id) do update set
            profile = excluded.profile, suspended = excluded.suspended, assigned_at = at;
    end if;
    perform record_audit(
        in_workspace, cx, 'assign_profile',
        jsonb_build_object(
            'target_agent_id', in_target_agent_id, 'profile', in_profile, 'suspended', in_suspended),
        case when refusal is null then '{}'::jsonb else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

CREATE FUNCTION public.audit_bytes(parameters jsonb, result jsonb, error_message text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case when pg_column_compression(parameters) is null then pg_column_size(parameters)
            else octet_length(parameters::text) end
        + case when pg_column_compression(result) is null then pg_column_size(result)
            else octet_length(result::text) end
        + coalesce(octet_length(error_message), 0)
$$;

CREATE FUNCTION public.begin_gathered_call(in_workspaces text[], in_agent_ids text[]) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    limited record;
begin
    perform set_config('lock_timeout', '200ms', true);
    for limited in
        select distinct r.workspace, r.agent_id
        from unnest(in_workspaces, in_agent_ids) as r (workspace, agent_id)
        where r.agent_id is not null
        order by r.workspace, r.agent_id
    loop
        perform from acquire_advisory_lock(limited.workspace, 'locks', limited.agent_id);
    end loop;
    return true;
end
$$;

CREATE FUNCTION public.begin_mcp_call_run(in_workspace text, in_id uuid, in_agent_id text, in_connection_id text, in_request_id text, in_lifetime interval, in_has_begun boolean) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    due timestamptz := at + in_lifetime;
    -- A cancellation after this has overtaken the call.
    overtaken_after timestamptz := at - interval '10 seconds';
    cancelled timestamptz;
begin
    select c.cancelled_at into cancelled from mcp_call c
    where c.workspace = in_workspace and c.id = in_id for update;
    if not found and in_has_begun then
        return true;
    elsif not found then
        insert into mcp_call as c (
            workspace, id, agent_id, connection_id, request_id, started_at, due_at
        ) values (
            in_workspace, in_id, in_agent_id, in_connection_id, in_request_id, at, due
        )
        on conflict (workspace, agent_id, connection_id, request_id) where connection_id <> ''
        do update set
            id = in_id, started_at = at, due_at = due, answered_at = null,
            operation = null, taken = null, idempotency_key = null,
            cancelled_at = case
                when c.started_at is null and c.cancelled_at > overtaken_after
                    then c.cancelled_at end
        returning c.cancelled_at into cancelled;
    end if;
    return cancelled is not null;
end
$$;

CREATE FUNCTION public.begin_session(in_workspace text, cx public.request, in_session_id text, in_capabilities text[], in_current_task text, in_delegated_from text, in_metadata json, in_phase_archetype text, in_connection_id text, in_adopts boolean, in_quota integer[], in_quota_of_connections integer[], OUT held_elsewhere jsonb, OUT adopted jsonb, OUT lost jsonb, OUT refusal text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    if in_adopts then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and (s.session_id = in_session_id
                or is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at))
        order by s.session_id
        for update;
    end if;
    refusal := register_session(
        in_workspace, cx, in_session_id, in_capabilities, in_current_task, in_delegated_from,
        in_metadata, in_phase_archetype, in_connection_id, in_quota, in_quota_of_connections);
    if refusal is not null then
        return;
    end if;
    if in_adopts then
        adopted := adopt_held_elsewhere(
            in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
    end if;
    held_elsewhere := list_held_elsewhere(
        in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
    lost := tell_losses(in_workspace, cx.agent_id, in_session_id);
end
$$;

CREATE FUNCTION public.blocked_tasks(in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], session_timeout interval) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    AS $$
declare
    at timestamptz := clock_timestamp();
    capabilities text[] := declared_capabilities(in_workspace, in_agent_id, session_timeout);
begin
    return array(
        select t.id from (
            select * from work_task w
            where w.workspace = in_workspace and w.status = 'pending' and w.open_dependencies > 0
            order by w.priority, w.created_at, w.id limit 5 * explained_tasks()
        ) t
        where is_claimable(true, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
            t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, capabilities, at)
        order by t.priority, t.created_at, t.id limit explained_tasks());
end
$$;

CREATE FUNCTION public.bm25_scores(in_workspace text, in_query text, in_limit bigint, OUT scores jsonb, OUT problem text, OUT is_busy boolean) RETURNS record
    LANGUAGE plpgsql
    SET lock_timeout TO '100ms'
    AS $_$
declare
    segments text := search_segments(in_query);
begin
    scores := null;
    is_busy := false;
    if segments is null then
        return;
    end if;
    execute format(
        'select coalesce(jsonb_object_agg(id, score) filter (where score is not null), ''{}'')
        from (
            select id, pdb.score(id) as score from memory_words
            where workspace = $1 and words ||| $2
            order by pdb.score(id) desc, id limit %s
        ) as ranked', in_limit)
    into scores using in_workspace, segments;
exception
    when lock_not_available then
        is_busy := true;
    when query_canceled or others then
        problem := sqlerrm;
end
$_$;

CREATE FUNCTION public.bytes_of_texts(in_texts text[]) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select octet_length(array_to_string(in_texts, '')) + 3 * cardinality(in_texts)
$$;

CREATE FUNCTION public.cancel_mcp_call(in_workspace text, in_id uuid, in_agent_id text, in_request_id text) RETURNS uuid
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    -- The row of a call whose first run is about to commit is waited for, although it cannot be seen yet.
    insert into mcp_call as c (
        workspace, id, agent_id, connection_id, request_id, due_at, cancelled_at
    ) values (in_workspace, in_id, in_agent_id, '', in_request_id, at, at)
    on conflict (workspace, id) do update set cancelled_at = coalesce(c.cancelled_at, at);
    return in_id;
end
$$;

CREATE FUNCTION public.cancel_mcp_request(in_workspace text, in_agent_id text, in_connection_id text, in_request_id text) RETURNS uuid
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    call_id uuid;
    running uuid[];
begin
    if in_connection_id <> '' then
        call_id := gen_random_uuid();
        insert into mcp_call as c (
            workspace, id, agent_id, connection_id, request_id, due_at, cancelled_at
        ) values (in_workspace, call_id, in_agent_id, in_connection_id, in_request_id, at, at)
        on conflict (workspace, agent_id, connection_id, request_id) where connection_id <> ''
        do update set cancelled_at = coalesce(c.cancelled_at, at)
        returning c.id into call_id;
    else
        select array_agg(c.id) into running from mcp_call c
        where c.workspace = in_workspace and c.agent_id = in_agent_id and c.connection_id = ''
            and c.request_id = in_request_id and c.started_at is not null
            and c.cancelled_at is null and c.answered_at is null and c.due_at > at;
        call_id := case when cardinality(running) = 1 then running[1] end;
        update mcp_call c set cancelled_at = coalesce(c.cancelled_at, at)
        where c.workspace = in_workspace and c.id = call_id;
    end if;
    return call_id;
end
$$;

CREATE FUNCTION public.cancel_task(in_workspace text, cx public.request, in_id uuid, in_reason text, in_trust integer, OUT success boolean, OUT status text, OUT task_id uuid, OUT reason text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    task work_task;
begin
    perform record_heartbeat(in_workspace, cx);
    select * into task from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    reason := case
        when task.id is null then 'task_not_found'
        when task.submitted_by <> cx.agent_id and in_trust < 3 then 'not_submitter'
        when task_status(
            task.status, task.deadline, task.claim_expires_at, task.attempt, task.max_attempts, at)
            in ('completed', 'failed', 'cancelled') then 'task_already_finished'
    end;
    success := reason is null;
    if success then
        status := 'cancelled';
        task_id := in_id;
        update work_task t set
            status = 'cancelled', error_message = in_reason, completed_at = at,
            lease_expires_at = null, claim_expires_at = null
        where t.workspace = in_workspace and t.id = in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'cancel_task',
        jsonb_build_object('task_id', in_id, 'reason', in_reason),
        case when success then jsonb_build_object('status', status)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

CREATE FUNCTION public.candidates_per_range() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select 16::bigint
$$;

CREATE FUNCTION public.candidates_to_scan(in_workspace text, cx public.request, in_trust integer, in_task_types text[], in_guard_version text) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    AS $$
declare
    candidates uuid[] := array(
        select c.id
        from claimable_tasks(in_workspace, cx, in_trust, in_task_types, clock_timestamp()) c);
begin
    return array(
        select candidate from unnest(candidates) candidate, lateral (
            select t.guard_version from work_task t
            where t.workspace = in_workspace and t.id = candidate limit 1
        ) task
        where task.guard_version <> in_guard_version);
end
$$;

CREATE FUNCTION public.character_pairs(in_word text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET jit TO 'off'
    AS $$
declare
    pairs text[];
begin
    if length(in_word) < 3 or octet_length(in_word) = length(in_word) then
        return '{}'::text[];
    end if;
    pairs := array(
        select distinct substr(run, place, 2)
        from unnest(regexp_split_to_array(in_word,
            '[^\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]+')) as run
        cross join lateral generate_series(1, least(40, length(run) - 1)) as places (place));
    if pairs = '{}' then
        return pairs;
    end if;
    return pairs || array(
        select run from unnest(regexp_split_to_array(in_word, '[^a-z0-9]+')) as run where length(run) > 1);
end
$$;

CREATE FUNCTION public.check_claim(in_id uuid, claimed_by text, claimed_session_id text, claim_token text, current_status text, cx public.request, in_claim_token text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE
    AS $$
begin
    return case
        when in_id is null then 'task_not_found_or_not_claimed_by_agent'
        when in_claim_token <> coalesce(claim_token, '') then 'claim_superseded'
        when claimed_by is null
            or is_owned_by_other_without_proof(claimed_by, claimed_session_id,
                in_claim_token = claim_token, cx.agent_id, cx.session_id)
            then 'task_not_found_or_not_claimed_by_agent'
        when current_status not in ('claimed', 'running') then 'task_already_finished'
    end;
end
$$;

CREATE FUNCTION public.check_guardrails(in_workspace text, cx public.request, in_audited_text text, in_violations jsonb, in_result jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_guardrail_violations(in_workspace, cx, in_violations);
    perform record_audit(
        in_workspace, cx,
        case when in_violations = '[]' then 'check_guardrails' else 'guardrail_violation' end,
        jsonb_build_object('operation_text', in_audited_text), in_result,
        not (in_result -> 'blocked')::boolean);
end
$$;

CREATE FUNCTION public.check_lock_availability(in_workspace text, cx public.request, in_key text, in_waiter_id uuid) RETURNS public.lock_verdict
    LANGUAGE plpgsql STABLE
    AS $$
declare
    checked lock_verdict;
    ahead lock_waiter;
begin
    select null, l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at, l.expires_at, l.token,
        null, null::bigint
    into checked
    from file_lock l where l.workspace = in_workspace and l.key = in_key;
    checked.verdict := case
        when not is_live(in_workspace, checked.agent_id, checked.session_id, checked.locked_at,
            checked.expires_at, cx.session_timeout)
            then 'free'
        when not is_owned_by_other(checked.agent_id, checked.session_id, cx.agent_id, cx.session_id)
            then 'own'
        when checked.agent_id = cx.agent_id then 'locked_by_other_session'
        else 'locked_by_other'
    end;
    if checked.verdict <> 'free' then
        return checked;
    end if;
    perform from lock_waiter w where w.workspace = in_workspace and w.key = in_key limit 1;
    if found then
        select * into ahead from waiters_ahead(in_workspace, cx, in_key, in_waiter_id) limit 1;
    end if;
    if ahead.id is null then
        return checked;
    end if;
    checked.verdict := case
        when ahead.agent_id = cx.agent_id then 'locked_by_other_session' else 'locked_by_other' end;
    checked.agent_id := ahead.agent_id;
    checked.agent_type := ahead.agent_type;
    checked.session_id := ahead.session_id;
    checked.reason := ahead.reason;
    checked.locked_at := null;
    checked.expires_at := ahead.alive_until;
    return checked;
end
$$;

CREATE FUNCTION public.check_network(in_workspace text, cx public.request, in_profile text, in_domain text, in_default boolean, in_default_reason text, OUT allowed boolean, OUT reason text, OUT policy_id uuid) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    rule_workspace text := case when exists (select from domain_rule r where r.workspace = in_workspace)
        then in_workspace else 'default' end;
begin
    select r.action = 'allow', r.action, r.id into allowed, reason, policy_id
    from domain_rule r
    where r.workspace = rule_workspace and r.enabled
        and (r.profile is null or r.profile = in_profile)
        and (
            r.pattern in ('*', in_domain)
            or lower(r.pattern) = in_domain
            or (r.pattern like '*.%'
                and right(in_domain, length(r.pattern) - 1) = lower(substr(r.pattern, 2)))
        )
    order by r.profile is null, r.priority, r.pattern like '*%', r.action = 'allow', r.id
    limit 1;
    allowed := coalesce(allowed, in_default);
    reason := coalesce(reason, in_default_reason);
    insert into network_log (
        workspace, agent_id, agent_type, session_id, request_id, domain, allowed, policy_id, reason
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, in_domain, allowed, policy_id,
        reason
    );
end
$$;

CREATE FUNCTION public.check_submission(in_workspace text, task public.task_submission, in_depends_on uuid[], at timestamp with time zone) RETURNS public.submission_verdict
    LANGUAGE plpgsql
    AS $$
declare
    checked submission_verdict;
    replaced record;
begin
    if in_depends_on <> '{}' then
        select asked.list_order into checked.dependency_number
        from unnest(in_depends_on) with ordinality as asked (id, list_order)
        where not exists (
            select from work_task t where t.workspace = in_workspace and t.id = asked.id
        )
        order by asked.list_order limit 1;
        if found then
            checked.verdict := 'unknown_dependency';
            return checked;
        end if;
    end if;
    if task.replaces is not null then
        select t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts into replaced
        from work_task t where t.workspace = in_workspace and t.id = task.replaces
        for update;
        if coalesce(task_status(replaced.status, replaced.deadline, replaced.claim_expires_at,
            replaced.attempt, replaced.max_attempts, clock_timestamp())
            not in ('failed', 'cancelled'), true)
        then
            checked.verdict := 'not_replaceable';
            return checked;
        end if;
    end if;
    if task.deadline <= at then
        checked.verdict := 'deadline_past';
    elsif task.refusal is not null then
        checked.verdict := 'blocked';
    end if;
    return checked;
end
$$;

CREATE FUNCTION public.claim_expiry(lease_ends_at timestamp with time zone, session_timeout interval, at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select least(lease_ends_at, at + session_timeout)
$$;

CREATE FUNCTION public.claim_tasks(in_workspace text, cx public.request, in_count integer, in_task_types jsonb, in_lease_minutes integer, in_trust integer, in_guard_version text, in_scans jsonb, in_may_rescan boolean, in_can_wait boolean, in_waits_for_rivals boolean) RETURNS SETOF public.claim_verdict
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
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

CREATE FUNCTION public.claimable_tasks(in_workspace text, cx public.request, in_trust integer, in_task_types text[], at timestamp with time zone) RETURNS TABLE(id uuid, priority smallint, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    AS $$
#variable_conflict use_column
begin
    if in_task_types is null then
        return query
        select candidate.* from (values (0), (1), (2), (3), (4)) trust (level) cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.needed_trust between level and level
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.needed_trust, t.priority, t.created_at, t.id limit candidates_per_range()
        ) candidate
        where level <= in_trust;
    else
        return query
        select candidate.* from (values (0), (1), (2), (3), (4)) trust (level)
        cross join unnest(in_task_types) wanted_type
        cross join lateral (
            select t.id, t.priority, t.created_at from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is null
                and t.task_type between wanted_type and wanted_type
                and t.needed_trust between level and level
                and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
                    t.authored_by, null, cx.agent_id, in_trust, in_task_types, null, at)
            order by t.task_type, t.needed_trust, t.priority, t.created_at, t.id
            limit candidates_per_range()
        ) candidate
        where level <= in_trust;
    end if;
    if exists (
        select from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
    ) then
        return query
        select * from claimable_tasks_of_archetypes(
            in_workspace, cx.agent_id, in_trust, in_task_types,
            declared_capabilities(in_workspace, cx.agent_id, cx.session_timeout), at);
    end if;
end
$$;

CREATE FUNCTION public.claimable_tasks_of_archetypes(in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], in_capabilities text[], at timestamp with time zone) RETURNS TABLE(id uuid, priority smallint, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE
    AS $$
#variable_conflict use_column
declare
    served_archetype text;
    wanted_type text;
begin
    foreach served_archetype in array
        coalesce(in_capabilities, '{}'::text[])
    loop
        for level in 0..in_trust loop
            if in_task_types is null then
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served_archetype and served_archetype
                    and t.needed_trust between level and level
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, in_capabilities, at)
                order by t.archetype, t.needed_trust, t.priority, t.created_at, t.id
                limit candidates_per_range();
                continue;
            end if;
            foreach wanted_type in array in_task_types loop
                return query
                select t.id, t.priority, t.created_at from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype between served_archetype and served_archetype
                    and t.task_type between wanted_type and wanted_type
                    and t.needed_trust between level and level
                    and is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline,
                        t.submitted_by, t.authored_by, t.archetype, in_agent_id, in_trust,
                        in_task_types, in_capabilities, at)
                order by t.archetype, t.task_type, t.needed_trust, t.priority, t.created_at, t.id
                limit candidates_per_range();
            end loop;
        end loop;
    end loop;
end
$$;

CREATE FUNCTION public.cleanup_sessions(in_workspace text, cx public.request, in_threshold_minutes integer, in_dry_run boolean, OUT agents bigint, OUT sessions bigint, OUT locks_released bigint, OUT tasks_requeued bigint, OUT ports_released bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    select e.* into agents, sessions, locks_released, tasks_requeued, ports_released, more
    from end_silent_sessions(in_workspace, make_interval(mins => in_threshold_minutes), in_dry_run) e;
    perform record_audit(
        in_workspace, cx, 'cleanup_dead_agents',
        jsonb_build_object('stale_threshold_minutes', in_threshold_minutes, 'dry_run', in_dry_run),
        jsonb_build_object(
            'agents_cleaned', agents, 'locks_released', locks_released, 'sessions_cleaned', sessions,
            'tasks_requeued', tasks_requeued, 'ports_released', ports_released)
            || case when more then '{"more": true}' else '{}' end::jsonb,
        true);
end
$$;

CREATE FUNCTION public.clear_expired_locks(in_workspace text, session_timeout interval, OUT cleared bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    lock file_lock;
begin
    cleared := 0;
    more := false;
    for lock in
        select l.* from file_lock l
        left join lateral (
            select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
            where s.workspace = in_workspace and s.agent_id = l.agent_id and s.session_id = l.session_id
            limit 1
        ) s on true
        where l.workspace = in_workspace and l.agent_id is not null
            and not is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                s.ended_at, s.last_heartbeat_at, s.revived_at)
        order by l.key
        limit maintenance_batch() + 1
        for update of l skip locked
    loop
        more := cleared >= maintenance_batch();
        exit when more;
        continue when is_live(in_workspace, lock.agent_id, lock.session_id, lock.locked_at,
            lock.expires_at, session_timeout);
        perform free_lock(in_workspace, lock.key, lock.token);
        perform record_loss(in_workspace, lock.agent_id, lock.session_id, 'lock', lock.key,
            lock.token::text, lock.locked_at, lock.expires_at, session_timeout);
        cleared := cleared + 1;
    end loop;
end
$$;

CREATE FUNCTION public.close_audit_retention() RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    grantee text;
begin
    for grantee in
        select distinct r.rolname::text
        from pg_class c cross join aclexplode(c.relacl) held join pg_roles r on r.oid = held.grantee
        where c.oid = 'audit_retention'::regclass and held.grantee <> c.relowner
            and held.privilege_type <> 'SELECT'
    loop
        execute format('revoke all on table audit_retention from %I', grantee);
        execute format('grant select on table audit_retention to %I', grantee);
    end loop;
end
$$;

CREATE FUNCTION public.close_functions(in_functions text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    opened record;
begin
    for opened in
        select p.oid::regprocedure as name, r.name as grantee
        from pg_proc p
        cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) held
        join api_roles() r on r.id = held.grantee
        where p.pronamespace = current_schema()::regnamespace and p.proname = any(in_functions)
    loop
        execute format('revoke all on function %s from %I', opened.name, opened.grantee);
    end loop;
end
$$;

CREATE FUNCTION public.close_table(in_table regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    grantee text;
begin
    for grantee in
        select r.name from api_roles() r
        where exists (
                select from pg_class c cross join aclexplode(c.relacl) held
                where c.oid = in_table and held.grantee = r.id)
            or exists (
                select from pg_attribute a cross join aclexplode(a.attacl) held
                where a.attrelid = in_table and held.grantee = r.id)
    loop
        execute format('revoke all on table %s from %I', in_table, grantee);
    end loop;
end
$$;

CREATE FUNCTION public.complete_task(in_workspace text, cx public.request, in_id uuid, in_success boolean, in_result json, in_error_message text, in_claim_token text, in_refusal text, in_patterns jsonb, in_violations jsonb, OUT success boolean, OUT status text, OUT task_id uuid, OUT reason text, OUT retry_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    task record;
    finished record;
    is_repeat boolean;
    report jsonb := jsonb_build_object('agent_id', cx.agent_id, 'success', in_success,
        'result', in_result, 'error_message', in_error_message);
begin
    perform record_heartbeat(in_workspace, cx);
    select t.id, t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, t.claimed_by,
        t.claimed_session_id, t.claim_token, t.retry_on_failure, t.completion
    into task
    from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    is_repeat := coalesce(task.completion -> 'report' = report, false)
        and (coalesce(task.completion ->> 'session_id' = cx.session_id, true)
            or coalesce(task.completion ->> 'claim_token' = in_claim_token, false));
    if is_repeat then
        status := task.completion ->> 'status';
        retry_at := (task.completion ->> 'retry_at')::timestamptz;
    else
        reason := coalesce(
            check_claim(task.id, task.claimed_by, task.claimed_session_id, task.claim_token,
                task_status(task.status, task.deadline, task.claim_expires_at, task.attempt,
                    task.max_attempts, at),
                cx, in_claim_token),
            in_refusal);
        if reason is null then
            finished := finish_claim(
                in_workspace, in_id, in_success, in_result, in_error_message, report,
                task.claimed_session_id, task.claim_token,
                case when not in_success and task.retry_on_failure
                    and task.attempt < task.max_attempts then task.attempt end);
            status := finished.status;
            retry_at := finished.retry_at;
        elsif reason = in_refusal then
            status := 'blocked';
            perform mark_claim_known(in_workspace, in_id, task.claim_token);
        end if;
        if status is not null then
            perform record_guardrail_violations(in_workspace, cx, in_violations);
        end if;
    end if;
    success := reason is null;
    if status is not null then
        task_id := in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'complete_task',
        jsonb_build_object('task_id', in_id, 'success', in_success),
        case
            when success then jsonb_build_object('status', status, 'guardrails', in_patterns)
            when status = 'blocked' then jsonb_build_object(
                'status', status, 'reason', reason, 'guardrails', in_patterns)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

CREATE FUNCTION public.count_for_quota(in_workspace text, in_agent_id text, in_kind text, in_limit integer, session_timeout interval) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_custom_plan'
    AS $$
declare
    at timestamptz := clock_timestamp();
    n bigint;
begin
    if in_kind = 'locks' then
        select count(*) into n from (
            select from file_lock l
            left join lateral (
                select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                where s.workspace = in_workspace and s.agent_id = l.agent_id
                    and s.session_id = l.session_id
                limit 1
            ) s on true
            where l.workspace = in_workspace and l.agent_id is not null
                and (in_agent_id = '' or l.agent_id = in_agent_id)
                and is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                    s.ended_at, s.last_heartbeat_at, s.revived_at)
            limit in_limit) live;
    elsif in_kind = 'sessions' then
        select count(*) into n from (
            select from agent_session s
            where s.workspace = in_workspace and (in_agent_id = '' or s.agent_id = in_agent_id)
                and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
            limit in_limit) live;
    elsif in_kind = 'tasks' then
        select count(*) into n from (
            select from work_task t
            where t.workspace = in_workspace and (in_agent_id = '' or t.submitted_by = in_agent_id)
                and t.completed_at is null and t.status in ('pending', 'claimed', 'running')
                and task_expiry_reason(t.status, t.deadline, t.claim_expires_at, t.attempt,
                    t.max_attempts, at) is null
            limit in_limit) unfinished;
    elsif in_kind = 'memories' then
        select count(*) into n from (
            select from memory m
            where m.workspace = in_workspace and (in_agent_id = '' or m.agent_id = in_agent_id)
            limit in_limit) stored;
    elsif in_kind = 'handoffs' then
        select count(*) into n from (
            select from handoff h
            where h.workspace = in_workspace and (in_agent_id = '' or h.agent_id = in_agent_id)
            limit in_limit) stored;
    elsif in_kind = 'idempotency_keys' then
        select count(*) into n from (
            select from idempotency_key k
            where k.workspace = in_workspace and (in_agent_id = '' or k.agent_id = in_agent_id)
                and k.created_at > at - idempotency_key_lifetime()
            limit in_limit) kept;
    elsif in_kind = 'mcp_connections' then
        select count(*) into n from (
            select from mcp_connection c
            where c.workspace = in_workspace and (in_agent_id = '' or c.agent_id = in_agent_id)
            limit in_limit) stored;
    end if;
    return n;
end
$$;

CREATE FUNCTION public.count_open_dependencies(in_workspace text, in_task_ids uuid[]) RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    dependency uuid;
    dependency_status text;
    open_count integer := 0;
begin
    for dependency in select id from unnest(in_task_ids) id order by id loop
        select t.status into dependency_status from work_task t
        where t.workspace = in_workspace and t.id = dependency
        for share;
        open_count := open_count + (dependency_status <> 'completed')::integer;
    end loop;
    return open_count;
end
$$;

CREATE FUNCTION public.count_other_file_locks(in_workspace text, in_agent_id text, in_key text, session_timeout interval) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    lock record;
    counted bigint := 0;
begin
    perform from acquire_advisory_lock(in_workspace, 'locks', in_agent_id);
    for lock in
        select l.session_id, l.locked_at, l.expires_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.key <> in_key and l.is_file
    loop
        counted := counted + is_live(in_workspace, in_agent_id, lock.session_id, lock.locked_at,
            lock.expires_at, session_timeout)::integer;
    end loop;
    return counted;
end
$$;

CREATE FUNCTION public.count_stuck_tasks(in_task_ids uuid[], in_tasks uuid[], in_dependencies uuid[], in_failures boolean[]) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE
    SET jit TO 'off'
    SET enable_nestloop TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
begin
    if in_failures is null or true <> all(in_failures) then
        return 0;
    end if;
    return (
        with recursive edge as materialized (
            select * from unnest(in_tasks, in_dependencies, in_failures) as e (task_id, depends_on, is_failed)
        ), stuck (id) as (
            select task_id from edge where is_failed
            union
            select e.task_id from stuck s join edge e on e.depends_on = s.id
        )
        select count(*) from stuck where id = any(in_task_ids));
end
$$;

CREATE FUNCTION public.create_bm25_index() RETURNS boolean
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
    installed integer[] := (
        select regexp_match(extversion, '^(\d+)\.(\d+)')::integer[]
        from pg_extension where extname = 'pg_search'
    );
begin
    if installed is null or installed < array[0, 24] then
        return false;
    end if;
    -- Waits for transactions that are storing memories, and later ones wait for this transaction, so no
    -- memory is missing from the index. This table comes first: a transaction that stores a memory locks
    -- it before its words, and the other order would be a deadlock.
    lock table memory in share row exclusive mode;
    drop index if exists memory_bm25;
    create or replace trigger memory_words_stored
        after insert or update of summary, lessons, tags on memory
        for each row execute function store_memory_words();
    insert into memory_words (workspace, id, words)
    select workspace, id, search_terms(search) from memory
    on conflict (workspace, id) do update set words = excluded.words;
    delete from memory_without_words;
    create index memory_bm25 on memory_words
        using bm25 (id, (words::pdb.whitespace)) with (key_field = 'id');
    return true;
exception when others then
    raise warning 'memories are not ranked by BM25: %', sqlerrm;
    return false;
end
$$;

CREATE FUNCTION public.create_service_role(in_role text) RETURNS text
    LANGUAGE plpgsql
    AS $$
begin
    execute format('create role %I login', in_role);
    return 'created it, without a password';
exception when insufficient_privilege then
    raise exception
        'the role % does not exist, and % may not create roles: have an administrator run "create role % login", and repeat this command',
        in_role, current_user, in_role;
end
$$;

CREATE FUNCTION public.declared_capabilities(in_workspace text, in_agent_id text, session_timeout interval) RETURNS text[]
    LANGUAGE plpgsql STABLE
    AS $$
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

CREATE FUNCTION public.decrement_open_dependencies(in_workspace text, in_task_id uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    dependent uuid;
begin
    for dependent in
        select d.task_id from work_dependency d
        where d.workspace = in_workspace and d.depends_on = in_task_id
        order by d.task_id
    loop
        update work_task t set open_dependencies = t.open_dependencies - 1
        where t.workspace = in_workspace and t.id = dependent;
    end loop;
end
$$;

CREATE FUNCTION public.delete_free_keys(in_workspace text) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    free record;
    highest bigint := 0;
    deleted bigint := 0;
begin
    for free in
        select l.key, l.token from file_lock l
        where l.workspace = in_workspace and l.agent_id is null
            and l.freed_at <= at - interval '7 days'
        order by l.freed_at
        limit maintenance_batch()
        for update of l skip locked
    loop
        delete from file_lock l where l.workspace = in_workspace and l.key = free.key;
        highest := greatest(highest, free.token);
        deleted := deleted + 1;
    end loop;
    if deleted > 0 then
        insert into lock_token_floor as f (workspace, token) values (in_workspace, highest)
        on conflict (workspace) do update set token = greatest(f.token, excluded.token);
    end if;
    return deleted;
end
$$;

CREATE FUNCTION public.delete_old_connections(in_workspace text) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    kept_for constant interval := interval '7 days';
    connection record;
    deleted bigint := 0;
begin
    for connection in
        select c.agent_id, c.connection_id from mcp_connection c
        where c.workspace = in_workspace and c.bound_at <= at - kept_for
            and not exists (
                select from agent_session s
                where s.workspace = in_workspace and s.agent_id = c.agent_id
                    and s.session_id = c.session_id
                    and is_session_live(s.ended_at, s.last_heartbeat_at, kept_for, at))
        limit maintenance_batch()
        for update of c skip locked
    loop
        delete from mcp_connection c
        where c.workspace = in_workspace and c.agent_id = connection.agent_id
            and c.connection_id = connection.connection_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

CREATE FUNCTION public.delete_old_records(in_table text) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    oldest_kept timestamptz;
    last timestamptz;
    deleted bigint;
begin
    if in_table = 'idempotency_key' then
        oldest_kept := at - idempotency_key_lifetime();
        select k.created_at into last from idempotency_key k where k.created_at <= oldest_kept
        order by k.created_at limit 1 offset maintenance_batch() - 1;
        delete from idempotency_key k where k.created_at <= coalesce(last, oldest_kept);
    elsif in_table = 'session_loss' then
        oldest_kept := at - interval '7 days';
        select l.lost_at into last from session_loss l where l.lost_at <= oldest_kept
        order by l.lost_at limit 1 offset maintenance_batch() - 1;
        delete from session_loss l where l.lost_at <= coalesce(last, oldest_kept);
    elsif in_table = 'mcp_call' then
        oldest_kept := at - interval '1 day';
        select c.due_at into last from mcp_call c where c.due_at <= oldest_kept
        order by c.due_at limit 1 offset maintenance_batch() - 1;
        delete from mcp_call c where c.due_at <= coalesce(last, oldest_kept);
    elsif in_table = 'quota_reached' then
        oldest_kept := at - interval '1 day';
        select q.counted_at into last from quota_reached q where q.counted_at <= oldest_kept
        order by q.counted_at limit 1 offset maintenance_batch() - 1;
        delete from quota_reached q where q.counted_at <= coalesce(last, oldest_kept);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

CREATE FUNCTION public.delete_old_rows(in_workspace text, in_table text, in_log_days integer, in_task_days integer) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    oldest_kept timestamptz := date_trunc('month', at - make_interval(days => in_log_days));
    last timestamptz;
    deleted bigint;
begin
    if in_table = 'mcp_connection' then
        return delete_old_connections(in_workspace);
    elsif in_table = 'agent_session' then
        return delete_old_sessions(in_workspace);
    elsif in_table = 'work_task' then
        return delete_old_tasks(in_workspace, in_task_days);
    elsif in_table = 'file_lock' then
        return delete_free_keys(in_workspace);
    elsif in_table = 'guardrail_violation' then
        last := (
            select v.created_at from guardrail_violation v
            where v.workspace = in_workspace and v.created_at < oldest_kept
            order by v.created_at limit 1 offset maintenance_batch() - 1);
        delete from guardrail_violation v
        where v.workspace = in_workspace and v.created_at < oldest_kept
            and v.created_at <= coalesce(last, oldest_kept);
    elsif in_table = 'network_log' then
        last := (
            select n.created_at from network_log n
            where n.workspace = in_workspace and n.created_at < oldest_kept
            order by n.created_at limit 1 offset maintenance_batch() - 1);
        delete from network_log n
        where n.workspace = in_workspace and n.created_at < oldest_kept
            and n.created_at <= coalesce(last, oldest_kept);
    end if;
    get diagnostics deleted = row_count;
    return deleted;
end
$$;

CREATE FUNCTION public.delete_old_sessions(in_workspace text) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    session record;
    deleted bigint := 0;
begin
    for session in
        select s.agent_id, s.session_id from agent_session s
        where s.workspace = in_workspace and s.ended_at <= at - interval '30 days'
            and not exists (
                select from file_lock l
                where l.workspace = in_workspace and l.agent_id = s.agent_id
                    and l.session_id = s.session_id)
            and not exists (
                select from work_task t
                where t.workspace = in_workspace and t.claimed_by = s.agent_id
                    and t.claimed_session_id = s.session_id and t.status in ('claimed', 'running'))
            and not exists (
                select from port_block p
                where p.workspace = in_workspace and p.agent_id = s.agent_id
                    and p.session_id = s.session_id)
            and not exists (
                select from session_loss l
                where l.workspace = in_workspace and l.agent_id = s.agent_id
                    and l.session_id = s.session_id)
            and not exists (
                select from mcp_connection c
                where c.workspace = in_workspace and c.agent_id = s.agent_id
                    and c.session_id = s.session_id)
        order by s.ended_at
        limit maintenance_batch()
        for update of s skip locked
    loop
        delete from agent_session s
        where s.workspace = in_workspace and s.agent_id = session.agent_id
            and s.session_id = session.session_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

CREATE FUNCTION public.delete_old_tasks(in_workspace text, in_days integer) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    old_id uuid;
    deleted bigint := 0;
begin
    for old_id in
        select t.id from work_task t
        where t.workspace = in_workspace and t.status in ('completed', 'failed', 'cancelled')
            and t.completed_at <= at - make_interval(days => in_days)
            and not exists (
                select from work_dependency d
                where d.workspace = in_workspace and d.depends_on = t.id)
        order by t.completed_at
        limit maintenance_batch()
        for update of t skip locked
    loop
        continue when exists (
            select from work_dependency d
            where d.workspace = in_workspace and d.depends_on = old_id);
        delete from work_dependency d where d.workspace = in_workspace and d.task_id = old_id;
        delete from work_task t where t.workspace = in_workspace and t.id = old_id;
        deleted := deleted + 1;
    end loop;
    return deleted;
end
$$;

CREATE FUNCTION public.deregister_session(in_workspace text, cx public.request, in_session_id text, OUT is_known boolean, OUT sessions bigint, OUT locks_released bigint, OUT tasks_requeued bigint, OUT ports_released bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    delete from mcp_connection c
    where c.workspace = in_workspace and c.agent_id = cx.agent_id and c.session_id = in_session_id;
    is_known := exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id);
    select 0, 0, 0, 0 into sessions, locks_released, tasks_requeued, ports_released;
    perform from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id
        and s.ended_at is null
    for update;
    more := false;
    if found then
        select 1, e.locks_released, e.tasks_requeued, e.ports_released, not e.has_ended
        into sessions, locks_released, tasks_requeued, ports_released, more
        from end_session(in_workspace, cx.agent_id, in_session_id, maintenance_batch(), false) e;
        -- A batch marks its own losses only, and the last one those of earlier batches of the sweep too.
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = cx.agent_id
            and l.session_id = in_session_id and not l.is_told and (not more or l.lost_at >= at);
    end if;
    if more then
        return;
    end if;
    perform record_audit(
        in_workspace, cx, 'deregister_agent',
        jsonb_build_object('session_id', in_session_id, 'capabilities', null),
        case when is_known then '{}'::jsonb else jsonb_build_object('reason', 'session_not_found') end,
        is_known);
end
$$;

CREATE FUNCTION public.distribute(OUT tables integer, OUT functions integer) RETURNS record
    LANGUAGE plpgsql
    AS $$
begin
    if to_regclass('pg_catalog.pg_dist_partition') is null then
        raise exception 'this database has no extension citus'
            using errcode = 'feature_not_supported',
                hint = 'Install Citus, run "create extension citus" and add the workers: docs/scale-out.md.';
    end if;
    -- One transaction distributes tables and functions, for which Citus must use one connection to each
    -- worker (sequential mode).
    perform set_config('citus.multi_shard_modify_mode', 'sequential', true);
    -- Citus refuses tables with triggers without this. The audit log's triggers only raise an error.
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    -- A function may call one that comes later, also while a worker creates it.
    perform set_config('check_function_bodies', 'off', true);
    perform set_config('client_min_messages', 'warning', true);
    tables := distribute_tables();
    functions := distribute_functions();
end
$$;

CREATE FUNCTION public.distribute_functions() RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    catalog regclass := to_regclass('pg_catalog.pg_dist_object');
    colocated_table text := (
        select p.name from table_placements() p where p.placement = 'by workspace' limit 1);
    copied oid[];
    delegated oid[];
    item record;
    distributed integer := 0;
begin
    execute format(
        'select coalesce(array_agg(objid), ''{}''),
            coalesce(array_agg(objid) filter (where distribution_argument_index = 0), ''{}'')
        from %s where classid = ''pg_proc''::regclass', catalog)
    into copied, delegated;
    -- Citus copies a function to the workers when it is created, unless that was before Citus was
    -- there, or it takes or returns rows of a table that was not distributed yet.
    for item in select f.name from own_functions() f where f.name <> all(copied) loop
        execute pg_get_functiondef(item.name);
        distributed := distributed + 1;
    end loop;
    for item in
        select f.name from own_functions() f
        where f.first_argument = 'in_workspace' and f.name <> all(delegated)
    loop
        execute format(
            'select create_distributed_function(
                %L, ''in_workspace'', colocate_with := %L, force_delegation := %L)',
            item.name, colocated_table,
            item.name = 'acquire_advisory_lock(text, text, text)'::regprocedure);
        distributed := distributed + 1;
    end loop;
    -- Citus cannot route a generic plan to one worker, and each installation sets this again.
    for item in
        select f.name from own_functions() f
        where 'plan_cache_mode=force_generic_plan' = any(f.settings)
    loop
        execute format('alter function %s reset plan_cache_mode', item.name);
    end loop;
    return distributed;
end
$$;

CREATE FUNCTION public.distribute_new_objects() RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    if is_distributed('agent_session') then
        perform distribute();
    end if;
end
$$;

CREATE FUNCTION public.distribute_tables() RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    item record;
    colocated_table text := 'none';
    distributed integer := 0;
begin
    for item in
        select p.name, p.placement, is_distributed(p.name::regclass) as is_done
        from table_placements() p where p.placement <> 'coordinator'
    loop
        if not item.is_done and item.placement = 'everywhere' then
            execute format('select create_reference_table(%L)', item.name);
        elsif not item.is_done then
            execute format(
                'select create_distributed_table(%L, ''workspace'', colocate_with := %L)',
                item.name, colocated_table);
        end if;
        distributed := distributed + (not item.is_done)::integer;
        if colocated_table = 'none' and item.placement = 'by workspace' then
            colocated_table := item.name;
        end if;
    end loop;
    return distributed;
end
$$;

CREATE FUNCTION public.drop_audit_partitions(retention_days integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
    kept_days integer := (select max(r.days) from audit_retention r);
    oldest_kept date := (clock_timestamp() at time zone 'UTC')::date
        - least(greatest(retention_days, kept_days), 3650);
    month record;
    dropped bigint := 0;
begin
    if kept_days is null then
        return 0;
    elsif retention_days < kept_days then
        raise warning 'the audit log keeps % days, not %: run "coordinator migrate" with AUDIT_RETENTION_DAYS=%',
            kept_days, retention_days, retention_days;
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended('drop_audit_partitions', 0)) then
        return 0;
    end if;
    for month in
        select
            c.oid::regclass as name,
            (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month')::date as ended
        from pg_inherits i
        join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'audit_log'::regclass
    loop
        continue when month.ended > oldest_kept;
        execute format('drop table %s', month.name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end
$$;

CREATE FUNCTION public.end_mcp_call(in_workspace text, in_id uuid, in_operation text, in_taken jsonb, in_idempotency_key text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update mcp_call c set
        answered_at = at, operation = in_operation, taken = in_taken,
        idempotency_key = in_idempotency_key
    where c.workspace = in_workspace and c.id = in_id;
end
$$;

CREATE FUNCTION public.end_mcp_connection(in_workspace text, in_agent_id text, in_connection_id text, in_quota integer[]) RETURNS text
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
    -- Connections are counted whether or not their sessions are live.
    refusal text := refuse_connection(in_workspace, in_agent_id, in_connection_id, in_quota,
        unlimited_session_timeout());
begin
    if refusal is not null then
        return refusal;
    end if;
    insert into mcp_connection (workspace, agent_id, connection_id, session_id, has_ended)
    values (in_workspace, in_agent_id, in_connection_id, null, true)
    on conflict (workspace, agent_id, connection_id) do update set
        session_id = null, has_ended = true, bound_at = at;
    return null;
end
$$;

CREATE FUNCTION public.end_session(in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean, OUT locks_released bigint, OUT tasks_requeued bigint, OUT ports_released bigint, OUT touched bigint, OUT has_ended boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    locks record;
    claims record;
    ports record;
begin
    select * into locks
    from release_session_locks(in_workspace, in_agent_id, in_session_id, in_limit, in_dry_run);
    select * into claims from requeue_session_claims(
        in_workspace, in_agent_id, in_session_id, in_limit - locks.touched::integer, in_dry_run);
    select * into ports
    from release_session_ports(in_workspace, in_agent_id, in_session_id, in_dry_run);
    locks_released := locks.released;
    tasks_requeued := claims.requeued;
    ports_released := ports.released;
    touched := locks.touched + claims.touched + ports.touched;
    has_ended := locks.touched + claims.touched < in_limit;
    if not in_dry_run then
        update agent_session s set
            ended_at = case when has_ended then at end,
            untold_at = case when has_ended then s.untold_at else timestamptz '-infinity' end
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
    end if;
end
$$;

CREATE FUNCTION public.end_silent_sessions(in_workspace text, in_session_timeout interval, in_dry_run boolean, OUT agents bigint, OUT sessions bigint, OUT locks_released bigint, OUT tasks_requeued bigint, OUT ports_released bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    rows_left integer := maintenance_batch();
    session record;
    ended record;
    agent_ids text[] := array[]::text[];
begin
    select 0, 0, 0, 0, false
    into sessions, locks_released, tasks_requeued, ports_released, more;
    for session in
        select s.agent_id, s.session_id from agent_session s
        where s.workspace = in_workspace and s.ended_at is null
            and s.last_heartbeat_at <= at - in_session_timeout
        order by s.last_heartbeat_at
        limit maintenance_batch() + 1
        for update skip locked
    loop
        more := more or rows_left <= 0;
        exit when more;
        select * into ended
        from end_session(in_workspace, session.agent_id, session.session_id, rows_left, in_dry_run);
        rows_left := rows_left - 1 - ended.touched;
        locks_released := locks_released + ended.locks_released;
        tasks_requeued := tasks_requeued + ended.tasks_requeued;
        ports_released := ports_released + ended.ports_released;
        sessions := sessions + ended.has_ended::integer;
        agent_ids := agent_ids || case when ended.has_ended then session.agent_id end;
        more := not ended.has_ended;
    end loop;
    agents := (select count(distinct agent_id) from unnest(agent_ids) agent_id);
end
$$;

CREATE FUNCTION public.ensure_audit_partitions(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    AS $$
declare
    this_month timestamp := date_trunc('month', clock_timestamp() at time zone 'UTC');
    lower_bound timestamptz;
    upper_bound timestamptz;
    partition text;
    created integer := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('ensure_audit_partitions', 0));
    -- Without this, Citus refuses to distribute a partition that has a trigger. Elsewhere it has no
    -- effect.
    perform set_config('citus.enable_unsafe_triggers', 'on', true);
    for n in 0..least(months_ahead, 24) loop
        lower_bound := (this_month + make_interval(months => n)) at time zone 'UTC';
        upper_bound := (this_month + make_interval(months => n + 1)) at time zone 'UTC';
        partition := 'audit_log_' || to_char(this_month + make_interval(months => n), 'YYYY_MM');
        continue when to_regclass(quote_ident(partition)) is not null;
        execute format('create table %I (like audit_log including defaults)', partition);
        perform close_table(quote_ident(partition)::regclass);
        execute format(
            'create trigger audit_log_append_only before update or delete or truncate on %I
             for each statement execute function refuse_audit_log_change()', partition);
        execute format('alter table %I enable always trigger audit_log_append_only', partition);
        execute format(
            'alter table audit_log attach partition %I for values from (%L) to (%L)',
            partition, lower_bound, upper_bound);
        created := created + 1;
    end loop;
    return created;
end
$$;

CREATE FUNCTION public.explain_empty_claim(in_workspace text, cx public.request, in_trust integer, in_task_types text[]) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
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

CREATE FUNCTION public.explain_unavailable_work(in_workspace text, in_agent_id text, in_trust integer, in_task_types jsonb, session_timeout interval) RETURNS TABLE(blocked integer, by_failed uuid[], undeclared_archetypes text[])
    LANGUAGE plpgsql STABLE
    AS $$
declare
    task_types text[] := to_text_array(in_task_types);
    waiting uuid[] := blocked_tasks(in_workspace, in_agent_id, in_trust, task_types, session_timeout);
    tasks uuid[];
    dependencies uuid[];
    failures boolean[];
begin
    select array_agg(w.task_id order by w.place), array_agg(w.depends_on order by w.place),
        array_agg(w.is_failed order by w.place)
    into tasks, dependencies, failures
    from waiting_dependencies(in_workspace, waiting) w;
    blocked := count_stuck_tasks(waiting, tasks, dependencies, failures);
    by_failed := array(
        select d.id from unnest(dependencies, failures) with ordinality as d (id, is_failed, place)
        where d.is_failed group by d.id order by min(d.place) limit 20);
    undeclared_archetypes := find_undeclared_archetypes(
        in_workspace, in_agent_id, in_trust, task_types, session_timeout);
    return next;
end
$$;

CREATE FUNCTION public.explained_tasks() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select 100::bigint
$$;

CREATE FUNCTION public.fail_mcp_call(in_workspace text, in_id uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update mcp_call c set answered_at = at
    where c.workspace = in_workspace and c.id = in_id and c.answered_at is null;
end
$$;

CREATE FUNCTION public.find_session(in_workspace text, in_agent_id text, in_connection_id text, in_named_session_id text, session_timeout interval, OUT session_id text, OUT has_ended boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    live text[];
begin
    if in_connection_id is not null then
        select c.session_id, c.has_ended into session_id, has_ended from mcp_connection c
        where c.workspace = in_workspace and c.agent_id = in_agent_id
            and c.connection_id = in_connection_id;
    end if;
    has_ended := coalesce(has_ended, false);
    if has_ended then
        return;
    elsif in_named_session_id is not null then
        session_id := in_named_session_id;
        return;
    elsif in_connection_id is null then
        live := array(
            select s.session_id from agent_session s
            where s.workspace = in_workspace and s.agent_id = in_agent_id
                and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
            limit 2);
        session_id := case when cardinality(live) = 1 then live[1] end;
    end if;
end
$$;

CREATE FUNCTION public.find_undeclared_archetypes(in_workspace text, in_agent_id text, in_trust integer, in_task_types text[], session_timeout interval) RETURNS text[]
    LANGUAGE plpgsql STABLE
    AS $$
declare
    at timestamptz := clock_timestamp();
    capabilities text[] := declared_capabilities(in_workspace, in_agent_id, session_timeout);
    required text;
    found_archetypes text[] := '{}'::text[];
begin
    foreach required in array array(select ready_archetypes(in_workspace)) loop
        continue when required = any(capabilities);
        perform from (
            select * from work_task w
            where w.workspace = in_workspace and w.is_ready and w.archetype is not null
                and w.archetype between required and required
            order by w.archetype, w.needed_trust, w.priority, w.created_at, w.id
            limit explained_tasks()
        ) t
        where is_claimable(t.is_ready, t.needed_trust, t.task_type, t.deadline, t.submitted_by,
            t.authored_by, t.archetype, in_agent_id, in_trust, in_task_types, array[t.archetype], at);
        if found then
            found_archetypes := found_archetypes || required;
        end if;
        exit when cardinality(found_archetypes) = 20;
    end loop;
    return found_archetypes;
end
$$;

CREATE FUNCTION public.find_unfinished_task(in_workspace text, in_unique_key text) RETURNS uuid
    LANGUAGE plpgsql
    AS $$
declare
    found_task record;
    at timestamptz := clock_timestamp();
begin
    select t.id, task_expiry_reason(
        t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) as expiry_reason
    into found_task
    from work_task t
    where t.workspace = in_workspace and t.unique_key = in_unique_key
        and t.status in ('pending', 'claimed', 'running');
    if found_task.expiry_reason is null then
        return found_task.id;
    end if;
    perform from work_task t where t.workspace = in_workspace and t.id = found_task.id for update;
    perform update_overdue_task(in_workspace, found_task.id);
    return null;
end
$$;

CREATE FUNCTION public.finish_claim(in_workspace text, in_id uuid, in_success boolean, in_result json, in_error_message text, report jsonb, in_claimed_session_id text, in_claim_token text, in_retry_attempt smallint, OUT status text, OUT retry_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    jitter double precision := 0.8 + 0.4 * random();
    will_retry boolean := in_retry_attempt is not null;
    new_completion jsonb;
begin
    status := case when in_success then 'completed' when will_retry then 'pending' else 'failed' end;
    if will_retry then
        retry_at := at + jitter * least(
            interval '60 minutes', interval '30 seconds' * 2 ^ (in_retry_attempt - 1));
    end if;
    new_completion := jsonb_build_object('report', report, 'session_id', in_claimed_session_id,
        'claim_token', in_claim_token, 'status', status, 'retry_at', retry_at);
    update work_task t set
        status = finish_claim.status,
        result = in_result,
        error_message = in_error_message,
        completed_at = case when not will_retry then at end,
        claim_token = case when not will_retry then t.claim_token end,
        claimed_by = case when not will_retry then t.claimed_by end,
        claimed_session_id = case when not will_retry then t.claimed_session_id end,
        lease_expires_at = null,
        claim_expires_at = null,
        is_expiry_recorded = false,
        available_at = coalesce(finish_claim.retry_at, t.available_at),
        is_delayed = will_retry,
        completion = new_completion
    where t.workspace = in_workspace and t.id = in_id;
    if in_success then
        perform decrement_open_dependencies(in_workspace, in_id);
    end if;
end
$$;

CREATE FUNCTION public.finish_installation(in_digest text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    delete from installed_functions;
    insert into installed_functions (digest) values (in_digest);
    perform distribute_new_objects();
    perform ensure_audit_partitions(3);
    if to_regclass('memory_bm25') is null then
        perform create_bm25_index();
    end if;
end
$$;

CREATE FUNCTION public.first_held(list jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    select jsonb_path_query_array(list, '$[0 to $last]', jsonb_build_object('last', most_held() - 1))
$_$;

CREATE FUNCTION public.memory_search(in_summary text, in_lessons text[], in_tags text[]) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO '$user', 'public'
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
begin
    return search_vector(in_summary, 'A')
        || search_vector(left(array_to_string(in_lessons, ' '), 30000), 'B')
        || search_vector(left(array_to_string(in_tags, ' '), 15000), 'C');
end
$$;

CREATE TABLE public.memory (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id text NOT NULL COLLATE pg_catalog."C",
    session_id text,
    event_type text NOT NULL COLLATE pg_catalog."C",
    summary text NOT NULL,
    summary_digest bytea NOT NULL,
    details json NOT NULL,
    outcome text,
    lessons text[] NOT NULL,
    tags text[] NOT NULL,
    merge_count integer DEFAULT 0 NOT NULL,
    is_current boolean DEFAULT true NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    search tsvector GENERATED ALWAYS AS (public.memory_search(summary, lessons, tags)) STORED NOT NULL,
    stored_bytes integer GENERATED ALWAYS AS ((((octet_length(summary) + octet_length((details)::text)) + public.bytes_of_texts(lessons)) + public.bytes_of_texts(tags))) STORED NOT NULL
);

CREATE FUNCTION public.fitting_memories(in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_oldest timestamp with time zone, in_words public.search_word[], in_finder tsquery, in_has_all boolean, in_scores jsonb, in_limit bigint) RETURNS SETOF public.memory
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
declare
    ranking tsquery := (
        select string_agg('(' || w.exact::text || ' | ' || w.beginning::text || ')', ' | ')::tsquery
        from unnest(in_words) w);
    candidates uuid[] := memory_candidates(
        in_workspace, in_agent_id, in_tags, in_event_type, in_oldest, in_finder);
begin
    return query
    select m.* from unnest(candidates) as candidate
    cross join lateral (
        select * from memory c where c.workspace = in_workspace and c.id = candidate limit 1
    ) as m
    cross join lateral memory_fit(
        m.search, m.summary, m.lessons, m.tags, in_words, in_has_all) as fit
    where fit is not null
    order by fit desc,
        case when in_scores is not null then
            memory_relevance(m.created_at) * coalesce((in_scores ->> m.id::text)::float8, 0) end desc,
        memory_relevance(m.created_at) * ts_rank(m.search, ranking) desc,
        m.created_at desc, m.id
    limit in_limit;
end
$$;

CREATE FUNCTION public.force_release_lock(in_workspace text, cx public.request, in_key text, in_token bigint, OUT released boolean, OUT prior_agent_id text, OUT prior_locked_at timestamp with time zone, OUT reason text) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.free_lock(in_workspace text, in_key text, in_token bigint) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
begin
    return free_unchanged_lock(in_workspace, in_key, in_token, null);
end
$$;

CREATE FUNCTION public.free_lost_ports(in_workspace text, in_slot integer, cx public.request, in_session_id text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    block port_block;
begin
    delete from port_block p where p.workspace = in_workspace and p.slot = in_slot
    returning * into block;
    if (block.agent_id, block.session_id) is distinct from (cx.agent_id, in_session_id) then
        perform record_loss(in_workspace, block.agent_id, block.session_id, 'port', in_slot::text, null,
            block.allocated_at, block.expires_at, cx.session_timeout);
    end if;
end
$$;

CREATE FUNCTION public.free_unchanged_lock(in_workspace text, in_key text, in_token bigint, in_locked_at timestamp with time zone) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update file_lock l set
        agent_id = null, agent_type = null, session_id = null, reason = null, locked_at = null,
        expires_at = null, freed_at = at
    where l.workspace = in_workspace and l.key = in_key and l.token = in_token
        and l.agent_id is not null and (in_locked_at is null or l.locked_at = in_locked_at);
    return found;
end
$$;

CREATE FUNCTION public.get_work(in_workspace text, cx public.request, in_count integer, in_task_types jsonb, in_lease_minutes integer, in_trust integer, in_guard_version text, in_scans jsonb, in_may_rescan boolean, in_can_wait boolean, in_waits_for_rivals boolean) RETURNS TABLE(verdict text, id uuid, task_type text, description text, input_data json, priority smallint, deadline timestamp with time zone, attempt smallint, claim_token text, lease_expires_at timestamp with time zone, reason text, texts json, open_claims jsonb)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.give_back_claim(in_workspace text, cx public.request, in_id uuid, in_claim_token text) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.give_back_lock(in_workspace text, cx public.request, in_key text, in_token bigint, in_locked_at timestamp with time zone, in_expires_at timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.grant_claim(in_workspace text, cx public.request, picked public.next_task, in_task_types jsonb, in_lease_minutes integer, in_trust integer) RETURNS public.claim_verdict
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.grant_lock(in_workspace text, cx public.request, in_key text, in_is_file boolean, in_reason text, in_ttl interval, in_waiter_id uuid, in_quota integer[]) RETURNS public.lock_verdict
    LANGUAGE plpgsql
    AS $$
declare
    checked lock_verdict;
    granted lock_verdict;
    token_floor bigint;
    at timestamptz;
begin
    while granted.verdict is null loop
        checked := check_lock_availability(in_workspace, cx, in_key, in_waiter_id);
        if checked.verdict = 'free' then
            granted.verdict := refused_by_quota(
                in_workspace, cx.agent_id, 'locks', in_quota, cx.session_timeout);
            exit when granted.verdict is not null;
        end if;
        at := clock_timestamp();
        if checked.verdict = 'free' and checked.token is null then
            select f.token into token_floor from lock_token_floor f where f.workspace = in_workspace;
            insert into file_lock as l (
                workspace, key, token, is_file, agent_id, agent_type, session_id, reason, locked_at,
                expires_at
            ) values (
                in_workspace, in_key, coalesce(token_floor, 0) + 1, in_is_file, cx.agent_id,
                cx.agent_type, cx.session_id, in_reason, at, at + in_ttl
            )
            on conflict (workspace, key) do nothing
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into granted;
        elsif checked.verdict = 'free' then
            update file_lock l set
                token = l.token + 1, agent_id = cx.agent_id, agent_type = cx.agent_type,
                session_id = cx.session_id, reason = in_reason, locked_at = at,
                expires_at = at + in_ttl, refresh_count = 0, took_over_from = l.agent_id
            where l.workspace = in_workspace and l.key = in_key and l.token = checked.token
                and l.agent_id is not distinct from checked.agent_id
                and l.locked_at is not distinct from checked.locked_at
                and l.expires_at is not distinct from checked.expires_at
            returning 'acquired', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, l.took_over_from, null::bigint into granted;
        elsif checked.verdict = 'own' then
            update file_lock l set
                expires_at = at + in_ttl, refresh_count = l.refresh_count + 1,
                reason = coalesce(in_reason, l.reason)
            where l.workspace = in_workspace and l.key = in_key and l.token = checked.token
                and l.agent_id = checked.agent_id and l.locked_at = checked.locked_at
                and l.expires_at = checked.expires_at
            returning 'refreshed', l.agent_id, l.agent_type, l.session_id, l.reason, l.locked_at,
                l.expires_at, l.token, null, null::bigint into granted;
        else
            return checked;
        end if;
    end loop;
    if granted.verdict = 'acquired' and checked.session_id is not null
        and (checked.agent_id, checked.session_id) is distinct from (cx.agent_id, cx.session_id)
    then
        perform record_loss(in_workspace, checked.agent_id, checked.session_id, 'lock', in_key,
            checked.token::text, checked.locked_at, checked.expires_at, cx.session_timeout);
    end if;
    return granted;
end
$$;

CREATE FUNCTION public.grant_service_rights(in_role text, in_functions text[]) RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    lacked record;
    granted integer := 0;
begin
    for lacked in
        select t.id::regclass as name, needed.right_name
        from service_rights() r cross join unnest(r.rights) needed (right_name)
        join service_tables() t on t.name = r.name
        where not has_table_privilege(in_role, t.id, needed.right_name)
    loop
        execute format('grant %I on table %s to %I', lacked.right_name, lacked.name, in_role);
        granted := granted + 1;
    end loop;
    for lacked in
        select p.oid::regprocedure as name from pg_proc p
        where p.pronamespace = current_schema()::regnamespace and p.proname = any(in_functions)
            and not has_function_privilege(in_role, p.oid, 'execute')
    loop
        execute format('grant execute on function %s to %I', lacked.name, in_role);
        granted := granted + 1;
    end loop;
    if not has_schema_privilege(in_role, current_schema(), 'usage') then
        execute format('grant usage on schema %I to %I', current_schema(), in_role);
        granted := granted + 1;
    end if;
    return granted;
end
$$;

CREATE FUNCTION public.has_form(in_text text, in_forms text[]) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    form text;
begin
    foreach form in array in_forms loop
        if strpos(in_text, form) > 0 then
            return true;
        end if;
    end loop;
    return false;
end
$$;

CREATE FUNCTION public.has_many_memories(in_workspace text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET enable_sort TO 'off'
    AS $$
begin
    -- In the order of an index, so that no more rows are read.
    perform from memory m where m.workspace = in_workspace
    order by m.created_at desc offset 99 limit 1;
    return found;
end
$$;

CREATE FUNCTION public.has_unavailable_work(in_workspace text) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS $$
begin
    return exists (
        select from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.open_dependencies > 0
    ) or exists (
        select from work_task t
        where t.workspace = in_workspace and t.is_ready and t.archetype is not null
    );
end
$$;

CREATE FUNCTION public.heartbeat_interval() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select interval '10 seconds'
$$;

CREATE FUNCTION public.held_claim(id uuid, token text, session_id text, expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select jsonb_build_object('task_id', id, 'claim_token', token, 'session_id', session_id,
        'claim_expires_at', expires_at)
$$;

CREATE FUNCTION public.held_lists(locks jsonb, claims jsonb, ports jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select jsonb_build_object(
        'locks', first_held(locks), 'claims', first_held(claims), 'ports', first_held(ports),
        'truncated', greatest(jsonb_array_length(locks), jsonb_array_length(claims),
            jsonb_array_length(ports)) > most_held())
$$;

CREATE FUNCTION public.held_lock(key text, token bigint, session_id text, expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select jsonb_build_object('file_path', key, 'fencing_token', token, 'session_id', session_id,
        'expires_at', expires_at)
$$;

CREATE FUNCTION public.held_ports(slot integer, session_id text, expires_at timestamp with time zone) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select jsonb_build_object('slot', slot, 'session_id', session_id, 'expires_at', expires_at)
$$;

CREATE FUNCTION public.idempotency_key_lifetime() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select interval '24 hours'
$$;

CREATE FUNCTION public.is_claim_expired(status text, claim_expires_at timestamp with time zone, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select status in ('claimed', 'running') and claim_expires_at <= at
$$;

CREATE FUNCTION public.is_claim_renewal_due(is_claim_known boolean, claim_expires_at timestamp with time zone, lease_expires_at timestamp with time zone, lease_minutes integer, session_timeout interval, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select claim_expires_at > at
        and (
            (claim_expires_at < claim_expiry(
                    renewed_lease(is_claim_known, lease_expires_at, lease_minutes, at),
                    session_timeout, at)
                and claim_expires_at < at - heartbeat_interval() + least(
                    case when is_claim_known then make_interval(mins => lease_minutes) end,
                    session_timeout))
            or claim_expires_at > at + heartbeat_interval() + session_timeout
        )
$$;

CREATE FUNCTION public.is_claimable(is_ready boolean, needed_trust smallint, task_type text, deadline timestamp with time zone, submitted_by text, authored_by text, archetype text, claimant text, trust integer, task_types text[], capabilities text[], at timestamp with time zone) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select is_ready and needed_trust <= trust
        and (task_types is null or task_type = any(task_types))
        and is_eligible(
            task_type, deadline, submitted_by, authored_by, archetype, claimant, capabilities, at)
$$;

CREATE FUNCTION public.is_counted(quota integer, draw double precision) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select draw * quota <= 64
$$;

CREATE FUNCTION public.is_distributed(in_table regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS $_$
declare
    catalog regclass := to_regclass('pg_catalog.pg_dist_partition');
    is_listed boolean := false;
begin
    if catalog is not null then
        execute format('select exists (select from %s where logicalrelid = $1)', catalog)
        into is_listed using in_table;
    end if;
    return is_listed;
end
$_$;

CREATE FUNCTION public.is_eligible(task_type text, deadline timestamp with time zone, submitted_by text, authored_by text, archetype text, claimant text, capabilities text[], at timestamp with time zone) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select (deadline is null or deadline > at)
        and not (task_type in ('evaluate', 'review')
            and (submitted_by = claimant or authored_by is not distinct from claimant))
        and (archetype is null or coalesce(archetype = any(capabilities), false))
$$;

CREATE FUNCTION public.is_handoff_after(is_automatic boolean, created_at timestamp with time zone, id uuid, other_is_automatic boolean, other_created_at timestamp with time zone, other_id uuid) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case when is_automatic = other_is_automatic
        then (created_at, id) < (other_created_at, other_id)
        else is_automatic end
$$;

CREATE FUNCTION public.is_heartbeat_due(ended_at timestamp with time zone, last_heartbeat_at timestamp with time zone, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select ended_at is not null or last_heartbeat_at < at - heartbeat_interval()
$$;

CREATE FUNCTION public.is_live(in_workspace text, in_agent_id text, in_session_id text, since timestamp with time zone, expires_at timestamp with time zone, session_timeout interval) RETURNS boolean
    LANGUAGE plpgsql STABLE
    AS $$
declare
    at timestamptz := clock_timestamp();
    ended_at timestamptz;
    last_heartbeat_at timestamptz;
    revived_at timestamptz;
begin
    if in_session_id is not null and expires_at > at then
        select s.ended_at, s.last_heartbeat_at, s.revived_at
        into ended_at, last_heartbeat_at, revived_at
        from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    end if;
    return is_live_with_session(
        since, expires_at, session_timeout, at, ended_at, last_heartbeat_at, revived_at);
end
$$;

CREATE FUNCTION public.is_live_with_session(since timestamp with time zone, expires_at timestamp with time zone, session_timeout interval, at timestamp with time zone, ended_at timestamp with time zone, last_heartbeat_at timestamp with time zone, revived_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select coalesce(
        expires_at > at
        and not coalesce(
            not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) or revived_at > since,
            false),
        false)
$$;

CREATE FUNCTION public.is_on_page(place bigint, bytes bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select place = 1 or bytes <= 1048576
$$;

CREATE FUNCTION public.is_owned_by_other(agent_id text, session_id text, caller_agent_id text, caller_session_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select agent_id <> caller_agent_id or coalesce(session_id <> caller_session_id, false)
$$;

CREATE FUNCTION public.is_owned_by_other_without_proof(agent_id text, session_id text, is_proven boolean, caller_agent_id text, caller_session_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select is_owned_by_other(
        agent_id, case when is_proven then null else session_id end, caller_agent_id, caller_session_id)
$$;

CREATE FUNCTION public.is_quota_reached(in_workspace text, in_agent_id text, in_kind text, in_limit integer, draw double precision, session_timeout interval) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    last_count timestamptz;
    is_reached boolean;
begin
    if in_limit = 0 then
        return false;
    end if;
    select q.counted_at into last_count from quota_reached q
    where q.workspace = in_workspace and q.kind = in_kind and q.agent_id = in_agent_id;
    if last_count is null and not is_counted(in_limit, draw) then
        return false;
    elsif last_count > at - interval '10 seconds' and not is_counted(in_limit, 1) then
        return true;
    end if;
    is_reached := count_for_quota(in_workspace, in_agent_id, in_kind, in_limit, session_timeout) >= in_limit;
    if is_reached then
        perform mark_quota_reached(in_workspace, in_agent_id, in_kind);
    elsif last_count is not null then
        delete from quota_reached q
        where q.workspace = in_workspace and q.kind = in_kind and q.agent_id = in_agent_id;
    end if;
    return is_reached;
end
$$;

CREATE FUNCTION public.is_quota_refusal(in_verdict text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select starts_with(in_verdict, 'quota_exceeded: ')
$$;

CREATE FUNCTION public.is_session_after(heartbeat timestamp with time zone, agent_id text, session_id text, other_heartbeat timestamp with time zone, other_agent_id text, other_session_id text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select heartbeat < other_heartbeat or (heartbeat = other_heartbeat
        and (agent_id, session_id) > (other_agent_id, other_session_id))
$$;

CREATE FUNCTION public.is_session_live(ended_at timestamp with time zone, last_heartbeat_at timestamp with time zone, session_timeout interval, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select ended_at is null and last_heartbeat_at > at - session_timeout
$$;

CREATE FUNCTION public.is_telling_due(untold_at timestamp with time zone, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select coalesce(untold_at < at - heartbeat_interval(), false)
$$;

CREATE FUNCTION public.is_waiter_alive(alive_until timestamp with time zone, at timestamp with time zone) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select alive_until > at
$$;

CREATE FUNCTION public.list_claim_tokens(in_workspace text, in_agent_id text, in_ids uuid[]) RETURNS TABLE(task_id uuid, claim_token text)
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.list_claims_elsewhere(in_workspace text, in_agent_id text, in_session_id text) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    claims jsonb := '[]'::jsonb;
    held record;
begin
    for held in
        select t.id, t.claim_token, t.claimed_session_id, t.claim_expires_at from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id <> in_session_id and t.status in ('claimed', 'running')
            and not is_claim_expired(t.status, t.claim_expires_at, at)
        order by t.id limit most_held() + 1
    loop
        perform mark_claim_known(in_workspace, held.id, held.claim_token);
        claims := claims || held_claim(
            held.id, held.claim_token, held.claimed_session_id, held.claim_expires_at);
    end loop;
    return claims;
end
$$;

CREATE FUNCTION public.list_handoffs(in_workspace text, cx public.request, in_agent_id text, in_limit bigint, in_parameters jsonb, in_after_automatic boolean, in_after_created_at timestamp with time zone, in_after_id uuid) RETURNS TABLE(id uuid, agent_id text, session_id text, summary text, completed_work json, in_progress json, decisions json, next_steps json, relevant_files json, created_at timestamp with time zone, content json, is_automatic boolean, has_more boolean)
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
    found_count bigint;
begin
    perform record_heartbeat(in_workspace, cx);
    return query
    select p.id, p.agent_id, p.session_id, p.summary, p.completed_work, p.in_progress, p.decisions,
        p.next_steps, p.relevant_files, p.created_at, p.content, p.is_automatic, p.has_more
    from (
        select h.*, row_number() over page as place, sum(h.stored_bytes) over page as bytes,
            lead(true, 1, false) over page as has_more
        from newest_handoffs(
            in_workspace, in_agent_id, in_limit + 1, in_after_automatic, in_after_created_at,
            in_after_id) h
        window page as (
            order by h.is_automatic, h.created_at desc, h.id desc rows unbounded preceding)
    ) p
    where is_on_page(p.place, p.bytes)
    order by p.place;
    get diagnostics found_count = row_count;
    perform record_audit(
        in_workspace, cx, 'read_handoff', in_parameters,
        jsonb_build_object('count', least(found_count, in_limit)), true);
end
$$;

CREATE FUNCTION public.list_held_elsewhere(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    locks jsonb := '[]'::jsonb;
    claims jsonb := '[]'::jsonb;
    ports jsonb := '[]'::jsonb;
    held record;
begin
    for held in
        select l.key, l.token, l.session_id, l.expires_at, l.locked_at from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id <> in_session_id
        order by l.key
    loop
        exit when jsonb_array_length(locks) > most_held();
        continue when not is_live(in_workspace, in_agent_id, held.session_id, held.locked_at,
            held.expires_at, session_timeout);
        locks := locks || held_lock(held.key, held.token, held.session_id, held.expires_at);
    end loop;
    claims := list_claims_elsewhere(in_workspace, in_agent_id, in_session_id);
    for held in
        select p.slot, p.session_id, p.expires_at from live_port_blocks(in_workspace, session_timeout) p
        where p.agent_id = in_agent_id and p.session_id <> in_session_id
        order by p.slot limit most_held() + 1
    loop
        ports := ports || held_ports(held.slot, held.session_id, held.expires_at);
    end loop;
    if locks || claims || ports = '[]' then
        return null;
    end if;
    return held_lists(locks, claims, ports);
end
$$;

CREATE FUNCTION public.list_losses(in_workspace text, in_agent_id text, in_session_id text) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    listed_kind text;
    listed jsonb[];
    losses jsonb[] := array[]::jsonb[];
    is_truncated boolean := false;
begin
    foreach listed_kind in array array['lock', 'claim', 'port'] loop
        listed := array(
            select loss_entry(l.kind, l.session_id, l.name, l.token) from session_loss l
            where l.workspace = in_workspace and l.agent_id = in_agent_id
                and l.session_id = in_session_id and l.kind = listed_kind
            order by l.name, l.since limit most_losses() + 1);
        is_truncated := is_truncated or cardinality(listed) > most_losses();
        losses := losses || listed[1:most_losses()];
    end loop;
    return losses_by_kind(losses, is_truncated);
end
$$;

CREATE FUNCTION public.list_open_claims(in_workspace text, cx public.request, in_except uuid[]) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
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

CREATE TABLE public.port_block (
    workspace text NOT NULL COLLATE pg_catalog."C",
    slot integer NOT NULL,
    agent_id text NOT NULL COLLATE pg_catalog."C",
    session_id text NOT NULL COLLATE pg_catalog."C",
    allocated_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    CONSTRAINT port_block_slot_range CHECK ((slot >= 0))
);

CREATE FUNCTION public.live_port_blocks(in_workspace text, session_timeout interval) RETURNS SETOF public.port_block
    LANGUAGE plpgsql STABLE
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    return query
    select p.* from port_block p
    left join lateral (
        select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
        limit 1
    ) s on true
    where p.workspace = in_workspace
        and is_live_with_session(p.allocated_at, p.expires_at, session_timeout, at,
            s.ended_at, s.last_heartbeat_at, s.revived_at)
    order by p.allocated_at, p.slot;
end
$$;

CREATE FUNCTION public.lock_next_task(in_workspace text, cx public.request, in_task_types text[], in_trust integer, in_waits boolean) RETURNS public.next_task
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.loss_entry(kind text, session_id text, name text, token text) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select jsonb_build_object('kind', kind, 'entry', case kind
        when 'lock' then jsonb_build_object(
            'file_path', name, 'fencing_token', token::bigint, 'session_id', session_id)
        when 'claim' then jsonb_build_object(
            'task_id', name, 'claim_token', token, 'session_id', session_id)
        else jsonb_build_object('slot', name::integer, 'session_id', session_id) end)
$$;

CREATE FUNCTION public.losses_by_kind(in_losses jsonb[], is_truncated boolean) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    AS $$
begin
    return (
        select jsonb_build_object(
            'locks', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'lock'), '[]'),
            'claims', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'claim'), '[]'),
            'ports', coalesce(jsonb_agg(entry order by entry) filter (where kind = 'port'), '[]'))
        from (
            select distinct loss ->> 'kind' as kind, loss -> 'entry' as entry from unnest(in_losses) loss
        ) listed
    ) || case when is_truncated then '{"truncated": true}'::jsonb else '{}'::jsonb end;
end
$$;

CREATE FUNCTION public.maintenance_batch() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select 1000
$$;

CREATE FUNCTION public.mark_agent_alive(in_workspace text, in_agent_id text, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    due_session_id text;
begin
    for due_session_id in
        select s.session_id from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.ended_at is null
            and s.last_heartbeat_at > at - session_timeout
            and s.last_heartbeat_at < at - heartbeat_interval()
        order by s.session_id
        for update skip locked
    loop
        at := clock_timestamp();
        update agent_session s set last_heartbeat_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = due_session_id
            and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at);
    end loop;
end
$$;

CREATE FUNCTION public.mark_claim_known(in_workspace text, in_id uuid, in_claim_token text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform from work_task t
    where t.workspace = in_workspace and t.id = in_id and t.claim_token = in_claim_token
        and not t.is_claim_known
    for update skip locked;
    if found then
        update work_task t set is_claim_known = true where t.workspace = in_workspace and t.id = in_id;
    end if;
end
$$;

CREATE FUNCTION public.mark_quota_reached(in_workspace text, in_agent_id text, in_kind text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    insert into quota_reached as q (workspace, kind, agent_id, counted_at)
    values (in_workspace, in_kind, in_agent_id, at)
    on conflict (workspace, kind, agent_id) do update set counted_at = excluded.counted_at;
end
$$;

CREATE FUNCTION public.mark_session_alive(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    was_live boolean;
begin
    select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
        and not is_telling_due(s.untold_at, at)
    into was_live
    from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    if was_live then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
        for update skip locked;
        if not found then
            return;
        end if;
        -- Read again with the row locked: another call may have ended the session since.
        at := clock_timestamp();
        select is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at)
        into was_live
        from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    end if;
    if not was_live then
        perform raise_session_lost();
    end if;
    update agent_session s set last_heartbeat_at = at
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
end
$$;

CREATE FUNCTION public.memory_candidates(in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_oldest timestamp with time zone, in_finder tsquery) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
begin
    if in_finder is null then
        return array(
            select m.id from memory m
            where m.workspace = in_workspace and (in_agent_id is null or m.agent_id = in_agent_id)
                and (in_tags is null or m.tags && in_tags)
                and (in_event_type is null or m.event_type = in_event_type)
                and (in_oldest is null or m.created_at >= in_oldest)
            order by m.created_at desc, m.id limit 3000);
    end if;
    return array(
        select found.id from (
            select m.id, m.created_at from memory m
            where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ in_finder
                and (in_agent_id is null or m.agent_id = in_agent_id)
                and (in_tags is null or m.tags && in_tags)
                and (in_event_type is null or m.event_type = in_event_type)
                and (in_oldest is null or m.created_at >= in_oldest)
            limit 10000
        ) as found
        order by found.created_at desc, found.id limit 3000);
end
$$;

CREATE FUNCTION public.memory_fit(in_search tsvector, in_summary text, in_lessons text[], in_tags text[], in_words public.search_word[], in_has_all boolean) RETURNS double precision
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    search tsvector := in_search || ''; -- decompressed once
    texts text;
    item search_word;
    level integer;
    fit float8 := 0;
    has_all boolean := true;
begin
    foreach item in array in_words loop
        level := case when search @@ item.exact then 3 when search @@ item.beginning then 2 else 0 end;
        if level = 0 and item.forms <> '{}' then
            texts := coalesce(texts, memory_text(in_summary, in_lessons, in_tags));
            level := has_form(texts, item.forms)::integer;
        end if;
        has_all := has_all and (level > 0 or item.weight < 1);
        if in_has_all and not has_all then
            return null;
        end if;
        fit := fit + item.weight * level;
    end loop;
    return case when fit > 0 and (has_all = in_has_all or in_has_all is null)
        then fit + 1000 * has_all::integer end;
end
$$;

CREATE FUNCTION public.memory_relevance(in_created_at timestamp with time zone) RETURNS double precision
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select exp(-0.1 * least(5000, greatest(0,
        extract(epoch from statement_timestamp() - in_created_at) / 86400))::float8)
$$;

CREATE FUNCTION public.memory_terms(in_search tsvector, in_summary text, in_lessons text[], in_tags text[]) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE COST 1e+06 PARALLEL SAFE
    SET search_path TO '$user', 'public'
    SET jit TO 'off'
    AS $$
begin
    return array_to_tsvector(
        search_trigrams(memory_text(in_summary, in_lessons, in_tags))
        || array(
            select lexeme from unnest(tsvector_to_array(in_search)) as lexeme
            where length(lexeme) between 1 and 2));
end
$$;

CREATE FUNCTION public.memory_text(in_summary text, in_lessons text[], in_tags text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    return ' ' || left(array_to_string(search_forms(concat_ws(' ', in_summary,
        left(array_to_string(in_lessons, ' '), 30000),
        left(array_to_string(in_tags, ' '), 15000))), ' '), 130000);
end
$$;

CREATE FUNCTION public.merge_distinct(in_first text[], in_second text[]) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    return coalesce((
        select array_agg(element order by first_position) from (
            select element, min(n) as first_position
            from unnest(in_first || in_second) with ordinality as list (element, n)
            group by element
        ) as elements), '{}');
end
$$;

CREATE FUNCTION public.most_held() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select 100
$$;

CREATE FUNCTION public.most_losses() RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select 100
$$;

CREATE TABLE public.handoff (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL,
    session_id text COLLATE pg_catalog."C",
    summary text NOT NULL,
    completed_work json NOT NULL,
    in_progress json NOT NULL,
    decisions json NOT NULL,
    next_steps json NOT NULL,
    relevant_files json NOT NULL,
    content json NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    is_automatic boolean DEFAULT false NOT NULL,
    stored_bytes integer GENERATED ALWAYS AS (((((((octet_length(summary) + octet_length((completed_work)::text)) + octet_length((in_progress)::text)) + octet_length((decisions)::text)) + octet_length((next_steps)::text)) + octet_length((relevant_files)::text)) + octet_length((content)::text))) STORED NOT NULL
);

CREATE FUNCTION public.newest_handoffs(in_workspace text, in_agent_id text, in_limit bigint, in_after_automatic boolean, in_after_created_at timestamp with time zone, in_after_id uuid) RETURNS SETOF public.handoff
    LANGUAGE plpgsql STABLE
    AS $$
begin
    if in_agent_id is null then
        return query
        select * from handoff h where h.workspace = in_workspace
            and (in_after_id is null or is_handoff_after(
                h.is_automatic, h.created_at, h.id, in_after_automatic, in_after_created_at,
                in_after_id))
        order by h.is_automatic, h.created_at desc, h.id desc limit in_limit;
    else
        return query
        select * from handoff h where h.workspace = in_workspace and h.agent_id = in_agent_id
            and (in_after_id is null or is_handoff_after(
                h.is_automatic, h.created_at, h.id, in_after_automatic, in_after_created_at,
                in_after_id))
        order by h.is_automatic, h.created_at desc, h.id desc limit in_limit;
    end if;
end
$$;

CREATE FUNCTION public.newest_live_session(in_workspace text, in_agent_id text, in_agent_type text, session_timeout interval) RETURNS text
    LANGUAGE sql
    AS $$
    select s.session_id from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.agent_type = in_agent_type
        and is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, clock_timestamp())
    order by s.started_at desc, s.session_id desc limit 1
$$;

CREATE FUNCTION public.overdue_tasks(in_workspace text, at timestamp with time zone, in_limit integer) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    AS $$
begin
    return array((
        select t.id from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.deadline <= at
        order by t.deadline limit in_limit
    ) union all (
        select t.id from work_task t
        where t.workspace = in_workspace and t.status = 'pending' and t.open_dependencies = 0
            and t.is_delayed and t.available_at <= at
        order by t.available_at limit in_limit
    ) union all (
        select t.id from work_task t
        where t.workspace = in_workspace and not t.is_expiry_recorded
            and is_claim_expired(t.status, t.claim_expires_at, at)
        order by t.claim_expires_at limit in_limit
    ));
end
$$;

CREATE FUNCTION public.own_functions() RETURNS TABLE(name regprocedure, first_argument text, settings text[])
    LANGUAGE sql STABLE
    AS $$
    select p.oid::regprocedure, p.proargnames[1], p.proconfig
    from pg_proc p
    where p.pronamespace = current_schema()::regnamespace and p.prokind = 'f'
        and not exists (
            select from pg_depend d
            where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    order by p.oid
$$;

CREATE FUNCTION public.poll_lock_waiters(in_workspace text, in_waiter_ids uuid[], session_timeout interval) RETURNS SETOF uuid
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update lock_waiter w set alive_until = at + waiter_lifetime()
    where w.workspace = in_workspace and w.id = any(in_waiter_ids);
    delete from lock_waiter w
    where w.workspace = in_workspace and not is_waiter_alive(w.alive_until, at - interval '1 minute');
    return query
    select waiter.id from lock_waiter waiter
    where waiter.workspace = in_workspace and waiter.id = any(in_waiter_ids)
        and not exists (
            select from lock_waiter w
            where w.workspace = in_workspace and w.key = waiter.key and is_waiter_alive(w.alive_until, at)
                and is_owned_by_other(w.agent_id, w.session_id, waiter.agent_id, waiter.session_id)
                and (w.waiting_since, w.id) < (waiter.waiting_since, waiter.id)
        ) and not exists (
            select from file_lock l
            left join lateral (
                select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
                where s.workspace = in_workspace and s.agent_id = l.agent_id
                    and s.session_id = l.session_id
                limit 1
            ) s on true
            where l.workspace = in_workspace and l.key = waiter.key
                and is_owned_by_other(l.agent_id, l.session_id, waiter.agent_id, waiter.session_id)
                and is_live_with_session(l.locked_at, l.expires_at, session_timeout, at,
                    s.ended_at, s.last_heartbeat_at, s.revived_at)
        );
end
$$;

CREATE FUNCTION public.poll_work_waiters(in_workspace text, in_waiter_ids uuid[], in_agent_ids text[], in_trusts integer[], in_task_types jsonb, session_timeout interval) RETURNS SETOF uuid
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_generic_plan'
    AS $$
declare
    at timestamptz := clock_timestamp();
    has_overdue_tasks boolean := overdue_tasks(in_workspace, at, 1) <> '{}';
    cx request;
    taken_tasks uuid[] := array[]::uuid[];
    task_types text[];
    task_id uuid;
begin
    for n in 1..cardinality(in_waiter_ids) loop
        task_types := to_text_array(in_task_types -> (n - 1));
        cx.agent_id := in_agent_ids[n];
        cx.session_timeout := session_timeout;
        select c.id into task_id
        from claimable_tasks(in_workspace, cx, in_trusts[n], task_types, at) c
        where c.id <> all(taken_tasks)
        limit 1;
        if task_id is not null or has_overdue_tasks then
            taken_tasks := taken_tasks || task_id;
            has_overdue_tasks := has_overdue_tasks and task_id is not null;
            return next in_waiter_ids[n];
        end if;
    end loop;
end
$$;

CREATE FUNCTION public.prepare_service_role(in_role text, in_functions text[]) RETURNS SETOF text
    LANGUAGE plpgsql
    AS $$
declare
    revoked integer;
    granted integer;
begin
    if to_regrole(quote_ident(in_role)) is null then
        return next create_service_role(in_role);
    end if;
    perform refuse_powerful_role(in_role);
    revoked := revoke_surplus_rights(in_role);
    if revoked > 0 then
        return next format('revoked %s rights that the service does not need', revoked);
    end if;
    granted := grant_service_rights(in_role, in_functions);
    return next format('granted %s rights', granted);
    begin
        perform set_time_limits(in_role);
        return next 'set its time limits in this database';
    exception when insufficient_privilege then
        return next format(
            'could not set its time limits: %s may not alter this role; have an administrator run'
            ' "select set_time_limits(''%s'')" in this database', current_user, in_role);
    end;
end
$$;

CREATE FUNCTION public.profile_workspace(in_workspace text) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
begin
    return case when exists (select from profile p where p.workspace = in_workspace) then in_workspace
        else 'default' end;
end
$$;

CREATE FUNCTION public.quota_refusal(in_kind text, in_per text, in_limit integer) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    counted text := case in_kind
        when 'locks' then 'live locks' when 'sessions' then 'live sessions'
        when 'tasks' then 'open tasks' when 'idempotency_keys' then 'idempotency keys'
        when 'mcp_connections' then 'MCP connections' else in_kind end;
begin
    return 'quota_exceeded: ' || counted || ' per ' || in_per || ', ' || in_limit || '; QUOTA_'
        || upper(in_kind) || '_PER_' || upper(in_per);
end
$$;

CREATE FUNCTION public.raise_session_lost() RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    raise exception 'session_lost' using errcode = 'AC002';
end
$$;

CREATE FUNCTION public.ready_archetypes(in_workspace text) RETURNS SETOF text
    LANGUAGE plpgsql STABLE ROWS 5
    AS $$
begin
    return query
    with recursive found as (
        (
            select t.archetype from work_task t
            where t.workspace = in_workspace and t.is_ready and t.archetype is not null
            order by t.archetype limit 1
        ) union all (
            select (
                select t.archetype from work_task t
                where t.workspace = in_workspace and t.is_ready and t.archetype is not null
                    and t.archetype > found.archetype
                order by t.archetype limit 1
            )
            from found where found.archetype is not null
        )
    )
    select archetype from found where archetype is not null;
end
$$;

CREATE FUNCTION public.recall_memories(in_workspace text, in_agent_id text, in_tags text[], in_event_type text, in_since timestamp with time zone, in_min_relevance double precision, in_query text, in_scores jsonb, in_limit bigint) RETURNS SETOF public.memory
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
declare
    words search_word[] := search_query_words(in_query);
    -- A minimum relevance is a maximum age.
    oldest timestamptz := greatest(in_since, case when in_min_relevance > 0
        then statement_timestamp() - make_interval(secs => -864000 * ln(in_min_relevance)) end);
    finder tsquery;
    found_count bigint;
begin
    if words is null or words = '{}' then
        return query
        select * from memory m
        where m.workspace = in_workspace and (in_agent_id is null or m.agent_id = in_agent_id)
            and (in_tags is null or m.tags && in_tags)
            and (in_event_type is null or m.event_type = in_event_type)
            and (oldest is null or m.created_at >= oldest)
        order by m.created_at desc, m.id limit in_limit;
        return;
    end if;
    if not has_many_memories(in_workspace) then
        return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
            oldest, words, null, null, in_scores, in_limit);
        return;
    end if;
    select string_agg('(' || w.finder || ')', ' & ')::tsquery into finder
    from unnest(words) w where w.weight = 1;
    return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
        oldest, words, finder, true, in_scores, in_limit);
    get diagnostics found_count = row_count;
    if found_count < in_limit and cardinality(words) > 1 then
        finder := any_word_finder(in_workspace, words);
        return query select * from fitting_memories(in_workspace, in_agent_id, in_tags, in_event_type,
            oldest, words, finder, false, in_scores, in_limit - found_count);
    end if;
end
$$;

CREATE FUNCTION public.record_agent_heartbeat(in_workspace text, in_agent_id text, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    perform from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.ended_at is null
        and s.last_heartbeat_at > at - session_timeout
        and s.last_heartbeat_at < at - heartbeat_interval()
    limit 1;
    if found then
        perform mark_agent_alive(in_workspace, in_agent_id, session_timeout);
    end if;
    perform from work_task t
    left join lateral (
        select s.ended_at, s.last_heartbeat_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = t.claimed_session_id
        limit 1
    ) s on true
    where t.workspace = in_workspace and t.claimed_by = in_agent_id
        and t.status in ('claimed', 'running')
        and (t.claimed_session_id is null
            or is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at))
        and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
            t.lease_minutes, case when t.claimed_session_id is not null then session_timeout end, at)
    limit 1;
    if found then
        perform renew_due_claims(in_workspace, in_agent_id, null, session_timeout);
    end if;
end
$$;

CREATE FUNCTION public.record_audit(in_workspace text, cx public.request, operation text, parameters jsonb, result jsonb, success boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    duration_ms double precision := request_duration_ms(cx);
begin
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result,
        success, duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, operation, parameters, result,
        success, duration_ms
    );
end
$$;

CREATE FUNCTION public.record_denial(in_workspace text, cx public.request, operation text, resource text, engine text, reason text, diagnostics text[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform record_audit(
        in_workspace, cx, 'policy_decision',
        jsonb_build_object(
            'operation', operation, 'resource', resource, 'engine', engine, 'context', null,
            'advisory', false
        ),
        jsonb_build_object(
            'allowed', false, 'reason', reason, 'policy_id', null, 'diagnostics', to_jsonb(diagnostics)
        ),
        false
    );
end
$$;

CREATE FUNCTION public.record_guardrail_violations(in_workspace text, cx public.request, violations jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    if violations = '[]' or violations is null then
        return;
    end if;
    insert into guardrail_violation (
        workspace, agent_id, session_id, request_id, trust_level, pattern_name, category, severity,
        blocked, operation_text, matched_text, file_paths
    )
    select
        in_workspace, cx.agent_id, cx.session_id, cx.id, v.trust_level, v.pattern_name, v.category,
        v.severity, v.blocked, v.operation_text, v.matched_text, v.file_paths
    from jsonb_to_recordset(violations) as v (
        trust_level smallint, pattern_name text, category text, severity text, blocked boolean,
        operation_text text, matched_text text, file_paths text[]
    );
end
$$;

CREATE FUNCTION public.record_heartbeat(in_workspace text, cx public.request) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    is_due boolean;
    session_timeout interval;
begin
    if cx.session_id is null then
        perform record_agent_heartbeat(in_workspace, cx.agent_id, cx.session_timeout);
        return;
    end if;
    select is_heartbeat_due(s.ended_at, s.last_heartbeat_at, at) or is_telling_due(s.untold_at, at),
        cx.session_timeout
    into is_due, session_timeout
    from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id
        and s.session_id = cx.session_id;
    if is_due then
        perform mark_session_alive(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout);
    end if;
    perform from work_task t
    where t.workspace = in_workspace and t.claimed_by = cx.agent_id
        and t.status in ('claimed', 'running')
        and coalesce(t.claimed_session_id = cx.session_id, t.claimed_session_id is null)
        and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
            t.lease_minutes, case when t.claimed_session_id is not null then session_timeout end, at)
    limit 1;
    if found then
        perform renew_due_claims(in_workspace, cx.agent_id, cx.session_id, cx.session_timeout);
    end if;
end
$$;

CREATE FUNCTION public.record_heartbeat_of_read(in_workspace text, cx public.request, in_raises_loss boolean) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    if in_raises_loss then
        perform record_heartbeat(in_workspace, cx);
        return true;
    end if;
    begin
        perform record_heartbeat(in_workspace, cx);
    exception when sqlstate 'AC002' then
        update agent_session s set last_heartbeat_at = at
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = cx.session_id
            and is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at);
        return false;
    end;
    return true;
end
$$;

CREATE FUNCTION public.record_key_list(in_workspace text, cx public.request, in_count bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_audit(
        in_workspace, cx, 'manage_keys', '{}', jsonb_build_object('count', in_count), true);
end
$$;

CREATE FUNCTION public.record_loss(in_workspace text, in_agent_id text, in_session_id text, in_kind text, in_name text, in_token text, in_since timestamp with time zone, in_expires_at timestamp with time zone, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    session agent_session;
begin
    if in_session_id is null then
        return;
    end if;
    select * into session from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
    if session.session_id is not null
        and not is_session_live(session.ended_at, session.last_heartbeat_at, session_timeout, at)
        and was_held_at_last_call(in_since, in_expires_at, session_timeout, session.last_heartbeat_at,
            session.revived_at)
    then
        perform store_loss(
            in_workspace, in_agent_id, in_session_id, in_kind, in_name, in_token, in_since);
    end if;
end
$$;

CREATE FUNCTION public.record_lost_claim(in_workspace text, in_id uuid, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.record_policy_check(in_workspace text, cx public.request, in_parameters jsonb, in_decision jsonb, in_key text, in_file_limit bigint, in_files_modified bigint, in_denial text, OUT allowed boolean, OUT reason text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    is_over_limit boolean := false;
begin
    perform record_heartbeat(in_workspace, cx);
    if in_file_limit is not null then
        is_over_limit := in_file_limit <= greatest(
            in_files_modified,
            count_other_file_locks(in_workspace, cx.agent_id, in_key, cx.session_timeout));
    end if;
    allowed := (in_decision -> 'allowed')::boolean and not is_over_limit;
    reason := case when is_over_limit then in_denial else in_decision ->> 'reason' end;
    perform record_audit(
        in_workspace, cx, 'policy_decision', in_parameters,
        jsonb_build_object(
            'allowed', allowed, 'reason', reason, 'policy_id', null,
            'diagnostics', case when is_over_limit then '[]' else in_decision -> 'diagnostics' end),
        allowed);
end
$$;

CREATE FUNCTION public.record_refused_key(in_workspace text, cx public.request, in_operation text, in_reason text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    perform record_audit(
        in_workspace, cx, in_operation, '{}', jsonb_build_object('reason', in_reason), false);
end
$$;

CREATE FUNCTION public.record_refused_submission(in_workspace text, cx public.request, task public.task_submission, in_reason text) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform record_audit(
        in_workspace, cx, 'submit_task',
        jsonb_build_object('task_type', task.task_type, 'priority', task.priority),
        jsonb_build_object('reason', in_reason), false);
end
$$;

CREATE FUNCTION public.record_session_heartbeat(in_workspace text, cx public.request, in_phase_archetype text, OUT session_id text) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    select s.session_id into session_id from agent_session s
    where s.workspace = in_workspace and s.agent_id = cx.agent_id
        and case when cx.session_id is null
            then is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at)
            else s.session_id = cx.session_id end
    order by s.last_heartbeat_at desc limit 1;
    if session_id is null then
        return;
    end if;
    perform record_heartbeat(in_workspace, cx);
    if in_phase_archetype is not null then
        update agent_session s set phase_archetype = in_phase_archetype
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and s.session_id = record_session_heartbeat.session_id
            and s.phase_archetype is distinct from in_phase_archetype;
    end if;
end
$$;

CREATE FUNCTION public.record_submission(in_workspace text, cx public.request, task public.task_submission, verdict text, in_task_id uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    parameters jsonb := jsonb_build_object('task_type', task.task_type, 'priority', task.priority);
begin
    if task.change_id is not null then
        parameters := parameters || jsonb_build_object('change_id', task.change_id);
    end if;
    if verdict <> 'deduplicated' and task.violations <> '[]' then
        perform record_guardrail_violations(in_workspace, cx, task.violations);
    end if;
    perform record_audit(
        in_workspace, cx, 'submit_task', parameters,
        case when verdict = 'blocked'
            then jsonb_build_object('reason', task.refusal, 'guardrails', task.patterns)
            else jsonb_build_object(
                'task_id', in_task_id, 'action', verdict, 'guardrails', task.patterns) end,
        verdict <> 'blocked');
end
$$;

CREATE FUNCTION public.recount_quota(in_workspace text, in_agent_id text, in_kind text, in_limits integer[], session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    perform is_quota_reached(in_workspace, in_agent_id, in_kind, in_limits[1], 0, session_timeout);
    perform is_quota_reached(in_workspace, '', in_kind, in_limits[2], 0, session_timeout);
end
$$;

CREATE FUNCTION public.refuse_audit_log_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
begin
    raise exception 'audit_log is append-only: % is refused', tg_op using errcode = 'restrict_violation';
end
$$;

CREATE FUNCTION public.refuse_connection(in_workspace text, in_agent_id text, in_connection_id text, in_quota integer[], session_timeout interval) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    refusal text := refused_by_quota(
        in_workspace, in_agent_id, 'mcp_connections', in_quota, session_timeout);
begin
    if refusal is null then
        return null;
    end if;
    perform from mcp_connection c
    where c.workspace = in_workspace and c.agent_id = in_agent_id
        and c.connection_id = in_connection_id;
    return case when not found then refusal end;
end
$$;

CREATE FUNCTION public.refuse_idempotency_key(in_workspace text, cx public.request, in_operation text, in_key text, in_quota integer[]) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    refusal text := refused_by_quota(
        in_workspace, cx.agent_id, 'idempotency_keys', in_quota, cx.session_timeout);
begin
    if refusal is null then
        return null;
    end if;
    perform from idempotency_key k
    where k.workspace = in_workspace and k.agent_id = cx.agent_id and k.key = in_key;
    if found then
        return null;
    end if;
    perform record_refused_key(in_workspace, cx, in_operation, refusal);
    return refusal;
end
$$;

CREATE FUNCTION public.refuse_powerful_role(in_role text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    table_owner oid := (select c.relowner from pg_class c where c.oid = 'audit_log'::regclass);
    problem text;
begin
    select case
        when r.rolsuper then 'it is a superuser'
        when r.oid = table_owner then 'it owns the tables'
        when pg_has_role(r.oid, table_owner, 'member') then 'it is a member of the owner of the tables'
        when r.rolcreaterole then 'it may create roles'
        when exists (select from api_roles() a where a.id = r.oid) then 'a REST interface uses it'
    end
    into problem
    from pg_roles r where r.rolname = in_role;
    if problem is not null then
        raise exception 'the role % cannot be the role of the service, because %: name another one',
            in_role, problem;
    end if;
end
$$;

CREATE FUNCTION public.refuse_registration(in_workspace text, cx public.request, in_session_id text, in_connection_id text, in_quota integer[], in_quota_of_connections integer[]) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    refusal text := refused_by_quota(
        in_workspace, cx.agent_id, 'sessions', in_quota, cx.session_timeout);
begin
    if refusal is not null then
        perform from agent_session s
        where s.workspace = in_workspace and s.agent_id = cx.agent_id and s.session_id = in_session_id;
        refusal := case when not found then refusal end;
    end if;
    if refusal is null and in_connection_id is not null then
        refusal := refuse_connection(in_workspace, cx.agent_id, in_connection_id,
            in_quota_of_connections, cx.session_timeout);
    end if;
    return refusal;
end
$$;

CREATE FUNCTION public.refused_by_quota(in_workspace text, in_agent_id text, in_kind text, in_limits integer[], session_timeout interval) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    draw double precision := random();
    smallest integer := least(nullif(in_limits[1], 0), nullif(in_limits[2], 0));
begin
    if smallest is null then
        return null;
    end if;
    perform from quota_reached q where q.workspace = in_workspace and q.kind = in_kind limit 1;
    if not found and not is_counted(smallest, draw) then
        return null;
    end if;
    if is_quota_reached(in_workspace, in_agent_id, in_kind, in_limits[1], draw, session_timeout) then
        return quota_refusal(in_kind, 'agent', in_limits[1]);
    elsif is_quota_reached(in_workspace, '', in_kind, in_limits[2], draw, session_timeout) then
        return quota_refusal(in_kind, 'workspace', in_limits[2]);
    end if;
    return null;
end
$$;

CREATE FUNCTION public.register_session(in_workspace text, cx public.request, in_session_id text, in_capabilities text[], in_current_task text, in_delegated_from text, in_metadata json, in_phase_archetype text, in_connection_id text, in_quota integer[], in_quota_of_connections integer[]) RETURNS text
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
    refusal text := refuse_registration(in_workspace, cx, in_session_id, in_connection_id, in_quota,
        in_quota_of_connections);
    at timestamptz := clock_timestamp();
    claims_expire_at timestamptz := claim_expiry(null, cx.session_timeout, at);
    ended_at timestamptz;
    last_heartbeat_at timestamptz;
begin
    if refusal is not null then
        perform record_audit(
            in_workspace, cx, 'register_agent',
            jsonb_build_object('session_id', in_session_id, 'capabilities', to_jsonb(in_capabilities)),
            jsonb_build_object('reason', refusal), false);
        return refusal;
    end if;
    insert into agent_session as s (
        workspace, agent_id, session_id, agent_type, capabilities, current_task, delegated_from,
        metadata, phase_archetype
    ) values (
        in_workspace, cx.agent_id, in_session_id, cx.agent_type, in_capabilities, in_current_task,
        in_delegated_from, in_metadata, in_phase_archetype
    )
    on conflict (workspace, agent_id, session_id) do nothing;
    if not found then
        perform mark_session_alive(in_workspace, cx.agent_id, in_session_id, cx.session_timeout);
        update agent_session s set
            agent_type = cx.agent_type, capabilities = in_capabilities,
            current_task = in_current_task, delegated_from = in_delegated_from,
            metadata = in_metadata, phase_archetype = in_phase_archetype
        where s.workspace = in_workspace and s.agent_id = cx.agent_id
            and s.session_id = in_session_id
        returning s.ended_at, s.last_heartbeat_at into ended_at, last_heartbeat_at;
        -- The update has waited for a call that was ending the session.
        if not is_session_live(ended_at, last_heartbeat_at, cx.session_timeout, clock_timestamp()) then
            perform raise_session_lost();
        end if;
    end if;
    update work_task t set claim_expires_at = claims_expire_at
    where t.workspace = in_workspace and t.claimed_by = cx.agent_id
        and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
        and t.claim_expires_at <> least(t.claim_expires_at, claims_expire_at);
    if in_connection_id is not null then
        insert into mcp_connection (workspace, agent_id, connection_id, session_id)
        values (in_workspace, cx.agent_id, in_connection_id, in_session_id)
        on conflict (workspace, agent_id, connection_id) do update set
            session_id = excluded.session_id, bound_at = excluded.bound_at;
    end if;
    perform record_audit(
        in_workspace, cx, 'register_agent',
        jsonb_build_object('session_id', in_session_id, 'capabilities', to_jsonb(in_capabilities)),
        '{}', true);
    return null;
end
$$;

CREATE FUNCTION public.registered_session_timeout(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS interval
    LANGUAGE plpgsql STABLE
    AS $$
begin
    if in_session_id is not null and exists (
        select from agent_session s
        where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    ) then
        return session_timeout;
    end if;
    return null;
end
$$;

CREATE FUNCTION public.release_expired_ports(in_workspace text, session_timeout interval) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    block port_block;
    released bigint := 0;
begin
    for block in
        select p.* from port_block p
        left join lateral (
            select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
            where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
            limit 1
        ) s on true
        where p.workspace = in_workspace
            and not is_live_with_session(p.allocated_at, p.expires_at, session_timeout, at,
                s.ended_at, s.last_heartbeat_at, s.revived_at)
        order by p.slot
        for update of p skip locked
    loop
        continue when is_live(in_workspace, block.agent_id, block.session_id, block.allocated_at,
            block.expires_at, session_timeout);
        delete from port_block p where p.workspace = in_workspace and p.slot = block.slot;
        perform record_loss(in_workspace, block.agent_id, block.session_id, 'port', block.slot::text,
            null, block.allocated_at, block.expires_at, session_timeout);
        released := released + 1;
    end loop;
    return released;
end
$$;

CREATE FUNCTION public.release_lock(in_workspace text, cx public.request, in_key text, in_token bigint, OUT refusal text) RETURNS text
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.release_ports(in_workspace text, cx public.request, in_session_id text, in_any_owner boolean, OUT refusal text, OUT slot integer) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    block port_block;
begin
    perform record_heartbeat(in_workspace, cx);
    at := clock_timestamp();
    select p.* into block from port_block p
    left join lateral (
        select s.ended_at, s.last_heartbeat_at, s.revived_at from agent_session s
        where s.workspace = in_workspace and s.agent_id = p.agent_id and s.session_id = p.session_id
        limit 1
    ) s on true
    where p.workspace = in_workspace and p.session_id = in_session_id
        and is_live_with_session(p.allocated_at, p.expires_at, cx.session_timeout, at,
            s.ended_at, s.last_heartbeat_at, s.revived_at)
    for update of p;
    if block.agent_id = cx.agent_id or (block.slot is not null and in_any_owner) then
        slot := block.slot;
        delete from port_block p where p.workspace = in_workspace and p.slot = release_ports.slot;
    elsif block.slot is not null then
        refusal := 'not_owner';
    end if;
    perform record_audit(
        in_workspace, cx, 'release_ports', jsonb_build_object('session_id', in_session_id),
        case when refusal is null then jsonb_build_object('slot', slot)
            else jsonb_build_object('reason', refusal) end,
        refusal is null);
end
$$;

CREATE FUNCTION public.release_session_locks(in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean, OUT released bigint, OUT touched bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    keys text[] := array(
        select l.key from file_lock l
        where l.workspace = in_workspace and l.agent_id = in_agent_id and l.session_id = in_session_id
        limit in_limit);
    held_key text;
    lock record;
    was_live boolean;
begin
    released := 0;
    touched := 0;
    for held_key in select key from unnest(keys) key order by key collate "C" loop
        touched := touched + 1;
        select l.token, l.locked_at, l.expires_at into lock from file_lock l
        where l.workspace = in_workspace and l.key = held_key and l.agent_id = in_agent_id
            and l.session_id = in_session_id
        for update;
        continue when not found;
        was_live := is_live(in_workspace, in_agent_id, in_session_id, lock.locked_at, lock.expires_at,
            unlimited_session_timeout());
        released := released + was_live::integer;
        if not in_dry_run then
            if was_live then
                perform store_loss(in_workspace, in_agent_id, in_session_id, 'lock', held_key,
                    lock.token::text, lock.locked_at);
            end if;
            perform free_lock(in_workspace, held_key, lock.token);
        end if;
    end loop;
end
$$;

CREATE FUNCTION public.release_session_ports(in_workspace text, in_agent_id text, in_session_id text, in_dry_run boolean, OUT released bigint, OUT touched bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    block record;
    was_live boolean;
begin
    released := 0;
    touched := 0;
    for block in
        select p.slot, p.allocated_at, p.expires_at from port_block p
        where p.workspace = in_workspace and p.agent_id = in_agent_id and p.session_id = in_session_id
        order by p.slot
        for update
    loop
        touched := touched + 1;
        was_live := is_live(in_workspace, in_agent_id, in_session_id, block.allocated_at,
            block.expires_at, unlimited_session_timeout());
        released := released + was_live::integer;
        if not in_dry_run then
            if was_live then
                perform store_loss(in_workspace, in_agent_id, in_session_id, 'port', block.slot::text,
                    null, block.allocated_at);
            end if;
            delete from port_block p where p.workspace = in_workspace and p.slot = block.slot;
        end if;
    end loop;
end
$$;

CREATE FUNCTION public.remember(in_workspace text, cx public.request, in_event_type text, in_summary text, in_summary_digest bytea, in_details json, in_outcome text, in_lessons jsonb, in_tags jsonb, in_quota integer[], OUT memory_id uuid, OUT action text, OUT refusal text) RETURNS record
    LANGUAGE plpgsql
    AS $$
#variable_conflict use_column
declare
    merge_count integer;
    new_lessons text[] := to_text_array(in_lessons);
    new_tags text[] := to_text_array(in_tags);
begin
    perform record_heartbeat(in_workspace, cx);
    -- A memory that is too old to be merged into stops being the current one, so the insert has no
    -- conflict.
    update memory m set is_current = false
    where m.workspace = in_workspace and m.agent_id = cx.agent_id and m.event_type = in_event_type
        and m.summary_digest = in_summary_digest and m.is_current
        and m.created_at <= statement_timestamp() - interval '1 hour';
    refusal := refused_by_quota(
        in_workspace, cx.agent_id, 'memories', in_quota, cx.session_timeout);
    if refusal is not null then
        perform from memory m
        where m.workspace = in_workspace and m.agent_id = cx.agent_id and m.event_type = in_event_type
            and m.summary_digest = in_summary_digest and m.is_current;
        if not found then
            perform record_audit(
                in_workspace, cx, 'remember',
                jsonb_build_object('event_type', in_event_type, 'tags', in_tags),
                jsonb_build_object('reason', refusal), false);
            return;
        end if;
        refusal := null;
    end if;
    insert into memory as m (
        workspace, agent_id, session_id, event_type, summary, summary_digest, details, outcome,
        lessons, tags
    ) values (
        in_workspace, cx.agent_id, cx.session_id, in_event_type, in_summary, in_summary_digest,
        in_details, in_outcome, new_lessons, new_tags
    )
    on conflict (workspace, agent_id, event_type, summary_digest) where is_current do update set
        details = case when excluded.details::text = '{}' then m.details else excluded.details end,
        outcome = coalesce(excluded.outcome, m.outcome),
        lessons = merge_distinct(m.lessons, excluded.lessons),
        tags = merge_distinct(m.tags, excluded.tags),
        merge_count = m.merge_count + 1
    returning m.id, m.merge_count into memory_id, merge_count;
    action := case when merge_count = 0 then 'created' else 'deduplicated' end;
    perform record_audit(
        in_workspace, cx, 'remember',
        jsonb_build_object('event_type', in_event_type, 'tags', in_tags),
        jsonb_build_object('action', action, 'memory_id', memory_id),
        true);
end
$$;

CREATE FUNCTION public.renew_due_claims(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    claim record;
begin
    for claim in
        select t.id, claim_session.timeout,
            renewed_lease(t.is_claim_known, t.lease_expires_at, t.lease_minutes, at) as lease_ends_at
        from work_task t
        left join lateral (
            select session_timeout as timeout,
                is_session_live(s.ended_at, s.last_heartbeat_at, session_timeout, at) as is_live
            from agent_session s
            where s.workspace = in_workspace and s.agent_id = in_agent_id
                and s.session_id = t.claimed_session_id
            limit 1
        ) claim_session on true
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.status in ('claimed', 'running')
            and (t.claimed_session_id is null
                or coalesce(t.claimed_session_id = in_session_id, claim_session.is_live))
            and is_claim_renewal_due(t.is_claim_known, t.claim_expires_at, t.lease_expires_at,
                t.lease_minutes, claim_session.timeout, at)
        order by t.id
        for update of t skip locked
    loop
        update work_task t set
            lease_expires_at = claim.lease_ends_at,
            claim_expires_at = claim_expiry(claim.lease_ends_at, claim.timeout, at)
        where t.workspace = in_workspace and t.id = claim.id;
    end loop;
end
$$;

CREATE FUNCTION public.renew_task(in_workspace text, cx public.request, in_id uuid, in_claim_token text, in_lease_minutes integer, OUT success boolean, OUT status text, OUT task_id uuid, OUT lease_expires_at timestamp with time zone, OUT reason text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    task work_task;
    minutes integer;
    new_session_id text;
    new_claim_expires_at timestamptz;
begin
    perform record_heartbeat(in_workspace, cx);
    select * into task from work_task t where t.workspace = in_workspace and t.id = in_id for update;
    at := clock_timestamp();
    reason := check_claim(
        task.id, task.claimed_by, task.claimed_session_id, task.claim_token,
        task_status(task.status, task.deadline, task.claim_expires_at, task.attempt, task.max_attempts, at),
        cx, in_claim_token);
    success := reason is null;
    if success then
        minutes := coalesce(in_lease_minutes, task.claim_lease_minutes);
        status := 'running';
        task_id := in_id;
        lease_expires_at := at + make_interval(mins => minutes);
        new_session_id := session_of_renewed_claim(in_workspace, cx, task.claimed_session_id);
        -- Not within the update: on Citus it runs on a shard, where the function cannot read sessions.
        new_claim_expires_at := claim_expiry(
            lease_expires_at,
            registered_session_timeout(
                in_workspace, cx.agent_id, new_session_id, cx.session_timeout),
            at);
        update work_task t set
            status = renew_task.status, is_expiry_recorded = false, lease_minutes = minutes,
            is_claim_known = true, claimed_session_id = new_session_id,
            lease_expires_at = renew_task.lease_expires_at,
            claim_expires_at = new_claim_expires_at
        where t.workspace = in_workspace and t.id = in_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'renew_task', jsonb_build_object('task_id', in_id),
        case when success then jsonb_build_object('lease_expires_at', lease_expires_at)
            else jsonb_build_object('reason', reason) end,
        success);
end
$$;

CREATE FUNCTION public.renewed_lease(is_claim_known boolean, lease_expires_at timestamp with time zone, lease_minutes integer, at timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select case
        when is_claim_known then greatest(lease_expires_at, at + make_interval(mins => lease_minutes))
        else lease_expires_at end
$$;

CREATE FUNCTION public.replace_dependency(in_workspace text, in_old uuid, in_new uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update work_dependency d set depends_on = in_new
    from work_task t
    where d.workspace = in_workspace and d.depends_on = in_old
        and t.workspace = in_workspace and t.id = d.task_id
        and task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at)
            = 'pending';
end
$$;

CREATE FUNCTION public.request_duration_ms(cx public.request) RETURNS double precision
    LANGUAGE plpgsql
    AS $$
begin
    return cx.elapsed_ms + 1000 * extract(epoch from clock_timestamp() - statement_timestamp());
end
$$;

CREATE FUNCTION public.requeue_or_fail_task(in_workspace text, in_id uuid, in_is_exhausted boolean) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    update work_task t set
        status = case when in_is_exhausted then 'failed' else 'pending' end,
        error_message = case when in_is_exhausted then 'max_attempts_exceeded' else t.error_message end,
        completed_at = case when in_is_exhausted then at end,
        claim_token = case when in_is_exhausted then t.claim_token end,
        claimed_by = case when in_is_exhausted then t.claimed_by end,
        claimed_session_id = case when in_is_exhausted then t.claimed_session_id end,
        claimed_at = case when in_is_exhausted then t.claimed_at end,
        lease_expires_at = null, claim_expires_at = null, available_at = null, is_delayed = false,
        is_expiry_recorded = false
    where t.workspace = in_workspace and t.id = in_id;
end
$$;

CREATE FUNCTION public.requeue_session_claims(in_workspace text, in_agent_id text, in_session_id text, in_limit integer, in_dry_run boolean, OUT requeued bigint, OUT touched bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    ids uuid[] := array(
        select t.id from work_task t
        where t.workspace = in_workspace and t.claimed_by = in_agent_id
            and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
            and task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null
        limit in_limit);
    claimed_id uuid;
    task record;
begin
    requeued := 0;
    touched := 0;
    for claimed_id in select id from unnest(ids) id order by id loop
        touched := touched + 1;
        select t.attempt >= t.max_attempts as is_exhausted, t.claim_token, t.claimed_at into task
        from work_task t
        where t.workspace = in_workspace and t.id = claimed_id and t.claimed_by = in_agent_id
            and t.claimed_session_id = in_session_id and t.status in ('claimed', 'running')
            and task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null
        for update;
        continue when not found;
        requeued := requeued + (not task.is_exhausted)::integer;
        if not in_dry_run then
            perform store_loss(in_workspace, in_agent_id, in_session_id, 'claim', claimed_id::text,
                task.claim_token, task.claimed_at);
            perform requeue_or_fail_task(in_workspace, claimed_id, task.is_exhausted);
        end if;
    end loop;
end
$$;

CREATE FUNCTION public.reserve_idempotency_key(in_workspace text, cx public.request, in_operation text, in_key text, in_fingerprint bytea, in_quota integer[], OUT is_reserved boolean, OUT refusal text) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
begin
    refusal := refuse_idempotency_key(in_workspace, cx, in_operation, in_key, in_quota);
    is_reserved := false;
    if refusal is not null then
        return;
    end if;
    insert into idempotency_key (workspace, agent_id, key, fingerprint)
    values (in_workspace, cx.agent_id, in_key, in_fingerprint)
    on conflict (workspace, agent_id, key) do nothing;
    is_reserved := found;
    if is_reserved then
        return;
    end if;
    at := clock_timestamp();
    update idempotency_key k set fingerprint = in_fingerprint, body = null, created_at = at
    where k.workspace = in_workspace and k.agent_id = cx.agent_id and k.key = in_key
        and k.created_at <= at - idempotency_key_lifetime();
    is_reserved := found;
    if is_reserved then
        return;
    end if;
    update mcp_call c set taken = null
    where c.workspace = in_workspace and c.agent_id = cx.agent_id and c.idempotency_key = in_key
        and c.taken is not null;
end
$$;

CREATE FUNCTION public.resolve_references(in_dependencies jsonb, in_ids jsonb) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    AS $$
begin
    if in_dependencies = '[]' then
        return in_dependencies;
    end if;
    return (
        select jsonb_agg(case
            when dependency not like 'ref:%' then dependency
            else coalesce(in_ids ->> dependency, '00000000-0000-0000-0000-000000000000') end order by n)
        from jsonb_array_elements_text(in_dependencies) with ordinality as list (dependency, n)
    );
end
$$;

CREATE FUNCTION public.restore_memory_words(in_workspace text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    missing uuid;
begin
    for missing in
        select w.id from memory_without_words w where w.workspace = in_workspace
        order by w.tried_at limit 10 for update skip locked
    loop
        begin
            insert into memory_words (workspace, id, words)
            select m.workspace, m.id, search_terms(m.search) from memory m
            where m.workspace = in_workspace and m.id = missing
            on conflict (workspace, id) do update set words = excluded.words;
            delete from memory_without_words w where w.workspace = in_workspace and w.id = missing;
        exception when others then
            update memory_without_words w set tried_at = clock_timestamp()
            where w.workspace = in_workspace and w.id = missing;
            return;
        end;
    end loop;
end
$$;

CREATE FUNCTION public.revive_session(in_workspace text, in_agent_id text, in_session_id text, session_timeout interval) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz;
    session agent_session;
begin
    select * into session from agent_session s
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id
    for update;
    at := clock_timestamp();
    if session.session_id is null then
        return null;
    elsif not is_session_live(session.ended_at, session.last_heartbeat_at, session_timeout, at) then
        update agent_session s set
            last_heartbeat_at = at, ended_at = null, revived_at = at, untold_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
        perform store_losses(in_workspace, session, session_timeout);
    elsif is_telling_due(session.untold_at, at) then
        update agent_session s set last_heartbeat_at = at, untold_at = at
        where s.workspace = in_workspace and s.agent_id = in_agent_id
            and s.session_id = in_session_id;
    else
        return null;
    end if;
    return list_losses(in_workspace, in_agent_id, in_session_id);
end
$$;

CREATE FUNCTION public.revoke_surplus_rights(in_role text) RETURNS integer
    LANGUAGE plpgsql
    AS $$
declare
    role_id oid := to_regrole(quote_ident(in_role));
    surplus record;
    revoked integer := 0;
begin
    for surplus in
        select t.id::regclass as name, lower(held.privilege_type) as right_name
        from service_tables() t join pg_class c on c.oid = t.id cross join aclexplode(c.relacl) held
        left join service_rights() r on r.name = t.name
        where held.grantee = role_id and lower(held.privilege_type) <> all(coalesce(r.rights, '{}'))
    loop
        execute format('revoke %I on table %s from %I', surplus.right_name, surplus.name, in_role);
        revoked := revoked + 1;
    end loop;
    if exists (
        select from pg_default_acl d cross join aclexplode(d.defaclacl) held
        where held.grantee = role_id and d.defaclnamespace = current_schema()::regnamespace
            and d.defaclrole = current_user::regrole
    ) then
        execute format(
            'alter default privileges in schema %I revoke all on tables from %I', current_schema(), in_role);
        execute format(
            'alter default privileges in schema %I revoke all on functions from %I', current_schema(),
            in_role);
    end if;
    return revoked;
end
$$;

CREATE FUNCTION public.run_maintenance(in_workspace text, cx public.request, in_requested jsonb, in_tasks text[], in_rows_deleted bigint, in_audit_partitions_dropped bigint, OUT sessions_expired bigint, OUT locks_expired bigint, OUT locks_released bigint, OUT tasks_requeued bigint, OUT tasks_failed bigint, OUT ports_released bigint, OUT duration_ms bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    select s.* into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed,
        ports_released, more
    from sweep_workspace(in_workspace, cx.session_timeout, in_tasks) s;
    duration_ms := request_duration_ms(cx);
    perform record_audit(
        in_workspace, cx, 'run_maintenance', jsonb_build_object('tasks', in_requested),
        jsonb_build_object(
            'sessions_expired', sessions_expired, 'locks_expired', locks_expired,
            'locks_released', locks_released, 'tasks_requeued', tasks_requeued,
            'tasks_failed', tasks_failed, 'ports_released', ports_released, 'approvals_expired', 0,
            'rows_deleted', in_rows_deleted,
            'audit_partitions_dropped', in_audit_partitions_dropped)
            || case when more then '{"more": true}' else '{}' end::jsonb,
        true);
end
$$;

CREATE FUNCTION public.search_finder(in_forms text[]) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET jit TO 'off'
    AS $$
begin
    return (
        select string_agg('(' || coalesce(
            (select string_agg(distinct search_quote(trigram), ' & ')
            from unnest(search_trigrams(form)) as trigram where length(trigram) = 4),
            search_quote('~' || form) || ':*') || ')', ' | ')
        from unnest(in_forms) as form where form <> ''
    );
end
$$;

CREATE FUNCTION public.search_forms(in_text text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    forms text[] := array[lower(in_text)];
begin
    if octet_length(in_text) <> length(in_text) then
        forms[1] := replace(lower(normalize(in_text, NFKC)), 'ß', 'ss');
        if forms[1] ~ '[äöü]' then
            forms[2] := replace(replace(replace(forms[1], 'ä', 'ae'), 'ö', 'oe'), 'ü', 'ue');
        end if;
        for n in 1..cardinality(forms) loop
            forms[n] := translate(
                normalize(regexp_replace(normalize(forms[n], NFKD), '[\u0300-\u036f]+', '', 'g'), NFC),
                'øłđıæ', 'oldia');
        end loop;
    end if;
    for n in 1..cardinality(forms) loop
        if forms[n] ~ '[0-9][!-/:-@\[-`{-~]+[0-9]' then
            forms[n] := regexp_replace(forms[n], '([0-9])[!-/:-@\[-`{-~]+(?=[0-9])', '\1' || chr(2), 'g');
        end if;
        -- Several times as fast as `translate`, which compares each character with all of them.
        forms[n] := regexp_replace(forms[n], '[!-/:-@\[-`{-~]+', '', 'g');
    end loop;
    return forms;
end
$$;

CREATE FUNCTION public.search_query_words(in_text text) RETURNS public.search_word[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET jit TO 'off'
    AS $_$
begin
    return (
        with words as (
            select word, min(word_position) as place, search_quote(word) as quoted,
                word ~ '^[a-z]+$' and ts_lexize('english_stem', word) = '{}' as is_empty
            from search_words(in_text) group by word
            order by is_empty, place limit 64
        ), chosen as (
            select w.*, word_forms(word) as forms, (
                select string_agg(search_quote(lower(segment)), ' <-> ' order by segment_position)
                from search_words(w.word) where segment <> ''
            ) as parts
            from words w where not is_empty or not exists (select from words where not is_empty)
        ), pairs as (
            select place, pair, count(*) over (partition by place) as pair_count
            from chosen cross join lateral unnest(character_pairs(forms[1])) as pairs (pair)
        ), all_words as (
            select place, row(
                word, concat_ws(' | ', quoted, '(' || parts || ')')::tsquery,
                (quoted || case when length(word) > 1 then ':*' else '' end)::tsquery,
                array(
                    select case when form ~ '^[a-z]{2,3}$' then ' ' || form else form end
                    from unnest(forms) as form),
                concat_ws(' | ', quoted, search_finder(forms)), 1
            )::search_word as term
            from chosen
            union all
            select place, row(
                pair, search_quote(pair)::tsquery, search_quote(pair)::tsquery, array[pair],
                search_finder(array[pair]), 0.3 / pair_count
            )::search_word from pairs
        )
        select coalesce(array_agg(term order by place, (term).weight desc), '{}') from all_words
    );
end
$_$;

CREATE FUNCTION public.search_quote(in_term text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select '''' || replace(replace(in_term, '\', '\\'), '''', '''''') || ''''
$$;

CREATE FUNCTION public.search_segments(in_text text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    return (
        select string_agg(segment, ' ' order by segment_position)
        from search_words(in_text) where segment <> ''
    );
end
$$;

CREATE FUNCTION public.search_terms(in_search tsvector) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select coalesce(string_agg(lexeme, ' ' order by lexeme_position, lexeme), '')
    from unnest(in_search) as vector (lexeme, positions, weights)
    cross join lateral unnest(positions) as lexeme_position
$$;

CREATE FUNCTION public.search_trigrams(in_text text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET jit TO 'off'
    AS $$
declare
    characters text[] := string_to_array(regexp_replace(in_text, '[\s\u00a0\u3000]+', ' ', 'g'), null);
begin
    return array(
        select '~' || case
            when second is null or second = ' ' then first
            when third is null or third = ' ' then first || second
            else first || second || third end
        from unnest(characters, characters[2:], characters[3:]) as places (first, second, third)
        where first <> ' ');
end
$$;

CREATE FUNCTION public.search_vector(in_text text, in_weight text) RETURNS tsvector
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    if in_text is null or in_text = '' then
        return ''::tsvector;
    end if;
    return (
        select coalesce(
            string_agg(
                search_quote(left(term, 200)) || ':' || least(segment_position, 16383) || in_weight, ' '),
            ''
        )::tsvector
        from (
            select *, segment_position = min(segment_position) over (partition by word_position) as is_first
            from search_words(in_text)
        ) as words
        cross join lateral unnest(
            array[case when is_first then word end, lower(segment)]
            || case when segment <> lower(segment) then string_to_array(
                lower(regexp_replace(
                    regexp_replace(segment, '([a-z0-9])([A-Z])', '\1 \2', 'g'),
                    '([A-Z])([A-Z][a-z])', '\1 \2', 'g'
                )), ' ') end
        ) as terms (term)
        where term is not null
    );
end
$$;

CREATE FUNCTION public.search_words(in_text text) RETURNS TABLE(word_position bigint, word text, segment_position bigint, segment text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $_$
    with trimmed as materialized (
        select word_position, btrim(raw, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~') as word
        from unnest(regexp_split_to_array(
            in_text, '[\s\u00a0\u2009\u202f\u3000‘’“”„«»‹›–—…、。，：；！？（）「」]+'
        )) with ordinality as split (raw, word_position)
    ), words as materialized (
        select word_position, left(lower(left(word, 200)), 200) as word,
            regexp_split_to_array(word, '[!-/:-@\[-`{-~]+') as segments
        from trimmed
        where word <> ''
    )
    select w.word_position, w.word, row_number() over (order by w.word_position, s.n), s.segment
    from words w cross join lateral unnest(w.segments) with ordinality as s (segment, n)
$_$;

CREATE FUNCTION public.secure_installation(in_functions text[], in_retention_days integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    is_owner boolean := (
        select pg_has_role(c.relowner, 'usage') from pg_class c where c.oid = 'audit_log'::regclass);
begin
    if not is_owner then
        return;
    end if;
    perform close_table(t.id) from service_tables() t;
    perform close_functions(in_functions);
    perform close_audit_retention();
    update audit_retention r set days = in_retention_days where r.days <> in_retention_days;
    perform grant_service_rights(service.name, in_functions)
    from (
        select distinct r.rolname::text as name
        from pg_class c cross join aclexplode(c.relacl) held join pg_roles r on r.oid = held.grantee
        where c.oid = 'audit_log'::regclass and held.privilege_type = 'INSERT'
            and held.grantee <> c.relowner
    ) service;
end
$$;

CREATE FUNCTION public.service_rights() RETURNS TABLE(name text, rights text[])
    LANGUAGE sql IMMUTABLE
    AS $$
    values
        ('agent_session', '{select,insert,update,delete}'::text[]),
        ('agent_assignment', '{select,insert,update}'),
        ('audit_log', '{select,insert}'),
        ('file_lock', '{select,insert,update,delete}'),
        ('guardrail_violation', '{select,insert,delete}'),
        ('handoff', '{select,insert}'),
        ('idempotency_key', '{select,insert,update,delete}'),
        ('lock_token_floor', '{select,insert,update}'),
        ('lock_waiter', '{select,insert,update,delete}'),
        ('mcp_call', '{select,insert,update,delete}'),
        ('mcp_connection', '{select,insert,update,delete}'),
        ('memory', '{select,insert,update}'),
        ('memory_words', '{select,insert,update}'),
        ('memory_without_words', '{select,insert,update,delete}'),
        ('network_log', '{select,insert,delete}'),
        ('port_block', '{select,insert,update,delete}'),
        ('quota_reached', '{select,insert,update,delete}'),
        ('session_loss', '{select,insert,update,delete}'),
        ('work_dependency', '{select,insert,update,delete}'),
        ('work_task', '{select,insert,update,delete}'),
        ('cedar_policy', '{select}'),
        ('domain_rule', '{select}'),
        ('guardrail_pattern', '{select}'),
        ('profile', '{select}'),
        ('_sqlx_migrations', '{select}'),
        ('installed_functions', '{select}'),
        ('audit_retention', '{select}')
$$;

CREATE FUNCTION public.service_tables() RETURNS TABLE(id oid, name text)
    LANGUAGE sql STABLE
    AS $$
    select c.oid, r.name from service_rights() r
    join pg_class c on c.relname = r.name and c.relnamespace = current_schema()::regnamespace
    union all
    select i.inhrelid, i.inhrelid::regclass::text from pg_inherits i
    where i.inhparent = 'audit_log'::regclass
$$;

CREATE FUNCTION public.session_of_renewed_claim(in_workspace text, cx public.request, in_claimed_session_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    AS $$
declare
    at timestamptz := clock_timestamp();
begin
    return case
        when in_claimed_session_id is null or in_claimed_session_id = cx.session_id
            then in_claimed_session_id
        when cx.session_id is not null then cx.session_id
        when not exists (
            select from agent_session s
            where s.workspace = in_workspace and s.agent_id = cx.agent_id
                and s.session_id = in_claimed_session_id
                and not is_session_live(s.ended_at, s.last_heartbeat_at, cx.session_timeout, at)
        ) then in_claimed_session_id
    end;
end
$$;

CREATE FUNCTION public.session_status(ended_at timestamp with time zone, last_heartbeat_at timestamp with time zone, session_timeout interval, at timestamp with time zone) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select case
        when not is_session_live(ended_at, last_heartbeat_at, session_timeout, at) then 'disconnected'
        when last_heartbeat_at <= at - interval '15 minutes' then 'idle'
        else 'active'
    end
$$;

CREATE FUNCTION public.set_time_limits(in_role text) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    target text := format('alter role %I in database %I set ', in_role, current_database());
begin
    execute target || 'statement_timeout = ''10s''';
    execute target || 'lock_timeout = ''5s''';
    execute target || 'idle_in_transaction_session_timeout = ''3s''';
    execute target || 'client_connection_check_interval = ''1s''';
end
$$;

CREATE FUNCTION public.settle_losses(in_workspace text, in_agent_id text, in_session_id text, in_told jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    told record;
    is_left boolean := in_told is null;
begin
    for told in
        select left(kind, -1) as kind, -- `locks` as `lock`
            coalesce(entry ->> 'file_path', entry ->> 'task_id', entry ->> 'slot') as name,
            coalesce(entry ->> 'fencing_token', entry ->> 'claim_token') as token
        from jsonb_each(in_told - 'truncated') list (kind, entries),
            jsonb_array_elements(entries) entry
        order by 1, 2
    loop
        delete from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = in_session_id and l.kind = told.kind and l.name = told.name
            and l.token is not distinct from told.token;
    end loop;
    is_left := is_left or exists (
        select from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = in_session_id);
    update agent_session s set untold_at = case when is_left then timestamptz '-infinity' end
    where s.workspace = in_workspace and s.agent_id = in_agent_id and s.session_id = in_session_id;
end
$$;

CREATE FUNCTION public.store_handoff(in_workspace text, cx public.request, in_refusal text, in_is_automatic boolean, in_summary text, in_completed_work json, in_in_progress json, in_decisions json, in_next_steps json, in_relevant_files json, in_content json, in_quota integer[], OUT handoff_id uuid, OUT kept_earlier boolean, OUT refusal text) RETURNS record
    LANGUAGE plpgsql
    AS $$
begin
    perform record_heartbeat(in_workspace, cx);
    if in_refusal is null and in_is_automatic then
        select h.id into handoff_id from handoff h
        where h.workspace = in_workspace and h.agent_id = cx.agent_id
            and h.session_id = cx.session_id and not h.is_automatic
        order by h.created_at desc, h.id desc limit 1;
    end if;
    kept_earlier := handoff_id is not null;
    refusal := in_refusal;
    if refusal is null and not kept_earlier then
        refusal := refused_by_quota(
            in_workspace, cx.agent_id, 'handoffs', in_quota, cx.session_timeout);
    end if;
    if refusal is null and not kept_earlier then
        insert into handoff (
            workspace, agent_id, agent_type, session_id, summary, completed_work, in_progress,
            decisions, next_steps, relevant_files, content, is_automatic
        ) values (
            in_workspace, cx.agent_id, cx.agent_type, cx.session_id, in_summary, in_completed_work,
            in_in_progress, in_decisions, in_next_steps, in_relevant_files, in_content, in_is_automatic
        )
        returning id into handoff_id;
    end if;
    perform record_audit(
        in_workspace, cx, 'write_handoff',
        case when in_is_automatic
            then jsonb_build_object('summary_length', length(in_summary), 'automatic', true)
            else jsonb_build_object('summary_length', length(in_summary)) end,
        case when refusal is not null then jsonb_build_object('reason', refusal)
            when kept_earlier then jsonb_build_object('handoff_id', handoff_id, 'kept_earlier', true)
            else jsonb_build_object('handoff_id', handoff_id) end,
        refusal is null);
end
$$;

CREATE FUNCTION public.store_loss(in_workspace text, in_agent_id text, in_session_id text, in_kind text, in_name text, in_token text, in_since timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
begin
    insert into session_loss (workspace, agent_id, session_id, kind, name, token, since)
    values (in_workspace, in_agent_id, in_session_id, in_kind, in_name, in_token, in_since)
    on conflict on constraint session_loss_pkey do nothing;
end
$$;

CREATE TABLE public.agent_session (
    workspace text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    session_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL,
    started_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    last_heartbeat_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    ended_at timestamp with time zone,
    capabilities text[] DEFAULT '{}'::text[] NOT NULL,
    current_task text,
    delegated_from text,
    metadata json DEFAULT '{}'::json NOT NULL,
    phase_archetype text,
    revived_at timestamp with time zone,
    untold_at timestamp with time zone,
    stored_bytes integer GENERATED ALWAYS AS (((octet_length((metadata)::text) + public.bytes_of_texts(capabilities)) + COALESCE(octet_length(current_task), 0))) STORED NOT NULL
);

CREATE FUNCTION public.store_losses(in_workspace text, session public.agent_session, session_timeout interval) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    lost record;
begin
    for lost in
        select l.key, l.token from file_lock l
        where l.workspace = in_workspace and l.agent_id = session.agent_id
            and l.session_id = session.session_id
            and was_held_at_last_call(l.locked_at, l.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by l.key
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'lock', lost.key,
            lost.token::text, at);
    end loop;
    for lost in
        select t.id, t.claim_token from work_task t
        where t.workspace = in_workspace and t.claimed_by = session.agent_id
            and t.claimed_session_id = session.session_id
            and is_claim_expired(t.status, t.claim_expires_at, at)
            and was_held_at_last_call(t.claimed_at, 'infinity', session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by t.id
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'claim', lost.id::text,
            lost.claim_token, at);
    end loop;
    for lost in
        select p.slot from port_block p
        where p.workspace = in_workspace and p.agent_id = session.agent_id
            and p.session_id = session.session_id
            and was_held_at_last_call(p.allocated_at, p.expires_at, session_timeout,
                session.last_heartbeat_at, session.revived_at)
        order by p.slot
    loop
        perform store_loss(in_workspace, session.agent_id, session.session_id, 'port', lost.slot::text,
            null, at);
    end loop;
end
$$;

CREATE FUNCTION public.store_memory_words() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'public', 'pg_temp'
    SET lock_timeout TO '1s'
    AS $$
begin
    begin
        insert into memory_words (workspace, id, words)
        values (new.workspace, new.id, search_terms(new.search))
        on conflict (workspace, id) do update set words = excluded.words;
        perform restore_memory_words(new.workspace);
    exception when others then
        raise warning 'the BM25 index does not take memory %: %', new.id, sqlerrm;
        insert into memory_without_words (workspace, id) values (new.workspace, new.id)
        on conflict (workspace, id) do update set tried_at = clock_timestamp();
    end;
    return null;
exception when others then
    raise warning 'the words of memory % are missing: %', new.id, sqlerrm;
    return null;
end
$$;

CREATE FUNCTION public.store_scan_results(in_workspace text, in_guard_version text, in_scans jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
declare
    scan record;
begin
    for scan in
        select s.id, s.guard_trust, s.findings
        from jsonb_to_recordset(in_scans) as s (id uuid, guard_trust smallint, findings jsonb)
        order by s.id
    loop
        perform from work_task t where t.workspace = in_workspace and t.id = scan.id
        for update skip locked;
        if found then
            update work_task t set
                guard_version = in_guard_version, guard_trust = scan.guard_trust,
                guard_findings = scan.findings, needed_trust = greatest(t.min_trust, scan.guard_trust)
            where t.workspace = in_workspace and t.id = scan.id;
        end if;
    end loop;
end
$$;

CREATE FUNCTION public.store_task(in_workspace text, cx public.request, task public.task_submission, in_quota integer[]) RETURNS public.submission_verdict
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    dependencies uuid[] := to_uuid_array(task.depends_on);
    open_count integer := 0;
    stored submission_verdict := check_submission(in_workspace, task, dependencies, at);
begin
    while stored.verdict is null loop
        if task.unique_key is not null then
            stored.task_id := find_unfinished_task(in_workspace, task.unique_key);
            if stored.task_id is not null then
                stored.verdict := 'deduplicated';
                return stored;
            end if;
        end if;
        stored.verdict := refused_by_quota(
            in_workspace, cx.agent_id, 'tasks', in_quota, cx.session_timeout);
        exit when stored.verdict is not null;
        if dependencies <> '{}' then
            open_count := count_open_dependencies(in_workspace, dependencies);
        end if;
        insert into work_task as t (
            workspace, task_type, description, input_data, priority, agent_requirements, archetype,
            min_trust, deadline, not_before, available_at, is_delayed, max_attempts,
            retry_on_failure, unique_key, guard_version, guard_trust, guard_findings, needed_trust,
            authored_by, change_id, submitted_by, submitted_session_id, open_dependencies
        ) values (
            in_workspace, task.task_type, task.description, task.input_data, task.priority,
            task.agent_requirements, task.archetype, task.min_trust, task.deadline, task.not_before,
            task.not_before, coalesce(task.not_before > at, false), task.max_attempts,
            task.retry_on_failure, task.unique_key, task.guard_version, task.guard_trust,
            task.guard_findings, greatest(task.min_trust, task.guard_trust), task.authored_by,
            task.change_id, cx.agent_id, cx.session_id, open_count
        )
        on conflict (workspace, unique_key)
            where unique_key is not null and status in ('pending', 'claimed', 'running')
            do nothing
        returning 'created', t.id, null::bigint into stored;
    end loop;
    if stored.verdict = 'created' and dependencies <> '{}' then
        insert into work_dependency (workspace, task_id, depends_on, list_order)
        select in_workspace, stored.task_id, asked.id, asked.list_order
        from unnest(dependencies) with ordinality as asked (id, list_order)
        on conflict (workspace, task_id, depends_on) do nothing;
    end if;
    if stored.verdict = 'created' and task.replaces is not null then
        perform replace_dependency(in_workspace, task.replaces, stored.task_id);
    end if;
    return stored;
end
$$;

CREATE FUNCTION public.submit_task(in_workspace text, cx public.request, task public.task_submission, in_quota integer[]) RETURNS public.submission_verdict
    LANGUAGE plpgsql
    AS $$
declare
    submitted submission_verdict;
begin
    perform record_heartbeat(in_workspace, cx);
    submitted := store_task(in_workspace, cx, task, in_quota);
    if submitted.verdict in ('created', 'deduplicated', 'blocked') then
        perform record_submission(
            in_workspace, cx, task, submitted.verdict, submitted.task_id);
    elsif is_quota_refusal(submitted.verdict) then
        perform record_refused_submission(in_workspace, cx, task, submitted.verdict);
    end if;
    return submitted;
end
$$;

CREATE FUNCTION public.submit_tasks(in_workspace text, cx public.request, in_tasks public.task_submission[], in_references text[], in_quota integer[]) RETURNS TABLE(is_stored boolean, verdict text, task_id uuid, reason text)
    LANGUAGE plpgsql
    AS $$
declare
    verdicts text[] := array[]::text[];
    ids uuid[] := array[]::uuid[];
    ids_by_reference jsonb := '{}'::jsonb;
    task task_submission;
    stored record;
    is_accepted boolean := true;
begin
    perform record_heartbeat(in_workspace, cx);
    begin
        for n in 1..cardinality(in_tasks) loop
            task := in_tasks[n];
            task.depends_on := resolve_references(task.depends_on, ids_by_reference);
            stored := store_task(in_workspace, cx, task, in_quota);
            verdicts := verdicts || stored.verdict;
            ids := ids || stored.task_id;
            is_accepted := is_accepted and stored.verdict in ('created', 'deduplicated');
            if in_references[n] is not null and stored.task_id is not null then
                ids_by_reference := ids_by_reference
                    || jsonb_build_object('ref:' || in_references[n], stored.task_id);
            end if;
        end loop;
        if not is_accepted then
            raise exception 'batch_refused' using errcode = 'AC001';
        end if;
    exception when sqlstate 'AC001' then
        -- The subtransaction has rolled back the stored tasks, and that a quota is reached.
        perform recount_quota(in_workspace, cx.agent_id, 'tasks', in_quota, cx.session_timeout)
        from unnest(verdicts) as told (word) where is_quota_refusal(told.word) limit 1;
    end;

    for n in 1..cardinality(in_tasks) loop
        task := in_tasks[n];
        is_stored := is_accepted;
        verdict := verdicts[n];
        task_id := case when is_accepted then ids[n] end;
        reason := case
            when is_accepted then null
            when verdict = 'blocked' then task.refusal
            when verdict in ('created', 'deduplicated') then 'batch_refused'
            else verdict end;
        if is_accepted or verdict = 'blocked' then
            perform record_submission(in_workspace, cx, task, verdict, task_id);
        else
            perform record_refused_submission(in_workspace, cx, task, reason);
        end if;
        return next;
    end loop;
    perform record_audit(
        in_workspace, cx, 'submit_task_batch',
        jsonb_build_object('tasks', cardinality(in_tasks)),
        case when is_accepted then jsonb_build_object('task_ids', to_jsonb(ids))
            else jsonb_build_object('reason', 'batch_refused') end,
        is_accepted);
end
$$;

CREATE FUNCTION public.sweep_workspace(in_workspace text, session_timeout interval, in_tasks text[], OUT sessions_expired bigint, OUT locks_expired bigint, OUT locks_released bigint, OUT tasks_requeued bigint, OUT tasks_failed bigint, OUT ports_released bigint, OUT more boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    batch record;
begin
    select 0, 0, 0, 0, 0, 0, false
    into sessions_expired, locks_expired, locks_released, tasks_requeued, tasks_failed, ports_released,
        more;
    if 'sessions' = any(in_tasks) then
        select * into batch from end_silent_sessions(in_workspace, session_timeout, false);
        sessions_expired := batch.sessions;
        locks_released := batch.locks_released;
        tasks_requeued := batch.tasks_requeued;
        ports_released := batch.ports_released;
        more := batch.more;
    end if;
    if 'locks' = any(in_tasks) then
        select * into batch from clear_expired_locks(in_workspace, session_timeout);
        locks_expired := batch.cleared;
        more := more or batch.more;
    end if;
    if 'work' = any(in_tasks) then
        select * into batch from update_overdue_tasks(in_workspace, maintenance_batch());
        tasks_failed := batch.failed;
        more := more or (batch.updated > 0
            and cardinality(overdue_tasks(in_workspace, clock_timestamp(), 1)) > 0);
    end if;
    if 'ports' = any(in_tasks) then
        ports_released := ports_released + release_expired_ports(in_workspace, session_timeout);
    end if;
end
$$;

CREATE FUNCTION public.table_placements() RETURNS TABLE(name text, placement text)
    LANGUAGE sql IMMUTABLE
    AS $$
    values
        ('agent_session', 'by workspace'),
        ('agent_assignment', 'by workspace'),
        ('audit_log', 'by workspace'),
        ('file_lock', 'by workspace'),
        ('guardrail_violation', 'by workspace'),
        ('handoff', 'by workspace'),
        ('idempotency_key', 'by workspace'),
        ('lock_token_floor', 'by workspace'),
        ('lock_waiter', 'by workspace'),
        ('mcp_call', 'by workspace'),
        ('mcp_connection', 'by workspace'),
        ('memory', 'by workspace'),
        ('memory_words', 'by workspace'),
        ('memory_without_words', 'by workspace'),
        ('network_log', 'by workspace'),
        ('port_block', 'by workspace'),
        ('quota_reached', 'by workspace'),
        ('session_loss', 'by workspace'),
        ('work_dependency', 'by workspace'),
        ('work_task', 'by workspace'),
        ('cedar_policy', 'everywhere'),
        ('domain_rule', 'everywhere'),
        ('guardrail_pattern', 'everywhere'),
        ('profile', 'everywhere'),
        ('_sqlx_migrations', 'coordinator'),
        ('installed_functions', 'coordinator'),
        ('audit_retention', 'coordinator')
$$;

CREATE FUNCTION public.take_mcp_call_back(in_workspace text, in_id uuid, OUT operation text, OUT taken jsonb) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    call mcp_call;
    at timestamptz := clock_timestamp();
begin
    select * into call from mcp_call c
    where c.workspace = in_workspace and c.id = in_id and c.taken is not null
        and c.answered_at > at - interval '30 seconds'
    for update;
    if found then
        operation := call.operation;
        taken := call.taken;
        update mcp_call c set taken = null where c.workspace = in_workspace and c.id = in_id;
        delete from idempotency_key k
        where k.workspace = in_workspace and k.agent_id = call.agent_id
            and k.key = call.idempotency_key;
    end if;
end
$$;

CREATE FUNCTION public.task_expired_at(status text, deadline timestamp with time zone, claim_expires_at timestamp with time zone, attempt smallint, max_attempts smallint) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case when status = 'pending' then deadline
        when attempt >= max_attempts then claim_expires_at
        else greatest(deadline, claim_expires_at) end
$$;

CREATE FUNCTION public.task_expiry_reason(status text, deadline timestamp with time zone, claim_expires_at timestamp with time zone, attempt smallint, max_attempts smallint, at timestamp with time zone) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case
        when status = 'pending' and deadline <= at then 'deadline_exceeded'
        when is_claim_expired(status, claim_expires_at, at) and attempt >= max_attempts
            then 'max_attempts_exceeded'
        when is_claim_expired(status, claim_expires_at, at) and deadline <= at then 'deadline_exceeded'
    end
$$;

CREATE FUNCTION public.task_status(status text, deadline timestamp with time zone, claim_expires_at timestamp with time zone, attempt smallint, max_attempts smallint, at timestamp with time zone) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case
        when task_expiry_reason(status, deadline, claim_expires_at, attempt, max_attempts, at) is not null
            then 'failed'
        else status end
$$;

CREATE FUNCTION public.tasks_to_scan(in_workspace text, in_guard_version text, in_limit integer) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    AS $$
begin
    -- Most queues have no forbidden task at all, and one look at the index tells.
    perform from work_task t
    where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
    limit 1;
    if not found then
        return '{}'::uuid[];
    end if;
    return array(
        (
            select t.id from work_task t
            where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
                and t.guard_version < in_guard_version
            limit in_limit
        ) union all (
            select t.id from work_task t
            where t.workspace = in_workspace and t.status = 'pending' and t.guard_trust > 0
                and t.guard_version > in_guard_version
            limit in_limit
        )
        limit in_limit
    );
end
$$;

CREATE FUNCTION public.tell_losses(in_workspace text, in_agent_id text, in_session_id text) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
declare
    loss record;
    losses jsonb[] := array[]::jsonb[];
    is_truncated boolean := false;
begin
    for loss in
        select l.session_id, l.kind, l.name, l.token, l.since from session_loss l
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id <> in_session_id and not l.is_told
        order by l.session_id, l.kind, l.name, l.since limit most_losses() + 1
        for update skip locked
    loop
        is_truncated := cardinality(losses) = most_losses();
        exit when is_truncated;
        losses := losses || loss_entry(loss.kind, loss.session_id, loss.name, loss.token);
        update session_loss l set is_told = true
        where l.workspace = in_workspace and l.agent_id = in_agent_id
            and l.session_id = loss.session_id and l.kind = loss.kind and l.name = loss.name
            and l.since = loss.since;
    end loop;
    return case when losses <> array[]::jsonb[] then losses_by_kind(losses, is_truncated) end;
end
$$;

CREATE FUNCTION public.texts_to_scan(in_workspace text, in_ids uuid[]) RETURNS json
    LANGUAGE plpgsql STABLE
    AS $$
begin
    if in_ids = '{}' then
        return null;
    end if;
    return (
        select json_agg(json_build_object(
            'id', p.id, 'description', p.description, 'input_data', p.input_data))
        from (
            select task.*, row_number() over page as place, sum(task.stored_bytes) over page as bytes
            from unnest(in_ids) with ordinality as ids (task_id, n), lateral (
                select t.id, t.description, t.input_data, t.stored_bytes from work_task t
                where t.workspace = in_workspace and t.id = task_id limit 1
            ) task
            window page as (order by n rows unbounded preceding)
        ) p
        where is_on_page(p.place, p.bytes)
    );
end
$$;

CREATE FUNCTION public.to_text_array(in_list jsonb) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE
    AS $$
begin
    if in_list is null or in_list = 'null' then
        return null;
    elsif in_list = '[]' then
        return '{}'::text[];
    end if;
    return array(
        select element from jsonb_array_elements_text(in_list) with ordinality as list (element, n)
        order by n);
end
$$;

CREATE FUNCTION public.to_uuid_array(in_list jsonb) RETURNS uuid[]
    LANGUAGE plpgsql IMMUTABLE
    AS $$
begin
    if in_list = '[]' then
        return '{}'::uuid[];
    end if;
    return array(
        select element::uuid from jsonb_array_elements_text(in_list) with ordinality as list (element, n)
        order by n);
end
$$;

CREATE FUNCTION public.trust_of_agent(in_workspace text, in_assigned text, in_key_types text[], in_key_profiles text[], in_max_trust integer, in_default_trust integer) RETURNS integer
    LANGUAGE plpgsql STABLE
    AS $$
declare
    trust integer;
begin
    select max(case when effective.name is null then in_default_trust
        else coalesce(p.trust_level, 0) end)
    into trust
    from (
        select coalesce(
            in_assigned,
            key.profile,
            (select d.name from profile d
                where d.workspace = in_workspace and d.agent_type = key.agent_type
                    and d.is_type_default and d.enabled)
        ) as name
        from unnest(in_key_types, in_key_profiles) as key (agent_type, profile)
    ) effective
    left join profile p on p.workspace = in_workspace and p.name = effective.name and p.enabled;
    return least(in_max_trust, trust);
end
$$;

CREATE FUNCTION public.unknown_words(in_workspace text, in_query text) RETURNS text[]
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
declare
    item search_word;
    unknown text[] := '{}'::text[];
    has_many boolean := has_many_memories(in_workspace);
begin
    foreach item in array search_query_words(in_query) loop
        continue when item.weight < 1;
        if has_many then
            perform from memory m
            where m.workspace = in_workspace
                and memory_terms(m.search, m.summary, m.lessons, m.tags) @@ item.finder::tsquery
                and memory_fit(m.search, m.summary, m.lessons, m.tags, array[item], true) is not null
            limit 1;
        else
            perform from memory m
            where m.workspace = in_workspace
                and memory_fit(m.search, m.summary, m.lessons, m.tags, array[item], true) is not null
            limit 1;
        end if;
        if not found then
            unknown := unknown || item.word;
        end if;
    end loop;
    return unknown;
end
$$;

CREATE FUNCTION public.unlimited_session_timeout() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select interval '1000 years'
$$;

CREATE FUNCTION public.update_overdue_task(in_workspace text, in_id uuid) RETURNS text
    LANGUAGE plpgsql
    AS $$
declare
    at timestamptz := clock_timestamp();
    new_status text;
begin
    update work_task t set
        is_delayed = false,
        is_expiry_recorded = is_claim_expired(t.status, t.claim_expires_at, at) and task_expiry_reason(
            t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is null,
        status = task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at),
        error_message = coalesce(
            task_expiry_reason(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at),
            t.error_message),
        completed_at = case when task_expiry_reason(
                t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) is not null
            then task_expired_at(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts)
            else t.completed_at end
    where t.workspace = in_workspace and t.id = in_id
        and (
            is_claim_expired(t.status, t.claim_expires_at, at)
            or (t.status = 'pending' and (t.deadline <= at or (t.is_delayed and t.available_at <= at)))
        )
    returning t.status into new_status;
    return new_status;
end
$$;

CREATE FUNCTION public.update_overdue_tasks(in_workspace text, in_limit integer, OUT updated bigint, OUT failed bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
declare
    overdue uuid[] := array(
        select id from unnest(overdue_tasks(in_workspace, clock_timestamp(), in_limit)) id
        order by id);
    task_id uuid;
    new_status text;
begin
    updated := 0;
    failed := 0;
    foreach task_id in array overdue loop
        perform from work_task t where t.workspace = in_workspace and t.id = task_id
        for update skip locked;
        continue when not found;
        new_status := update_overdue_task(in_workspace, task_id);
        updated := updated + (new_status is not null)::integer;
        failed := failed + coalesce(new_status = 'failed', false)::integer;
    end loop;
end
$$;

CREATE FUNCTION public.update_queue_position(in_workspace text, cx public.request, in_key text, in_reason text, in_waiter_id uuid, in_is_waiting boolean) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
declare
    alive_until timestamptz := clock_timestamp() + waiter_lifetime();
    queue_position bigint;
begin
    select count(*) + 1 into queue_position from waiters_ahead(in_workspace, cx, in_key, in_waiter_id);
    if in_is_waiting then
        insert into lock_waiter as w (
            workspace, id, key, agent_id, agent_type, session_id, reason, alive_until
        ) values (
            in_workspace, in_waiter_id, in_key, cx.agent_id, cx.agent_type, cx.session_id, in_reason,
            alive_until
        )
        on conflict on constraint lock_waiter_pkey do update set alive_until = excluded.alive_until;
    else
        delete from lock_waiter w where w.workspace = in_workspace and w.id = in_waiter_id;
    end if;
    return queue_position;
end
$$;

CREATE FUNCTION public.waiter_lifetime() RETURNS interval
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select interval '3 seconds'
$$;

CREATE TABLE public.lock_waiter (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    key text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL,
    session_id text COLLATE pg_catalog."C",
    reason text,
    waiting_since timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    alive_until timestamp with time zone NOT NULL
);

CREATE FUNCTION public.waiters_ahead(in_workspace text, cx public.request, in_key text, in_waiter_id uuid) RETURNS SETOF public.lock_waiter
    LANGUAGE plpgsql STABLE
    AS $$
declare
    own lock_waiter;
    at timestamptz := clock_timestamp();
begin
    if in_waiter_id is not null then
        select * into own from lock_waiter w where w.workspace = in_workspace and w.id = in_waiter_id;
    end if;
    return query
    select * from lock_waiter w
    where w.workspace = in_workspace and w.key = in_key and is_waiter_alive(w.alive_until, at)
        and is_owned_by_other(w.agent_id, w.session_id, cx.agent_id, cx.session_id)
        and (own.id is null or (w.waiting_since, w.id) < (own.waiting_since, own.id))
    order by w.waiting_since, w.id;
end
$$;

CREATE FUNCTION public.waiting_dependencies(in_workspace text, in_task_ids uuid[]) RETURNS TABLE(task_id uuid, depends_on uuid, is_failed boolean, place bigint)
    LANGUAGE plpgsql STABLE
    SET jit TO 'off'
    AS $$
#variable_conflict use_column
declare
    at timestamptz := clock_timestamp();
begin
    return query
    with recursive waiting (id) as (
        select id from unnest(in_task_ids) id
        union
        select t.id
        from waiting w
        cross join lateral (
            select d.depends_on from work_dependency d
            where d.workspace = in_workspace and d.task_id = w.id limit explained_tasks()
        ) dependency
        join work_task t on t.workspace = in_workspace and t.id = dependency.depends_on
        where t.open_dependencies > 0 and task_status(
            t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at) = 'pending'
    ), nearest as (
        select id, row_number() over () as place
        from (select id from waiting limit 20 * explained_tasks()) w
    )
    select n.id, t.id, task_status(t.status, t.deadline, t.claim_expires_at, t.attempt, t.max_attempts, at)
        in ('failed', 'cancelled'), n.place
    from nearest n
    cross join lateral (
        select d.depends_on from work_dependency d
        where d.workspace = in_workspace and d.task_id = n.id limit explained_tasks()
    ) dependency
    join work_task t on t.workspace = in_workspace and t.id = dependency.depends_on;
end
$$;

CREATE FUNCTION public.was_held_at_last_call(since timestamp with time zone, expires_at timestamp with time zone, session_timeout interval, last_heartbeat_at timestamp with time zone, revived_at timestamp with time zone) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    select is_live_with_session(
        since, expires_at, session_timeout, last_heartbeat_at, null, last_heartbeat_at, revived_at)
$$;

CREATE FUNCTION public.word_forms(in_word text) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $_$
declare
    forms text[] := search_forms(left(in_word, 100));
    stem text := case when in_word ~ '^[a-z]{4,100}$'
        then (ts_lexize('english_stem', in_word))[1] end;
begin
    return case
        when forms[1] ~ '^[!-~]$' then '{}'
        when length(stem) > 2 and stem <> in_word then forms || stem
        else forms
    end;
end
$_$;

CREATE FUNCTION public.workspaces_to_sweep() RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    AS $$
declare
    previous text collate "C" := '';
    with_session text collate "C";
    with_lock text collate "C";
    with_claim text collate "C";
    with_deadline text collate "C";
    with_ports text collate "C";
begin
    loop
        select min(s.workspace) into with_session from agent_session s
        where s.workspace > previous and s.ended_at is null;
        select min(l.workspace) into with_lock from file_lock l
        where l.workspace > previous and l.agent_id is not null;
        select min(t.workspace) into with_claim from work_task t
        where t.workspace > previous and t.status in ('claimed', 'running');
        select min(t.workspace) into with_deadline from work_task t
        where t.workspace > previous and t.status = 'pending' and t.deadline is not null;
        select min(p.workspace) into with_ports from port_block p where p.workspace > previous;
        previous := least(with_session, with_lock, with_claim, with_deadline, with_ports);
        exit when previous is null;
        return next previous;
    end loop;
end
$$;

CREATE FUNCTION public.workspaces_with_records() RETURNS SETOF text
    LANGUAGE plpgsql STABLE
    AS $$
declare
    previous text collate "C" := '';
    with_connection text collate "C";
    with_violation text collate "C";
    with_check text collate "C";
    with_session text collate "C";
    with_task text collate "C";
    with_key text collate "C";
begin
    loop
        select min(c.workspace) into with_connection from mcp_connection c where c.workspace > previous;
        select min(v.workspace) into with_violation from guardrail_violation v
        where v.workspace > previous;
        select min(n.workspace) into with_check from network_log n where n.workspace > previous;
        select min(s.workspace) into with_session from agent_session s where s.workspace > previous;
        select min(t.workspace) into with_task from work_task t where t.workspace > previous;
        select min(l.workspace) into with_key from file_lock l where l.workspace > previous;
        previous := least(
            with_connection, with_violation, with_check, with_session, with_task, with_key);
        exit when previous is null;
        return next previous;
    end loop;
end
$$;

CREATE TABLE public._sqlx_migrations (
    version bigint NOT NULL,
    description text NOT NULL,
    installed_on timestamp with time zone DEFAULT now() NOT NULL,
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
);

CREATE TABLE public.agent_assignment (
    workspace text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    profile text,
    suspended boolean DEFAULT false NOT NULL,
    assigned_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.audit_log (
    workspace text NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id text NOT NULL,
    agent_type text NOT NULL,
    session_id text,
    request_id text NOT NULL,
    operation text NOT NULL,
    parameters jsonb NOT NULL,
    result jsonb NOT NULL,
    error_message text,
    success boolean NOT NULL,
    duration_ms integer NOT NULL
)
PARTITION BY RANGE (created_at);

CREATE TABLE public.audit_retention (
    days integer NOT NULL,
    CONSTRAINT audit_retention_days_range CHECK (((days >= 1) AND (days <= 3650)))
);

CREATE TABLE public.cedar_policy (
    workspace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    priority integer NOT NULL,
    policy_text text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    version integer DEFAULT 1 NOT NULL,
    CONSTRAINT cedar_policy_version_positive CHECK ((version >= 1))
);

CREATE TABLE public.domain_rule (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    profile text COLLATE pg_catalog."C",
    pattern text NOT NULL COLLATE pg_catalog."C",
    action text NOT NULL,
    priority integer NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    CONSTRAINT domain_rule_action_known CHECK ((action = ANY (ARRAY['allow'::text, 'deny'::text]))),
    CONSTRAINT domain_rule_pattern_form CHECK (((pattern = '*'::text) OR (pattern ~ '^(\*\.)?[^*.[:space:]]+(\.[^*.[:space:]]+)*$'::text)))
);

CREATE TABLE public.file_lock (
    workspace text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    token bigint NOT NULL,
    is_file boolean NOT NULL,
    agent_id text COLLATE pg_catalog."C",
    agent_type text,
    session_id text COLLATE pg_catalog."C",
    reason text,
    locked_at timestamp with time zone,
    expires_at timestamp with time zone,
    refresh_count integer DEFAULT 0 NOT NULL,
    took_over_from text,
    freed_at timestamp with time zone,
    CONSTRAINT file_lock_holder_is_whole CHECK ((num_nulls(agent_id, agent_type, locked_at, expires_at) = ANY (ARRAY[0, 4]))),
    CONSTRAINT file_lock_token_range CHECK (((token >= 1) AND (token <= '9007199254740991'::bigint)))
);

CREATE TABLE public.guardrail_pattern (
    workspace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    list_order integer NOT NULL,
    category text NOT NULL,
    severity text NOT NULL,
    min_trust_level smallint NOT NULL,
    pattern text NOT NULL,
    explanation text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    CONSTRAINT guardrail_pattern_not_empty CHECK (((name <> ''::text) AND (pattern <> ''::text))),
    CONSTRAINT guardrail_pattern_severity_known CHECK ((severity = ANY (ARRAY['block'::text, 'warn'::text, 'log'::text, 'approval_required'::text]))),
    CONSTRAINT guardrail_pattern_trust_range CHECK (((min_trust_level >= 0) AND (min_trust_level <= 5)))
);

CREATE TABLE public.guardrail_violation (
    workspace text NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id text NOT NULL,
    session_id text,
    request_id text NOT NULL,
    trust_level smallint NOT NULL,
    pattern_name text NOT NULL,
    category text NOT NULL,
    severity text NOT NULL,
    blocked boolean NOT NULL,
    operation_text text NOT NULL,
    matched_text text NOT NULL,
    file_paths text[]
);

CREATE TABLE public.idempotency_key (
    workspace text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    key text NOT NULL COLLATE pg_catalog."C",
    fingerprint bytea NOT NULL,
    body text,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.installed_functions (
    digest text NOT NULL,
    installed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.lock_token_floor (
    workspace text NOT NULL COLLATE pg_catalog."C",
    token bigint NOT NULL
);

CREATE TABLE public.mcp_call (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    agent_id text NOT NULL COLLATE pg_catalog."C",
    connection_id text NOT NULL COLLATE pg_catalog."C",
    request_id text NOT NULL COLLATE pg_catalog."C",
    started_at timestamp with time zone,
    due_at timestamp with time zone NOT NULL,
    cancelled_at timestamp with time zone,
    answered_at timestamp with time zone,
    operation text,
    taken jsonb,
    idempotency_key text
);

CREATE TABLE public.mcp_connection (
    workspace text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    connection_id text NOT NULL COLLATE pg_catalog."C",
    session_id text COLLATE pg_catalog."C",
    has_ended boolean DEFAULT false NOT NULL,
    bound_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.memory_without_words (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    tried_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE public.memory_words (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid NOT NULL,
    words text NOT NULL
);

CREATE TABLE public.network_log (
    workspace text NOT NULL COLLATE pg_catalog."C",
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    agent_id text NOT NULL,
    agent_type text NOT NULL,
    session_id text,
    request_id text NOT NULL,
    domain text NOT NULL,
    allowed boolean NOT NULL,
    policy_id uuid,
    reason text NOT NULL
);

CREATE TABLE public.profile (
    workspace text NOT NULL COLLATE pg_catalog."C",
    name text NOT NULL COLLATE pg_catalog."C",
    agent_type text NOT NULL,
    is_type_default boolean NOT NULL,
    trust_level smallint NOT NULL,
    max_file_modifications integer NOT NULL,
    max_execution_time_seconds integer NOT NULL,
    max_api_calls_per_hour integer NOT NULL,
    allowed_operations text[] NOT NULL,
    blocked_operations text[] NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    CONSTRAINT profile_limits_range CHECK (((max_file_modifications >= 0) AND (max_execution_time_seconds >= 0) AND (max_api_calls_per_hour >= 0))),
    CONSTRAINT profile_trust_range CHECK (((trust_level >= 0) AND (trust_level <= 4)))
);

CREATE TABLE public.quota_reached (
    workspace text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    counted_at timestamp with time zone NOT NULL
);

CREATE TABLE public.session_loss (
    workspace text NOT NULL COLLATE pg_catalog."C",
    agent_id text NOT NULL COLLATE pg_catalog."C",
    session_id text NOT NULL COLLATE pg_catalog."C",
    kind text NOT NULL,
    name text NOT NULL COLLATE pg_catalog."C",
    token text,
    since timestamp with time zone NOT NULL,
    lost_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    is_told boolean DEFAULT false NOT NULL,
    CONSTRAINT session_loss_kind_known CHECK ((kind = ANY (ARRAY['lock'::text, 'claim'::text, 'port'::text])))
);

CREATE TABLE public.work_dependency (
    workspace text NOT NULL COLLATE pg_catalog."C",
    task_id uuid NOT NULL,
    depends_on uuid NOT NULL,
    list_order integer NOT NULL
);

CREATE TABLE public.work_task (
    workspace text NOT NULL COLLATE pg_catalog."C",
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    task_type text NOT NULL COLLATE pg_catalog."C",
    description text NOT NULL,
    input_data json,
    priority smallint NOT NULL,
    status text DEFAULT 'pending'::text NOT NULL,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    submitted_by text NOT NULL COLLATE pg_catalog."C",
    submitted_session_id text,
    change_id text,
    unique_key text COLLATE pg_catalog."C",
    open_dependencies integer DEFAULT 0 NOT NULL,
    not_before timestamp with time zone,
    deadline timestamp with time zone,
    available_at timestamp with time zone,
    is_delayed boolean DEFAULT false NOT NULL,
    agent_requirements json,
    archetype text,
    min_trust smallint DEFAULT 0 NOT NULL,
    authored_by text,
    guard_version text NOT NULL,
    guard_trust smallint NOT NULL,
    guard_findings jsonb NOT NULL,
    needed_trust smallint NOT NULL,
    max_attempts smallint NOT NULL,
    retry_on_failure boolean NOT NULL,
    attempt smallint DEFAULT 0 NOT NULL,
    claim_token text,
    claimed_by text COLLATE pg_catalog."C",
    claimed_session_id text,
    claimed_at timestamp with time zone,
    started_at timestamp with time zone,
    lease_minutes integer,
    claim_lease_minutes integer,
    lease_expires_at timestamp with time zone,
    claim_expires_at timestamp with time zone,
    is_expiry_recorded boolean DEFAULT false NOT NULL,
    is_ready boolean GENERATED ALWAYS AS ((((status = 'pending'::text) AND (open_dependencies = 0) AND (NOT is_delayed)) OR ((status = ANY (ARRAY['claimed'::text, 'running'::text])) AND is_expiry_recorded AND (attempt < max_attempts)))) STORED NOT NULL,
    completed_at timestamp with time zone,
    result json,
    error_message text,
    completion jsonb,
    is_claim_known boolean DEFAULT true NOT NULL,
    stored_bytes integer GENERATED ALWAYS AS ((((octet_length(description) + COALESCE(octet_length((input_data)::text), 0)) + COALESCE(octet_length((result)::text), 0)) + COALESCE(octet_length(error_message), 0))) STORED NOT NULL,
    CONSTRAINT work_task_claim_is_whole CHECK (((status <> ALL (ARRAY['claimed'::text, 'running'::text])) OR (num_nulls(claim_token, claimed_by, claimed_at, lease_minutes, claim_lease_minutes, lease_expires_at, claim_expires_at) = 0))),
    CONSTRAINT work_task_dependencies_counted CHECK ((open_dependencies >= 0)),
    CONSTRAINT work_task_priority_range CHECK (((priority >= 1) AND (priority <= 10))),
    CONSTRAINT work_task_status_known CHECK ((status = ANY (ARRAY['pending'::text, 'claimed'::text, 'running'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT work_task_trust_range CHECK (((needed_trust >= 0) AND (needed_trust <= 5)))
);

ALTER TABLE ONLY public._sqlx_migrations
    ADD CONSTRAINT _sqlx_migrations_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.agent_assignment
    ADD CONSTRAINT agent_assignment_pkey PRIMARY KEY (workspace, agent_id);

ALTER TABLE ONLY public.agent_session
    ADD CONSTRAINT agent_session_pkey PRIMARY KEY (workspace, agent_id, session_id);

ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (workspace, created_at, id);

ALTER TABLE ONLY public.cedar_policy
    ADD CONSTRAINT cedar_policy_pkey PRIMARY KEY (workspace, name);

ALTER TABLE ONLY public.domain_rule
    ADD CONSTRAINT domain_rule_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.file_lock
    ADD CONSTRAINT file_lock_pkey PRIMARY KEY (workspace, key);

ALTER TABLE ONLY public.guardrail_pattern
    ADD CONSTRAINT guardrail_pattern_pkey PRIMARY KEY (workspace, name);

ALTER TABLE ONLY public.guardrail_violation
    ADD CONSTRAINT guardrail_violation_pkey PRIMARY KEY (workspace, created_at, id);

ALTER TABLE ONLY public.handoff
    ADD CONSTRAINT handoff_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.idempotency_key
    ADD CONSTRAINT idempotency_key_pkey PRIMARY KEY (workspace, agent_id, key);

ALTER TABLE ONLY public.lock_token_floor
    ADD CONSTRAINT lock_token_floor_pkey PRIMARY KEY (workspace);

ALTER TABLE ONLY public.lock_waiter
    ADD CONSTRAINT lock_waiter_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.mcp_call
    ADD CONSTRAINT mcp_call_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.mcp_connection
    ADD CONSTRAINT mcp_connection_pkey PRIMARY KEY (workspace, agent_id, connection_id);

ALTER TABLE ONLY public.memory
    ADD CONSTRAINT memory_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.memory_without_words
    ADD CONSTRAINT memory_without_words_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.memory_words
    ADD CONSTRAINT memory_words_pkey PRIMARY KEY (workspace, id);

ALTER TABLE ONLY public.network_log
    ADD CONSTRAINT network_log_pkey PRIMARY KEY (workspace, created_at, id);

ALTER TABLE ONLY public.port_block
    ADD CONSTRAINT port_block_pkey PRIMARY KEY (workspace, slot);

ALTER TABLE ONLY public.profile
    ADD CONSTRAINT profile_pkey PRIMARY KEY (workspace, name);

ALTER TABLE ONLY public.quota_reached
    ADD CONSTRAINT quota_reached_pkey PRIMARY KEY (workspace, kind, agent_id);

ALTER TABLE ONLY public.session_loss
    ADD CONSTRAINT session_loss_pkey PRIMARY KEY (workspace, agent_id, session_id, kind, name, since);

ALTER TABLE ONLY public.work_dependency
    ADD CONSTRAINT work_dependency_pkey PRIMARY KEY (workspace, task_id, depends_on);

ALTER TABLE ONLY public.work_task
    ADD CONSTRAINT work_task_pkey PRIMARY KEY (workspace, id);

CREATE INDEX agent_session_by_heartbeat ON public.agent_session USING btree (workspace, last_heartbeat_at DESC);

CREATE INDEX agent_session_ended ON public.agent_session USING btree (workspace, ended_at) WHERE (ended_at IS NOT NULL);

CREATE INDEX agent_session_not_ended ON public.agent_session USING btree (workspace, last_heartbeat_at) WHERE (ended_at IS NULL);

CREATE INDEX agent_session_not_ended_of_agent ON public.agent_session USING btree (workspace, agent_id, last_heartbeat_at) WHERE (ended_at IS NULL);

CREATE INDEX audit_log_by_agent ON ONLY public.audit_log USING btree (workspace, agent_id, created_at);

CREATE INDEX audit_log_by_change ON ONLY public.audit_log USING btree (workspace, ((parameters ->> 'change_id'::text)), created_at) WHERE ((parameters ->> 'change_id'::text) IS NOT NULL);

CREATE INDEX file_lock_free ON public.file_lock USING btree (workspace, freed_at) WHERE (agent_id IS NULL);

CREATE INDEX file_lock_held ON public.file_lock USING btree (workspace, key) WHERE (agent_id IS NOT NULL);

CREATE INDEX file_lock_held_by_session ON public.file_lock USING btree (workspace, agent_id, session_id) WHERE (agent_id IS NOT NULL);

CREATE INDEX guardrail_violation_by_age ON public.guardrail_violation USING brin (created_at);

CREATE INDEX handoff_newest ON public.handoff USING btree (workspace, is_automatic, created_at DESC, id DESC);

CREATE INDEX handoff_newest_of_agent ON public.handoff USING btree (workspace, agent_id, is_automatic, created_at DESC, id DESC);

CREATE INDEX handoff_of_session ON public.handoff USING btree (workspace, session_id) WHERE ((session_id IS NOT NULL) AND (NOT is_automatic));

CREATE INDEX idempotency_key_by_age ON public.idempotency_key USING btree (created_at);

CREATE INDEX lock_waiter_queue ON public.lock_waiter USING btree (workspace, key, waiting_since, id);

CREATE INDEX mcp_call_by_age ON public.mcp_call USING btree (due_at);

CREATE INDEX mcp_call_by_key ON public.mcp_call USING btree (workspace, agent_id, idempotency_key) WHERE ((idempotency_key IS NOT NULL) AND (taken IS NOT NULL));

CREATE UNIQUE INDEX mcp_call_of_connection ON public.mcp_call USING btree (workspace, agent_id, connection_id, request_id) WHERE (connection_id <> ''::text);

CREATE INDEX mcp_call_without_connection ON public.mcp_call USING btree (workspace, agent_id, request_id) WHERE (connection_id = ''::text);

CREATE INDEX mcp_connection_of_session ON public.mcp_connection USING btree (workspace, agent_id, session_id);

CREATE INDEX mcp_connection_oldest ON public.mcp_connection USING btree (workspace, bound_at);

CREATE INDEX memory_by_agent ON public.memory USING btree (workspace, agent_id, created_at DESC, id);

CREATE INDEX memory_by_tag ON public.memory USING gin (tags);

CREATE INDEX memory_by_term ON public.memory USING gin (public.memory_terms(search, summary, lessons, tags));
ALTER INDEX public.memory_by_term ALTER COLUMN 1 SET STATISTICS 0;

CREATE INDEX memory_by_time ON public.memory USING btree (workspace, created_at DESC, id);

CREATE INDEX memory_by_word ON public.memory USING gin (search);

CREATE UNIQUE INDEX memory_one_current ON public.memory USING btree (workspace, agent_id, event_type, summary_digest) WHERE is_current;

CREATE INDEX network_log_by_age ON public.network_log USING brin (created_at);

CREATE UNIQUE INDEX profile_one_default_a_type ON public.profile USING btree (workspace, agent_type) WHERE is_type_default;

CREATE INDEX quota_reached_by_age ON public.quota_reached USING btree (counted_at);

CREATE INDEX session_loss_by_age ON public.session_loss USING btree (lost_at);

CREATE INDEX work_dependency_on ON public.work_dependency USING btree (workspace, depends_on);

CREATE INDEX work_task_blocked ON public.work_task USING btree (workspace, priority, created_at, id) WHERE ((status = 'pending'::text) AND (open_dependencies > 0));

CREATE INDEX work_task_claim_expiry ON public.work_task USING btree (workspace, claim_expires_at) WHERE ((status = ANY (ARRAY['claimed'::text, 'running'::text])) AND (NOT is_expiry_recorded));

CREATE INDEX work_task_claimed_by_session ON public.work_task USING btree (workspace, claimed_by, claimed_session_id) WHERE (status = ANY (ARRAY['claimed'::text, 'running'::text]));

CREATE INDEX work_task_delayed ON public.work_task USING btree (workspace, available_at) WHERE ((status = 'pending'::text) AND (open_dependencies = 0) AND is_delayed);

CREATE INDEX work_task_finished ON public.work_task USING btree (workspace, completed_at) WHERE (status = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text]));

CREATE INDEX work_task_forbidden ON public.work_task USING btree (workspace, guard_version) WHERE ((status = 'pending'::text) AND (guard_trust > 0));

CREATE INDEX work_task_guarded ON public.work_task USING btree (workspace, priority, created_at, id) WHERE (is_ready AND (guard_trust > 0));

CREATE INDEX work_task_listed ON public.work_task USING btree (workspace, priority, created_at, id);

CREATE INDEX work_task_open_of_submitter ON public.work_task USING btree (workspace, submitted_by) WHERE (completed_at IS NULL);

CREATE INDEX work_task_overdue ON public.work_task USING btree (workspace, deadline) WHERE ((status = 'pending'::text) AND (deadline IS NOT NULL));

CREATE INDEX work_task_ready ON public.work_task USING btree (workspace, needed_trust, priority, created_at, id) WHERE (is_ready AND (archetype IS NULL));

CREATE INDEX work_task_ready_by_archetype ON public.work_task USING btree (workspace, archetype, needed_trust, priority, created_at, id) WHERE (is_ready AND (archetype IS NOT NULL));

CREATE INDEX work_task_ready_by_archetype_and_type ON public.work_task USING btree (workspace, archetype, task_type, needed_trust, priority, created_at, id) WHERE (is_ready AND (archetype IS NOT NULL));

CREATE INDEX work_task_ready_by_type ON public.work_task USING btree (workspace, task_type, needed_trust, priority, created_at, id) WHERE (is_ready AND (archetype IS NULL));

CREATE UNIQUE INDEX work_task_unique_key ON public.work_task USING btree (workspace, unique_key) WHERE ((unique_key IS NOT NULL) AND (status = ANY (ARRAY['pending'::text, 'claimed'::text, 'running'::text])));

CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_audit_log_change();

ALTER TABLE public.audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

ALTER TABLE ONLY public.memory_without_words
    ADD CONSTRAINT memory_without_words_memory FOREIGN KEY (workspace, id) REFERENCES public.memory(workspace, id) ON DELETE CASCADE;

ALTER TABLE ONLY public.memory_words
    ADD CONSTRAINT memory_words_memory FOREIGN KEY (workspace, id) REFERENCES public.memory(workspace, id) ON DELETE CASCADE;

