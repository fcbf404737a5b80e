//! Generated documents: what is committed is what the program would write now.
use agent_coordinator::{capabilities, configuration_table, document, operations_table};

use crate::support::Service;

#[track_caller]
fn assert_fresh(file: &str, written: &str) {
    let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(path).expect("the document is committed");
    assert_eq!(committed, written, "docs/{file} is out of date: run `make docs`");
}

#[test]
fn the_openapi_document_is_fresh() {
    assert_fresh("openapi.json", &format!("{:#}\n", document(&capabilities::all())));
}

#[test]
fn the_table_of_operations_is_fresh() {
    assert_fresh("operations.md", &operations_table());
}

#[test]
fn the_table_of_variables_is_fresh() {
    assert_fresh("configuration.md", &configuration_table());
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
    assert_eq!(openapi.json, document(&capabilities::all()));
}
