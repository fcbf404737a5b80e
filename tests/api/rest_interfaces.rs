//! Platforms with a REST interface for every table: the roles as which it answers strangers can do nothing,
//! whatever they get by default.
use agent_coordinator::{App, schema};
use serde_json::Value;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{
    processes::empty_database,
    support::{config, execute, scalar, try_execute, variables, with_more},
};

/// The roles of Supabase, which all databases of the server share.
const ROLES: [&str; 3] = ["anon", "authenticated", "service_role"];

/// What a project of Supabase sets for new tables, functions and sequences.
const CLASSIC_DEFAULTS: &str = "
    grant usage on schema public to anon, authenticated, service_role;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
    alter default privileges in schema public grant all on sequences to anon, authenticated, service_role";

/// What an attack tried, over REST.
const ATTACKS: [&str; 8] = [
    "select key, agent_id, reason, token from file_lock",
    "update profile set trust_level = 4 where workspace = 'default'",
    "insert into agent_assignment (workspace, agent_id, profile) values ('default', 'evil', 'strands_orchestrator')",
    "update file_lock set agent_id = 'evil'",
    "delete from guardrail_pattern",
    "select drop_audit_partitions(1)",
    "select ensure_audit_partitions(24)",
    "insert into _sqlx_migrations values (99990101000000, 'newer', now(), true, '', 0)",
];

/// Every right that a role has on a table, view, sequence or function in the schema.
const HELD: &str = "
    select coalesce(json_agg(concat_ws(' ', role, right_name, object)), '[]') from (
        select r.rolname as role, it as right_name, c.oid::regclass::text as object
        from pg_roles r cross join pg_class c
        cross join unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', 'trigger']) it
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
            and (has_table_privilege(r.oid, c.oid, it)
                or it in ('select', 'insert', 'update', 'references')
                    and has_any_column_privilege(r.oid, c.oid, it))
            and r.rolname in ('anon', 'authenticated', 'service_role')
        union all
        select r.rolname, 'usage', c.oid::regclass::text from pg_roles r cross join pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'S'
            and has_sequence_privilege(r.oid, c.oid, 'usage, select, update')
            and r.rolname in ('anon', 'authenticated', 'service_role')
        union all
        select r.rolname, 'execute', p.oid::regprocedure::text from pg_roles r cross join pg_proc p
        where p.pronamespace = 'public'::regnamespace and has_function_privilege(r.oid, p.oid, 'execute')
            and r.rolname in ('anon', 'authenticated', 'service_role')
    ) held";

/// An empty database with the roles and the defaults of a project.
async fn project() -> (String, PgPool) {
    let url = empty_database().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    for role in ROLES {
        // Another test may be creating it.
        let create = format!(
            "do $$ begin create role {role}; exception when duplicate_object or unique_violation then null; end $$"
        );
        execute(&db, &create).await;
    }
    execute(&db, CLASSIC_DEFAULTS).await;
    (url, db)
}

/// Runs a statement as a role and undoes it; returns the code of the error, if there was one.
async fn attempt(url: &str, role: &str, sql: &str) -> Option<String> {
    let mut db = PgConnection::connect(url).await.expect("it answers");
    execute(&mut db, &format!("begin; set local role {role}")).await;
    let error = try_execute(&mut db, sql).await.err()?;
    Some(error.as_database_error().and_then(|it| it.code()).expect("a code").into_owned())
}

async fn migrate(url: &str) {
    App::new(config(&variables(url))).migrate().await.expect("it is migrated");
}

