//! Generates the routes of the service from its OpenAPI document, as constants, so that `coord`
//! parses no document when it starts.
use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;

/// The document that the service's own build keeps up to date.
const DOCUMENT: &str = "../docs/openapi.json";

fn main() {
    println!("cargo::rerun-if-changed={DOCUMENT}");
    println!("cargo::rerun-if-changed=build.rs");
    let text = fs::read_to_string(DOCUMENT).expect("the OpenAPI document is in the repository");
    let document: Value = serde_json::from_str(&text).expect("the OpenAPI document is JSON");

    let mut times = BTreeSet::new();
    let mut routes = String::new();
    for (path, verbs) in members(&document["paths"]) {
        for (verb, operation) in members(verbs) {
            writeln!(routes, "    {},", route(path, verb, operation))
                .expect("a String takes any text");
            collect_times(&operation["responses"]["200"], "", &mut times);
        }
    }
    let code = format!(
        "/// Every route of the service.\npub static ROUTES: &[Route] = &[\n{routes}];\n\n\
         /// The members of answers that are timestamps.\n\
         pub(crate) static TIMES: &[&str] = &{:?};\n",
        Vec::from_iter(times)
    );
    fs::write(output_folder().join("routes.rs"), code).expect("the folder can be written");
}

#[expect(clippy::disallowed_methods, reason = "cargo passes the folder in the environment")]
fn output_folder() -> PathBuf {
    env::var_os("OUT_DIR").expect("cargo sets it").into()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn route(path: &str, verb: &str, operation: &Value) -> String {
    let mut fields = String::new();
    let mut is_repeatable = false;
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = text(&parameter["name"]);
        let location = match text(&parameter["in"]) {
            "path" => "Path",
            "query" => "Query",
            _ => {
                is_repeatable |= name == "Idempotency-Key";
                continue;
            }
        };
        let required = parameter["required"] == true;
        fields += &field(name, location, required, &parameter["schema"]);
    }
    let body = &operation["requestBody"]["content"]["application/json"]["schema"];
    for (name, schema) in members(&body["properties"]) {
        let required = body["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|other| other == name));
        fields += &field(name, "Body", required, schema);
    }
    let has_empty_security = operation["security"].as_array().is_some_and(Vec::is_empty);
    let method = verb.to_uppercase();
    format!(
        "Route {{ name: \"{method} {path}\", method: {method:?}, path: {path:?}, \
         id: {:?}, summary: {:?}, description: {:?}, \
         has_body: {}, is_repeatable: {is_repeatable}, is_open: {}, fields: &[{fields}] }}",
        text(&operation["operationId"]),
        text(&operation["summary"]),
        text(&operation["description"]),
        operation["requestBody"].is_object(),
        has_empty_security || operation["security"].is_null(),
    )
}

fn field(name: &str, location: &str, required: bool, schema: &Value) -> String {
    let default = match &schema["default"] {
        Value::Null | Value::Object(_) => "None".to_owned(),
        Value::String(text) if text.is_empty() => "None".to_owned(),
        Value::String(text) => format!("Some({text:?})"),
        other => format!("Some({:?})", other.to_string()),
    };
    // Where the contract leaves a vocabulary open, the service takes a typing error for a word that nothing has.
    let words = schema["enum"].as_array().or_else(|| schema["x-words"].as_array());
    let choices: Vec<_> =
        words.into_iter().flatten().filter_map(Value::as_str).filter(|it| !it.is_empty()).collect();
    format!(
        "Field {{ name: {name:?}, location: Location::{location}, kind: {}, \
         is_required: {required}, default: {default}, choices: &{choices:?}, \
         description: {:?} }}, ",
        kind(schema),
        text(&schema["description"]),
    )
}

/// Returns the first type that is not null. A schema without a single type becomes `Any`.
fn kind(schema: &Value) -> &'static str {
    let name = match &schema["type"] {
        Value::Array(types) => {
            types.iter().map(text).find(|name| *name != "null").unwrap_or_default()
        }
        other => text(other),
    };
    match name {
        "string" => "Kind::Text",
        "integer" => "Kind::Integer",
        "number" => "Kind::Number",
        "boolean" => "Kind::Boolean",
        "array" if text(&schema["items"]["type"]) == "string" => "Kind::Texts",
        "array" => "Kind::Values",
        "object" => "Kind::Object",
        _ => "Kind::Any",
    }
}

/// Collects the names of members whose format is `date-time`.
fn collect_times(schema: &Value, name: &str, times: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if schema["format"] == "date-time" {
                times.insert(name.to_owned());
            }
            for (key, value) in members {
                match key.as_str() {
                    "properties" => {
                        for (name, schema) in self::members(value) {
                            collect_times(schema, name, times);
                        }
                    }
                    _ => collect_times(value, name, times),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_times(value, name, times)),
        _ => {}
    }
}
