//! Spellings of lock keys, one by one and generated.
use super::*;

#[test]
fn names_of_files_and_namespaced_keys_are_keys() {
    for text in [
        "src/main.rs",
        "README.md",
        "./src//a.rs",
        "src/a/../b.rs",
        "app/[id]/page.tsx",
        "app/[[...slug]]/page.tsx",
        "app/(shop)/@modal/page.tsx",
        "./@types/index.d.ts",
        "src/a b.ts",
        "docs/Hello, World.md",
        "docs/v1.2 notes/a.md",
        "src/a,b.rs",
        "src/a:b.rs",
        ".github/workflows/ci.yml",
        ".gitignore",
        "src/worktrees/mod.rs",
        "app/routes/$id.tsx",
        "{{cookiecutter.name}}/setup.py",
        "it's.md",
        "a~",
        "src/C#/Lib.cs",
        "db:schema:users",
        "api:GET /users",
        "feature:FEAT-1:pause",
        "env:staging",
        "contract:specs/a.yaml",
        "app/(shop)/(cart)",
        "notes (old).md",
        "[draft].md",
        "{name}.tsx",
        "./a.rs b.rs",
        "100%/a.rs",
    ] {
        assert_eq!(lock_key(text).as_deref(), Ok(text));
    }
    assert_eq!(lock_key("src\\a.rs").as_deref(), Ok("src/a.rs"));
    assert_eq!(lock_key("  src/a.rs\n").as_deref(), Ok("src/a.rs"));
}

#[test]
fn a_refusal_suggests_the_key_that_was_meant() {
    for (text, expected) in [
        ("/src/a.rs", "src/a.rs"),
        ("/home/me/project/src/a.rs", "src/a.rs"),
        ("/Users/me/project/lib.rs", "lib.rs"),
        ("/home/me/code/crates/x/src/a.rs", "crates/x/src/a.rs"),
        ("C:\\work\\project\\src\\a.rs", "src/a.rs"),
        ("c:/project/src/a.rs", "src/a.rs"),
        ("\\\\host\\share\\src\\a.rs", "src/a.rs"),
        ("file:///home/me/project/src/a%20b.rs", "src/a b.rs"),
        ("file://src/a.rs", "src/a.rs"),
        ("file:src/a.rs", "src/a.rs"),
        ("~/project/src/a.rs", "src/a.rs"),
        ("~/project/a.rs", "a.rs"),
        ("${workspaceFolder}/src/a.rs", "src/a.rs"),
        ("$PWD/src/a.rs", "src/a.rs"),
        ("@src/a.rs", "src/a.rs"),
        ("src/a.rs:12", "src/a.rs"),
        ("src/a.rs:12:5", "src/a.rs"),
        ("src/a.rs:12-40", "src/a.rs"),
        ("./src/a.rs:12: error", "src/a.rs"),
        ("src/a.rs#L12-L40", "src/a.rs"),
        ("src/a.rs:", "src/a.rs"),
        ("- src/a.rs", "src/a.rs"),
        ("\"src/a.rs\"", "src/a.rs"),
        ("`src/a.rs`", "src/a.rs"),
        ("'@src/a.rs:12'", "src/a.rs"),
        ("src/a\\ b.rs", "src/a b.rs"),
        ("src/a.rs, src/b.rs", "src/a.rs"),
        ("src/a.rs,src/b.rs", "src/a.rs"),
        ("./src/a.rs, ./src/b.rs", "src/a.rs"),
        ("src/a.rs src/b.rs", "src/a.rs"),
        ("src/a.rs and src/b.rs", "src/a.rs"),
        ("src/a.rs\nsrc/b.rs", "src/a.rs"),
        ("README.md, LICENSE", "README.md"),
        ("../src/a.rs", "src/a.rs"),
        ("src/../../x", "x"),
        ("src/../../lib/./a.rs", "lib/a.rs"),
        ("c:main.rs", "main.rs"),
        ("c:src/main.rs", "src/main.rs"),
        ("'./@types/a.d.ts'", "./@types/a.d.ts"),
        ("<<<<src/a.rs>>>>", "src/a.rs"),
        (".claude/worktrees/x/src/a.rs", "src/a.rs"),
        ("/home/me/project/.claude/worktrees/x/src/a.rs", "src/a.rs"),
        (".worktrees/x/a.rs", "a.rs"),
        ("[\"src/a.rs\"]", "src/a.rs"),
        ("['src/a.rs']", "src/a.rs"),
        ("[\"a.rs\", \"b.rs\"]", "a.rs"),
        ("{\"file_path\":\"src/a.rs\"}", "src/a.rs"),
        ("file_path: src/a.rs", "src/a.rs"),
        ("path:src/a.rs", "src/a.rs"),
        ("HEAD:src/a.rs", "src/a.rs"),
        ("[a.rs](src/a.rs)", "src/a.rs"),
        ("%USERPROFILE%\\p\\src\\a.rs", "p/src/a.rs"),
        ("src%2Fa.rs", "src/a.rs"),
        ("src/a.rs (new)", "src/a.rs"),
        (":/src/a.rs", "src/a.rs"),
        ("\u{ab}src/a.rs\u{bb}", "src/a.rs"),
        ("a.rs b.rs", "a.rs"),
        ("a.rs;b.rs", "a.rs"),
        ("src/a.rs|src/b.rs", "src/a.rs"),
    ] {
        let refused = lock_key(text).expect_err(text);
        assert!(refused.contains(&format!("probably `{expected}`")), "{text}: {refused}");
    }
}

