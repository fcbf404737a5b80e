//! Spellings of lock keys, one by one and generated, from both starts.
mod table;

use lock_key::{LockKey, MAX_SPELLING_BYTES, Start, plain, read};
use table::{MEANT, NAMES, UNRESOLVED, UNRESOLVED_WITHOUT_KEY, WITHOUT_KEY};

const STARTS: [Start; 2] = [Start::Root, Start::Folder];

/// Returns the refusal of a text.
fn refused(text: &str, start: Start) -> String {
    match read(text, start) {
        Ok(key) => panic!("{text} is read as {key} from {start:?}"),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn names_of_files_and_namespaced_keys_are_keys() {
    for (text, expected) in NAMES {
        for start in STARTS {
            let path = read(text, start).unwrap_or_else(|refusal| panic!("{text}: {refusal}"));
            assert_eq!(LockKey::parse(&path).expect("a key").as_str(), *expected, "{start:?}");
        }
    }
    assert_eq!(read("src\\a.rs", Start::Root).as_deref(), Ok("src/a.rs"));
    // `coord` resolves what is absolute, above a folder, or a folder.
    for (text, _) in UNRESOLVED.iter().chain(UNRESOLVED_WITHOUT_KEY) {
        if !text.starts_with(['~', '$', '\\']) && !text.starts_with("file:") {
            assert_eq!(read(text, Start::Folder).as_deref(), Ok(*text));
        }
    }
}

#[test]
fn a_refusal_suggests_the_key_that_was_meant() {
    let from_root = MEANT.iter().chain(UNRESOLVED).map(|row| (row, Start::Root));
    for ((text, expected), start) in from_root.chain(MEANT.iter().map(|row| (row, Start::Folder))) {
        let told = refused(text, start);
        let mut starts =
            ["", "./", ":/"].iter().map(|start| format!("probably `{start}{expected}`"));
        assert!(starts.any(|words| told.contains(&words)), "{text} from {start:?}: {told}");
    }
}

#[test]
fn a_refusal_without_a_key_says_how_to_go_on() {
    for (text, words) in WITHOUT_KEY {
        for start in STARTS {
            let told = refused(text, start);
            assert!(told.contains(words) && told.contains("expected"), "{text}: {told}");
        }
    }
    for (text, words) in UNRESOLVED_WITHOUT_KEY {
        let told = refused(text, Start::Root);
        assert!(told.contains(words) && told.contains("expected"), "{text}: {told}");
    }
}

/// Parts of texts, so that generated texts meet every rule, in every order.
const PARTS: [&str; 56] = [
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
    ":(top)",
    ":/",
    "worktrees/",
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
    for n in 0..40_000 {
        let text: String = (0..=next(7)).map(|_| PARTS[next(PARTS.len())]).collect();
        let start = STARTS[n % 2];
        let Err(refused) = read(&text, start) else { continue };
        let Some(path) = refused.meant() else { continue };
        assert_eq!(read(path, start).as_deref(), Ok(path), "{text:?}: {refused}");
        assert_eq!(plain(path, start).is_some(), !path.is_empty(), "{text:?}: {refused}");
        if start == Start::Root {
            assert!(LockKey::parse(path).is_ok(), "{text:?}: {refused}");
        }
        suggestions += 1;
    }
    assert!(suggestions > 4_000, "{suggestions}");
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
            for start in STARTS {
                let told = read(&text, start).err().map(|refused| refused.to_string());
                assert!(told.is_none_or(|told| told.len() < 40_000));
            }
        }
        let long = format!("{}a{}", open.repeat(500_000), close.repeat(500_000));
        assert_eq!(read(&long, Start::Root), Ok(long.clone()), "left to the check of the key");
    }
}
