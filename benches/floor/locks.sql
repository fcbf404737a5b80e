-- The floor of locks: write the rows of an acquisition and of a release, without any check.

create function floor_acquire_lock(
    in_workspace text, cx request, in_key text, in_ttl interval, out token bigint, out expires_at timestamptz
) language plpgsql as $$
#variable_conflict use_column
begin
    insert into file_lock as l (
        workspace, key, token, is_file, agent_id, agent_type, session_id, locked_at, expires_at
    ) values (
        in_workspace, in_key, 1, true, cx.agent_id, cx.agent_type, cx.session_id, clock_timestamp(),
        clock_timestamp() + in_ttl
    )
    on conflict (workspace, key) do update set
        token = l.token + 1, agent_id = excluded.agent_id, agent_type = excluded.agent_type,
        session_id = excluded.session_id, locked_at = excluded.locked_at,
        expires_at = excluded.expires_at
    returning l.token, l.expires_at into token, expires_at;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'acquire_lock',
        jsonb_build_object('file_path', in_key, 'reason', null),
        jsonb_build_object('action', 'acquired', 'fencing_token', token, 'took_over_from', null),
        true, cx.elapsed_ms
    );
end
$$;

create function floor_release_lock(in_workspace text, cx request, in_key text) returns void
language plpgsql as $$
begin
    update file_lock l set
        agent_id = null, agent_type = null, session_id = null, reason = null, locked_at = null,
        expires_at = null
    where l.workspace = in_workspace and l.key = in_key;
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'release_lock',
        jsonb_build_object('file_path', in_key), jsonb_build_object('action', 'released'), true,
        cx.elapsed_ms
    );
end
$$;

-- A refused acquisition writes only its audit row.
create function floor_refused_lock(in_workspace text, cx request, in_key text) returns void
language plpgsql as $$
begin
    insert into audit_log (
        workspace, agent_id, agent_type, session_id, request_id, operation, parameters, result, success,
        duration_ms
    ) values (
        in_workspace, cx.agent_id, cx.agent_type, cx.session_id, cx.id, 'acquire_lock',
        jsonb_build_object('file_path', in_key, 'reason', null),
        jsonb_build_object('reason', 'locked_by_other', 'locked_by', 'holder'), false, cx.elapsed_ms
    );
end
$$;
