//! Standard output for results, standard error for problems.
use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

use super::text::escape_line;
use crate::service::settings::variable;

/// ANSI code of red.
pub(crate) const RED: &str = "31";
/// ANSI code of bold.
pub(crate) const BOLD: &str = "1";
/// ANSI code of yellow.
pub(crate) const YELLOW: &str = "33";

/// Whether a part of the result could not be written.
static IS_OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Reports that the result could not be written, once. A broken pipe is not reported: its reader
/// has read as much as it wanted, as `head` does.
pub(crate) fn check_written(result: io::Result<()>) {
    if let Err(error) = result.and_then(|()| io::stdout().flush())
        && error.kind() != io::ErrorKind::BrokenPipe
        && !IS_OUTPUT_LOST.swap(true, Ordering::Relaxed)
    {
        let _ = writeln!(io::stderr(), "The result cannot be written: {error}.");
    }
}

/// Whether a part of the result could not be written.
pub(crate) fn is_output_lost() -> bool {
    IS_OUTPUT_LOST.load(Ordering::Relaxed)
}

/// How results and problems are printed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Output {
    pub(crate) is_json: bool,
    pub(crate) is_quiet: bool,
    has_colours: bool,
    is_watched: bool,
}

impl Output {
    pub(crate) fn new(is_json: bool, is_quiet: bool) -> Output {
        let is_plain =
            variable("NO_COLOR").is_some() || variable("TERM").as_deref() == Some("dumb");
        Output {
            is_json,
            is_quiet,
            has_colours: !is_plain && io::stdout().is_terminal(),
            is_watched: !is_quiet && !is_json && io::stderr().is_terminal(),
        }
    }

    /// Whether the progress of a waiting command is shown on a terminal.
    pub(crate) fn is_watched(self) -> bool {
        self.is_watched
    }

    /// Prints a result.
    pub(crate) fn print(self, text: &str) {
        if !self.is_quiet && !text.is_empty() {
            check_written(writeln!(io::stdout(), "{}", text.trim_end_matches('\n')));
        }
    }

    /// Prints a problem on standard error, escaped and on one line.
    pub(crate) fn print_problem(self, text: &str) {
        self.print_escaped_problem(&escape_line(text));
    }

    /// Prints a problem on standard error that is escaped already, and can have colours.
    pub(crate) fn print_escaped_problem(self, text: &str) {
        if !self.is_quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Adds a colour, if standard output shows colours.
    pub(crate) fn paint(self, colour: &str, text: &str) -> String {
        match self.has_colours {
            true => format!("\u{1b}[{colour}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }

    /// Adds a colour for standard error, if it shows colours.
    pub(crate) fn paint_problem(self, colour: &str, text: &str) -> String {
        match self.is_watched {
            true => self.paint(colour, text),
            false => text.to_owned(),
        }
    }
}
