//! The patterns of destructive operations and the matcher, a pure function of text, patterns and
//! trust.
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Serialize;

/// The severity that blocks an operation. The others are only reported.
const BLOCK: &str = "block";

/// The maximum number of characters of a match in a finding.
const MATCHED_TEXT_CHARS: usize = 200;

/// A pattern of destructive operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pattern {
    /// Name of the pattern.
    pub name: String,
    /// `git`, `file`, `database`, `credential`, `deployment` or another word.
    pub category: String,
    /// `block` blocks the operation; `warn`, `log` and `approval_required` are only reported.
    pub severity: String,
    /// The pattern applies to callers whose trust is below this, 0 to 4.
    pub min_trust_level: i16,
    /// Regular expression; upper and lower case match alike.
    pub pattern: String,
    /// Why a match is dangerous.
    pub explanation: String,
    /// Whether the pattern is applied.
    pub enabled: bool,
}

/// A match of a pattern in a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// Name of the pattern.
    pub pattern_name: String,
    /// Category of the pattern.
    pub category: String,
    /// `block`, `warn`, `log` or `approval_required`.
    pub severity: String,
    /// The matched text, at most 200 characters.
    pub matched_text: String,
    /// Whether the finding blocks the operation.
    pub blocked: bool,
    /// Why the match is dangerous.
    pub explanation: String,
    /// Where the match is.
    pub span: Span,
    /// Callers of this trust or more are not blocked.
    #[serde(skip)]
    pub(crate) bypass_trust: i16,
}

/// A part of the scanned text, which is the text of the operation and then the paths, each on a
/// line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    /// Index of the first character, starting at 0.
    pub start: usize,
    /// Index of the character after the last one.
    pub end: usize,
}

/// A pattern with its compiled form.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(super) pattern: Pattern,
    pub(super) regex: Regex,
}

/// Compiles a pattern: case-insensitive, Unicode white space and word characters. Matching takes
/// linear time.
pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).case_insensitive(true).build()
}

/// Returns the first match of each pattern that applies to a caller of this trust, in the order of
/// the patterns.
pub(super) fn find_matches(text: &str, patterns: &[Compiled], trust: u8) -> Vec<Finding> {
    let applicable =
        patterns.iter().filter(|compiled| i16::from(trust) < compiled.pattern.min_trust_level);
    applicable
        .filter_map(|Compiled { pattern, regex }| {
            let found = regex.find(text)?;
            let start = text[..found.start()].chars().count();
            let span = Span { start, end: start + found.as_str().chars().count() };
            Some(Finding {
                pattern_name: pattern.name.clone(),
                category: pattern.category.clone(),
                severity: pattern.severity.clone(),
                matched_text: truncate(found.as_str(), MATCHED_TEXT_CHARS).to_owned(),
                blocked: pattern.severity == BLOCK,
                explanation: pattern.explanation.clone(),
                span,
                bypass_trust: pattern.min_trust_level,
            })
        })
        .collect()
}

