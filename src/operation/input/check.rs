//! Walks an input along its schema.
use serde_json::{Value, json};

use super::{
    coerce::coerce,
    keywords::{accepts, inner_schema, is_free_form, kind, required},
    parse::{echo, elements_with_nul},
};
use crate::values::{
    Issue, LockKeyError,
    issue::{Problem, missing, value_error},
    json::cut,
};

/// Coerces the members of `input` in place and returns every issue, in the order of declaration. `root`
/// returns the part of the request that a member comes from: `body`, `query` or `path`.
pub(crate) fn check(
    schema: &Value,
    input: &mut Value,
    root: impl Fn(&str) -> &'static str,
) -> Vec<Issue> {
    let mut walk = Walk { path: Vec::with_capacity(4), issues: Vec::new() };
    let as_sent = lacking_object(schema, input);
    for (name, property) in properties(schema) {
        walk.path.clear();
        walk.path.extend([Step::Member(root(name)), Step::Member(name)]);
        walk.check_member(schema, name, property, input, as_sent.as_ref());
    }
    walk.issues
}

/// Where the check is, and what it has found.
struct Walk<'a> {
    path: Vec<Step<'a>>,
    issues: Vec<Issue>,
}

/// One step of the path to a value. Converted to JSON only for an issue.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

impl<'a> Walk<'a> {
    /// Checks one member of an object. `as_sent` is the object before it was coerced, where it lacks a
    /// required member.
    fn check_member(
        &mut self,
        schema: &'a Value,
        name: &'a str,
        property: &'a Value,
        object: &mut Value,
        as_sent: Option<&Value>,
    ) {
        match (object.get_mut(name), as_sent) {
            (Some(value), _) => self.check_value(property, value),
            (None, Some(as_sent)) if required(schema, name) => self.add(missing(), as_sent),
            (None, _) => {}
        }
    }

    fn check_value(&mut self, schema: &'a Value, input: &mut Value) {
        if input.is_null() && accepts(schema, "null") {
            return;
        }
        let schema = inner_schema(schema);
        if let Err(problem) = coerce(schema, input) {
            return match is_free_form(schema) {
                true => self.add(problem, &echo(input.as_str().unwrap_or_default())),
                false => self.add(problem, input),
            };
        }
        if is_free_form(schema) {
            return self.check_elements(schema, input.as_str().unwrap_or_default());
        }
        let as_sent = lacking_object(schema, input);
        for (name, property) in properties(schema) {
            self.path.push(Step::Member(name));
            self.check_member(schema, name, property, input, as_sent.as_ref());
            self.path.pop();
        }
        if let (Some(items), Some(values)) = (schema.get("items"), input.as_array_mut()) {
            for (index, value) in values.iter_mut().enumerate() {
                self.path.push(Step::Item(index));
                self.check_value(items, value);
                self.path.pop();
            }
        }
    }

    /// Refuses the elements of a free-form list that the database cannot store.
    fn check_elements(&mut self, schema: &Value, text: &str) {
        if kind(schema) != "array" || !text.contains(r"\u0000") {
            return;
        }
        for (index, element) in elements_with_nul(text) {
            self.path.push(Step::Item(index));
            self.add(value_error(LockKeyError::Nul), &element);
            self.path.pop();
        }
    }

    fn add(&mut self, problem: Problem, input: &Value) {
        let steps = self.path.iter().map(|step| match step {
            Step::Member(name) => json!(name),
            Step::Item(index) => json!(index),
        });
        let loc: Vec<_> = steps.collect();
        self.issues.push(Issue::new(problem, &loc, input));
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// Returns the object if it lacks a required member: the issue repeats the object as it was sent, not as
/// far as it was coerced.
fn lacking_object(schema: &Value, object: &Value) -> Option<Value> {
    let lacks = |name: &Value| name.as_str().is_some_and(|name| object.get(name).is_none());
    let is_lacking = schema["required"].as_array().into_iter().flatten().any(lacks);
    is_lacking.then(|| {
        let mut as_sent = cut(object);
        for (name, _) in properties(schema).filter(|(_, it)| is_free_form(inner_schema(it))) {
            if let Some(Value::String(text)) = object.get(name) {
                as_sent[name] = echo(text);
            }
        }
        as_sent
    })
}
