//! The settings of pre-commit and lefthook: lines added to their YAML, with its comments and its
//! layout left as they are.
use serde_json::json;

use super::script::{NAMES, block, command_of};

/// Returns the hooks for `.pre-commit-config.yaml`, as an item of `repos` with this indentation.
fn pre_commit_item(indent: &str) -> String {
    let hooks: String = NAMES
        .iter()
        .map(|name| {
            let entry = pre_commit_entry(name);
            format!(
                "{indent}      - id: coord-{name}
{indent}        name: coord hook {name}
{indent}        entry: {entry}
{indent}        language: system
{indent}        stages: [{name}]
{indent}        always_run: true
{indent}        pass_filenames: false
"
            )
        })
        .collect();
    format!("{indent}- repo: local\n{indent}  hooks:\n{hooks}")
}

/// Returns the same item as [`pre_commit_item`] on one line, in flow style.
pub(super) fn pre_commit_item_in_flow() -> String {
    let hooks = NAMES.map(|name| {
        json!({
            "id": format!("coord-{name}"),
            "name": format!("coord hook {name}"),
            "entry": pre_commit_entry(name),
            "language": "system",
            "stages": [name],
            "always_run": true,
            "pass_filenames": false,
        })
    });
    json!({ "repo": "local", "hooks": hooks }).to_string()
}

/// Returns the command that pre-commit runs. pre-commit gives its hooks no standard input; what is
/// pushed is in variables.
fn pre_commit_entry(name: &str) -> String {
    let arguments = match name {
        "pre-push" => "\"$PRE_COMMIT_REMOTE_NAME\" \"$PRE_COMMIT_REMOTE_URL\"",
        _ => "",
    };
    format!("sh -c '{}'", command_of(name, arguments))
}

/// Adds the hooks of this program as the first item of `repos`. `None` if the list has a form that
/// lines cannot be added to, such as `repos: []`.
pub(super) fn with_pre_commit_item(text: &str) -> Option<String> {
    let text = if text.trim().is_empty() { "repos:\n" } else { text };
    let (place, indent) = place_in_repos(text)?;
    Some(format!("{}{}{}", &text[..place], block(&pre_commit_item(indent)), &text[place..]))
}

/// Returns the same lines with the indentation of the list in this configuration.
pub(super) fn pre_commit_lines(text: &str) -> String {
    let indent = place_in_repos(text).map_or("  ", |(_, indent)| indent);
    block(&pre_commit_item(indent))
}

/// Returns where the first item of `repos` begins, and the indentation of the items.
fn place_in_repos(text: &str) -> Option<(usize, &str)> {
    let start = match text.starts_with("repos:") {
        true => 0,
        false => text.find("\nrepos:")? + 1,
    };
    let end = start + text[start..].find('\n').map_or(text.len() - start, |at| at + 1);
    let after = text[start..end].trim_end().strip_prefix("repos:")?.trim_start();
    if !after.is_empty() && !after.starts_with('#') {
        return None;
    }
    let is_content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    match text[end..].lines().find(is_content) {
        Some(line) => {
            let indent = &line[..line.len() - line.trim_start().len()];
            line.trim_start().starts_with("- ").then_some((end, indent))
        }
        None => Some((end, "  ")),
    }
}

/// Returns the hooks for `lefthook.yml`.
pub(super) fn lefthook_hooks() -> String {
    let hooks = NAMES.map(|name| format!("{name}:\n  commands:\n{}", lefthook_command(name)));
    hooks.concat()
}

/// Returns the command for the section `commands` of a hook of lefthook.
pub(super) fn lefthook_command(name: &str) -> String {
    let (command, input) = match name {
        "pre-push" => (command_of(name, "{1} {2}"), "      use_stdin: true\n"),
        _ => (command_of(name, ""), ""),
    };
    format!("    coord:\n      run: {command}\n{input}")
}

/// Adds the hooks of this program. `None` if the file has settings for one of them already, or is in
/// flow style.
pub(super) fn with_lefthook_hooks(text: &str) -> Option<String> {
    let is_flow = text.trim_start().starts_with('{');
    if NAMES.iter().any(|name| has_lefthook_hook(text, name)) || is_flow {
        return None;
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Some(format!("{text}{gap}{}", block(&lefthook_hooks())))
}

/// Whether a configuration of lefthook has a section for a hook.
pub(super) fn has_lefthook_hook(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let key = line.trim_start_matches(['"', '\'']);
        key.strip_prefix(name).is_some_and(|rest| rest.starts_with([':', '"', '\'', ' ']))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::script::without_block, *};

    #[test]
    fn hooks_are_added_with_the_indentation_of_the_list_and_taken_out_again() {
        for (text, indent) in [
            ("repos:\n- repo: a\n  hooks: []\n", "- repo: local"),
            ("# x\nfail_fast: true\nrepos: # all\n  # one\n  - repo: a\n", "  - repo: local"),
            ("repos:\n", "  - repo: local"),
            ("default_stages: [pre-commit]\nrepos:\n    -   repo: a\n", "    - repo: local"),
        ] {
            let written = with_pre_commit_item(text).unwrap();
            assert!(written.contains(&format!("\n{indent}")), "{written}");
            assert!(written.contains(&pre_commit_lines(text)), "{written}");
            assert_eq!(without_block(&written).as_deref(), Some(text));
        }
        for text in ["repos: []\n", "repos: [{repo: local}]\n", "x: 1\n", "repos:\nx: 1\n"] {
            assert_eq!(with_pre_commit_item(text), None, "{text}");
        }
        let written = with_lefthook_hooks("commit-msg:\n  commands: {}").unwrap();
        assert_eq!(without_block(&written).unwrap(), "commit-msg:\n  commands: {}\n");
        for text in ["pre-push:\n  jobs: []\n", "\"pre-commit\": {}\n", "{}\n"] {
            assert_eq!(with_lefthook_hooks(text), None, "{text}");
        }
    }
}
