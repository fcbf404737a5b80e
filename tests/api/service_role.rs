//! The role of the service, which owns nothing: how it is created, that the service works with it, and what
//! it cannot do.
use agent_coordinator::{App, capabilities, router};
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{
    laws::request,
    processes::{empty_database, run},
    support::{
        Answer, BOSS, Client, FREE, config, execute, scalar, try_execute, variables, with_more,
    },
};

/// A name that no other test uses: all databases of the server share their roles.
fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// Gives a role a password, and returns the address with its name instead of the owner's.
async fn address(url: &str, role: &str) -> String {
    let db = PgPool::connect(url).await.expect("it answers");
    execute(&db, &format!("alter role {role} password 'secret'")).await;
    let (_, host) = url.split_once('@').expect("a password");
    format!("postgresql://{role}:secret@{host}")
}

/// Runs `coordinator migrate` with this option; returns its exit code and what it printed.
async fn migrate(url: &str, option: &str, more: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(&["migrate", option], &with_more(url, more)).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("UTF-8"))
}

fn client(url: &str) -> Client {
    Client::new(router(App::new(config(&variables(url)))))
}

async fn ready(url: &str) -> Answer {
    client(url).get("/ready").await
}

/// A migrated database with a role of the service: the addresses of the owner and of the role, and its name.
async fn database_with_role() -> (String, String, String) {
    let (url, role) = (empty_database().await, unique("app"));
    let (code, text) = migrate(&url, &format!("--roles={role}"), &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let as_role = address(&url, &role).await;
    (url, as_role, role)
}

/// The rights on a table that a role has, in alphabetical order.
async fn rights(db: &PgPool, role: &str, table: &str) -> String {
    let sql = format!(
        "select coalesce(string_agg(lower(held.privilege_type), ' ' order by held.privilege_type), '')
         from pg_class c cross join aclexplode(c.relacl) held
         where c.oid = '{table}'::regclass and held.grantee = '{role}'::regrole"
    );
    scalar(db, &sql).await
}

#[tokio::test]
async fn migrate_creates_the_role_and_says_what_it_did() {
    let (url, role) = (empty_database().await, unique("app"));
    let option = format!("--roles={role}");
    let (code, text) = migrate(&url, &option, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<_> = text.lines().filter(|it| !it.starts_with('{')).collect();
    let [done, of_role] = lines[..] else { panic!("{text}") };
    assert_eq!(done, "The schema is up to date.");
    let start = format!("The role {role}: created it, without a password; granted ");
    assert!(of_role.starts_with(&start), "{of_role}");
    assert!(of_role.ends_with(" rights; set its time limits in this database."), "{of_role}");
    let (code, text) = migrate(&url, &option, &[]).await;
    let again = format!("The role {role}: granted 0 rights; set its time limits in this database.");
    assert!(code == Some(0) && text.contains(&again), "{text}");

    let db = PgPool::connect(&url).await.expect("it answers");
    let powers = format!(
        "select concat(rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication)
         from pg_roles where rolname = '{role}'"
    );
    assert_eq!(scalar::<String>(&db, &powers).await, "tfffff");
    let password = format!("select rolpassword is null from pg_authid where rolname = '{role}'");
    assert!(scalar::<bool>(&db, &password).await);
    let limits = format!(
        "select array_to_string(setconfig, ' ') from pg_db_role_setting where setrole = '{role}'::regrole"
    );
    assert_eq!(
        scalar::<String>(&db, &limits).await,
        "statement_timeout=10s lock_timeout=5s idle_in_transaction_session_timeout=3s \
         client_connection_check_interval=1s"
    );
    for (table, expected) in [
        ("audit_log", "insert select"),
        ("profile", "select"),
        ("audit_retention", "select"),
        ("port_block", "delete insert select update"),
    ] {
        assert_eq!(rights(&db, &role, table).await, expected, "{table}");
    }
}

#[tokio::test]
async fn the_service_works_with_the_role_and_each_operation_answers() {
    let (_, url, _) = database_with_role().await;
    assert_eq!(ready(&url).await.status, 200);
    let (boss, anyone) =
        (client(&url).header("x-api-key", BOSS), client(&url).header("x-api-key", FREE));
    for op in capabilities::all().iter() {
        for route in op.meta.routes {
            let asked = request(route, &op.example);
            let answer = boss.send(asked.method, &asked.path, asked.body).await;
            assert!(!answer.status.is_server_error(), "{route}: {}", answer.text);
        }
    }
    let keyed = anyone.clone().header("idempotency-key", "once");
    let lock = keyed.acquire("a", "src/a.rs", json!({ "session_id": "s" })).await;
    assert_eq!(keyed.acquire("a", "src/a.rs", json!({ "session_id": "s" })).await, lock);
    assert_eq!(anyone.acquire("b", "src/a.rs", json!({})).await["reason"], "locked_by_other");
    assert_eq!(anyone.release("a", "src/a.rs", json!({})).await["success"], true);
    let id = anyone.submit(json!({ "task_type": "flow" })).await;
    anyone.submit(json!({ "task_type": "flow", "depends_on": [id] })).await;
    let claimed = anyone.claim("a", json!({ "task_types": ["flow"] })).await;
    assert_eq!(claimed["task_id"], json!(id), "{claimed}");
    let token = json!({ "claim_token": claimed["claim_token"] });
    assert_eq!(anyone.complete("a", &id, token).await["status"], "completed");
    let memory = json!({ "agent_id": "a", "event_type": "note", "summary": "least privilege" });
    assert_eq!(anyone.post("/memory/store", memory).await.json["success"], true);
    let found =
        anyone.post("/memory/query", json!({ "query": "privilege", "agent_id": "a" })).await;
    assert_eq!(found.json["memories"].as_array().map(Vec::len), Some(1), "{}", found.text);
    let all = boss.post("/maintenance/run", json!({})).await;
    assert_eq!((all.status.as_u16(), &all.json["success"]), (200, &json!(true)), "{}", all.text);
}

#[tokio::test]
async fn the_role_cannot_change_tables_triggers_or_records() {
    let (url, as_role, _) = database_with_role().await;
    let mut db = PgConnection::connect(&as_role).await.expect("it answers");
    for sql in [
        "drop table audit_log",
        "drop table file_lock",
        "alter table file_lock add column note text",
        "alter table audit_log disable trigger all",
        "alter table audit_log disable trigger audit_log_append_only",
        "drop trigger audit_log_append_only on audit_log",
        "create trigger mine before insert on audit_log for each row execute function refuse_audit_log_change()",
        "set session_replication_role = 'replica'",
        "update audit_log set success = true",
        "delete from audit_log",
        "truncate audit_log",
        "update audit_retention set days = 1",
        "insert into audit_retention values (1)",
        "delete from audit_retention",
        "update profile set trust_level = 4",
        "delete from guardrail_pattern",
        "insert into installed_functions (digest) values ('')",
        "create table mine ()",
        "create or replace function drop_audit_partitions(integer) returns bigint language sql as $$ select 1 $$",
        "drop function drop_audit_partitions(integer)",
        "select create_bm25_index() from file_lock where false; create role mine",
    ] {
        let error = try_execute(&mut db, sql).await.expect_err(sql);
        let code = error.as_database_error().and_then(|it| it.code()).expect("a code").into_owned();
        assert_eq!(code, "42501", "{sql}: {error}");
    }
    let owner = PgPool::connect(&url).await.expect("it answers");
    execute(
        &owner,
        "insert into audit_log (workspace, agent_id, agent_type, request_id, operation, parameters, result,
            success, duration_ms) values ('default', 'a', 't', 'r', 'o', '{}', '{}', true, 0)",
    )
    .await;
    // The partition is refused to the role, and its trigger refuses the owner.
    let partition: String =
        scalar(&owner, "select min(tableoid::regclass::text) from audit_log").await;
    try_execute(&mut db, &format!("delete from {partition}")).await.expect_err("refused");
    try_execute(&owner, &format!("delete from {partition}")).await.expect_err("append-only");
}

/// Creates the audit log's six months before this one.
const OLDER_MONTHS: &str = "do $$ declare month date; begin
    for n in 1..6 loop
        month := date_trunc('month', clock_timestamp() at time zone 'UTC')::date - make_interval(months => n);
        execute format('create table audit_log_%s partition of audit_log for values from (%L) to (%L)',
            to_char(month, 'YYYY_MM'), month, (month + interval '1 month')::date);
    end loop;
 end $$";

/// How many months of the audit log have ended, and how many of those before so many days.
async fn months(db: &PgPool, days: i32) -> (i64, i64) {
    let sql = format!(
        "select count(*), count(*) filter (
            where (to_date(right(inhrelid::regclass::text, 7), 'YYYY_MM') + interval '1 month')::date
                <= (clock_timestamp() at time zone 'UTC')::date - {days})
         from pg_inherits where inhparent = 'audit_log'::regclass"
    );
    let both: Vec<i64> = scalar(db, &format!("select array[a, b] from ({sql}) it (a, b)")).await;
    (both[0], both[1])
}

