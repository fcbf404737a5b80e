//! Checks that the template and its document agree with what the function reads and answers.
use std::collections::BTreeSet;

use agent_coordinator::configuration_table;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../deploy/lambda/template.yaml");
const DOCUMENT: &str = include_str!("../../docs/lambda.md");
const SCHEDULE: &str = include_str!("events/schedule.json");

/// Returns the names in capitals that a text contains.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|it: char| !it.is_ascii_uppercase() && !it.is_ascii_digit() && it != '_')
        .filter(|it| it.contains('_') && it.starts_with(|first: char| first.is_ascii_uppercase()))
        .collect()
}

#[test]
fn the_template_and_its_document_name_only_variables_that_are_read() {
    let table = configuration_table();
    let known = names(&table);
    // A member of the secret, and a word of AWS.
    let others = ["MAINTENANCE_KEY", "CAPABILITY_IAM"];
    for (text, least) in [(TEMPLATE, 2), (DOCUMENT, 5)] {
        let named =
            names(text).into_iter().filter(|it| !others.contains(it) && !it.starts_with("AWS_"));
        let named: BTreeSet<_> = named.collect();
        assert!(named.len() >= least, "{named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}

#[test]
fn the_schedule_of_the_template_sends_the_event_that_is_tested() {
    let (_, input) = TEMPLATE.split_once("Input: !Sub >-").expect("the schedule has an input");
    let lines: Vec<_> = input.lines().skip(1).take_while(|it| !it.trim().is_empty()).collect();
    let mut sent: Value = serde_json::from_str(&lines.join(" ")).expect("the input is JSON");
    let key = sent["headers"]["x-api-key"].take();
    assert!(key.as_str().is_some_and(|it| it.contains("MAINTENANCE_KEY")), "{key}");
    sent["headers"]["x-api-key"] = json!("boss-key");
    assert_eq!(sent, serde_json::from_str::<Value>(SCHEDULE).expect("the event is JSON"));
}
