-- How much each row adds to a list, so that a list ends where it gets too large without reading the large
-- values of rows that it does not show. Adding the columns rewrites the tables.

-- Returns the bytes of a list of texts as JSON, about.
create function bytes_of_texts(in_texts text[]) returns integer
language sql immutable parallel safe as $$
    select octet_length(array_to_string(in_texts, '')) + 3 * cardinality(in_texts)
$$;

-- json and not jsonb: never queried, and returned exactly as the client sent it. With jsonb, `1e300` would be
-- returned with three hundred digits.
alter table memory alter column details type json using details::json;
alter table memory add column stored_bytes integer not null generated always as (
    octet_length(summary) + octet_length(details::text) + bytes_of_texts(lessons) + bytes_of_texts(tags)
) stored;

alter table agent_session alter column metadata drop default;
alter table agent_session alter column metadata type json using metadata::json;
alter table agent_session alter column metadata set default '{}';
alter table agent_session add column stored_bytes integer not null generated always as (
    octet_length(metadata::text) + bytes_of_texts(capabilities) + coalesce(octet_length(current_task), 0)
) stored;

alter table handoff add column stored_bytes integer not null generated always as (
    octet_length(summary) + octet_length(completed_work::text) + octet_length(in_progress::text)
    + octet_length(decisions::text) + octet_length(next_steps::text)
    + octet_length(relevant_files::text) + octet_length(content::text)
) stored;

alter table work_task add column stored_bytes integer not null generated always as (
    octet_length(description) + coalesce(octet_length(input_data::text), 0)
    + coalesce(octet_length(result::text), 0) + coalesce(octet_length(error_message), 0)
) stored;

-- Functions whose parameters or results are different now. No release has them.
drop function if exists remember(text, request, text, text, bytea, jsonb, text, jsonb, jsonb);
drop function if exists begin_session(text, request, text, text[], text, text, jsonb, text, text, boolean);
drop function if exists register_session(text, request, text, text[], text, text, jsonb, text, text);
drop function if exists list_handoffs(
    text, request, text, bigint, jsonb, boolean, timestamptz, uuid);
