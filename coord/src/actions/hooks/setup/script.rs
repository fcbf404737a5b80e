//! What this program writes into hooks and into the settings of hook managers, and how it finds it
//! again.
use std::path::Path;

/// The hooks of this program.
pub(super) const NAMES: [&str; 2] = ["pre-commit", "pre-push"];

/// The line by which a hook of this program is recognised.
const MARK: &str = "# Installed by `coord hook install`.";

/// The lines around what this program writes into a file of others.
const BEGIN: &str = "# coord: begin, written by `coord hook install --manager`";
const END: &str = "# coord: end";

/// Sets `coord` to the program of this clone, or else to the one on the path. Fails where there is
/// neither, so that a shared hook stops nobody who does not use this program, or has moved it.
const FIND: &str = "coord=$(git config --get coord.program); [ -x \"$coord\" ] || \
                    coord=$(command -v coord)";

/// Whether a text is a hook of this program.
pub(super) fn is_ours(text: &str) -> bool {
    text.contains(MARK)
}

/// Whether a line of a hook, or of the settings of a hook manager, calls this program.
pub(super) fn calls(text: &str, name: &str) -> bool {
    let call = format!("hook {name}");
    text.lines()
        .map(str::trim_start)
        .any(|line| !line.starts_with(['#', ';']) && line.contains("coord") && line.contains(&call))
}

/// Returns the script of a hook: it runs the hook that was there before, then this program. If the
/// program has been moved since, it runs the `coord` on the path.
pub(super) fn script_of(name: &str, program: &Path) -> String {
    let program = program.display().to_string().replace('\'', "'\\''");
    format!(
        "#!/bin/sh
{MARK}
coord='{program}'
[ -x \"$coord\" ] || coord=coord
before=\"$(dirname \"$0\")/{name}.before-coord\"
input=
case {name} in pre-push) input=$(cat; echo .); input=${{input%.}} ;; esac
if [ -x \"$before\" ]; then
    printf '%s' \"$input\" | \"$before\" \"$@\" || exit
fi
printf '%s' \"$input\" | \"$coord\" hook {name} \"$@\"
"
    )
}

/// Returns the shell command that calls this program where it exists.
pub(super) fn command_of(name: &str, arguments: &str) -> String {
    let arguments = if arguments.is_empty() { "" } else { &format!(" {arguments}") };
    format!("if {FIND}; then \"$coord\" hook {name}{arguments}; fi")
}

/// Returns the lines for a shell script. Those of `pre-push` read standard input and give it back
/// to the rest of the script, which can need it as well.
pub(super) fn shell_lines(name: &str) -> String {
    match name {
        "pre-push" => format!(
            "input=$(cat)
if {FIND}; then
    printf '%s\\n' \"$input\" | \"$coord\" hook pre-push \"$@\" || exit
fi
exec <<COORD_INPUT
$input
COORD_INPUT
"
        ),
        _ => format!("if {FIND}; then \"$coord\" hook {name} \"$@\" || exit; fi\n"),
    }
}

/// Whether a hook is a script of a shell, or has no text yet.
pub(super) fn is_shell_script(text: &str) -> bool {
    let Some(first) = text.lines().next() else { return true };
    let Some(interpreter) = first.strip_prefix("#!") else { return !text.contains('\0') };
    let mut words = interpreter.split_whitespace().filter(|word| !word.starts_with('-'));
    let is_shell = |word: &str| {
        let program = word.rsplit('/').next().unwrap_or_default();
        ["sh", "ash", "bash", "dash", "ksh", "zsh"].contains(&program)
    };
    match words.next() {
        Some(word) if word.ends_with("/env") => words.next().is_some_and(is_shell),
        word => word.is_some_and(is_shell),
    }
}

/// Returns a path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+,@".contains(letter);
    match path.chars().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

/// Returns lines between the marks by which [`without_block`] finds them.
pub(super) fn block(lines: &str) -> String {
    format!("{BEGIN}\n{lines}{END}\n")
}

/// Returns a shell script with the lines of this program before its first command. A script that
/// ends early, or replaces itself, would not reach lines at its end.
pub(super) fn with_shell_block(text: &str, name: &str) -> String {
    let is_before = |line: &str| line.starts_with('#') || line.contains("husky.sh");
    let head: usize =
        text.split_inclusive('\n').take_while(|line| is_before(line)).map(str::len).sum();
    let (head, rest) = text.split_at(head);
    let gap = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
    format!("{head}{gap}{}{rest}", block(&shell_lines(name)))
}

/// Returns a text without what this program wrote into it. `None` if there is nothing of it.
pub(super) fn without_block(text: &str) -> Option<String> {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(start) = rest.find(BEGIN) {
        let end = start + rest[start..].find(END)? + END.len();
        kept += rest[..start].trim_end_matches([' ', '\t']);
        rest = rest[end..].strip_prefix('\n').unwrap_or(&rest[end..]);
    }
    (rest.len() < text.len()).then(|| kept + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_a_script_comes_before_its_commands_and_out_again() {
        for text in [
            "#!/bin/sh\n. \"$(dirname -- \"$0\")/_/husky.sh\"\nnpm test\n",
            "npm test\n",
            "#!/bin/sh\n# A comment.\nexec npm test",
            "",
        ] {
            for name in NAMES {
                let written = with_shell_block(text, name);
                assert!(calls(&written, name), "{written}");
                let first = written.lines().find(|line| !line.starts_with('#'));
                assert!(!text.contains("npm") || first != Some("npm test"), "{written}");
                assert_eq!(without_block(&written).as_deref(), Some(text));
            }
        }
        assert_eq!(without_block("npm test\n"), None);
        assert_eq!(without_block(&format!("{BEGIN}\nx")), None);
    }

    #[test]
    fn a_comment_calls_nothing() {
        assert!(!calls("# coord hook pre-commit\n", "pre-commit"));
        assert!(!calls("coord hook pre-push\n", "pre-commit"));
        assert!(calls("  run: coord hook pre-commit\n", "pre-commit"));
    }
}
