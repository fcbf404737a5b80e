//! Why a text is not the path of one file, in the words that a person or a model reads.
use std::fmt;

use crate::folders::FOLDER;

/// What a position in a file is called.
pub(crate) const LINE_NUMBER: &str = "a line number";

/// From where a path is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the root of the repository, which the reader does not have: an absolute path, `..`, a folder and
    /// a work tree are refused.
    Root,
    /// From a folder of the file system. The reader resolves absolute paths, `..`, folders, work trees and
    /// `:/` itself.
    Folder,
}

impl Start {
    /// Returns what a text should be.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Root => "expected a path from the root of the repository",
            Self::Folder => "expected the path of a file",
        }
    }

    /// Returns a path from the root of the repository, as it is written here. Nothing stays nothing: the
    /// root itself is not a file.
    pub(crate) fn spell_from_root(self, path: &str) -> String {
        match self {
            Self::Folder if !path.is_empty() => format!(":/{path}"),
            _ => path.to_owned(),
        }
    }
}

/// What is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A part that does not belong to a key, what is left without it, and how to lock a file that is named
    /// like this.
    Part { what: &'static str, rest: String, hint: String },
    /// Several paths, of which this is the first.
    Several { first: String },
    /// Something that names no single file.
    NoFile(&'static str),
    /// A name that is usually that of a folder, and how to lock a file that is named like this.
    Folder { file: String },
    /// A URL.
    Url,
}

impl Problem {
    /// Returns the problem of a part that does not belong to a key.
    pub(crate) fn part(what: &'static str, rest: impl Into<String>) -> Self {
        Self::Part { what, rest: rest.into(), hint: String::new() }
    }

    /// Returns what is left without the refused part, unless nothing is.
    pub(crate) fn rest(&self) -> Option<&str> {
        match self {
            Self::Part { rest, .. } | Self::Several { first: rest } => Some(rest),
            Self::NoFile(_) | Self::Folder { .. } | Self::Url => None,
        }
    }
}

/// Why a text is not the path of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    problem: Problem,
    start: Start,
    meant: Option<String>,
}

impl Refusal {
    pub(crate) fn new(problem: Problem, start: Start, meant: Option<String>) -> Self {
        Self { problem, start, meant }
    }

    /// Returns the refusal of a line number behind this path.
    pub fn of_line_number(path: &str, start: Start) -> Self {
        Self::new(Problem::part(LINE_NUMBER, path), start, Some(path.to_owned()))
    }

    /// Returns the path that was probably meant, in a spelling that is read as it is.
    pub fn meant(&self) -> Option<&str> {
        self.meant.as_deref()
    }

    /// Says what is refused, what was expected, and that this path was probably meant.
    pub fn describe(&self, meant: Option<&str>) -> String {
        let expected = self.start.expected();
        match &self.problem {
            Problem::Part { what, hint, .. } => {
                let meant = match meant {
                    Some(path) => format!("probably `{path}`"),
                    None => "such as `src/main.rs`".to_owned(),
                };
                let hint = match self.start {
                    Start::Folder if hint.is_empty() => {
                        " (if the name is right, create the file first)"
                    }
                    _ => hint,
                };
                format!("{what} is not part of a key; {expected}, {meant}{hint}")
            }
            Problem::Several { .. } => {
                let meant = meant.map(|path| format!(", the first one probably `{path}`"));
                format!(
                    "several paths in one text; expected one path for each key{} (for one name that \
                     contains a comma or a space: begin it with `./`)",
                    meant.unwrap_or_default()
                )
            }
            Problem::NoFile(text) => (*text).to_owned(),
            Problem::Folder { file } => format!("{FOLDER} (for a file with this name: `{file}`)"),
            Problem::Url => format!("a URL is not a path; {expected}"),
        }
    }

    /// Says what is refused where the path that was meant leads to no file of the repository, for this reason.
    pub fn describe_place(&self, reason: &str) -> String {
        match &self.problem {
            Problem::Part { what, .. } => format!("{what} is not part of a key, and {reason}"),
            _ => self.describe(None),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(self.meant()))
    }
}
