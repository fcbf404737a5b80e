//! All SQL of the service as tokens: the functions beside the Rust code, the checked statements, and
//! the queries for operators. Laws about SQL use it.
use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::Service;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The text between these lines is one function.
const BEGINNING: &str = "create or replace function ";
const END: &str = "$$;";

/// SQL text and where it was found.
pub(super) struct Sql {
    /// `file: function`, or the file alone.
    pub(super) place: String,
    /// Name of the function; empty for a statement.
    pub(super) name: String,
    pub(super) text: String,
}

impl fmt::Display for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

/// The files below a folder of the repository whose names have this ending, sorted by path.
pub(super) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {folder}");
    found.sort();
    found
}

pub(super) fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a text file")
}

/// The path relative to the root of the repository.
pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(ROOT).expect("a file of the repository").display().to_string()
}

/// Every function in `src`.
pub(super) fn functions() -> Vec<Sql> {
    let mut found = Vec::new();
    for path in files("src", ".sql") {
        let mut lines = Vec::new();
        for line in read(&path).lines() {
            if line.starts_with(BEGINNING) || !lines.is_empty() {
                lines.push(line.to_owned());
            }
            if line == END {
                found.push(function(&path, std::mem::take(&mut lines)));
            }
        }
        assert!(lines.is_empty(), "{}: a function does not end with a line {END}", shown(&path));
    }
    found
}

fn function(path: &Path, lines: Vec<String>) -> Sql {
    let head = lines[0].strip_prefix(BEGINNING).expect("the beginning of a function");
    let name = head.split('(').next().expect("a name").to_owned();
    Sql { place: format!("{}: {name}", shown(path)), name, text: lines.join("\n") }
}

/// Every statement that the compiler has checked.
pub(super) fn statements() -> Vec<Sql> {
    let statement = |path: &PathBuf| {
        let data: Value = serde_json::from_str(&read(path)).expect("JSON");
        let text = data["query"].as_str().expect("a query").to_owned();
        Sql { place: shown(path), name: String::new(), text }
    };
    files(".sqlx", ".json").iter().map(statement).collect()
}

/// Every query of docs/operating.md.
pub(super) fn queries_for_operators() -> Vec<Sql> {
    let queries = crate::documents::blocks("sql").into_iter().enumerate();
    let query = |(n, text): (usize, &str)| Sql {
        place: format!("docs/operating.md: query {}", n + 1),
        name: String::new(),
        text: text.to_owned(),
    };
    queries.map(query).collect()
}

/// The words, literals and symbols of a text, in lower case and without comments. A name is one token
/// without its qualifier: `t.deadline` is `deadline`.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let pattern = regex::Regex::new(concat!(
        r#"--[^\n]*|(?P<token>'(?:[^']|'')*'|"[^"]*"|(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*|[0-9]+"#,
        r"|<=|>=|<>|!=|:=|::|\|\||->>|->|[^\s\w])",
    ));
    let pattern = pattern.expect("a pattern");
    let token = |found: regex::Captures<'_>| {
        let token = found.name("token")?.as_str();
        if token.starts_with(['\'', '"']) {
            return Some(token.to_owned());
        }
        let name = token.rsplit('.').next().filter(|it| !it.is_empty()).unwrap_or(token);
        Some(name.to_lowercase())
    };
    pattern.captures_iter(text).filter_map(token).collect()
}

#[test]
fn sql_is_read_as_tokens() {
    let text = "select t.Deadline <= at -- not this <\nfrom work_task t where x->>'a''b' = $1";
    assert_eq!(
        tokens(text),
        [
            "select",
            "deadline",
            "<=",
            "at",
            "from",
            "work_task",
            "t",
            "where",
            "x",
            "->>",
            "'a''b'",
            "=",
            "$",
            "1"
        ]
    );
    assert!(functions().iter().all(|it| it.text.contains("$$") && it.text.ends_with(END)));
    assert!(statements().iter().any(|it| it.text.contains("acquire_lock(")));
}

#[tokio::test]
async fn every_function_of_the_database_is_read_from_a_file() {
    let service = Service::start().await;
    let installed = service
        .rows(
            "select p.proname as name from pg_proc p
             where p.pronamespace = 'public'::regnamespace and not exists (
                select from pg_depend d where d.objid = p.oid and d.deptype = 'e'
             )",
        )
        .await;
    let installed: BTreeSet<_> =
        installed.iter().map(|it| it["name"].as_str().expect("a name").to_owned()).collect();
    let mut read_from_files: BTreeSet<_> = functions().into_iter().map(|it| it.name).collect();
    for path in files("migrations", ".sql") {
        let words = tokens(&read(&path));
        let made = words.windows(2).filter(|it| it[0] == "function" && installed.contains(&it[1]));
        read_from_files.extend(made.map(|it| it[1].clone()));
    }
    assert_eq!(read_from_files, installed);
}
