//! Runs the program `coord` against the service, and against small servers of the tests.
mod blank_values;
mod bridge;
mod commands;
mod completions;
mod configuration;
mod doctor;
mod documents;
mod every_command;
mod git_settings;
mod hook_owners;
mod hook_remedies;
mod hooks;
mod identity;
#[path = "../../../tests/api/imports.rs"]
mod imports;
mod links;
mod mcp;
mod own_locks;
mod paths;
mod push_range;
mod retries;
mod rooms;
mod sessions;
mod shared_rules;
#[path = "../../../lock-key/tests/spellings/table.rs"]
mod spellings;
mod support;
mod work_trees;
