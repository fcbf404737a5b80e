//! Walks an input along its schema.
use serde_json::{Value, json};

use super::{
    coerce::coerce,
    keywords::{accepts, inner_schema, required},
};
use crate::values::{
    Issue,
    issue::{Problem, missing},
    json::cut,
};

/// Coerces the members of `input` in path and returns every problem, in the order of declaration.
/// `root` names the part of the request that a member comes from: `body`, `query` or `path`.
pub(crate) fn check(
    schema: &Value,
    input: &mut Value,
    root: impl Fn(&str) -> &'static str,
) -> Vec<Issue> {
    let mut issues = Vec::new();
    let Some(properties) = schema["properties"].as_object() else { return issues };
    let sent = input.clone();
    let mut path = Vec::with_capacity(4);
    for (name, property) in properties {
        path.clear();
        path.extend([Step::Member(root(name)), Step::Member(name)]);
        check_member(schema, name, property, input, &mut path, &mut issues);
    }
    // The issue of a missing member repeats the object as it was sent, not as far as it was coerced.
    for issue in issues.iter_mut().filter(|issue| issue.kind == "missing") {
        let steps = &issue.loc[1..issue.loc.len() - 1];
        let lacking = steps.iter().try_fold(&sent, |value, step| match step {
            Value::String(name) => value.get(name),
            step => value.get(usize::try_from(step.as_u64()?).ok()?),
        });
        issue.input = lacking.map(cut).unwrap_or_default();
    }
    issues
}

/// One step of the path to a value. Converted to JSON only for an issue.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

fn issue_at(problem: Problem, path: &[Step<'_>], input: &Value) -> Issue {
    let steps = path.iter().map(|step| match step {
        Step::Member(name) => json!(name),
        Step::Item(index) => json!(index),
    });
    Issue::new(problem, &steps.collect::<Vec<_>>(), input)
}

fn check_member<'a>(
    schema: &'a Value,
    name: &'a str,
    property: &'a Value,
    object: &mut Value,
    path: &mut Vec<Step<'a>>,
    issues: &mut Vec<Issue>,
) {
    match object.get_mut(name) {
        Some(value) => check_value(property, value, path, issues),
        None if required(schema, name) => {
            issues.push(issue_at(missing(), path, object));
        }
        None => {}
    }
}

fn check_value<'a>(
    schema: &'a Value,
    input: &mut Value,
    path: &mut Vec<Step<'a>>,
    issues: &mut Vec<Issue>,
) {
    if input.is_null() && accepts(schema, "null") {
        return;
    }
    let schema = inner_schema(schema);
    if let Err(problem) = coerce(schema, input) {
        return issues.push(issue_at(problem, path, input));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(Step::Member(name));
        check_member(schema, name, property, input, path, issues);
        path.pop();
    }
    if let (Some(items), Some(values)) = (schema.get("items"), input.as_array_mut()) {
        for (index, value) in values.iter_mut().enumerate() {
            path.push(Step::Item(index));
            check_value(items, value, path, issues);
            path.pop();
        }
    }
}
