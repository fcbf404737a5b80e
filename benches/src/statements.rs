//! The service's statements, read from the committed query data. Invariant: a transition is measured with the text
//! that the service sends, with variables of pgbench in place of the parameters.

use std::{fs, path::Path};

use serde_json::Value;

use crate::Result;

/// The statements of the service.
#[derive(Debug)]
pub(crate) struct Statements(Vec<Statement>);

#[derive(Debug)]
struct Statement {
    text: String,
    /// The SQL types of the parameters.
    types: Vec<String>,
}

impl Statements {
    /// Reads the query data, one file per statement.
    pub(crate) fn read(folder: &Path) -> Result<Statements> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            let data: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
            let types = data["describe"]["parameters"]["Left"].as_array().into_iter().flatten();
            let text =
                data["query"].as_str().ok_or_else(|| format!("{} has no query", path.display()))?;
            found.push(Statement {
                text: text.to_owned(),
                types: types.filter_map(Value::as_str).map(type_name).collect(),
            });
        }
        Ok(Statements(found))
    }

    /// Returns the statement that contains `mark` and serves one request, with `arguments` for its parameters.
    pub(crate) fn with(&self, mark: &str, arguments: &[&str]) -> Result<String> {
        // Leaves out gathered statements, which unnest arrays with one member for each request.
        let matching: Vec<_> = self
            .0
            .iter()
            .filter(|it| contains_call(&it.text, mark) && !it.types.is_empty())
            .filter(|it| !it.text.contains("begin_gathered_call"))
            .collect();
        let [statement] = matching[..] else {
            return Err(format!(
                "{} statements in the query data contain `{mark}` and serve one request; the table in \
                 benches/src/operations.rs expects one",
                matching.len()
            )
            .into());
        };
        if statement.types.len() != arguments.len() {
            return Err(format!(
                "the statement with `{mark}` has {} parameters; the table in \
                 benches/src/operations.rs gives {}",
                statement.types.len(),
                arguments.len()
            )
            .into());
        }
        // A parameter of pgbench cannot be null.
        let arguments: Vec<String> = (arguments.iter().zip(&statement.types))
            .map(
                |(it, name)| if *it == "null" { format!("null::{name}") } else { (*it).to_owned() },
            )
            .collect();
        Ok(fill(&statement.text, &arguments))
    }
}

/// Returns the SQL name of a type in the query data: `text[]` for `TextArray`.
fn type_name(name: &str) -> String {
    let name = name.to_lowercase();
    name.strip_suffix("array").map_or_else(|| name.clone(), |of| format!("{of}[]"))
}

/// Returns whether `mark` occurs as a whole name, not as the end of a longer one.
fn contains_call(text: &str, mark: &str) -> bool {
    text.match_indices(mark).any(|(at, _)| {
        !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
    })
}

/// Replaces `$1`, `$2` and so on by arguments, and the names `"name!: Type"`, which sqlx reads at compile time, by
/// plain names, which `\gset` of pgbench needs.
fn fill(text: &str, arguments: &[String]) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '"']) {
        filled.push_str(&rest[..at]);
        let (mark, after) = rest[at..].split_at(1);
        if mark == "\"" {
            let (quoted, after) = after.split_once('"').unwrap_or((after, ""));
            let end = quoted.find(|it: char| it != '_' && !it.is_ascii_alphanumeric());
            filled.push_str(&quoted[..end.unwrap_or(quoted.len())]);
            rest = after;
        } else {
            let end = after.find(|it: char| !it.is_ascii_digit()).unwrap_or(after.len());
            let number = after[..end].parse::<usize>().unwrap_or(0);
            filled.push_str(
                number.checked_sub(1).and_then(|n| arguments.get(n)).map_or("$", |it| it),
            );
            rest = &after[end..];
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_stand_for_parameters() {
        let arguments: Vec<_> = (1..=10).map(|n| format!(":v{n}")).collect();
        assert_eq!(fill("select $1, $10::text, $2", &arguments), "select :v1, :v10::text, :v2");
    }

    #[test]
    fn names_lose_what_only_the_compiler_reads() {
        assert_eq!(
            fill(r#"select a as "id!", b as "at: Timestamp""#, &[]),
            "select a as id, b as at"
        );
    }

    #[test]
    fn a_null_gets_the_type_of_its_parameter() {
        let statements = Statements(vec![Statement {
            text: "select * from take($1, $2)".to_owned(),
            types: vec!["text".to_owned(), type_name("TextArray")],
        }]);
        let filled = statements.with("take(", &[":key", "null"]).expect("one statement");
        assert_eq!(filled, "select * from take(:key, null::text[])");
        assert!(statements.with("take(", &[":key"]).is_err());
        assert!(statements.with("give(", &[":key"]).is_err());
    }

    #[test]
    fn a_call_is_not_the_end_of_a_longer_name() {
        assert!(contains_call("from acquire_lock(", "acquire_lock("));
        assert!(!contains_call("from floor_acquire_lock(", "acquire_lock("));
    }
}
