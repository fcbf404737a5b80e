//! Documents: the generated ones are up to date, and the claims of docs/operating.md hold.
mod queries;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use agent_coordinator::{
    Config, Home, capabilities, configuration_table, document, env_example, mcp_document,
    operations_table,
};

use serde_json::json;

use crate::support::Service;

#[track_caller]
fn assert_fresh(file: &str, written: &str) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(path).expect("the document is committed");
    assert_eq!(committed, written, "{file} is out of date: run `make docs`");
}

#[test]
fn the_openapi_document_is_fresh() {
    assert_fresh("docs/openapi.json", &format!("{:#}\n", document(capabilities::all())));
}

#[test]
fn the_document_of_mcp_tools_is_fresh() {
    let written = format!("{:#}\n", mcp_document(capabilities::all()));
    assert_fresh("docs/mcp-tools.json", &written);
}

#[test]
fn the_table_of_operations_is_fresh() {
    assert_fresh("docs/operations.md", &operations_table());
}

#[test]
fn the_table_of_variables_is_fresh() {
    assert_fresh("docs/configuration.md", &configuration_table());
}

#[test]
fn the_example_of_an_environment_is_fresh() {
    assert_fresh(".env.example", &env_example());
}

/// The Markdown files below a folder, without those that are built or installed.
fn markdown(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files.extend(markdown(&path));
        } else if name.ends_with(".md") {
            files.push(path);
        }
    }
    files
}

#[test]
fn links_between_documents_lead_to_files() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let mut followed = BTreeSet::new();
    for document in markdown(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        let text = std::fs::read_to_string(&document).expect("a document");
        for found in link.captures_iter(&text) {
            let target = found[1].split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains(':') {
                continue;
            }
            followed.insert(target.to_owned());
            let folder = document.parent().expect("a file is in a folder");
            assert!(folder.join(target).exists(), "{}: {}", document.display(), &found[1]);
        }
    }
    for known in ["docs/agents.md", "docs/operating.md", "../../migrations/README.md"] {
        assert!(followed.contains(known), "no document links to {known}: {followed:?}");
    }
}

/// Files that documents name as examples of a user's repository, or that a contributor is to create.
const EXAMPLES: [&str; 3] = ["src/capabilities/x.rs", "src/capabilities/x.sql", "tests/api/x.rs"];

#[test]
fn source_files_that_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = "src/(?:values|config|database|access|operation|capabilities|http|mcp|telemetry)";
    let path = format!("`((?:{folders}|coord/src|local/src|tests/api|migrations)/[a-z0-9_/.-]+)`");
    let path = regex::Regex::new(&path).expect("a pattern");
    let mut named = BTreeSet::new();
    for document in markdown(root) {
        let text = std::fs::read_to_string(&document).expect("a document");
        named.extend(path.captures_iter(&text).map(|found| found[1].to_owned()));
    }
    assert!(named.contains("src/capabilities/locks/acquire.sql"), "{named:?}");
    let is_missing =
        |name: &&String| !EXAMPLES.contains(&name.as_str()) && !root.join(name).exists();
    let missing: Vec<_> = named.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "documents name files that do not exist: {missing:?}");
}

/// The file of a module: a unit test of the service, or of these tests.
fn file_of(modules: &str) -> Option<String> {
    let path = modules.replace("::", "/");
    let inline = path.strip_suffix("/tests").unwrap_or(&path);
    let candidates =
        [format!("tests/api/{path}.rs"), format!("src/{path}.rs"), format!("src/{inline}.rs")];
    let read =
        |file: &String| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
    candidates.iter().find_map(|file| read(file).ok())
}

#[test]
fn every_guarantee_of_security_names_tests_that_exist() {
    let page = include_str!("../../SECURITY.md");
    let (_, guarantees) = page.split_once("## Guarantees of the service").expect("a heading");
    let (guarantees, _) = guarantees.split_once("\n### Construction").expect("a heading");
    let name = regex::Regex::new("`([a-z0-9_]+(?:::[a-z0-9_]+)+)`").expect("a pattern");
    for guarantee in guarantees.split("\n- **").skip(1) {
        assert!(name.is_match(guarantee), "no test is named: {guarantee:.60}");
    }
    let mut missing = Vec::new();
    let mut named = BTreeSet::new();
    for found in name.captures_iter(page) {
        let (modules, test) = found[1].rsplit_once("::").expect("a module and a test");
        let written =
            format!(r"#\[(tokio::)?test[^\n]*\n\s*(#\[[^\n]*\n\s*)*(async )?fn {test}\(\)");
        let written = regex::Regex::new(&written).expect("a pattern");
        if !file_of(modules).is_some_and(|text| written.is_match(&text)) {
            missing.push(found[1].to_owned());
        }
        named.insert(found[1].to_owned());
    }
    assert!(missing.is_empty(), "SECURITY.md names tests that do not exist: {missing:#?}");
    assert!(named.len() > 30, "{named:?}");
}