#[tokio::test]
async fn no_argument_drops_months_before_their_retention() {
    let (url, as_role, _) = database_with_role().await;
    let owner = PgPool::connect(&url).await.expect("it answers");
    let db = PgPool::connect(&as_role).await.expect("it answers");
    execute(&owner, OLDER_MONTHS).await;
    let (all, old) = months(&owner, 90).await;
    assert!((2..=4).contains(&old), "{old}");
    // Tables of the caller are not looked at, whatever their names.
    execute(
        &db,
        "create temp table if not exists audit_retention (days integer);
         insert into pg_temp.audit_retention values (1); select drop_audit_partitions(2147483647)",
    )
    .await;
    assert_eq!(months(&owner, 90).await, (all, old), "the longest retention drops nothing");
    for argument in ["1", "0", "-2147483648", "null"] {
        execute(&db, &format!("select drop_audit_partitions({argument})")).await;
        assert_eq!(months(&owner, 90).await, (all - old, 0), "{argument}");
    }
    // The owner's migration decides.
    migrate(&url, "--roles=other_app_that_is_not_used", &[]).await;
    for (days, kept) in [("365", 0), ("32", months(&owner, 32).await.1)] {
        let app = App::new(config(&with_more(&url, &[("AUDIT_RETENTION_DAYS", days)])));
        app.migrate().await.expect("it is migrated");
        let dropped: i64 = scalar(&db, "select drop_audit_partitions(1)").await;
        assert_eq!(dropped, kept, "{days}");
    }
}

