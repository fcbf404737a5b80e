//! Laws about the distribution over a Citus cluster: it covers every table and every function. See
//! docs/scale-out.md.
use std::collections::BTreeSet;

use super::sql::{files, functions, read, tokens};
use crate::{support::Service, transport::is_citus};

/// The table of the migrator, which no migration creates.
const MIGRATORS: &str = "_sqlx_migrations";

async fn names(service: &Service, query: &str) -> BTreeSet<String> {
    let rows = service.rows(query).await;
    rows.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn every_table_is_placed_and_tables_with_workspaces_are_distributed() {
    let service = Service::start().await;
    let places = names(&service, "select name from table_placements()").await;
    let mut made = BTreeSet::from([MIGRATORS.to_owned()]);
    for path in files("migrations", ".sql") {
        let words = tokens(&read(&path));
        let tables = words.windows(3).filter(|it| it[0] == "create" && it[1] == "table");
        made.extend(tables.map(|it| it[2].clone()));
    }
    assert_eq!(places, made);

    let distributed = "select name from table_placements() where placement <> 'coordinator'";
    let of_workspaces = service.tables_of_workspaces().await.into_iter().map(|it| it.0).collect();
    assert_eq!(names(&service, distributed).await, of_workspaces);
}

#[tokio::test]
async fn every_function_of_a_workspace_is_distributed() {
    let service = Service::start().await;
    let of_workspace = |text: &str| {
        let words = tokens(text);
        let begin = words.iter().position(|it| it == "(").expect("arguments");
        words[begin + 1] == "in_workspace"
    };
    let all = functions().into_iter().filter(|it| of_workspace(&it.text));
    let all: BTreeSet<_> = all.map(|it| it.name).collect();
    assert!(all.contains("acquire_lock"));
    let known = "select p.proname::text as name
        from own_functions() f join pg_proc p on p.oid = f.name where f.first_argument = 'in_workspace'";
    assert_eq!(names(&service, known).await, all);
    if is_citus() {
        // Everything is distributed already.
        let left: i32 = service.scalar("select tables + functions from distribute()").await;
        assert_eq!(left, 0);
        let delegated = "select p.proname::text as name
            from pg_catalog.pg_dist_object o join pg_proc p on p.oid = o.objid
            where o.classid = 'pg_proc'::regclass and o.distribution_argument_index = 0";
        assert_eq!(names(&service, delegated).await, all);
    }
}
