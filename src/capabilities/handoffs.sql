-- Handoffs. Lists and content are json and not jsonb, which does not keep the order of members.

-- Stores a handoff, unless `in_refusal` or a quota says why it is refused, as `refusal` does then. An automatic note is not stored if its
-- session has written a handoff of its own: that one is then returned, and `kept_earlier` is true.
create or replace function store_handoff(
    in_workspace text, cx request, in_refusal text, in_is_automatic boolean, in_summary text,
    in_completed_work json, in_in_progress json, in_decisions json, in_next_steps json,
    in_relevant_files json, in_content json, in_quota integer[],
    out handoff_id uuid, out kept_earlier boolean, out refusal text
) language plpgsql as $$
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

-- Whether a handoff comes after another one in the order in which they are read.
create or replace function is_handoff_after(
    is_automatic boolean, created_at timestamptz, id uuid,
    other_is_automatic boolean, other_created_at timestamptz, other_id uuid
) returns boolean language sql immutable parallel safe as $$
    select case when is_automatic = other_is_automatic
        then (created_at, id) < (other_created_at, other_id)
        else is_automatic end
$$;

-- Returns the newest handoffs of one agent, or of all agents (null). Automatic ones come after all others,
-- however new they are: they tell nothing about the work. With `in_after_id`, only the handoffs after that
-- one, whose values of the other columns of the order are given too.
create or replace function newest_handoffs(
    in_workspace text, in_agent_id text, in_limit bigint, in_after_automatic boolean,
    in_after_created_at timestamptz, in_after_id uuid
) returns setof handoff language plpgsql stable as $$
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

-- Returns a page of the newest handoffs, see `newest_handoffs`, and records that they were read. Returns up
-- to one more than `in_limit`: the extra row tells the service that there are more, and so does `has_more`
-- of the last row. `in_parameters` is for the audit row.
create or replace function list_handoffs(
    in_workspace text, cx request, in_agent_id text, in_limit bigint, in_parameters jsonb,
    in_after_automatic boolean, in_after_created_at timestamptz, in_after_id uuid
) returns table (
    id uuid, agent_id text, session_id text, summary text, completed_work json, in_progress json,
    decisions json, next_steps json, relevant_files json, created_at timestamptz, content json,
    is_automatic boolean, has_more boolean
) language plpgsql as $$
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