/// The variables of a section of the example, set or commented out, as `(name, value)`.
fn assignments(section: &str) -> Vec<(&str, &str)> {
    let lines = section.lines().map(|it| it.strip_prefix("# ").unwrap_or(it));
    let is_name = |it: &str| it.bytes().all(|it| it.is_ascii_uppercase() || b"_".contains(&it));
    lines
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| (name, value.trim_matches('\'')))
        .collect()
}

#[track_caller]
fn assert_accepted(variables: &[(&str, &str)]) {
    let parsed = Config::parse(Home::Server, |name| {
        variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned())
    });
    assert!(parsed.is_ok(), "{variables:?}: {parsed:?}");
}

#[test]
fn the_example_names_every_variable_that_is_read_and_its_values_are_accepted() {
    let example = env_example();
    let read = RefCell::new(BTreeSet::new());
    for home in [Home::Server, Home::Lambda] {
        let parsed = Config::parse(home, |name| {
            read.borrow_mut().insert(name.to_owned());
            None
        });
        assert!(parsed.is_err(), "no database is given");
    }
    let named: BTreeSet<_> =
        assignments(&example).into_iter().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(named, *read.borrow());

    let set: Vec<_> = example.lines().filter(|it| !it.is_empty() && !it.starts_with('#')).collect();
    assert_eq!(set, ["POSTGRES_DSN=postgresql://postgres:postgres@localhost:54322/postgres"]);
    let sections: Vec<_> = example.split("\n# ---- ").skip(1).map(assignments).collect();
    let [local, railway, supabase, others] = &sections[..] else { panic!("{sections:?}") };
    for section in [local, railway, supabase] {
        assert_accepted(section);
    }
    assert_eq!(railway.len(), 3);
    assert!(supabase.contains(&("DB_BACKEND", "supabase")));
    let all: Vec<_> = local.iter().chain(others).copied().collect();
    assert_accepted(&all);
    // Every value is accepted on its own too, not only because another variable overrides it.
    for variable in others {
        assert_accepted(&[local[0], *variable]);
    }
}

#[tokio::test]
async fn the_documents_are_served() {
    let service = Service::start().await;
    let docs = service.anonymous().get("/docs").await;
    assert_eq!(
        (docs.status.as_u16(), docs.headers["content-type"].to_str().ok()),
        (200, Some("text/html; charset=utf-8"))
    );
    assert!(docs.text.starts_with("<!doctype html>") && docs.text.contains("acquire_lock"));
    let openapi = service.anonymous().get("/openapi.json").await;
    assert_eq!(openapi.json, document(capabilities::all()));
}

/// The fenced blocks of one language in docs/operating.md.
pub(crate) fn blocks(language: &str) -> Vec<&'static str> {
    let page = include_str!("../../docs/operating.md");
    let fence = format!("```{language}\n");
    let found: Vec<_> =
        page.split(fence.as_str()).skip(1).filter_map(|it| it.split("```").next()).collect();
    assert!(!found.is_empty(), "no {language} in the page");
    found
}

#[tokio::test]
async fn every_metric_for_operators_is_there() {
    let service = Service::with(&[("METRICS_PUBLIC", "true")]).await;
    service.client().acquire("a", "k", json!({})).await;
    let metrics = service.anonymous().get("/metrics").await.text;
    let page = include_str!("../../docs/operating.md");
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let named: BTreeSet<_> =
        page.split(|it| !is_name(it)).filter(|it| it.starts_with("coordinator_")).collect();
    for name in &named {
        let sample = |line: &str| line.split(['{', ' ']).next() == Some(name);
        let family = format!("# TYPE {name} ");
        assert!(metrics.lines().any(|it| sample(it) || it.starts_with(&family)), "{name}");
    }
    let families = metrics.lines().filter_map(|it| it.strip_prefix("# TYPE "));
    for family in families.filter_map(|it| it.split(' ').next()) {
        assert!(named.contains(family), "{family} is not explained");
    }
}
