//! Patterns of destructive operations, and the matcher: a pure function of text, patterns and trust.
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Serialize;

/// The severity that blocks; the others only tell.
const BLOCK: &str = "block";

/// How many characters of a match are repeated.
const MATCHED_TEXT_CHARS: usize = 200;

/// A pattern of destructive operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Pattern {
    /// Name of the pattern, as findings carry it.
    pub name: String,
    /// `git`, `file`, `database`, `credential`, `deployment` or a word of your own.
    pub category: String,
    /// `block` blocks; `warn`, `log` and `approval_required` are only reported.
    pub severity: String,
    /// A match counts for callers whose trust is below this.
    pub min_trust_level: i16,
    /// The regular expression, matched in any case.
    pub pattern: String,
    /// Why a match matters.
    pub explanation: String,
    /// Whether it is applied.
    pub enabled: bool,
}

/// A pattern that was found in a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// Name of the pattern.
    pub pattern_name: String,
    /// Its category.
    pub category: String,
    /// `block`, `warn`, `log` or `approval_required`.
    pub severity: String,
    /// What matched, the first 200 characters.
    pub matched_text: String,
    /// Whether the operation must not be done.
    pub blocked: bool,
    /// Why it matters.
    pub explanation: String,
    /// Where it matched.
    pub span: Span,
    /// Callers of this trust or more may do it.
    #[serde(skip)]
    pub(crate) bypass_trust: i16,
}

/// A part of the scanned text, which is the operation's text and then the paths, a line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Span {
    /// Its first character, counted from 0.
    pub start: usize,
    /// The character after its last one.
    pub end: usize,
}

/// A pattern with its compiled form.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(super) pattern: Pattern,
    pub(super) regex: Regex,
}

/// The compiled form of a pattern: any case, Unicode white space and word characters, linear time.
pub(super) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).case_insensitive(true).build()
}

/// The first match of each pattern, in the order of the patterns, as far as it counts for a caller
/// of this trust.
pub(super) fn find(text: &str, patterns: &[Compiled], trust: u8) -> Vec<Finding> {
    let counting = patterns.iter().filter(|it| i16::from(trust) < it.pattern.min_trust_level);
    counting
        .filter_map(|Compiled { pattern, regex }| {
            let found = regex.find(text)?;
            let start = text[..found.start()].chars().count();
            let span = Span { start, end: start + found.as_str().chars().count() };
            Some(Finding {
                pattern_name: pattern.name.clone(),
                category: pattern.category.clone(),
                severity: pattern.severity.clone(),
                matched_text: first_chars(found.as_str(), MATCHED_TEXT_CHARS).to_owned(),
                blocked: pattern.severity == BLOCK,
                explanation: pattern.explanation.clone(),
                span,
                bypass_trust: pattern.min_trust_level,
            })
        })
        .collect()
}

/// The first `count` characters of a text.
pub(super) fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// The patterns that the database is delivered with, for when it has none.
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
        let names: Vec<_> = BUILT_IN.iter().map(|it| it.0).collect();
        let found = find(text, &compiled(), trust);
        let place = |it: &Finding| names.iter().position(|name| *name == it.pattern_name);
        found.iter().map(|it| place(it).expect("a built-in pattern") + 1).collect()
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
        let lower: Vec<_> = all.iter().copied().filter(|it| ![11, 12].contains(it)).collect();
        for (trust, expected) in
            [(0, all.clone()), (1, all), (2, lower), (3, vec![5, 8, 9, 13]), (4, vec![])]
        {
            assert_eq!(numbers(everything, trust), expected, "trust {trust}");
        }
    }

    #[test]
    fn a_finding_says_where_in_characters() {
        let text = "é\u{1f980} rm -rf /";
        let [first, second] = &find(text, &compiled(), 2)[..] else { panic!("two findings") };
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
        let [found] = &find(&text, &compiled(), 2)[..] else { panic!("one finding") };
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
