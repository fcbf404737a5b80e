//! Least privilege in the database; the rules are functions, in `privileges.sql`.
use sqlx::{
    AssertSqlSafe, PgConnection, PgExecutor, SqlSafeStr as _,
    migrate::{Migration, Migrator},
};

/// Takes every right on the tables that this transaction has created, and on the migrator's, from the roles of
/// `api_roles`. Runs within each migration, because the tables of earlier migrations are committed before the functions are
/// installed: a REST interface could otherwise write to them meanwhile.
const CLOSING: &str = "
do $$
declare
    opened record;
begin
    for opened in
        select distinct c.oid::regclass as name, r.rolname as grantee
        from pg_class c cross join aclexplode(c.relacl) held join pg_roles r on r.oid = held.grantee
        where (c.xmin = pg_current_xact_id()::xid or c.oid = to_regclass('_sqlx_migrations'))
            and r.rolname = any('{anon,anonymous,authenticated,service_role}')
    loop
        execute format('revoke all on table %s from %I', opened.name, opened.grantee);
    end loop;
end
$$;";

/// Returns the migrations, each of which also closes the tables that it creates. Their checksums are those
/// of their files.
pub(super) fn closing(migrator: &Migrator) -> Migrator {
    let close = |migration: &Migration| {
        let sql = format!("{}\n{CLOSING}", migration.sql.as_str());
        Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
    };
    Migrator::with_migrations(migrator.iter().map(close).collect())
}

/// Returns the names of the functions that a text creates.
pub(super) fn functions_in(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let rest = line.strip_prefix("create ")?;
        let rest = rest.strip_prefix("or replace ").unwrap_or(rest).strip_prefix("function ")?;
        rest.split('(').next().map(str::to_owned)
    })
}

/// Closes the schema for every role but the owner and those of the service, gives these the rights on what
/// is new, and sets how long the audit log is kept at least.
pub(super) async fn secure(
    db: impl PgExecutor<'_>,
    functions: &[String],
    audit_retention_days: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!("select from secure_installation($1, $2)", functions, audit_retention_days)
        .execute(db)
        .await?;
    Ok(())
}

/// Creates the role of the service if it is missing, and gives it the rights that it needs. Returns what was
/// done, one sentence for each step.
pub(super) async fn prepare_role(
    db: &mut PgConnection,
    role: &str,
    functions: &[String],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select done as "done!" from prepare_service_role($1, $2) done"#,
        role,
        functions,
    )
    .fetch_all(db)
    .await
}

/// Sets the time limits of the current role in this database.
pub(super) async fn set_time_limits(db: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select from set_time_limits(current_user)").execute(db).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::CLOSING;

    #[test]
    fn migrations_and_functions_close_tables_for_the_same_roles() {
        let roles = "'{anon,anonymous,authenticated,service_role}'";
        assert!(CLOSING.contains(roles));
        assert!(include_str!("privileges.sql").contains(roles));
    }
}