/// Returns the first `count` characters of a text.
pub(super) fn truncate(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// Returns the built-in patterns, which replace those of the database when it has none. They equal
/// the rows that `migrations/0006_guardrails.sql` inserts.
pub(super) fn built_in() -> Vec<Pattern> {
    BUILT_IN
        .map(|(name, category, severity, min_trust_level, pattern, explanation)| Pattern {
            name: name.to_owned(),
            category: category.to_owned(),
            severity: severity.to_owned(),
            min_trust_level,
            pattern: pattern.to_owned(),
            explanation: explanation.to_owned(),
            enabled: true,
        })
        .into()
}

type BuiltIn = (&'static str, &'static str, &'static str, i16, &'static str, &'static str);

#[rustfmt::skip]
const BUILT_IN: [BuiltIn; 15] = [
    ("git_force_push", "git", "block", 3, r"git\s+push\s+.*--force",
        "Force push can overwrite other people's commits."),
    ("git_reset_hard", "git", "block", 3, r"git\s+reset\s+--hard",
        "Hard reset throws away uncommitted work."),
    ("git_clean_force", "git", "block", 3, r"git\s+clean\s+-[fd]",
        "Forced clean deletes untracked files."),
    ("git_branch_delete", "git", "warn", 3, r"git\s+(branch\s+-D|push\s+.*--delete)",
        "Deletes a branch."),
    ("rm_recursive_force", "file", "block", 4, r"rm\s+-r[f]?\s+/",
        "Recursive delete from an absolute path."),
    ("rm_rf", "file", "block", 3, r"rm\s+-rf\s+",
        "Recursive forced delete."),
    ("find_delete", "file", "warn", 3, r"find\s+.*-delete",
        "Deletes every file a search finds."),
    ("drop_table", "database", "block", 4, r"DROP\s+TABLE",
        "Drops a table with its data."),
    ("truncate_table", "database", "block", 4, r"TRUNCATE\s+",
        "Empties a table."),
    ("delete_no_where", "database", "block", 3, r"DELETE\s+FROM\s+\w+\s*;",
        "Deletes all rows: no condition."),
    ("env_file_modify", "credential", "warn", 2, r"\.(env|env\.local|env\.production)",
        "Touches an environment file that may hold secrets."),
    ("credentials_file", "credential", "warn", 2, r"(credentials|secrets|passwords)\.(json|yaml|yml|txt)",
        "Touches a credentials file."),
    ("ssh_key_modify", "credential", "block", 4, r"\.ssh/(id_rsa|id_ed25519|authorized_keys)",
        "Touches SSH keys."),
    ("deploy_command", "deployment", "block", 3, r"(kubectl\s+apply|terraform\s+apply|docker\s+push)",
        "Changes a running environment."),
    ("npm_publish", "deployment", "block", 3, r"npm\s+publish",
        "Publishes a package."),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled() -> Vec<Compiled> {
        let compiled = built_in().into_iter().map(|pattern| {
            let regex = compile(&pattern.pattern).expect("a built-in pattern compiles");
            Compiled { pattern, regex }
        });
        compiled.collect()
    }

    /// Numbers, from 1, of the built-in patterns found in a text.
    fn numbers(text: &str, trust: u8) -> Vec<usize> {
        let names: Vec<_> = BUILT_IN.iter().map(|pattern| pattern.0).collect();
        let found = find_matches(text, &compiled(), trust);
        let position =
            |finding: &Finding| names.iter().position(|name| *name == finding.pattern_name);
        found.iter().map(|finding| position(finding).expect("a built-in pattern") + 1).collect()
    }

    #[track_caller]
    fn assert_found(text: &str, expected: &[usize]) {
        assert_eq!(numbers(text, 2), expected, "{text}");
    }

    #[test]
    fn each_built_in_pattern_finds_what_it_is_for() {
        assert_found("git push origin main --force", &[1]);
        assert_found("git push --force-with-lease", &[1]);
        assert_found("git reset --hard HEAD~1", &[2]);
        assert_found("git clean -fd", &[3]);
        assert_found("git clean -dx", &[3]);
        assert_found("git branch -D x", &[4]);
        assert_found("git branch -d x", &[4]);
        assert_found("git push origin --delete x", &[4]);
        assert_found("rm -r /var", &[5]);
        assert_found("rm -rf /", &[5, 6]);
        assert_found("rm -rf target", &[6]);
        assert_found("find . -name x -delete", &[7]);
        assert_found("drop table users", &[8]);
        assert_found("Truncate users", &[9]);
        assert_found("delete from users ;", &[10]);
        assert_found("cat ~/.ssh/id_rsa", &[13]);
        assert_found("terraform apply", &[14]);
        assert_found("cd x && npm publish", &[15]);
    }

    #[test]
    fn what_the_patterns_do_not_cover_is_not_found() {
        for text in [
            "",
            "git status",
            "git reset --soft",
            "git push -f",
            "rm -fr x",
            "rm -rf",
            "delete from users where id = 1;",
            "git push origin main\n--force",
        ] {
            assert_found(text, &[]);
        }
    }

    #[test]
    fn case_and_unicode_white_space_and_letters_count() {
        assert_found("RM\u{2003}-RF\u{a0}x", &[6]);
        assert_found("rm\n-rf\n/", &[5, 6]);
        assert_found("DELETE FROM größe;", &[10]);
    }

    #[test]
    fn trust_decides_which_matches_count() {
        let everything = "git push --force --delete; git reset --hard; git clean -f; rm -rf / ; \
            find . -delete; drop table t; truncate t; delete from t; .env secrets.json \
            .ssh/id_rsa docker push npm publish";
        let all: Vec<_> = (1..=15).collect();
        let lower: Vec<_> =
            all.iter().copied().filter(|number| ![11, 12].contains(number)).collect();
        for (trust, expected) in
            [(0, all.clone()), (1, all), (2, lower), (3, vec![5, 8, 9, 13]), (4, vec![])]
        {
            assert_eq!(numbers(everything, trust), expected, "trust {trust}");
        }
    }

    #[test]
    fn a_finding_says_where_in_characters() {
        let text = "é\u{1f980} rm -rf /";
        let [first, second] = &find_matches(text, &compiled(), 2)[..] else {
            panic!("two findings")
        };
        assert_eq!(
            (first.span, first.matched_text.as_str()),
            (Span { start: 3, end: 11 }, "rm -rf /")
        );
        assert_eq!(
            (second.span, second.matched_text.as_str()),
            (Span { start: 3, end: 10 }, "rm -rf ")
        );
        assert!(first.blocked && first.severity == "block");
    }

    #[test]
    fn the_first_match_is_reported_once_and_a_long_one_is_cut() {
        let text = format!("find {} -delete\nfind . -delete", "é".repeat(1000));
        let [found] = &find_matches(&text, &compiled(), 2)[..] else { panic!("one finding") };
        assert_eq!(found.span, Span { start: 0, end: 1013 });
        assert_eq!(found.matched_text.chars().count(), 200);
        assert!(!found.blocked && found.severity == "warn");
    }

    #[test]
    fn a_huge_text_is_scanned_in_linear_time() {
        for text in
            ["git push ".repeat(120_000), "\u{3000}".repeat(340_000), "find ".repeat(200_000)]
        {
            assert_eq!(numbers(&text, 0), Vec::<usize>::new());
        }
    }
}
