//! The command line: the table of commands, and how arguments become a request.
pub(crate) mod arguments;
pub(crate) mod cli;
pub(crate) mod command;
pub(crate) mod context;
pub(crate) mod draft;
pub(crate) mod help;
pub(crate) mod table;
pub(crate) mod values;
