-- Least privilege: what the roles of the database may do with the service's tables and functions. See
-- docs/decisions/0019-least-privilege.md.

-- Lists the rights that the service needs on each table. Its role also executes the functions, and owns
-- nothing. What the owner decides, it only reads.
create or replace function service_rights() returns table (name text, rights text[])
language sql immutable as $$
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

-- Lists PUBLIC, which every role belongs to, and the roles as which the REST interface of a platform
-- answers everybody with its address: those of Supabase and PostgREST, and `anonymous` of Neon. They get
-- rights on new tables and functions by default.
create or replace function api_roles() returns table (id oid, name text)
language sql stable as $$
    select 0::oid, 'public'
    union all
    select r.oid, r.rolname::text from pg_roles r
    where r.rolname = any('{anon,anonymous,authenticated,service_role}')
$$;

-- Lists the service's tables, and the partitions of the audit log.
create or replace function service_tables() returns table (id oid, name text)
language sql stable as $$
    select c.oid, r.name from service_rights() r
    join pg_class c on c.relname = r.name and c.relnamespace = current_schema()::regnamespace
    union all
    select i.inhrelid, i.inhrelid::regclass::text from pg_inherits i
    where i.inhparent = 'audit_log'::regclass
$$;

-- Takes every right on a table from the roles of `api_roles`. Where they have none, nothing is written.
create or replace function close_table(in_table regclass) returns void language plpgsql as $$
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

-- Takes every right on the functions of these names from the roles of `api_roles`. PUBLIC may execute
-- a new function unless that is revoked; replacing a function keeps what was revoked.
create or replace function close_functions(in_functions text[]) returns void language plpgsql as $$
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

-- Takes the right to change the retention of the audit log from every role but the owner, also where
-- rights on all tables were granted.
create or replace function close_audit_retention() returns void language plpgsql as $$
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

-- Grants a role what the service needs and the role lacks, and returns how many rights that were.
create or replace function grant_service_rights(in_role text, in_functions text[]) returns integer
language plpgsql as $$
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

-- Secures an installation, after each migration: nobody but the owner and the service's roles can do
-- anything, and these have what this version needs. A role of the service is one that may write to the
-- audit log. Sets the retention of the audit log, unless it is null. Does nothing for a role that is not
-- the owner: it could not have migrated anything.
create or replace function secure_installation(in_functions text[], in_retention_days integer) returns void
language plpgsql as $$
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

-- Sets the time limits of a role in this database. They are set on the role, because poolers refuse
-- start-up parameters, and a plain SET would stay on a server connection that a pooler then gives to
-- other clients.
--
-- A replica that freezes within a transaction keeps the rows that it has locked until that transaction has
-- been idle for too long: less than `lock_timeout`, so that those who wait for the rows still get them. A
-- statement whose client has gone is cancelled at the next check of its connection.
create or replace function set_time_limits(in_role text) returns void language plpgsql as $$
declare
    target text := format('alter role %I in database %I set ', in_role, current_database());
begin
    execute target || 'statement_timeout = ''10s''';
    execute target || 'lock_timeout = ''5s''';
    execute target || 'idle_in_transaction_session_timeout = ''3s''';
    execute target || 'client_connection_check_interval = ''1s''';
end
$$;

-- Creates a role for the service if it is missing, without a password, and makes its rights on the
-- service's tables exactly those that the service needs. Returns what was done, one sentence for each
-- step. Call it as the owner, after `secure_installation`.
create or replace function prepare_service_role(in_role text, in_functions text[]) returns setof text
language plpgsql as $$
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

-- Creates a role that can connect once it has a password, and says so.
create or replace function create_service_role(in_role text) returns text language plpgsql as $$
begin
    execute format('create role %I login', in_role);
    return 'created it, without a password';
exception when insufficient_privilege then
    raise exception
        'the role % does not exist, and % may not create roles: have an administrator run "create role % login", and repeat this command',
        in_role, current_user, in_role;
end
$$;

-- Refuses a role that could undo what protects the audit log, or that a REST interface uses.
create or replace function refuse_powerful_role(in_role text) returns void language plpgsql as $$
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

-- Takes from a role the rights on the service's tables that the service does not need, and what it would
-- get on new tables and functions by default. Returns how many rights on tables it had too many.
create or replace function revoke_surplus_rights(in_role text) returns integer language plpgsql as $$
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