#[test]
fn a_refusal_without_a_key_says_how_to_go_on() {
    for (text, expected) in [
        ("src/", "one call for each file"),
        ("./", "one call for each file"),
        ("src/.", "one call for each file"),
        ("src/**", "one call for each file"),
        ("src/*.rs", "one call for each file"),
        ("src/{a,b}.rs", "one call for each file"),
        ("./...", "one call for each file"),
        (".git/config", "need no lock"),
        ("sub/.git/HEAD", "need no lock"),
        ("https://example.com/src/a.rs", "root of the repository"),
    ] {
        let refused = lock_key(text).expect_err(text);
        assert!(refused.contains(expected), "{text}: {refused}");
    }
}

/// Parts of texts, so that generated texts meet every rule, in every order.
const PARTS: [&str; 53] = [
    "[\"",
    "\"]",
    "](",
    "|",
    "%2F",
    "/",
    "/",
    "..",
    "../",
    ".",
    "./",
    "c:",
    "C:\\",
    ":",
    "::",
    "<",
    ">",
    "\"",
    "\"",
    "'",
    "`",
    "@",
    "- ",
    "* ",
    "file:",
    "file://",
    "https://",
    "src",
    "src/a.rs",
    "main.rs",
    "x",
    "#L1",
    ":12",
    ",",
    ", ",
    "; ",
    " ",
    "\\",
    "\\ ",
    "~",
    "$PWD",
    "${x}",
    "\n",
    "\u{e9}",
    "\u{201c}",
    "\u{201d}",
    ".worktrees/",
    "home/",
    "{a,b}",
    "*",
    "%2e",
    "\0",
    ".git",
];

#[test]
fn every_text_is_read_and_every_suggestion_is_taken() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |most: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("31 bits") % most
    };
    let mut suggestions = 0;
    for _ in 0..20_000 {
        let text: String = (0..=next(7)).map(|_| PARTS[next(PARTS.len())]).collect();
        let Err(refused) = lock_key(&text) else { continue };
        let Some((_, rest)) = refused.split_once("probably `") else { continue };
        let end = [rest.find("` (for"), rest.strip_suffix('`').map(str::len)];
        let key = &rest[..end.into_iter().flatten().next().expect("the end of the key")];
        assert_eq!(lock_key(key).as_deref(), Ok(key), "{text:?}: {refused}");
        assert!(LockKey::parse(key).is_ok(), "{text:?}: {refused}");
        suggestions += 1;
    }
    assert!(suggestions > 2_000, "{suggestions}");
}

#[test]
fn a_text_of_nothing_but_marks_is_refused_without_a_key() {
    for (open, close) in [
        ("<", ">"),
        ("\"", "\""),
        ("- ", ""),
        ("file:", ""),
        ("@./", ""),
        ("", ":"),
        ("", ":1"),
        ("~/", ""),
        ("$A/", ""),
        ("c:", ""),
        (".worktrees/x/", ""),
        ("../", ""),
    ] {
        for count in [100, MAX_SPELLING_BYTES / 8 / (open.len() + close.len())] {
            let text = format!("{}a{}", open.repeat(count), close.repeat(count));
            let _ = lock_key(&text).map_err(|refused| assert!(refused.len() < 40_000));
        }
        let long = format!("{}a{}", open.repeat(500_000), close.repeat(500_000));
        assert_eq!(lock_key(&long), Ok(long.clone()), "left to the check of the input");
    }
}
