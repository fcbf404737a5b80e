//! Laws about the text of the database functions: their size, their names, their first argument.
use std::collections::{BTreeMap, BTreeSet};

use super::sql::{Sql, files, functions, queries_for_operators, read, shown, statements, tokens};
use crate::support::Service;

/// The most lines of a function. A longer one has more than one purpose and is split.
const MOST_LINES: usize = 80;

/// Functions that use tables of workspaces and have no argument for the workspace, each with its reason.
const EVERY_WORKSPACE: [(&str, &str); 6] = [
    ("workspaces_to_sweep", "lists workspaces"),
    ("workspaces_with_records", "lists workspaces"),
    ("delete_old_records", "retention covers the whole installation"),
    ("ensure_audit_partitions", "a month of the audit log is one partition for all workspaces"),
    ("drop_audit_partitions", "a month of the audit log is one partition for all workspaces"),
    ("create_bm25_index", "the index is one for all workspaces"),
];

/// Functions that write the audit row of a transition which has recorded the heartbeat. A function that calls
/// one of them writes an audit row too.
const INNER: [&str; 3] = ["record_submission", "record_refused_submission", "grant_claim"];

/// Functions that write an audit row and do not begin with the heartbeat, each with its reason. The functions
/// of `INNER` need no entry.
const WITHOUT_HEARTBEAT: [(&str, &str); 3] = [
    (
        "record_denial",
        "a denied request does not keep a session alive, and writes only the audit row",
    ),
    ("register_session", "inserts or revives the session itself, before it locks any other row"),
    ("deregister_session", "a heartbeat would revive a session that this call ends"),
];

/// Trigger functions have no arguments. The row names its workspace.
const TRIGGERS: [&str; 1] = ["store_memory_words"];

#[test]
fn a_function_is_short() {
    let long: Vec<_> = functions()
        .iter()
        .map(|it| (it.to_string(), it.text.lines().count()))
        .filter(|(_, lines)| *lines > MOST_LINES)
        .collect();
    assert!(long.is_empty(), "more than {MOST_LINES} lines: {long:?}");
}

#[test]
fn a_function_is_defined_once() {
    let mut defined = BTreeSet::new();
    for function in functions() {
        assert!(defined.insert(function.name.clone()), "{function} is defined twice");
    }
    // The installation cannot replace a function that a migration creates.
    for path in files("migrations", ".sql") {
        let words = tokens(&read(&path));
        for made in words.windows(2).filter(|it| it[0] == "function") {
            assert!(!defined.contains(&made[1]), "{} defines {}", shown(&path), made[1]);
        }
    }
}

#[test]
fn a_function_is_called() {
    let texts = functions().into_iter().chain(statements()).chain(queries_for_operators());
    let texts: Vec<_> = texts.map(|it| tokens(&it.text)).collect();
    // The installation itself is not a checked statement, and operators call some functions.
    let migrator: String = files("src", "migrate.rs").iter().map(|it| read(it)).collect();
    let by_hand = [migrator, all_documents()].concat();
    for Sql { name, place, .. } in functions() {
        let is_call = |it: &[String]| it[0] != "function" && it[1] == name && it[2] == "(";
        let is_called = texts.iter().any(|text| text.windows(3).any(is_call))
            || by_hand.contains(&format!(" {name}("))
            || TRIGGERS.contains(&&*name);
        assert!(is_called, "{place} is called by nothing");
    }
}

fn all_documents() -> String {
    files("docs", ".md").iter().map(|it| read(it)).collect()
}

#[test]
fn a_file_of_functions_begins_with_a_comment_and_holds_nothing_else() {
    for path in files("src", ".sql") {
        let text = read(&path);
        assert!(text.starts_with("-- "), "{} does not say what it is", shown(&path));
        let mut inside = false;
        for line in text.lines() {
            inside |= line.starts_with("create or replace function ");
            let is_known = inside || line.is_empty() || line.starts_with("--");
            assert!(is_known, "{}: {line}", shown(&path));
            inside &= line != "$$;";
        }
    }
}

