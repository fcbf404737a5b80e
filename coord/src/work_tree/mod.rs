//! The git work tree, the lock keys of its files, and the records of the locks that it holds.
pub(crate) mod discovery;
pub(crate) mod git;
pub(crate) mod key;
pub(crate) mod permissions;
pub(crate) mod record;
pub(crate) mod records;