#[tokio::test]
async fn a_role_of_the_earlier_guide_keeps_working_and_cannot_set_the_retention() {
    let (url, role) = (empty_database().await, unique("app"));
    let db = PgPool::connect(&url).await.expect("it answers");
    execute(
        &db,
        &format!(
            "create role {role} login;
             alter default privileges in schema public grant select, insert, update, delete on tables to {role}"
        ),
    )
    .await;
    App::new(config(&variables(&url))).migrate().await.expect("it is migrated");
    let as_role = address(&url, &role).await;
    assert_eq!(ready(&as_role).await.status, 200, "it may execute the functions");
    assert_eq!(rights(&db, &role, "audit_retention").await, "select");
    assert_eq!(rights(&db, &role, "profile").await, "delete insert select update");
    let (code, text) = migrate(&url, &format!("--roles={role}"), &[]).await;
    assert!(code == Some(0) && text.contains("rights that the service does not need"), "{text}");
    assert_eq!(rights(&db, &role, "profile").await, "select");
    assert_eq!(rights(&db, &role, "audit_log").await, "insert select");
    execute(&db, "select ensure_audit_partitions(9); create table later ()").await;
    assert_eq!(rights(&db, &role, "later").await, "", "no rights on new tables by default");
    assert_eq!(ready(&as_role).await.status, 200);
}