/// The tables whose rows belong to workspaces.
async fn tables() -> BTreeSet<String> {
    let service = Service::start().await;
    service.tables_of_workspaces().await.into_iter().map(|it| it.0).collect()
}

/// The tables that a text reads or changes.
fn touched(sql: &Sql, tables: &BTreeSet<String>) -> BTreeSet<String> {
    let words = tokens(&sql.text);
    let verbs = ["from", "join", "into", "update", "table", "on", ","];
    let names = words.windows(2).filter(|it| verbs.contains(&it[0].as_str())).map(|it| &it[1]);
    names.filter(|it| tables.contains(*it)).cloned().collect()
}

#[tokio::test]
async fn a_function_that_touches_a_table_is_told_the_workspace_first() {
    let tables = tables().await;
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
    // Only statements of the service read these.
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

/// Whether a text calls a function. The function's own definition is not a call.
fn calls(words: &[String], name: &str) -> bool {
    words.windows(3).any(|it| it[0] != "function" && it[1] == name && it[2] == "(")
}

/// Whether a function writes an audit row, directly or through a function of `INNER`, and its first statement
/// after the declarations is not the heartbeat.
fn lacks_heartbeat(text: &str) -> bool {
    let words = tokens(text);
    let writes_audit_row = ["record_audit"].iter().chain(&INNER).any(|name| calls(&words, name));
    let body = words.iter().position(|it| it == "begin").map_or(&[][..], |it| &words[it + 1..]);
    let heartbeat = tokens("perform record_heartbeat(in_workspace, cx);");
    writes_audit_row && !body.starts_with(&heartbeat)
}

#[test]
fn a_transition_records_the_heartbeat_before_it_locks_or_writes_a_row() {
    let mut faults = Vec::new();
    for function in functions().iter().filter(|it| !INNER.contains(&&*it.name)) {
        let is_exempt = WITHOUT_HEARTBEAT.iter().any(|(name, _)| *name == function.name);
        match (lacks_heartbeat(&function.text), is_exempt) {
            (true, false) => faults.push(format!(
                "{function} writes an audit row: make `perform record_heartbeat(in_workspace, cx);` its first \
                 statement, or name it with the reason in WITHOUT_HEARTBEAT of tests/api/laws/functions.rs"
            )),
            (false, true) => faults.push(format!("{function}: remove it from WITHOUT_HEARTBEAT")),
            _ => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let names: BTreeSet<_> = functions().into_iter().map(|it| it.name).collect();
    for (name, reason) in WITHOUT_HEARTBEAT {
        assert!(names.contains(name), "there is no {name}: {reason}");
    }
    for name in INNER {
        let function = functions().into_iter().find(|it| it.name == name);
        let function = function.unwrap_or_else(|| panic!("there is no {name}"));
        assert!(lacks_heartbeat(&function.text), "{function}: remove it from INNER");
    }
}

#[test]
fn a_missing_or_late_heartbeat_is_noticed() {
    let function = |statements: &str| {
        format!(
            "create or replace function rename_lock(in_workspace text, cx request) returns void
             language plpgsql as $$
             #variable_conflict use_column
             declare
                at timestamptz := clock_timestamp();
             begin
                {statements}
             end
             $$;"
        )
    };
    let heartbeat = "-- Sessions first.\n perform record_heartbeat(in_workspace, cx);";
    let update = "update file_lock l set key = '' where l.workspace = in_workspace;";
    let audit = "perform record_audit(in_workspace, cx, 'rename_lock', '{}', '{}', true);";
    let inner = "perform record_submission(in_workspace, cx, task, 'created', null);";
    for (statements, is_fault) in [
        ([heartbeat, update, audit], false),
        ([heartbeat, update, inner], false),
        (["", update, ""], false),
        ([update, heartbeat, audit], true),
        (["", update, audit], true),
        (["", update, inner], true),
        (["-- perform record_heartbeat(in_workspace, cx);", update, audit], true),
    ] {
        assert_eq!(lacks_heartbeat(&function(&statements.join("\n"))), is_fault, "{statements:?}");
    }
}
