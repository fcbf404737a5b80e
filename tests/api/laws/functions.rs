//! Laws about the text of the database functions.
use std::collections::{BTreeMap, BTreeSet};

use super::sql::{Sql, files, functions, read, tokens};

/// Functions that touch tables of workspaces without being told which, each with its reason.
const EVERY_WORKSPACE: [(&str, &str); 4] = [
    ("delete_old_records", "retention covers the whole installation"),
    ("audit_log_ensure_partitions", "a month of the audit log is one partition for all workspaces"),
    ("audit_log_drop_partitions", "a month of the audit log is one partition for all workspaces"),
    ("make_memory_bm25", "the index is one for all workspaces"),
];

/// Trigger functions have no arguments: the row says which workspace it belongs to.
const TRIGGERS: [&str; 1] = ["keep_memory_words"];

/// The tables whose rows belong to workspaces.
fn tables() -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    for path in files("migrations", ".sql") {
        for made in read(&path).split("create table ").skip(1) {
            let (name, columns) = made.split_once(" (").expect("columns");
            if columns.trim_start().starts_with("workspace text") {
                tables.insert(name.to_owned());
            }
        }
    }
    assert!(tables.len() > 15, "{tables:?}");
    tables
}

/// The tables that a text reads or changes.
fn touched(sql: &Sql, tables: &BTreeSet<String>) -> BTreeSet<String> {
    let words = tokens(&sql.text);
    let verbs = ["from", "join", "into", "update", "table", "on", ","];
    let names = words.windows(2).filter(|it| verbs.contains(&it[0].as_str())).map(|it| &it[1]);
    names.filter(|it| tables.contains(*it)).cloned().collect()
}

#[test]
fn a_function_that_touches_a_table_is_told_the_workspace_first() {
    let tables = tables();
    let mut touching: BTreeMap<String, u32> = BTreeMap::new();
    for function in functions() {
        let touched = touched(&function, &tables);
        for table in &touched {
            *touching.entry(table.clone()).or_default() += 1;
        }
        let is_exempt = EVERY_WORKSPACE.iter().any(|(name, _)| *name == function.name);
        if touched.is_empty() || is_exempt || TRIGGERS.contains(&&*function.name) {
            continue;
        }
        let words = tokens(&function.text);
        let arguments = words.iter().position(|it| it == "(").expect("arguments") + 1;
        assert_eq!(words[arguments..][..2], ["in_workspace", "text"], "{function}: {touched:?}");
    }
    // Read by the service's own statements alone.
    let unused = ["cedar_policy", "guardrail_pattern", "memory_words"];
    for table in tables.iter().filter(|it| !unused.contains(&it.as_str())) {
        assert!(touching.contains_key(table), "no function touches {table}: {touching:?}");
    }
    for (name, reason) in EVERY_WORKSPACE {
        let function = functions().into_iter().find(|it| it.name == name);
        let function = function.unwrap_or_else(|| panic!("there is no {name}: {reason}"));
        assert!(!function.text.contains("in_workspace"), "{name} is told the workspace");
    }
}