#[tokio::test]
async fn what_is_new_is_granted_to_the_role_by_the_next_migration() {
    let (url, as_role, role) = database_with_role().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    let revoked = format!(
        "revoke all on table session_loss, handoff from {role};
         revoke all on function acquire_lock from {role};
         update installed_functions set digest = 'older'"
    );
    execute(&db, &revoked).await;
    assert_eq!(ready(&as_role).await.status, 503);
    App::new(config(&variables(&url))).migrate().await.expect("it is migrated");
    assert_eq!(ready(&as_role).await.status, 200);
    assert_eq!(rights(&db, &role, "handoff").await, "insert select");
}

#[tokio::test]
async fn an_owner_without_powers_migrates_and_prepares_the_role() {
    let (admin_url, owner) = (empty_database().await, unique("owner"));
    let db = PgPool::connect(&admin_url).await.expect("it answers");
    let name: String = scalar(&db, "select current_database()").await;
    execute(&db, &format!("create role {owner} login; alter database {name} owner to {owner}"))
        .await;
    let url = address(&admin_url, &owner).await;
    assert_eq!(run(&["migrate"], &variables(&url)).await.status.code(), Some(0));
    assert_eq!(ready(&url).await.status, 200);

    let role = unique("app");
    let option = format!("--roles={role}");
    let (code, text) = migrate(&url, &option, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!("have an administrator run \\\"create role {role} login\\\"")),
        "{text}"
    );
    execute(&db, &format!("create role {role} login")).await;
    let (code, text) = migrate(&url, &option, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    let hint = format!("have an administrator run \"select set_time_limits('{role}')\"");
    assert!(text.contains(&hint), "{text}");
    execute(&db, &format!("select set_time_limits('{role}')")).await;
    let as_role = address(&admin_url, &role).await;
    assert_eq!(ready(&as_role).await.status, 200);

    // Supabase's owner may create roles, and is not a superuser.
    execute(&db, &format!("alter role {owner} createrole")).await;
    let (code, text) = migrate(&url, &format!("--roles={}", unique("app")), &[]).await;
    assert!(code == Some(0) && text.contains("set its time limits in this database."), "{text}");
}

#[tokio::test]
async fn a_role_that_could_undo_the_protection_is_refused() {
    let (url, _, _) = database_with_role().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    let (member, creator) = (unique("member"), unique("creator"));
    let owner: String = scalar(&db, "select current_user::text").await;
    execute(
        &db,
        &format!("create role {member} in role {owner}; create role {creator} createrole"),
    )
    .await;
    for (name, problem) in [
        (&owner, "it is a superuser"),
        (&member, "it is a member of the owner of the tables"),
        (&creator, "it may create roles"),
    ] {
        let (code, text) = migrate(&url, &format!("--roles={name}"), &[]).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(problem) && text.contains("name another one"), "{text}");
    }
    for name in ["pg_app", "App", "a-b", "", "1a"] {
        let (code, text) = migrate(&url, &format!("--roles={name}"), &[]).await;
        assert!(code == Some(2) && text.contains("expected 1 to 63 characters"), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_role_that_reads_for_a_dashboard_runs_the_queries_for_operators() {
    let (url, _, _) = database_with_role().await;
    let db = PgPool::connect(&url).await.expect("it answers");
    let role = unique("dashboard");
    let guide = include_str!("../../docs/operating.md");
    let grants: Vec<_> = guide.lines().filter(|it| it.ends_with(" to dashboard;")).collect();
    assert_eq!(grants.len(), 2);
    execute(&db, &format!("create role {role}; {}", grants.concat().replace("dashboard", &role)))
        .await;
    let mut reader = PgConnection::connect(&url).await.expect("it answers");
    execute(&mut reader, &format!("set role {role}")).await;
    for query in crate::documents::blocks("sql") {
        execute(&mut reader, query).await;
    }
    try_execute(&mut reader, "update file_lock set agent_id = 'x'").await.expect_err("refused");
}
