//! The file `.env.example`, written from the table of variables so that it names all of them.
use std::fmt::Write as _;

use super::variables::{Kind, VARIABLES, Variable};

const START: &str = "\
# Every variable that the service reads. docs/configuration.md says more about each.
# Written by `make docs`. `local` reads a copy of this file, named .env, in the folder where it starts.
# Single quotes are for .env files and shells; a form that takes a bare value gets none.

# ---- Local: the database of docker-compose.yml ----

POSTGRES_DSN=postgresql://postgres:postgres@localhost:54322/postgres

# ---- Cloud: Railway, with the database as a service beside this one ----

# The private address of the database. Nothing is encrypted there, and nobody else is on it.
# POSTGRES_DSN=postgresql://postgres:PASSWORD@paradedb.railway.internal:5432/postgres?sslmode=disable
# The API keys, separated by commas. `coordinator keys generate` makes them and prints both lines.
# COORDINATION_API_KEYS=KEY-1,KEY-2
# What a key is bound to; one that is not named here acts as any agent that no key is bound to.
# COORDINATION_API_KEY_IDENTITIES='{\"KEY-1\":{\"agent_id\":\"codex-1\",\"agent_type\":\"codex\",\"workspace\":\"default\"}}'

# Not for the service but for the HTTP bridge of its clients, which calls no host but those that
# are listed there and its own machine:
#     COORDINATION_ALLOWED_HOSTS=coordinator.up.railway.app

# ---- Legacy / alternative: Supabase ----

# The Postgres connection string of the project.
# DB_BACKEND=supabase
# POSTGRES_DSN=postgresql://postgres:PASSWORD@db.PROJECT.supabase.co:5432/postgres

# ---- Everything else, with its default ----
";

/// Those that the sections above explain.
const EXPLAINED: [&str; 3] =
    ["POSTGRES_DSN", "COORDINATION_API_KEYS", "COORDINATION_API_KEY_IDENTITIES"];

/// The example of an environment: a section for each way to run the service, then every other
/// variable with its default, commented out.
pub fn env_example() -> String {
    let mut text = START.to_owned();
    for variable in VARIABLES.iter().filter(|it| !EXPLAINED.contains(&it.name)) {
        let Variable { name, default, .. } = variable;
        write!(text, "\n# {}\n# {name}={default}\n", sentence(variable))
            .expect("a String takes any text");
    }
    text
}

/// The first sentence about a variable, with the values it takes where that is short.
fn sentence(variable: &Variable) -> String {
    let first = variable.meaning.split(". ").next().unwrap_or_default().trim_end_matches('.');
    match variable.kind {
        Kind::Int(..) | Kind::Words(_) => format!("{first} ({}).", variable.kind.expected()),
        Kind::Bool | Kind::Text(_) => format!("{first}."),
    }
}
