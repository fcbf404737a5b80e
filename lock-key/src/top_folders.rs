//! Folders by which the root of a repository is guessed.

/// Folders that are usually at the root of a repository.
const TOP_FOLDERS: [&str; 20] = [
    "src",
    "lib",
    "app",
    "apps",
    "packages",
    "crates",
    "cmd",
    "internal",
    "pkg",
    "test",
    "tests",
    "docs",
    "doc",
    "scripts",
    "examples",
    "migrations",
    "config",
    "public",
    "components",
    ".github",
];

/// Whether a folder is usually at the root of a repository.
pub(crate) fn is_top_folder(segment: &str) -> bool {
    TOP_FOLDERS.contains(&segment)
}
