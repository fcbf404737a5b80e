//! Names that clients give to agents, sessions and workspaces: whether a text can be one, or is what a
//! configuration sends when nobody has filled in its variable. All clients with the same unfilled variable
//! would be one agent, and hold one another's locks.

/// What programs write for a value that they do not have.
const ABSENT_VALUES: [&str; 6] = ["undefined", "null", "None", "nil", "(null)", "[object Object]"];

/// Beginnings of references to variables, which count wherever they are in a text.
const REFERENCES: [&str; 4] = ["${", "$(", "{{", "#{"];

/// Brackets around the name of a variable, which count where they enclose the whole text.
const BRACKETS: [(char, char); 3] = [('{', '}'), ('<', '>'), ('%', '%')];

/// The problem of a name that looks like an unfilled variable, with the remedy.
pub(crate) const UNFILLED: &str = "expected a name, not a variable that was not filled in: set the variable where the client is \
     configured, or leave this out";

/// Returns what is wrong with a name, if anything.
pub(crate) fn problem_of_name(text: &str) -> Option<&'static str> {
    is_unfilled(text).then_some(UNFILLED)
}

/// Whether a text looks like a variable that was not filled in: `${AGENT}`, `$AGENT`, `$env:AGENT`,
/// `{{agent}}`, `{agent}`, `<agent>`, `%AGENT%`, or a word such as `undefined`.
pub(crate) fn is_unfilled(text: &str) -> bool {
    let text = text.trim();
    // Nearly all names have none of these letters, so the texts are not searched for.
    let may_refer = text.bytes().any(|letter| matches!(letter, b'$' | b'{' | b'#'));
    if ABSENT_VALUES.contains(&text) || may_refer && REFERENCES.iter().any(|it| text.contains(it)) {
        return true;
    }
    if let Some(variable) = text.strip_prefix('$') {
        return is_identifier(variable.strip_prefix("env:").unwrap_or(variable));
    }
    BRACKETS.iter().any(|(open, close)| {
        let inner = text.strip_prefix(*open).and_then(|rest| rest.strip_suffix(*close));
        inner.is_some_and(|inner| *open == '<' && !inner.is_empty() || is_identifier(inner))
    })
}

/// Whether a text can name a variable: `AGENT_ID`, `agent-id`, `github.actor`.
fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|it| it.is_ascii_alphanumeric() || "_-. ".contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfilled_variables_are_recognised() {
        for text in [
            "${AGENT}",
            "$AGENT",
            "$agent_id",
            "$env:AGENT",
            " ${AGENT} ",
            "claude-${USER}",
            "$(hostname)",
            "{{agent}}",
            "{{ inputs.agent }}",
            "${{ github.actor }}",
            "#{agent}",
            "{agent_id}",
            "<agent>",
            "<your agent id>",
            "%AGENT%",
            "undefined",
            "null",
            "None",
            "nil",
            "(null)",
            "[object Object]",
        ] {
            assert_eq!(problem_of_name(text), Some(UNFILLED), "{text}");
        }
    }

    #[test]
    fn names_of_agents_are_accepted() {
        for text in [
            "",
            "claude-1",
            "o'brien",
            "HOST$",
            "a$b",
            "$1",
            "cost: $5",
            "100%",
            "%E4%BD%A0",
            "50%-60%",
            "a<b>",
            "<>",
            "{}",
            "nullable",
            "Undefined Labs",
            "none",
            "\u{4f60}\u{597d}",
        ] {
            assert_eq!(problem_of_name(text), None, "{text}");
        }
    }
}
