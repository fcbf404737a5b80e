//! The git work tree, and the record of the locks that it holds.
pub(crate) mod git;
pub(crate) mod record;
