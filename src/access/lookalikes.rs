//! Names that look alike. Lists and the audit log show names: an unbound key must not act under one that
//! readers take for a bound agent.
use std::collections::HashSet;

use unicode_normalization::UnicodeNormalization as _;
use unicode_security::skeleton;

/// The bound agents' names, for comparison by what a reader sees.
#[derive(Clone, Debug, Default)]
pub(super) struct Lookalikes {
    forms: HashSet<String>,
}

impl Lookalikes {
    pub(super) fn add(&mut self, name: &str) {
        self.forms.insert(visible_form(name));
    }

    /// Whether a name differs from one of the names by nothing but white space, invisible characters, width or
    /// letters that look alike.
    pub(super) fn contain(&self, name: &str) -> bool {
        !self.forms.is_empty() && self.forms.contains(&visible_form(name))
    }
}

/// Returns what a reader sees of a name: its skeleton by Unicode Technical Standard 39, without white space and
/// control characters.
fn visible_form(name: &str) -> String {
    let compatible: String =
        name.nfkc().filter(|it| !it.is_whitespace() && !it.is_control()).collect();
    skeleton(&compatible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_are_recognised() {
        let mut names = Lookalikes::default();
        assert!(!names.contain("codex-1"));
        names.add("codex-1");
        for alike in [
            "codex-1",
            "codex-1 ",
            " codex-1",
            "code x-1",
            "codex\u{200b}-1",
            "codex\u{ad}-1",
            "codex-1\u{202e}",
            "\u{feff}codex-1",
            "codex\u{a0}-1",
            "\u{441}odex-1",
            "\u{ff43}\u{ff4f}\u{ff44}\u{ff45}\u{ff58}-1",
            "codex\u{2010}1",
            "codex-l",
        ] {
            assert!(names.contain(alike), "{alike:?}");
        }
        for other in ["", "codex-2", "codex1", "Codex-1", "codex-11", "\u{4f60}"] {
            assert!(!names.contain(other), "{other:?}");
        }
    }
}
