//! Laws about rights in the database: no function is for everybody, those that run with their owner's
//! rights are bounded, and the role of the service has the rights that the statements need.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::sql::{functions, statements, tokens};
use crate::support::Service;

/// Functions that run with their owner's rights, each with the calls that go furthest and how many months of
/// the audit log there are afterwards. There are four at first.
const OWNERS_RIGHTS: [(&str, &str, i64); 2] = [
    ("drop_audit_partitions", "drop_audit_partitions(-2147483648)", 4),
    ("ensure_audit_partitions", "ensure_audit_partitions(2147483647)", 25),
];

/// Functions that only the owner calls successfully. Their statements need no rights of the service.
const OF_THE_OWNER: [&str; 3] = ["finish_installation", "create_bm25_index", "secure_installation"];

/// Functions of the schema that belong to no extension.
const OWN: &str = "p.pronamespace = 'public'::regnamespace and not exists (
    select from pg_depend d
    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')";

#[tokio::test]
async fn no_function_or_table_is_for_everybody() {
    let service = Service::start().await;
    let sql = format!(
        "select p.oid::regprocedure::text as name from pg_proc p
         cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) held
         where held.grantee = 0 and {OWN}
         union all
         select c.oid::regclass::text from pg_class c cross join aclexplode(c.relacl) held
         where held.grantee = 0 and c.relnamespace = 'public'::regnamespace and c.relkind <> 'v'"
    );
    assert_eq!(service.rows(&sql).await, [json!(null); 0]);
}

#[tokio::test]
async fn a_function_with_its_owners_rights_has_a_fixed_path_and_a_bounded_argument() {
    let service = Service::start().await;
    let sql = format!(
        "select p.proname::text as name, (
            select it from unnest(p.proconfig) it where it like 'search_path=%') as path
         from pg_proc p where p.prosecdef and {OWN} order by 1"
    );
    let expected = OWNERS_RIGHTS
        .map(|(name, ..)| json!({ "name": name, "path": "search_path=public, pg_temp" }));
    assert_eq!(service.rows(&sql).await, expected);
    for (_, call, expected) in OWNERS_RIGHTS {
        service.execute(&format!("select {call}")).await;
        let months = "select count(*) from pg_inherits where inhparent = 'audit_log'::regclass";
        assert_eq!(service.scalar::<i64>(months).await, expected, "{call}");
    }
}

/// The rights that a text needs for what it writes, by table: `insert into t`, `update t`, `delete from t`.
fn needed(words: &[String], tables: &BTreeSet<String>) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let following = |offset: usize| words.get(n + offset).filter(|it| tables.contains(*it));
        let (table, right) = match word.as_str() {
            "insert" => (following(2), "insert"),
            "delete" => (following(2), "delete"),
            "update" => (following(1), "update"),
            _ => continue,
        };
        found.extend(table.map(|it| (it.clone(), right)));
        // `on conflict … do update` belongs to the insertion before it.
        if word == "update" && n > 0 && words[n - 1] == "do" {
            let inserted = words[..n].iter().rposition(|it| it == "insert");
            found.extend(inserted.map(|it| (words[it + 2].clone(), "update")));
        }
    }
    found
}

#[tokio::test]
async fn the_role_of_the_service_has_the_rights_that_the_statements_need() {
    let service = Service::start().await;
    let granted = service.rows("select name, rights from service_rights()").await;
    let granted: BTreeMap<String, BTreeSet<String>> = granted
        .into_iter()
        .map(|it| {
            let name = it["name"].as_str().expect("a name").to_owned();
            (name, serde_json::from_value(it["rights"].clone()).expect("rights"))
        })
        .collect();
    let tables: BTreeSet<_> = granted.keys().cloned().collect();
    let placed = service.rows("select name from table_placements()").await;
    let placed: BTreeSet<_> =
        placed.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(tables, placed, "service_rights() and table_placements() list the same tables");

    let mut expected: BTreeMap<_, BTreeSet<_>> =
        tables.iter().map(|it| (it.clone(), BTreeSet::from(["select".to_owned()]))).collect();
    let called = functions().into_iter().filter(|it| !OF_THE_OWNER.contains(&&*it.name));
    for sql in called.chain(statements()) {
        for (table, right) in needed(&tokens(&sql.text), &tables) {
            expected.entry(table).or_default().insert(right.to_owned());
        }
    }
    assert_eq!(granted, expected);
}