/// Asserts that strangers can do nothing: neither by the catalogue nor by trying.
async fn assert_closed(url: &str, db: &PgPool, when: &str) {
    let held: Value = scalar(db, HELD).await;
    assert_eq!(held, serde_json::json!([]), "{when}");
    let tables: Vec<String> = scalar(
        db,
        "select array_agg(oid::regclass::text order by 1) from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')",
    )
    .await;
    assert!(tables.len() > 24, "{tables:?}");
    for role in ROLES {
        let on_tables = tables.iter().flat_map(|table| {
            [
                format!("select * from {table}"),
                format!("insert into {table} default values"),
                format!("delete from {table}"),
                format!("truncate {table}"),
            ]
        });
        for sql in on_tables.chain(ATTACKS.map(str::to_owned)) {
            let code = attempt(url, role, &sql).await;
            assert_eq!(code.as_deref(), Some("42501"), "{when}: {role}: {sql}");
        }
    }
}

#[tokio::test]
async fn strangers_can_do_nothing_in_a_project_with_the_classic_defaults() {
    let (url, db) = project().await;
    migrate(&url).await;
    assert_closed(&url, &db, "after the first migration").await;
    execute(&db, "select ensure_audit_partitions(9)").await;
    assert_closed(&url, &db, "with new months of the audit log").await;

    execute(
        &db,
        "grant all on all tables in schema public to anon, authenticated, public;
         grant all on all functions in schema public to anon, authenticated, public;
         grant update (agent_id) on file_lock to anon",
    )
    .await;
    assert_eq!(attempt(&url, "anon", ATTACKS[0]).await, None, "the defaults were applied again");
    migrate(&url).await;
    assert_closed(&url, &db, "after a migration that had nothing else to do").await;
}

#[tokio::test]
async fn a_project_that_was_migrated_by_an_older_version_is_closed() {
    let (url, db) = project().await;
    let mut older = PgConnection::connect(&url).await.expect("it answers");
    schema().migrator.run_direct(None, &mut older, false).await.expect("migrated");
    let (functions, _) = schema().functions.split_once("select secure_installation(").expect("it");
    execute(&mut older, functions).await;
    execute(&mut older, "update installed_functions set digest = 'older'").await;
    for attack in ATTACKS {
        assert_eq!(attempt(&url, "anon", attack).await, None, "an older version allows: {attack}");
    }
    migrate(&url).await;
    assert_closed(&url, &db, "after the migration").await;
}

#[tokio::test]
async fn a_table_is_closed_before_it_can_be_seen() {
    let (url, db) = project().await;
    // The installation cannot replace this function, so the migrations alone are committed.
    execute(&db, "create function waiter_lifetime() returns text language sql as $$ select '' $$")
        .await;
    App::new(config(&variables(&url))).migrate().await.expect_err("the installation fails");
    for attack in ATTACKS.into_iter().filter(|it| !it.contains("_partitions")) {
        assert_eq!(attempt(&url, "anon", attack).await.as_deref(), Some("42501"), "{attack}");
    }
}

#[tokio::test]
async fn what_is_not_of_the_service_stays_as_it_is() {
    let (url, db) = project().await;
    execute(
        &db,
        "create table todo (title text); insert into todo values ('mine');
         create function todo_count() returns bigint language sql as $$ select count(*) from todo $$",
    )
    .await;
    migrate(&url).await;
    let of_the_project =
        ["select * from todo", "select todo_count()", "insert into todo values ('x')"];
    for sql in of_the_project {
        assert_eq!(attempt(&url, "anon", sql).await, None, "{sql}");
    }
    execute(&db, "create table later (title text)").await;
    assert_eq!(attempt(&url, "anon", "select * from later").await, None, "the defaults remain");
}

#[tokio::test]
async fn without_such_roles_a_repeated_migration_writes_no_rights() {
    let service = crate::support::Service::start().await;
    let rights = "select md5(string_agg(xmin::text, ' ' order by oid)) from (
        select xmin, oid from pg_class where relnamespace = 'public'::regnamespace
        union all select xmin, oid from pg_proc where pronamespace = 'public'::regnamespace) it";
    let before: String = service.scalar(rights).await;
    App::new(config(&with_more(&service.url, &[]))).migrate().await.expect("it is migrated");
    assert_eq!(service.scalar::<String>(rights).await, before);
}
