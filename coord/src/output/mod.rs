//! What the program prints, and the exit codes.
pub(crate) mod console;
pub(crate) mod losses;
pub(crate) mod outcome;
pub(crate) mod show;
pub(crate) mod text;
pub(crate) mod time;
