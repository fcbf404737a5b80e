//! The reference documents about the configuration: `docs/configuration.md`.
use std::fmt::Write as _;

use super::variables::VARIABLES;

/// The table of all variables, as Markdown.
pub fn configuration_table() -> String {
    let mut table = String::from(
        "# Configuration\n\n\
         Written by `make docs`. The environment is read once, at start. An empty value counts as \
         unset. When anything is wrong, the process names every variable concerned with what it \
         expects, and exits with code 2 before listening.\n\n\
         | Variable | Default | Expects | Meaning |\n|---|---|---|---|\n",
    );
    for variable in VARIABLES {
        let default = match variable.default {
            "" => "–".to_owned(),
            default => format!("`{default}`"),
        };
        let expected = variable.kind.expected();
        writeln!(table, "| `{}` | {default} | {expected} | {} |", variable.name, variable.meaning)
            .expect("a String takes any text");
    }
    table
}
